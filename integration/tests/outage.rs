//! etcd goes away in every way it can, and comes back: pods talk on, pods start, and when it is back
//! everything is as if nothing had been.
//!
//! ```text
//!   n1 ──┬── lan 192.168.50.0/24 ──┬── etcd0 (etcd1, etcd2)
//!   n2 ──┤
//!   n3 ──┘
//! ```

use anyhow::{Context, Result, ensure};
use integration::etcd::{Member, PREFIX};
use integration::kernel_state::routes;
use integration::traffic::Datagrams;
use integration::{Cluster, Daemon, Etcd, EtcdOptions, Feature, Flanneld, Lab, Node, Pod, lab, wait};
use ipnet::IpNet;
use std::process::Command;
use std::time::{Duration, Instant};

/// Peers that only the tests know are above.
const CONFIG: &str = r#"{"Network":"10.42.0.0/16","SubnetMax":"10.42.199.0","Backend":{"Type":"vxlan"}}"#;
const INTERVAL: Duration = Duration::from_millis(10);
/// Seconds, as "found again within seconds" promises, and room for a busy machine.
const SECONDS: Duration = Duration::from_secs(15);
const AWAY: &str = "store unreachable, retrying";

/// Nodes with daemons on etcd, a pod on each, and datagrams between the pods of the first two.
struct Fixture {
    cluster: Cluster,
    etcd: Etcd,
    daemons: Vec<Daemon>,
    pods: Vec<Pod>,
    flow: Datagrams,
    subnets: Vec<IpNet>,
}

impl Fixture {
    fn start(
        lab: &Lab,
        nodes: usize,
        options: &EtcdOptions,
        change: fn(Flanneld) -> Flanneld,
    ) -> Result<Self> {
        lab.require(&[Feature::Vxlan, Feature::Etcd])?;
        let cluster = lab.cluster(nodes)?;
        let etcd = Etcd::start(lab, &cluster.lan, options)?;
        etcd.set_config(CONFIG)?;
        let daemons = cluster.start_all(&change(Flanneld::on_etcd(&etcd)))?;
        let pods = cluster.nodes.iter().map(|node| node.add_pod("pod")).collect::<Result<Vec<_>>>()?;
        let (from, to) = (&pods[0], &pods[1]);
        from.netns.wait_ping(to.address(true)?)?;
        let flow = Datagrams::start(&from.netns, &to.netns, to.address(true)?, INTERVAL)?;
        let subnets = cluster.nodes.iter().map(|node| node.subnet(true)).collect::<Result<_>>()?;
        Ok(Self { cluster, etcd, daemons, pods, flow, subnets })
    }

    fn node(&self, number: usize) -> &Node {
        &self.cluster.nodes[number]
    }

    /// How far the logs are, for [`Fixture::all_say`].
    fn logged(&self) -> Result<Vec<usize>> {
        self.daemons.iter().map(logged).collect()
    }

    /// Waits until every daemon has logged this since.
    fn all_say(&self, since: &[usize], text: &str) -> Result<()> {
        self.daemons.iter().zip(since).try_for_each(|(daemon, since)| says(daemon, *since, text))
    }

    /// Every node still has the subnet that it got first, in its file and in etcd.
    fn wait_same_subnets(&self) -> Result<()> {
        let mut expected: Vec<String> = self.subnets.iter().map(key).collect();
        expected.sort();
        wait::until("every node has its lease in etcd again", wait::LONG, || {
            let found: Vec<String> = self.etcd.leases()?.into_iter().map(|(key, _)| key).collect();
            ensure!(found == expected, "etcd has {found:?}, expected {expected:?}");
            Ok(())
        })?;
        for (node, subnet) in self.cluster.nodes.iter().zip(&self.subnets) {
            ensure!(node.subnet(true)? == *subnet, "{} has moved to {}", node.name(), node.subnet(true)?);
        }
        Ok(())
    }

    fn all_ready(&self) -> Result<()> {
        for daemon in &self.daemons {
            let answer = daemon.get("/readyz")?;
            ensure!(answer.status == 200, "/readyz says {} {}", answer.status, answer.body);
        }
        Ok(())
    }

    /// All nodes have a route to a peer.
    fn wait_route(&self, subnet: &str, there: bool) -> Result<()> {
        self.cluster.nodes.iter().try_for_each(|node| wait_route(node, subnet, there))
    }

