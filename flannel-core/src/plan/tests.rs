use super::*;
use crate::dataplane::mark::alias;
use crate::dataplane::model::{self, Refusal};
use crate::dataplane::{
    Address, AddressKey, Link, LinkChange, LinkKind, PROTOCOL, PROTOCOL_BOOT, PROTOCOL_KERNEL, Vxlan,
};
use crate::link::{Mac, Vni};
use crate::owned::{Scope, owned};
use insta::assert_snapshot;
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::Index;
use std::net::IpAddr;

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn networks() -> Vec<IpNet> {
    vec![net("10.42.0.0/16"), net("fd00:42::/48")]
}

fn mac(last: u8) -> Mac {
    Mac([0x0a, 0, 0, 0, 0, last])
}

fn device(family: Family) -> LinkName {
    name(match family {
        Family::V4 => "flannel.1",
        Family::V6 => "flannel-v6.1",
    })
}

fn tunnel(family: Family) -> Link {
    let (local, mtu) = match family {
        Family::V4 => (ip("192.168.50.1"), 1450),
        Family::V6 => (ip("fd50::1"), 1430),
    };
    Link {
        kind: LinkKind::Vxlan(Vxlan {
            vni: Vni::DEFAULT,
            local: Some(local),
            lower: Some(name("eth0")),
            port: 8472,
            learning: false,
            gbp: false,
            group: None,
            l2miss: false,
        }),
        mtu,
        mac: Some(mac(1)),
        up: true,
        alias: Some(alias(&networks())),
    }
}

fn metric(family: Family) -> u32 {
    match family {
        Family::V4 => 0,
        Family::V6 => 1024,
    }
}

fn subnet(family: Family, node: u8) -> IpNet {
    match family {
        Family::V4 => net(&format!("10.42.{node}.0/24")),
        Family::V6 => net(&format!("fd00:42:0:{node}::/64")),
    }
}

fn public(family: Family, node: u8) -> IpAddr {
    match family {
        Family::V4 => ip(&format!("192.168.50.{node}")),
        Family::V6 => ip(&format!("fd50::{node}")),
    }
}

fn base(family: Family) -> Dataplane {
    let mut base = Dataplane::default();
    base.links.insert(device(family), tunnel(family));
    let zero = IpNet::from(subnet(family, 1).addr());
    base.addresses.insert(AddressKey { link: device(family), net: zero }, Address);
    base
}

fn peer(family: Family, node: u8, vtep: u8, direct: bool) -> Dataplane {
    let mut peer = Dataplane::default();
    let (link, destination) = (device(family), subnet(family, node));
    let key = RouteKey { destination, metric: metric(family) };
    let target = if direct {
        RouteTarget::via(public(family, node), &name("eth0"), false)
    } else {
        let neighbour = NeighbourKey { link: link.clone(), address: destination.addr() };
        peer.neighbours.insert(neighbour, Neighbour { mac: Some(mac(vtep)), permanent: true });
        let entry = FdbEntry { destinations: vec![public(family, node)], permanent: true };
        peer.fdb.insert(FdbKey { link: link.clone(), mac: mac(vtep) }, entry);
        RouteTarget::via(destination.addr(), &link, true)
    };
    peer.routes.insert(key, Route { target, protocol: PROTOCOL });
    peer
}

/// A node with a NIC, a bridge of pods and nothing of ours.
fn host() -> Dataplane {
    let mut host = Dataplane::default();
    for (link, kind) in [("eth0", ""), ("cni0", "bridge")] {
        let kind = LinkKind::Other(kind.to_owned());
        host.links.insert(name(link), Link { kind, mtu: 1500, mac: Some(mac(99)), up: true, alias: None });
    }
    for (link, address) in [
        ("eth0", "192.168.50.1/24"),
        ("eth0", "fd50::1/64"),
        ("cni0", "10.42.1.1/24"),
        ("cni0", "fd00:42:0:1::1/64"),
    ] {
        let net = net(address);
        host.addresses.insert(AddressKey { link: name(link), net }, Address);
        let metric = if Family::of_net(net) == Family::V4 { 0 } else { 256 };
        let route = Route { target: RouteTarget::Link(name(link)), protocol: PROTOCOL_KERNEL };
        host.routes.insert(RouteKey { destination: net.trunc(), metric }, route);
    }
    let target = RouteTarget::via(ip("192.168.50.254"), &name("eth0"), false);
    host.routes.insert(
        RouteKey { destination: net("10.42.77.0/24"), metric: 50 },
        Route { target, protocol: PROTOCOL_BOOT },
    );
    host
}

