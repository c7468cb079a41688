//! flannelctl looks at a node: status, peers, difference, the way of a packet, events; with the daemon up, stopped and
//! down.

use anyhow::{Context, Result, ensure};
use integration::{Cluster, Daemon, Feature, Flanneld, Lab, LeaseDirectory, Node, lab, wait};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const CONFIG: &str = r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}"#;
const OTHER_NETWORK: &str = r#"{"Network":"10.43.0.0/16","Backend":{"Type":"vxlan"}}"#;

struct Site {
    cluster: Cluster,
    leases: LeaseDirectory,
    daemons: Vec<Daemon>,
    store: Vec<String>,
}

impl Site {
    fn new(lab: &Lab) -> Result<Self> {
        lab.require(&[Feature::Vxlan, Feature::Iptables])?;
        let cluster = lab.cluster(2)?;
        let (leases, daemons) = cluster.start_on_directory(lab, CONFIG)?;
        let store = vec![format!("--lease-dir={}", leases.path().display())];
        let site = Self { cluster, leases, daemons, store };
        wait::until("the nodes know each other", wait::LONG, || {
            site.ctl(&["peer", "list"])?.expect(0, &["in-place"])?;
            site.ctl(&["diff"])?.expect(0, &["the kernel is in sync"]).map(drop)
        })?;
        Ok(site)
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    /// Runs flannelctl on the first node without naming the store, as somebody would who has just logged in.
    fn ctl(&self, arguments: &[&str]) -> Result<integration::ctl::Answer> {
        self.node().flannelctl(&[], arguments)
    }

    fn ctl_with_store(&self, arguments: &[&str]) -> Result<integration::ctl::Answer> {
        self.node().flannelctl(&self.store, arguments)
    }
}

#[test]
fn healthy_node() {
    lab(|lab| {
        let site = Site::new(lab)?;
        let (own, peer) = (site.node().subnet(true)?, site.cluster.nodes[1].subnet(true)?);
        site.ctl(&["status", "--wait"])?.expect(
            0,
            &[
                &format!("{own}, expires in 23h"),
                "eth0 (the default route), 192.168.50.1",
                "2 of 255 in 10.42.0.0/16",
            ],
        )?;
        let status = site.ctl(&["status", "-o", "json"])?.expect(0, &[])?.json()?;
        ensure!(status["ready"] == true && status["conditions"] == serde_json::json!([]), "{status}");
        let wide = site.ctl(&["peer", "list", "-o", "wide"])?.expect(0, &["flannel.1 onlink"])?;
        ensure!(wide.stdout.contains(&peer.to_string()), "{wide:?}");
        let names = site.ctl(&["peer", "list", "-o", "name"])?.expect(0, &[])?.stdout;
        ensure!(names.trim() == peer.to_string().replace('/', "-"), "{names}");
        let table = site.ctl(&["status"])?.stdout + &site.ctl(&["peer", "list"])?.stdout;
        ensure!(table.lines().all(|line| line.chars().count() <= 80), "wider than 80:\n{table}");
        ensure!(!table.contains('\x1b'), "colours although nobody looks");

        let pod = peer.hosts().nth(7).context("no pod")?.to_string();
        let path = site.ctl(&["route", "get", &pod])?.expect(
            0,
            &[
                &format!("{peer} of node 192.168.50.2"),
                &format!("{peer} via {} dev flannel.1 onlink (MTU 1450)", peer.network()),
                "is at 192.168.50.2",
                "192.168.50.0/24 dev eth0 (MTU 1500)",
            ],
        )?;
        ensure!(!path.stdout.contains("problem"), "{path:?}");
        let json = site.ctl(&["route", "get", &pod, "-o", "json"])?.json()?;
        ensure!(
            json["owner"]["source"] == "flanneld" && json["path"]["problems"] == serde_json::json!([]),
            "{json}"
        );
        site.ctl(&["route", "get", "192.168.50.1"])?.expect(0, &["eth0 of this host has the address"])?;
        site.ctl(&["route", "get", "10.42.3"])?.expect(2, &["invalid value"])?;
        site.ctl(&["events"])?.expect(0, &["start", "round"])?;
        // The store is that of the daemon, as long as none is named.
        site.ctl(&["lease", "list"])?.expect(0, &[&format!("{own} *"), &peer.to_string()])?;
        site.ctl(&["route", "get", "10.42.0.9"])?.expect(0, &["none: no lease contains"])?;
        site.ctl(&["--lease-dir=/nowhere", "lease", "list"])?
            .expect(4, &["the lease directory /nowhere does not exist"])?;
        Ok(())
    });
}

/// Rules of the administrator that take packets past flannel's routes.
#[test]
fn path_of_a_packet_follows_policy_rules() {
    lab(|lab| {
        let site = Site::new(lab)?;
        let (netns, peer) = (site.node().netns(), site.cluster.nodes[1].subnet(true)?);
        let pod = peer.hosts().nth(7).context("no pod")?.to_string();
        let route = |arguments: &[&str], code, parts: &[&str]| {
            site.ctl(&[&["route", "get", &pod], arguments].concat())?.expect(code, parts)
        };
        netns.ip("route add default via 192.168.50.254 table 77")?;
        route(&[], 0, &["dev flannel.1 onlink"])?;
        // For everybody, and then for one pod.
        netns.ip(&format!("rule add to {peer} lookup 77"))?;
        let diverted = format!("instead of flannel's route {peer} via");
        let shown = route(&[], 3, &["via 192.168.50.254 dev eth0 table 77", "take table 77", "ip rule"])?;
        ensure!(
            shown.stdout.split_whitespace().collect::<Vec<_>>().join(" ").contains(&diverted),
            "{shown:?}"
        );
        netns.ip(&format!("rule del to {peer} lookup 77"))?;
        let (one, other) = (site.node().add_pod("a")?, site.node().add_pod("b")?);
        let (one, other) = (one.address(true)?.to_string(), other.address(true)?.to_string());
        netns.ip(&format!("rule add from {one} lookup 77"))?;
        route(&["--from", &one], 3, &["table 77"])?;
        route(&["--from", &other], 0, &["dev flannel.1 onlink"])?;
        route(&[], 0, &["dev flannel.1 onlink"])?;
        route(&["--from", "fd50::7"], 2, &["different families"])?;
        netns.ip(&format!("rule del from {one} lookup 77"))?;
        // The packet around it has rules of its own.
        netns.ip("rule add from 192.168.50.1 to 192.168.50.2 lookup 77")?;
        route(&[], 0, &["0.0.0.0/0 via 192.168.50.254 dev eth0 table 77"])?;
        netns.ip("rule del from 192.168.50.1 to 192.168.50.2 lookup 77")?;
        netns.ip(&format!("rule add to {peer} prohibit"))?;
        route(&[], 3, &[&format!("the kernel has no route to {pod}: EACCES: Permission denied")])?;
        Ok(())
    });
}

/// Nobody has rights here. What he may not see is not taken for a fault.
#[test]
fn missing_permissions_are_not_findings() {
    lab(|lab| {
        let site = Site::new(lab)?;
        let pod = site.node().add_pod("a")?;
        site.node().netns().run(&format!("chmod -R a+rwX {}", site.leases.path().display()))?;
        // Where the programs are, he may not look.
        let copy = lab.directory("nobody")?.join("flannelctl");
        fs::copy(program(), &copy)?;
        let run = |arguments: &[&str]| -> Result<(Option<i32>, String, String)> {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(&copy);
            let output = site.node().netns().output(command.args(&site.store).args(arguments))?;
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
        };
        let (code, shown, _) = run(&["doctor", "-o", "json"])?;
        let report: Value = serde_json::from_str(&shown).with_context(|| format!("no JSON: {shown:?}"))?;
        let ids = |part: &str| -> Vec<&str> {
            let all = report[part].as_array().into_iter().flatten();
            all.filter_map(|one| one["id"].as_str()).collect()
        };
        // The CNI config is not part of this site.
        ensure!(code == Some(3) && ids("findings") == ["cni-config-missing"], "{report:#}");
        for id in ["kernel-feature", "state-unwritable", "daemon-duplicate", "address-leaked"] {
            ensure!(ids("skipped").contains(&id), "{id} is not among {:?}", ids("skipped"));
        }
        for (arguments, expected) in [
            (&["status"][..], "as root, or as a member of the group"),
            (&["diff"], "as root, or as a member of the group"),
            (&["ipam", "check"], "no permission to read"),
        ] {
            let (code, _, said) = run(arguments)?;
            ensure!(code == Some(1) && said.contains(expected), "{arguments:?}: {code:?} {said}");
        }
        let (code, shown, said) = run(&["route", "get", &pod.address(true)?.to_string()])?;
        ensure!(code == Some(0) && shown.contains("dev cni0"), "{code:?} {shown} {said}");
        Ok(())
    });
}

/// A config that cannot be taken while pods run is a condition: findings, not an error.
#[test]
fn problems_are_findings() {
    lab(|lab| {
        let site = Site::new(lab)?;
        site.leases.set_config(OTHER_NETWORK)?;
        wait::until("the refused config is shown", wait::LONG, || {
            let answer = site.ctl(&["status"])?;
            answer.expect(3, &["config: the network config in the store cannot be taken"]).map(drop)
        })?;
        // It is ready all the same, for which --wait waits.
        site.ctl(&["status", "--wait"])?.expect(3, &["yes"])?;
        site.ctl(&["events"])?.expect(0, &["condition"])?;

        let record =
            r#"{"PublicIP":"192.168.50.9","PublicIPv6":null,"BackendType":"vxlan","BackendData":{}}"#;
        fs::write(site.leases.path().join("subnets/10.42.200.0-24"), record)?;
        wait::until("the faulty peer is shown", wait::LONG, || {
            site.ctl(&["peer", "list"])?.expect(0, &["10.42.200.0/24", "faulty", "VtepMAC"]).map(drop)
        })
    });
}

/// Nobody repairs while no daemon runs, and yet the way of a packet can be told.
#[test]
fn without_a_daemon() {
    lab(|lab| {
        let mut site = Site::new(lab)?;
        let (own, peer) = (site.node().subnet(true)?, site.cluster.nodes[1].subnet(true)?);
        let pod = peer.hosts().nth(7).context("no pod")?.to_string();
        site.daemons[0].stop()?;
        let gone = "flanneld is not running: no socket /run/flannel/flanneld.sock";
        let status = site.ctl_with_store(&["status"])?.expect(4, &[gone, "systemctl start flanneld"])?;
        ensure!(status.stdout.contains(&format!("{own} of node 192.168.50.1, expires in")), "{status:?}");
        let json = site.ctl_with_store(&["status", "-o", "json"])?.expect(4, &[])?.json()?;
        ensure!(json["error"]["kind"] == "unreachable" && json["subnets"][0] == own.to_string(), "{json}");
        let listed = site.ctl_with_store(&["peer", "list"])?.expect(4, &[gone, "unknown", "192.168.50.2"])?;
        ensure!(!listed.stdout.contains(&own.to_string()), "{listed:?}");
        site.ctl(&["diff"])?.expect(4, &[gone])?;
        site.ctl(&["diff", "-o", "json"])?.expect(4, &["\"kind\": \"unreachable\""])?;
        site.ctl(&["events"])?.expect(4, &[gone])?;
        // Nor can anybody tell whose an address is that nobody has, if no store is known.
        let unknown =
            site.ctl(&["route", "get", "10.42.0.9"])?.expect(0, &["the owner of the address is unknown"])?;
        ensure!(!unknown.stdout.contains("owner"), "{unknown:?}");
        site.ctl(&["status", "--wait", "--timeout", "1"])?.expect(4, &["not ready after 1 s", gone])?;

        let route = |code, parts: &[&str]| {
            site.ctl_with_store(&["route", "get", &pod, "-o", "wide"])?.expect(code, parts)
        };
        route(0, &[&format!("{peer} of node 192.168.50.2"), "is at 192.168.50.2"])?;
        let netns = site.node().netns();
        let neighbour = netns.ip(&format!("neigh show {} dev flannel.1", peer.network()))?;
        let mac =
            neighbour.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).context("no MAC")?;
        netns.run(&format!("bridge fdb replace {mac} dev flannel.1 dst 192.168.50.77"))?;
        route(3, &["packets go to 192.168.50.77, but the address belongs to the node 192.168.50.2"])?;
        netns.run(&format!("bridge fdb del {mac} dev flannel.1 dst 192.168.50.77"))?;
        route(3, &[&format!("flannel.1 has no FDB entry for {mac}")])?;
        netns.ip(&format!("neigh del {} dev flannel.1", peer.network()))?;
        route(3, &["flannel.1 has no neighbour entry for"])?;
        netns.ip("link set flannel.1 down")?;
        route(3, &["problem"])?;

        site.daemons[0].start()?;
        site.ctl(&["status", "--wait"])?.expect(0, &["yes"])?;
        site.ctl(&["route", "get", &pod])?.expect(0, &["is at 192.168.50.2"]).map(drop)
    });
}

