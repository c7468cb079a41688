use super::{Arguments, REFERENCE_PLUGINS, install};
use clap::Parser as _;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

fn run(words: &[&str], source: &Path, destination: &Path) -> anyhow::Result<Vec<String>> {
    let words = [&["cp"], words].concat();
    let paths = [source.to_str().unwrap(), destination.to_str().unwrap()];
    install(&Arguments::try_parse_from(words.into_iter().chain(paths)).unwrap())
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn file_is_replaced_as_a_whole() {
    let image = tempfile::tempdir().unwrap();
    let node = tempfile::tempdir().unwrap();
    let (source, destination) = (image.path().join("cni-conf.json"), node.path().join("10-flannel.conflist"));
    write(&source, "new", 0o644);
    write(&destination, "older and longer", 0o600);
    write(&node.path().join(".10-flannel.conflist.tmpAbc"), "half", 0o600);
    let before = fs::metadata(&destination).unwrap().ino();

    run(&["-f"], &source, &destination).unwrap();
    let after = fs::metadata(&destination).unwrap();
    assert_eq!(fs::read_to_string(&destination).unwrap(), "new");
    assert_eq!(after.permissions().mode() & 0o7777, 0o644);
    assert_ne!(before, after.ino(), "the file was written in place");
    assert_eq!(names(node.path()), ["10-flannel.conflist"]);

    // A runtime would read a replaced file again.
    let lines = run(&[], &source, &destination).unwrap();
    assert!(lines[0].ends_with("is up to date"), "{lines:?}");
    assert_eq!(fs::metadata(&destination).unwrap().ino(), after.ino());
}

#[test]
fn plugin_brings_the_names_that_are_missing() {
    let image = tempfile::tempdir().unwrap();
    let node = tempfile::tempdir().unwrap();
    let source = image.path().join("flannel");
    write(&source, "plugin", 0o755);
    let bridge = node.path().join("bridge");
    write(&bridge, "of the distribution", 0o755);
    symlink("/elsewhere/flannel", node.path().join("portmap")).unwrap();

    let lines = run(&["-f"], &source, node.path()).unwrap();
    assert!(lines.contains(&format!("kept {}, which another program installed", bridge.display())));
    assert_eq!(fs::read_to_string(&bridge).unwrap(), "of the distribution");
    for name in ["bandwidth", "host-local", "loopback"] {
        assert_eq!(fs::read_to_string(node.path().join(name)).unwrap(), "plugin", "{name}");
    }
    assert_eq!(fs::read_link(node.path().join("portmap")).unwrap(), Path::new("/elsewhere/flannel"));

    run(&["--force"], &source, &node.path().join("flannel")).unwrap();
    assert_eq!(fs::read_link(&bridge).unwrap(), Path::new("flannel"));
    let mut expected: Vec<&str> = REFERENCE_PLUGINS.to_vec();
    expected.insert(2, "flannel");
    assert_eq!(names(node.path()), expected);
}

/// A program that is running cannot be written, but replaced.
#[test]
fn running_plugin_is_replaced() {
    let image = tempfile::tempdir().unwrap();
    let node = tempfile::tempdir().unwrap();
    let source = image.path().join("flannel");
    write(&source, "plugin", 0o755);
    let destination = node.path().join("flannel");
    fs::copy("/bin/sleep", &destination).unwrap();
    let mut running = std::process::Command::new(&destination).arg("60").spawn().unwrap();
    let busy = fs::write(&destination, "").unwrap_err();
    assert_eq!(busy.kind(), std::io::ErrorKind::ExecutableFileBusy);
    run(&["-f"], &source, &destination).unwrap();
    assert_eq!(fs::read_to_string(&destination).unwrap(), "plugin");
    assert!(running.try_wait().unwrap().is_none(), "the running program has ended");
    running.kill().unwrap();
    running.wait().unwrap();
}

/// Other files, and copies by other names, bring no names.
#[test]
fn other_files_bring_no_names() {
    let image = tempfile::tempdir().unwrap();
    let node = tempfile::tempdir().unwrap();
    let source = image.path().join("flannel");
    write(&source, "plugin", 0o755);
    run(&[], &source, &node.path().join("flannel.new")).unwrap();
    assert_eq!(names(node.path()), ["flannel.new"]);
}

#[test]
fn errors_name_the_file_and_the_fix() {
    let image = tempfile::tempdir().unwrap();
    let source = image.path().join("flannel");
    let error = |source: &Path, destination: &Path| {
        let error = run(&[], source, destination).unwrap_err();
        format!("{error:#}").replace(image.path().to_str().unwrap(), "IMAGE")
    };
    insta::assert_snapshot!(
        error(&source, Path::new("/")),
        @"could not read IMAGE/flannel: No such file or directory (os error 2)"
    );
    write(&source, "plugin", 0o755);
    insta::assert_snapshot!(
        error(&source, Path::new("/nonexistent/bin/flannel")),
        @"could not copy IMAGE/flannel to /nonexistent/bin/flannel: /nonexistent/bin is not a directory"
    );
}