    /// Ends the traffic; nothing may have been lost.
    fn finish(self) -> Result<()> {
        self.flow.wait_answered(3)?;
        let report = self.flow.stop()?;
        eprintln!("{} datagrams, {} lost", report.sent, report.lost.len());
        report.expect_none_lost()
    }
}

fn logged(daemon: &Daemon) -> Result<usize> {
    Ok(daemon.log()?.len())
}

fn says(daemon: &Daemon, since: usize, text: &str) -> Result<()> {
    wait::until(format!("the log says {text:?}"), wait::LONG, || {
        let log = daemon.log()?;
        let news = log.get(since..).unwrap_or_default();
        ensure!(news.contains(text), "it says:\n{news}");
        Ok(())
    })
}

/// The reason is what etcd did not do in time, not the text of an expired time limit.
fn says_who_is_silent(daemon: &Daemon, since: usize) -> Result<()> {
    let log = daemon.log()?;
    let news = log.get(since..).unwrap_or_default();
    let reason = news.lines().find(|line| line.contains(AWAY)).unwrap_or_default();
    let is_named =
        reason.contains("etcd at http://") && reason.contains("did not a") && reason.contains(" in ");
    ensure!(is_named && !news.contains("deadline has elapsed"), "{news}");
    Ok(())
}

fn wait_route(node: &Node, subnet: &str, there: bool) -> Result<()> {
    wait::until(format!("{} has a route to {subnet}: {there}", node.name()), wait::LONG, || {
        let found = routes(node.netns(), true, "10.42.")?;
        ensure!(found.iter().any(|route| route.starts_with(subnet)) == there, "{found:?}");
        Ok(())
    })
}

/// The key of a subnet: `10.42.1.0-24`.
fn key(subnet: &IpNet) -> String {
    subnet.to_string().replace('/', "-")
}

/// The record of a node that is not there.
fn peer(host: u8) -> String {
    format!(
        r#"{{"PublicIP":"192.168.50.{host}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"0a:00:00:00:00:{host:02x}"}}}}"#
    )
}

fn put_peer(etcd: &Etcd, third: u8) -> Result<String> {
    etcd.put_with_lease(&format!("{PREFIX}/subnets/10.42.{third}.0-24"), &peer(third), 3600)?;
    Ok(format!("10.42.{third}.0/24"))
}

/// Writes by asking one member: etcdctl gives those that are away seconds.
fn put_through(member: &Member, third: u8) -> Result<()> {
    let mut command = Command::new("etcdctl");
    command.arg(format!("--endpoints=http://{}", member.address())).args([
        "--command-timeout=2s",
        "put",
        &format!("{PREFIX}/subnets/10.42.{third}.0-24"),
        &peer(third),
    ]);
    member.netns.checked(&mut command).map(drop)
}

/// While etcd is down, pods start, routes are repaired, a daemon restarts, a new node waits, and a peer changes its
/// address.
#[test]
fn etcd_crashes_and_restarts() {
    lab(|lab| {
        let mut f = Fixture::start(lab, 3, &EtcdOptions::default(), |flanneld| flanneld)?;
        let since = f.logged()?;
        f.etcd.kill()?;
        f.all_say(&since, AWAY)?;
        f.all_ready()?;

        let pod = f.node(2).add_pod("later")?;
        pod.netns.wait_ping(f.pods[0].address(true)?)?;
        f.node(0).netns().ip(&format!("route del {}", f.subnets[2]))?;
        wait_route(f.node(0), &f.subnets[2].to_string(), true)?;
        pod.netns.wait_ping(f.pods[0].address(true)?)?;

        // With its state directory a daemon can start.
        let since = logged(&f.daemons[0])?;
        f.daemons[0].restart()?;
        says(&f.daemons[0], since, "using the lease of the last run")?;
        f.node(0).flannelctl(&[], &["status"])?.expect(3, &["from the last run", ": unreachable"])?;
        f.node(0).add_pod("after-restart")?.netns.wait_ping(f.pods[1].address(true)?)?;
        f.pods[0].netns.wait_ping(f.pods[2].address(true)?)?;

        // Without one it waits, and says for what.
        let stranger = f.cluster.add_node(lab, "n4", 4)?;
        let mut fourth = stranger.start(&Flanneld::on_etcd(&f.etcd))?;
        says(&fourth, 0, AWAY)?;
        says(&fourth, 0, "192.168.50.240:2379")?;
        let answer = fourth.get("/readyz")?;
        ensure!(answer.status == 503, "/readyz says {} {}", answer.status, answer.body);
        ensure!(stranger.subnet_env_text().is_err(), "a node without a lease has a subnet.env");

        // The third node gets another address; the others cannot know yet.
        f.node(2).netns().ip_batch(
            "addr del 192.168.50.3/24 dev eth0\naddr add 192.168.50.33/24 dev eth0\n\
             route add default via 192.168.50.254 dev eth0\n",
        )?;

        let since = f.logged()?;
        f.etcd.restart()?;
        f.all_say(&since, "store reachable again")?;
        fourth.wait_ready()?;
        f.pods[0].netns.wait_ping(f.pods[2].address(true)?)?;
        stranger.add_pod("pod")?.netns.wait_ping(f.pods[0].address(true)?)?;
        let leases = f.etcd.leases()?;
        let third = leases.iter().find(|(found, _)| *found == key(&f.subnets[2]));
        let (_, value) = third.context("the third node has lost its lease")?;
        ensure!(value.contains("192.168.50.33"), "the new address is not published: {value}");
        f.subnets.push(stranger.subnet(true)?);
        f.wait_same_subnets()?;
        f.all_ready()?;
        f.finish()
    });
}

