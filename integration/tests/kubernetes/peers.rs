//! Nodes whose annotations are edited, malformed or duplicated, nodes that are created again, and many at once. Pods of two other nodes lose
//! no packet, and log and status name the node with its fault.

use anyhow::{Result, ensure};
use integration::{Daemon, lab, wait};
use serde_json::{Value, json};
use std::time::Duration;

use super::fixture::{Fixture, NODES, PREFIX, Traffic, logs, mark, peer, wait_status};

/// Peers that join at once: the numbers of 200 nodes.
const CROWD: std::ops::Range<u8> = 20..220;

#[test]
fn other_nodes_are_at_fault() {
    lab(|lab| {
        let fixture = Fixture::start(lab, 3)?;
        let daemons = fixture.two()?;
        fixture.register(3)?;
        let mut third = fixture.run(3)?;
        third.wait_ready()?;
        for (number, subnet) in
            [(1, "10.42.2.0/24"), (2, "10.42.1.0/24"), (1, "10.42.3.0/24"), (2, "10.42.3.0/24")]
        {
            fixture.wait_route(number, subnet, true)?;
        }
        let traffic = Traffic::start(&fixture.cluster)?;
        let since = mark(&daemons[0])?;
        many_join_and_leave(&fixture)?;
        annotations_are_unusable(&fixture, &daemons)?;
        annotations_are_edited(&fixture, &mut third)?;
        node_is_created_again(&fixture, &third, &traffic)?;
        wait::until("the nodes that left have no routes", wait::LONG, || {
            let routes = fixture.cluster.nodes[0].netns().ip("-4 route show dev flannel.1")?;
            ensure!(!routes.contains("10.42.100.0/24") && !routes.contains("10.42.219.0/24"), "{routes}");
            Ok(())
        })?;
        let log = daemons[0].log()?;
        ensure!(!log[since..].contains("store unreachable"), "{log}");
        traffic.expect_none_lost()
    });
}

fn many_join_and_leave(fixture: &Fixture) -> Result<()> {
    let items: Vec<Value> = CROWD
        .map(|number| {
            let mut node = peer(number);
            node["metadata"]["labels"]["crowd"] = "yes".into();
            node
        })
        .collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    fixture.admin().create_all(&list)?;
    for node in &fixture.cluster.nodes[..2] {
        wait::until(format!("{} has 200 more routes", node.name()), wait::LONG, || {
            let routes = node.netns().ip("-4 route show dev flannel.1")?;
            ensure!(routes.lines().count() == 2 + CROWD.len(), "{}", routes.lines().count());
            Ok(())
        })?;
    }
    fixture.admin().delete(&format!("{NODES}?labelSelector=crowd%3Dyes")).map(drop)
}

