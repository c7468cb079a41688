//! One owner per subnet, always: real daemons and a real etcd, whose whole history is checked afterwards.

use anyhow::{Context, Result, ensure};
use integration::etcd::{History, PREFIX};
use integration::golden::{self, Peer};
use integration::kernel_state;
use integration::traffic::Datagrams;
use integration::{Cluster, Conflist, Daemon, Etcd, Feature, Flanneld, Lab, Node, lab, ownership, wait};
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const STARTERS: u16 = 48;
const DUAL: &str = r#""EnableIPv6":true,"IPv6Network":"fd00:42::/48","IPv6SubnetMin":"fd00:42:0:1::","IPv6SubnetMax":"fd00:42:0:3c::","#;
/// No rules, so that a start costs little and daemons can share a node.
const NO_RULES: &str = "--iptables-forward-rules=false";
/// An etcd lease ends up to a second late.
const SHORT: &str = "--lease-time=3s";

fn config(more: &str, backend: &str) -> String {
    format!(r#"{{"Network":"10.42.0.0/16","EnableNFTables":true,{more}"Backend":{{"Type":"{backend}"}}}}"#)
}

/// A network of this many /24 subnets, from 10.42.1.0 on.
fn subnets(count: u8) -> String {
    format!(r#""SubnetMin":"10.42.1.0","SubnetMax":"10.42.{count}.0","#)
}

fn subnet_key(key: &str) -> String {
    format!("{PREFIX}/subnets/{key}")
}

/// The key of a node that has IPv4.
fn key_of(node: &Node) -> Result<String> {
    Ok(node.subnet(true)?.to_string().replace('/', "-"))
}

/// A cluster with etcd, whose history is kept from before the config on.
fn start(lab: &Lab, nodes: usize, config: &str) -> Result<(Cluster, Etcd, History)> {
    lab.require(&[Feature::Etcd, Feature::Vxlan])?;
    let cluster = lab.cluster(nodes)?;
    let etcd = cluster.etcd(lab)?;
    let history = etcd.record()?;
    etcd.set_config(config)?;
    Ok((cluster, etcd, history))
}

/// Starts one daemon more on a node that they share.
fn starter(node: &Node, flanneld: &Flanneld, number: u16) -> Result<Daemon> {
    let flanneld = flanneld
        .clone()
        .argument(NO_RULES)
        .argument("--iface=eth0")
        .argument(format!("--public-ip=192.168.51.{number}"))
        .argument(format!("--public-ipv6=fd51::{number:x}"));
    node.start_beside(number, &flanneld)
}

/// The subnets that each of the daemons on a node tells the CNI plugin, as keys, by public address.
fn told(node: &Node, count: u16) -> Result<BTreeMap<String, String>> {
    let key = |number: u16| -> Result<String> {
        let file = node.file(&format!("/run/flannel/{number}/subnet.env"))?;
        let text = std::fs::read_to_string(file).context("no subnet.env")?;
        let nets = ["FLANNEL_SUBNET=", "FLANNEL_IPV6_SUBNET="]
            .map(|name| text.lines().find_map(|line| line.strip_prefix(name)?.parse::<ipnet::IpNet>().ok()));
        let keys = nets.into_iter().flatten().map(|net| net.trunc().to_string().replace('/', "-"));
        Ok(keys.collect::<Vec<_>>().join("&"))
    };
    (1..=count).map(|number| Ok((format!("192.168.51.{number}"), key(number)?))).collect()
}

/// All at once on a network of 60.
fn simultaneous(lab: &Lab, more: &str) -> Result<()> {
    let (cluster, etcd, history) = start(lab, 1, &config(&(subnets(60) + more), "alloc"))?;
    let (node, flanneld) = (&cluster.nodes[0], Flanneld::on_etcd(&etcd));
    let started = Instant::now();
    let mut daemons =
        (1..=STARTERS).map(|number| starter(node, &flanneld, number)).collect::<Result<Vec<_>>>()?;
    daemons.iter_mut().try_for_each(Daemon::wait_ready)?;
    eprintln!("{STARTERS} daemons are ready after {:?}", started.elapsed());

    let events = history.events(&etcd)?;
    let owners = ownership::check(&events)?;
    let by_owner: BTreeMap<String, String> =
        owners.iter().map(|(key, owner)| (owner.clone(), key.clone())).collect();
    ensure!(by_owner == told(node, STARTERS)?, "etcd and subnet.env differ: {by_owner:?}");
    ensure!(by_owner.len() == usize::from(STARTERS), "{by_owner:?}");
    // One record written per daemon, whatever races were lost.
    let writes = events.iter().filter(|event| event.key.contains("/subnets/")).count();
    ensure!(writes == usize::from(STARTERS), "{writes} writes below subnets/");
    Ok(())
}

#[test]
fn concurrent_starts_never_share_a_subnet() {
    lab(|lab| simultaneous(lab, ""));
}

#[test]
fn concurrent_dual_stack_starts_never_share_a_subnet() {
    lab(|lab| simultaneous(lab, DUAL));
}

#[test]
fn concurrent_starts_on_a_directory_never_share_a_subnet() {
    const COUNT: u16 = 14;
    lab(|lab| {
        let cluster = lab.cluster(1)?;
        let leases = lab.directory("directory/leases")?;
        std::fs::write(leases.join("config"), config(&subnets(15), "alloc"))?;
        let (node, flanneld) = (&cluster.nodes[0], Flanneld::on_directory(&leases));
        let mut daemons =
            (1..=COUNT).map(|number| starter(node, &flanneld, number)).collect::<Result<Vec<_>>>()?;
        daemons.iter_mut().try_for_each(Daemon::wait_ready)?;
        let told = told(node, COUNT)?;
        ensure!(told.values().collect::<BTreeSet<_>>().len() == usize::from(COUNT), "{told:?}");
        for (owner, key) in &told {
            let record = std::fs::read_to_string(leases.join("subnets").join(key))?;
            ensure!(record == format!(r#"{{"PublicIP":"{owner}","PublicIPv6":null}}"#), "{key}: {record}");
        }
        ensure!(std::fs::read_dir(leases.join("subnets"))?.count() == told.len(), "leases of nobody");
        Ok(())
    });
}

/// Puts this many leases of other nodes.
fn peers(etcd: &Etcd, range: std::ops::Range<u32>) -> Result<()> {
    let records: Vec<(String, String)> = range
        .map(|number| {
            let (high, low) = (number / 250, number % 250);
            let key = subnet_key(&format!("10.42.{}.0-24", number + 1));
            (key, format!(r#"{{"PublicIP":"172.16.{high}.{low}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"0a:00:00:00:{high:02x}:{low:02x}"}}}}"#))
        })
        .collect();
    let mut gateway =
        integration::gateway::Gateway::connect(&etcd.members[0].netns, etcd.members[0].address())?;
    let lease = gateway.grant(3600)?;
    gateway.put_all(&records, &lease)
}

#[test]
fn restart_writes_nothing_with_few_requests() {
    lab(|lab| {
        let (cluster, etcd, _) = start(lab, 1, &config(r#""SubnetMin":"10.42.210.0","#, "vxlan"))?;
        peers(&etcd, 0..2)?;
        let node = &cluster.nodes[0];
        let mut daemon = node.start(&Flanneld::on_etcd(&etcd).argument(NO_RULES))?;
        daemon.wait_ready()?;
        let env = node.subnet_env_text()?;
        let mut restart = |count: usize| -> Result<u64> {
            wait::until("all peers have routes", wait::LONG, || {
                let routes = golden::actual(node.netns(), true)?;
                let found = routes.iter().filter(|line| line.starts_with("route ")).count();
                ensure!(found >= count, "{found} of {count}");
                Ok(())
            })?;
            let (revision, before) = (etcd.revision()?, etcd.requests()?);
            daemon.stop()?;
            daemon.start()?;
            daemon.wait_ready()?;
            let requests = etcd.requests()? - before;
            ensure!(etcd.revision()? == revision, "a restart wrote to etcd");
            ensure!(node.subnet_env_text()? == env, "{env}\nbecame\n{}", node.subnet_env_text()?);
            Ok(requests)
        };
        let few = restart(2)?;
        peers(&etcd, 2..200)?;
        let many = restart(200)?;
        eprintln!("requests of a restart: {few} with 2 peers, {many} with 200");
        ensure!(many <= few + 2 && many <= 12, "{few} requests with 2 peers, {many} with 200");
        Ok(())
    });
}

fn wait_gone(etcd: &Etcd, key: &str) -> Result<()> {
    wait::until(format!("the lease {key} ends"), wait::LONG, || {
        ensure!(etcd.get(&subnet_key(key))?.is_none(), "it is there");
        Ok(())
    })
}

fn wait_there(etcd: &Etcd, key: &str) -> Result<()> {
    wait::until(format!("the lease {key} is there"), wait::LONG, || {
        etcd.get(&subnet_key(key))?.context("it is not").map(drop)
    })
}

#[test]
fn expired_lease_with_a_free_subnet_is_acquired_again() {
    lab(|lab| {
        let (cluster, etcd, history) = start(lab, 2, &config("", "vxlan"))?;
        let flanneld = Flanneld::on_etcd(&etcd).argument(NO_RULES).argument(SHORT);
        let mut daemons = cluster.start_all(&flanneld)?;
        let node = &cluster.nodes[0];
        let (key, env) = (key_of(node)?, node.subnet_env_text()?);
        let (pods, neighbour) = (cluster.pods("pod")?, node.add_pod("neighbour")?);
        let (pod, other) = (&pods[0].netns, pods[1].address(true)?);
        pod.wait_ping(other)?;
        let interval = Duration::from_millis(10);
        let flow = Datagrams::start(pod, &neighbour.netns, neighbour.address(true)?, interval)?;

        // Frozen, as a virtual machine that is suspended.
        daemons[0].signal(Signal::SIGSTOP)?;
        wait_gone(&etcd, &key)?;
        daemons[0].signal(Signal::SIGCONT)?;
        wait_there(&etcd, &key)?;
        pod.wait_ping(other)?;

        // Cut off from etcd.
        let (own, server) = (&cluster.nics[0], &etcd.members[0].nic);
        own.drop_towards(server)?;
        server.drop_towards(own)?;
        wait_gone(&etcd, &key)?;
        ensure!(node.subnet_env_text()? == env, "pods must be able to start while etcd is away");
        ensure!(daemons[0].get("/readyz")?.status == 200, "a node without etcd serves its pods");
        let later = node.add_pod("later")?;
        later.netns.wait_ping(pods[0].address(true)?)?;
        lab.heal()?;
        wait_there(&etcd, &key)?;
        later.netns.wait_ping(other)?;
        flow.stop()?.expect_none_lost()?;

        ensure!(node.subnet_env_text()? == env && daemons[0].running()?);
        daemons[0].wait_ready()?;
        let owners = ownership::check(&history.events(&etcd)?)?;
        ensure!(owners.len() == 2, "{owners:?}");
        let peers = Peer::others(&cluster.nodes, node, true)?;
        golden::expect(node.netns(), true, &golden::vxlan(&Peer::of(node, true)?, &peers, 1450))
    });
}

#[test]
fn deleted_lease_is_acquired_again_without_loss() {
    lab(|lab| {
        let (cluster, etcd, history) = start(lab, 2, &config("", "vxlan"))?;
        let daemons = cluster.start_all(&Flanneld::on_etcd(&etcd).argument(NO_RULES))?;
        let (node, other) = (&cluster.nodes[0], &cluster.nodes[1]);
        let key = key_of(node)?;
        let pods = cluster.pods("pod")?;
        pods[1].netns.wait_ping(pods[0].address(true)?)?;
        let interval = Duration::from_millis(10);
        let flow = Datagrams::start(&pods[1].netns, &pods[0].netns, pods[0].address(true)?, interval)?;
        for _ in 0..3 {
            etcd.delete(&subnet_key(&key))?;
            wait_there(&etcd, &key)?;
            flow.wait_answered(20)?;
        }
        // Its daemon does not return in time.
        let (own, peers) = (Peer::of(other, true)?, Peer::others(&cluster.nodes, other, true)?);
        let (alone, complete) = (golden::vxlan(&own, &[], 1450), golden::vxlan(&own, &peers, 1450));
        daemons[0].signal(Signal::SIGSTOP)?;
        let deleted = Instant::now();
        etcd.delete(&subnet_key(&key))?;
        wait::until("status shows a kept peer", wait::LONG, || {
            other.flannelctl(&[], &["status"])?.expect(0, &["1 kept without a lease"]).map(drop)
        })?;
        other.flannelctl(&[], &["peer", "list"])?.expect(0, &["the lease no longer exists"])?;
        golden::expect(other.netns(), true, &complete)?;
        flow.stop()?.expect_none_lost()?;
        golden::expect(other.netns(), true, &alone)?;
        eprintln!("removed {:?} after the lease", deleted.elapsed());
        ensure!(deleted.elapsed() > Duration::from_secs(9), "removed after {:?}", deleted.elapsed());
        daemons[0].signal(Signal::SIGCONT)?;
        golden::expect(other.netns(), true, &complete)?;
        ensure!(key_of(node)? == key, "{}", node.subnet_env_text()?);
        let owners = ownership::check(&history.events(&etcd)?)?;
        ensure!(owners.len() == 2, "{owners:?}");
        Ok(())
    });
}

/// Peers keep the state of a node whose lease was deleted, unless something replaces it.
#[test]
fn deleted_lease_is_not_kept_if_something_replaces_it() {
    lab(|lab| {
        let (cluster, etcd, _) = start(lab, 2, &config(&subnets(20), "vxlan"))?;
        let daemons = cluster.start_all(&Flanneld::on_etcd(&etcd).argument(NO_RULES))?;
        let (node, other) = (&cluster.nodes[0], &cluster.nodes[1]);
        let key = key_of(node)?;
        daemons[0].signal(Signal::SIGSTOP)?;
        let subnet = key.replace('-', "/");
        let route = || other.netns().ip(&format!("route show {subnet}"));
        let record = |public: &str| {
            format!(
                r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"0a:00:00:00:00:77"}}}}"#
            )
        };
        // Another node takes a part of the subnet, or the node itself publishes another one.
        let part = (key.replace(".0-24", ".128-25"), record("192.168.50.77"));
        let moved = ("10.42.200.0-24".to_owned(), record("192.168.50.1"));
        for (new, text) in [part, moved] {
            etcd.put(&subnet_key(&key), &record("192.168.50.1"))?;
            wait::until("the peer is there", wait::LONG, || {
                ensure!(route()?.contains("flannel.1"), "{}", route()?);
                Ok(())
            })?;
            etcd.delete(&subnet_key(&key))?;
            let replaced = Instant::now();
            etcd.put(&subnet_key(&new), &text)?;
            wait::until("the route is removed", wait::LONG, || {
                ensure!(route()?.is_empty(), "{}", route()?);
                Ok(())
            })?;
            let took = replaced.elapsed();
            ensure!(took < Duration::from_secs(5), "kept for {took:?} beside {new}");
            etcd.delete(&subnet_key(&new))?;
        }
        daemons[0].signal(Signal::SIGCONT)?;
        Ok(())
    });
}

/// The list of Go flannel's manifest, which waits no longer than it must.
fn impatient() -> Conflist {
    let plugin = serde_json::json!({"type": "flannel", "subnetFileTimeoutSeconds": 1});
    Conflist::new("cbr0", "0.3.1", vec![plugin])
}

#[test]
fn expired_lease_of_a_taken_subnet_is_replaced() {
    lab(|lab| {
        let (cluster, etcd, history) = start(lab, 2, &config(&subnets(2), "vxlan"))?;
        let flanneld = Flanneld::on_etcd(&etcd).argument(NO_RULES).argument(SHORT);
        let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
        let mut first = n1.start(&flanneld)?;
        first.wait_ready()?;
        let lost = key_of(n1)?;
        let spare = if lost == "10.42.1.0-24" { "10.42.2.0-24" } else { "10.42.1.0-24" };
        let stranger = r#"{"PublicIP":"192.168.50.200","PublicIPv6":null}"#;
        etcd.put(&subnet_key(spare), stranger)?;
        let old = n1.add_pod("old")?;

        first.signal(Signal::SIGSTOP)?;
        wait_gone(&etcd, &lost)?;
        let mut second = n2.start(&flanneld)?;
        second.wait_ready()?;
        ensure!(key_of(n2)? == lost, "the free subnet was not taken");
        let record = etcd.record_of(&subnet_key(&lost))?;

        // Nothing is free for it: no new pod may get an address of what is the other node's now.
        first.signal(Signal::SIGCONT)?;
        first.wait_log(&["lease lost", &lost, "must be replaced"])?;
        first.wait_log(&["no free IPv4 subnet"])?;
        wait::until("subnet.env is withdrawn", wait::LONG, || {
            ensure!(n1.subnet_env_text().is_err(), "it is there");
            ensure!(first.get("/readyz")?.status == 503, "it is ready");
            Ok(())
        })?;
        let refused = n1.add_pod_with("refused", &impatient()).err().context("a pod gets an address")?;
        ensure!(format!("{refused:#}").contains("\"code\": 11"), "{refused:#}");

        etcd.delete(&subnet_key(spare))?;
        first.wait_ready()?;
        // The second has an address that no pod of the first node has still.
        let (new, twin, peer) = (n1.add_pod("new")?, n2.add_pod("twin")?, n2.add_pod("pod")?);
        ensure!(n1.subnet(true)?.contains(&new.address(true)?), "{:?} is not of {spare}", new.addresses);
        new.netns.wait_ping(peer.address(true)?)?;
        // The old pod runs on, as far as its host reaches: for probes, and for pods beside it.
        n1.netns().wait_ping(old.address(true)?)?;
        old.netns.wait_ping(new.address(true)?)?;
        ensure!(old.address(true)? == twin.address(true)?, "{:?} {:?}", old.addresses, twin.addresses);
        old.delete()?;
        wait::until("the route of the pod that was replaced is gone", wait::LONG, || {
            let routes = n1.netns().ip("route show")?;
            ensure!(!routes.contains(&twin.address(true)?.to_string()), "{routes}");
            Ok(())
        })?;
        new.netns.wait_ping(twin.address(true)?)?;
        ensure!(key_of(n1)? == spare, "{}", n1.subnet_env_text()?);
        ensure!(etcd.record_of(&subnet_key(&lost))? == record, "the record of the new owner was touched");
        ensure!(key_of(n2)? == lost && second.running()?);
        for node in &cluster.nodes {
            let peers = Peer::others(&cluster.nodes, node, true)?;
            golden::expect(node.netns(), true, &golden::vxlan(&Peer::of(node, true)?, &peers, 1450))?;
        }
        let owners = ownership::check(&history.events(&etcd)?)?;
        ensure!(owners.len() == 2, "{owners:?}");
        Ok(())
    });
}

#[test]
fn clone_of_a_node_acquires_its_own_subnet() {
    lab(|lab| {
        let (cluster, etcd, history) = start(lab, 2, &config("", "vxlan"))?;
        let flanneld = Flanneld::on_etcd(&etcd).argument(NO_RULES);
        let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
        let mut first = n1.start(&flanneld)?;
        first.wait_ready()?;
        let record = etcd.record_of(&subnet_key(&key_of(n1)?))?;
        wait::until("the first node has written down its lease", wait::LONG, || {
            let kept = n1.file("/var/lib/flannel")?;
            let found = n1.netns().run(&format!("grep -rl {} {}", key_of(n1)?, kept.display()))?;
            ensure!(!found.is_empty());
            Ok(())
        })?;
        for directory in ["/var/lib/flannel", "/run/flannel"] {
            let (from, to) = (n1.file(directory)?, n2.file(directory)?);
            n1.netns().run(&format!("cp -a {}/. {}", from.display(), to.display()))?;
        }
        let mut second = n2.start(&flanneld)?;
        second.wait_ready()?;
        ensure!(key_of(n1)? != key_of(n2)?, "both have {}", key_of(n1)?);
        let (one, other) = (Peer::of(n1, true)?, Peer::of(n2, true)?);
        ensure!(one.mac != other.mac, "both have {:?}", one.mac);
        n1.add_pod("pod")?.netns.wait_ping(n2.add_pod("pod")?.address(true)?)?;
        ensure!(
            etcd.record_of(&subnet_key(&key_of(n1)?))? == record,
            "the record of the original was touched"
        );
        let owners = ownership::check(&history.events(&etcd)?)?;
        ensure!(owners.len() == 2, "{owners:?}");
        ensure!(first.running()?);
        Ok(())
    });
}

#[test]
fn duplicate_public_address_is_reported_and_not_overwritten() {
    lab(|lab| {
        let (cluster, etcd, _) = start(lab, 2, &config("", "vxlan"))?;
        let flanneld = Flanneld::on_etcd(&etcd).argument(NO_RULES);
        let (n1, n2) = (&cluster.nodes[0], &cluster.nodes[1]);
        let mut first = n1.start(&flanneld)?;
        first.wait_ready()?;
        let env = n1.subnet_env_text()?;
        let second = n2.start(&flanneld.arguments("--iface=eth0 --public-ip=192.168.50.1"))?;
        first.wait_log(&[
            "another node uses our public address 192.168.50.1",
            &key_of(n1)?,
            "--public-ip",
        ])?;
        n1.flannelctl(&[], &["status"])?.expect(3, &["another node uses our public address 192.168.50.1"])?;
        let revision = etcd.revision()?;
        wait::holds_for("nobody rewrites the record", Duration::from_secs(3), || {
            let now = etcd.revision()?;
            ensure!(now == revision, "revision {revision}, then {now}");
            Ok(())
        })?;
        ensure!(first.running()? && n1.subnet_env_text()? == env);
        drop(second);
        Ok(())
    });
}

#[test]
fn leases_of_another_length_never_overlap() {
    const COUNT: u16 = 12;
    lab(|lab| {
        // 14 subnets of /28 in all; a /26 takes up to four of them.
        let network = |length: u8| {
            format!(
                r#"{{"Network":"10.42.0.0/24","SubnetLen":{length},"EnableNFTables":true,"Backend":{{"Type":"alloc"}}}}"#
            )
        };
        let (cluster, etcd, history) = start(lab, 1, &network(26))?;
        let (node, flanneld) = (&cluster.nodes[0], Flanneld::on_etcd(&etcd));
        let mut old = starter(node, &flanneld, 1)?;
        old.wait_ready()?;
        let before = told(node, 1)?;
        etcd.set_config(&network(28))?;
        old.wait_log(&["cannot be taken while pods run", "our subnet", "restart"])?;
        let mut daemons =
            (2..COUNT).map(|number| starter(node, &flanneld, number)).collect::<Result<Vec<_>>>()?;
        daemons.iter_mut().try_for_each(Daemon::wait_ready)?;
        ensure!(told(node, 1)? == before, "the running node has moved");
        let owners = ownership::check(&history.events(&etcd)?)?;
        ensure!(owners.len() == daemons.len() + 1, "{owners:?}");

        old.restart()?;
        let after = told(node, 1)?;
        ensure!(after["192.168.51.1"].ends_with("-28"), "{after:?} after a restart");
        let owners = ownership::check(&history.events(&etcd)?)?;
        ensure!(owners.len() == daemons.len() + 1, "{owners:?}");
        Ok(())
    });
}

#[test]
fn younger_overlapping_record_is_ignored_and_reported() {
    lab(|lab| {
        let (cluster, etcd, _) = start(lab, 2, &config("", "vxlan"))?;
        let daemons = cluster.start_all(&Flanneld::on_etcd(&etcd).argument(NO_RULES))?;
        let n1 = &cluster.nodes[0];
        let peers = Peer::others(&cluster.nodes, n1, true)?;
        let expected = golden::vxlan(&Peer::of(n1, true)?, &peers, 1450);
        golden::expect(n1.netns(), true, &expected)?;
        let theirs = key_of(&cluster.nodes[1])?;
        let intruder = theirs.replace(".0-24", ".128-25");
        let record = etcd.record_of(&subnet_key(&theirs))?;
        etcd.put(
            &subnet_key(&intruder),
            r#"{"PublicIP":"192.168.50.77","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0a:00:00:00:00:77"}}"#,
        )?;
        daemons[0].wait_log(&["overlaps the older lease", &theirs, &intruder])?;
        wait::holds_for("the older lease keeps its route", Duration::from_millis(500), || {
            let found = golden::actual(n1.netns(), true)?;
            ensure!(found == expected, "{found:?}");
            Ok(())
        })?;
        ensure!(etcd.record_of(&subnet_key(&theirs))? == record, "the older record was touched");
        etcd.delete(&subnet_key(&intruder))?;
        daemons[0].wait_log(&["condition cleared", &intruder])?;
        golden::expect(n1.netns(), true, &expected)
    });
}

#[test]
fn reservation_is_used_and_kept() {
    lab(|lab| {
        let (cluster, etcd, _) = start(lab, 1, &config("", "vxlan"))?;
        let node = &cluster.nodes[0];
        let key = subnet_key("10.42.77.0-24");
        // As the documentation of flannel tells administrators to write one.
        etcd.put(&key, r#"{"PublicIP":"192.168.50.1"}"#)?;
        let mut daemon =
            node.start(&Flanneld::on_etcd(&etcd).argument(NO_RULES).argument("--lease-time=2s"))?;
        daemon.wait_ready()?;
        ensure!(key_of(node)? == "10.42.77.0-24", "{}", node.subnet_env_text()?);
        let mac = Peer::of(node, true)?.mac.context("no device")?;
        let record = wait::until("the reservation tells how the node is reached", wait::LONG, || {
            let found = etcd.get(&key)?.context("it is gone")?;
            ensure!(found.contains(&mac), "{found}");
            etcd.record_of(&key)
        })?;
        // etcd leaves out fields that are zero.
        ensure!(record["lease"].as_i64().unwrap_or(0) == 0, "it has become a lease: {record}");
        daemon.restart()?;
        wait::holds_for("the reservation is left as it is", Duration::from_millis(2500), || {
            let now = etcd.record_of(&key)?;
            ensure!(now == record, "{now}");
            Ok(())
        })?;
        ensure!(etcd.leases()?.len() == 1 && key_of(node)? == "10.42.77.0-24", "{:?}", etcd.leases()?);
        Ok(())
    });
}

#[test]
fn full_network_is_reported_and_a_released_subnet_is_acquired() {
    lab(|lab| {
        let (cluster, etcd, _) = start(lab, 1, &config(&subnets(2), "host-gw"))?;
        let node = &cluster.nodes[0];
        for number in [1, 2] {
            let value = format!(r#"{{"PublicIP":"192.168.50.20{number}","PublicIPv6":null}}"#);
            etcd.put_with_lease(&subnet_key(&format!("10.42.{number}.0-24")), &value, 600)?;
        }
        let mut daemon = node.start(&Flanneld::on_etcd(&etcd).argument(NO_RULES))?;
        daemon.wait_log(&[
            "no free IPv4 subnet: all 2 of length 24 from 10.42.1.0 to 10.42.2.0",
            "by 2 leases",
        ])?;
        daemon.wait_log(&["not ready", "no free IPv4 subnet"])?;
        ensure!(daemon.get("/readyz")?.status == 503, "ready without a subnet");
        ensure!(node.subnet_env_text().is_err(), "subnet.env without a subnet");
        ensure!(node.add_pod_with("refused", &impatient()).is_err(), "a pod without a subnet");
        etcd.delete(&subnet_key("10.42.2.0-24"))?;
        daemon.wait_ready()?;
        ensure!(key_of(node)? == "10.42.2.0-24");
        node.add_pod("pod")?;
        Ok(())
    });
}

#[test]
fn changed_config_is_applied_live_or_after_a_restart() {
    lab(|lab| {
        let offer = |network: &str, options: &str| {
            format!(
                r#"{{"Network":"{network}","EnableNFTables":true,"Backend":{{"Type":"vxlan"{options}}}}}"#
            )
        };
        let (cluster, etcd, history) = start(lab, 2, &offer("10.42.0.0/16", ""))?;
        let mut daemons = cluster.start_all(&Flanneld::on_etcd(&etcd).argument(NO_RULES))?;
        let expect = |direct: bool, mtu: u32| -> Result<()> {
            for node in &cluster.nodes {
                let (own, peers) = (Peer::of(node, true)?, Peer::others(&cluster.nodes, node, true)?);
                let mut lines = golden::vxlan(&own, if direct { &[] } else { &peers }, mtu);
                if direct {
                    lines.extend(golden::host_gw(&peers));
                    lines.sort();
                }
                golden::expect(node.netns(), true, &lines)?;
                wait::until("pods get the new MTU", wait::LONG, || {
                    let env = node.subnet_env()?;
                    ensure!(env["FLANNEL_MTU"] == mtu.to_string(), "{env:?}");
                    Ok(())
                })?;
            }
            Ok(())
        };
        expect(false, 1450)?;
        let device = || kernel_state::device(cluster.nodes[0].netns(), "flannel.1");
        let index = device()?["ifindex"].clone();
        etcd.set_config(&offer("10.42.0.0/16", r#","MTU":1400"#))?;
        expect(false, 1350)?;
        etcd.set_config(&offer("10.42.0.0/16", r#","MTU":1400,"DirectRouting":true"#))?;
        expect(true, 1350)?;
        ensure!(device()?["ifindex"] == index, "the device was made anew");

        etcd.set_config(&offer("10.43.0.0/16", ""))?;
        for daemon in &daemons {
            daemon.wait_log(&[
                "cannot be taken while pods run",
                "IPv4 network 10.42.0.0/16 -> 10.43.0.0/16",
                "restart flanneld",
            ])?;
        }
        expect(true, 1350)?;
        daemons.iter_mut().try_for_each(Daemon::restart)?;
        for node in &cluster.nodes {
            ensure!(key_of(node)?.starts_with("10.43."), "{}", node.subnet_env_text()?);
        }
        expect(false, 1450)?;
        let owners = ownership::check(&history.events(&etcd)?)?;
        ensure!(owners.len() == 2, "old leases stay: {owners:?}");
        Ok(())
    });
}

/// Options that pods need not notice, one after the other while pods talk.
#[test]
fn live_changes_lose_no_packet() {
    lab(|lab| {
        lab.require(&[Feature::Nft, Feature::Iptables, Feature::BridgeNetfilter])?;
        let offer = |nftables: bool, more: &str, options: &str| {
            format!(
                r#"{{"Network":"10.42.0.0/16",{more}"EnableNFTables":{nftables},"Backend":{{"Type":"vxlan"{options}}}}}"#
            )
        };
        let (cluster, etcd, _) = start(lab, 2, &offer(true, "", ""))?;
        let daemons = cluster.start_all(&Flanneld::on_etcd(&etcd).argument("--ip-masq"))?;
        let (node, pods) = (&cluster.nodes[0], cluster.pods("pod")?);
        let env = node.subnet_env_text()?;
        pods[0].netns.wait_ping(pods[1].address(true)?)?;
        let flow = Datagrams::start(
            &pods[0].netns,
            &pods[1].netns,
            pods[1].address(true)?,
            Duration::from_millis(5),
        )?;
        let is_seen = |what: &str, command: &str, text: &str, there: bool| -> Result<()> {
            wait::until(what, wait::LONG, || {
                let shown = node.netns().run(command)?;
                ensure!(shown.contains(text) == there, "{shown}");
                Ok(())
            })?;
            flow.wait_answered(50)
        };
        etcd.set_config(&offer(true, "", r#","Learning":true"#))?;
        is_seen("the device learns", "ip -d link show flannel.1", "nolearning", false)?;
        etcd.set_config(&offer(true, "", ""))?;
        is_seen("the device learns no more", "ip -d link show flannel.1", "nolearning", true)?;
        for nftables in [false, true] {
            etcd.set_config(&offer(nftables, "", ""))?;
            is_seen("rules by nftables", "nft list tables", "flannel-ipv4", nftables)?;
            is_seen("rules by iptables", "iptables-save", "-j FLANNEL-POSTRTG", !nftables)?;
        }
        // A range with all that is in use, and one without.
        let mut used = [node.subnet(true)?.addr(), cluster.nodes[1].subnet(true)?.addr()];
        used.sort();
        let range = |first, last| format!(r#""SubnetMin":"{first}","SubnetMax":"{last}","#);
        etcd.set_config(&offer(true, &range(used[0], used[1]), ""))?;
        let revision = format!("revision={}", etcd.revision()?);
        daemons[0].wait_log(&["network config taken from the store", &revision])?;
        let theirs = cluster.nodes[1].subnet(true)?.addr();
        etcd.set_config(&offer(true, &range(theirs, theirs), ""))?;
        daemons[0].wait_log(&["cannot be taken while pods run", "our subnet"])?;
        flow.wait_answered(50)?;
        ensure!(node.subnet_env_text()? == env, "{env}\nbecame\n{}", node.subnet_env_text()?);
        flow.stop()?.expect_none_lost()
    });
}

/// Byte for byte what Go's daemon writes, and what Go's daemon wrote is used.
#[test]
fn records_match_those_of_go() {
    const GO: &str = r#"{"PublicIP":"192.168.50.64","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#;
    lab(|lab| {
        let (cluster, etcd, _) = start(lab, 1, &config("", "vxlan"))?;
        let node = &cluster.nodes[0];
        let (v4, v6) = (r#""PublicIP":"192.168.50.1""#, r#""PublicIPv6":"fd50::1""#);
        let (no_v4, no_v6) = (r#""PublicIP":"0.0.0.0""#, r#""PublicIPv6":null"#);
        let only_v6 = r#""EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:42::/48","#;
        let vxlan = r#","BackendType":"vxlan""#;
        let host_gw = r#","BackendType":"host-gw""#;
        let (data, data_v6) =
            (r#","BackendData":{"VNI":1,"VtepMAC":"V4"}"#, r#","BackendV6Data":{"VNI":1,"VtepMAC":"V6"}"#);
        let cases = [
            ("", "vxlan", format!("{{{v4},{no_v6}{vxlan}{data}}}")),
            (DUAL, "vxlan", format!("{{{v4},{v6}{vxlan}{data}{data_v6}}}")),
            (only_v6, "vxlan", format!("{{{no_v4},{v6}{vxlan}{data_v6}}}")),
            ("", "host-gw", format!("{{{v4},{no_v6}{host_gw}}}")),
            (DUAL, "host-gw", format!("{{{v4},{v6}{host_gw}}}")),
            (only_v6, "host-gw", format!("{{{no_v4},{v6}{host_gw}}}")),
            ("", "alloc", format!("{{{v4},{no_v6}}}")),
        ];
        for (number, (more, backend, expected)) in cases.iter().enumerate() {
            let prefix = format!("/case/{number}");
            etcd.put(&format!("{prefix}/config"), &config(more, backend))?;
            etcd.put_with_lease(&format!("{prefix}/subnets/10.42.200.0-24"), GO, 600)?;
            let flanneld =
                Flanneld::on_etcd(&etcd).argument(NO_RULES).argument(format!("--etcd-prefix={prefix}"));
            let mut daemon = node.start(&flanneld)?;
            daemon.wait_ready()?;
            let mut expected = expected.clone();
            for (name, v4) in [("V4", true), ("V6", false)] {
                if !expected.contains(name) {
                    continue;
                }
                let mac = kernel_state::mac(node.netns(), golden::vxlan_device(v4))?;
                expected = expected.replace(&format!(r#""{name}""#), &format!("{mac:?}"));
            }
            let records = etcd.list(&format!("{prefix}/subnets/"))?;
            let values: Vec<&str> = records.iter().filter_map(|record| record.value.as_deref()).collect();
            ensure!(values.contains(&expected.as_str()), "{more}{backend}: {values:?}, not {expected}");
            ensure!(values.contains(&GO) && values.len() == 2, "{values:?}");
            if *backend == "vxlan" && *more != only_v6 {
                let mut found = golden::actual(node.netns(), true)?;
                found.retain(|line| line.contains("10.42.200.0") || line.contains("192.168.50.64"));
                let peer = Peer {
                    public: "192.168.50.64".parse()?,
                    subnet: "10.42.200.0/24".parse()?,
                    mac: Some("c6:d2:32:6f:8f:44".to_owned()),
                };
                let mut expected = golden::vxlan(&Peer::of(node, true)?, &[peer], 1450);
                expected.retain(|line| line.contains("10.42.200.0") || line.contains("192.168.50.64"));
                ensure!(found == expected, "{found:?}");
            }
            daemon.stop()?;
        }
        Ok(())
    });
}
