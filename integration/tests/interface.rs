//! The external interface: how it is chosen among several, and what happens when it changes.

use anyhow::{Context, Result, ensure};
use integration::directory::{all_reach, wait_log};
use integration::golden::{self, Peer};
use integration::traffic::Datagrams;
use integration::{
    Feature, Flanneld, Lab, LeaseDirectory, Nic, Node, Segment, Stack, kernel_state, lab, wait,
};
use std::time::{Duration, Instant};

/// ```text
///        eth0 192.168.50.1/24, fd50::1/64, 1500 bytes, default routes
///   n1 ──┤
///        eth1 10.9.0.1/24, 10.9.0.7/24, fd09::1/64, 1400 bytes; 10.77.0.0/16 via 10.9.0.254 src 10.9.0.7
/// ```
struct Host {
    node: Node,
    leases: LeaseDirectory,
    _segments: [Segment; 2],
    _nics: [Nic; 2],
}

fn host(lab: &Lab, stack: Stack) -> Result<Host> {
    let node = lab.node("n1")?;
    let lan = lab.segment("lan", &["192.168.50.254/24".parse()?, "fd50::254/64".parse()?])?;
    let eth0 = lan.attach(node.netns(), "eth0", &["192.168.50.1/24".parse()?, "fd50::1/64".parse()?])?;
    lan.default_routes(&eth0)?;
    let back = lab.segment("back", &["10.9.0.254/24".parse()?])?;
    let addresses = ["10.9.0.1/24".parse()?, "10.9.0.7/24".parse()?, "fd09::1/64".parse()?];
    let eth1 = back.attach(node.netns(), "eth1", &addresses)?;
    eth1.set_mtu(1400)?;
    node.netns().ip("route add 10.77.0.0/16 via 10.9.0.254 dev eth1 src 10.9.0.7")?;
    let leases = LeaseDirectory::new(lab, &stack.config(r#"{"Type":"alloc"}"#))?;
    Ok(Host { node, leases, _segments: [lan, back], _nics: [eth0, eth1] })
}

impl Host {
    /// Starts a daemon with these flags, and waits until it has published these addresses and the MTU.
    fn chooses(&self, flags: &str, public: (&str, Option<&str>), mtu_bytes: u32) -> Result<()> {
        let flanneld = Flanneld::on_directory(self.leases.path()).arguments(flags);
        let mut daemon = self.node.start(&flanneld)?;
        daemon.wait_ready()?;
        wait::until(format!("{public:?} with {flags:?}"), wait::LONG, || {
            let (_, record) = self.leases.only_record()?;
            ensure!(
                record["PublicIP"] == public.0 && record["PublicIPv6"].as_str() == public.1,
                "the record is {record}"
            );
            let written = &self.node.subnet_env()?["FLANNEL_MTU"];
            ensure!(*written == mtu_bytes.to_string(), "the MTU is {written}");
            Ok(())
        })?;
        daemon.stop()?;
        // With another interface and address the next one is another node to the store, and takes a lease of its own.
        self.leases.clear()
    }

    /// A daemon with these flags ends with exit code 1 and says all of these.
    fn refuses(&self, flags: &str, words: &[&str]) -> Result<()> {
        let flanneld = Flanneld::on_directory(self.leases.path()).arguments(flags);
        let mut daemon = self.node.start(&flanneld)?;
        let status = daemon.wait_end().with_context(|| flags.to_owned())?;
        ensure!(status.code() == Some(1), "{flags}: {status}");
        let log = daemon.log()?;
        let last = log.lines().last().unwrap_or_default();
        ensure!(words.iter().all(|word| last.contains(word)), "{flags}: not {words:?} but {last}");
        Ok(())
    }
}

#[test]
fn ipv4_interface_is_chosen_as_requested() {
    lab(|lab| {
        let host = host(lab, Stack::V4)?;
        for (flags, public, mtu_bytes) in [
            ("", "192.168.50.1", 1500),
            ("--iface=eth1", "10.9.0.1", 1400),
            ("--iface=10.9.0.7", "10.9.0.7", 1400),
            ("--iface=nope --iface=eth1", "10.9.0.1", 1400),
            ("--iface-regex=^10[.]9[.].*[.]7$", "10.9.0.7", 1400),
            ("--iface-regex=eth[1-9]", "10.9.0.1", 1400),
            ("--iface=nope --iface-regex=nor-this --iface-can-reach=10.77.1.2", "10.9.0.7", 1400),
            ("--iface-can-reach=192.168.50.77", "192.168.50.1", 1500),
            ("--public-ip=10.9.0.7", "10.9.0.7", 1400),
            ("--iface=eth1 --public-ip=203.0.113.9", "203.0.113.9", 1400),
            ("--iface=eth0 --public-ip=10.9.0.1", "10.9.0.1", 1500),
        ] {
            host.chooses(flags, (public, None), mtu_bytes)?;
        }
        Ok(())
    });
}

#[test]
fn ipv6_interface_is_chosen_as_requested() {
    lab(|lab| {
        let host = host(lab, Stack::V6)?;
        for (flags, public, mtu_bytes) in [
            ("", "fd50::1", 1500),
            ("--iface=eth1", "fd09::1", 1400),
            ("--iface=fd09::1", "fd09::1", 1400),
            ("--iface-regex=^fd09", "fd09::1", 1400),
            ("--iface-can-reach=fd09::77", "fd09::1", 1400),
            ("--public-ipv6=fd09::1", "fd09::1", 1400),
            ("--iface=eth1 --public-ipv6=2001:db8::9", "2001:db8::9", 1400),
        ] {
            host.chooses(flags, ("0.0.0.0", Some(public)), mtu_bytes)?;
        }
        Ok(())
    });
}

#[test]
fn dual_stack_interface_is_chosen_as_requested() {
    lab(|lab| {
        let host = host(lab, Stack::Dual)?;
        for (flags, v4, v6, mtu_bytes) in [
            ("", "192.168.50.1", "fd50::1", 1500),
            ("--iface=eth1", "10.9.0.1", "fd09::1", 1400),
            ("--iface=eth1@if7", "10.9.0.1", "fd09::1", 1400),
            ("--iface=10.9.0.7", "10.9.0.7", "fd09::1", 1400),
            ("--iface-regex=^10[.]9[.].*[.]7$", "10.9.0.7", "fd09::1", 1400),
            ("--iface-regex=^fd09:", "10.9.0.1", "fd09::1", 1400),
            ("--iface=fd09::1", "10.9.0.1", "fd09::1", 1400),
            ("--iface-can-reach=10.77.1.2", "10.9.0.7", "fd09::1", 1400),
            ("--public-ip=10.9.0.7 --public-ipv6=fd09::1", "10.9.0.7", "fd09::1", 1400),
            (
                "--iface=eth1 --public-ip=203.0.113.9 --public-ipv6=2001:db8::9",
                "203.0.113.9",
                "2001:db8::9",
                1400,
            ),
        ] {
            host.chooses(flags, (v4, Some(v6)), mtu_bytes)?;
        }
        host.refuses(
            "--public-ip=10.9.0.7 --public-ipv6=fd50::1",
            &["10.9.0.7 is on eth1 and fd50::1 on eth0", "both must be on one interface"],
        )
    });
}

#[test]
fn missing_interface_is_an_error_with_advice() {
    lab(|lab| {
        let host = host(lab, Stack::V4)?;
        let advice = "Name an interface or an address of this host: --iface=NAME";
        let there = "there are eth0 with 192.168.50.1, eth1 with 10.9.0.1";
        host.refuses("--iface=nope", &["--iface=nope: there is no such interface", advice, there])?;
        host.refuses("--iface=10.1.2.3", &["no interface has the address 10.1.2.3", advice])?;
        host.refuses("--iface=fd50::1", &["it is an IPv6 address, but the network uses IPv4", advice])?;
        host.refuses(
            "--iface-regex=a(",
            &["--iface-regex=a(: not a regular expression", "unclosed group", advice],
        )?;
        host.refuses("--iface-regex=zzz", &["no address or name of an interface matches", advice])?;
        host.refuses("--public-ip=203.0.113.9", &["203.0.113.9", "name the interface too: --iface=NAME"])?;
        host.node.netns().ip("route del default")?;
        host.refuses("", &["there is no IPv4 default route", advice])?;
        host.refuses("--iface-can-reach=8.8.8.8", &["there is no route to 8.8.8.8", advice])
    });
}

/// Promised are two seconds; the rest is for a machine that is busy with other tests.
const PROMPT: Duration = Duration::from_secs(5);

/// The address of a node is replaced by another one while its pod talks: same subnet, peers follow.
fn follows_the_address(backend: &str, stack: Stack) {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let cluster = lab.cluster(3)?;
        let (leases, _daemons) =
            cluster.start_on_directory(lab, &stack.config(&format!(r#"{{"Type":"{backend}"}}"#)))?;
        let pods = cluster.pods("a")?;
        all_reach(&pods, stack)?;
        let before = leases.records()?;

        let (n1, started) = (cluster.nodes[0].netns(), Instant::now());
        n1.ip_batch(
            "addr del 192.168.50.1/24 dev eth0\naddr add 192.168.50.101/24 dev eth0\n\
             route replace default via 192.168.50.254 dev eth0\n\
             addr del fd50::1/64 dev eth0\naddr add fd50::101/64 dev eth0 nodad\n",
        )?;
        for &v4 in stack.families() {
            for (from, to) in [(0, 1), (1, 0), (2, 0)] {
                pods[from].netns.wait_ping(pods[to].address(v4)?)?;
            }
        }
        let took = started.elapsed();
        eprintln!("pods talk again {took:?} after the address of their node changed");
        ensure!(took < PROMPT, "it took {took:?}");
        let later = cluster.nodes[0].add_pod("later")?;
        for &v4 in stack.families() {
            later.netns.wait_ping(pods[1].address(v4)?)?;
        }
        for node in &cluster.nodes {
            for &v4 in stack.families() {
                let (own, peers) = (Peer::of(node, v4)?, Peer::others(&cluster.nodes, node, v4)?);
                let expected = if backend == "vxlan" {
                    golden::vxlan(&own, &peers, if v4 { 1450 } else { 1430 })
                } else {
                    golden::host_gw(&peers)
                };
                golden::expect(node.netns(), v4, &expected)?;
            }
        }
        let after = leases.records()?;
        let keys = |records: &[(String, serde_json::Value)]| -> Vec<String> {
            records.iter().map(|(key, _)| key.clone()).collect()
        };
        ensure!(keys(&before) == keys(&after), "the subnets changed: {before:?} {after:?}");
        let data = |records: &[(String, serde_json::Value)]| -> Vec<serde_json::Value> {
            records.iter().map(|(_, record)| record["BackendData"].clone()).collect()
        };
        ensure!(data(&before) == data(&after), "the MACs changed: {before:?} {after:?}");
        all_reach(&pods, stack)
    });
}

#[test]
fn vxlan_follows_the_address() {
    follows_the_address("vxlan", Stack::Dual);
}

#[test]
fn vxlan_follows_the_address_with_ipv6_alone() {
    follows_the_address("vxlan", Stack::V6);
}

#[test]
fn host_gw_follows_the_address() {
    follows_the_address("host-gw", Stack::Dual);
}

/// The MTU of the underlay shrinks and grows while pods talk: device and `subnet.env` follow, nothing is lost.
fn follows_the_mtu(backend: &str, overhead: u32) {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let cluster = lab.cluster(2)?;
        let (leases, _daemons) =
            cluster.start_on_directory(lab, &Stack::V4.config(&format!(r#"{{"Type":"{backend}"}}"#)))?;
        let pods = cluster.pods("a")?;
        all_reach(&pods, Stack::V4)?;
        let before = leases.records()?;
        let to = pods[1].address(true)?;
        let flow = Datagrams::start(&pods[0].netns, &pods[1].netns, to, Duration::from_millis(2))?;
        for bytes in [1400, 1500] {
            let started = Instant::now();
            for nic in &cluster.nics {
                nic.set_mtu(bytes)?;
            }
            for (number, node) in cluster.nodes.iter().enumerate() {
                wait::until(format!("{} follows the MTU {bytes}", node.name()), wait::LONG, || {
                    let written = &node.subnet_env()?["FLANNEL_MTU"];
                    ensure!(*written == (bytes - overhead).to_string(), "subnet.env has {written}");
                    if backend == "vxlan" {
                        let device = kernel_state::device(node.netns(), "flannel.1")?;
                        ensure!(device["mtu"] == bytes - overhead, "the device has {}", device["mtu"]);
                    }
                    Ok(())
                })?;
                let later = node.add_pod(&format!("later{bytes}-{number}"))?;
                let mtu = kernel_state::device(&later.netns, "eth0")?["mtu"].clone();
                ensure!(mtu == bytes - overhead, "a new pod has the MTU {mtu}");
                let there = pods[1 - number].address(true)?;
                later.netns.wait_ping(there)?;
                later.netns.ping_full(there, bytes - overhead)?;
                // A bridge has the MTU of its smallest port.
                later.delete()?;
            }
            eprintln!("followed the MTU {bytes} within {:?}", started.elapsed());
            flow.wait_answered(20)?;
        }
        ensure!(leases.records()? == before, "the records changed: {before:?}");
        flow.stop()?.expect_none_lost()
    });
}

#[test]
fn vxlan_follows_the_mtu() {
    follows_the_mtu("vxlan", 50);
}

#[test]
fn host_gw_follows_the_mtu() {
    follows_the_mtu("host-gw", 0);
}

/// The interface disappears, which takes the vxlan device with it, and comes back with another number.
#[test]
fn returned_interface_is_used_again() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let cluster = lab.cluster(2)?;
        let (leases, daemons) =
            cluster.start_on_directory(lab, &Stack::Dual.config(r#"{"Type":"vxlan"}"#))?;
        let pods = cluster.pods("a")?;
        all_reach(&pods, Stack::Dual)?;
        let before = leases.records()?;
        let n1 = cluster.nodes[0].netns();
        n1.ip("link del eth0")?;
        wait_log(&daemons[0], &["condition reported", "no interface for traffic between nodes was found"])?;
        let addresses = ["192.168.50.1/24".parse()?, "fd50::1/64".parse()?];
        cluster.lan.default_routes(&cluster.lan.attach(n1, "eth0", &addresses)?)?;
        all_reach(&pods, Stack::Dual)?;
        ensure!(leases.records()? == before, "the records changed: {before:?}");
        for v4 in [true, false] {
            let (own, peers) =
                (Peer::of(&cluster.nodes[0], v4)?, Peer::others(&cluster.nodes, &cluster.nodes[0], v4)?);
            golden::expect(n1, v4, &golden::vxlan(&own, &peers, if v4 { 1450 } else { 1430 }))?;
        }
        Ok(())
    });
}
