//! `flannelctl config`.

use insta::assert_snapshot;
use std::fs;

use crate::support::{flannelctl, shown};

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
