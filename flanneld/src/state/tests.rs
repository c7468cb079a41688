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

fn record(key: &str, value: &str) -> Record {
    Record {
        key: key.into(),
        value: value.into(),
        revision: Revision::default(),
        grant: None,
        fault: None,
        node: None,
    }
}

fn pairs(records: &[Record]) -> Vec<(String, String)> {
    let text = |record: &Record| String::from_utf8(record.value.clone()).unwrap();
    records.iter().map(|record| (record.key.clone(), text(record))).collect()
}

fn example() -> Remembered {
    Remembered {
        config: Some(ConfigRecord {
            text: "{\"Network\":\n\"10.5.0.0/16\"}".into(),
            revision: Revision::new(7),
        }),
        lease: Some(RememberedLease {
            key: "10.5.1.0-24".into(),
            value: r#"{"PublicIP":"10.0.0.1"}"#.into(),
            hardware: Some(MAC),
        }),
        records: vec![
            record("10.5.1.0-24", r#"{"PublicIP":"10.0.0.1"}"#),
            record("10.5.2.0-24&fd00::-64", "not json \u{e9}"),
        ],
        vtep_macs: [(link("flannel.1"), MAC), (link("flannel-v6.1"), Mac([2, 0, 0, 0, 0, 2]))].into(),
        prescribed: Prescribed { public_ip: Some([192, 0, 2, 9].into()), public_ipv6: None },
    }
}

fn save(state: &StateDir, what: &Remembered) {
    state.save_config(what.config.as_ref()).unwrap();
    state.save_lease(what.lease.as_ref()).unwrap();
    state.save_records(pairs(&what.records).into_iter()).unwrap();
    state.save_prescribed(what.prescribed).unwrap();
    for (link, mac) in &what.vtep_macs {
        state.save_vtep_mac(link, *mac).unwrap();
    }
}

#[test]
fn everything_is_restored() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(open(&root).load(), Remembered::default());
    save(&open(&root), &example());
    assert_eq!(open(&root).load(), example());
    let state = open(&root);
    state.save_config(None).unwrap();
    state.save_lease(None).unwrap();
    state.save_lease(None).unwrap();
    state.save_records(std::iter::empty()).unwrap();
    state.save_prescribed(Prescribed::default()).unwrap();
    let vtep_macs = example().vtep_macs;
    assert_eq!(open(&root).load(), Remembered { vtep_macs, ..Remembered::default() });
}

#[test]
fn files_are_for_the_owner_only() {
    let root = tempfile::tempdir().unwrap();
    save(&open(&root), &example());
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
    save(&open(&root), &example());
    let text = |path: PathBuf| fs::read_to_string(path).unwrap();
    assert_eq!(
        text(scoped(&root, CONFIG)),
        r#"{"version":1,"revision":7,"text":"{\"Network\":\n\"10.5.0.0/16\"}"}"#
    );
    assert_eq!(
        text(scoped(&root, LEASE)),
        r#"{"version":1,"key":"10.5.1.0-24","value":"{\"PublicIP\":\"10.0.0.1\"}","hardware":"02:00:00:00:00:01"}"#
    );
    // The format of a version without the hardware address.
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
    let state = open(&root);
    save(&state, &example());
    let first = inodes();
    save(&state, &example());
    assert_eq!(inodes(), first);
    // Not after a restart, either.
    let state = open(&root);
    state.load();
    save(&state, &example());
    assert_eq!(inodes(), first);
    // A change, and files that someone removed or truncated.
    state.save_vtep_mac(&link("flannel.1"), Mac([2, 0, 0, 0, 0, 9])).unwrap();
    fs::remove_file(scoped(&root, CONFIG)).unwrap();
    fs::write(scoped(&root, LEASE), "").unwrap();
    let mut changed = example();
    changed.vtep_macs.insert(link("flannel.1"), Mac([2, 0, 0, 0, 0, 9]));
    save(&state, &changed);
    assert_eq!(open(&root).load(), changed);
    // The whole directory removed.
    fs::remove_dir_all(file(&root, SCOPE)).unwrap();
    save(&state, &changed);
    assert_eq!(open(&root).load(), changed);
}

#[test]
fn damaged_files_are_moved_aside() {
    for damage in ["", "{", "null", "[]", r#"{"version":1}"#, r#"{"version":2,"mac":"x"}"#, "\u{0}\u{0}\u{0}"]
    {
        let root = tempfile::tempdir().unwrap();
        save(&open(&root), &example());
        for path in [scoped(&root, LEASE), file(&root, "vtep-flannel.1.json")] {
            fs::write(path, damage).unwrap();
        }
        let state = open(&root);
        let remembered = state.load();
        let mut expected = Remembered { lease: None, ..example() };
        expected.vtep_macs.remove(&link("flannel.1"));
        assert_eq!(remembered, expected, "{damage:?}");
        assert_eq!(fs::read_to_string(scoped(&root, "lease.json.corrupt")).unwrap(), damage);
        assert!(!scoped(&root, LEASE).exists());
        save(&state, &example());
        assert_eq!(open(&root).load(), example());
    }
}

#[test]
fn unknown_files_are_kept() {
    let root = tempfile::tempdir().unwrap();
    save(&open(&root), &example());
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
    save(&open(&root), &example());
    let other = StateDir::open(&file(&root, ""), "dir-leases").unwrap().load();
    assert_eq!(other, Remembered { vtep_macs: example().vtep_macs, ..Remembered::default() });
}

#[test]
fn an_unusable_directory_is_an_error_with_advice() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    let error = StateDir::open(&root.path().join("file/state"), SCOPE).unwrap_err();
    let shown = error.to_string().replace(root.path().to_str().unwrap(), "ROOT");
    insta::assert_snapshot!(shown, @"could not create the directory ROOT/file/state; a part of the path is a file: move it, or choose another path");
    // An existing directory keeps its mode: it may have another owner.
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    StateDir::open(root.path(), SCOPE).unwrap();
    assert_eq!(mode(root.path()), 0o755);
}

#[test]
fn a_large_cluster() {
    let root = tempfile::tempdir().unwrap();
    let value = r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#;
    let records: Vec<_> =
        (0..5000).map(|n| record(&format!("10.{}.{}.0-24", n / 256, n % 256), value)).collect();
    open(&root).save_records(pairs(&records).into_iter()).unwrap();
    assert_eq!(open(&root).load().records, records);
    let size = fs::metadata(scoped(&root, RECORDS)).unwrap().len();
    assert!(size < 1_000_000, "{size}");
}

#[test]
fn looking_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("flannel");
    assert_eq!(StateDir::look(&path, SCOPE), Remembered::default());
    assert!(!path.exists());
    save(&open(&root), &example());
    fs::write(scoped(&root, "config.json"), "{").unwrap();
    let expected = Remembered { config: None, ..example() };
    assert_eq!(StateDir::look(&path, SCOPE), expected);
    assert_eq!(fs::read_to_string(scoped(&root, "config.json")).unwrap(), "{", "a damaged file is kept");
}