/// Each node is cut off from etcd in another way, long enough to be noticed. Meanwhile leases come and go and all
/// history is forgotten.
#[test]
fn no_change_is_lost_over_a_network_cut() {
    lab(|lab| {
        let f = Fixture::start(lab, 3, &EtcdOptions::default(), |flanneld| flanneld)?;
        let leaves = put_peer(&f.etcd, 201)?;
        f.wait_route(&leaves, true)?;
        let since = f.logged()?;
        let etcd = &f.etcd.members[0].nic;
        // A black hole; half-open: requests are lost; half-open: answers are lost.
        f.cluster.nics[0].drop_towards(etcd)?;
        etcd.drop_towards(&f.cluster.nics[0])?;
        f.cluster.nics[1].drop_towards(etcd)?;
        etcd.drop_towards(&f.cluster.nics[2])?;
        let cut = Instant::now();
        let comes = put_peer(&f.etcd, 202)?;
        f.etcd.delete(&format!("{PREFIX}/subnets/10.42.201.0-24"))?;
        f.etcd.compact()?;
        f.all_say(&since, AWAY)?;
        eprintln!("noticed after {:?}", cut.elapsed());
        f.daemons.iter().zip(&since).try_for_each(|(daemon, since)| says_who_is_silent(daemon, *since))?;
        f.all_ready()?;
        f.node(1).add_pod("later")?.netns.wait_ping(f.pods[0].address(true)?)?;

        lab.heal()?;
        let healed = Instant::now();
        f.wait_route(&comes, true)?;
        eprintln!("everything known {:?} after the network had healed", healed.elapsed());
        ensure!(healed.elapsed() < SECONDS, "not found again for {:?}", healed.elapsed());
        f.wait_route(&leaves, false)?;
        f.etcd.delete(&format!("{PREFIX}/subnets/10.42.202.0-24"))?;
        f.wait_same_subnets()?;
        f.finish()
    });
}

/// Short breaks, which nobody need notice, and history that is forgotten under running watches.
#[test]
fn no_change_is_lost_over_short_interruptions() {
    lab(|lab| {
        let f = Fixture::start(lab, 2, &EtcdOptions::default(), |flanneld| flanneld)?;
        let etcd = &f.etcd.members[0].nic;
        for (third, forget) in [(203, false), (204, true)] {
            etcd.unplug()?;
            let subnet = put_peer(&f.etcd, third)?;
            if forget {
                f.etcd.compact()?;
            }
            etcd.plug()?;
            f.wait_route(&subnet, true)?;
        }
        for (third, forget) in [(205, false), (206, true)] {
            f.cluster.nics[0].drop_towards(etcd)?;
            let subnet = put_peer(&f.etcd, third)?;
            if forget {
                f.etcd.compact()?;
            }
            let healed = Instant::now();
            lab.heal()?;
            f.wait_route(&subnet, true)?;
            eprintln!("known {:?} after the network had healed", healed.elapsed());
        }
        // A restart, and one with changes and compaction before the daemons can be back.
        f.etcd.kill()?;
        f.etcd.restart()?;
        let subnet = put_peer(&f.etcd, 207)?;
        f.etcd.compact()?;
        f.wait_route(&subnet, true)?;
        let subnet = put_peer(&f.etcd, 208)?;
        f.wait_route(&subnet, true)?;
        f.etcd.delete(&format!("{PREFIX}/subnets/10.42.208.0-24"))?;
        f.wait_route(&subnet, false)?;
        f.finish()
    });
}

