//! What a daemon says of itself, on its status socket and to Prometheus.
//!
//! ```text
//!   n1 ──┬── lan 192.168.50.0/24 ── etcd0
//!   n2 ──┘
//! ```

use anyhow::{Context, Result, ensure};
use integration::etcd::PREFIX;
use integration::{Cluster, Daemon, Etcd, EtcdOptions, Feature, Flanneld, Node, directory, http, lab, wait};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

const CONFIG: &str = r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}"#;
const SOCKET: &str = "/run/flannel/flanneld.sock";
const PASSWORD: &str = "s3cret-of-flannel";
const PATHS: [&str; 6] = ["/status", "/peers", "/desired", "/actual", "/diff", "/metrics"];

/// The answer of a daemon, which must be one.
fn ask(daemon: &Daemon, path: &str) -> Result<Value> {
    let answer = daemon.status(path)?;
    ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.body);
    serde_json::from_str(&answer.body).with_context(|| format!("{path}: {}", answer.body))
}

fn conditions(daemon: &Daemon) -> Result<Vec<(String, String)>> {
    let status = ask(daemon, "/status")?;
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    let all = status["conditions"].as_array().context("no conditions")?.iter();
    Ok(all.map(|condition| (text(condition, "about"), text(condition, "reason"))).collect())
}

/// The lines of the operations that are pending.
fn pending(daemon: &Daemon) -> Result<Vec<String>> {
    let diff = ask(daemon, "/diff")?;
    let ops = diff["ops"].as_array().context("no ops")?.iter();
    Ok(ops.map(|op| op["text"].as_str().unwrap_or_default().to_owned()).collect())
}

/// The value of one sample.
fn sample(daemon: &Daemon, name: &str) -> Result<f64> {
    let page = daemon.get("/metrics")?;
    ensure!(page.status == 200, "/metrics: {}", page.status);
    let line = page.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.with_context(|| format!("no {name} in\n{}", page.body))?.parse().context("not a number")
}

fn two_nodes(lab: &integration::Lab) -> Result<(Cluster, directory::LeaseDirectory, Vec<Daemon>)> {
    lab.require(&[Feature::Vxlan, Feature::Nft])?;
    let cluster = lab.cluster(2)?;
    let (leases, daemons) = cluster.start_on_directory(lab, CONFIG)?;
    wait_settled(&daemons[0], 1)?;
    Ok((cluster, leases, daemons))
}

/// Waits until a daemon has so many peers and nothing to do.
fn wait_settled(daemon: &Daemon, peers: u64) -> Result<()> {
    wait::until("the daemon has its peers and nothing to do", wait::LONG, || {
        let status = ask(daemon, "/status")?;
        ensure!(status["peers"]["total"] == peers, "{status}");
        let ops = pending(daemon)?;
        ensure!(ops.is_empty(), "pending: {ops:?}");
        Ok(())
    })
}

