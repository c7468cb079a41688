//! The gateway of pods on their bridge, which programs that manage networks remove.

use anyhow::{Context, Result, ensure};
use integration::{Cluster, Conflist, Daemon, Flanneld, Lab, LeaseDirectory, Netns, Node, lab, wait};
use serde_json::json;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const CONFIG: &str = r#"{"Network":"10.42.0.0/16","EnableNFTables":true,"Backend":{"Type":"host-gw"}}"#;

/// Promised is a second; the rest is for looking, and for a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(4);

/// One node, which is ready.
struct Site {
    cluster: Cluster,
    daemon: Daemon,
    _leases: LeaseDirectory,
}

impl Site {
    fn build(lab: &Lab) -> Result<Self> {
        let cluster = lab.cluster(1)?;
        let leases = LeaseDirectory::new(lab, CONFIG)?;
        let flanneld = Flanneld::on_directory(leases.path()).argument("--ip-masq");
        let daemon = cluster.start_all(&flanneld)?.pop().context("a cluster of one node")?;
        Ok(Self { cluster, daemon, _leases: leases })
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }
}

fn gateway(node: &Node) -> Result<IpAddr> {
    Ok(node.subnet_env()?["FLANNEL_SUBNET"].parse::<ipnet::IpNet>()?.addr())
}

fn wait_restored(netns: &Netns, bridge: &str, gateway: IpAddr) -> Result<()> {
    wait::until(format!("{bridge} has its gateway"), wait::LONG, || {
        let shown = netns.ip(&format!("-4 addr show dev {bridge} up"))?;
        ensure!(shown.contains(&format!("inet {gateway}/24 brd")), "{shown}");
        Ok(())
    })
}

#[test]
fn only_gateways_of_pods_are_restored() {
    lab(|lab| {
        let site = Site::build(lab)?;
        let (node, netns) = (site.node(), site.node().netns());
        let delegate = json!({"bridge": "pods0", "isDefaultGateway": true});
        let list = Conflist::new("cbr0", "0.3.1", vec![json!({"type": "flannel", "delegate": delegate})]);
        let pod = node.add_pod_with("pod", &list)?;
        let gateway = gateway(node)?;
        // Bridges of others, one of them with an address of this node's subnet and the other like Docker's.
        for line in ["link add other0 type bridge", "link add docker0 type bridge", "link set docker0 up"] {
            netns.ip(line)?;
        }
        netns.ip("addr add 172.17.0.1/16 dev docker0")?;
        for damage in ["addr flush dev pods0", "link set pods0 down"] {
            netns.ip("addr flush dev docker0")?;
            netns.ip("link set docker0 down")?;
            netns.ip(damage)?;
            let started = Instant::now();
            wait_restored(netns, "pods0", gateway)?;
            let took = started.elapsed();
            eprintln!("`{damage}` repaired after {took:?}");
            ensure!(took <= LIMIT, "`{damage}` was repaired after {took:?}");
            pod.netns.wait_ping(gateway)?;
        }
        let shown = netns.ip("addr show dev docker0")?;
        ensure!(!shown.contains("inet 172") && !shown.contains(",UP"), "{shown}");
        // Without pods, nobody needs it.
        pod.delete()?;
        netns.ip("addr flush dev pods0")?;
        netns.ip("link set other0 up")?;
        wait::holds_for("the gateway is removed", Duration::from_millis(500), || {
            let shown = netns.ip("-4 addr show dev pods0")?;
            ensure!(!shown.contains("inet "), "{shown}");
            Ok(())
        })?;
        node.add_pod_with("next", &list)?;
        wait_restored(netns, "pods0", gateway)
    });
}

#[test]
fn contested_gateway_is_reported() {
    lab(|lab| {
        let site = Site::build(lab)?;
        let (node, netns) = (site.node(), site.node().netns());
        let pod = node.add_pod("pod")?;
        let gateway = gateway(node)?;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(5) {
            netns.ip("addr flush dev cni0")?;
        }
        let restored = site.daemon.log()?.matches("gateway of pods restored").count();
        // Five at once, and then after pauses of 1, 2 and 4 seconds.
        ensure!((5..=8).contains(&restored), "{restored} times");
        let conflict = "bridge: another program repeatedly removes the gateway of pods from";
        node.flannelctl(&[], &["status"])?.expect(3, &[conflict])?;
        wait_restored(netns, "cni0", gateway)?;
        pod.netns.wait_ping(gateway)
    });
}
