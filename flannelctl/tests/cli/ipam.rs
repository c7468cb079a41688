//! `flannelctl ipam`.

use insta::assert_snapshot;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::support::shown;

/// A node with two addresses in use whose owners nobody can know, and one that is leaked.
fn node() -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a node can be laid out");
    let network = home.path().join("networks/cbr0");
    fs::create_dir_all(&network).expect("a node can be laid out");
    give(&network, "10.5.1.2", "0123456789abcdef0123\r\neth0", SystemTime::now());
    give(&network, "10.5.1.3", "old-form", SystemTime::now());
    // Empty for an hour: power was lost while it was written.
    give(&network, "10.5.1.4", "", SystemTime::now() - Duration::from_secs(3600));
    fs::write(network.join("last_reserved_ip.0"), "10.5.1.4").expect("a node can be laid out");
    fs::write(home.path().join("subnet.env"), "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\n")
        .expect("a node can be laid out");
    home
}

fn give(network: &Path, address: &str, holder: &str, at: SystemTime) {
    let path = network.join(address);
    fs::write(&path, holder).expect("a file can be written");
    let file = File::options().write(true).open(&path).expect("a file can be opened");
    file.set_modified(at).expect("a time can be set");
}

fn ipam(home: &Path, arguments: &[&str]) -> String {
    let networks = home.join("networks");
    let all = [&["ipam"], arguments, &["--data-dir", networks.to_str().expect("a path of text")]].concat();
    shown(&home.join("leases"), &all).replace(&home.display().to_string(), "[home]")
}

#[test]
fn addresses_are_shown_with_their_pods() {
    let home = node();
    let table = ipam(home.path(), &["list"]);
    // The age of files that were just made is a matter of seconds.
    let table: Vec<&str> =
        table.lines().map(|line| line.rsplit_once("  ").map_or(line, |(rest, _)| rest.trim_end())).collect();
    assert_snapshot!(table.join("\n"), @r"
    0
    ADDRESS   NETWORK  CONTAINER      INTERFACE  USE
    10.5.1.2  cbr0     0123456789abc  eth0       unknown
    10.5.1.3  cbr0     old-form       -          unknown
    10.5.1.4  cbr0     -              -          leaked
    ---
    ");
    assert_snapshot!(ipam(home.path(), &["list", "--network", "cbr1"]), @r"
    1
    ---
    flannelctl: [home]/networks has no network cbr1
      Run `flannelctl ipam list` to see all networks, or specify another directory with --data-dir.
    ");
    assert_snapshot!(ipam(home.path(), &["list", "-o", "name"]), @r"
    0
    10.5.1.2
    10.5.1.3
    10.5.1.4
    ---
    ");
    fs::remove_dir_all(home.path().join("networks")).unwrap();
    assert_snapshot!(ipam(home.path(), &["list"]), @r"
    0
    ADDRESS  NETWORK  CONTAINER  INTERFACE  USE  AGE
    ---
    no addresses are allocated in [home]/networks
    ");
}

#[test]
fn check_reports_problems_and_how_to_fix_them() {
    let home = node();
    let network = home.path().join("networks/cbr0");
    give(&network, "10.5.9.7", "0123456789abcdef0123\r\neth0", SystemTime::now());
    assert_snapshot!(ipam(home.path(), &["check"]), @r"
    3
    ID                 FINDING
    ipam-leaked        1 of 4 addresses of network cbr0 are leaked
                       fix: flannelctl ipam release --leaked --network cbr0
    ipam-other-subnet  10.5.9.7 of network cbr0 is not in the subnet of this node
                       fix: replace that pod: it is unreachable from other nodes
    ipam-twice         eth0 of container 0123456789abcdef0123 has 2 IPv4 addresses
                       in network cbr0: 10.5.1.2 10.5.9.7
                       fix: flannelctl ipam release ADDRESS for each that the
                       container does not use
    ---
    ");
    for file in ["10.5.1.4", "10.5.9.7"] {
        fs::remove_file(network.join(file)).unwrap();
    }
    assert_snapshot!(ipam(home.path(), &["check"]), @r"
    0
    2 addresses in 1 network, no problems found
    ---
    ");
    for last in 4..=240 {
        give(&network, &format!("10.5.1.{last}"), &format!("c{last}\r\neth0"), SystemTime::now());
    }
    assert_snapshot!(ipam(home.path(), &["check", "-o", "json"]), @r#"
    3
    {
      "addresses": 239,
      "findings": [
        {
          "fix": "run fewer pods on this node, or use larger subnets (SubnetLen)",
          "id": "ipam-nearly-full",
          "problem": "239 of 253 addresses of 10.5.1.0/24 are allocated in network cbr0"
        }
      ]
    }
    ---
    "#);
}

#[test]
fn only_leaked_addresses_are_released_unless_forced() {
    let home = node();
    let has = |address: &str| home.path().join("networks/cbr0").join(address).exists();
    assert_snapshot!(ipam(home.path(), &["release", "10.5.1.2"]), @r"
    1
    ---
    flannelctl: could not determine whether container 0123456789abcdef0123 of network cbr0, which has 10.5.1.2, still exists
      Check with `crictl ps` or `podman ps`. --force releases the address anyway.
    ");
    assert_snapshot!(ipam(home.path(), &["release", "10.5.1.99"]), @r"
    1
    ---
    flannelctl: 10.5.1.99 is not allocated
      Run `flannelctl ipam list` to see all allocated addresses.
    ");
    assert_snapshot!(ipam(home.path(), &["release", "--leaked"]), @r"
    1
    ---
    flannelctl: Release 10.5.1.4? Confirmation is required, and standard input is not a terminal
      Confirm with --yes.
    ");
    assert_snapshot!(ipam(home.path(), &["release", "--leaked", "--dry-run"]), @r"
    0
    10.5.1.4 released (dry run)
    ---
    ");
    assert!(has("10.5.1.4"));
    assert_snapshot!(ipam(home.path(), &["release", "--leaked", "--yes"]), @r"
    0
    10.5.1.4 released
    ---
    ");
    assert!(!has("10.5.1.4") && has("10.5.1.3"));
    assert_snapshot!(ipam(home.path(), &["release", "--leaked", "--yes"]), @r"
    0
    ---
    no leaked addresses
    ");
    assert_snapshot!(ipam(home.path(), &["release", "10.5.1.3", "--force"]), @r"
    0
    10.5.1.3 released
    ---
    ");
    assert!(!has("10.5.1.3") && has("10.5.1.2"));
    assert!(ipam(home.path(), &["release"]).starts_with("2\n"));
}
