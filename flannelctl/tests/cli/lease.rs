//! `flannelctl lease`.

use insta::assert_snapshot;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::{command, flannelctl, shown};

const DAY: u64 = 86_400;

/// A network of 255 subnets, and the directory of its leases.
struct Store {
    home: tempfile::TempDir,
    directory: PathBuf,
}

impl Store {
    fn new(config: &str) -> Self {
        let home = tempfile::tempdir().expect("the store can be laid out");
        let directory = home.path().join("leases");
        for name in ["subnets", "leases"] {
            fs::create_dir_all(directory.join(name)).expect("the store can be laid out");
        }
        fs::write(directory.join("config"), config).expect("the store can be laid out");
        Self { home, directory }
    }

    fn usual() -> Self {
        let store = Self::new(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#);
        store.lease("10.5.1.0-24", &record("192.168.64.3"), DAY - 7200, DAY);
        store.lease("10.5.2.0-24", &record("192.168.64.4"), 300, DAY);
        store.reservation("10.5.3.0-24", r#"{"PublicIP":"192.168.64.9","PublicIPv6":null}"#);
        store.reservation("10.5.4.0-24", &record("192.168.64.5"));
        fs::write(
            store.home.path().join("subnet.env"),
            "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.2.1/24\n",
        )
        .expect("the store can be laid out");
        store
    }

    fn reservation(&self, key: &str, value: &str) {
        fs::write(self.directory.join("subnets").join(key), value).expect("the store can be laid out");
    }

    /// The time left has half a minute more, so that a slow test still shows the same minute.
    fn lease(&self, key: &str, value: &str, left: u64, granted: u64) {
        let end = SystemTime::now().duration_since(UNIX_EPOCH).expect("the store can be laid out")
            + Duration::from_secs(left + 30);
        let text = format!("{} {granted}", end.as_secs());
        fs::write(self.directory.join("leases").join(key), text).expect("the store can be laid out");
        self.reservation(key, value);
    }

    fn shown(&self, arguments: &[&str]) -> String {
        shown(&self.directory, arguments)
    }

    fn has(&self, key: &str) -> bool {
        self.directory.join("subnets").join(key).exists()
    }

    fn expires(&self, key: &str) -> bool {
        self.directory.join("leases").join(key).exists()
    }
}

fn record(address: &str) -> String {
    format!(
        r#"{{"PublicIP":"{address}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}}}"#
    )
}

#[test]
fn leases_are_listed_and_malformed_records_reported() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("leases");
    fs::create_dir_all(directory.join("subnets")).unwrap();
    let laid = |key: &str, value: &str| fs::write(directory.join("subnets").join(key), value).unwrap();
    laid(
        "10.5.1.0-24",
        r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#,
    );
    laid(
        "10.5.2.0-24&fd00:12:13::-64",
        r#"{"PublicIP":"192.168.64.4","PublicIPv6":"fd00::4","BackendType":"host-gw"}"#,
    );
    laid("10.5.3.0-24", "{");
    assert_snapshot!(shown(&directory, &["lease", "list"]), @r"
    0
    SUBNET           PUBLIC-IP     BACKEND  VTEP-MAC           EXPIRES
    10.5.1.0/24      192.168.64.3  vxlan    c6:d2:32:6f:8f:44  never
    10.5.2.0/24      192.168.64.4  host-gw  -                  never
    fd00:12:13::/64  fd00::4
    ---
    record 10.5.3.0-24 is malformed: the lease record cannot be read: not valid JSON: EOF while parsing an object at line 1 column 1
      Run `flannelctl lease release 10.5.3.0-24` to delete it.
    ");
    assert_snapshot!(shown(&directory, &["lease", "list", "-o", "name"]), @r"
    0
    10.5.1.0-24
    10.5.2.0-24&fd00:12:13::-64
    ---
    record 10.5.3.0-24 is malformed: the lease record cannot be read: not valid JSON: EOF while parsing an object at line 1 column 1
      Run `flannelctl lease release 10.5.3.0-24` to delete it.
    ");
    let output = flannelctl(&directory, &["lease", "list", "-o", "json"]);
    let objects: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(objects[0]["key"], "10.5.1.0-24");
    assert_eq!(objects[0]["record"]["BackendData"]["VtepMAC"], "c6:d2:32:6f:8f:44");
    assert_eq!(objects[0]["reservation"], true);
}

#[test]
fn leases_are_shown_with_their_expiry_and_the_own_one_is_marked() {
    let store = Store::usual();
    assert_snapshot!(store.shown(&["lease", "list"]), @r"
    0
    SUBNET         PUBLIC-IP     BACKEND  VTEP-MAC           EXPIRES
    10.5.1.0/24    192.168.64.3  vxlan    c6:d2:32:6f:8f:44  22h00m
    10.5.2.0/24 *  192.168.64.4  vxlan    c6:d2:32:6f:8f:44  5m, overdue
    10.5.3.0/24    192.168.64.9  -        -                  never
    10.5.4.0/24    192.168.64.5  vxlan    c6:d2:32:6f:8f:44  never
    ---
    ");
    assert_snapshot!(store.shown(&["lease", "list", "--address", "10.5.4.77"]), @r"
    0
    SUBNET       PUBLIC-IP     BACKEND  VTEP-MAC           EXPIRES
    10.5.4.0/24  192.168.64.5  vxlan    c6:d2:32:6f:8f:44  never
    ---
    ");
    assert_snapshot!(store.shown(&["lease", "list", "--address", "10.6.4.77"]), @r"
    0
    SUBNET  PUBLIC-IP  BACKEND  VTEP-MAC  EXPIRES
    ---
    no lease contains 10.6.4.77
    ");
    let yaml = store.shown(&["lease", "list", "--address", "10.5.4.77", "-o", "yaml"]);
    // It begins with the time.
    let yaml: Vec<&str> = yaml.lines().filter(|line| !line.contains("revision: ")).collect();
    assert_snapshot!(yaml.join("\n"), @r#"
    0
    - grantedSeconds: null
      key: "10.5.4.0-24"
      node: null
      record:
        BackendData:
          VNI: 1
          VtepMAC: "c6:d2:32:6f:8f:44"
        BackendType: vxlan
        PublicIP: "192.168.64.5"
        PublicIPv6: null
      remainingSeconds: null
      reservation: true
      state: "reserved, in use"
      subnets:
      - "10.5.4.0/24"
      thisNode: false
    ---
    "#);
    let wide = store.shown(&["lease", "list", "-o", "wide"]);
    assert!(wide.contains("reserved, in use") && wide.contains("overdue"), "{wide}");
    for line in store.shown(&["lease", "list"]).lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn one_lease_is_found_by_subnet_key_address_and_node() {
    let store = Store::usual();
    let by_address = store.shown(&["lease", "get", "10.5.1.7"]);
    for target in ["10.5.1.0/24", "10.5.1.0-24", "192.168.64.3"] {
        assert!(store.shown(&["lease", "get", target, "-o", "name"]).starts_with("0\n10.5.1.0-24\n"));
    }
    assert_snapshot!(by_address.split("\nRevision").next().unwrap(), @r"
    0
    Subnet:         10.5.1.0/24
    Public address: 192.168.64.3
    Backend:        vxlan
    VTEP MAC:       c6:d2:32:6f:8f:44
    VNI:            1
    State:          in use
    Expires:        in 22h00m; renewed 1h59m ago for 1d00h
    This node:      no
    Key:            10.5.1.0-24
    ");
    assert_snapshot!(store.shown(&["lease", "get", "10.5.77.1"]), @r"
    1
    ---
    flannelctl: 10.5.77.1 is neither in the subnet of a node nor its public address
      Run `flannelctl lease list` to see all leases.
    ");
    assert_snapshot!(store.shown(&["lease", "get", "10.5.77.0-24"]), @r"
    1
    ---
    flannelctl: no lease 10.5.77.0-24
      Run `flannelctl lease list` to see all leases.
    ");
    assert_snapshot!(store.shown(&["lease", "get", "10.5.77.0/33"]), @r#"
    2
    ---
    error: invalid value '10.5.77.0/33' for '<TARGET>': "10.5.77.0/33" is not a subnet such as 10.5.3.0/24 or fd00:1:2:3::/64

    For more information, try '--help'.
    "#);
}

#[test]
fn lease_is_released_only_if_its_node_no_longer_exists() {
    let store = Store::usual();
    assert_snapshot!(store.shown(&["lease", "release", "10.5.1.0/24", "--yes"]), @r"
    1
    ---
    flannelctl: 10.5.1.0/24 of node 192.168.64.3 is not released: it was renewed 1h59m ago and expires in 22h00m, so its node may be running and would acquire it again at once
      Stop flanneld on that node first. --force releases the lease anyway.
    ");
    assert_snapshot!(store.shown(&["lease", "release", "192.168.64.5", "--yes", "-o", "json"]), @r#"
    1
    {
      "error": {
        "fix": "Stop flanneld on that node first. --force releases the lease anyway.",
        "kind": "refused",
        "message": "10.5.4.0/24 of node 192.168.64.5 is not released: it is a reservation in use, which its node does not renew, so that node may be running"
      }
    }
    ---
    flannelctl: 10.5.4.0/24 of node 192.168.64.5 is not released: it is a reservation in use, which its node does not renew, so that node may be running
      Stop flanneld on that node first. --force releases the lease anyway.
    "#);
    assert!(store.has("10.5.1.0-24") && store.has("10.5.4.0-24"));
    assert_snapshot!(store.shown(&["lease", "release", "10.5.2.0/24"]), @r"
    1
    ---
    flannelctl: Release 10.5.2.0/24 of node 192.168.64.4? Confirmation is required, and standard input is not a terminal
      Confirm with --yes.
    ");
    assert_snapshot!(store.shown(&["lease", "release", "10.5.2.0/24", "--dry-run"]), @r"
    0
    10.5.2.0/24 of node 192.168.64.4 released (dry run)
    ---
    ");
    assert!(store.has("10.5.2.0-24"));
    assert_snapshot!(store.shown(&["lease", "release", "10.5.2.0/24", "--yes"]), @r"
    0
    10.5.2.0/24 of node 192.168.64.4 released
    ---
    ");
    assert!(!store.has("10.5.2.0-24"));
    // Of nobody yet.
    assert!(store.shown(&["lease", "release", "10.5.3.0/24", "-y"]).starts_with("0\n"));
    assert!(store.shown(&["lease", "release", "10.5.1.0/24", "--force"]).starts_with("0\n"));
    assert!(!store.has("10.5.1.0-24") && !store.has("10.5.3.0-24") && store.has("10.5.4.0-24"));
}

#[test]
fn malformed_record_is_released_by_its_key() {
    let store = Store::usual();
    store.reservation("10.5.9.0-24", "{");
    let said = store.shown(&["lease", "list"]);
    assert!(said.contains("`flannelctl lease release 10.5.9.0-24` to delete it"), "{said}");
    assert_snapshot!(store.shown(&["lease", "release", "10.5.9.0-24"]), @r"
    0
    10.5.9.0-24 released
    ---
    ");
    assert!(!store.has("10.5.9.0-24"));
}

#[test]
fn subnet_is_reserved_for_a_future_node() {
    let store = Store::usual();
    let reserve = |arguments: &[&str]| store.shown(&[&["lease", "reserve"], arguments].concat());
    assert_snapshot!(reserve(&["192.168.64.20", "--subnet", "10.5.20.0/24", "--dry-run"]), @r"
    0
    10.5.20.0/24 reserved (dry run)
    ---
    ");
    assert!(!store.has("10.5.20.0-24"));
    assert_snapshot!(reserve(&["192.168.64.20", "--subnet", "10.5.20.0/24"]), @r"
    0
    10.5.20.0/24 reserved
    ---
    ");
    let written = fs::read_to_string(store.directory.join("subnets/10.5.20.0-24")).unwrap();
    assert_eq!(written, r#"{"PublicIP":"192.168.64.20","PublicIPv6":null}"#);
    assert!(!store.expires("10.5.20.0-24"));
    assert_snapshot!(reserve(&["192.168.64.20"]), @r"
    0
    10.5.20.0/24 of node 192.168.64.20 reserved (unchanged)
    ---
    ");
    assert_snapshot!(reserve(&["192.168.64.20", "--subnet", "10.5.21.0/24"]), @r"
    1
    ---
    flannelctl: the node already has 10.5.20.0/24 of node 192.168.64.20
      Run `flannelctl lease move 192.168.64.20 --subnet 10.5.21.0/24`.
    ");
    assert_snapshot!(reserve(&["192.168.64.21", "--subnet", "10.5.20.0/24"]), @r"
    1
    ---
    flannelctl: 10.5.20.0/24 is taken: 10.5.20.0/24 of node 192.168.64.20
      Choose another subnet, or omit --subnet.
    ");
    assert_snapshot!(reserve(&["192.168.64.21", "--subnet", "10.9.20.0/24"]), @r"
    1
    ---
    flannelctl: the network config does not allow 10.9.20.0/24
      Choose a subnet of length 24 from 10.5.1.0 to 10.5.255.0.
    ");
    assert_snapshot!(reserve(&["192.168.64.21", "--subnet", "fd00::/64"]), @r"
    1
    ---
    flannelctl: the network has no IPv6
      Omit that subnet.
    ");
    assert_snapshot!(reserve(&["fd00::1"]), @r"
    2
    ---
    flannelctl: the network has IPv4, so a node finds its reservation by its IPv4 address
      Specify the public IPv4 address of the node.
    ");
    assert_snapshot!(reserve(&["192.168.64.21", "192.168.64.22"]), @r"
    2
    ---
    flannelctl: 192.168.64.22 cannot be the public address of the node
      Specify the address at which other nodes reach it, at most one per family.
    ");
    // Any free one.
    assert!(reserve(&["192.168.64.30", "-o", "name"]).starts_with("0\n10.5."));
}

#[test]
fn lease_becomes_a_reservation_and_back() {
    let store = Store::usual();
    let before = fs::read_to_string(store.directory.join("subnets/10.5.1.0-24")).unwrap();
    assert_snapshot!(store.shown(&["lease", "reserve", "192.168.64.3"]), @r"
    0
    10.5.1.0/24 of node 192.168.64.3 reserved
    ---
    ");
    assert!(!store.expires("10.5.1.0-24"));
    assert_snapshot!(store.shown(&["lease", "unreserve", "10.5.1.0/24"]), @r"
    0
    10.5.1.0/24 of node 192.168.64.3 unreserved
    ---
    the lease expires in 24 hours unless its node renews it
    ");
    assert!(store.expires("10.5.1.0-24"));
    assert_snapshot!(store.shown(&["lease", "unreserve", "10.5.1.0/24"]), @r"
    0
    10.5.1.0/24 of node 192.168.64.3 unreserved (unchanged)
    ---
    ");
    assert_eq!(fs::read_to_string(store.directory.join("subnets/10.5.1.0-24")).unwrap(), before);
}

#[test]
fn node_is_moved_and_an_interrupted_move_is_continued() {
    let store = Store::usual();
    let go = |arguments: &[&str]| store.shown(&[&["lease", "move", "192.168.64.3"], arguments].concat());
    assert_snapshot!(go(&["--subnet", "10.5.30.0/24", "--dry-run"]), @r"
    0
    10.5.1.0/24 of node 192.168.64.3 to 10.5.30.0/24 moved (dry run)
    ---
    ");
    assert_snapshot!(go(&["--subnet", "10.5.30.0/24"]), @r"
    1
    ---
    flannelctl: Move 10.5.1.0/24 of node 192.168.64.3 to 10.5.30.0/24? Its pods lose their addresses and must be replaced. Confirmation is required, and standard input is not a terminal
      Confirm with --yes.
    ");
    assert_snapshot!(go(&["--subnet", "10.5.3.0/24", "--yes"]), @r"
    1
    ---
    flannelctl: 10.5.3.0/24 is taken: 10.5.3.0/24 of node 192.168.64.9
      Choose another subnet, or omit --subnet.
    ");
    assert!(store.has("10.5.1.0-24") && !store.has("10.5.30.0-24"));
    // As a move leaves it that stops half-way.
    store.reservation("10.5.30.0-24", &record("192.168.64.3"));
    assert_snapshot!(go(&["--yes"]), @r"
    0
    10.5.1.0/24 of node 192.168.64.3 to 10.5.30.0/24 moved
    ---
    flanneld on that node changes to the new subnet now, or when it starts; replace pods with addresses of the old subnet
    ");
    assert!(!store.has("10.5.1.0-24") && store.has("10.5.30.0-24") && !store.expires("10.5.30.0-24"));
}

#[test]
fn both_families_are_reserved_together() {
    let store = Store::new(
        r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48","Backend":{"Type":"vxlan"}}"#,
    );
    let said = store.shown(&[
        "lease",
        "reserve",
        "192.168.64.3",
        "fd00::3",
        "--subnet",
        "10.5.7.0/24",
        "--subnet",
        "fd00:5:0:7::/64",
    ]);
    assert_snapshot!(said, @r"
    0
    10.5.7.0/24 and fd00:5:0:7::/64 reserved
    ---
    ");
    assert!(store.has("10.5.7.0-24&fd00:5:0:7::-64"));
    assert_snapshot!(store.shown(&["lease", "list"]), @r"
    0
    SUBNET           PUBLIC-IP     BACKEND  VTEP-MAC  EXPIRES
    10.5.7.0/24      192.168.64.3  -        -         never
    fd00:5:0:7::/64  fd00::3
    ---
    ");
    assert!(store.shown(&["lease", "get", "fd00:5:0:7::99", "-o", "name"]).starts_with("0\n10.5.7.0-24&"));
}

#[test]
fn changes_are_shown_as_they_happen() {
    let store = Store::usual();
    let mut child =
        command(&store.directory, &["lease", "watch", "-o", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> serde_json::Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let listed: Vec<_> = (0..4).map(|_| next()).collect();
    assert!(listed.iter().all(|event| event["event"] == "listed"), "{listed:?}");
    store.reservation("10.5.40.0-24", &record("192.168.64.40"));
    let added = next();
    assert_eq!((&added["event"], &added["lease"]["key"]), (&"added".into(), &"10.5.40.0-24".into()));
    assert!(flannelctl(&store.directory, &["lease", "release", "10.5.40.0/24", "--force"]).status.success());
    let deleted = next();
    assert_eq!((&deleted["event"], &deleted["lease"]["key"]), (&"deleted".into(), &"10.5.40.0-24".into()));
    child.kill().unwrap();
    child.wait().unwrap();
}
