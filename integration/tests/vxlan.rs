//! The vxlan backend, from outside: records, `subnet.env`, kernel state, packets.

use anyhow::{Result, ensure};
use integration::cni::all_reach_all;
use integration::directory::fragments_made;
use integration::golden::{self, Known, Peer, Stack};
use integration::traffic::Connection;
use integration::{Cluster, Feature, Flanneld, LeaseDirectory, kernel_state, lab, wait};
use std::fs;

const VXLAN: &str = r#"{"Type":"vxlan"}"#;

/// The largest packets that fit a tunnel over the usual 1500 bytes.
const fn tunnel_mtu(v4: bool) -> u32 {
    if v4 { 1450 } else { 1430 }
}

/// What `subnet.env` tells pods: with both families that of IPv4, as Go flannel has it.
const fn reported_mtu(stack: Stack) -> u32 {
    tunnel_mtu(!matches!(stack, Stack::V6))
}

fn state_is_as_specified(cluster: &Cluster, stack: Stack) -> Result<()> {
    for node in &cluster.nodes {
        for &v4 in stack.families() {
            let own = Peer::of(node, v4)?;
            let peers = Peer::others(&cluster.nodes, node, v4)?;
            golden::expect(node.netns(), v4, &golden::vxlan(&own, &peers, tunnel_mtu(v4)))?;
        }
        let (found, expected) =
            (node.subnet_env_text()?, Known::of(node, stack)?.subnet_env(reported_mtu(stack)));
        ensure!(found == expected, "subnet.env of {} is\n{found}not\n{expected}", node.name());
    }
    Ok(())
}

fn on_a_directory(stack: Stack) {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let cluster = lab.cluster(3)?;
        let leases = lab.lease_directory(&stack.config(VXLAN))?;
        cluster.start_all(&Flanneld::on_directory(&leases))?;
        state_is_as_specified(&cluster, stack)?;
        for node in &cluster.nodes {
            let known = Known::of(node, stack)?;
            let found = fs::read_to_string(leases.join("subnets").join(known.key()))?;
            ensure!(found == known.record("vxlan"), "the record of {} is {found}", node.name());
        }
        let pods = cluster.pods("a")?;
        for &v4 in stack.families() {
            all_reach_all(&pods, v4, tunnel_mtu(v4))?;
        }
        for node in &cluster.nodes {
            let fragments = fragments_made(node.netns())?;
            ensure!(fragments == 0, "{} made {fragments} fragments", node.name());
        }
        let mtu = kernel_state::device(&pods[0].netns, "eth0")?["mtu"].as_u64();
        ensure!(mtu == Some(reported_mtu(stack).into()), "the pod's MTU is {mtu:?}");
        Ok(())
    });
}

#[test]
fn ipv4_on_a_directory() {
    on_a_directory(Stack::V4);
}

#[test]
fn ipv6_on_a_directory() {
    on_a_directory(Stack::V6);
}

#[test]
fn dual_stack_on_a_directory() {
    on_a_directory(Stack::Dual);
}

fn on_etcd(stack: Stack) {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Etcd])?;
        let cluster = lab.cluster(3)?;
        let etcd = cluster.etcd(lab)?;
        etcd.set_config(&stack.config(VXLAN))?;
        cluster.start_all(&Flanneld::on_etcd(&etcd))?;
        state_is_as_specified(&cluster, stack)?;
        let known = cluster.nodes.iter().map(|node| Known::of(node, stack)).collect::<Result<Vec<_>>>()?;
        let mut expected: Vec<_> = known.iter().map(|known| (known.key(), known.record("vxlan"))).collect();
        expected.sort();
        let leases = etcd.leases()?;
        ensure!(leases == expected, "the records are {leases:#?}, not {expected:#?}");
        let pods = cluster.pods("a")?;
        for &v4 in stack.families() {
            all_reach_all(&pods, v4, tunnel_mtu(v4))?;
        }
        Ok(())
    });
}

#[test]
fn ipv4_on_etcd() {
    on_etcd(Stack::V4);
}

#[test]
fn dual_stack_on_etcd() {
    on_etcd(Stack::Dual);
}

