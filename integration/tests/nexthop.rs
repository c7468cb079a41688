//! A node of a large cluster, whose routes refer to nexthop objects: it moves to them and back, takes over from Go and hands over
//! to it, and is restored, without a lost packet. `--long` does this with 10,000 peers.
//!
//! What Go's daemon does is done by hand: it replaces each route by a plain one with protocol `boot`.

use anyhow::{Context, Result, ensure};
use integration::traffic::Datagrams;
use integration::{Cluster, Daemon, Feature, Flanneld, Lab, Netns, Pod, is_long, lab, wait};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(10);
/// Promised is a second; the rest is for a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(4);
/// An object of another program, and what `ip nexthop` shows of it.
const FOREIGN: &str = "id 77 via 192.168.50.254 dev eth0";

#[test]
fn vxlan() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        Site::build(lab, "vxlan")?.live()
    });
}

#[test]
fn host_gw() {
    lab(|lab| Site::build(lab, "host-gw")?.live());
}

#[test]
fn ipip() {
    lab(|lab| {
        lab.require(&[Feature::Ipip])?;
        Site::build(lab, "ipip")?.live()
    });
}

/// Two nodes with a pod each, of which the first has many other peers that exist only as records.
struct Site {
    cluster: Cluster,
    leases: PathBuf,
    /// The daemon of the first node.
    daemon: Daemon,
    _other: Daemon,
    pods: Vec<Pod>,
    /// How Go's daemon names the next hop to each peer: `10.64.0.0/24 via … dev …`.
    plain: Vec<String>,
}

impl Site {
    fn build(lab: &Lab, backend: &str) -> Result<Self> {
        let cluster = lab.cluster(2)?;
        let leases = lab.lease_directory(&format!(
            r#"{{"Network":"10.0.0.0/8","SubnetMin":"10.1.0.0","SubnetMax":"10.9.255.0","Backend":{{"Type":"{backend}"}}}}"#
        ))?;
        let flanneld = Flanneld::on_directory(&leases).arguments("--ip-masq --nexthop-objects-from=0");
        let mut daemons = cluster.start_all(&flanneld)?;
        let pods = cluster.nodes.iter().map(|node| node.add_pod("pod")).collect::<Result<Vec<_>>>()?;
        pods[0].netns.wait_ping(pods[1].address(true)?)?;
        let mut plain = Vec::new();
        for number in 0..if is_long() { 10_000_u32 } else { 40 } {
            let (high, low) = (64 + number / 256, number % 256);
            let subnet = format!("10.{high}.{low}.0");
            let tunnelled = format!("172.16.{}.{low}", number / 256);
            let (public, via) = match backend {
                "vxlan" => (tunnelled, format!("{subnet} dev flannel.1 onlink")),
                "ipip" => (tunnelled.clone(), format!("{tunnelled} dev flannel.ipip onlink")),
                _ => {
                    let address = format!("192.168.50.{}", 100 + number % 100);
                    (address.clone(), format!("{address} dev eth0"))
                }
            };
            let data = if backend == "vxlan" {
                format!(r#","BackendData":{{"VNI":1,"VtepMAC":"0a:00:00:{high:02x}:{low:02x}:00"}}"#)
            } else {
                String::new()
            };
            let record =
                format!(r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"{backend}"{data}}}"#);
            fs::write(leases.join("subnets").join(format!("{subnet}-24")), record)
                .context("could not write a record")?;
            plain.push(format!("{subnet}/24 via {via}"));
        }
        let own = cluster.nodes[1].subnet(true)?;
        let zero = own.addr();
        let via = match backend {
            "vxlan" => format!("{zero} dev flannel.1 onlink"),
            "ipip" => "192.168.50.2 dev flannel.ipip onlink".to_owned(),
            _ => "192.168.50.2 dev eth0".to_owned(),
        };
        plain.push(format!("{own} via {via}"));
        let (daemon, other) = (daemons.remove(0), daemons.remove(0));
        let site = Self { cluster, leases, daemon, _other: other, pods, plain };
        site.netns().ip(&format!("nexthop add {FOREIGN}"))?;
        site.expect_routes(Form::Plain)?;
        Ok(site)
    }

    fn netns(&self) -> &Netns {
        self.cluster.nodes[0].netns()
    }

    fn live(mut self) -> Result<()> {
        let (from, to) = (&self.pods[0].netns, &self.pods[1]);
        let flow = Datagrams::start(from, &to.netns, to.address(true)?, INTERVAL)?;
        flow.wait_answered(2)?;
        // To objects, through a restart, and back.
        self.restart_with("--nexthop-objects-from=10")?;
        self.expect_routes(Form::Objects)?;
        let before = self.netns().ip("nexthop show")?;
        self.restart_with("--nexthop-objects-from=10")?;
        self.expect_in_sync()?;
        ensure!(before == self.netns().ip("nexthop show")?, "a restart changed nexthop objects");
        self.expect_answers()?;
        self.restart_with("--nexthop-objects-from=0")?;
        self.expect_routes(Form::Plain)?;
        // Go takes over; we take over from it; and it replaces our routes while our objects are still there.
        self.daemon.stop()?;
        self.go_replaces_routes()?;
        self.restart_with("--nexthop-objects-from=10")?;
        self.expect_routes(Form::Objects)?;
        self.daemon.kill()?;
        self.go_replaces_routes()?;
        self.daemon.start()?;
        self.daemon.wait_ready()?;
        self.expect_routes(Form::Objects)?;
        flow.wait_answered(2)?;
        let report = flow.stop()?;
        eprintln!("{} datagrams, {} lost", report.sent, report.lost.len());
        report.expect_none_lost()?;

        // A flush of all objects takes the routes along.
        self.netns().ip("nexthop flush proto 241")?;
        let flushed = Instant::now();
        self.expect_routes(Form::Objects)?;
        let took = flushed.elapsed();
        eprintln!("{} flushed objects restored in {took:?}", self.plain.len());
        ensure!(took < LIMIT || is_long(), "{took:?}");
        self.expect_in_sync()?;
        self.taken_number()?;
        self.clean_up()
    }

