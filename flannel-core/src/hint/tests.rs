use super::*;
use crate::dataplane::{Address, FdbEntry, Link, LinkKind, Neighbour, PROTOCOL_BOOT, Route, Vxlan};
use crate::facts::{LinkFacts, RouteFacts};
use crate::link::Vni;
use crate::message::Scope;
use crate::message::route::{BLACKHOLE, Hop, MAIN_TABLE, UNICAST};

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const ETH0: IfIndex = IfIndex(2);
const TUNNEL: IfIndex = IfIndex(5);
const POD: IfIndex = IfIndex(9);

fn vxlan() -> LinkKind {
    LinkKind::Vxlan(Vxlan {
        vni: Vni::DEFAULT,
        local: Some(ip("192.168.50.1")),
        lower: Some(name("eth0")),
        port: 8472,
        learning: false,
        gbp: false,
        group: None,
        l2miss: false,
    })
}

fn desired() -> Dataplane {
    let link = name("flannel.1");
    let mut desired = Dataplane::default();
    desired.links.insert(
        link.clone(),
        Link {
            kind: vxlan(),
            mtu: 1450,
            mac: Some(mac(1)),
            up: true,
            alias: Some("flannel 10.42.0.0/16".to_owned()),
        },
    );
    desired.addresses.insert(AddressKey { link: link.clone(), net: net("10.42.1.0/32") }, Address);
    desired.neighbours.insert(
        NeighbourKey { link: link.clone(), address: ip("10.42.2.0") },
        Neighbour { mac: Some(mac(2)), permanent: true },
    );
    desired.fdb.insert(
        FdbKey { link: link.clone(), mac: mac(2) },
        FdbEntry { destinations: vec![ip("192.168.50.2")], permanent: true },
    );
    desired.routes.insert(
        key("10.42.2.0/24"),
        Route { target: RouteTarget::via(ip("10.42.2.0"), &link, true), protocol: PROTOCOL },
    );
    desired
}

fn key(destination: &str) -> RouteKey {
    RouteKey { destination: net(destination), metric: 0 }
}

fn address(text: &str) -> AddressFacts {
    AddressFacts { net: net(text), deprecated: false, permanent: true, temporary: false }
}

fn facts() -> HostFacts {
    let link = |index, text: &str, mtu, last, addresses| LinkFacts {
        index,
        name: name(text),
        mtu,
        up: true,
        mac: Some(mac(last)),
        master: None,
        addresses,
    };
    HostFacts {
        links: vec![
            link(ETH0, "eth0", 1500, 9, vec![address("192.168.50.1/24")]),
            link(TUNNEL, "flannel.1", 1450, 1, vec![address("10.42.1.0/32")]),
        ],
        routes: vec![RouteFacts {
            destination: net("0.0.0.0/0"),
            gateway: Some(ip("192.168.50.254")),
            link: Some(ETH0),
            source: None,
            metric: 0,
        }],
    }
}

fn check(hint: Hint) -> bool {
    check_on(&facts(), &hint)
}

fn check_on(facts: &HostFacts, hint: &Hint) -> bool {
    let (desired, external) = (desired(), name("eth0"));
    let networks = [net("10.42.0.0/16")];
    let interest = Interest {
        desired: &desired,
        facts,
        networks: &networks,
        external: Some(&external),
        underlay_routes: true,
        off_link: &[],
    };
    concerns(hint, &interest)
}

fn hint(object: Object, gone: bool) -> Hint {
    if gone { Hint::Removed(object) } else { Hint::Set(object) }
}

fn link(index: IfIndex, text: &str, now: Option<Link>) -> Hint {
    let gone = now.is_none();
    let record = LinkRecord {
        index,
        name: name(text),
        link: now.unwrap_or_else(|| self::now(1500, 9, None)),
        underlay: None,
        master: None,
        peer: None,
        hairpin: false,
        vlan_filtering: false,
        running: true,
        promiscuous: false,
    };
    hint(Object::Link(Box::new(record)), gone)
}