#[test]
fn hanging_daemon_differs_from_a_stopped_one() {
    lab(|lab| {
        let mut site = Site::new(lab)?;
        site.daemons[0].signal(Signal::SIGSTOP)?;
        let stopped = "flanneld does not respond on /run/flannel/flanneld.sock: it is stopped, or hangs";
        site.ctl_with_store(&["status"])?.expect(4, &[stopped, "flanneld is running nevertheless"])?;
        site.daemons[0].signal(Signal::SIGCONT)?;
        site.daemons[0].kill()?;
        site.ctl_with_store(&["status"])?.expect(4, &["flanneld is not running: nobody listens on"])?;
        Ok(())
    });
}

/// `flannelctl events -w` while it runs, and what it has written.
struct Events {
    child: Child,
    file: PathBuf,
}

impl Events {
    fn start(lab: &Lab, site: &Site) -> Result<Self> {
        let file = lab.directory("events")?.join("out");
        let mut command = Command::new(program());
        command.args(&site.store).args(["events", "-w", "-o", "json"]).stdin(Stdio::null());
        command.stdout(fs::File::create(&file)?).stderr(fs::File::create(file.with_extension("err"))?);
        Ok(Self { child: site.node().netns().spawn(&mut command)?, file })
    }

    fn wait(&self, kind: &str, event: &str, about: &str) -> Result<()> {
        wait::until(format!("{kind} {event} {about} is told"), wait::LONG, || {
            let text = fs::read_to_string(&self.file)?;
            let told = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let mut told = told.filter(|told| told["kind"] == kind && told["event"] == event);
            ensure!(
                told.any(|told| told["about"].as_str().is_some_and(|text| text.contains(about))),
                "{text}"
            );
            Ok(())
        })
    }
}

