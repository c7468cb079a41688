//! IP in IP, on a kernel that has it: pods reach each other, a restart and the upgrade from Go flannel lose nothing, and damage is
//! repaired.

use anyhow::{Context, Result, ensure};
use flannel_core::dataplane::PROTOCOL;
use integration::golden::Peer;
use integration::traffic::Datagrams;
use integration::{Cluster, Daemon, Feature, Flanneld, Lab, Netns, Pod, kernel_state, lab, wait};
use serde_json::Value;
use std::time::Duration;

const DEVICE: &str = "flannel.ipip";
/// Few enough for a guest under emulation.
const INTERVAL: Duration = Duration::from_millis(50);
/// 1500 less the outer header.
const MTU: u32 = 1480;

#[test]
fn pods_are_connected_and_damage_is_repaired() {
    lab(|lab| {
        let mut site = Site::build(lab, "")?;
        let node = &site.cluster.nodes[0].netns().clone();
        let [own, peer] = site.peers()?;
        let expected =
            state_of(&own, &format!("route {} via {} dev {DEVICE} onlink", peer.subnet, peer.public));
        expect(node, &expected)?;
        ensure!(site.cluster.nodes[0].subnet_env_text()?.contains("FLANNEL_MTU=1480\n"));
        let to = site.pods[1].address(true)?;
        site.pods[0].netns.wait_ping(to)?;
        site.pods[0].netns.ping_full(to, MTU)?;

        let flow = Datagrams::start(&site.pods[0].netns, &site.pods[1].netns, to, INTERVAL)?;
        let device = kernel_state::device(node, DEVICE)?;
        site.daemons[0].restart()?;
        site.daemons[0].kill()?;
        site.daemons[0].start()?;
        site.daemons[0].wait_ready_within(wait::LONG)?;
        flow.wait_answered(2)?;
        flow.stop()?.expect_none_lost()?;
        ensure!(device == kernel_state::device(node, DEVICE)?, "the device was changed or made anew");

        for damage in [
            format!("route del {}", peer.subnet),
            format!("addr flush dev {DEVICE}"),
            format!("link set {DEVICE} mtu 1300"),
            format!("link set {DEVICE} down"),
            format!("link set {DEVICE} type ipip local 192.0.2.1"),
            format!("link del {DEVICE}"),
        ] {
            node.ip(&damage)?;
            expect(node, &expected).with_context(|| damage.clone())?;
        }
        site.pods[0].netns.wait_ping(to)?;
        // The kernel's own device came with its module.
        ensure!(kernel_state::device(node, "tunl0").is_ok(), "the device of the kernel is gone");
        Ok(())
    });
}

