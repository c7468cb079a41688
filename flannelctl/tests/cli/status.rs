//! Commands that ask the daemon, on a socket that answers what a test wants.

use insta::assert_snapshot;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::shown;

const LAID_OUT: &str = "a node can be laid out";

/// A node whose daemon answers each path with a code and a body.
struct Daemon {
    _home: tempfile::TempDir,
    directory: PathBuf,
}

impl Daemon {
    fn new(answers: Vec<(&'static str, u16, Value)>) -> Self {
        let home = tempfile::tempdir().expect(LAID_OUT);
        let listener = UnixListener::bind(home.path().join("flanneld.sock")).expect(LAID_OUT);
        // Ends with the process: it waits for questions that do not come any more.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a client comes");
                let mut request = String::new();
                BufReader::new(&stream).read_line(&mut request).expect("a client asks");
                let path = request.split(' ').nth(1).unwrap_or_default();
                let (_, code, body) =
                    answers.iter().find(|(known, ..)| *known == path).expect("a known path");
                let body = body.to_string();
                let length = body.len();
                // The client may have seen enough.
                let _ = write!(stream, "HTTP/1.1 {code} X\r\ncontent-length: {length}\r\n\r\n{body}");
            }
        });
        let directory = home.path().join("leases");
        Self { _home: home, directory }
    }

    fn shown(&self, arguments: &[&str]) -> String {
        let home = self.directory.parent().expect(LAID_OUT).display().to_string();
        shown(&self.directory, arguments).replace(&home, "[home]")
    }
}

fn status() -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs();
    json!({
        "version": "0.1.0", "pid": 77, "startedAtUnixSeconds": now - 7500, "uptimeSeconds": 7500,
        "ready": true, "notReadyReasons": [], "conditions": [],
        "store": {
            "kind": "etcd", "location": "https://10.0.0.1:2379 /coreos.com/network", "up": true, "revision": 12,
            "lastRequest": {"operation": "renew", "latencyMilliseconds": 1.234},
            "requests": 9, "errors": 0, "listings": 1, "watchRestarts": 0
        },
        "configRevision": 3, "backend": "vxlan",
        "lease": {
            "key": "10.5.1.0-24", "subnets": ["10.5.1.0/24"], "confirmed": true, "reservation": false,
            "remainingSeconds": 80000, "renewMarginSeconds": 3600
        },
        "interface": {
            "name": "eth0", "chosenBy": "the default route", "mtuBytes": 1500, "mac": "0a:00:00:00:00:01",
            "addresses": ["10.0.0.5"], "publicAddresses": ["192.0.2.5"]
        },
        "podMtuBytes": 1450, "tunnels": ["flannel.1"],
        "peers": {"total": 2, "faulty": 0, "kept": 0, "unreadable": 0},
        "allocation": [{"family": "ipv4", "network": "10.5.0.0/16", "capacity": "255", "used": 3}],
        "rounds": [{
            "reason": "resync", "atUnixSeconds": now - 150, "elapsedMilliseconds": 2,
            "kept": 9, "set": 1, "deleted": 0, "failed": 0
        }],
        "lastLeaseChange": null, "lastSuccessAtUnixSeconds": now - 150, "failingOps": [],
        "firewall": {
            "mode": "nftables", "correct": true, "error": null, "cleanupError": null,
            "installs": 1, "repairs": 2, "checks": 30
        },
        "a_field_of_a_later_version": [1, 2, 3]
    })
}

#[test]
fn status_of_a_healthy_node() {
    let daemon = Daemon::new(vec![("/status", 200, status())]);
    assert_snapshot!(daemon.shown(&["status"]));
    assert_snapshot!(daemon.shown(&["status", "-o", "name"]));
}