#[test]
fn status_of_a_healthy_node() {
    lab(|lab| {
        let (cluster, leases, daemons) = two_nodes(lab)?;
        let (node, daemon) = (&cluster.nodes[0], &daemons[0]);
        let (own, peer) = (node.subnet(true)?, cluster.nodes[1].subnet(true)?);

        let status = ask(daemon, "/status")?;
        for (field, expected) in [
            ("ready", json!(true)),
            ("notReadyReasons", json!([])),
            ("conditions", json!([])),
            ("pid", json!(daemon.pid()?)),
            ("backend", json!("vxlan")),
            ("podMtuBytes", json!(1450)),
            ("tunnels", json!(["flannel.1"])),
            ("failingOps", json!([])),
        ] {
            ensure!(status[field] == expected, "{field}: {} instead of {expected}", status[field]);
        }
        let store = &status["store"];
        ensure!(store["kind"] == "directory" && store["up"] == true, "{store}");
        ensure!(store["location"] == leases.path().to_string_lossy().as_ref(), "{store}");
        ensure!(store["lastRequest"]["latencyMilliseconds"].as_f64() > Some(0.0), "{store}");
        ensure!(status["configRevision"].as_i64() > Some(0), "{}", status["configRevision"]);
        let interface = &status["interface"];
        ensure!(interface["name"] == "eth0" && interface["mtuBytes"] == 1500, "{interface}");
        ensure!(interface["chosenBy"] == "the default route", "{interface}");
        ensure!(interface["publicAddresses"] == json!(["192.168.50.1"]), "{interface}");
        let lease = &status["lease"];
        ensure!(lease["subnets"] == json!([own.to_string()]) && lease["confirmed"] == true, "{lease}");
        let left = lease["remainingSeconds"].as_u64().context("no time left")?;
        ensure!((86_000..=86_400).contains(&left) && lease["reservation"] == false, "{lease}");
        let rounds = status["rounds"].as_array().context("no rounds")?;
        ensure!(rounds[0]["reason"] == "start", "{rounds:?}");
        ensure!(rounds.iter().any(|round| round["set"].as_u64() > Some(0)), "{rounds:?}");
        ensure!(rounds.iter().all(|round| round["failed"] == 0), "{rounds:?}");
        ensure!(status["lastSuccessAtUnixSeconds"].as_u64() > Some(1_600_000_000), "{status}");
        let allocation = json!([{"family":"ipv4","network":"10.42.0.0/16","capacity":"255","used":2}]);
        ensure!(status["allocation"] == allocation, "{}", status["allocation"]);
        let firewall = &status["firewall"];
        ensure!(firewall["correct"] == true && firewall["mode"] == "iptables", "{firewall}");

        let peers = ask(daemon, "/peers")?;
        let found = &peers["peers"][0];
        ensure!(found["subnets"] == json!([peer.to_string()]) && found["state"] == "in-place", "{peers}");
        ensure!(found["publicAddresses"] == json!(["192.168.50.2"]), "{peers}");
        ensure!(found["backendData"]["VtepMAC"].is_string(), "{peers}");
        let objects = found["objects"].as_array().context("no objects")?;
        ensure!(objects.len() == 3 && objects.iter().all(|object| object["state"] == "present"), "{peers}");
        ensure!(ask(daemon, "/desired")? == ask(daemon, "/actual")?, "desired and actual differ");

        let mode = fs::symlink_metadata(node.file(SOCKET)?)?.mode();
        ensure!(mode & 0o7777 == 0o660, "mode {mode:o}");
        for path in ["/nothing", "/status/", "/"] {
            let answer = daemon.status(path)?;
            let error: Value = serde_json::from_str(&answer.body)?;
            let text = error["error"].as_str().unwrap_or_default();
            ensure!(answer.status == 404 && text.contains("does not exist, only /status"), "{answer:?}");
        }
        Ok(())
    });
}

/// Repairs come within milliseconds, but no sooner than a burst of notifications is over. So the route is taken away again
/// and again until somebody who asks has seen it gone.
#[test]
fn removed_route_is_shown_and_repaired() {
    lab(|lab| {
        let (cluster, _, daemons) = two_nodes(lab)?;
        let (node, daemon) = (&cluster.nodes[0], &daemons[0]);
        let peer = cluster.nodes[1].subnet(true)?;
        let before = sample(daemon, "flannel_repairs_total{cause=\"hint\"}")?;
        let expected = format!("route replace {peer} via {} dev flannel.1 onlink", peer.network());
        let remove = format!("route del {peer}");
        wait::until("the missing route is seen", wait::LONG, || {
            // It may be gone already.
            let _ = node.netns().ip(&remove);
            let ops = pending(daemon)?;
            ensure!(ops.contains(&expected), "{ops:?}");
            Ok(())
        })?;
        wait::until("the peer is seen to lack its route", wait::LONG, || {
            let _ = node.netns().ip(&remove);
            let peers = ask(daemon, "/peers")?;
            let peer = &peers["peers"][0];
            ensure!(peer["state"] == "incomplete", "{peers}");
            ensure!(
                peer["objects"][2]["state"] == "missing" && peer["objects"][0]["state"] == "present",
                "{peers}"
            );
            Ok(())
        })?;
        wait_settled(daemon, 1)?;
        ensure!(ask(daemon, "/peers")?["peers"][0]["state"] == "in-place", "not repaired");
        let repairs = sample(daemon, "flannel_repairs_total{cause=\"hint\"}")?;
        ensure!(repairs > before, "{repairs} repairs, {before} before");
        let routes = sample(daemon, "flannel_ops_total{kind=\"route\",action=\"set\",result=\"success\"}")?;
        ensure!(routes >= repairs, "{routes} routes set, {repairs} repairs");
        Ok(())
    });
}

