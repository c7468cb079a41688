use super::*;
use std::error::Error as _;
use std::os::unix::fs::{MetadataExt as _, symlink};

const OLD: &str = "FLANNEL_MTU=1450\n";
const NEW: &str = "FLANNEL_MTU=1400\n";

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn creates_directories_and_the_file() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("run/flannel/subnet.env");
    assert_eq!(read(&path).unwrap(), None);
    assert!(write(&path, OLD).unwrap());
    assert_eq!(read(&path).unwrap().as_deref(), Some(OLD));
    assert_eq!(mode(&path), 0o644);
    assert_eq!(mode(path.parent().unwrap()), 0o755);
    assert_eq!(names(path.parent().unwrap()), ["subnet.env"]);
}

#[test]
fn writes_only_what_differs() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("subnet.env");
    write(&path, OLD).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    assert!(!write(&path, OLD).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    // Same length, other text.
    assert!(write(&path, NEW).unwrap());
    assert_ne!(fs::metadata(&path).unwrap().ino(), inode);
    assert_eq!(read(&path).unwrap().as_deref(), Some(NEW));
}

#[test]
fn keeps_permission_bits() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("subnet.env");
    write(&path, OLD).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    write(&path, NEW).unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn replaces_a_link_and_leaves_its_target() {
    let root = tempfile::tempdir().unwrap();
    let (path, target) = (root.path().join("subnet.env"), root.path().join("target"));
    fs::write(&target, OLD).unwrap();
    fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
    symlink(&target, &path).unwrap();
    // Even if its target has the content.
    assert!(write(&path, OLD).unwrap());
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    assert_eq!(mode(&path), 0o644);
    write(&path, NEW).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), OLD);
}

#[test]
fn stale_files_and_links_at_the_temporary_name_are_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let (path, victim) = (root.path().join("subnet.env"), root.path().join("victim"));
    fs::write(&victim, "untouched").unwrap();
    symlink(&victim, root.path().join(".subnet.env.tmp")).unwrap();
    write(&path, NEW).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(names(root.path()), ["subnet.env", "victim"]);
}

#[test]
fn errors_contain_path_reason_and_fix() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let shown = |path: &Path| {
        let error = write(path, OLD).unwrap_err();
        let reason = error.source().unwrap();
        format!("{error} ({reason})").replace(root.path().to_str().unwrap(), "ROOT")
    };
    fs::create_dir(root.path().join("dir")).unwrap();
    insta::assert_snapshot!(shown(&file.join("subnet.env")), @"could not create the directory ROOT/file; a part of the path is a file: move it, or choose another path (File exists (os error 17))");
    insta::assert_snapshot!(shown(&root.path().join("dir")), @"could not write ROOT/dir; the path is that of a directory: choose the path of a file (Is a directory (os error 21))");
    assert_eq!(names(root.path()), ["dir", "file"], "no temporary file remains");
    insta::assert_snapshot!(shown(Path::new("/")), @"could not write /; the path is that of a directory: choose the path of a file (is a directory)");
}