/// All data is lost, by an order and with the disk.
#[test]
fn wiped_store_is_repopulated() {
    lab(|lab| {
        let mut f = Fixture::start(lab, 3, &EtcdOptions::default(), |flanneld| flanneld)?;
        // Only the leases.
        f.etcd.ctl(&["del", "--prefix", &format!("{PREFIX}/subnets/")])?;
        f.wait_same_subnets()?;
        // Config and leases.
        f.etcd.ctl(&["del", "--prefix", PREFIX])?;
        f.flow.wait_answered(20)?;
        f.all_ready()?;
        f.etcd.set_config(CONFIG)?;
        f.wait_same_subnets()?;
        f.pods[2].netns.wait_ping(f.pods[0].address(true)?)?;
        // The disk. One node's daemon is restarted before there is a config again.
        f.etcd.wipe()?;
        f.flow.wait_answered(20)?;
        f.node(1).add_pod("later")?.netns.wait_ping(f.pods[0].address(true)?)?;
        f.daemons[2].stop()?;
        f.daemons[2].start()?;
        f.etcd.set_config(CONFIG)?;
        f.daemons[2].wait_ready()?;
        f.wait_same_subnets()?;
        f.pods[2].netns.wait_ping(f.pods[0].address(true)?)?;
        f.wait_route(&f.subnets[2].to_string(), true).or_else(|error| {
            // The node itself has its subnet on a bridge.
            ensure!(format!("{error:#}").starts_with("n3"), "{error:#}");
            Ok(())
        })?;
        f.all_ready()?;
        f.finish()
    });
}

/// etcd is put back to what it was some time ago: its revisions begin again below those that all have seen, and
/// records are what they were.
#[test]
fn store_is_restored_from_an_older_snapshot() {
    lab(|lab| {
        let f = Fixture::start(lab, 3, &EtcdOptions::default(), |flanneld| flanneld)?;
        let early = put_peer(&f.etcd, 210)?;
        let snapshot = lab.directory("snapshot")?.join("etcd.db");
        f.etcd.save(&snapshot)?;
        // Since then: a peer goes, another comes, and much happens.
        f.etcd.delete(&format!("{PREFIX}/subnets/10.42.210.0-24"))?;
        let late = put_peer(&f.etcd, 211)?;
        for _ in 0..20 {
            f.etcd.put(&format!("{PREFIX}/other"), "x")?;
        }
        f.wait_route(&early, false)?;
        f.wait_route(&late, true)?;
        let revision = f.etcd.revision()?;
        f.etcd.restore(&snapshot)?;
        ensure!(f.etcd.revision()? < revision, "the revision did not go back");

        f.wait_route(&early, true)?;
        // A watch from the revision before would be silent until all of them have passed again.
        let started = Instant::now();
        let new = put_peer(&f.etcd, 212)?;
        f.wait_route(&new, true)?;
        ensure!(f.etcd.revision()? < revision, "too much has happened to show anything");
        ensure!(started.elapsed() < SECONDS, "seen after {:?}", started.elapsed());
        // Whoever came after the snapshot is missing from the store, and has some time to come back.
        f.wait_route(&late, true)?;
        for gone in [210, 212] {
            f.etcd.delete(&format!("{PREFIX}/subnets/10.42.{gone}.0-24"))?;
        }
        f.wait_same_subnets()?;
        f.pods[2].netns.wait_ping(f.pods[0].address(true)?)?;
        f.all_ready()?;
        f.finish()
    });
}