#[test]
fn unreachable_store_and_malformed_lease_are_reported_without_secrets() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Etcd])?;
        let cluster = lab.cluster(1)?;
        let etcd = Etcd::start(lab, &cluster.lan, &EtcdOptions::default())?;
        etcd.set_config(CONFIG)?;
        etcd.enable_users("rootpw", PASSWORD)?;
        let flanneld = Flanneld::on_etcd(&etcd)
            .argument("--etcd-username=flannel")
            .argument(format!("--etcd-password={PASSWORD}"));
        let daemon = cluster.start_all(&flanneld)?.remove(0);
        let status = ask(&daemon, "/status")?;
        ensure!(status["store"]["kind"] == "etcd" && status["store"]["up"] == true, "{status}");
        let location = status["store"]["location"].as_str().unwrap_or_default();
        ensure!(location.contains(":2379") && location.contains(PREFIX), "{location}");
        ensure!(conditions(&daemon)?.is_empty(), "{:?}", conditions(&daemon)?);

        etcd.put(&format!("{PREFIX}/subnets/10.42.99.0-24"), r#"{"PublicIP":"nonsense"}"#)?;
        wait::until("the bad lease is named", wait::LONG, || {
            let found = conditions(&daemon)?;
            let named =
                found.iter().any(|(about, reason)| about == "10.42.99.0-24" && reason.contains("nonsense"));
            ensure!(named, "{found:?}");
            ensure!(sample(&daemon, "flannel_records_unreadable")? > 0.5, "not counted");
            ensure!(sample(&daemon, "flannel_degraded_conditions{about=\"lease\"}")? > 0.5, "not counted");
            Ok(())
        })?;
        etcd.kill()?;
        wait::until("the store is seen to be away", wait::LONG, || {
            let status = ask(&daemon, "/status")?;
            ensure!(status["store"]["up"] == false, "{}", status["store"]);
            let found = conditions(&daemon)?;
            ensure!(found.iter().any(|(about, _)| about == "store"), "{found:?}");
            ensure!(sample(&daemon, "flannel_store_up")? < 0.5, "up in metrics");
            ensure!(status["ready"] == true, "not ready: {}", status["notReadyReasons"]);
            Ok(())
        })?;
        for path in PATHS {
            let answer = daemon.status(path)?;
            ensure!(answer.status == 200 && !answer.body.contains(PASSWORD), "{path}: {}", answer.body);
        }
        etcd.restart()?;
        wait::until("the store is seen to be back", wait::LONG, || {
            let found = conditions(&daemon)?;
            ensure!(found.iter().all(|(about, _)| about == "10.42.99.0-24"), "{found:?}");
            ensure!(sample(&daemon, "flannel_store_up")? > 0.5, "down in metrics");
            Ok(())
        })
    });
}

/// While it waits for a config a daemon tells so, and answers what it can.
#[test]
fn daemon_without_a_config() {
    lab(|lab| {
        let cluster = lab.cluster(1)?;
        let leases = directory::LeaseDirectory::empty(lab)?;
        let daemon = cluster.nodes[0].start(&Flanneld::on_directory(leases.path()))?;
        wait::until("the daemon says what it waits for", wait::LONG, || {
            let status = ask(&daemon, "/status")?;
            let reason = status["notReadyReasons"][0].as_str().unwrap_or_default().to_owned();
            ensure!(reason.contains("no network config: write one to"), "{status}");
            let diff = daemon.status("/diff")?;
            ensure!(diff.status == 503 && diff.body.contains("no network config"), "{diff:?}");
            Ok(())
        })
    });
}

