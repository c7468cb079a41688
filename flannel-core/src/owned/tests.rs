use super::*;
use crate::dataplane::mark::alias;
use crate::dataplane::{Address, FdbEntry, FdbKey, LinkKind, Neighbour, NeighbourKey, Vxlan};
use crate::link::{Mac, Vni};
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

fn vxlan(alias: Option<&str>) -> Link {
    let vxlan = Vxlan {
        vni: Vni::DEFAULT,
        local: None,
        lower: None,
        port: 8472,
        learning: false,
        gbp: false,
        group: None,
        l2miss: false,
    };
    Link { kind: LinkKind::Vxlan(vxlan), mtu: 1450, mac: None, up: true, alias: alias.map(str::to_owned) }
}

fn key(destination: &str, metric: u32) -> RouteKey {
    RouteKey { destination: net(destination), metric }
}

fn route(target: RouteTarget, protocol: u8) -> Route {
    Route { target, protocol }
}

fn via(link: &str) -> RouteTarget {
    RouteTarget::via(ip("192.168.50.2"), &name(link), false)
}

/// We want a device and one route over the underlay.
fn desired() -> Dataplane {
    let mut desired = Dataplane::default();
    desired.links.insert(name("flannel.1"), vxlan(None));
    desired.routes.insert(key("10.42.2.0/24", 0), route(via("eth0"), PROTOCOL));
    desired
}

fn check(desired: &Dataplane, alter: impl FnOnce(&mut Dataplane)) -> bool {
    let mut observed = Dataplane::default();
    alter(&mut observed);
    let networks = [net("10.42.0.0/16"), net("fd00:42::/48")];
    let ours = owned(observed.clone(), &Scope { desired, networks: &networks });
    assert!(ours.is_empty() || ours == observed);
    !ours.is_empty()
}

#[test]
fn links() {
    let link = |text: &str, link: Link| check(&desired(), |seen| drop(seen.links.insert(name(text), link)));
    let dummy = Link { kind: LinkKind::Other("dummy".to_owned()), ..vxlan(None) };
    assert!(link("flannel.1", vxlan(None)));
    assert!(link("flannel.1", dummy.clone()), "whatever bears our name");
    assert!(link("flannel.2", vxlan(Some("flannel 10.42.0.0/16"))));
    assert!(link("flannel.2", vxlan(Some("flannel 10.9.0.0/16 fd00:42::/48"))), "one network is ours");
    assert!(!link("flannel.2", vxlan(Some("flannel 10.9.0.0/16"))), "of another cluster");
    assert!(!link("flannel.2", vxlan(None)));
    assert!(!link("vxlan7", vxlan(Some("uplink 10.42.0.0/16"))));
    assert!(!link("dummy0", Link { alias: Some("flannel 10.42.0.0/16".to_owned()), ..dummy }));
    assert!(!link("eth0", Link { kind: LinkKind::Other(String::new()), ..vxlan(None) }));
}

#[test]
fn addresses() {
    let address = |link: &str, text: &str| {
        let key = AddressKey { link: name(link), net: net(text) };
        check(&desired(), |seen| seen.addresses.extend([(key, Address)]))
    };
    assert!(address("flannel.1", "10.42.9.0/32"));
    assert!(!address("flannel.1", "172.20.0.1/32"), "outside of the network");
    assert!(address("flannel.1", "fd99::1/128"));
    assert!(!address("flannel.1", "fe80::1/64"));
    assert!(!address("cni0", "10.42.1.1/24"));
}

#[test]
fn neighbours_and_fdb() {
    let neighbour = |link: &str, permanent| {
        let key = NeighbourKey { link: name(link), address: ip("10.42.9.0") };
        check(&desired(), |seen| seen.neighbours.extend([(key, Neighbour { mac: None, permanent })]))
    };
    assert!(neighbour("flannel.1", true));
    assert!(!neighbour("flannel.1", false));
    assert!(!neighbour("eth0", true));
    let fdb = |link: &str, permanent| {
        let key = FdbKey { link: name(link), mac: Mac([0; 6]) };
        let entry = FdbEntry { destinations: vec![ip("192.168.50.2")], permanent };
        check(&desired(), |seen| drop(seen.fdb.insert(key, entry)))
    };
    assert!(fdb("flannel.1", true));
    assert!(!fdb("flannel.1", false), "learned");
    assert!(!fdb("vxlan7", true));
}

