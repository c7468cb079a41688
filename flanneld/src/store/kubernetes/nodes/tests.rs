use super::*;
use flannel_core::kubernetes::json::decode_node;
use insta::assert_snapshot;

fn prefix() -> Prefix {
    "flannel.alpha.coreos.com".parse().unwrap()
}

/// A node with podCIDR 10.42.NUMBER.0/24 that publishes 192.0.2.NUMBER by host-gw, as changed by `edit`.
fn node(number: u8, revision: i64, edit: impl FnOnce(&mut serde_json::Value)) -> Node {
    let mut value = serde_json::json!({
        "metadata": {
            "name": format!("node-{number}"),
            "uid": format!("uid-{number}"),
            "resourceVersion": revision.to_string(),
            "annotations": {
                "flannel.alpha.coreos.com/kube-subnet-manager": "true",
                "flannel.alpha.coreos.com/backend-type": "host-gw",
                "flannel.alpha.coreos.com/backend-data": "null",
                "flannel.alpha.coreos.com/public-ip": format!("192.0.2.{number}"),
            },
        },
        "spec": { "podCIDRs": [format!("10.42.{number}.0/24")] },
    });
    edit(&mut value);
    decode_node(value.to_string().as_bytes(), &prefix()).unwrap()
}

fn annotate(key: &str, text: &str) -> impl FnOnce(&mut serde_json::Value) {
    let (key, text) = (format!("flannel.alpha.coreos.com/{key}"), text.to_owned());
    move |node| node["metadata"]["annotations"][key] = text.into()
}

/// The metadata of a node, which has no podCIDR.
fn metadata(mut node: Node) -> Node {
    node.pod_cidrs.0.clear();
    node
}