/// What each fault is called.
fn annotations_are_unusable(fixture: &Fixture, daemons: &[Daemon; 2]) -> Result<()> {
    let faults: [(u8, &str, Value, &str); 4] = [
        (
            11,
            "backend-data",
            "{".into(),
            r#"annotation flannel.alpha.coreos.com/backend-data is \"{\", but must be JSON"#,
        ),
        (
            12,
            "public-ip",
            "x".into(),
            r#"annotation flannel.alpha.coreos.com/public-ip is \"x\", but must be an IPv4 address"#,
        ),
        (13, "public-ip", Value::Null, "annotation flannel.alpha.coreos.com/public-ip"),
        // A node of Windows has this one.
        (
            14,
            "backend-data",
            r#"{"VNI":4096,"VtepMAC":"0a:00:00:00:00:0e"}"#.into(),
            "the node uses VNI 4096, this one 1",
        ),
    ];
    for (number, key, value, fault) in &faults {
        let mut node = peer(*number);
        node["metadata"]["annotations"][format!("{PREFIX}{key}")] = value.clone();
        if value.is_null() {
            node["metadata"]["annotations"].as_object_mut().map(|all| all.remove(&format!("{PREFIX}{key}")));
        }
        fixture.admin().create(NODES, &node)?;
        for daemon in daemons {
            wait_status(daemon, &[&format!("10.42.{number}.0-24"), fault], true)?;
        }
        fixture.wait_route(1, &format!("10.42.{number}.0/24"), false)?;
    }
    // The address of the second node, which names it; nobody else does what it says.
    let mut twin = peer(15);
    twin["metadata"]["annotations"][format!("{PREFIX}public-ip")] = "192.168.50.2".into();
    fixture.admin().create(NODES, &twin)?;
    let fault = "the node publishes 192.168.50.2, which is the address of this node";
    wait_status(&daemons[1], &["10.42.15.0-24", fault], true)?;
    // The podCIDR of the second node.
    let mut twin = peer(16);
    twin["spec"] = json!({"podCIDR": "10.42.2.0/24", "podCIDRs": ["10.42.2.0/24"]});
    fixture.admin().create(NODES, &twin)?;
    for daemon in daemons {
        wait_status(
            daemon,
            &["node n16: its podCIDR 10.42.2.0/24 is also assigned to node n2, which keeps it"],
            true,
        )?;
    }
    // Corrected, and broken while it is known.
    fixture.annotate(12, "public-ip", Some("192.168.50.12"))?;
    fixture.wait_route(1, "10.42.12.0/24", true)?;
    wait_status(&daemons[0], &["public-ip is \\\\\\\"x"], false)?;
    fixture.annotate(12, "backend-type", Some("host-gw"))?;
    fixture.wait_route(1, "10.42.12.0/24", false)
}

/// Someone edits the annotations of a node with a daemon. It restores them, unless it meets another daemon.
fn annotations_are_edited(fixture: &Fixture, third: &mut Daemon) -> Result<()> {
    let publishes = |expected: &str| {
        wait::until(format!("n3 publishes {expected}"), wait::LONG, || {
            let found = fixture.annotation(3, "public-ip")?;
            ensure!(found.as_deref() == Some(expected), "{found:?}");
            Ok(())
        })
    };
    let since = mark(third)?;
    fixture.annotate(3, "public-ip", Some("192.168.50.99"))?;
    publishes("192.168.50.3")?;
    logs(third, since, &["lease has a problem", "published 192.168.50.99 in the record 10.42.3.0-24"])?;
    fixture.annotate(3, "public-ip", None)?;
    fixture.annotate(3, "backend-data", Some("nonsense"))?;
    publishes("192.168.50.3")?;
    fixture.wait_route(1, "10.42.3.0/24", true)?;
    // Again and again is what a second daemon does.
    fixture.annotate(3, "public-ip", Some("192.168.50.98"))?;
    wait_status(
        third,
        &["conflicting daemon: it has published 192.168.50.98 in the record 10.42.3.0-24"],
        true,
    )?;
    wait::holds_for("it is left alone", Duration::from_secs(1), || publishes("192.168.50.98"))?;
    third.restart()?;
    publishes("192.168.50.3")
}

/// The node is deleted and created again with another podCIDR while a pod has an address of the old one.
fn node_is_created_again(fixture: &Fixture, third: &Daemon, traffic: &Traffic) -> Result<()> {
    let host = &fixture.cluster.nodes[2];
    let old = host.add_pod("old")?;
    old.netns.wait_ping(traffic.pods[0].address(true)?)?;
    let since = mark(third)?;
    fixture.admin().delete(&format!("{NODES}/n3"))?;
    fixture.register_with(3, &["10.42.33.0/24"])?;
    logs(third, since, &["lease lost", "must be replaced", "10.42.3.0-24"])?;
    fixture.wait_route(1, "10.42.33.0/24", true)?;
    fixture.wait_route(1, "10.42.3.0/24", false)?;
    fixture.wait_condition(3, "False", "FlannelIsUp")?;
    wait::until("n3 has its new subnet", wait::LONG, || {
        let env = host.subnet(true)?;
        ensure!(env.to_string() == "10.42.33.0/24", "{env}");
        Ok(())
    })?;
    old.delete()?;
    host.add_pod("new")?.netns.wait_ping(traffic.pods[0].address(true)?)
}