#[test]
fn routes() {
    let check = |key, route| check(&desired(), |seen| drop(seen.routes.insert(key, route)));
    assert!(check(key("10.42.2.0/24", 0), route(RouteTarget::Blackhole, 99)), "where ours belongs");
    assert!(!check(key("10.42.2.0/24", 50), route(via("eth0"), PROTOCOL_BOOT)), "beside ours");
    assert!(check(key("10.42.3.0/24", 0), route(via("flannel.1"), PROTOCOL_BOOT)), "on our device");
    assert!(!check(
        key("fd00:42:0:1::/128", 256),
        route(RouteTarget::Link(name("flannel.1")), PROTOCOL_KERNEL)
    ));
    assert!(!check(key("fe80::/64", 1024), route(RouteTarget::Link(name("flannel.1")), PROTOCOL_BOOT)));
    assert!(check(key("10.42.3.0/24", 0), route(via("eth0"), PROTOCOL)), "left from direct routing");
    assert!(!check(key("10.9.3.0/24", 0), route(via("eth0"), PROTOCOL)), "of another flanneld");
    assert!(!check(key("10.42.3.0/24", 0), route(via("eth0"), PROTOCOL_BOOT)), "anybody's");
    let connected = route(RouteTarget::Link(name("cni0")), PROTOCOL_KERNEL);
    assert!(!check(key("10.42.1.0/24", 0), connected), "own subnet");
    assert!(!check(key("10.42.1.0/24", 0), route(RouteTarget::Blackhole, PROTOCOL_BOOT)), "not asked for");
}

#[test]
fn the_blackhole_of_go_flannel_gives_way_to_ours() {
    let mut desired = desired();
    desired.routes.insert(key("10.42.1.0/24", u32::MAX), route(RouteTarget::Blackhole, PROTOCOL));
    let check = |protocol| {
        let blackhole = route(RouteTarget::Blackhole, protocol);
        check(&desired, |seen| drop(seen.routes.insert(key("10.42.1.0/24", 0), blackhole)))
    };
    assert!(check(PROTOCOL_BOOT));
    assert!(!check(4), "set by an administrator");
}

#[test]
fn of_several_routes_under_a_key_only_ours_are_taken() {
    let ours = route(via("flannel.1"), PROTOCOL);
    let both = Route::several(vec![ours.clone(), route(via("eth0"), PROTOCOL_BOOT)]).unwrap();
    let mut observed = Dataplane::default();
    observed.routes.insert(key("10.42.3.0/24", 0), both.clone());
    observed.routes.insert(key("10.42.2.0/24", 0), both.clone());
    let owned = owned(observed.clone(), &Scope { desired: &desired(), networks: &[] });
    assert_eq!(owned.routes[&key("10.42.3.0/24", 0)], ours);
    assert_eq!(owned.routes[&key("10.42.2.0/24", 0)], both);
}

#[test]
fn aliases_are_read_as_written() {
    let networks = [net("10.42.0.0/16"), net("fd00:42::/48")];
    assert_eq!(alias(&networks), "flannel 10.42.0.0/16 fd00:42::/48");
    assert!(marks_one_of(&alias(&networks), &networks[1..]));
    assert!(!marks_one_of(&alias(&[]), &networks));
}

#[test]
fn nexthop_objects() {
    let nexthop = |destination: &str, link: &str, protocol| {
        let id = crate::dataplane::NexthopId::of(net(destination)).unwrap();
        let object = crate::dataplane::Nexthop { target: via(link), protocol };
        check(&desired(), |seen| drop(seen.nexthops.insert(id, object)))
    };
    assert!(nexthop("10.42.2.0/24", "flannel.1", PROTOCOL));
    assert!(nexthop("10.42.9.0/24", "eth0", PROTOCOL), "nobody needs it any more");
    assert!(!nexthop("10.42.2.0/24", "flannel.1", PROTOCOL_BOOT), "it has our number by chance");
    assert!(!nexthop("10.99.2.0/24", "eth0", PROTOCOL), "of another cluster");
}