/// Beside this test program, as the harness finds it.
fn program() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors().nth(2).unwrap_or(Path::new("/")).join("flannelctl")
}

#[test]
fn events_are_shown_as_they_happen() {
    lab(|lab| {
        let mut site = Site::new(lab)?;
        let mut events = Events::start(lab, &site)?;
        events.wait("ready", "ready", "this node")?;
        let peer = site.cluster.nodes[1].subnet(true)?;
        let third = site.cluster.add_node(lab, "n3", 3)?;
        let mut joined = third.start(&Flanneld::on_directory(site.leases.path()))?;
        joined.wait_ready()?;
        events.wait("lease", "added", &third.subnet(true)?.to_string())?;
        site.node().netns().ip(&format!("route del {peer}"))?;
        events.wait("round", "done", "hint")?;
        site.leases.set_config(OTHER_NETWORK)?;
        events.wait("config", "changed", "config")?;
        events.wait("condition", "began", "config")?;
        site.leases.set_config(CONFIG)?;
        events.wait("condition", "ended", "config")?;
        site.daemons[0].stop()?;
        events.wait("daemon", "unreachable", "flanneld")?;
        site.daemons[0].start()?;
        events.wait("daemon", "reachable", "flanneld")?;
        let key = third.subnet(true)?.to_string().replace('/', "-");
        joined.kill()?;
        fs::remove_file(site.leases.path().join("subnets").join(&key))?;
        events.wait("lease", "deleted", &third.subnet(true)?.to_string())?;
        ensure!(events.child.try_wait()?.is_none(), "it has ended");
        events.child.kill()?;
        events.child.wait()?;
        Ok(())
    });
}
