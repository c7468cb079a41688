//! The host-gw backend, from outside: records, `subnet.env`, routes, packets of full size.

use anyhow::ensure;
use integration::cni::all_reach_all;
use integration::directory::{all_reach, expect_log, wait_log};
use integration::golden::{self, Known, Peer, Stack};
use integration::{Doctor, Feature, Flanneld, LeaseDirectory, kernel_state, lab, wait};
use std::fs;
use std::time::{Duration, Instant};

const HOST_GW: &str = r#"{"Type":"host-gw"}"#;
const UNDERLAY_MTU: u32 = 1500;

fn three_nodes(stack: Stack) {
    lab(|lab| {
        let cluster = lab.cluster(3)?;
        let leases = lab.lease_directory(&stack.config(HOST_GW))?;
        cluster.start_all(&Flanneld::on_directory(&leases))?;
        for node in &cluster.nodes {
            for &v4 in stack.families() {
                let peers = Peer::others(&cluster.nodes, node, v4)?;
                golden::expect(node.netns(), v4, &golden::host_gw(&peers))?;
            }
            let known = Known::of(node, stack)?;
            let (found, expected) = (node.subnet_env_text()?, known.subnet_env(UNDERLAY_MTU));
            ensure!(found == expected, "subnet.env of {} is\n{found}not\n{expected}", node.name());
            let found = fs::read_to_string(leases.join("subnets").join(known.key()))?;
            ensure!(found == known.record("host-gw"), "the record of {} is {found}", node.name());
        }
        let pods = cluster.pods("a")?;
        for &v4 in stack.families() {
            all_reach_all(&pods, v4, UNDERLAY_MTU)?;
        }
        Ok(())
    });
}

#[test]
fn ipv4() {
    three_nodes(Stack::V4);
}

#[test]
fn ipv6() {
    three_nodes(Stack::V6);
}

#[test]
fn dual_stack() {
    three_nodes(Stack::Dual);
}

/// The backend is changed in the store and the daemons are restarted one after the other: pods go on, and nothing
/// of the old backend is left.
#[test]
fn replaces_vxlan() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let cluster = lab.cluster(2)?;
        let (leases, mut daemons) =
            cluster.start_on_directory(lab, &Stack::Dual.config(r#"{"Type":"vxlan","MTU":1500}"#))?;
        let pods = cluster.pods("a")?;
        all_reach(&pods, Stack::Dual)?;
        leases.set_config(&Stack::Dual.config(HOST_GW))?;
        for daemon in &mut daemons {
            wait_log(daemon, &["vxlan -> host-gw", "restart flanneld"])?;
        }
        for daemon in &mut daemons {
            daemon.restart()?;
        }
        all_reach(&pods, Stack::Dual)?;
        for node in &cluster.nodes {
            for v4 in [true, false] {
                let peers = Peer::others(&cluster.nodes, node, v4)?;
                golden::expect(node.netns(), v4, &golden::host_gw(&peers))?;
            }
        }
        Ok(())
    });
}

/// ```text
///   n1 ── lan 192.168.50.0/24 ── fabric (router) ── far 192.168.60.0/24 ── n3
/// ```
#[test]
fn reports_a_node_on_another_link() {
    lab(|lab| {
        let mut cluster = lab.cluster(1)?;
        let far = lab.segment("far", &["192.168.60.254/24".parse()?])?;
        let n3 = lab.node("n3")?;
        far.default_routes(&far.attach(n3.netns(), "eth0", &["192.168.60.3/24".parse()?])?)?;
        cluster.nodes.push(n3);
        let (_leases, daemons) = cluster.start_on_directory(lab, &Stack::V4.config(HOST_GW))?;
        wait_log(&daemons[0], &["192.168.60.3 is not on the link of eth0", "vxlan does not"])?;
        let routes = kernel_state::routes(cluster.nodes[0].netns(), true, "10.42.")?;
        ensure!(routes.is_empty(), "{routes:?}");
        Ok(())
    });
}

/// Promised is "at once"; the rest is for looking, and for a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(4);

/// What another program did to the routes of a node, what is said about it, and the command that resolves it.
const ROUTES: [(&str, &str, &str); 2] = [
    (
        "route add 192.168.50.2/32 via 192.168.50.254 dev eth0",
        "192.168.50.2 is not on the link of eth0: the route to 192.168.50.2/32 leads to it through 192.168.50.254",
        "ip route del 192.168.50.2/32 via 192.168.50.254 dev eth0",
    ),
    (
        "route del 192.168.50.0/24 dev eth0",
        "192.168.50.2 is not on the link of eth0: eth0 has no route to its network 192.168.50.0/24",
        "ip route add 192.168.50.0/24 dev eth0",
    ),
];

#[test]
fn routes_in_the_way_are_named() {
    lab(|lab| {
        let cluster = lab.cluster(2)?;
        let (node, netns) = (&cluster.nodes[0], cluster.nodes[0].netns());
        let (leases, mut daemons) = cluster.start_on_directory(lab, &Stack::V4.config(HOST_GW))?;
        Doctor::install_cni_config(node)?;
        let doctor = Doctor::of(node, &Flanneld::on_directory(leases.path()));
        for (damage, problem, fix) in ROUTES {
            daemons[0].stop()?;
            netns.ip("route flush proto 241")?;
            netns.ip(damage)?;
            daemons[0].start()?;
            daemons[0].wait_ready()?;
            wait_log(&daemons[0], &[problem])?;
            let status = daemons[0].status("/peers")?.body;
            ensure!(status.contains(problem), "{status}");
            let found = doctor.expect(&["peer-unusable"])?;
            ensure!(found[0].value["evidence"].to_string().contains(problem), "{:#}", found[0].value);
            ensure!(found[0].value["fix"] == fix, "{:#}", found[0].value);

            netns.run(fix)?;
            let started = Instant::now();
            wait::until("the node has its route", wait::LONG, || {
                let routes = kernel_state::routes(netns, true, "10.42.")?;
                ensure!(!routes.is_empty(), "no route");
                Ok(())
            })?;
            let took = started.elapsed();
            eprintln!("route set {took:?} after `{fix}`");
            ensure!(took < LIMIT, "continued after {took:?}");
            doctor.expect(&[])?;
        }
        Ok(())
    });
}

/// host-gw cannot work with an address that is translated on the way.
#[test]
fn rejects_an_unassigned_public_address() {
    lab(|lab| {
        let cluster = lab.cluster(1)?;
        let leases = LeaseDirectory::new(lab, &Stack::V4.config(HOST_GW))?;
        let flanneld =
            Flanneld::on_directory(leases.path()).arguments("--iface=eth0 --public-ip=203.0.113.9");
        let mut daemon = cluster.nodes[0].start(&flanneld)?;
        let status = daemon.wait_end()?;
        ensure!(status.code() == Some(1), "{status}");
        expect_log(&daemon, &["203.0.113.9 is not on eth0", "192.168.50.1", "leave --public-ip out"])
    });
}