    fn restart_with(&mut self, argument: &str) -> Result<()> {
        if self.daemon.running()? {
            self.daemon.stop()?;
        }
        self.daemon
            .set_flanneld(Flanneld::on_directory(&self.leases).arguments("--ip-masq").argument(argument));
        self.daemon.start()?;
        self.daemon.wait_ready_within(wait::LONG)
    }

    /// What Go's daemon does at its start.
    fn go_replaces_routes(&self) -> Result<()> {
        let mut lines = String::new();
        for route in &self.plain {
            writeln!(lines, "route replace {route} proto boot")?;
        }
        self.netns().ip_batch(&lines)
    }

    /// Waits until each peer has a route of ours in this form and nothing else of ours is there.
    fn expect_routes(&self, form: Form) -> Result<()> {
        wait::until("the routes have the right form", wait::LONG, || {
            let routes = self.netns().ip("route show proto 241")?;
            let found: Vec<&str> = routes.lines().collect();
            let referring = found.iter().filter(|route| route.contains(" nhid ")).count();
            let all = self.plain.len();
            let wanted = if form == Form::Objects { all } else { 0 };
            ensure!(
                (found.len(), referring) == (all, wanted),
                "{} routes, {referring} with objects",
                found.len()
            );
            let objects = self.netns().ip("nexthop show")?;
            let owned = objects.lines().filter(|object| object.contains("proto 241")).count();
            ensure!(owned == wanted, "{owned} objects of ours");
            ensure!(
                objects.lines().any(|object| object.starts_with(FOREIGN)),
                "no foreign object: {objects}"
            );
            Ok(())
        })
    }

    /// The daemon has nothing to do.
    fn expect_in_sync(&self) -> Result<()> {
        wait::until("nothing is pending", wait::LONG, || {
            let diff = self.daemon.status("/diff")?.body;
            ensure!(diff.contains(r#""ops":[]"#), "{diff:.2000}");
            Ok(())
        })
    }

    /// Tools show gateway and device of routes that refer to objects.
    fn expect_answers(&self) -> Result<()> {
        let node = &self.cluster.nodes[0];
        let store = [String::from("--lease-dir"), self.leases.display().to_string()];
        let to = self.pods[1].address(true)?.to_string();
        let via = self.plain.last().and_then(|route| route.split_whitespace().nth(2)).unwrap_or_default();
        node.flannelctl(&store, &["route", "get", &to])?.expect(0, &[via])?;
        node.flannelctl(&store, &["diff"])?.expect(0, &[])?;
        let peers = node.flannelctl(&store, &["peer", "list", "-o", "json"])?.expect(0, &[])?.json()?;
        let text = peers.to_string();
        ensure!(!text.contains("incomplete") && text.contains(" nhid "), "{text:.2000}");
        Ok(())
    }

    /// Another program has the number of the object for a new peer: the object is kept, and the peer has a plain route.
    fn taken_number(&self) -> Result<()> {
        // 10.60.7.0 as a number.
        let foreign = "id 171706112 via 192.168.50.253 dev eth0";
        self.netns().ip(&format!("nexthop add {foreign}"))?;
        let record = fs::read_to_string(self.leases.join("subnets/10.64.1.0-24")).context("no record")?;
        let record = record.replace("40:01:00", "3c:07:00").replace("172.16.0.1\"", "172.16.200.1\"");
        fs::write(self.leases.join("subnets/10.60.7.0-24"), record).context("could not write a record")?;
        wait::until("the peer has a plain route", wait::LONG, || {
            let route = self.netns().ip("route show 10.60.7.0/24")?;
            ensure!(route.contains(" via ") && !route.contains("nhid"), "{route:?}");
            Ok(())
        })?;
        let objects = self.netns().ip("nexthop show id 171706112")?;
        ensure!(objects.starts_with(foreign), "{objects}");
        self.expect_in_sync()?;
        self.netns().ip("nexthop del id 171706112").map(drop)
    }

    fn clean_up(&mut self) -> Result<()> {
        self.daemon.stop()?;
        let store = [String::from("--lease-dir"), self.leases.display().to_string()];
        let node = &self.cluster.nodes[0];
        node.flannelctl(&store, &["node", "cleanup", "--force"])?.expect(0, &["nexthop"])?;
        let (routes, objects) = (self.netns().ip("route show proto 241")?, self.netns().ip("nexthop show")?);
        ensure!(routes.is_empty(), "{routes}");
        ensure!(objects.lines().count() == 1 && objects.starts_with(FOREIGN), "{objects}");
        Ok(())
    }
}

/// Where next hops are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Objects,
}