/// ```text
///   n1 ─┬─ lan 192.168.50.0/24 ── fabric (router) ── far 192.168.60.0/24 ── n3
///   n2 ─┘
/// ```
#[test]
fn direct_routing_over_two_subnets_and_a_router() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let mut cluster = lab.cluster(2)?;
        let far = lab.segment("far", &["192.168.60.254/24".parse()?])?;
        let distant = lab.node("n3")?;
        far.default_routes(&far.attach(distant.netns(), "eth0", &["192.168.60.3/24".parse()?])?)?;
        cluster.nodes.push(distant);
        let leases = lab.lease_directory(&Stack::V4.config(r#"{"Type":"vxlan","DirectRouting":true}"#))?;
        cluster.start_all(&Flanneld::on_directory(&leases))?;

        let known = cluster.nodes.iter().map(|node| Peer::of(node, true)).collect::<Result<Vec<_>>>()?;
        let near = |peer: &Peer| peer.public.to_string().starts_with("192.168.50.");
        for (node, own) in cluster.nodes.iter().zip(&known) {
            let others = known.iter().filter(|peer| peer.public != own.public).cloned();
            let (direct, tunnelled): (Vec<Peer>, Vec<Peer>) =
                others.partition(|peer| near(peer) && near(own));
            let mut expected = golden::vxlan(own, &tunnelled, tunnel_mtu(true));
            expected.extend(golden::host_gw(&direct));
            expected.sort();
            golden::expect(node.netns(), true, &expected)?;
        }
        all_reach_all(&cluster.pods("a")?, true, tunnel_mtu(true))
    });
}

/// A pod of a dual-stack cluster has the MTU of the IPv4 tunnel; the IPv6 one is 20 bytes smaller, and the
/// node says so to who sends larger packets.
#[test]
fn ipv6_in_dual_stack_discovers_the_mtu() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let cluster = lab.cluster(2)?;
        let _daemons = cluster.start_on_directory(lab, &Stack::Dual.config(r#"{"Type":"vxlan"}"#))?;
        let pods = cluster.pods("a")?;
        let to = pods[1].address(false)?;
        let connection = Connection::start(&pods[0].netns, &pods[1].netns, to)?;
        wait::until("the pod knows the MTU of the path", wait::LONG, || {
            let route = pods[0].netns.ip(&format!("-6 route get {to}"))?;
            ensure!(route.contains("mtu 1430"), "{}", route.trim());
            Ok(())
        })?;
        ensure!(connection.stop()?.bytes > 0, "the connection carried nothing");
        Ok(())
    });
}

/// Options of the config that the device must show.
#[test]
fn options_are_set_on_the_device() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let cluster = lab.cluster(2)?;
        let backend = r#"{"Type":"vxlan","VNI":42,"Port":4789,"GBP":true,"Learning":true,"MTU":1400}"#;
        let _daemons = cluster.start_on_directory(lab, &Stack::V4.config(backend))?;
        let device = kernel_state::device(cluster.nodes[0].netns(), "flannel.42")?;
        let data = &device["linkinfo"]["info_data"];
        ensure!(
            data["id"] == 42 && data["port"] == 4789 && data["gbp"] == true && data["learning"] == true,
            "{data}"
        );
        ensure!(device["mtu"] == 1350, "{device}");
        ensure!(cluster.nodes[0].subnet_env()?["FLANNEL_MTU"] == "1350");
        let pods = cluster.pods("a")?;
        all_reach_all(&pods, true, 1350)
    });
}

/// A node whose public address is not its own (translated on the way): peers send to the public one, the tunnel
/// starts from the interface's.
#[test]
fn translated_public_address_is_published() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let cluster = lab.cluster(1)?;
        let leases = LeaseDirectory::new(lab, &Stack::V4.config(r#"{"Type":"vxlan"}"#))?;
        let flanneld =
            Flanneld::on_directory(leases.path()).arguments("--iface=eth0 --public-ip=203.0.113.9");
        cluster.nodes[0].start(&flanneld)?.wait_ready()?;
        wait::until("the public address is published", wait::LONG, || {
            let (key, record) = leases.only_record()?;
            ensure!(record["PublicIP"] == "203.0.113.9", "{key}: {record}");
            Ok(())
        })?;
        let device = kernel_state::device(cluster.nodes[0].netns(), "flannel.1")?;
        ensure!(device["linkinfo"]["info_data"]["local"] == "192.168.50.1", "{device}");
        Ok(())
    });
}