fn shown(changes: &[Change]) -> String {
    let line = |change: &Change| match change {
        Change::Put(Record { key, value, fault, .. }) => {
            format!(
                "put {key} {}",
                fault.clone().unwrap_or_else(|| String::from_utf8_lossy(value).into_owned())
            )
        }
        Change::Delete { key } => format!("delete {key}"),
        Change::Config(_) => "config".to_owned(),
        Change::Own(OwnNode { prescribed: Prescribed { public_ip, public_ipv6 }, fault, .. }) => {
            format!("own {public_ip:?} {public_ipv6:?} {fault:?}")
        }
    };
    changes.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Nodes 1 (this one), 2 and 3.
fn listed() -> Nodes {
    let mut nodes = Nodes::default();
    (nodes.own.name, nodes.own.families) = ("node-1".to_owned(), (true, false));
    for number in 1..=3 {
        assert!(nodes.list(node(number, 10, |_| {}), &prefix()).is_some());
    }
    nodes
}

#[test]
fn a_heartbeat_changes_nothing() {
    let mut nodes = listed();
    let beat = metadata(node(2, 11, |node| node["metadata"]["annotations"]["example.org/x"] = "y".into()));
    assert_eq!(nodes.need(&beat), Need::Nothing);
    assert_eq!(nodes.apply(beat, &prefix()), []);
}

#[test]
fn what_an_event_changes() {
    let mut nodes = listed();
    let mut apply = |node: Node| shown(&nodes.apply(metadata(node), &prefix()));
    let lines = [
        apply(node(2, 11, annotate("public-ip", "192.0.2.99"))),
        apply(node(2, 12, annotate("public-ip", "nonsense"))),
        apply(node(2, 13, |_| {})),
        apply(node(2, 14, annotate("kube-subnet-manager", "false"))),
        apply(node(2, 15, |_| {})),
        shown(&nodes.delete("node-2")),
        shown(&nodes.delete("node-2")),
    ];
    assert_snapshot!(lines.join("\n"), @r#"
    put 10.42.2.0-24 {"PublicIP":"192.0.2.99","PublicIPv6":null,"BackendType":"host-gw"}
    put 10.42.2.0-24 node node-2: annotation flannel.alpha.coreos.com/public-ip is "nonsense", but must be an IPv4 address
    put 10.42.2.0-24 {"PublicIP":"192.0.2.2","PublicIPv6":null,"BackendType":"host-gw"}
    delete 10.42.2.0-24
    put 10.42.2.0-24 {"PublicIP":"192.0.2.2","PublicIPv6":null,"BackendType":"host-gw"}
    delete 10.42.2.0-24
    "#);
}

#[test]
fn a_node_that_appears_is_read_once() {
    let mut nodes = listed();
    let unmanaged = metadata(node(4, 11, |node| node["metadata"]["annotations"] = serde_json::json!({})));
    assert_eq!(nodes.need(&unmanaged), Need::Nothing, "no daemon publishes yet");
    assert_eq!(nodes.apply(unmanaged, &prefix()), []);
    let managed = node(4, 12, |_| {});
    assert_eq!(nodes.need(&metadata(managed.clone())), Need::Node);
    assert!(shown(&nodes.apply(managed, &prefix())).starts_with("put 10.42.4.0-24 "));
    assert_eq!(nodes.need(&metadata(node(4, 13, annotate("public-ip", "192.0.2.77")))), Need::Nothing);
}

#[test]
fn a_node_that_was_created_again_is_another_one() {
    let mut nodes = listed();
    let again = node(2, 20, |node| {
        node["metadata"]["uid"] = "other".into();
        node["spec"]["podCIDRs"] = serde_json::json!(["10.42.9.0/24"]);
    });
    assert_eq!(nodes.need(&metadata(again.clone())), Need::Node);
    let changes = shown(&nodes.apply(again, &prefix()));
    assert!(changes.starts_with("delete 10.42.2.0-24\nput 10.42.9.0-24 "), "{changes}");
}

#[test]
fn malformed_nodes_are_named() {
    let mut nodes = listed();
    let mut fault = |node: Node| nodes.list(node, &prefix()).unwrap();
    let bad = fault(node(5, 11, annotate("backend-data", "{")));
    assert_eq!((bad.key.as_str(), bad.value.len()), ("10.42.5.0-24", 0));
    assert_snapshot!(bad.fault.unwrap(), @r#"node node-5: annotation flannel.alpha.coreos.com/backend-data is "{", but must be JSON"#);
    let without = fault(node(6, 11, |node| node["spec"] = serde_json::json!({})));
    assert_eq!(without.key, "(node node-6)");
    assert!(Subnets::parse_key(&without.key).is_err());
    assert_snapshot!(without.fault.unwrap(), @"node node-6: the node has no podCIDR");
    assert!(Subnets::parse_key("(node 10.5.1.0-24)").is_err(), "the name of a node may look like a key");
}

/// Node 7, which has the podCIDR of node 3 and was created at this time.
fn twin(revision: i64, created: &str) -> Node {
    node(7, revision, |node| {
        node["spec"]["podCIDRs"] = serde_json::json!(["10.42.3.0/24"]);
        node["metadata"]["creationTimestamp"] = created.into();
    })
}

#[test]
fn of_two_nodes_with_one_pod_cidr_the_older_one_has_it() {
    let mut nodes = listed();
    let fault = "put (node node-7) node node-7: its podCIDR 10.42.3.0/24 is also assigned to node node-3, which keeps it";
    let changes = shown(&nodes.apply(twin(11, "2026-01-02T03:04:05Z"), &prefix()));
    assert!(changes.starts_with(fault), "{changes}");
    assert_eq!(nodes.apply(metadata(twin(12, "2026-01-02T03:04:05Z")), &prefix()), [], "known already");
    nodes.delete("node-3");
    assert!(nodes.is_shared("10.42.3.0-24"), "a listing gives it to the other node");
    nodes.delete("node-7");
    assert!(!nodes.is_shared("10.42.3.0-24"));
    // The younger one was known first; and this node never gives way.
    let mut nodes = listed();
    nodes.known.get_mut("node-3").unwrap().created = 1_800_000_000;
    let changes = shown(&nodes.apply(twin(11, "2026-01-02T03:04:05Z"), &prefix()));
    assert!(changes.contains("put (node node-3) ") && changes.contains("put 10.42.3.0-24 "), "{changes}");
    let own = node(7, 12, |node| node["spec"]["podCIDRs"] = serde_json::json!(["10.42.1.0/24"]));
    let own = Node { uid: "again".to_owned(), ..own };
    let changes = shown(&nodes.apply(own, &prefix()));
    assert!(
        changes.contains("put (node node-7) ") && changes.contains("also assigned to node node-1"),
        "{changes}"
    );
}

#[test]
fn a_listing_gives_a_pod_cidr_to_one_node() {
    for (created, loser) in [("2026-01-02T03:04:05Z", "node-7"), ("", "node-3")] {
        let mut nodes = Nodes::default();
        let mut third = node(3, 10, |_| {});
        third.created = 1_700_000_000;
        let listed = [third, twin(11, created)].map(|node| (node.name.clone(), node));
        let mut records: BTreeMap<String, Record> =
            listed.into_iter().map(|(name, node)| (name, nodes.list(node, &prefix()).unwrap())).collect();
        nodes.settle(&mut records);
        let faulty: Vec<&str> = records
            .iter()
            .filter(|(_, record)| record.fault.is_some())
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(faulty, [loser]);
    }
}

#[test]
fn this_node_has_only_families_of_the_config() {
    let mut nodes = listed();
    let stale = node(1, 11, |node| {
        node["spec"]["podCIDRs"] = serde_json::json!(["10.42.1.0/24", "fd60:0:0:1::/64"]);
        node["metadata"]["annotations"]["flannel.alpha.coreos.com/public-ipv6"] = "fd00::1".into();
    });
    assert_eq!(nodes.list(stale.clone(), &prefix()).unwrap().key, "10.42.1.0-24");
    let peer = Node { name: "node-8".to_owned(), ..stale };
    assert_eq!(
        nodes.list(peer, &prefix()).unwrap().key,
        "10.42.1.0-24&fd60:0:0:1::-64",
        "of a peer, all count"
    );
}

#[test]
fn an_overwritten_address_is_what_this_node_published() {
    let mut nodes = listed();
    let attrs = node(1, 10, |_| {}).annotations.attrs(&prefix()).unwrap();
    let before = node(1, 11, annotate("public-ip-overwrite", "203.0.113.1"));
    // Not published yet.
    let written = Published::new(&attrs, &node(1, 10, |_| {}).annotations, &prefix()).unwrap();
    nodes.own.published = Some((attrs.clone(), written));
    assert_eq!(nodes.own.attrs(&before.annotations, &prefix()), None, "it has to be published again");
    assert!(!nodes.apply(metadata(before.clone()), &prefix()).is_empty(), "and the claim has to notice");
    // Published.
    let written = Published::new(&attrs, &before.annotations, &prefix()).unwrap();
    nodes.own.published = Some((attrs.clone(), written));
    let after = node(1, 12, |node| {
        annotate("public-ip-overwrite", "203.0.113.1")(node);
        annotate("public-ip", "203.0.113.1")(node);
    });
    assert_eq!(nodes.own.attrs(&after.annotations, &prefix()), Some(attrs.clone()), "as this node wants it");
    // The overwrite is removed.
    assert_eq!(
        nodes.own.attrs(&node(1, 13, annotate("public-ip", "203.0.113.1")).annotations, &prefix()),
        None
    );
    // Someone has removed the address.
    let removed = node(1, 14, |node| {
        drop(
            node["metadata"]["annotations"]
                .as_object_mut()
                .unwrap()
                .remove("flannel.alpha.coreos.com/public-ip"),
        )
    });
    assert_eq!(nodes.own.attrs(&removed.annotations, &prefix()), None);
    // Another daemon.
    let other =
        nodes.own.attrs(&node(1, 14, annotate("public-ip", "198.51.100.7")).annotations, &prefix()).unwrap();
    assert_eq!(other.public_ip, Some([198, 51, 100, 7].into()));
}

#[test]
fn what_the_store_knows_before_there_is_a_lease() {
    let mut nodes = Nodes::default();
    let own = nodes.take_own(&node(1, 10, annotate("node-public-ip", "192.0.2.200")), &prefix());
    let expected = Prescribed { public_ip: Some([192, 0, 2, 200].into()), public_ipv6: None };
    assert_eq!((own.prescribed, own.fault), (expected, None));
    assert_eq!(own.published.unwrap().backend_type, "host-gw");
    let bad = nodes.take_own(&node(1, 10, annotate("node-public-ip", "x")), &prefix());
    assert_eq!(bad.prescribed, Prescribed::default());
    assert!(bad.fault.unwrap().contains("node-public-ip is \"x\""));
}

#[test]
fn prescribed_addresses_are_delivered_when_they_change() {
    let mut nodes = listed();
    let mut apply = |number, revision, key, text| {
        let changes = nodes.apply(metadata(node(number, revision, annotate(key, text))), &prefix());
        shown(&changes).lines().find(|line| line.starts_with("own")).map(str::to_owned)
    };
    assert_eq!(apply(2, 11, "node-public-ip", "192.0.2.200"), None, "of another node");
    let own = |text: &str| Some(format!("own {text}"));
    assert_eq!(apply(1, 12, "node-public-ip", "192.0.2.200"), own("Some(192.0.2.200) None None"));
    assert_eq!(apply(1, 13, "node-public-ip", "192.0.2.200"), None, "nothing changed");
    let fault = apply(1, 14, "node-public-ipv6", "x").unwrap();
    assert!(fault.contains("None None Some") && fault.contains("must be an IPv6 address"), "{fault}");
    assert_eq!(apply(1, 15, "node-public-ip", ""), own("None None None"));
}
