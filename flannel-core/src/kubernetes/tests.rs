//! The bodies in `samples/` are those of a kube-apiserver 1.36.

use super::*;
use crate::lease::{LeaseAttrs, Revision, Subnets};
use crate::store::Prescribed;
use insta::assert_snapshot;
use proptest::prelude::*;
use std::fmt::Write as _;

const NODE: &[u8] = include_bytes!("samples/node.pb");
const NODE_JSON: &[u8] = include_bytes!("samples/node.json");
const LIST: &[u8] = include_bytes!("samples/list.pb");
const PAGE: &[u8] = include_bytes!("samples/page1.pb");
const WATCH: &[u8] = include_bytes!("samples/watch.pb");
const INITIAL: &[u8] = include_bytes!("samples/initial.pb");
const WATCH_JSON: &[u8] = include_bytes!("samples/watch.json");
const NOT_FOUND: &[u8] = include_bytes!("samples/404.pb");
const UNAUTHORIZED: &[u8] = include_bytes!("samples/401.pb");

fn prefix() -> Prefix {
    "flannel.alpha.coreos.com".parse().unwrap()
}

/// A node in one line.
fn line(node: &Node) -> String {
    let Node { name, revision, annotations, pod_cidrs, network_unavailable, .. } = node;
    let mut out = format!("{name}@{revision} podCIDRs={:?}", pod_cidrs.0);
    for key in [Key::Manager, Key::BackendType, Key::BackendData, Key::PublicIp] {
        if let Some(value) = annotations.get(key) {
            write!(out, " {}={value}", prefix().name(key).rsplit('/').next().unwrap()).unwrap();
        }
    }
    if let Some(Condition { status, reason, message }) = network_unavailable {
        write!(out, " NetworkUnavailable={status} {reason} {message:?}").unwrap();
    }
    out
}

fn read_list(body: &[u8], piece: usize) -> (Vec<Node>, ListEnd) {
    let (mut reader, mut nodes) = (NodeListReader::default(), Vec::new());
    for piece in body.chunks(piece) {
        reader.push(piece, &prefix(), |node| nodes.push(node)).unwrap();
    }
    (nodes, reader.finish().unwrap())
}

fn read_watch(stream: &[u8], piece: usize) -> Vec<WatchItem> {
    let (mut reader, mut items) = (FrameReader::default(), Vec::new());
    for piece in stream.chunks(piece) {
        reader.push(piece);
        while let Some(item) = reader.next(&prefix()).unwrap() {
            items.push(item);
        }
    }
    items
}