#[test]
fn status_of_a_node_with_problems() {
    let mut status = status();
    status["ready"] = json!(false);
    status["notReadyReasons"] = json!(["firewall rules are not in place yet"]);
    status["conditions"] = json!([
        {"about": "10.5.9.0-24", "reason": "the record cannot be used: PublicIP must be an IPv4 address such as \"192.168.64.3\""},
        {"about": "store", "reason": "could not reach etcd"}
    ]);
    status["store"]["up"] = json!(false);
    status["lease"]["confirmed"] = json!(false);
    status["lease"]["remainingSeconds"] = json!(null);
    status["peers"] = json!({"total": 2, "faulty": 1, "kept": 2, "unreadable": 1});
    status["allocation"][0]["used"] = json!(255);
    status["failingOps"] = json!(["route replace 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink"]);
    status["rounds"][0]["failed"] = json!(1);
    status["firewall"]["correct"] = json!(false);
    status["firewall"]["error"] = json!("iptables was not found in PATH");
    let daemon = Daemon::new(vec![("/status", 200, status)]);
    assert_snapshot!(daemon.shown(&["status"]));
    assert_snapshot!(daemon.shown(&["status", "--wait", "--timeout", "0"]));
    assert_snapshot!(daemon.shown(&["events"]));
}

#[test]
fn peers_and_their_problems() {
    let object = |kind, text, state| json!({"kind": kind, "text": text, "state": state});
    let peer = |net: &str, state: &str, problems: Value, objects: Value| {
        json!({
            "key": net.replace('/', "-"), "subnets": [net], "publicAddresses": ["192.168.50.2"], "backend": "vxlan",
            "backendData": {"VNI": 1, "VtepMAC": "0a:00:00:00:00:02"}, "backendV6Data": null, "state": state,
            "problems": problems, "objects": objects, "changedAtUnixSeconds": null, "kept": false
        })
    };
    let route = "route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink";
    let fdb = "fdb 0a:00:00:00:00:02 dst 192.168.50.2 dev flannel.1";
    let peers = json!({"settled": false, "peers": [
        peer("10.5.2.0/24", "in-place", json!([]), json!([object("fdb", fdb, "present"), object("route", route, "present")])),
        peer("10.5.3.0/24", "incomplete", json!([]), json!([object("fdb", fdb, "differs"), object("route", route, "missing")])),
        peer("10.5.4.0/24", "faulty", json!(["the lease has no IPv4 tunnel data"]), json!([])),
    ]});
    let daemon = Daemon::new(vec![("/peers", 200, peers)]);
    assert_snapshot!(daemon.shown(&["peer", "list"]));
    assert_snapshot!(daemon.shown(&["peer", "list", "-o", "wide"]));
    assert_snapshot!(daemon.shown(&["peer", "list", "-o", "name"]));
}

#[test]
fn pending_operations_are_findings() {
    let diff = json!({"settled": true, "removesSurplus": true, "ops": [
        {"text": "route replace 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink", "action": "set", "kind": "route", "object": "10.5.2.0/24"},
        {"text": "neigh del 10.5.9.0 dev flannel.1", "action": "delete", "kind": "neighbour", "object": "10.5.9.0 dev flannel.1"}
    ]});
    let daemon = Daemon::new(vec![("/diff", 200, diff)]);
    assert_snapshot!(daemon.shown(&["diff"]));
    let nothing = json!({"settled": true, "removesSurplus": false, "ops": []});
    let daemon = Daemon::new(vec![("/diff", 200, nothing)]);
    assert_snapshot!(daemon.shown(&["diff"]));
}

#[test]
fn missing_and_invalid_responses() {
    let waiting = json!({"error": "flanneld has not started its work yet: the store has no network config"});
    let daemon = Daemon::new(vec![("/diff", 503, waiting), ("/peers", 200, json!({"peers": 7}))]);
    assert_snapshot!(daemon.shown(&["diff"]));
    assert_snapshot!(daemon.shown(&["diff", "-o", "json"]));
    let gone = tempfile::tempdir().unwrap();
    let directory = gone.path().join("leases");
    std::fs::create_dir(&directory).unwrap();
    let shown = |arguments: &[&str]| {
        shown(&directory, arguments).replace(&gone.path().display().to_string(), "[home]")
    };
    assert_snapshot!(shown(&["diff"]));
    assert_snapshot!(shown(&["status"]));
    drop(UnixListener::bind(gone.path().join("flanneld.sock")).unwrap());
    assert_snapshot!(shown(&["events"]));
}
