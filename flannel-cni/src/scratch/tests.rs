use super::*;
use std::os::unix::fs::PermissionsExt;

fn attachment(ifname: &str) -> Attachment {
    Attachment { container_id: "cid1".to_owned(), ifname: ifname.to_owned() }
}

fn text(scratch: &Scratch, ifname: &str) -> Option<String> {
    scratch.load(&attachment(ifname)).unwrap().map(|saved| String::from_utf8(saved.text).unwrap())
}

fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_config_is_saved_under_both_names() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("a/b");
    let scratch = Scratch::new(&directory);
    assert_eq!(scratch.load(&attachment("eth0")).unwrap(), None, "no directory yet");
    scratch.save(&attachment("eth0"), b"one").unwrap();
    assert_eq!(files(&directory), ["cid1", "cid1.eth0"]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    assert_eq!((mode(&directory.join("cid1")), mode(&directory.join("cid1.eth0"))), (0o600, 0o600));
    scratch.save(&attachment("eth0"), b"two").unwrap();
    assert_eq!(fs::read(directory.join("cid1")).unwrap(), b"two");
    assert_eq!(text(&scratch, "eth0").as_deref(), Some("two"));
    scratch.remove(&attachment("eth0")).unwrap();
    scratch.remove(&attachment("eth0")).unwrap();
    assert_eq!(files(&directory), [""; 0]);
}

#[test]
fn two_interfaces_of_a_container_keep_their_configs() {
    let directory = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(directory.path());
    scratch.save(&attachment("eth0"), b"one").unwrap();
    scratch.save(&attachment("net1"), b"two").unwrap();
    assert_eq!(text(&scratch, "eth0").as_deref(), Some("one"));
    assert_eq!(text(&scratch, "net1").as_deref(), Some("two"));
    scratch.remove(&attachment("net1")).unwrap();
    // What is left is what Go flannel would need now.
    assert_eq!(fs::read(directory.path().join("cid1")).unwrap(), b"one");
    assert_eq!(text(&scratch, "net1"), None, "the file of the container is that of eth0");
    scratch.remove(&attachment("eth0")).unwrap();
    assert_eq!(files(directory.path()), [""; 0]);
}

#[test]
fn the_file_of_go_flannel_is_used_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(directory.path());
    fs::write(directory.path().join("cid1"), "go").unwrap();
    fs::write(directory.path().join("cid2"), "other").unwrap();
    let saved = scratch.load(&attachment("eth0")).unwrap().unwrap();
    assert_eq!(saved, Saved { text: b"go".to_vec(), for_interface: false });
    scratch.remove(&attachment("eth0")).unwrap();
    assert_eq!(files(directory.path()), ["cid2"]);
}

#[test]
fn a_later_file_of_go_flannel_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(directory.path());
    scratch.save(&attachment("net1"), b"ours").unwrap();
    fs::write(directory.path().join("cid1"), "go, for eth0").unwrap();
    scratch.remove(&attachment("net1")).unwrap();
    assert_eq!(files(directory.path()), ["cid1"]);
    assert_eq!(text(&scratch, "eth0").as_deref(), Some("go, for eth0"));
}

#[test]
fn only_files_that_may_be_configs_are_listed() {
    let directory = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(directory.path());
    scratch.save(&attachment("eth0"), b"one").unwrap();
    fs::write(directory.path().join(".tmp-1"), "x").unwrap();
    fs::create_dir(directory.path().join("sub")).unwrap();
    let names: Vec<_> = scratch.entries(|_| true).unwrap().into_iter().map(|entry| entry.file_name).collect();
    assert_eq!(names, ["cid1", "cid1.eth0"]);
    for entry in scratch.entries(|_| true).unwrap() {
        scratch.remove_entry(&entry).unwrap();
    }
    assert!(scratch.entries(|_| true).unwrap().is_empty());
}

#[test]
fn errors_name_the_path() {
    let error = Scratch::new(Path::new("")).save(&attachment("eth0"), b"").unwrap_err();
    assert_eq!(error.to_string(), "mkdir : no such file or directory");
}