fn shown(items: &[WatchItem]) -> String {
    let line = |item: &WatchItem| match item {
        WatchItem::Applied(node) => format!("applied {}", line(node)),
        WatchItem::Deleted(node) => format!("deleted {}", line(node)),
        WatchItem::Bookmark { node, is_initial } => {
            format!("bookmark {} initial={is_initial}", node.revision)
        }
        WatchItem::Failed(status) => format!("failed {status:?}"),
    };
    items.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_node_of_the_server() {
    let node = decode_node(NODE, &prefix()).unwrap();
    assert_snapshot!(line(&node), @r#"node-1@230 podCIDRs=["10.42.0.0/24", "fd60::/64"] kube-subnet-manager=true backend-type=vxlan backend-data={"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"} public-ip=192.168.77.17 NetworkUnavailable=False FlannelIsUp "Flannel is running on this node""#);
    assert_eq!(node.uid, "d813c166-edd9-4754-8161-3dccc6951a14");
    assert_eq!(json::decode_node(NODE_JSON, &prefix()).unwrap(), node, "the same from JSON");
    let other: Prefix = "example.org/x".parse().unwrap();
    assert_eq!(decode_node(NODE, &other).unwrap().annotations, Annotations::default());
}

#[test]
fn a_list_in_pieces_of_any_size() {
    let (nodes, end) = read_list(LIST, LIST.len());
    assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["node-1", "node-2"]);
    assert_eq!((end.revision, end.next_page.as_str()), (Revision::new(231), ""));
    for piece in [1, 2, 3, 7, 64, 500] {
        assert_eq!(read_list(LIST, piece), (nodes.clone(), end.clone()), "pieces of {piece} bytes");
    }
    let (first, end) = read_list(PAGE, 100);
    assert_eq!(first.len(), 1);
    assert!(end.next_page.starts_with("eyJ"), "{end:?}");
}

#[test]
fn a_list_that_ends_early_is_an_error() {
    for len in 0..LIST.len() - 4 {
        let mut reader = NodeListReader::default();
        let read = reader.push(&LIST[..len], &prefix(), |_| {});
        assert!(read.is_err() || reader.finish().is_err(), "after {len} bytes");
    }
    let mut reader = NodeListReader::default();
    assert_eq!(reader.push(b"<html>", &prefix(), |_| {}), Err(WireError::NoEnvelope));
}

#[test]
fn the_events_of_a_watch() {
    let items = read_watch(WATCH, WATCH.len());
    assert_snapshot!(shown(&items), @r#"
    applied node-1@221 podCIDRs=[]
    applied node-2@223 podCIDRs=[]
    applied node-3@225 podCIDRs=[]
    bookmark 228 initial=true
    applied node-1@229 podCIDRs=[] kube-subnet-manager=true backend-type=vxlan backend-data={"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"} public-ip=192.168.77.17
    applied node-1@230 podCIDRs=[] kube-subnet-manager=true backend-type=vxlan backend-data={"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"} public-ip=192.168.77.17
    deleted node-3@231 podCIDRs=[]
    "#);
    for piece in [1, 5, 133, 300] {
        assert_eq!(read_watch(WATCH, piece), items, "pieces of {piece} bytes");
    }
    let is_initial = |item: &WatchItem| matches!(item, WatchItem::Bookmark { is_initial: true, .. });
    assert!(read_watch(INITIAL, 50).iter().any(is_initial));
    let lines = WATCH_JSON.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let from_json: Vec<WatchItem> = lines.map(|line| json::decode_event(line, &prefix()).unwrap()).collect();
    let without_bookmarks: Vec<WatchItem> =
        items.into_iter().filter(|item| !matches!(item, WatchItem::Bookmark { .. })).collect();
    assert_eq!(from_json, without_bookmarks, "the same from JSON");
}

#[test]
fn errors_of_the_server() {
    let status = decode_status(NOT_FOUND).unwrap();
    assert_eq!((status.code, status.reason.as_str()), (404, "NotFound"));
    assert_eq!(status.message, "nodes \"none\" not found");
    assert_eq!(decode_status(UNAUTHORIZED).unwrap().code, 401);
    let expired =
        br#"{"type":"ERROR","object":{"kind":"Status","message":"too old","reason":"Expired","code":410}}"#;
    let status = ApiStatus { message: "too old".to_owned(), reason: "Expired".to_owned(), code: 410 };
    assert_eq!(json::decode_event(expired, &prefix()), Ok(WatchItem::Failed(status)));
}

#[test]
fn prefixes() {
    for (text, name) in [
        ("flannel.alpha.coreos.com", "flannel.alpha.coreos.com/backend-type"),
        ("flannel.alpha.coreos.com/", "flannel.alpha.coreos.com/backend-type"),
        ("flannel.alpha.coreos.com/prefix", "flannel.alpha.coreos.com/prefix-backend-type"),
        ("flannel.alpha.coreos.com/prefix-", "flannel.alpha.coreos.com/prefix-backend-type"),
        ("org.com", "org.com/backend-type"),
        ("org9.com", "org9.com/backend-type"),
        ("org.com/9", "org.com/9-backend-type"),
    ] {
        assert_eq!(text.parse::<Prefix>().unwrap().name(Key::BackendType), name, "{text}");
    }
    for text in [
        "",
        "org",
        "org/",
        "org/prefix",
        "org.COM",
        "ORG.foo.com",
        "org.com/PREFIX",
        "a.b/c/d",
        "a..b",
        "-a.b",
        "a.b/-x",
    ] {
        assert!(text.parse::<Prefix>().is_err(), "{text}");
    }
}

fn annotated(entries: &[(Key, &str)]) -> Annotations {
    let mut annotations = Annotations::default();
    entries.iter().for_each(|(key, value)| annotations.set(*key, (*value).to_owned()));
    annotations
}

fn cidrs(texts: &[&str]) -> Subnets {
    PodCidrs(texts.iter().map(|text| (*text).to_owned()).collect()).subnets().unwrap()
}

#[test]
fn leases_of_nodes() {
    let dual = cidrs(&["10.42.1.0/24", "fd60:0:0:1::/64"]);
    let show = |subnets: &Subnets, entries: &[(Key, &str)]| match annotated(entries).lease(subnets, &prefix())
    {
        Ok((subnets, attrs)) => format!("{subnets} {}", attrs.to_json()),
        Err(reason) => reason,
    };
    let v4 = (Key::PublicIp, "192.0.2.1");
    let vxlan = (Key::BackendType, "vxlan");
    let data = (Key::BackendData, r#"{"VNI":1, "VtepMAC":"12:c6:65:89:b4:e3"}"#);
    let lines = [
        show(&dual, &[v4, vxlan, data]),
        show(
            &dual,
            &[v4, (Key::PublicIpv6, "fd00::1"), (Key::BackendType, "host-gw"), (Key::BackendData, "null")],
        ),
        show(&dual, &[v4, (Key::BackendData, "")]),
        show(&cidrs(&["fd60::/64"]), &[(Key::PublicIp, "0.0.0.0"), (Key::PublicIpv6, "fd00::1")]),
        show(&dual, &[(Key::PublicIp, "nonsense")]),
        show(&dual, &[(Key::PublicIp, "fd00::1")]),
        show(&dual, &[v4, (Key::BackendData, "{")]),
        show(&dual, &[vxlan]),
        show(&cidrs(&["fd60::/64"]), &[v4]),
        show(&cidrs(&[]), &[v4]),
    ];
    assert_snapshot!(lines.join("\n"), @r#"
    10.42.1.0-24 {"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}}
    10.42.1.0-24&fd60:0:0:1::-64 {"PublicIP":"192.0.2.1","PublicIPv6":"fd00::1","BackendType":"host-gw"}
    10.42.1.0-24 {"PublicIP":"192.0.2.1","PublicIPv6":null}
    0.0.0.0-0&fd60::-64 {"PublicIP":"0.0.0.0","PublicIPv6":"fd00::1"}
    annotation flannel.alpha.coreos.com/public-ip is "nonsense", but must be an IPv4 address
    annotation flannel.alpha.coreos.com/public-ip is "fd00::1", but must be an IPv4 address
    annotation flannel.alpha.coreos.com/backend-data is "{", but must be JSON
    the node has no public address of the family of its podCIDR (IPv4, IPv6): annotation flannel.alpha.coreos.com/public-ip
    the node has no public address of the family of its podCIDR (IPv6): annotation flannel.alpha.coreos.com/public-ipv6
    the node has no podCIDR
    "#);
}

#[test]
fn pod_cidrs() {
    assert_eq!(cidrs(&["10.42.1.0/24"]).to_string(), "10.42.1.0-24");
    assert_eq!(cidrs(&["fd60::/64", "10.42.1.0/24"]).to_string(), "10.42.1.0-24&fd60::-64");
    assert!(cidrs(&[]).is_empty());
    let fault = |texts: &[&str]| {
        PodCidrs(texts.iter().map(|text| (*text).to_owned()).collect()).subnets().unwrap_err()
    };
    assert_snapshot!(fault(&["10.42.1.0"]), @r#"spec.podCIDRs contains "10.42.1.0", which is not a network"#);
    assert_snapshot!(fault(&["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"]), @"spec.podCIDRs has 3 entries (10.1.0.0/24, 10.2.0.0/24, 10.3.0.0/24), but must have one of each family");
}

fn patch(attrs: &str, node: &[(Key, &str)]) -> String {
    let (attrs, node) = (LeaseAttrs::parse(attrs.as_bytes()).unwrap(), annotated(node));
    match Published::new(&attrs, &node, &prefix()) {
        Ok(published) => {
            published.patch(&node, Revision::new(7), &prefix()).unwrap_or_else(|| "none".to_owned())
        }
        Err(reason) => reason,
    }
}

const VXLAN: &str = r#"{"PublicIP":"192.168.77.17","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}}"#;
const VXLAN_NODE: [(Key, &str); 4] = [
    (Key::BackendData, r#"{"VNI":1,"VtepMAC":"12:c6:65:89:b4:e3"}"#),
    (Key::BackendType, "vxlan"),
    (Key::Manager, "true"),
    (Key::PublicIp, "192.168.77.17"),
];

#[test]
fn what_a_daemon_writes() {
    // The annotations are those that Go flannel writes.
    assert_snapshot!(patch(VXLAN, &[]), @r#"{"metadata":{"annotations":{"flannel.alpha.coreos.com/backend-data":"{\"VNI\":1,\"VtepMAC\":\"12:c6:65:89:b4:e3\"}","flannel.alpha.coreos.com/backend-type":"vxlan","flannel.alpha.coreos.com/kube-subnet-manager":"true","flannel.alpha.coreos.com/public-ip":"192.168.77.17"},"resourceVersion":"7"}}"#);
    assert_snapshot!(patch(VXLAN, &VXLAN_NODE), @"none");
    assert_snapshot!(patch(r#"{"PublicIP":"10.0.0.1","BackendType":"host-gw"}"#, &VXLAN_NODE), @r#"{"metadata":{"annotations":{"flannel.alpha.coreos.com/backend-data":"null","flannel.alpha.coreos.com/backend-type":"host-gw","flannel.alpha.coreos.com/public-ip":"10.0.0.1"},"resourceVersion":"7"}}"#);
}

#[test]
fn stale_annotations_of_ipv6_are_removed() {
    let stale = [&VXLAN_NODE[..], &[(Key::PublicIpv6, "fd00::9"), (Key::BackendV6Data, "null")]].concat();
    assert_snapshot!(patch(VXLAN, &stale), @r#"{"metadata":{"annotations":{"flannel.alpha.coreos.com/backend-v6-data":null,"flannel.alpha.coreos.com/public-ipv6":null},"resourceVersion":"7"}}"#);
}

#[test]
fn an_administrator_overwrites_the_public_address() {
    let node = |text: &'static str| [&VXLAN_NODE[..], &[(Key::PublicIpOverwrite, text)]].concat();
    assert_snapshot!(patch(VXLAN, &node("172.18.0.2")), @r#"{"metadata":{"annotations":{"flannel.alpha.coreos.com/public-ip":"172.18.0.2"},"resourceVersion":"7"}}"#);
    assert_snapshot!(patch(VXLAN, &node("")), @"none");
    assert_snapshot!(patch(VXLAN, &node("fd00::1")), @r#"annotation flannel.alpha.coreos.com/public-ip-overwrite is "fd00::1", but must be an IPv4 address"#);
}

#[test]
fn addresses_that_an_administrator_prescribes() {
    let prescribed = |entries: &[(Key, &str)]| annotated(entries).prescribed(&prefix());
    assert_eq!(prescribed(&[]), Ok(Prescribed::default()));
    let both = [(Key::NodePublicIp, "192.0.2.9"), (Key::NodePublicIpv6, "fd00::9")];
    let expected =
        Prescribed { public_ip: Some([192, 0, 2, 9].into()), public_ipv6: Some("fd00::9".parse().unwrap()) };
    assert_eq!(prescribed(&both), Ok(expected));
    assert!(prescribed(&[(Key::NodePublicIp, "x")]).unwrap_err().contains("node-public-ip is \"x\""));
}

#[test]
fn a_pod_and_its_node() {
    assert_eq!(json::decode_pod_node(br#"{"spec":{"nodeName":"n1"}}"#), Ok(Some("n1".to_owned())));
    assert_eq!(json::decode_pod_node(br#"{"spec":{}}"#), Ok(None));
    assert!(json::decode_pod_node(b"<html>").is_err());
}

proptest! {
    #[test]
    fn no_body_panics(body in prop::collection::vec(any::<u8>(), 0..200), at in 0..400usize, byte: u8) {
        let _ = decode_node(&body, &prefix());
        let _ = decode_status(&body);
        let mut reader = FrameReader::default();
        reader.push(&body);
        let _ = reader.next(&prefix());
        let mut damaged = LIST.to_vec();
        damaged[at] = byte;
        let _ = NodeListReader::default().push(&damaged, &prefix(), |_| {});
        let mut damaged = WATCH.to_vec();
        damaged[at] = byte;
        let mut reader = FrameReader::default();
        reader.push(&damaged);
        while let Ok(Some(_)) = reader.next(&prefix()) {}
    }
}
