//! `flannelctl config`.

use insta::assert_snapshot;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::{command, flannelctl, shown};

#[test]
fn config_is_checked_written_and_shown() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("leases");
    fs::create_dir(&directory).unwrap();
    let file = home.path().join("config.json");
    fs::write(&file, r#"{"Network":"10.5.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#)
        .unwrap();
    let file = file.to_str().unwrap();
    assert_snapshot!(shown(&directory, &["config", "get"]), @r"
    1
    ---
    flannelctl: [dir] has no network config
      Run `flannelctl config set FILE`.
    ");
    assert_snapshot!(shown(&directory, &["config", "set", file, "--dry-run"]), @r"
    0
    IPv4: 10.5.0.0/16, 255 subnets of length 24, 10.5.1.0 to 10.5.255.0
    backend: vxlan
    firewall: nftables
    ---
    not written (dry run)
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
    the store already contains this config
    ");
}

#[test]
fn written_config_is_not_an_error_in_any_format() {
    let home = network();
    let file = home.path().join("new.json");
    for (form, third) in [("table", 210), ("wide", 211), ("json", 212), ("yaml", 213), ("name", 214)] {
        fs::write(&file, format!(r#"{{"Network":"10.5.0.0/16","SubnetMax":"10.5.{third}.0"}}"#)).unwrap();
        let arguments = ["config", "set", file.to_str().unwrap(), "-o", form];
        let output = flannelctl(&home.path().join("leases"), &arguments);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
}

#[test]
fn invalid_config_is_not_written() {
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
    assert!(said.contains("config`: set,"), "{said}");
}

/// A store with a config and two nodes.
fn network() -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a directory can be made");
    let subnets = home.path().join("leases/subnets");
    fs::create_dir_all(&subnets).expect("a directory can be made");
    let write =
        |name: &str, text: &str| fs::write(home.path().join(name), text).expect("a file can be written");
    write(
        "leases/config",
        r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.200.0","Backend":{"Type":"vxlan"}}"#,
    );
    for (third, last) in [(1, 3), (150, 4)] {
        let record = format!(r#"{{"PublicIP":"192.168.64.{last}","PublicIPv6":null,"BackendType":"vxlan"}}"#);
        fs::write(subnets.join(format!("10.5.{third}.0-24")), record).expect("a file can be written");
    }
    home
}

#[test]
fn effect_of_a_change_is_reported_before_it_is_made() {
    let home = network();
    let directory = home.path().join("leases");
    let file = home.path().join("new.json");
    let tried = |text: &str| {
        fs::write(&file, text).unwrap();
        shown(&directory, &["config", "set", file.to_str().unwrap(), "--dry-run"])
    };
    assert_snapshot!(tried(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}"#), @r"
    0
    IPv4: 10.5.0.0/16, 255 subnets of length 24, 10.5.1.0 to 10.5.255.0
    backend: vxlan
    firewall: iptables
    ---
    applied at once, pods unaffected: 2 nodes
    not written (dry run)
    ");
    assert_snapshot!(tried(r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.99.0","Backend":{"Type":"vxlan"}}"#), @r"
    0
    IPv4: 10.5.0.0/16, 99 subnets of length 24, 10.5.1.0 to 10.5.99.0
    backend: vxlan
    firewall: iptables
    ---
    applied at once, pods unaffected: 1 node
    applied when flanneld restarts, new subnet, pods must be replaced: 1 node: 10.5.150.0/24 of node 192.168.64.4
    not written (dry run)
    ");
    assert_snapshot!(tried(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#), @r"
    0
    IPv4: 10.5.0.0/16, 255 subnets of length 24, 10.5.1.0 to 10.5.255.0
    backend: host-gw
    firewall: iptables
    ---
    applied when flanneld restarts, subnet kept: 2 nodes
    requires a restart: backend vxlan -> host-gw
    not written (dry run)
    ");
    assert_snapshot!(tried(r#"{"Network":"10.9.0.0/16","Backend":{"Type":"vxlan","VNI":7}}"#), @r"
    0
    IPv4: 10.9.0.0/16, 255 subnets of length 24, 10.9.1.0 to 10.9.255.0
    backend: vxlan
    firewall: iptables
    ---
    applied when flanneld restarts, new subnet, pods must be replaced: 2 nodes: 10.5.1.0/24 of node 192.168.64.3, 10.5.150.0/24 of node 192.168.64.4
    requires a restart: IPv4 network 10.5.0.0/16 -> 10.9.0.0/16; VNI, Port or GBP of the vxlan backend
    not written (dry run)
    ");
}

#[test]
fn every_key_is_explained_with_its_effective_value() {
    let home = network();
    let directory = home.path().join("leases");
    let table = shown(&directory, &["config", "explain"]);
    assert_snapshot!(table, @r"
    0
    KEY                    VALUE             FROM     MEANING
    EnableIPv4             true              default  whether pods have IPv4
    Network                10.5.0.0/16       given    the pod network; every node
                                                      gets a part of it
    SubnetLen              24                derived  prefix length of a node's
                                                      subnet
    SubnetMin              10.5.1.0          derived  first subnet for nodes
    SubnetMax              10.5.200.0        given    last subnet for nodes
    EnableIPv6             false             default  whether pods have IPv6
    EnableNFTables         false             default  firewall rules by nftables
                                                      instead of iptables
    Backend.Type           vxlan             given    how packets reach other nodes
    Backend.VNI            1                 default  network identifier, and the
                                                      number in the device's name
    Backend.Port           8472              default  UDP port of the tunnel
    Backend.MTU            of the interface  default  MTU of the underlay; devices
                                                      get 50 bytes less
    Backend.GBP            false             default  group based policy
    Backend.Learning       false             default  the kernel learns addresses
                                                      from received frames
    Backend.DirectRouting  false             default  plain routes to nodes on the
                                                      same link
    ---
    ");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    let file = home.path().join("secret.json");
    fs::write(&file, r#"{"Network":"10.5.0.0/16","Backend":{"Type":"wireguard","PSK":"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}}"#).unwrap();
    let said = shown(&directory, &["config", "explain", file.to_str().unwrap()]);
    assert!(said.starts_with("0\n") && said.contains("(secret)") && !said.contains("MDEy"), "{said}");
}

/// Runs `config edit` with an editor that is a script; `$1` is the file.
fn edited(directory: &Path, script: &str) -> String {
    let editor = directory.with_file_name("editor");
    fs::write(&editor, format!("#!/bin/sh\n{script}\n")).expect("a file can be written");
    fs::set_permissions(&editor, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
    let temporary = directory.with_file_name("tmp");
    fs::create_dir_all(&temporary).expect("a directory can be made");
    let output = command(directory, &["config", "edit"])
        .env("EDITOR", editor)
        .env("PATH", "/usr/bin:/bin")
        .env("TMPDIR", &temporary)
        .output()
        .expect("flannelctl starts");
    let home = directory.parent().expect("it is below another one").display().to_string();
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).replace(&directory.display().to_string(), "[dir]");
        text.replace(&temporary.display().to_string(), "[tmp]").replace(&home, "[home]")
    };
    let said = format!(
        "{}\n{}---\n{}",
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr)
    );
    // The name of a temporary file.
    let Some(at) = said.find("flannel-config-") else { return said };
    said.replace(&said[at..at + 26], "flannel-config-XXXXXX.json")
}

#[test]
fn config_is_edited_until_it_is_valid() {
    let home = network();
    let directory = home.path().join("leases");
    let config = || fs::read_to_string(directory.join("config")).unwrap();
    let before = config();
    assert_snapshot!(edited(&directory, "true"), @r"
    1
    ---
    flannelctl: nothing was written: the text is unchanged
      Change the text to write it.
    ");
    assert_snapshot!(edited(&directory, "false"), @r"
    1
    ---
    flannelctl: the editor [home]/editor failed (exit status: 1), nothing was written
    ");
    // Invalid, and saved unchanged when it is opened again.
    assert_snapshot!(edited(&directory, r#"sed -i s/10.5.200.0/10.5.200.7/ "$1""#), @r"
    1
    ---
    flannelctl: nothing was written: invalid config: SubnetMax is 10.5.200.7, which does not start a subnet of length 24: the one around it starts at 10.5.200.0
      The edited config is in [tmp]/flannel-config-XXXXXX.json.
    ");
    assert_eq!(config(), before);
    // Another client writes first.
    let race = r#"sed -i s/10.5.200.0/10.5.210.0/ "$1"; cp "$1" "$(dirname "$0")/leases/config"; sed -i s/210/211/ "$1""#;
    assert_snapshot!(edited(&directory, race), @r"
    1
    ---
    applied at once, pods unaffected: 2 nodes
    the edited config is in [tmp]/flannel-config-XXXXXX.json
    flannelctl: could not write the config: the store has changed meanwhile
      Check the present state and repeat the command.
    ");
    assert!(config().contains("10.5.210.0"), "{}", config());
    // Invalid at first, then fixed.
    let twice = r#"if grep -q "^# Invalid: SubnetMax" "$1"; then sed -i s/10.5.200.7/10.5.220.0/ "$1"; else sed -i s/10.5.210.0/10.5.200.7/ "$1"; fi"#;
    assert_snapshot!(edited(&directory, twice), @r"
    0
    IPv4: 10.5.0.0/16, 220 subnets of length 24, 10.5.1.0 to 10.5.220.0
    backend: vxlan
    firewall: iptables
    ---
    applied at once, pods unaffected: 2 nodes
    written to [dir]
    ");
    assert!(config().contains("10.5.220.0") && !config().contains('#'), "{}", config());
}

#[test]
fn edit_without_a_config_starts_with_a_template() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("leases");
    let said = edited(&directory, "true");
    assert!(said.starts_with("0\n"), "{said}");
    assert!(fs::read_to_string(directory.join("config")).unwrap().contains("10.244.0.0/16"));
}

#[test]
fn invalid_config_of_the_store_is_reported_with_its_location() {
    let home = network();
    let directory = home.path().join("leases");
    fs::write(directory.join("config"), "{").unwrap();
    assert_snapshot!(shown(&directory, &["config", "explain"]), @r"
    1
    ---
    flannelctl: invalid network config in [dir]: the network config cannot be read: not valid JSON: EOF while parsing an object at line 1 column 1
      Run `flannelctl config edit`.
    ");
}
