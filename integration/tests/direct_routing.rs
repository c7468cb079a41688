//! DirectRouting of the vxlan backend: which peers are reached without the tunnel, and how that changes.

use anyhow::{Context, Result, ensure};
use integration::directory::all_reach;
use integration::golden::{Peer, vxlan_device};
use integration::traffic::Datagrams;
use integration::{
    Cluster, Feature, Flanneld, Lab, LeaseDirectory, Netns, Pod, Segment, Stack, kernel_state, lab, wait,
};
use std::time::Duration;

/// ```text
///   n1 ── lan 192.168.50.0/24, fd50::/64 ── fabric (router) ── far 192.168.60.0/24, fd60::/64 ── n3
///   n2 ──┘
/// ```
struct TwoSegments {
    cluster: Cluster,
    far: Segment,
}

fn two_segments(lab: &Lab) -> Result<TwoSegments> {
    let mut cluster = lab.cluster(2)?;
    let far = lab.segment("far", &["192.168.60.254/24".parse()?, "fd60::254/64".parse()?])?;
    let n3 = lab.node("n3")?;
    let nic = far.attach(n3.netns(), "eth0", &["192.168.60.3/24".parse()?, "fd60::3/64".parse()?])?;
    far.default_routes(&nic)?;
    cluster.nodes.push(n3);
    cluster.nics.push(nic);
    Ok(TwoSegments { cluster, far })
}

const DIRECT: &str = r#"{"Type":"vxlan","DirectRouting":true}"#;

/// The route that n1 has to the subnet of a node: `via GATEWAY dev DEVICE`.
fn expect_route(cluster: &Cluster, to: usize, v4: bool, through: &str) -> Result<()> {
    let subnet = cluster.nodes[to].subnet(v4)?;
    let family = if v4 { "-4" } else { "-6" };
    wait::until(format!("n1 routes {subnet} {through}"), wait::LONG, || {
        let routes = cluster.nodes[0].netns().ip(&format!("{family} route show {subnet}"))?;
        let wanted = format!("{subnet} {through} proto 241");
        ensure!(routes.trim().starts_with(&wanted) && routes.lines().count() == 1, "{routes}");
        Ok(())
    })
}

fn through_tunnel(cluster: &Cluster, to: usize, v4: bool) -> Result<String> {
    Ok(format!("via {} dev {}", cluster.nodes[to].subnet(v4)?.addr(), vxlan_device(v4)))
}

#[test]
fn direct_routing_uses_a_common_link() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let TwoSegments { cluster, .. } = two_segments(lab)?;
        let _daemons = cluster.start_on_directory(lab, &Stack::Dual.config(DIRECT))?;
        let pods = cluster.pods("a")?;
        all_reach(&pods, Stack::Dual)?;
        let n1 = cluster.nodes[0].netns();
        for (v4, on_link, far) in [(true, "192.168.50.2", "192.168.60.3"), (false, "fd50::2", "fd60::3")] {
            expect_route(&cluster, 1, v4, &format!("via {on_link} dev eth0"))?;
            expect_route(&cluster, 2, v4, &through_tunnel(&cluster, 2, v4)?)?;
            // The tunnel knows of n3 alone.
            let peer = Peer::of(&cluster.nodes[2], v4)?;
            let mac = peer.mac.context("n3 has no tunnel device")?;
            let fdb = kernel_state::fdb(n1, vxlan_device(v4))?;
            ensure!(fdb == [format!("{mac} dst {far} self permanent")], "{fdb:?}");
            let neighbours = kernel_state::neighbours(n1, v4, vxlan_device(v4))?;
            ensure!(neighbours.len() == 1, "{neighbours:?}");
        }
        Ok(())
    });
}

/// n1 gets an interface on the link of n3, and loses it again: the way changes each time, the pods keep talking.
#[test]
fn direct_routing_follows_the_links() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let TwoSegments { cluster, far } = two_segments(lab)?;
        let _daemons = cluster.start_on_directory(lab, &Stack::Dual.config(DIRECT))?;
        let pods = cluster.pods("a")?;
        all_reach(&pods, Stack::Dual)?;
        let n1 = cluster.nodes[0].netns();
        let second = far.attach(n1, "eth1", &["192.168.60.1/24".parse()?, "fd60::1/64".parse()?])?;
        for (v4, on_link) in [(true, "192.168.60.3"), (false, "fd60::3")] {
            expect_route(&cluster, 2, v4, &format!("via {on_link} dev eth1"))?;
        }
        no_tunnel_left(n1)?;
        all_reach(&pods, Stack::Dual)?;

        n1.ip(&format!("link del {}", second.link))?;
        for v4 in [true, false] {
            expect_route(&cluster, 2, v4, &through_tunnel(&cluster, 2, v4)?)?;
        }
        all_reach(&pods, Stack::Dual)
    });
}

fn no_tunnel_left(netns: &Netns) -> Result<()> {
    wait::until("the tunnel devices know nobody", wait::LONG, || {
        for v4 in [true, false] {
            let device = vxlan_device(v4);
            let mut left = kernel_state::fdb(netns, device)?;
            left.extend(kernel_state::neighbours(netns, v4, device)?);
            ensure!(left.is_empty(), "{device}: {left:?}");
        }
        Ok(())
    })
}

/// The option is turned on and off while pods talk: nothing is lost. (With `--ip-masq`: without it the bridge plugin
/// masquerades, and the kernel drops a packet of each masqueraded flow whose way out changes.)
#[test]
fn direct_routing_is_switched_without_loss() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        let cluster = lab.cluster(2)?;
        let tunnel = Stack::Dual.config(r#"{"Type":"vxlan"}"#);
        let leases = LeaseDirectory::new(lab, &tunnel)?;
        cluster.start_all(&Flanneld::on_directory(leases.path()).argument("--ip-masq"))?;
        let pods = cluster.pods("a")?;
        all_reach(&pods, Stack::Dual)?;
        let flow = |pods: &[Pod], v4| {
            Datagrams::start(&pods[0].netns, &pods[1].netns, pods[1].address(v4)?, Duration::from_millis(2))
        };
        let flows = [flow(&pods, true)?, flow(&pods, false)?];
        for (config, direct) in [(Stack::Dual.config(DIRECT), true), (tunnel, false)] {
            leases.set_config(&config)?;
            for (v4, on_link) in [(true, "192.168.50.2"), (false, "fd50::2")] {
                let way =
                    if direct { format!("via {on_link} dev eth0") } else { through_tunnel(&cluster, 1, v4)? };
                expect_route(&cluster, 1, v4, &way)?;
            }
            for flow in &flows {
                flow.wait_answered(50)?;
            }
        }
        let [v4, v6] = flows;
        v4.stop()?.expect_none_lost().context("IPv4")?;
        v6.stop()?.expect_none_lost().context("IPv6")
    });
}
