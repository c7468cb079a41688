use super::*;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use tempfile::TempDir;

const SCOPE: &str = "etcd-coreos.com-network";

fn open(root: &TempDir) -> StateDir {
    StateDir::open(&root.path().join("flannel"), SCOPE).unwrap()
}

fn file(root: &TempDir, name: &str) -> PathBuf {
    root.path().join("flannel").join(name)
}

fn scoped(root: &TempDir, name: &str) -> PathBuf {
    file(root, SCOPE).join(name)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn link(name: &str) -> LinkName {
    name.parse().unwrap()
}

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

fn example() -> Remembered {
    Remembered {
        config: Some(ConfigRecord {
            text: "{\"Network\":\n\"10.5.0.0/16\"}".into(),
            revision: Revision::new(7),
        }),
        lease: Some(RememberedLease {
            key: "10.5.1.0-24".into(),
            value: br#"{"PublicIP":"10.0.0.1"}"#.to_vec(),
            hardware: Some(MAC),
        }),
        records: vec![
            ("10.5.1.0-24".into(), br#"{"PublicIP":"10.0.0.1"}"#.to_vec()),
            ("10.5.2.0-24&fd00::-64".into(), "not json \u{e9}".as_bytes().to_vec()),
        ],
        vtep_macs: [(link("flannel.1"), MAC), (link("flannel-v6.1"), Mac([2, 0, 0, 0, 0, 2]))].into(),
    }
}

fn save(state: &mut StateDir, what: &Remembered) {
    state.save_config(what.config.as_ref()).unwrap();
    state.save_lease(what.lease.as_ref()).unwrap();
    state.save_records(what.records.iter().map(|(key, value)| (key.as_str(), value.as_slice()))).unwrap();
    for (link, mac) in &what.vtep_macs {
        state.save_vtep_mac(link, *mac).unwrap();
    }
}

#[test]
fn remembers_everything() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(open(&root).load(), Remembered::default());
    save(&mut open(&root), &example());
    assert_eq!(open(&root).load(), example());
    let mut state = open(&root);
    state.save_config(None).unwrap();
    state.save_lease(None).unwrap();
    state.save_lease(None).unwrap();
    state.save_records([].into_iter()).unwrap();
    let vtep_macs = example().vtep_macs;
    assert_eq!(open(&root).load(), Remembered { vtep_macs, ..Remembered::default() });
}

#[test]
fn files_are_for_the_owner_only() {
    let root = tempfile::tempdir().unwrap();
    save(&mut open(&root), &example());
    assert_eq!(mode(&file(&root, "")), 0o700);
    assert_eq!(mode(&file(&root, SCOPE)), 0o700);
    for path in [
        scoped(&root, CONFIG),
        scoped(&root, LEASE),
        scoped(&root, RECORDS),
        file(&root, "vtep-flannel.1.json"),
    ] {
        assert_eq!(mode(&path), 0o600, "{path:?}");
    }
}

#[test]
fn the_format_is_fixed() {
    let root = tempfile::tempdir().unwrap();
    save(&mut open(&root), &example());
    let text = |path: PathBuf| fs::read_to_string(path).unwrap();
    assert_eq!(
        text(scoped(&root, CONFIG)),
        r#"{"version":1,"revision":7,"text":"{\"Network\":\n\"10.5.0.0/16\"}"}"#
    );
    assert_eq!(
        text(scoped(&root, LEASE)),
        r#"{"version":1,"key":"10.5.1.0-24","value":"{\"PublicIP\":\"10.0.0.1\"}","hardware":"02:00:00:00:00:01"}"#
    );
    // As a version wrote it that did not know of the hardware address.
    fs::write(scoped(&root, LEASE), r#"{"version":1,"key":"10.5.1.0-24","value":"{}"}"#).unwrap();
    let lease = open(&root).load().lease.unwrap();
    assert_eq!((lease.key.as_str(), lease.hardware), ("10.5.1.0-24", None));
    assert_eq!(text(file(&root, "vtep-flannel.1.json")), r#"{"version":1,"mac":"02:00:00:00:00:01"}"#);
}

#[test]
fn only_changes_are_written() {
    let root = tempfile::tempdir().unwrap();
    let inodes = || {
        [
            scoped(&root, CONFIG),
            scoped(&root, LEASE),
            scoped(&root, RECORDS),
            file(&root, "vtep-flannel.1.json"),
        ]
        .map(|path| fs::metadata(path).unwrap().ino())
    };
    let mut state = open(&root);
    save(&mut state, &example());
    let first = inodes();
    save(&mut state, &example());
    assert_eq!(inodes(), first);
    // Nor after a restart.
    let mut state = open(&root);
    state.load();
    save(&mut state, &example());
    assert_eq!(inodes(), first);
    // A change, and a file that somebody removed or cut.
    state.save_vtep_mac(&link("flannel.1"), Mac([2, 0, 0, 0, 0, 9])).unwrap();
    fs::remove_file(scoped(&root, CONFIG)).unwrap();
    fs::write(scoped(&root, LEASE), "").unwrap();
    let mut changed = example();
    changed.vtep_macs.insert(link("flannel.1"), Mac([2, 0, 0, 0, 0, 9]));
    save(&mut state, &changed);
    assert_eq!(open(&root).load(), changed);
    // And the whole directory.
    fs::remove_dir_all(file(&root, SCOPE)).unwrap();
    save(&mut state, &changed);
    assert_eq!(open(&root).load(), changed);
}

#[test]
fn damaged_files_are_set_aside() {
    for damage in ["", "{", "null", "[]", r#"{"version":1}"#, r#"{"version":2,"mac":"x"}"#, "\u{0}\u{0}\u{0}"]
    {
        let root = tempfile::tempdir().unwrap();
        save(&mut open(&root), &example());
        for path in [scoped(&root, LEASE), file(&root, "vtep-flannel.1.json")] {
            fs::write(path, damage).unwrap();
        }
        let mut state = open(&root);
        let remembered = state.load();
        let mut expected = Remembered { lease: None, ..example() };
        expected.vtep_macs.remove(&link("flannel.1"));
        assert_eq!(remembered, expected, "{damage:?}");
        assert_eq!(fs::read_to_string(scoped(&root, "lease.json.corrupt")).unwrap(), damage);
        assert!(!scoped(&root, LEASE).exists());
        save(&mut state, &example());
        assert_eq!(open(&root).load(), example());
    }
}

#[test]
fn strange_files_are_left_alone() {
    let root = tempfile::tempdir().unwrap();
    save(&mut open(&root), &example());
    for name in
        ["vtep-.json", "vtep-a-very-long-interface-name.json", "vtep-flannel.1.json.tmp", "wireguard.key"]
    {
        fs::write(file(&root, name), "x").unwrap();
    }
    assert_eq!(open(&root).load(), example());
    assert!(file(&root, "wireguard.key").exists());
}

#[test]
fn stores_do_not_share_leases_but_devices() {
    let root = tempfile::tempdir().unwrap();
    save(&mut open(&root), &example());
    let other = StateDir::open(&file(&root, ""), "dir-leases").unwrap().load();
    assert_eq!(other, Remembered { vtep_macs: example().vtep_macs, ..Remembered::default() });
}

#[test]
fn an_unusable_directory_is_an_error_with_advice() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    let error = StateDir::open(&root.path().join("file/state"), SCOPE).unwrap_err();
    let shown = error.to_string().replace(root.path().to_str().unwrap(), "ROOT");
    insta::assert_snapshot!(shown, @"could not open the state directory ROOT/file/state; something in the path is a file: move it away, or name another place");
    // An existing directory keeps its mode: it may be somebody else's.
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    StateDir::open(root.path(), SCOPE).unwrap();
    assert_eq!(mode(root.path()), 0o755);
}

#[test]
fn a_large_cluster() {
    let root = tempfile::tempdir().unwrap();
    let value = br#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#;
    let records: Vec<(String, Vec<u8>)> =
        (0..5000).map(|n| (format!("10.{}.{}.0-24", n / 256, n % 256), value.to_vec())).collect();
    let pairs = || records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
    let mut state = open(&root);
    state.save_records(pairs().chain([("10.99.0.0-24", b"\xff".as_slice())])).unwrap();
    assert_eq!(open(&root).load().records, records, "and what is not text is left out");
    let size = fs::metadata(scoped(&root, RECORDS)).unwrap().len();
    assert!(size < 1_000_000, "{size}");
}

/// Whoever only looks makes, moves and changes nothing.
#[test]
fn a_look_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("flannel");
    assert_eq!(StateDir::look(&path, SCOPE), Remembered::default());
    assert!(!path.exists());
    save(&mut open(&root), &example());
    fs::write(scoped(&root, "config.json"), "{").unwrap();
    let expected = Remembered { config: None, ..example() };
    assert_eq!(StateDir::look(&path, SCOPE), expected);
    assert_eq!(fs::read_to_string(scoped(&root, "config.json")).unwrap(), "{", "a damaged file stays");
}
