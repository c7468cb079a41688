//! The command line on a directory of leases.
#![forbid(unsafe_code)]

use insta::assert_snapshot;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn flannelctl(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flannelctl"))
        .arg("--lease-dir")
        .arg(directory)
        .args(arguments)
        .env_clear()
        .output()
        .expect("flannelctl starts")
}

/// Exit code, stdout and stderr, without the name of the directory.
fn shown(directory: &Path, arguments: &[&str]) -> String {
    let output = flannelctl(directory, arguments);
    let text = |bytes: Vec<u8>| {
        String::from_utf8(bytes).expect("output is text").replace(&directory.display().to_string(), "[dir]")
    };
    format!(
        "{}\n{}---\n{}",
        output.status.code().expect("no signal ended it"),
        text(output.stdout),
        text(output.stderr)
    )
}

#[test]
fn a_config_is_checked_written_and_shown() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("leases");
    let file = home.path().join("config.json");
    fs::write(&file, r#"{"Network":"10.5.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#)
        .unwrap();
    let file = file.to_str().unwrap();
    assert_snapshot!(shown(&directory, &["config", "get"]), @r"
    1
    ---
    flannelctl: [dir] has no network config
      write one with flannelctl config set FILE
    ");
    assert_snapshot!(shown(&directory, &["config", "set", file, "--dry-run"]), @r"
    0
    IPv4: 10.5.0.0/16, 255 subnets of length 24, 10.5.1.0 to 10.5.255.0
    backend: vxlan
    firewall: nftables
    ---
    not written: this was a dry run
    ");
    assert_eq!(flannelctl(&directory, &["config", "get"]).status.code(), Some(1));
    assert_snapshot!(shown(&directory, &["config", "set", file]), @r"
    0
    IPv4: 10.5.0.0/16, 255 subnets of length 24, 10.5.1.0 to 10.5.255.0
    backend: vxlan
    firewall: nftables
    ---
    written to [dir]
    ");
    assert_snapshot!(shown(&directory, &["config", "get"]), @r#"
    0
    {"Network":"10.5.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}
    ---
    "#);
    assert_snapshot!(shown(&directory, &["config", "set", file]), @r"
    0
    IPv4: 10.5.0.0/16, 255 subnets of length 24, 10.5.1.0 to 10.5.255.0
    backend: vxlan
    firewall: nftables
    ---
    the store has this config already
    ");
}

#[test]
fn a_config_that_cannot_be_used_is_not_written() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("leases");
    let file = home.path().join("config.json");
    fs::write(&file, r#"{"Network":"10.5.0.0/16","SubnetLen":31}"#).unwrap();
    let output = flannelctl(&directory, &["config", "set", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("SubnetLen") && said.contains("31"), "{said}");
    assert!(!directory.join("config").exists());
    let output = flannelctl(&directory, &["config", "sett"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("'set'"), "{said}");
}

#[test]
fn leases_are_listed_and_bad_records_named() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("leases");
    fs::create_dir_all(directory.join("subnets")).unwrap();
    let record = |key: &str, value: &str| fs::write(directory.join("subnets").join(key), value).unwrap();
    record(
        "10.5.1.0-24",
        r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#,
    );
    record(
        "10.5.2.0-24&fd00:12:13::-64",
        r#"{"PublicIP":"192.168.64.4","PublicIPv6":"fd00::4","BackendType":"host-gw"}"#,
    );
    record("10.5.3.0-24", "{");
    assert_snapshot!(shown(&directory, &["lease", "list"]), @r"
    0
    SUBNET           PUBLIC-IP     BACKEND  VTEP-MAC           KIND
    10.5.1.0/24      192.168.64.3  vxlan    c6:d2:32:6f:8f:44  reservation
    10.5.2.0/24      192.168.64.4  host-gw  -                  reservation
    fd00:12:13::/64  fd00::4
    ---
    record 10.5.3.0-24 cannot be used: the lease record cannot be read: not valid JSON: EOF while parsing an object at line 1 column 1
    ");
    assert_snapshot!(shown(&directory, &["lease", "list", "-o", "name"]), @r"
    0
    10.5.1.0-24
    10.5.2.0-24&fd00:12:13::-64
    ---
    record 10.5.3.0-24 cannot be used: the lease record cannot be read: not valid JSON: EOF while parsing an object at line 1 column 1
    ");
    let output = flannelctl(&directory, &["lease", "list", "-o", "json"]);
    let objects: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(objects[0]["key"], "10.5.1.0-24");
    assert_eq!(objects[0]["record"]["BackendData"]["VtepMAC"], "c6:d2:32:6f:8f:44");
    assert_eq!(objects[0]["reservation"], true);
}

#[test]
fn errors_are_objects_where_json_is_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("leases");
    assert_snapshot!(shown(&directory, &["config", "get", "-o", "json"]), @r#"
    1
    {
      "error": {
        "kind": "not-found",
        "mend": "write one with flannelctl config set FILE",
        "message": "[dir] has no network config"
      }
    }
    ---
    flannelctl: [dir] has no network config
      write one with flannelctl config set FILE
    "#);
    assert_snapshot!(shown(&directory, &["config", "get", "-o", "yaml"]), @r#"
    1
    error:
      kind: not-found
      mend: "write one with flannelctl config set FILE"
      message: "[dir] has no network config"
    ---
    flannelctl: [dir] has no network config
      write one with flannelctl config set FILE
    "#);
    assert_snapshot!(shown(&directory, &["config", "gett", "-ojson"]), @r#"
    2
    {
      "error": {
        "kind": "usage",
        "mend": "see flannelctl --help, or --help behind the command",
        "message": "unrecognized subcommand 'gett'"
      }
    }
    ---
    flannelctl: unrecognized subcommand 'gett'
      see flannelctl --help, or --help behind the command
    "#);
    assert_snapshot!(shown(&directory, &["config", "validate", "/nowhere", "--output=name"]), @r"
    1
    ---
    flannelctl: could not read /nowhere: No such file or directory (os error 2)
    ");
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("leases");
    for arguments in [&["lease", "list"][..], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_flannelctl"))
            .arg("--lease-dir")
            .arg(&directory)
            .args(arguments)
            .env_clear()
            .stdout(writer)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn a_store_that_is_away_has_its_own_exit_code() {
    let output = Command::new(env!("CARGO_BIN_EXE_flannelctl"))
        .args(["--etcd-endpoints", "http://127.0.0.1:1", "lease", "list"])
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("could not reach etcd at http://127.0.0.1:1"), "{said}");
}
