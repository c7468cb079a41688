//! `flanneld --kube-subnet-mgr` on a real API server, with the rights of the manifest only.
//!
//! ```text
//!   n1 ──┬── lan 192.168.50.0/24 ── control plane (192.168.50.230)
//!   n2 ──┘
//! ```

use anyhow::{Context, Result, ensure};
use integration::cni::all_reach_all;
use integration::kernel_state::{mac, ruleset};
use integration::kubernetes::{annotations, condition};
use integration::{Daemon, lab, wait};
use std::fs;

use super::fixture::{CONFIG, Fixture, NODES, PREFIX, Traffic, UNAVAILABLE, peer, wait_status};

/// Nodes become peers with the annotations of Go flannel, pods talk, a restart writes nothing, and peers whose annotations are
/// removed or damaged are handled by themselves.
#[test]
fn nodes_become_peers() {
    lab(|lab| {
        let fixture = Fixture::start(lab, 2)?;
        let mut daemons = fixture.two()?;
        fixture.wait_route(1, "10.42.2.0/24", true)?;
        fixture.wait_route(2, "10.42.1.0/24", true)?;
        let node = fixture.node(1)?;
        let found = annotations(&node);
        let mac = mac(fixture.cluster.nodes[0].netns(), "flannel.1")?;
        let expected = [
            ("backend-data", format!(r#"{{"VNI":1,"VtepMAC":"{}"}}"#, mac.trim())),
            ("backend-type", "vxlan".to_owned()),
            ("kube-subnet-manager", "true".to_owned()),
            ("public-ip", "192.168.50.1".to_owned()),
        ];
        let expected = expected.map(|(key, value)| (format!("{PREFIX}{key}"), value)).into_iter().collect();
        ensure!(found == expected, "{found:?}");
        fixture.wait_condition(1, "False", "FlannelIsUp")?;
        let found = condition(&fixture.node(1)?, UNAVAILABLE).cloned().context("no condition")?;
        ensure!(found["message"] == "Flannel is running on this node", "{found}");
        let traffic = Traffic::start(&fixture.cluster)?;
        all_reach_all(&traffic.pods, true, 1500 - 50)?;

        let before = fixture.node(1)?["metadata"]["resourceVersion"].clone();
        daemons[0].restart()?;
        daemons[0].kill()?;
        daemons[0].start()?;
        daemons[0].wait_ready()?;
        fixture.wait_route(1, "10.42.2.0/24", true)?;
        let after = fixture.node(1)?["metadata"]["resourceVersion"].clone();
        ensure!(before == after, "a restart changed the node: {before} {after}");
        traffic.expect_none_lost()?;

        fixture.annotate(2, "backend-data", Some("{"))?;
        // Its own daemon publishes them again; the damaged ones are reported by name.
        daemons[0].wait_log(&["node n2", "backend-data", "must be JSON"])?;
        fixture.wait_route(1, "10.42.2.0/24", true)?;
        daemons[1].stop()?;
        fixture.annotate(2, "kube-subnet-manager", None)?;
        fixture.wait_route(1, "10.42.2.0/24", false)?;
        daemons[1].start()?;
        fixture.wait_route(1, "10.42.2.0/24", true)
    });
}

/// A node without a podCIDR waits for it, one with an unsuitable podCIDR reports it, and both go on when the node is created again;
/// the network config is taken from the volume as from the store.
#[test]
fn the_cluster_assigns_subnets_and_config() {
    lab(|lab| {
        let fixture = Fixture::start(lab, 1)?;
        let mut daemon = fixture.run(1)?;
        daemon.wait_log(&["waiting for a subnet", "node n1, which is not in the cluster"])?;
        fixture.register_with(1, &[])?;
        daemon.wait_log(&[
            "waiting for a subnet",
            "spec.podCIDRs of node n1 has no IPv4 subnet",
            "--allocate-node-cidrs",
        ])?;
        ensure!(daemon.get("/readyz")?.status == 503);
        ensure!(annotations(&fixture.node(1)?).is_empty(), "nothing is published before there is a subnet");
        ensure!(condition(&fixture.node(1)?, UNAVAILABLE).is_none(), "it is not up");

        let again = |cidrs: &[&str]| {
            fixture.admin().delete(&format!("{NODES}/n1"))?;
            fixture.register_with(1, cidrs).map(drop)
        };
        again(&["10.99.1.0/24"])?;
        daemon.wait_log(&[
            "assigns 10.99.1.0/24",
            "outside of the IPv4 network 10.42.0.0/16",
            "--cluster-cidr",
        ])?;
        ensure!(annotations(&fixture.node(1)?).is_empty(), "nothing is published outside of the network");
        again(&["10.42.7.0/24"])?;
        daemon.wait_ready()?;
        let env = fixture.cluster.nodes[0].subnet(true)?;
        ensure!(env.to_string() == "10.42.7.0/24", "{env}");
        fixture.wait_condition(1, "False", "FlannelIsUp")?;

        // Someone sets it to something else.
        fixture.set_unavailable(1)?;
        fixture.wait_condition(1, "False", "FlannelIsUp")?;

        // The node is created again while pods could run.
        again(&["10.42.8.0/24"])?;
        wait::until("n1 has its new subnet", wait::LONG, || {
            let env = fixture.cluster.nodes[0].subnet(true)?;
            ensure!(env.to_string() == "10.42.8.0/24", "{env}");
            Ok(())
        })?;
        daemon.wait_log(&["lease lost", "10.42.7.0-24", "must be replaced"])?;

        // What Go ignores is ignored, too.
        let text =
            CONFIG.replace("EnableNFTables", r#"SubnetLen":31,"SubnetMin":"10.99.0.0","EnableNFTables"#);
        fixture.volume.set(&text, "ignored")?;
        daemon.wait_log(&["setting of the network config is ignored", "SubnetLen is 31"])?;
        fixture.volume.set(&CONFIG.replace("vxlan", "host-gw"), "second")?;
        daemon.wait_log(&["restart flanneld to take it"])?;
        fixture.volume.set(&CONFIG.replace("}}", r#","MTU":1400}}"#), "third")?;
        daemon.wait_log(&["network config taken from the store"])?;
        wait::until("subnet.env has the new MTU", wait::LONG, || {
            let text = fixture.cluster.nodes[0].subnet_env_text()?;
            ensure!(text.contains("FLANNEL_MTU=1350"), "{text}");
            Ok(())
        })
    });
}

/// The addresses that an administrator prescribes by annotations, and the VTEP MAC address of a node that keeps no state.
#[test]
fn annotations_of_the_administrator() {
    lab(|lab| {
        let mut fixture = Fixture::start(lab, 2)?;
        fixture.register(1)?;
        fixture.register(2)?;
        let nic = fixture.cluster.nodes[0].netns();
        nic.ip("addr add 192.168.50.101/24 dev eth0")?;
        fixture.annotate(1, "node-public-ip", Some("192.168.50.101"))?;
        fixture.annotate(1, "public-ipv6", Some("fd50::99"))?;
        fixture.annotate(1, "backend-v6-data", Some("null"))?;
        let mut first = fixture.run(1)?;
        first.wait_ready()?;
        publishes(&fixture, "192.168.50.101")?;
        let stale = (fixture.annotation(1, "public-ipv6")?, fixture.annotation(1, "backend-v6-data")?);
        ensure!(stale == (None, None), "{stale:?}");

        // Applied without a restart, also what cannot be applied.
        nic.ip("addr add 192.168.50.102/24 dev eth0")?;
        fixture.annotate(1, "node-public-ip", Some("192.168.50.102"))?;
        publishes(&fixture, "192.168.50.102")?;
        fixture.annotate(1, "node-public-ip", Some("none"))?;
        let fault =
            "annotation flannel.alpha.coreos.com/node-public-ip is \\\"none\\\", but must be an IPv4 address";
        wait_status(&first, &["prescribed address", fault], true)?;
        fixture.annotate(1, "node-public-ip", Some("192.168.50.103"))?;
        wait_status(&first, &["192.168.50.103"], true)?;
        publishes(&fixture, "192.168.50.102")?;
        fixture.annotate(1, "node-public-ip", None)?;
        publishes(&fixture, "192.168.50.1")?;
        fixture.annotate(1, "node-public-ip", Some("192.168.50.101"))?;
        publishes(&fixture, "192.168.50.101")?;
        let log = first.log()?;
        ensure!(log.matches("starting version").count() == 1, "{log}");

        // Taken at once, and given back at once.
        fixture.annotate(1, "public-ip-overwrite", Some("192.168.50.200"))?;
        for expected in ["192.168.50.200", "192.168.50.101"] {
            publishes(&fixture, expected)?;
            fixture.annotate(1, "public-ip-overwrite", None)?;
        }
        let log = first.log()?;
        ensure!(!log.contains("conflicting daemon"), "{log}");

        let data = fixture.annotation(1, "backend-data")?.context("no data")?;
        first.stop()?;
        fixture.cluster.reboot(0)?;
        let state = fixture.cluster.nodes[0].file("/var/lib/flannel")?;
        fs::remove_dir_all(&state).and_then(|()| fs::create_dir(&state))?;
        fixture.cluster.nodes[0].netns().ip("addr add 192.168.50.101/24 dev eth0")?;
        let mut first = fixture.run(1)?;
        first.wait_ready()?;
        let mac = mac(fixture.cluster.nodes[0].netns(), "flannel.1")?;
        ensure!(data.contains(mac.trim()), "{data} {mac}");
        Ok(())
    });
}

/// Waits until the first node publishes this address.
fn publishes(fixture: &Fixture, expected: &str) -> Result<()> {
    wait::until(format!("n1 publishes {expected}"), wait::LONG, || {
        let found = fixture.annotation(1, "public-ip")?;
        ensure!(found.as_deref() == Some(expected), "{found:?}");
        Ok(())
    })
}

/// `NetworkUnavailable` is not `False` before tunnel, rules and `subnet.env` are in place, and `True` with the reason until then if requested.
#[test]
fn network_unavailable_follows_readiness() {
    lab(|lab| {
        let fixture = Fixture::start(lab, 1)?;
        fixture.register(1)?;
        let node = &fixture.cluster.nodes[0];
        node.netns().ip("link add other_vx type vxlan id 1 dstport 8472 dev eth0")?;
        let flanneld =
            fixture.flanneld(1).argument("--report-node-network-unavailable").argument("--ip-masq");
        let mut daemon = node.start(&flanneld)?;
        daemon.wait_log(&["condition reported", "other_vx has VNI 1"])?;
        ensure!(condition(&fixture.node(1)?, UNAVAILABLE).is_none(), "a start takes some time");
        fixture.wait_condition(1, "True", "FlannelIsNotReady")?;
        let object = fixture.node(1)?;
        let found = condition(&object, UNAVAILABLE).context("no condition")?;
        let reason = "the interface other_vx has VNI 1 and UDP port 8472, which flannel.1 needs";
        ensure!(found["message"].as_str().is_some_and(|message| message.contains(reason)), "{found}");

        node.netns().ip("link del other_vx")?;
        fixture.wait_condition(1, "False", "FlannelIsUp")?;
        let rules = ruleset(node.netns())?;
        ensure!(rules.contains("masquerade") && rules.contains("10.42.1.0/24"), "{rules}");
        mac(node.netns(), "flannel.1")?;
        ensure!(node.subnet(true)?.to_string() == "10.42.1.0/24");
        daemon.wait_ready()?;
        // Set by someone else, whatever it is.
        fixture.set_unavailable(1)?;
        fixture.wait_condition(1, "False", "FlannelIsUp")
    });
}

/// Both families: annotations, routes and prescribed addresses, and what is left when the config disables one.
#[test]
fn dual_stack_nodes() {
    lab(|lab| {
        let fixture = Fixture::start(lab, 2)?;
        let both = r#""EnableIPv6":true,"IPv6Network":"fd42::/48","EnableNFTables""#;
        fixture.volume.set(&CONFIG.replace(r#""EnableNFTables""#, both), "both")?;
        let mut daemons = fixture.two()?;
        let traffic = Traffic::start(&fixture.cluster)?;
        traffic.pods[0].netns.wait_ping(traffic.pods[1].address(false)?)?;
        let publishes = |key: &str, expected: Option<&str>| {
            wait::until(format!("{key} of n1 is {expected:?}"), wait::LONG, || {
                let found = fixture.annotation(1, key)?;
                ensure!(found.as_deref() == expected, "{found:?}");
                Ok(())
            })
        };
        publishes("public-ipv6", Some("fd50::1"))?;
        let mac = mac(fixture.cluster.nodes[0].netns(), "flannel-v6.1")?;
        publishes("backend-v6-data", Some(&format!(r#"{{"VNI":1,"VtepMAC":"{}"}}"#, mac.trim())))?;
        fixture.annotate(1, "public-ipv6-overwrite", Some("fd50::1"))?;
        traffic.expect_none_lost()?;

        fixture.annotate(1, "public-ipv6-overwrite", Some("fd50::99"))?;
        publishes("public-ipv6", Some("fd50::99"))?;
        fixture.annotate(1, "public-ipv6-overwrite", None)?;
        fixture.cluster.nodes[0].netns().ip("addr add fd50::101/64 dev eth0 nodad")?;
        fixture.annotate(1, "node-public-ipv6", Some("fd50::101"))?;
        publishes("public-ipv6", Some("fd50::101"))?;
        // The kernel lists the newest address of IPv6 first.
        fixture.annotate(1, "node-public-ipv6", Some("fd50::1"))?;
        publishes("public-ipv6", Some("fd50::1"))?;
        fixture.cluster.nodes[0].netns().ip("addr del fd50::101/64 dev eth0")?;
        fixture.annotate(1, "node-public-ipv6", None)?;
        publishes("public-ipv6", Some("fd50::1"))?;

        fixture.volume.set(CONFIG, "again")?;
        daemons[0].wait_log(&["IPv6 network fd42::/48 -> off", "restart flanneld to take it"])?;
        daemons[0].restart()?;
        publishes("public-ipv6", None)?;
        publishes("backend-v6-data", None)?;
        publishes("public-ip", Some("192.168.50.1"))?;
        fixture.wait_route(2, "10.42.1.0/24", true)
    });
}

/// Annotations under another prefix, also those that are read: the VTEP MAC address of a node that keeps no state. A node with the usual
/// prefix is no peer.
#[test]
fn annotations_under_another_prefix() {
    lab(|lab| {
        let fixture = Fixture::start(lab, 2)?;
        fixture.register(1)?;
        fixture.register(2)?;
        fixture.admin().create(NODES, &peer(11))?;
        let prefix = "example.org/flannel";
        let flanneld =
            |number| fixture.flanneld(number).argument(format!("--kube-annotation-prefix={prefix}"));
        let mut daemons = Vec::new();
        for number in [1, 2] {
            daemons.push(fixture.cluster.nodes[usize::from(number) - 1].start(&flanneld(number))?);
        }
        daemons.iter_mut().try_for_each(Daemon::wait_ready)?;
        let traffic = Traffic::start(&fixture.cluster)?;
        fixture.wait_route(1, "10.42.11.0/24", false)?;
        let object = fixture.node(1)?;
        let found = annotations(&object);
        let mac_before = mac(fixture.cluster.nodes[0].netns(), "flannel.1")?;
        let data = found.get(&format!("{prefix}-backend-data")).context("no data")?;
        ensure!(data.contains(mac_before.trim()), "{data} {mac_before}");
        ensure!(found.keys().all(|key| key.starts_with(prefix)), "{found:?}");
        traffic.expect_none_lost()?;

        daemons[0].stop()?;
        let node = &fixture.cluster.nodes[0];
        node.netns().ip("link del flannel.1")?;
        let state = node.file("/var/lib/flannel")?;
        fs::remove_dir_all(&state).and_then(|()| fs::create_dir(&state))?;
        daemons[0].start()?;
        daemons[0].wait_ready()?;
        let mac_after = mac(node.netns(), "flannel.1")?;
        ensure!(mac_after == mac_before, "{mac_before} {mac_after}");
        Ok(())
    });
}

/// Two daemons with one node name: both report it, and neither rewrites the annotations again and again.
#[test]
fn one_name_for_two_nodes() {
    lab(|lab| {
        let fixture = Fixture::start(lab, 2)?;
        fixture.register(1)?;
        let mut first = fixture.run(1)?;
        first.wait_ready()?;
        let twin = fixture.cluster.nodes[1].start(&fixture.flanneld(1))?;
        first.wait_log(&["conflicting daemon", "192.168.50.2", "10.42.1.0-24", "name of its own"])?;
        twin.wait_log(&["lease acquired"])?;
        let settled = fixture.annotation(1, "public-ip")?;
        wait::holds_for("nobody rewrites the annotations", std::time::Duration::from_secs(3), || {
            let now = fixture.annotation(1, "public-ip")?;
            ensure!(now == settled, "{now:?} {settled:?}");
            Ok(())
        })
    });
}