fn address_hint(index: IfIndex, facts: AddressFacts, gone: bool) -> Hint {
    let record = AddressRecord { index, scope: Scope::GLOBAL, unusable: false, duplicate: false, facts };
    hint(Object::Address(record), gone)
}

fn route_hint(destination: &str, route: &RouteRecord, gone: bool) -> Hint {
    hint(Object::Route(RouteRecord { destination: net(destination), ..route.clone() }), gone)
}

fn fdb(last: u8, destination: &str, permanent: bool, gone: bool) -> Hint {
    let destination = Some(ip(destination));
    hint(Object::Fdb(FdbRecord { index: TUNNEL, mac: mac(last), destination, permanent }), gone)
}

fn now(mtu: u32, last: u8, alias: Option<&str>) -> Link {
    Link { kind: vxlan(), mtu, mac: Some(mac(last)), up: true, alias: alias.map(str::to_owned) }
}

#[test]
fn links() {
    let ours = now(1450, 1, Some("flannel 10.42.0.0/16"));
    assert!(!check(link(TUNNEL, "flannel.1", Some(ours.clone()))), "echo of our own creation");
    assert!(
        check(link(IfIndex(7), "flannel.1", Some(ours.clone()))),
        "a new device, its number is not known yet"
    );
    assert!(check(link(TUNNEL, "flannel.1", None)), "deleted");
    assert!(check(link(TUNNEL, "flannel.1", Some(Link { mtu: 1400, ..ours.clone() }))), "MTU");
    assert!(check(link(TUNNEL, "flannel.1", Some(Link { up: false, ..ours.clone() }))), "down");
    assert!(check(link(TUNNEL, "flannel.1", Some(Link { mac: Some(mac(7)), ..ours.clone() }))), "MAC");
    assert!(check(link(TUNNEL, "flannel.1", Some(Link { alias: None, ..ours.clone() }))), "alias");
    let mut learning = vxlan();
    let LinkKind::Vxlan(parameters) = &mut learning else { panic!() };
    parameters.learning = true;
    assert!(check(link(TUNNEL, "flannel.1", Some(Link { kind: learning, ..ours.clone() }))), "learning");
    let mut moved = vxlan();
    let LinkKind::Vxlan(parameters) = &mut moved else { panic!() };
    parameters.local = Some(ip("192.0.2.1"));
    assert!(check(link(TUNNEL, "flannel.1", Some(Link { kind: moved, ..ours.clone() }))), "local address");
    assert!(check(link(TUNNEL, "renamed", Some(ours))), "renamed");

    assert!(!check(link(ETH0, "eth0", Some(now(1500, 9, None)))), "nothing new");
    assert!(check(link(ETH0, "eth0", Some(now(1400, 9, None)))), "MTU of the underlay");
    assert!(check(link(ETH0, "eth0", None)), "underlay gone");
    assert!(check(link(ETH0, "lan", Some(now(1500, 9, None)))), "underlay renamed");
    assert!(check(link(POD, "eth0", Some(now(1500, 9, None)))), "underlay made anew");

    assert!(!check(link(POD, "veth1", Some(now(1450, 4, None)))), "a pod starts");
    assert!(!check(link(POD, "veth1", None)), "a pod ends");

    let marked = now(1450, 4, Some("flannel 10.42.0.0/16"));
    assert!(check(link(POD, "vx", Some(marked.clone()))), "a device under our mark");
    assert!(!check(link(POD, "vx", Some(now(1450, 4, Some("flannel 10.43.0.0/16"))))), "of another cluster");
    let bridge = Link { kind: LinkKind::Other("bridge".to_owned()), ..marked };
    let down = Link { up: false, ..bridge.clone() };
    assert!(!check(link(POD, "br0", Some(bridge))), "no tunnel device");
    assert!(check(link(POD, "br0", Some(down))), "it may be the bridge of pods");
}

