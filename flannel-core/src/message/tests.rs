//! Requests are compared as text; answers are captured samples (`tests/captured.txt`).

use insta::assert_snapshot;
use netlink_packet_core::{NLM_F_ACK_TLVS, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use super::frame::{DONE, ERROR};
use super::snapshot::Snapshot;
use super::*;
use crate::dataplane::*;
use crate::family::Family;
use crate::hint::{Hint, Object};
use crate::link::{IfIndex, LinkName, Mac, Vni};

fn captured(name: &str) -> (u16, u16, Vec<u8>) {
    let line = include_str!("tests/captured.txt")
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .unwrap_or_else(|| panic!("no sample {name}"));
    let mut words = line.split(' ');
    let kind = words.next().unwrap().parse().unwrap();
    let flags = u16::from_str_radix(words.next().unwrap(), 16).unwrap();
    (kind, flags, hex(words.next().unwrap()))
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn payload(name: &str) -> Vec<u8> {
    captured(name).2
}

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}

/// Type, flags, fixed part, then each attribute on a line, nested ones indented.
fn render(request: &Request, fixed: usize) -> String {
    let bytes = request.to_bytes(7);
    let frame = frames(&bytes).next().unwrap().unwrap();
    assert_eq!(frame.sequence, 7);
    let hex: String = frame.payload[..fixed].iter().map(|byte| format!("{byte:02x}")).collect();
    let mut text = format!("type {} flags {:#x} {hex}\n", frame.kind, frame.flags);
    render_attributes(&mut text, &frame.payload[fixed..], 1, frame.kind < 20, &[]);
    text
}

fn render_attributes(text: &mut String, bytes: &[u8], depth: usize, link: bool, path: &[u16]) {
    for (kind, value) in attribute::attributes(bytes) {
        let path = [path, &[kind]].concat();
        let nested = link && matches!(path.as_slice(), [18] | [18, 2 | 5]);
        let peer = link && path == [18, 2, 1] && value.len() > 16;
        let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        let indent = "  ".repeat(depth);
        if nested {
            writeln!(text, "{indent}{kind}").unwrap();
            render_attributes(text, value, depth + 1, link, &path);
        } else if peer {
            writeln!(text, "{indent}{kind} {}", &hex[..32]).unwrap();
            render_attributes(text, &value[16..], depth + 1, false, &[]);
        } else {
            writeln!(text, "{indent}{kind} {hex}").unwrap();
        }
    }
}

fn flannel_1() -> Link {
    Link {
        kind: LinkKind::Vxlan(Vxlan {
            vni: Vni::DEFAULT,
            local: Some(ip("192.168.50.1")),
            lower: Some(name("eth0")),
            port: 8472,
            learning: false,
            gbp: false,
            group: None,
            l2miss: false,
        }),
        mtu: 1450,
        mac: Some(mac("1a:2b:3c:4d:5e:6f")),
        up: true,
        alias: Some("flannel overlay".to_owned()),
    }
}

#[test]
fn vxlan_is_created_with_the_attributes_of_go_flannel() {
    let request = link::create(&name("flannel.1"), &flannel_1(), Some(IfIndex(3))).unwrap();
    assert_snapshot!(render(&request, 16), @"
    type 16 flags 0x605 00000000000000000000000000000000
      3 666c616e6e656c2e3100
      4 aa050000
      13 00000000
      1 1a2b3c4d5e6f
      18
        1 76786c616e00
        2
          1 01000000
          3 03000000
          4 c0a83201
          5 00
          6 00
          7 00
          11 00
          12 00
          13 00
          14 00
          19 00
          20 00
          15 2118
    ");
    let mut v6 = flannel_1();
    let LinkKind::Vxlan(vxlan) = &mut v6.kind else { unreachable!() };
    (vxlan.local, vxlan.gbp, vxlan.learning) = (Some(ip("fd50::1")), true, true);
    let request = link::create(&name("flannel-v6.1"), &v6, Some(IfIndex(3))).unwrap();
    assert_snapshot!(render(&request, 16), @"
    type 16 flags 0x605 00000000000000000000000000000000
      3 666c616e6e656c2d76362e3100
      4 aa050000
      13 00000000
      1 1a2b3c4d5e6f
      18
        1 76786c616e00
        2
          1 01000000
          3 03000000
          17 fd500000000000000000000000000001
          5 00
          6 00
          7 01
          11 00
          12 00
          13 00
          14 00
          19 00
          20 00
          23 
          15 2118
    ");
}

#[test]
fn vxlan_without_its_underlay_is_an_error() {
    let error = link::create(&name("flannel.1"), &flannel_1(), None).unwrap_err();
    assert_snapshot!(error, @"the index of interface eth0 is unknown");
}

#[test]
fn other_links_are_created() {
    let veth = link::NewVeth {
        name: name("veth1"),
        mac: None,
        master: Some(IfIndex(6)),
        up: true,
        mtu: Some(1450),
        queue_length: Some(0),
        peer: name("eth0"),
        peer_mac: Some(mac("0a:58:0a:2a:01:02")),
        peer_netns: Some(9),
    };
    assert_snapshot!(render(&link::create_veth(&veth), 16), @"
    type 16 flags 0x605 00000000000000000100000001000000
      3 766574683100
      4 aa050000
      13 00000000
      10 06000000
      18
        1 7665746800
        2
          1 00000000000000000000000000000000
            3 6574683000
            4 aa050000
            1 0a580a2a0102
            28 09000000
    ");
    let bridge = link::NewBridge { name: name("cni0"), mtu: Some(1450), mac: None, vlan_filtering: false };
    assert_snapshot!(render(&link::create_bridge(&bridge), 16), @"
    type 16 flags 0x605 00000000000000000000000000000000
      3 636e693000
      4 aa050000
      18
        1 62726964676500
    ");
}

#[test]
fn links_are_changed_and_read() {
    let settings = link::LinkSettings {
        mtu: Some(1400),
        up: Some(true),
        alias: Some("x".to_owned()),
        master: Some(None),
        netns: Some(8),
        hairpin: Some(true),
        isolated: Some(false),
        promiscuous: Some(true),
        vlan_filtering: Some(true),
        ..link::LinkSettings::default()
    };
    assert_snapshot!(render(&link::set(IfIndex(4), &settings), 16), @"
    type 16 flags 0x5 00000000040000000101000001010000
      4 78050000
      20 7800
      10 00000000
      28 08000000
      18
        1 62726964676500
        2
          7 01
        4 62726964676500
        5
          4 01
          33 00
    ");
    let mut kind = flannel_1().kind;
    let LinkKind::Vxlan(parameters) = &mut kind else { panic!() };
    parameters.learning = true;
    let change = LinkChange { mtu: Some(1400), kind: Some(kind), ..LinkChange::default() };
    let [settings, learning] = link::change(IfIndex(4), &change).try_into().unwrap();
    assert_snapshot!(render(&settings, 16), @"
    type 16 flags 0x5 00000000040000000000000000000000
      4 78050000
    ");
    assert_snapshot!(render(&learning, 16), @"
    type 16 flags 0x5 00000000040000000000000000000000
      18
        1 76786c616e00
        2
          7 01
    ");
    assert_eq!(link::change(IfIndex(4), &LinkChange::default()), []);
    let down = link::LinkSettings { up: Some(false), ..link::LinkSettings::default() };
    assert_snapshot!(render(&link::set(IfIndex(4), &down), 16), @"type 16 flags 0x5 00000000040000000000000001000000");
    assert_snapshot!(render(&link::delete(IfIndex(4)), 16), @"type 17 flags 0x5 00000000040000000000000000000000");
    assert_snapshot!(render(&link::get(&name("eth0")).request, 16), @"
    type 18 flags 0x1 00000000000000000000000000000000
      3 6574683000
      29 08000000
    ");
    assert_snapshot!(render(&link::dump().request, 16), @"
    type 18 flags 0x301 00000000000000000000000000000000
      29 08000000
    ");
}

#[test]
fn addresses_are_set() {
    let v4 = address::NewAddress::new(IfIndex(4), "10.42.1.0/32".parse().unwrap());
    assert_snapshot!(render(&address::add(&v4), 8), @"
    type 20 flags 0x605 0220000004000000
      2 0a2a0100
      1 0a2a0100
    ");
    let v6 = address::NewAddress::new(IfIndex(5), "fd00:10:244:1::/128".parse().unwrap());
    assert_snapshot!(render(&address::add(&v6), 8), @"
    type 20 flags 0x605 0a80000005000000
      2 fd000010024400010000000000000000
      1 fd000010024400010000000000000000
      8 02000000
    ");
    let local = address::NewAddress {
        scope: Scope::HOST,
        broadcast: Some("10.1.255.255".parse().unwrap()),
        ..address::NewAddress::new(IfIndex(1), "10.1.2.3/16".parse().unwrap())
    };
    assert_snapshot!(render(&address::add(&local), 8), @"
    type 20 flags 0x605 021000fe01000000
      2 0a010203
      1 0a010203
      4 0a01ffff
    ");
    assert_snapshot!(render(&address::delete(IfIndex(4), "10.42.1.0/32".parse().unwrap()), 8), @"
    type 21 flags 0x5 0220000004000000
      2 0a2a0100
      1 0a2a0100
    ");
    assert_snapshot!(render(&address::dump(Family::V6, None).request, 8), @"type 22 flags 0x301 0a00000000000000");
    let of_link = address::dump(Family::V4, Some(IfIndex(7)));
    assert_snapshot!(render(&of_link.request, 8), @"type 22 flags 0x301 0200000007000000");
}

#[test]
fn neighbours_and_forwarding_entries_are_set() {
    let peer = mac("aa:aa:aa:aa:aa:02");
    assert_snapshot!(render(&neighbour::set(IfIndex(4), ip("10.42.2.0"), peer), 12), @"
    type 28 flags 0x505 020000000400000080000001
      1 0a2a0200
      2 aaaaaaaaaa02
      12 f1
    ");
    assert_snapshot!(render(&neighbour::delete(IfIndex(4), ip("10.42.2.0")), 12), @"
    type 29 flags 0x5 020000000400000000000000
      1 0a2a0200
    ");
    assert_snapshot!(render(&neighbour::dump(Family::V4, IfIndex(4)).request, 12), @"
    type 30 flags 0x301 020000000000000000000000
      8 04000000
    ");
    assert_snapshot!(render(&fdb::set(IfIndex(4), peer, ip("192.168.50.2")), 12), @"
    type 28 flags 0x505 070000000400000080000200
      2 aaaaaaaaaa02
      1 c0a83202
    ");
    assert_snapshot!(render(&fdb::delete(IfIndex(4), peer, ip("fd50::2")), 12), @"
    type 29 flags 0x5 070000000400000080000200
      2 aaaaaaaaaa02
      1 fd500000000000000000000000000002
    ");
    assert_snapshot!(render(&fdb::dump(IfIndex(4)).request, 12), @"type 30 flags 0x301 070000000400000000000000");
}

fn tunnel_route() -> (RouteKey, Route) {
    let key = RouteKey { destination: "10.42.2.0/24".parse().unwrap(), metric: 0 };
    let target = RouteTarget::via(ip("10.42.2.0"), &name("flannel.1"), true);
    (key, Route { target, protocol: PROTOCOL })
}

#[test]
fn routes_are_set() {
    let (key, route) = tunnel_route();
    let new = route::NewRoute::planned(&key, &route, Some(IfIndex(4))).unwrap();
    assert_snapshot!(render(&route::replace(&new), 12), @"
    type 24 flags 0x505 02180000fef1000104000000
      1 0a2a0200
      5 0a2a0200
      4 04000000
    ");
    assert_snapshot!(render(&route::delete(&new), 12), @"
    type 25 flags 0x5 02180000fef1ff0100000000
      1 0a2a0200
      5 0a2a0200
      4 04000000
    ");
    assert_snapshot!(render(&route::delete_first(&key, 3), 12), @"
    type 25 flags 0x5 02180000fe03ff0000000000
      1 0a2a0200
    ");
    assert_snapshot!(render(&route::dump(Family::V6, route::MAIN_TABLE).request, 12), @"type 26 flags 0x301 0a000000fe00000000000000");
    let blackhole = Route { target: RouteTarget::Blackhole, protocol: PROTOCOL };
    let key = RouteKey { destination: "fd00:10:244:1::/64".parse().unwrap(), metric: 1024 };
    let new = route::NewRoute::planned(&key, &blackhole, None).unwrap();
    assert_snapshot!(render(&route::add(&new), 12), @"
    type 24 flags 0x605 0a400000fef1000600000000
      1 fd000010024400010000000000000000
      6 00040000
    ");
    let general = route::NewRoute {
        gateway: Some(ip("fe80::1")),
        index: Some(IfIndex(2)),
        source: Some(ip("10.0.0.1")),
        table: 1000,
        mtu: Some(1400),
        advmss: Some(1300),
        metric: 50,
        ..route::NewRoute::new("0.0.0.0/0".parse().unwrap(), 4)
    };
    assert_snapshot!(render(&route::add(&general), 12), @"
    type 24 flags 0x605 020000000004000100000000
      15 e8030000
      6 32000000
      18 0a00fe800000000000000000000000000001
      4 02000000
      7 0a000001
      8 08000200780500000800080014050000
    ");
}

#[test]
fn routes_that_cannot_be_set_are_errors() {
    let (key, route) = tunnel_route();
    let error = route::NewRoute::planned(&key, &route, None).unwrap_err();
    assert_snapshot!(error, @"the index of interface flannel.1 is unknown");
    let odd = Route { target: RouteTarget::Other("multipath".to_owned()), protocol: PROTOCOL };
    let error = route::NewRoute::planned(&key, &odd, None).unwrap_err();
    assert_snapshot!(error, @r#"routes of the form "multipath" cannot be set"#);
}

/// netlink-packet-route decodes every request: lengths and padding are correct.
#[test]
fn requests_are_well_formed() {
    let (key, route) = tunnel_route();
    let new = route::NewRoute::planned(&key, &route, Some(IfIndex(4))).unwrap();
    let requests = [
        link::create(&name("flannel.1"), &flannel_1(), Some(IfIndex(3))).unwrap(),
        link::dump().request.clone(),
        address::add(&address::NewAddress::new(IfIndex(5), "fd00::/128".parse().unwrap())),
        neighbour::set(IfIndex(4), ip("fd00::"), mac("aa:aa:aa:aa:aa:02")),
        route::replace(&new),
    ];
    let mut buffer = Vec::new();
    for (sequence, request) in (1..).zip(&requests) {
        request.write(sequence, &mut buffer);
    }
    let read: Vec<_> = frames(&buffer).map(Result::unwrap).collect();
    assert_eq!(read.iter().map(|frame| frame.sequence).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    for request in &requests {
        let bytes = request.to_bytes(1);
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).unwrap();
        assert!(matches!(message.payload, NetlinkPayload::InnerMessage(_)), "{message:?}");
        let mut again = vec![0; message.buffer_len()];
        message.serialize(&mut again);
        assert_eq!(again, bytes[..again.len()]);
    }
}

/// Requests for a route, a neighbour, an FDB entry and a link decode to the values that they were made from: the kernel
/// sends and receives the same layout.
#[test]
fn values_survive_the_round_trip() {
    let payload_of =
        |request: &Request| frames(&request.to_bytes(1)).next().unwrap().unwrap().payload.to_vec();
    let names = BTreeMap::from([(IfIndex(3), name("eth0")), (IfIndex(4), name("flannel.1"))]);

    let (key, route) = tunnel_route();
    let new = route::NewRoute::planned(&key, &route, Some(IfIndex(4))).unwrap();
    let record = route::decode(&payload_of(&route::replace(&new))).unwrap().unwrap();
    assert!(record.is_main());
    assert_eq!(record.entry(|index| names.get(&index).cloned()), (key, route));

    let set = neighbour::set(IfIndex(4), ip("fd00:10:244:2::"), mac("aa:aa:aa:aa:aa:02"));
    let record = neighbour::decode(&payload_of(&set)).unwrap().unwrap();
    assert_eq!((record.index, record.address), (IfIndex(4), ip("fd00:10:244:2::")));
    assert_eq!(record.neighbour, Neighbour { mac: Some(mac("aa:aa:aa:aa:aa:02")), permanent: true });

    let set = fdb::set(IfIndex(4), mac("aa:aa:aa:aa:aa:02"), ip("fd50::2"));
    let record = fdb::decode(&payload_of(&set)).unwrap().unwrap();
    assert_eq!(record.destination, Some(ip("fd50::2")));
    assert!(record.permanent);

    let created = link::create(&name("flannel.1"), &flannel_1(), Some(IfIndex(3))).unwrap();
    let record = link::decode(&payload_of(&created)).unwrap().unwrap();
    let snapshot = Snapshot {
        links: vec![
            record,
            link::LinkRecord { index: IfIndex(3), name: name("eth0"), ..link_record("link vp") },
        ],
        ..Snapshot::default()
    };
    let link = snapshot.dataplane().links.remove(&name("flannel.1")).unwrap();
    assert_eq!(link, Link { up: false, alias: None, ..flannel_1() });
}

fn link_record(sample: &str) -> link::LinkRecord {
    link::decode(&payload(sample)).unwrap().unwrap()
}

#[test]
fn links_from_the_kernel_are_decoded() {
    let record = link_record("link flannel.1");
    assert_eq!((record.index, record.underlay, record.running), (IfIndex(4), Some(IfIndex(3)), true));
    let mut expected = flannel_1();
    let LinkKind::Vxlan(vxlan) = &mut expected.kind else { unreachable!() };
    vxlan.lower = None;
    assert_eq!(record.link, expected);

    let record = link_record("link flannel-v6.1");
    let LinkKind::Vxlan(vxlan) = &record.link.kind else { panic!("{record:?}") };
    assert_eq!((vxlan.local, vxlan.gbp, record.link.mtu), (Some(ip("fd50::1")), true, 1430));

    let record = link_record("link vp");
    assert_eq!(record.link.kind, LinkKind::Other("veth".to_owned()));
    assert_eq!((record.master, record.hairpin, record.link.up), (Some(IfIndex(6)), true, false));
}

#[test]
fn addresses_from_the_kernel_are_decoded() {
    let read = |sample: &str| address::decode(&payload(sample)).unwrap().unwrap();
    let lo = read("address lo");
    assert_eq!((lo.index, lo.scope, lo.facts.net), (IfIndex(1), Scope::HOST, "127.0.0.1/8".parse().unwrap()));
    assert!(lo.facts.permanent && !lo.facts.temporary && !lo.facts.deprecated);
    // The own address, not that of the other end.
    assert_eq!(read("address peer").facts.net, "10.9.9.1/32".parse().unwrap());
    assert_eq!(read("address flannel-v6.1").facts.net, "fd00:10:244:1::/128".parse().unwrap());
    let local = read("address link-local");
    assert!(local.unusable, "tentative: {local:?}");
    assert_eq!(local.scope, Scope::LINK);
}

#[test]
fn neighbours_from_the_kernel_are_decoded() {
    let read = |sample: &str| neighbour::decode(&payload(sample)).unwrap();
    let record = read("neighbour v4").unwrap();
    assert_eq!((record.index, record.address), (IfIndex(4), ip("10.42.2.0")));
    assert_eq!(record.neighbour, Neighbour { mac: Some(mac("aa:aa:aa:aa:aa:02")), permanent: true });
    assert_eq!(read("neighbour v6").unwrap().address, ip("fd00:10:244:2::"));
    assert_eq!(read("neighbour multicast"), None);
    assert_eq!(read("fdb v4"), None);
}

#[test]
fn forwarding_entries_from_the_kernel_are_decoded() {
    let read = |sample: &str| fdb::decode(&payload(sample)).unwrap();
    let record = read("fdb v4").unwrap();
    let destination = Some(ip("192.168.50.2"));
    let peer = mac("aa:aa:aa:aa:aa:02");
    assert_eq!(record, fdb::FdbRecord { index: IfIndex(4), mac: peer, destination, permanent: true });
    assert_eq!(read("fdb v6").unwrap().destination, Some(ip("fd50::2")));
    assert_eq!(read("neighbour v4"), None);
}

#[test]
fn lifetimes_of_routes_are_decoded() {
    let expires = |sample| route::decode(&payload(sample)).unwrap().unwrap().expires;
    assert_eq!(expires("advertised prefix"), Some(Duration::from_millis(59_840)));
    assert_eq!(expires("advertised default"), Some(Duration::from_millis(5_840)));
    assert_eq!(expires("route6 connected"), None);
}

/// Every captured route: key, what it does, who set it; then the fact.
#[test]
fn routes_from_the_kernel_are_decoded() {
    let names = BTreeMap::from([
        (IfIndex(1), name("lo")),
        (IfIndex(3), name("eth0")),
        (IfIndex(4), name("flannel.1")),
        (IfIndex(5), name("flannel-v6.1")),
    ]);
    let mut text = String::new();
    for line in include_str!("tests/captured.txt").lines().filter(|line| line.starts_with("route")) {
        let (sample, _) = line.split_once(':').unwrap();
        let record = route::decode(&payload(sample)).unwrap().unwrap();
        let (key, route) = record.entry(|index| names.get(&index).cloned());
        writeln!(text, "{} metric {} proto {}", key.destination, key.metric, route.protocol).unwrap();
        writeln!(text, "  {:?}", route.target).unwrap();
        if let Some(facts) = record.facts() {
            let (gateway, link, source) = (facts.gateway, facts.link, facts.source);
            writeln!(text, "  {gateway:?} {link:?} {source:?}").unwrap();
        }
    }
    assert_snapshot!(text, @r#"
    0.0.0.0/0 metric 100 proto 3
      Other("unicast via 192.168.50.254 dev eth0 src 192.168.50.1")
      Some(192.168.50.254) Some(IfIndex(3)) Some(192.168.50.1)
    10.9.9.2/32 metric 0 proto 2
      Link(LinkName("eth0"))
      None Some(IfIndex(3)) Some(10.9.9.1)
    10.42.1.0/24 metric 0 proto 3
      Blackhole
    10.42.2.0/24 metric 0 proto 241
      Via { gateway: 10.42.2.0, link: LinkName("flannel.1"), onlink: true, object: None }
      Some(10.42.2.0) Some(IfIndex(4)) None
    10.77.0.0/16 metric 0 proto 3
      Other("unicast via 192.168.50.8 dev eth0 via 192.168.50.9 dev eth0")
      Some(192.168.50.8) Some(IfIndex(3)) None
    10.78.0.0/16 metric 0 proto 3
      Other("unicast via fd50::7 dev eth0 with encapsulation or metrics")
      Some(fd50::7) Some(IfIndex(3)) None
    10.79.0.0/16 metric 0 proto 3
      Via { gateway: 192.168.50.5, link: LinkName("eth0"), onlink: false, object: Some(NexthopId(5)) }
      Some(192.168.50.5) Some(IfIndex(3)) None
    192.168.50.0/24 metric 0 proto 2
      Link(LinkName("eth0"))
      None Some(IfIndex(3)) Some(192.168.50.1)
    fd00:10:244:1::/128 metric 256 proto 2
      Link(LinkName("flannel-v6.1"))
      None Some(IfIndex(5)) None
    fd00:10:244:1::/64 metric 1024 proto 3
      Blackhole
    fd00:10:244:2::/64 metric 1024 proto 3
      Via { gateway: fd00:10:244:2::, link: LinkName("flannel-v6.1"), onlink: true, object: None }
      Some(fd00:10:244:2::) Some(IfIndex(5)) None
    fd77::/64 metric 1024 proto 3
      Other("unicast via fd50::8 dev eth0 via fd50::9 dev eth0")
      Some(fd50::8) Some(IfIndex(3)) None
    fe80::/64 metric 256 proto 2
      Other("unicast dev #2")
      None Some(IfIndex(2)) None
    fe80::/64 metric 256 proto 2
      Link(LinkName("eth0"))
      None Some(IfIndex(3)) None
    "#);
}

#[test]
fn notifications_become_hints() {
    let read = |sample: &str, kind: u16| {
        let payload = payload(sample);
        notification::decode(&Frame { kind, flags: 0, sequence: 0, port: 0, payload: &payload }).unwrap()
    };
    let link = read("link flannel.1", NEW_LINK);
    let Some(Hint::Set(Object::Link(link))) = link else { panic!("{link:?}") };
    let now = link.link;
    assert_eq!((link.index, now.mtu, now.up), (IfIndex(4), 1450, true));
    assert_eq!((now.kind.changeable(), now.alias.as_deref()), ("nolearning", Some("flannel overlay")));
    let link = read("link flannel.1", DELETE_LINK);
    assert!(matches!(link, Some(Hint::Removed(Object::Link(_)))), "{link:?}");
    let address = read("address flannel.1", DELETE_ADDRESS);
    let Some(Hint::Removed(Object::Address(address))) = address else { panic!("{address:?}") };
    assert_eq!(address.index, IfIndex(4));
    let names = |index| (index == IfIndex(4)).then(|| name("flannel.1"));
    let Some(Hint::Set(Object::Route(route))) = read("route flannel", NEW_ROUTE) else { panic!("no route") };
    assert_eq!(route.entry(names), tunnel_route());
    for (sample, expected) in [
        ("route default", "Other"),
        ("route multipath", "Other"),
        ("route nhid", "Via"),
        ("route blackhole", "Blackhole"),
        ("route connected", "Link"),
    ] {
        let hint = read(sample, DELETE_ROUTE);
        let Some(Hint::Removed(Object::Route(route))) = hint else { panic!("{hint:?}") };
        let (_, route) = route.entry(|_| Some(name("eth0")));
        assert!(format!("{:?}", route.target).starts_with(expected), "{sample}: {route:?}");
    }
    let destination = Some(ip("192.168.50.2"));
    let mac = mac("aa:aa:aa:aa:aa:02");
    let fdb = fdb::FdbRecord { index: IfIndex(4), mac, destination, permanent: true };
    assert_eq!(read("fdb v4", NEW_NEIGHBOUR), Some(Hint::Set(Object::Fdb(fdb))));
    let neighbour = read("neighbour v6", DELETE_NEIGHBOUR);
    let Some(Hint::Removed(Object::Neighbour(neighbour))) = neighbour else { panic!("{neighbour:?}") };
    assert!(neighbour.neighbour.permanent);
    assert_eq!(read("neighbour multicast", NEW_NEIGHBOUR), None);

    let mut other_table = payload("route flannel");
    other_table[12 + 4] = 255;
    let frame = Frame { kind: NEW_ROUTE, flags: 0, sequence: 0, port: 0, payload: &other_table };
    assert_eq!(notification::decode(&frame), Ok(None));
    let overrun = Frame { kind: 4, flags: 0, sequence: 0, port: 0, payload: &[] };
    assert_eq!(notification::decode(&overrun), Ok(Some(Hint::Overrun)));
    assert_eq!(notification::decode(&Frame { kind: 77, ..overrun }), Ok(None));
    assert!(notification::decode(&Frame { kind: NEW_LINK, ..overrun }).is_err());
}

#[test]
fn answers_are_decoded() {
    let read = |bytes: &[u8]| {
        let frame = frames(bytes).next().unwrap().unwrap();
        match frame.reply().unwrap() {
            Reply::Ack(text) => format!("ack {text:?}"),
            Reply::Refused(refusal) => format!("refused {refusal:?}"),
            Reply::Done => "done".to_owned(),
            other => panic!("{other:?}"),
        }
    };
    // A route with a gateway that no link reaches, with and without NETLINK_CAP_ACK.
    let full = "600000000200000209000000b56200009bffffff2c0000001800050509000000000000000218\
        0000fe03000100000000080001000a0102000800050009090909200001004e657874686f702068617320696e76616c696420\
        6761746577617900";
    let capped = "440000000200000309000000b56200009bffffff2c000000180005050900000000000000200001004e657874\
        686f702068617320696e76616c6964206761746577617900";
    assert_snapshot!(read(&hex(full)), @r#"refused Refusal { errno: 101, text: "Nexthop has invalid gateway", offset: None }"#);
    assert_eq!(read(&hex(full)), read(&hex(capped)));
    let no_link = "240000000200000109000000b5620000edffffff2c000000120001000900000000000000";
    assert_snapshot!(read(&hex(no_link)), @r#"refused Refusal { errno: 19, text: "", offset: None }"#);
    let ack = "240000000200000109000000b5620000000000002c000000120001000900000000000000";
    assert_snapshot!(read(&hex(ack)), @"ack None");

    let done = |sample: &str| {
        let (kind, flags, payload) = captured(sample);
        let frame = Frame { kind, flags, sequence: 7, port: 1, payload: &payload };
        format!("{:?}", frame.reply().unwrap())
    };
    assert_snapshot!(done("done"), @"Done");
    assert_snapshot!(done("done no table"), @r#"Refused(Refusal { errno: 2, text: "ipv4: FIB table does not exist", offset: None })"#);
    assert_snapshot!(done("done bad filter"), @r#"Refused(Refusal { errno: 22, text: "Invalid values in header for neighbor dump request", offset: None })"#);
}

/// The extended ACK of a request with an attribute that strict checking rejects.
#[test]
fn refusals_name_the_attribute() {
    let refusal = |text: &str, offset| Refusal { errno: 22, text: text.to_owned(), offset };
    let attribute = |kind: u16, value: &[u8]| {
        let length = u16::try_from(4 + value.len()).unwrap();
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
    };
    let payload =
        [&(-22i32).to_ne_bytes()[..], &[0; 16], &attribute(1, b"bad\0"), &attribute(2, &28u32.to_ne_bytes())]
            .concat();
    let frame = Frame { kind: ERROR, flags: 0x300, sequence: 1, port: 1, payload: &payload };
    assert_eq!(frame.reply().unwrap(), Reply::Refused(refusal("bad", Some(28))));
    for (refusal, details) in [
        (refusal("bad", Some(28)), Some("bad, attribute at byte 28")),
        (refusal("", Some(28)), Some("attribute at byte 28")),
        (refusal("bad", None), Some("bad")),
        (refusal("", None), None),
    ] {
        assert_eq!(refusal.details().as_deref(), details);
    }
}

/// A VXLAN device that iproute2 calls `external` has no VNI of its own.
#[test]
fn udp_tunnels_of_other_programs_are_known_by_their_port() {
    let attribute = |kind: u16, value: &[u8]| {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let made = |kind: &str, parameters: &[Vec<u8>]| {
        let info = [attribute(1, kind.as_bytes()), attribute(2, &parameters.concat())].concat();
        [&[0; 16][..], &attribute(3, b"tun"), &attribute(18, &info)].concat()
    };
    let port = 6081u16.to_be_bytes();
    for (payload, number, family) in [
        (payload("link external"), 8472, None),
        (made("geneve", &[attribute(5, &port), attribute(2, &[192, 168, 50, 9])]), 6081, Some(Family::V4)),
        (made("geneve", &[attribute(7, &[0; 16]), attribute(5, &port)]), 6081, Some(Family::V6)),
        (made("geneve", &[attribute(5, &port), attribute(6, &[])]), 6081, None),
        (made("bareudp", &[attribute(1, &port)]), 6081, None),
    ] {
        let kind = link::decode(&payload).unwrap().unwrap().link.kind;
        assert!(matches!(kind, LinkKind::Udp(_)), "{kind}");
        assert_eq!(kind.udp_port(), Some(UdpPort { number, family }));
    }
}

#[test]
fn interrupted_dumps_are_detected() {
    let frame = Frame { kind: 24, flags: 0x12, sequence: 1, port: 1, payload: &[] };
    assert!(frame.interrupted());
    assert!(!Frame { flags: 0x2, ..frame }.interrupted());
}

#[test]
fn notifications_that_cannot_be_decoded_are_an_overrun() {
    assert_eq!(notification::hints(&[1, 2, 3], None), [Hint::Overrun]);
    assert_eq!(notification::hints(&[], None), []);
}

/// Decoding any bytes ends with a value or an error.
#[test]
fn cut_off_messages_are_errors_not_panics() {
    assert_eq!(frames(&[1, 2, 3]).next(), Some(Err(DecodeError::Cut { length: 0, available: 3 })));
    let mut long = hex("240000000200000109000000b5620000000000002c000000120001000900000000000000");
    long[0] = 0xff;
    assert_snapshot!(frames(&long).next().unwrap().unwrap_err(), @"netlink message truncated: 36 of 255 bytes");
    for line in include_str!("tests/captured.txt").lines().skip(1) {
        let (sample, _) = line.split_once(':').unwrap();
        let (kind, flags, bytes) = captured(sample);
        for length in 0..bytes.len() {
            let cut = &bytes[..length];
            let _ = link::decode(cut);
            let _ = address::decode(cut);
            let _ = route::decode(cut);
            let _ = neighbour::decode(cut);
            let _ = fdb::decode(cut);
            let _ = Frame { kind, flags, sequence: 0, port: 0, payload: cut }.reply();
        }
    }
    assert_snapshot!(route::decode(&[2, 0]).unwrap_err(), @"route message too short: 2 bytes");
    let mut route = payload("route flannel");
    route[1] = 33;
    assert_snapshot!(route::decode(&route).unwrap_err(), @"a route message has an invalid prefix length: 33");
}

proptest! {
    /// Mostly small numbers, which are lengths and types that mean something, so that nested attributes are reached.
    #[test]
    fn any_bytes_are_decoded_without_a_panic(
        words in vec(prop_oneof![0u32..64, any::<u32>(), Just(0x0008_0008), Just(0x0002_8024)], 0..50),
        cut in 0usize..4,
    ) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let bytes = &bytes[..bytes.len().saturating_sub(cut)];
        let _ = (link::decode(bytes), address::decode(bytes), route::decode(bytes));
        let _ = (neighbour::decode(bytes), fdb::decode(bytes), bridge::decode_vlans(bytes));
        let _ = (traffic::decode_discipline(bytes), traffic::decode_filter(bytes));
        let framed = frames(bytes).flatten();
        let kinds = [0x0a00, 0x0a03, 0x0a06, 0x0a0f, 0x0100, ERROR, DONE, NEW_LINK, NEW_ROUTE];
        let payloads = kinds.map(|kind| Frame { kind, flags: NLM_F_ACK_TLVS, sequence: 0, port: 0, payload: bytes });
        for frame in framed.chain(payloads) {
            let _ = (frame.reply(), nftables::Message::decode(&frame), conntrack::decode(&frame));
            let _ = notification::decode(&frame);
        }
    }
}

#[test]
fn a_snapshot_joins_the_dumps() {
    let lower = link::LinkRecord { index: IfIndex(3), name: name("eth0"), ..link_record("link vp") };
    let addresses = ["address eth0", "address peer", "address flannel.1", "address lo"];
    let route_samples = ["route flannel", "route default", "route6 linklocal eth0", "route6 linklocal peer0"];
    let mut default_destination = fdb::decode(&payload("fdb v4")).unwrap().unwrap();
    default_destination.destination = Some(ip("192.168.50.3"));
    let snapshot = Snapshot {
        links: vec![lower, link_record("link flannel.1")],
        addresses: addresses.map(|sample| address::decode(&payload(sample)).unwrap().unwrap()).to_vec(),
        routes: route_samples.map(|sample| route::decode(&payload(sample)).unwrap().unwrap()).to_vec(),
        nexthops: Vec::new(),
        neighbours: vec![neighbour::decode(&payload("neighbour v4")).unwrap().unwrap()],
        fdb: vec![fdb::decode(&payload("fdb v4")).unwrap().unwrap(), default_destination],
    };
    let facts = snapshot.facts(&BTreeSet::new());
    // In kernel order; the address of a link that is not there (lo) is left out.
    let nets: Vec<String> = facts.links[0].addresses.iter().map(|address| address.net.to_string()).collect();
    assert_eq!(nets, ["192.168.50.1/24", "10.9.9.1/32"]);
    assert_eq!(facts.routes.len(), 4);

    let dataplane = snapshot.dataplane();
    assert_eq!(dataplane.links[&name("flannel.1")], flannel_1());
    assert_eq!(dataplane.addresses.len(), 3);
    let key = FdbKey { link: name("flannel.1"), mac: mac("aa:aa:aa:aa:aa:02") };
    assert_eq!(dataplane.fdb[&key].destinations, [ip("192.168.50.2"), ip("192.168.50.3")]);
    let (key, route) = tunnel_route();
    assert_eq!(dataplane.routes[&key], route);
    // Routes with one key stay apart.
    let key = RouteKey { destination: "fe80::/64".parse().unwrap(), metric: 256 };
    let links: Vec<_> = dataplane.routes[&key].each().map(|route| route.target.clone()).collect();
    assert_eq!(links.len(), 2);
    assert!(matches!(dataplane.routes[&key].target, RouteTarget::Several(_)));
}

fn flannel_ipip() -> Link {
    let kind = LinkKind::Ipip(Ipip { local: Some(ip("192.168.50.1")), remote: None });
    Link { kind, mtu: 1480, mac: None, up: true, alias: None }
}

#[test]
fn ipip_is_created_with_the_attributes_of_go_flannel() {
    let request = link::create(&name("flannel.ipip"), &flannel_ipip(), None).unwrap();
    assert_snapshot!(render(&request, 16), @"
    type 16 flags 0x605 00000000000000000000000000000000
      3 666c616e6e656c2e6970697000
      4 c8050000
      13 00000000
      18
        1 6970697000
        2
          2 c0a83201
          10 00
          4 00
          5 00
          9 00
          15 0000
          16 0000
          17 0000
          18 0000
    ");
}

#[test]
fn ipip_is_read_back() {
    let request = link::create(&name("flannel.ipip"), &flannel_ipip(), None).unwrap();
    let bytes = request.to_bytes(7);
    let payload = frames(&bytes).next().unwrap().unwrap().payload.to_vec();
    let read = |payload: &[u8]| link::decode(payload).unwrap().unwrap().link.kind;
    assert_eq!(read(&payload), flannel_ipip().kind);

    // As the kernel shows `tunl0`, a device with a remote address, and one that takes both from each packet.
    let sample = |data: &str| {
        let data = hex(data);
        let attribute = |kind: u16, value: &[u8]| {
            let length = u16::try_from(value.len() + 4).unwrap();
            let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
            bytes.extend_from_slice(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let info = [attribute(1, b"ipip\0"), attribute(2, &data)].concat();
        let mut payload = vec![0; 16];
        payload.extend(attribute(3, b"tunl0\0"));
        payload.extend(attribute(18, &info));
        read(&payload)
    };
    let kind = |local: Option<&str>, remote: Option<&str>| {
        LinkKind::Ipip(Ipip { local: local.map(ip), remote: remote.map(ip) })
    };
    assert_eq!(sample("08000100000000000800020000000000080003000000000005000a0000000000"), kind(None, None));
    assert_eq!(sample("08000200c0a8320108000300c0a83202"), kind(Some("192.168.50.1"), Some("192.168.50.2")));
    assert_eq!(sample("080002000000000004001300"), LinkKind::Other("ipip".to_owned()));
}