#[test]
fn nodes_on_one_link_have_direct_routes() {
    lab(|lab| {
        let site = Site::build(lab, r#","DirectRouting":true"#)?;
        let [own, peer] = site.peers()?;
        let route = format!("route {} via {} dev eth0 onlink", peer.subnet, peer.public);
        expect(site.netns(0), &state_of(&own, &route))?;
        site.pods[0].netns.wait_ping(site.pods[1].address(true)?)
    });
}

#[test]
fn nodes_of_go_flannel_are_taken_over_and_handed_back() {
    lab(|lab| {
        let mut site = Site::build(lab, "")?;
        let [own, peer] = site.peers()?;
        let (first, to) = (&site.netns(0).clone(), site.pods[1].address(true)?);
        site.pods[0].netns.wait_ping(to)?;
        for daemon in &mut site.daemons {
            daemon.stop()?;
        }
        // As Go flannel makes it, without an alias and with another protocol of routes; n2 keeps no daemon.
        for (netns, own, peer) in [(first, &own, &peer), (site.netns(1), &peer, &own)] {
            netns.ip(&format!("link del {DEVICE}"))?;
            netns.ip_batch(&format!(
                "link add {DEVICE} type ipip local {} nopmtudisc ttl inherit\n\
                 link set {DEVICE} mtu {MTU} up\n\
                 addr add {}/32 dev {DEVICE}\n\
                 route add {} via {} dev {DEVICE} onlink proto boot\n",
                own.public,
                own.subnet.addr(),
                peer.subnet,
                peer.public
            ))?;
        }
        // Of a node that was deleted while the daemon was down.
        first.ip(&format!("route add 10.42.99.0/24 via 192.168.50.99 dev {DEVICE} onlink proto boot"))?;
        let index = kernel_state::device(first, DEVICE)?["ifindex"].clone();
        let flow = Datagrams::start(&site.pods[0].netns, &site.pods[1].netns, to, INTERVAL)?;
        flow.wait_answered(2)?;

        site.daemons[0].start()?;
        site.daemons[0].wait_ready_within(wait::LONG)?;
        let route = format!("route {} via {} dev {DEVICE} onlink", peer.subnet, peer.public);
        expect(first, &state_of(&own, &route))?;
        flow.wait_answered(2)?;
        site.daemons[0].stop()?;
        // What Go flannel does at its start.
        first.ip_batch(&format!(
            "route replace {} via {} dev {DEVICE} onlink proto boot\nlink set {DEVICE} mtu {MTU}\n",
            peer.subnet, peer.public
        ))?;
        flow.wait_answered(2)?;
        flow.stop()?.expect_none_lost()?;
        ensure!(index == kernel_state::device(first, DEVICE)?["ifindex"], "the device was made anew");
        Ok(())
    });
}

/// The device and the routes of a node, in the words of `ip`.
fn state_of(own: &Peer, route: &str) -> Vec<String> {
    vec![
        format!("link {DEVICE} mtu {MTU} up ipip remote any local {}", own.public),
        format!("addr {}/32", own.subnet.addr()),
        route.to_owned(),
    ]
}

/// Waits until the kernel holds exactly this.
fn expect(netns: &Netns, expected: &[String]) -> Result<()> {
    wait::until("the kernel is as it must be", wait::LONG, || {
        let device = kernel_state::device(netns, DEVICE)?;
        let data = &device["linkinfo"]["info_data"];
        let up = device["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "UP"));
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        let mut found = vec![format!(
            "link {DEVICE} mtu {} {} {} remote {} local {}",
            device["mtu"],
            if up { "up" } else { "down" },
            text(&device["linkinfo"]["info_kind"]),
            text(&data["remote"]),
            text(&data["local"])
        )];
        found.extend(kernel_state::addresses(netns, DEVICE)?.iter().map(|address| format!("addr {address}")));
        for route in kernel_state::routes(netns, true, " onlink")? {
            found.push(format!("route {}", route.replace(&format!(" proto {PROTOCOL}"), "")));
        }
        ensure!(found == expected, "found {found:#?}, expected {expected:#?}");
        Ok(())
    })
}

/// ```text
///   pod ── n1 ── lan ── n2 ── pod
/// ```
struct Site {
    cluster: Cluster,
    daemons: Vec<Daemon>,
    pods: Vec<Pod>,
}

impl Site {
    /// `options` follows the type in the config of the backend.
    fn build(lab: &Lab, options: &str) -> Result<Self> {
        lab.require(&[Feature::Ipip, Feature::Nft])?;
        let cluster = lab.cluster(2)?;
        let leases = lab.lease_directory(&format!(
            r#"{{"Network":"10.42.0.0/16","EnableNFTables":true,"Backend":{{"Type":"ipip"{options}}}}}"#
        ))?;
        let daemons = cluster.start_all(&Flanneld::on_directory(&leases))?;
        let pods = cluster.nodes.iter().map(|node| node.add_pod("pod")).collect::<Result<Vec<_>>>()?;
        Ok(Self { cluster, daemons, pods })
    }

    fn netns(&self, number: usize) -> &Netns {
        self.cluster.nodes[number].netns()
    }

    fn peers(&self) -> Result<[Peer; 2]> {
        Ok([Peer::of(&self.cluster.nodes[0], true)?, Peer::of(&self.cluster.nodes[1], true)?])
    }
}