fn render(ops: &[Op]) -> String {
    ops.iter().map(|op| format!("{op}\n")).collect()
}

fn actual(kernel: &Dataplane, desired: &Dataplane) -> Dataplane {
    owned(kernel.clone(), &Scope { desired, networks: &networks() })
}

/// Runs a round; every op must succeed.
fn round(kernel: &mut Dataplane, desired: &Dataplane, prune: Prune) -> Vec<Op> {
    let ops = plan(desired, &actual(kernel, desired), prune);
    for op in &ops {
        assert_eq!(model::apply(kernel, op), Ok(()), "{op}\nof {}", render(&ops));
    }
    ops
}

fn dual() -> Dataplane {
    let mut desired = base(Family::V4);
    desired.extend(base(Family::V6));
    desired.extend(peer(Family::V4, 2, 2, false));
    desired.extend(peer(Family::V6, 2, 2, false));
    desired.extend(peer(Family::V4, 3, 3, true));
    desired.extend(peer(Family::V6, 3, 3, true));
    desired
}

#[test]
fn start_on_an_empty_node() {
    let ops = round(&mut host(), &dual(), Prune::Surplus);
    assert_snapshot!(render(&ops), @r#"
    link add flannel-v6.1 mtu 1430 address 0a:00:00:00:00:01 up alias "flannel 10.42.0.0/16 fd00:42::/48" type vxlan id 1 local fd50::1 dev eth0 dstport 8472 nolearning
    link add flannel.1 mtu 1450 address 0a:00:00:00:00:01 up alias "flannel 10.42.0.0/16 fd00:42::/48" type vxlan id 1 local 192.168.50.1 dev eth0 dstport 8472 nolearning
    addr add fd00:42:0:1::/128 dev flannel-v6.1
    addr add 10.42.1.0/32 dev flannel.1
    fdb replace 0a:00:00:00:00:02 dst fd50::2 dev flannel-v6.1
    fdb replace 0a:00:00:00:00:02 dst 192.168.50.2 dev flannel.1
    neigh replace fd00:42:0:2:: lladdr 0a:00:00:00:00:02 dev flannel-v6.1
    neigh replace 10.42.2.0 lladdr 0a:00:00:00:00:02 dev flannel.1
    route replace 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink
    route replace 10.42.3.0/24 via 192.168.50.3 dev eth0
    route replace fd00:42:0:2::/64 via fd00:42:0:2:: dev flannel-v6.1 onlink
    route replace fd00:42:0:3::/64 via fd50::3 dev eth0
    "#);
}

#[test]
fn nothing_to_do() {
    let (mut kernel, desired) = (host(), dual());
    round(&mut kernel, &desired, Prune::Surplus);
    assert_snapshot!(render(&round(&mut kernel, &desired, Prune::Surplus)), @"");
    assert_eq!(actual(&kernel, &desired), desired);
}

#[test]
fn a_peer_moves_and_another_goes() {
    let mut kernel = host();
    let mut before = base(Family::V4);
    before.extend(peer(Family::V4, 2, 2, false));
    before.extend(peer(Family::V4, 4, 4, false));
    round(&mut kernel, &before, Prune::Surplus);
    let mut after = base(Family::V4);
    after.extend(peer(Family::V4, 2, 22, false));
    assert_snapshot!(render(&round(&mut kernel.clone(), &after, Prune::Keep)), @r"
    fdb replace 0a:00:00:00:00:16 dst 192.168.50.2 dev flannel.1
    neigh replace 10.42.2.0 lladdr 0a:00:00:00:00:16 dev flannel.1
    ");
    assert_snapshot!(render(&round(&mut kernel, &after, Prune::Surplus)), @r"
    fdb replace 0a:00:00:00:00:16 dst 192.168.50.2 dev flannel.1
    neigh replace 10.42.2.0 lladdr 0a:00:00:00:00:16 dev flannel.1
    route del 10.42.4.0/24 via 10.42.4.0 dev flannel.1 onlink
    neigh del 10.42.4.0 dev flannel.1
    fdb del 0a:00:00:00:00:02 dst 192.168.50.2 dev flannel.1
    fdb del 0a:00:00:00:00:04 dst 192.168.50.4 dev flannel.1
    ");
}

#[test]
fn direct_and_tunnelled() {
    let (mut kernel, mut desired) = (host(), dual());
    round(&mut kernel, &desired, Prune::Surplus);
    for family in Family::ALL {
        desired.retract(&peer(family, 2, 2, false));
        desired.extend(peer(family, 2, 2, true));
        desired.extend(peer(family, 3, 3, false));
    }
    // IPv6 cannot replace the direct route: its gateway would be looked up in that very route.
    assert_snapshot!(render(&round(&mut kernel, &desired, Prune::Surplus)), @r"
    fdb replace 0a:00:00:00:00:03 dst fd50::3 dev flannel-v6.1
    fdb replace 0a:00:00:00:00:03 dst 192.168.50.3 dev flannel.1
    neigh replace fd00:42:0:3:: lladdr 0a:00:00:00:00:03 dev flannel-v6.1
    neigh replace 10.42.3.0 lladdr 0a:00:00:00:00:03 dev flannel.1
    route replace 10.42.2.0/24 via 192.168.50.2 dev eth0
    route replace 10.42.3.0/24 via 10.42.3.0 dev flannel.1 onlink
    route replace fd00:42:0:2::/64 via fd50::2 dev eth0
    route del fd00:42:0:3::/64 via fd50::3 dev eth0
    route replace fd00:42:0:3::/64 via fd00:42:0:3:: dev flannel-v6.1 onlink
    neigh del fd00:42:0:2:: dev flannel-v6.1
    neigh del 10.42.2.0 dev flannel.1
    fdb del 0a:00:00:00:00:02 dst fd50::2 dev flannel-v6.1
    fdb del 0a:00:00:00:00:02 dst 192.168.50.2 dev flannel.1
    ");
}

#[test]
fn device_altered_in_place() {
    let (mut kernel, desired) = (host(), dual());
    round(&mut kernel, &desired, Prune::Surplus);
    let link = kernel.links.get_mut(&device(Family::V4)).unwrap();
    (link.mtu, link.mac, link.up, link.alias) = (1400, Some(mac(77)), false, None);
    let LinkKind::Vxlan(vxlan) = &mut link.kind else { panic!() };
    vxlan.learning = true;
    // The new MAC makes the kernel forget the neighbour that was still observed.
    assert_snapshot!(render(&round(&mut kernel, &desired, Prune::Surplus)), @r#"
    link set flannel.1 mtu 1450 address 0a:00:00:00:00:01 up alias "flannel 10.42.0.0/16 fd00:42::/48" type vxlan nolearning
    neigh replace 10.42.2.0 lladdr 0a:00:00:00:00:02 dev flannel.1
    "#);
}

#[test]
fn device_unfit_or_replaced() {
    let (mut kernel, desired) = (host(), dual());
    round(&mut kernel, &desired, Prune::Surplus);
    kernel.links.get_mut(&device(Family::V4)).unwrap().kind = LinkKind::Other("dummy".to_owned());
    assert_snapshot!(render(&round(&mut kernel, &desired, Prune::Keep)), @r#"
    link del flannel.1
    link add flannel.1 mtu 1450 address 0a:00:00:00:00:01 up alias "flannel 10.42.0.0/16 fd00:42::/48" type vxlan id 1 local 192.168.50.1 dev eth0 dstport 8472 nolearning
    addr add 10.42.1.0/32 dev flannel.1
    fdb replace 0a:00:00:00:00:02 dst 192.168.50.2 dev flannel.1
    neigh replace 10.42.2.0 lladdr 0a:00:00:00:00:02 dev flannel.1
    route replace 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink
    "#);
    assert_eq!(actual(&kernel, &desired), desired);
}

#[test]
fn device_renamed_by_somebody() {
    let (mut kernel, desired) = (host(), base(Family::V4));
    round(&mut kernel, &desired, Prune::Surplus);
    let link = kernel.links.remove(&device(Family::V4)).unwrap();
    kernel.links.insert(name("renamed"), link);
    kernel.addresses.retain(|key, _| key.link != device(Family::V4));
    assert_snapshot!(render(&round(&mut kernel, &desired, Prune::Keep)), @r#"
    link del renamed
    link add flannel.1 mtu 1450 address 0a:00:00:00:00:01 up alias "flannel 10.42.0.0/16 fd00:42::/48" type vxlan id 1 local 192.168.50.1 dev eth0 dstport 8472 nolearning
    addr add 10.42.1.0/32 dev flannel.1
    "#);
}

#[test]
fn leftover_device_of_another_vni() {
    let (mut kernel, desired) = (host(), dual());
    round(&mut kernel, &desired, Prune::Surplus);
    let mut new = base(Family::V4);
    let mut link = new.links.remove(&device(Family::V4)).unwrap();
    let LinkKind::Vxlan(vxlan) = &mut link.kind else { panic!() };
    vxlan.vni = Vni::new(2).unwrap();
    let mut new = Dataplane::default();
    new.links.insert(name("flannel.2"), link);
    assert_snapshot!(render(&round(&mut kernel.clone(), &new, Prune::Keep)), @r#"link add flannel.2 mtu 1450 address 0a:00:00:00:00:01 up alias "flannel 10.42.0.0/16 fd00:42::/48" type vxlan id 2 local 192.168.50.1 dev eth0 dstport 8472 nolearning"#);
    assert_snapshot!(render(&round(&mut kernel, &new, Prune::Surplus)), @r#"
    link add flannel.2 mtu 1450 address 0a:00:00:00:00:01 up alias "flannel 10.42.0.0/16 fd00:42::/48" type vxlan id 2 local 192.168.50.1 dev eth0 dstport 8472 nolearning
    route del 10.42.3.0/24 via 192.168.50.3 dev eth0
    route del fd00:42:0:3::/64 via fd50::3 dev eth0
    link del flannel-v6.1
    link del flannel.1
    "#);
    assert_eq!(kernel.links.len(), 3);
}

#[test]
fn several_routes_under_one_key() {
    let (mut kernel, desired) = (host(), dual());
    round(&mut kernel, &desired, Prune::Surplus);
    let stray = |family| Route {
        target: RouteTarget::via(public(family, 9), &name("eth0"), false),
        protocol: PROTOCOL_BOOT,
    };
    let keys: Vec<RouteKey> = desired.routes.keys().copied().collect();
    for (place, key) in keys.into_iter().enumerate() {
        let family = Family::of_net(key.destination);
        let ours = desired.routes[&key].clone();
        let both = if place % 2 == 0 { vec![stray(family), ours] } else { vec![ours, stray(family)] };
        kernel.routes.insert(key, Route::several(both).unwrap());
    }
    assert_snapshot!(render(&round(&mut kernel, &desired, Prune::Keep)), @r"
    route del 10.42.2.0/24 via 192.168.50.9 dev eth0
    route del 10.42.3.0/24 via 192.168.50.9 dev eth0
    route del fd00:42:0:2::/64 via fd50::9 dev eth0
    route del fd00:42:0:3::/64 via fd50::9 dev eth0
    ");
    assert_eq!(actual(&kernel, &desired), desired);
}

#[test]
fn state_of_go_flannel_is_taken_over_in_place() {
    let (mut kernel, desired) = (host(), dual());
    round(&mut kernel, &desired, Prune::Surplus);
    kernel.links.values_mut().for_each(|link| link.alias = None);
    kernel.routes.values_mut().filter(|route| route.protocol == PROTOCOL).for_each(|route| {
        route.protocol = PROTOCOL_BOOT;
    });
    // A node that went while nobody looked.
    kernel.extend(peer(Family::V4, 8, 8, false));
    kernel.routes.get_mut(&RouteKey { destination: subnet(Family::V4, 8), metric: 0 }).unwrap().protocol =
        PROTOCOL_BOOT;
    let ops = round(&mut kernel, &desired, Prune::Surplus);
    assert_snapshot!(render(&ops), @r#"
    link set flannel-v6.1 alias "flannel 10.42.0.0/16 fd00:42::/48"
    link set flannel.1 alias "flannel 10.42.0.0/16 fd00:42::/48"
    route replace 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink
    route replace 10.42.3.0/24 via 192.168.50.3 dev eth0
    route replace fd00:42:0:2::/64 via fd00:42:0:2:: dev flannel-v6.1 onlink
    route replace fd00:42:0:3::/64 via fd50::3 dev eth0
    route del 10.42.8.0/24 via 10.42.8.0 dev flannel.1 onlink
    neigh del 10.42.8.0 dev flannel.1
    fdb del 0a:00:00:00:00:08 dst 192.168.50.8 dev flannel.1
    "#);
}

/// A dual-stack node whose IPv4 routes refer to nexthop objects.
fn with_objects() -> Dataplane {
    let mut desired = dual();
    desired.use_nexthops(|_| false);
    desired
}

#[test]
fn routes_move_to_nexthop_objects_in_place() {
    let mut kernel = host();
    round(&mut kernel, &dual(), Prune::Surplus);
    let ops = round(&mut kernel, &with_objects(), Prune::Surplus);
    assert_snapshot!(render(&ops), @r"
    nexthop add id 170525184 via 10.42.2.0 dev flannel.1 onlink
    nexthop add id 170525440 via 192.168.50.3 dev eth0
    route replace 10.42.2.0/24 nhid 170525184 via 10.42.2.0 dev flannel.1 onlink
    route replace 10.42.3.0/24 nhid 170525440 via 192.168.50.3 dev eth0
    ");
    // And back: no route is missing at any time.
    let ops = round(&mut kernel, &dual(), Prune::Surplus);
    assert_snapshot!(render(&ops), @r"
    route replace 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink
    route replace 10.42.3.0/24 via 192.168.50.3 dev eth0
    nexthop del id 170525184
    nexthop del id 170525440
    ");
}

#[test]
fn the_kernel_never_has_to_search_routes_of_nexthop_objects() {
    let mut kernel = host();
    round(&mut kernel, &with_objects(), Prune::Surplus);
    // Another VNI: the device is replaced, and its objects go before it.
    let mut desired = with_objects();
    let LinkKind::Vxlan(vxlan) = &mut desired.links.get_mut(&device(Family::V4)).unwrap().kind else {
        panic!()
    };
    vxlan.port = 4789;
    let ops = round(&mut kernel, &desired, Prune::Surplus);
    assert_snapshot!(render(&ops[..3]), @r"
    route del 10.42.2.0/24 nhid 170525184 via 10.42.2.0 dev flannel.1 onlink
    nexthop del id 170525184
    link del flannel.1
    ");
    // No device at all.
    let ops = round(&mut kernel, &Dataplane::default(), Prune::Surplus);
    let places = |what: &str| {
        let places = ops.iter().enumerate().filter(move |(_, op)| op.to_string().starts_with(what));
        places.map(|(place, _)| place).collect::<Vec<_>>()
    };
    assert!(places("route del 10.42").last() < places("nexthop del").first(), "{}", render(&ops));
    assert!(places("nexthop del").last() < places("link del").first(), "{}", render(&ops));
    assert_eq!((places("nexthop del").len(), kernel.nexthops.len()), (2, 0));
}

#[test]
fn flushed_and_altered_nexthop_objects_are_restored() {
    let (mut kernel, desired) = (host(), with_objects());
    round(&mut kernel, &desired, Prune::Surplus);
    for id in desired.nexthops.keys() {
        model::apply(&mut kernel, &Op::DeleteNexthop(*id)).unwrap();
    }
    let ops = round(&mut kernel, &desired, Prune::Keep);
    assert_eq!(ops.len(), 4, "{}", render(&ops));
    assert_eq!(kernel.nexthops, desired.nexthops);
    let id = *desired.nexthops.keys().next().unwrap();
    let target = RouteTarget::via(public(Family::V4, 9), &name("eth0"), false);
    let altered = Nexthop { target, protocol: PROTOCOL };
    model::apply(&mut kernel, &Op::ReplaceNexthop(id, altered)).unwrap();
    let ops = round(&mut kernel, &desired, Prune::Keep);
    assert_snapshot!(render(&ops[..1]), @"nexthop replace id 170525184 via 10.42.2.0 dev flannel.1 onlink");
    assert_eq!(kernel.nexthops, desired.nexthops);
}

#[test]
fn mismatches_are_those_of_go_flannel() {
    let wanted = tunnel(Family::V4);
    let check = |alter: fn(&mut Vxlan)| {
        let mut found = tunnel(Family::V4);
        let LinkKind::Vxlan(vxlan) = &mut found.kind else { panic!() };
        alter(vxlan);
        wanted.kind.mismatch(&found.kind)
    };
    assert_eq!(check(|_| {}), None);
    assert_eq!(check(|found| found.vni = Vni::new(2).unwrap()), Some("VNI"));
    assert_eq!(check(|found| found.lower = Some(name("eth1"))), Some("underlay interface"));
    assert_eq!(check(|found| found.lower = None), None);
    assert_eq!(check(|found| found.local = Some(ip("192.168.50.9"))), Some("local address"));
    assert_eq!(check(|found| found.local = None), None);
    assert_eq!(check(|found| found.group = Some(ip("239.1.1.1"))), None);
    assert_eq!(check(|found| found.l2miss = true), Some("l2miss"));
    assert_eq!(check(|found| found.port = 4789), Some("port"));
    assert_eq!(check(|found| found.gbp = true), Some("gbp"));
    assert_eq!(check(|found| found.learning = true), None);
    let other = Link { kind: LinkKind::Other("dummy".to_owned()), ..wanted.clone() };
    assert_eq!(wanted.kind.mismatch(&other.kind), Some("kind"));
    let mut v6 = tunnel(Family::V6);
    let LinkKind::Vxlan(vxlan) = &mut v6.kind else { panic!() };
    vxlan.local = None;
    assert_eq!(tunnel(Family::V6).kind.mismatch(&v6.kind), Some("local address"));
}

prop_compose! {
    fn any_peer()(v6 in any::<bool>(), node in 2..6u8, vtep in 2..6u8, direct in any::<bool>()) -> Dataplane {
        peer(if v6 { Family::V6 } else { Family::V4 }, node, vtep, direct)
    }
}

prop_compose! {
    fn any_desired()(
        families in 0..4u8,
        peers in prop::collection::vec(any_peer(), 0..8),
        objects in any::<bool>(),
    ) -> Dataplane {
        let mut desired = Dataplane::default();
        for (bit, family) in Family::ALL.into_iter().enumerate() {
            if families & (1 << bit) == 0 {
                desired.extend(base(family));
            }
        }
        for peer in peers {
            let fits = peer.fdb.keys().all(|key| desired.links.contains_key(&key.link));
            if fits {
                desired.extend(peer);
            }
        }
        if objects {
            desired.use_nexthops(|id| id == nexthop_id("10.42.3.0/24"));
        }
        desired
    }
}

/// What somebody does to the kernel.
#[derive(Clone, Debug)]
enum Damage {
    DeleteLink(Index),
    AlterLink(Index, u8),
    Address(Index, u8),
    Neighbour(Index, u8),
    Fdb(Index, u8),
    DeleteRoute(Index),
    AlterRoute(Index, u8),
    Nexthop(Index, u8),
    Surplus(Dataplane),
}

fn any_damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<Index>().prop_map(Damage::DeleteLink),
        (any::<Index>(), 0..7u8).prop_map(|(at, how)| Damage::AlterLink(at, how)),
        (any::<Index>(), 0..3u8).prop_map(|(at, how)| Damage::Address(at, how)),
        (any::<Index>(), 0..3u8).prop_map(|(at, how)| Damage::Neighbour(at, how)),
        (any::<Index>(), 0..4u8).prop_map(|(at, how)| Damage::Fdb(at, how)),
        any::<Index>().prop_map(Damage::DeleteRoute),
        (any::<Index>(), 0..5u8).prop_map(|(at, how)| Damage::AlterRoute(at, how)),
        (any::<Index>(), 0..4u8).prop_map(|(at, how)| Damage::Nexthop(at, how)),
        any_peer().prop_map(Damage::Surplus),
    ]
}

fn choose<K: Clone, V>(
    map: &std::collections::BTreeMap<K, V>,
    is_ours: impl Fn(&K) -> bool,
    at: &Index,
) -> Option<K> {
    let keys: Vec<&K> = map.keys().filter(|key| is_ours(key)).collect();
    (!keys.is_empty()).then(|| keys[at.index(keys.len())].clone())
}

fn is_ours(link: &LinkName) -> bool {
    link.as_str().starts_with("flannel")
}

fn damage(kernel: &mut Dataplane, what: &Damage) {
    match what {
        Damage::DeleteLink(at) => {
            if let Some(link) = choose(&kernel.links, is_ours, at) {
                model::apply(kernel, &Op::DeleteLink(link)).unwrap();
            }
        }
        Damage::AlterLink(at, how) => alter_link(kernel, at, *how),
        Damage::Address(at, how) => {
            let Some(key) = choose(&kernel.addresses, |key| is_ours(&key.link), at) else { return };
            match how {
                0 => drop(model::apply(kernel, &Op::DeleteAddress(key))),
                1 => drop(kernel.addresses.insert(AddressKey { net: net("10.42.200.0/32"), ..key }, Address)),
                _ => drop(kernel.addresses.insert(AddressKey { net: net("172.20.0.1/32"), ..key }, Address)),
            }
        }
        Damage::Neighbour(at, how) => {
            let Some(key) = choose(&kernel.neighbours, |_| true, at) else { return };
            let neighbour = kernel.neighbours.get_mut(&key).unwrap();
            match how {
                0 => drop(kernel.neighbours.remove(&key)),
                1 => neighbour.mac = Some(mac(50)),
                _ => neighbour.permanent = false,
            }
        }
        Damage::Fdb(at, how) => {
            let Some(key) = choose(&kernel.fdb, |_| true, at) else { return };
            let entry = kernel.fdb.get_mut(&key).unwrap();
            match how {
                0 => drop(kernel.fdb.remove(&key)),
                1 => entry.destinations = vec![public(Family::V4, 50)],
                2 => entry.permanent = false,
                _ => {
                    let flood = FdbKey { mac: Mac([0; 6]), ..key };
                    let destinations = vec![public(Family::V4, 50), public(Family::V4, 51)];
                    kernel.fdb.insert(flood, FdbEntry { destinations, permanent: true });
                }
            }
        }
        Damage::DeleteRoute(at) => {
            let ours = |key: &RouteKey| kernel.routes[key].protocol == PROTOCOL;
            if let Some(key) = choose(&kernel.routes, ours, at) {
                kernel.routes.remove(&key);
            }
        }
        Damage::AlterRoute(at, how) => alter_route(kernel, at, *how),
        Damage::Nexthop(at, how) => alter_nexthop(kernel, at, *how),
        Damage::Surplus(peer) => {
            let mut peer = peer.clone();
            peer.routes
                .retain(|_, route| route.target.link().is_none_or(|link| kernel.links.contains_key(link)));
            peer.fdb.retain(|key, _| kernel.links.contains_key(&key.link));
            peer.neighbours.retain(|key, _| kernel.links.contains_key(&key.link));
            kernel.extend(peer);
        }
    }
}

fn alter_link(kernel: &mut Dataplane, at: &Index, how: u8) {
    let Some(key) = choose(&kernel.links, is_ours, at) else { return };
    let change = match how {
        0 => LinkChange { mtu: Some(1300), ..LinkChange::default() },
        1 => LinkChange { mac: Some(mac(60)), ..LinkChange::default() },
        2 => LinkChange { up: Some(false), ..LinkChange::default() },
        3 => {
            let mut kind = tunnel(Family::V4).kind;
            let LinkKind::Vxlan(vxlan) = &mut kind else { panic!() };
            vxlan.learning = true;
            LinkChange { kind: Some(kind), ..LinkChange::default() }
        }
        _ => LinkChange { alias: Some("mine".to_owned()), ..LinkChange::default() },
    };
    model::apply(kernel, &Op::SetLink(key.clone(), change.into())).unwrap();
    let link = kernel.links.get_mut(&key).unwrap();
    match (how, &mut link.kind) {
        (5, LinkKind::Vxlan(vxlan)) => vxlan.port = 4789,
        (6, kind) => *kind = LinkKind::Other("dummy".to_owned()),
        _ => {}
    }
}

fn alter_route(kernel: &mut Dataplane, at: &Index, how: u8) {
    let ours = |key: &RouteKey| kernel.routes[key].protocol == PROTOCOL;
    let Some(key) = choose(&kernel.routes, ours, at) else { return };
    let family = Family::of_net(key.destination);
    let stray =
        Route { target: RouteTarget::via(public(family, 9), &name("eth0"), false), protocol: PROTOCOL_BOOT };
    let route = kernel.routes.get_mut(&key).unwrap();
    match how {
        0 => route.target = RouteTarget::Blackhole,
        1 => *route = stray,
        2 | 3 => {
            let mut all: Vec<Route> = route.each().filter(|route| **route != stray).cloned().collect();
            all.insert(if how == 2 { 0 } else { all.len() }, stray);
            *route = Route::several(all).unwrap();
        }
        _ => route.target = RouteTarget::Other("multipath".to_owned()),
    }
}

fn alter_nexthop(kernel: &mut Dataplane, at: &Index, how: u8) {
    let eth0 = |protocol| {
        let target = RouteTarget::via(public(Family::V4, 9), &name("eth0"), false);
        Nexthop { target, protocol }
    };
    let owned = || choose(&kernel.nexthops, |id| kernel.nexthops[id].protocol == PROTOCOL, at);
    let op = match how {
        0 => owned().map(Op::DeleteNexthop),
        1 => owned().map(|id| Op::ReplaceNexthop(id, eth0(PROTOCOL))),
        2 => Some(Op::ReplaceNexthop(nexthop_id("10.42.250.0/24"), eth0(PROTOCOL_BOOT))),
        _ => Some(Op::ReplaceNexthop(nexthop_id("10.42.251.0/24"), eth0(PROTOCOL))),
    };
    op.into_iter().for_each(|op| model::apply(kernel, &op).unwrap());
}

fn nexthop_id(destination: &str) -> NexthopId {
    NexthopId::of(net(destination)).unwrap()
}

/// Objects of others that do not live on our devices.
fn foreign(kernel: &Dataplane, desired: &Dataplane) -> Dataplane {
    let mut rest = kernel.clone();
    let ours = actual(kernel, desired);
    rest.retract(&ours);
    for (key, route) in &kernel.routes {
        let taken: Vec<&Route> = ours.routes.get(key).into_iter().flat_map(Route::each).collect();
        let left = route.each().filter(|route| !taken.contains(route)).cloned().collect();
        rest.routes.extend(Route::several(left).map(|route| (*key, route)));
    }
    rest.links.retain(|link, _| !is_ours(link));
    rest.addresses.retain(|key, _| !is_ours(&key.link));
    rest.neighbours.clear();
    rest.fdb.clear();
    rest.routes.retain(|_, route| !route.each().any(|route| route.target.link().is_some_and(is_ours)));
    rest
}

proptest! {
    #[test]
    fn the_plan_from_a_state_to_itself_is_empty(desired in any_desired()) {
        prop_assert_eq!(plan(&desired, &desired, Prune::Surplus), []);
    }

    #[test]
    fn one_round_repairs_everything_and_spares_others(
        before in any_desired(),
        desired in any_desired(),
        damages in prop::collection::vec(any_damage(), 0..6),
        early in any::<bool>(),
    ) {
        let mut kernel = host();
        round(&mut kernel, &before, Prune::Surplus);
        for what in &damages {
            damage(&mut kernel, what);
        }
        let others = foreign(&kernel, &desired);
        if early {
            round(&mut kernel, &desired, Prune::Keep);
            prop_assert_eq!(actual(&kernel, &desired).restricted_to(&desired), desired.clone());
        }
        round(&mut kernel, &desired, Prune::Surplus);
        prop_assert_eq!(actual(&kernel, &desired), desired.clone());
        prop_assert_eq!(foreign(&kernel, &desired), others);
        prop_assert_eq!(round(&mut kernel, &desired, Prune::Surplus), []);
    }

    #[test]
    fn cut_off_anywhere_the_next_round_finishes(
        before in any_desired(),
        desired in any_desired(),
        damages in prop::collection::vec(any_damage(), 0..4),
        cut in any::<Index>(),
    ) {
        let mut kernel = host();
        round(&mut kernel, &before, Prune::Surplus);
        for what in &damages {
            damage(&mut kernel, what);
        }
        let ops = plan(&desired, &actual(&kernel, &desired), Prune::Surplus);
        for op in &ops[..cut.index(ops.len() + 1)] {
            prop_assert_eq!(model::apply(&mut kernel, op), Ok(()));
        }
        round(&mut kernel, &desired, Prune::Surplus);
        prop_assert_eq!(actual(&kernel, &desired), desired);
    }

    #[test]
    fn a_route_is_set_after_what_it_needs(desired in any_desired()) {
        let ops = plan(&desired, &Dataplane::default(), Prune::Surplus);
        let mut kernel = host();
        for op in &ops {
            prop_assert_eq!(model::apply(&mut kernel, op), Ok(()));
            let ready = kernel.routes.values().filter_map(|route| match &route.target {
                RouteTarget::Via { gateway, link, onlink: true, .. } => Some((gateway, link)),
                _ => None,
            });
            for (gateway, link) in ready {
                let neighbour = kernel.neighbours.get(&NeighbourKey { link: link.clone(), address: *gateway });
                let mac = neighbour.and_then(|neighbour| neighbour.mac);
                let key = FdbKey { link: link.clone(), mac: mac.expect("the neighbour comes first") };
                prop_assert!(kernel.fdb.contains_key(&key));
            }
        }
    }
}

#[test]
fn refusals_of_the_model_reach_the_round() {
    let mut kernel = Dataplane::default();
    let create = Op::CreateLink(device(Family::V4), tunnel(Family::V4).into());
    assert_eq!(model::apply(&mut kernel, &create), Err(Refusal::NoDevice), "no eth0");
}
