use super::*;

#[test]
fn an_owner_is_gone_with_its_namespace_or_its_boot() {
    let directory = tempfile::tempdir().unwrap();
    let netns = directory.path().join("a b");
    fs::write(&netns, "").unwrap();
    let owner = of_netns(&netns).unwrap();
    assert_eq!(Owner::parse(&owner.to_text()), Some(owner.clone()), "a path may have spaces");
    assert!(!is_gone(&owner));
    assert!(is_gone(&Owner { boot: "another".to_owned(), ..owner.clone() }));
    assert!(is_gone(&Owner { inode: owner.inode + 1, ..owner.clone() }));
    fs::remove_file(&netns).unwrap();
    assert!(is_gone(&owner));
    assert_eq!(of_netns(&netns), None);
    assert_eq!(Owner::parse("boot 1 2"), None);
}

#[test]
fn an_owner_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("10.1.2.3");
    let file = File::create(&path).unwrap();
    assert_eq!(of_file(&path), None);
    let owner = of_netns(Path::new("/proc/self/ns/net")).unwrap();
    mark(&owner, &file);
    assert_eq!(of_file(&path), Some(owner));
}

/// Files of Go's plugin have no owner: their time and content decide.
#[test]
fn files_without_owner_are_kept_in_doubt() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let minutes = |count: u64| Duration::from_secs(60 * count);
    for (text, taken_at, abandoned) in [
        ("a\r\neth0", now, false),
        ("a\r\neth0", now - uptime().unwrap() - minutes(2), true),
        ("a\r\neth0", now + minutes(2), false),
        ("a", now - uptime().unwrap() - minutes(2), false),
        ("", now, false),
        ("", now - minutes(2), true),
    ] {
        let path = directory.path().join("10.1.2.3");
        fs::write(&path, text).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(taken_at).unwrap();
        let holder = Holder::parse(text);
        assert_eq!(is_abandoned(&path, &holder, "flannel-test-network"), abandoned, "{text:?} {taken_at:?}");
    }
}