#[test]
fn whatever_goes_may_have_been_in_the_way_of_our_device() {
    let (desired, mut facts, external) = (desired(), facts(), name("eth0"));
    facts.links.retain(|link| link.index != TUNNEL);
    let interest = Interest {
        desired: &desired,
        facts: &facts,
        networks: &[],
        external: Some(&external),
        underlay_routes: true,
        off_link: &[],
    };
    assert!(concerns(&link(POD, "vx", None), &interest));
    assert!(!concerns(&link(POD, "vx", Some(now(1450, 4, None))), &interest));
    // Down, it releases its port.
    let down = Link { up: false, ..now(1450, 4, None) };
    assert!(concerns(&link(POD, "vx", Some(down.clone())), &interest));
    let veth = Link { kind: LinkKind::Other("veth".to_owned()), ..down.clone() };
    assert!(!concerns(&link(POD, "veth1", Some(veth)), &interest));
    // Ours exists, but could not be set up.
    let mut facts = facts.clone();
    facts.links.push(LinkFacts { up: false, ..self::facts().links[1].clone() });
    let interest = Interest { facts: &facts, ..interest };
    assert!(concerns(&link(POD, "vx", Some(down)), &interest));
}

#[test]
fn addresses() {
    let hint = |index, text, gone| address_hint(index, address(text), gone);
    assert!(!check(hint(TUNNEL, "10.42.1.0/32", false)));
    assert!(check(hint(TUNNEL, "10.42.1.0/32", true)));
    assert!(check(hint(TUNNEL, "10.42.7.0/32", false)), "surplus on our device");
    assert!(!check(hint(TUNNEL, "10.42.7.0/32", true)), "we removed a surplus one");
    assert!(!check(hint(TUNNEL, "fe80::1/64", false)), "link-local");
    assert!(!check(hint(ETH0, "192.168.50.1/24", false)), "lifetime renewed");
    assert!(check(hint(ETH0, "192.168.50.1/24", true)));
    assert!(check(hint(ETH0, "192.168.50.8/24", false)));
    assert!(check(hint(POD, "10.42.1.1/24", true)), "it may be the gateway of pods");
    assert!(!check(hint(POD, "172.17.0.1/16", true)));
    assert!(!check(hint(POD, "fe80::1/64", true)), "no bridge");
    let mut bridged = facts();
    bridged.links.push(LinkFacts { index: IfIndex(10), master: Some(POD), ..bridged.links[0].clone() });
    assert!(check_on(&bridged, &hint(POD, "fe80::1/64", true)));
    let deprecated = AddressFacts { deprecated: true, ..address("192.168.50.1/24") };
    assert!(check(address_hint(ETH0, deprecated, false)));
}

fn unicast(destination: &str, hop: Hop, protocol: u8) -> RouteRecord {
    RouteRecord {
        destination: net(destination),
        metric: 0,
        table: MAIN_TABLE,
        protocol,
        kind: UNICAST,
        tos: 0,
        cloned: false,
        hops: vec![hop],
        object: None,
        source: None,
        special: false,
        expires: None,
    }
}

/// A route of another program that keeps a peer of host-gw from being on the link.
#[test]
fn routes_to_peers_without_routes() {
    let (desired, facts, peer) = (Dataplane::default(), facts(), [ip("192.168.50.9")]);
    let external = name("eth0");
    let interest = Interest {
        desired: &desired,
        facts: &facts,
        networks: &[],
        external: Some(&external),
        underlay_routes: true,
        off_link: &peer,
    };
    let hop = Hop { gateway: Some(ip("192.168.50.254")), index: Some(ETH0), onlink: false };
    let set = |destination| {
        let route = unicast(destination, hop, PROTOCOL_BOOT);
        concerns(&hint(Object::Route(route), false), &interest)
    };
    assert!(set("192.168.50.9/32"));
    assert!(!set("192.168.50.8/32"));
}

