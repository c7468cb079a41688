//! `mk-docker-opts.sh`: mistakes are errors that name the file, the reason and the fix.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

#[test]
fn mistakes_with_files_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    symlink(env!("CARGO_BIN_EXE_flannelctl"), path("mk-docker-opts.sh")).unwrap();
    fs::create_dir(path("directory")).unwrap();
    fs::write(path("binary"), b"\xff\n").unwrap();
    fs::write(path("other"), "FLANNEL_MTU=1450\n").unwrap();
    fs::write(path("good"), "FLANNEL_SUBNET=10.5.34.1/24\n").unwrap();
    for (file, output, problem, fix) in [
        ("missing", "out", "missing does not exist: the node has no subnet yet", "Start flanneld first"),
        ("directory", "out", "could not read [dir]/directory: Is a directory", "with -f"),
        ("binary", "out", "could not read [dir]/binary: stream did not contain valid UTF-8", "with -f"),
        ("other", "out", "other contains no FLANNEL_SUBNET", "Start flanneld first"),
        (
            "good",
            "directory",
            "could not write [dir]/directory: Is a directory",
            "Specify another file with -d",
        ),
        (
            "good",
            "none/out",
            "could not write [dir]/none/out: No such file or directory (os error 2)\n",
            "with -d",
        ),
    ] {
        let flags = ["-f", &path(file), "-d", &path(output)];
        let output = Command::new(path("mk-docker-opts.sh")).args(flags).env_clear().output().unwrap();
        let stderr =
            String::from_utf8(output.stderr).unwrap().replace(&path("")[..path("").len() - 1], "[dir]");
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.starts_with("mk-docker-opts.sh: "), "{stderr}");
        assert!(stderr.contains(problem) && stderr.contains(fix), "{stderr}");
    }
    assert!(!directory.path().join("out").exists());
}