/// One of three members is lost, whichever it is, and an endpoint is named where nothing is.
#[test]
fn etcd_members_fail_and_return() {
    lab(|lab| {
        let options = EtcdOptions { members: 3, ..EtcdOptions::default() };
        let f = Fixture::start(lab, 2, &options, |flanneld| {
            // The last of a repeated flag wins.
            flanneld.argument(
                "--etcd-endpoints=http://192.168.50.199:2379,http://192.168.50.240:2379,\
                 http://192.168.50.241:2379,http://192.168.50.242:2379",
            )
        })?;
        for (third, member) in (210..).zip(&f.etcd.members) {
            let killed = Instant::now();
            member.kill()?;
            let other = &f.etcd.members[usize::from(third - 209) % 3];
            wait::until("two members take writes", wait::LONG, || put_through(other, third))?;
            let written = Instant::now();
            f.wait_route(&format!("10.42.{third}.0/24"), true)?;
            eprintln!("written after {:?}, seen {:?} later", written - killed, written.elapsed());
            member.start()?;
            let line = format!("etcdctl --endpoints=http://{} get health", member.address());
            wait::until("it has caught up", wait::LONG, || member.netns.run(&line).map(drop))?;
            eprintln!("all again after {:?}", killed.elapsed());
        }
        // The quorum is lost and found.
        let since = f.logged()?;
        f.etcd.members[0].kill()?;
        f.etcd.members[1].kill()?;
        f.all_say(&since, AWAY)?;
        f.all_ready()?;
        f.node(1).add_pod("later")?.netns.wait_ping(f.pods[0].address(true)?)?;
        f.etcd.members[0].start()?;
        wait::until("two members take writes", wait::LONG, || put_through(&f.etcd.members[2], 220))?;
        f.wait_route("10.42.220.0/24", true)?;
        f.finish()
    });
}

/// A member that lost the others but not the nodes knows nothing new: whoever watches there must go elsewhere.
#[test]
fn partitioned_etcd_member_is_not_used() {
    lab(|lab| {
        let options = EtcdOptions { members: 3, ..EtcdOptions::default() };
        let f = Fixture::start(lab, 2, &options, |flanneld| flanneld)?;
        let members = &f.etcd.members;
        for (number, third) in (0..3).zip(240_u8..) {
            let (cut, others) = (&members[number], [&members[(number + 1) % 3], &members[(number + 2) % 3]]);
            for other in others {
                cut.nic.drop_towards(&other.nic)?;
                other.nic.drop_towards(&cut.nic)?;
            }
            wait::until("two members take writes", wait::LONG, || put_through(others[0], third))?;
            let written = Instant::now();
            f.wait_route(&format!("10.42.{third}.0/24"), true)?;
            eprintln!("seen {:?} after it was written", written.elapsed());
            lab.heal()?;
            f.etcd.wait_healthy()?;
        }
        f.all_ready()?;
        f.finish()
    });
}