#[test]
fn routes() {
    let hop = Hop { gateway: Some(ip("10.42.2.0")), index: Some(TUNNEL), onlink: true };
    let ours = unicast("0.0.0.0/0", hop, PROTOCOL);
    let through = |hop, protocol| RouteRecord { hops: vec![hop], protocol, ..ours.clone() };
    assert!(!check(route_hint("10.42.2.0/24", &ours, false)), "echo");
    assert!(check(route_hint("10.42.2.0/24", &ours, true)), "deleted");
    for altered in [
        through(Hop { gateway: None, ..hop }, PROTOCOL),
        through(Hop { index: Some(ETH0), ..hop }, PROTOCOL),
        through(Hop { onlink: false, ..hop }, PROTOCOL),
        RouteRecord { kind: BLACKHOLE, ..ours.clone() },
        through(hop, PROTOCOL_BOOT),
    ] {
        assert!(check(route_hint("10.42.2.0/24", &altered, false)), "{altered:?}");
    }
    assert!(check(route_hint("10.42.9.0/24", &ours, false)), "surplus on our device");
    assert!(!check(route_hint("10.42.9.0/24", &ours, true)), "we removed a surplus one");
    let kernel = through(Hop { gateway: None, onlink: false, ..hop }, PROTOCOL_KERNEL);
    assert!(!check(route_hint("fe80::/64", &kernel, false)));

    let underlay = |destination, gateway: Option<&str>, link, gone| {
        let hop = Hop { gateway: gateway.map(ip), index: Some(link), onlink: false };
        route_hint(destination, &through(hop, PROTOCOL_BOOT), gone)
    };
    assert!(check(underlay("192.168.50.2/32", Some("192.168.50.254"), ETH0, false)), "way to a peer");
    assert!(check(underlay("0.0.0.0/0", Some("192.168.50.254"), ETH0, true)), "default route lost");
    assert!(!check(underlay("0.0.0.0/0", Some("192.168.50.254"), ETH0, false)), "default route known");
    assert!(!check(underlay("10.42.1.7/32", None, POD, false)), "route to a pod");
    assert!(!check(underlay("192.168.50.2/32", None, ETH0, true)), "an unknown route gone");
}

#[test]
fn neighbours_and_fdb() {
    let neighbour = |index, last, address, permanent, gone| {
        let neighbour = Neighbour { mac: Some(mac(last)), permanent };
        hint(Object::Neighbour(NeighbourRecord { index, address: ip(address), neighbour }), gone)
    };
    assert!(!check(neighbour(TUNNEL, 2, "10.42.2.0", true, false)));
    assert!(check(neighbour(TUNNEL, 2, "10.42.2.0", true, true)));
    assert!(check(neighbour(TUNNEL, 3, "10.42.2.0", true, false)));
    assert!(check(neighbour(TUNNEL, 2, "10.42.2.0", false, false)));
    assert!(check(neighbour(TUNNEL, 2, "10.42.8.0", true, false)), "surplus");
    assert!(!check(neighbour(TUNNEL, 2, "10.42.8.0", false, false)), "not permanent, not ours");
    assert!(!check(neighbour(ETH0, 2, "10.42.2.0", true, true)));

    assert!(!check(fdb(2, "192.168.50.2", true, false)));
    assert!(check(fdb(2, "192.168.50.2", true, true)));
    assert!(check(fdb(2, "192.168.50.9", true, false)));
    assert!(!check(fdb(2, "192.168.50.9", true, true)), "a surplus destination went");
    assert!(check(fdb(4, "192.168.50.9", true, false)));
    assert!(!check(fdb(4, "192.168.50.9", false, false)), "learned");
}