#[test]
fn two_daemons_on_one_host() {
    lab(|lab| {
        let (cluster, leases, mut daemons) = two_nodes(lab)?;
        let node = &cluster.nodes[0];
        let mut first = daemons.remove(0);
        let flanneld = Flanneld::on_directory(leases.path());
        let second = flanneld.clone().argument("--healthz-port=8471");
        let refused = |pid: u32| -> Result<()> {
            let mut daemon = node.start(&second)?;
            let status = daemon.wait_end()?;
            ensure!(status.code() == Some(1), "{status}");
            let named = format!("another process ({pid}) serves {SOCKET}: two daemons on one host");
            directory::expect_log(&daemon, &["flanneld failed", &named])
        };
        refused(first.pid()?)?;
        ensure!(ask(&first, "/status")?["pid"] == first.pid()?, "the first has lost its socket");

        // Killed, it leaves its socket behind, which the next one replaces.
        first.kill()?;
        ensure!(node.file(SOCKET)?.exists(), "nothing is left behind");
        first.start()?;
        first.wait_ready()?;
        ensure!(ask(&first, "/status")?["pid"] == first.pid()?, "another one answers");
        refused(first.pid()?)?;
        first.stop()?;
        ensure!(!node.file(SOCKET)?.exists(), "a socket is left behind");

        // Switched off; and what is in the way and no socket is named.
        let mut off = node.start(&flanneld.clone().argument("--status-socket="))?;
        off.wait_ready()?;
        ensure!(!node.file(SOCKET)?.exists(), "a socket although it is off");
        off.stop()?;
        fs::write(node.file(SOCKET)?, "")?;
        let mut blocked = node.start(&flanneld)?;
        ensure!(blocked.wait_end()?.code() == Some(1), "it started");
        directory::expect_log(&blocked, &[SOCKET, "is not a socket", "--status-socket"])
    });
}

/// A daemon that is stopped lives; a socket file that nobody serves any more does not.
#[test]
fn suspended_daemon_is_not_reported_as_stopped() {
    lab(|lab| {
        let (cluster, leases, daemons) = two_nodes(lab)?;
        let node = &cluster.nodes[0];
        daemons[0].signal(nix::sys::signal::Signal::SIGSTOP)?;
        let second = Flanneld::on_directory(leases.path()).argument("--healthz-port=8471");
        let mut daemon = node.start(&second)?;
        ensure!(daemon.wait_end()?.code() == Some(1), "it started beside a stopped one");
        daemons[0].signal(nix::sys::signal::Signal::SIGCONT)?;
        wait_settled(&daemons[0], 1)?;

        const BESIDE: &str = "/run/flannel/1/flanneld.sock";
        let other = node.file(BESIDE)?;
        fs::create_dir_all(other.parent().context("no directory")?)?;
        drop(UnixListener::bind(&other)?);
        fs::set_permissions(&other, fs::Permissions::from_mode(0o777))?;
        let third = Flanneld::on_directory(leases.path()).arguments("--iface=eth0 --public-ip=192.168.50.77");
        let _beside = node.start_beside(1, &third)?;
        wait::until("the leftover is replaced", wait::LONG, || {
            let answer = http::get_unix(node.netns(), Path::new(BESIDE), "/status")?;
            ensure!(answer.status == 200, "{answer:?}");
            Ok(())
        })?;
        let mode = fs::symlink_metadata(&other)?.mode();
        ensure!(mode & 0o7777 == 0o660, "mode {mode:o}");
        Ok(())
    });
}

/// What Prometheus itself thinks of the page, the rules and their tests.
#[test]
fn metrics_and_alerts_pass_promtool() {
    lab(|lab| {
        lab.require(&[Feature::Promtool])?;
        let (cluster, _, daemons) = two_nodes(lab)?;
        let page = daemons[0].get("/metrics")?.body;
        ensure!(page.lines().count() == daemons[0].status("/metrics")?.body.lines().count(), "two pages");
        let file = lab.directory("promtool")?.join("page");
        fs::write(&file, &page)?;
        let mut check = Command::new("promtool");
        check.args(["check", "metrics"]).stdin(fs::File::open(&file)?);
        run(&cluster.nodes[0], &mut check)?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let rules = root.join("../docs/alerts.yaml");
        run(&cluster.nodes[0], Command::new("promtool").args(["check", "rules"]).arg(&rules))?;
        let tests = root.join("tests/status/alerts.test.yaml");
        run(&cluster.nodes[0], Command::new("promtool").args(["test", "rules"]).arg(&tests))
    });
}

fn run(node: &Node, command: &mut Command) -> Result<()> {
    let said = node.netns().checked(command)?;
    eprintln!("{said}");
    Ok(())
}