/// There is no config, then a broken one, then a right one; then come keys and values that nobody can read.
#[test]
#[expect(clippy::too_many_lines, reason = "one scenario")]
fn malformed_records_are_reported_and_skipped() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Etcd])?;
        let cluster = lab.cluster(2)?;
        let etcd = cluster.etcd(lab)?;
        let mut daemons = cluster
            .nodes
            .iter()
            .map(|node| node.start(&Flanneld::on_etcd(&etcd)))
            .collect::<Result<Vec<_>>>()?;
        says(&daemons[0], 0, &format!("write one to the etcd key {PREFIX}/config"))?;
        ensure!(daemons[0].get("/readyz")?.status == 503, "ready without a config");
        etcd.set_config(r#"{"Network":"10.42.0.0/16","SubnetLen":"24","Backend":{"Type":"vxlan"}}"#)?;
        says(&daemons[0], 0, "SubnetLen")?;
        // Bad records are there before the first lease.
        let long = format!(r#"{{"PublicIP":"{}"}}"#, "9".repeat(100_000));
        let subnets = format!("{PREFIX}/subnets");
        let good = peer(230);
        let records: [(&str, &str); 9] = [
            ("0.0.0.0-0", &good),
            ("10.42.231.0-24", "{"),
            ("10.42.232.0-24", r#"{"PublicIP":"192.168.50.x","PublicIPv6":null}"#),
            ("10.42.233.0-24", &long),
            ("10.42.234.0-33", &good),
            ("nonsense", &good),
            ("10.42.235.7-24", &good),
            (
                "10.42.236.0-24",
                r#"{"PublicIP":"192.168.50.236","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"none"}}"#,
            ),
            ("10.42.230.0-24", &good),
        ];
        for (key, value) in records {
            etcd.put(&format!("{subnets}/{key}"), value)?;
        }
        etcd.set_config(CONFIG)?;
        daemons.iter_mut().try_for_each(Daemon::wait_ready)?;
        ensure!(!daemons[0].log()?.contains("about=\"config\""), "a config that was waited out counts");
        let pods = cluster.nodes.iter().map(|node| node.add_pod("pod")).collect::<Result<Vec<_>>>()?;
        let (from, to) = (&pods[0], &pods[1]);
        from.netns.wait_ping(to.address(true)?)?;
        let flow = Datagrams::start(&from.netns, &to.netns, to.address(true)?, INTERVAL)?;
        for node in &cluster.nodes {
            wait_route(node, "10.42.230.0/24", true)?;
            let found = routes(node.netns(), true, "flannel.1")?;
            ensure!(!found.iter().any(|route| route.starts_with("default")), "{found:?}");
        }
        let named = ["0.0.0.0-0", "231.0-24", "232.0-24", "233.0-24", "234.0-33", "nonsense", "236.0-24"];
        for daemon in &daemons {
            for name in named {
                says(daemon, 0, name)?;
            }
            ensure!(daemon.log()?.len() < 60_000, "the log repeats what somebody else has written");
            let metrics = daemon.get("/metrics")?.body;
            ensure!(metrics.contains("\nflannel_records_unreadable 6\n"), "{metrics}");
        }
        cluster.nodes[0].flannelctl(&[], &["status"])?.expect(3, &["10.42.231.0-24", "10.42.236.0"])?;
        // The same while everybody watches. What was readable and is not any more is named as well.
        for (key, value) in
            [("rubbish", "{}"), ("10.42.240.0-24", r#"{"PublicIP":7}"#), ("10.42.230.0-24", "no JSON")]
        {
            etcd.put(&format!("{subnets}/{key}"), value)?;
            daemons.iter().try_for_each(|daemon| says(daemon, 0, key))?;
        }
        for node in &cluster.nodes {
            wait_route(node, "10.42.230.0/24", false)?;
        }
        etcd.put(&format!("{subnets}/10.42.230.0-24"), &good)?;
        for node in &cluster.nodes {
            wait_route(node, "10.42.230.0/24", true)?;
        }
        // A config that cannot be read any more is named and changes nothing.
        let since = logged(&daemons[0])?;
        etcd.set_config("{")?;
        says(&daemons[0], since, "config")?;
        etcd.delete(&format!("{PREFIX}/config"))?;
        flow.wait_answered(20)?;
        for daemon in &daemons {
            ensure!(daemon.get("/readyz")?.status == 200, "not ready any more");
        }
        flow.stop()?.expect_none_lost()
    });
}

/// The pod network contains the underlay, so that a lease can have its subnet. Its route would replace the one to the neighbours of the
/// node, and etcd would be unreachable.
#[test]
fn lease_with_the_subnet_of_the_underlay_gets_no_route() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Etcd])?;
        let cluster = lab.cluster(2)?;
        let etcd = cluster.etcd(lab)?;
        etcd.set_config(
            r#"{"Network":"192.168.0.0/16","SubnetMin":"192.168.100.0","SubnetMax":"192.168.199.0","Backend":{"Type":"vxlan"}}"#,
        )?;
        let daemons = cluster.start_all(&Flanneld::on_etcd(&etcd))?;
        let subnets = format!("{PREFIX}/subnets");
        etcd.put(&format!("{subnets}/192.168.50.0-24"), &peer(230))?;
        for (node, daemon) in cluster.nodes.iter().zip(&daemons) {
            says(daemon, 0, "the subnet 192.168.50.0/24 contains the address")?;
            let found = node.netns().ip("route show 192.168.50.0/24")?;
            ensure!(found.lines().count() == 1 && found.contains("proto kernel"), "{found}");
            node.flannelctl(&[], &["status"])?.expect(3, &["192.168.50.0", "SubnetMin"])?;
        }
        // The watch continues.
        etcd.put(&format!("{subnets}/192.168.230.0-24"), &peer(231))?;
        for (node, daemon) in cluster.nodes.iter().zip(&daemons) {
            wait::until("a route to the other lease", wait::LONG, || {
                ensure!(!routes(node.netns(), true, "192.168.230.0/24")?.is_empty(), "no route");
                Ok(())
            })?;
            ensure!(!daemon.log()?.contains(AWAY), "the store was away");
        }
        daemons.into_iter().try_for_each(|mut daemon| daemon.stop().map(drop))
    });
}