#[test]
fn without_external_interface_every_link_may_be_it() {
    let (desired, facts) = (desired(), facts());
    let networks = [];
    let interest = Interest {
        desired: &desired,
        facts: &facts,
        networks: &networks,
        external: None,
        underlay_routes: false,
        off_link: &[],
    };
    assert!(concerns(&link(POD, "eth1", Some(now(1500, 3, None))), &interest));
    assert!(concerns(&address_hint(POD, address("10.0.0.1/8"), false), &interest));
}

#[test]
fn only_the_last_state_of_an_object_counts() {
    let (desired, facts, external) = (desired(), facts(), name("eth0"));
    let networks = [net("10.42.0.0/16")];
    let interest = Interest {
        desired: &desired,
        facts: &facts,
        networks: &networks,
        external: Some(&external),
        underlay_routes: true,
        off_link: &[],
    };
    let fdb = |destination| fdb(2, destination, true, false);
    let mut hints = Hints::default();
    assert!(hints.is_empty());
    hints.push(fdb("192.168.50.9"));
    assert_eq!(hints.reason(&interest), Some(&fdb("192.168.50.9")));
    hints.push(fdb("192.168.50.2"));
    assert_eq!(hints.reason(&interest), None);
    hints.push(Hint::Overrun);
    assert_eq!(hints.reason(&interest), Some(&Hint::Overrun));
    hints.clear();
    assert!(hints.is_empty());
}

#[test]
fn nexthop_objects() {
    let id = NexthopId::of(net("10.42.2.0/24")).unwrap();
    let ours = NexthopRecord {
        id,
        protocol: PROTOCOL,
        gateway: Some(ip("10.42.2.0")),
        index: Some(TUNNEL),
        onlink: true,
    };
    let mut plane = desired();
    plane.use_nexthops(|_| false);
    let matters = |desired: &Dataplane, hint: &Hint| {
        let (facts, networks) = (facts(), [net("10.42.0.0/16")]);
        let interest = Interest {
            desired,
            facts: &facts,
            networks: &networks,
            external: None,
            underlay_routes: false,
            off_link: &[],
        };
        concerns(hint, &interest)
    };
    let check = |hint: Hint| matters(&plane, &hint);
    let set = |record| Hint::Set(Object::Nexthop(record));
    assert!(!check(set(ours)), "echo");
    assert!(check(Hint::Removed(Object::Nexthop(ours))), "flushed");
    assert!(check(set(NexthopRecord { protocol: PROTOCOL_BOOT, ..ours })), "taken by another program");
    assert!(check(set(NexthopRecord { gateway: Some(ip("10.42.9.9")), ..ours })), "altered");
    let stray = NexthopRecord { id: NexthopId::of(net("10.42.7.0/24")).unwrap(), ..ours };
    assert!(check(set(stray)), "nobody wants it");
    assert!(!check(set(NexthopRecord { protocol: PROTOCOL_BOOT, ..stray })), "of another program");
    assert!(!check(set(NexthopRecord { id: NexthopId::new(5).unwrap(), ..ours })), "of another cluster");

    // A route that refers to it, in both modes of `net.ipv4.nexthop_compat_mode`.
    let hop = Hop { gateway: Some(ip("10.42.2.0")), index: Some(TUNNEL), onlink: true };
    for (hop, object, expected) in [
        (hop, Some(id), false),
        (Hop::default(), Some(id), false),
        (Hop::default(), NexthopId::new(5), true),
        (hop, None, true),
    ] {
        let route = RouteRecord {
            destination: net("10.42.2.0/24"),
            metric: 0,
            table: MAIN_TABLE,
            protocol: PROTOCOL,
            kind: UNICAST,
            tos: 0,
            cloned: false,
            hops: vec![hop],
            object,
            source: None,
            special: false,
            expires: None,
        };
        assert_eq!(check(Hint::Set(Object::Route(route.clone()))), expected, "{route:?}");
        assert!(check(Hint::Removed(Object::Route(route))));
    }
}
