use super::*;
use crate::dataplane::{FdbEntry, Link, LinkKind, Neighbour, PROTOCOL, PROTOCOL_KERNEL, Vxlan};
use crate::facts::{AddressFacts, LinkFacts};
use crate::link::{IfIndex, Vni};
use crate::message::route::{self, UNICAST};
use insta::assert_snapshot;

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn facts() -> HostFacts {
    let address = AddressFacts {
        net: "192.168.50.1/24".parse().unwrap(),
        deprecated: false,
        permanent: true,
        temporary: false,
    };
    let link = |index, text, addresses| LinkFacts {
        index: IfIndex(index),
        name: name(text),
        mtu: 1500,
        up: true,
        mac: None,
        master: None,
        addresses,
    };
    let links =
        vec![link(2, "eth0", vec![address]), link(3, "cni0", Vec::new()), link(4, "flannel.1", Vec::new())];
    HostFacts { links, routes: Vec::new() }
}

/// What the kernel answers where there are no policy rules.
fn answer(address: IpAddr, plane: &Dataplane) -> Answer {
    let (key, route) = in_main_table(address, plane).ok_or("Network is unreachable")?;
    let (gateway, link, onlink) = match &route.target {
        RouteTarget::Via { gateway, link, onlink, .. } => (Some(*gateway), link, *onlink),
        RouteTarget::Link(link) => (None, link, false),
        _ => return Err("Invalid argument".to_owned()),
    };
    let index = facts().links.iter().find(|found| found.name == *link).map(|found| found.index);
    Ok(RouteRecord {
        destination: key.destination,
        metric: key.metric,
        table: MAIN_TABLE,
        protocol: route.protocol,
        kind: UNICAST,
        tos: 0,
        cloned: false,
        hops: vec![route::Hop { gateway, index, onlink }],
        object: route.target.object(),
        source: None,
        special: false,
        expires: None,
    })
}

/// A node with a tunnel to one peer, pods of its own, and a router.
fn dataplane() -> Dataplane {
    let mut plane = Dataplane::default();
    let link = |kind, mtu| Link { kind, mtu, mac: None, up: true, alias: None };
    let vxlan = Vxlan {
        vni: Vni::DEFAULT,
        local: Some(ip("192.168.50.1")),
        lower: Some(name("eth0")),
        port: 8472,
        learning: false,
        gbp: false,
        group: None,
        l2miss: false,
    };
    plane.links.insert(name("eth0"), link(LinkKind::Other(String::new()), 1500));
    plane.links.insert(name("cni0"), link(LinkKind::Other("bridge".to_owned()), 1450));
    plane.links.insert(name("flannel.1"), link(LinkKind::Vxlan(vxlan), 1450));
    let mut route = |destination: &str, target, protocol| {
        let key = RouteKey { destination: destination.parse().unwrap(), metric: 0 };
        plane.routes.insert(key, Route { target, protocol });
    };
    let via = |gateway, link, onlink| RouteTarget::via(ip(gateway), &name(link), onlink);
    route("0.0.0.0/0", via("192.168.50.254", "eth0", false), 3);
    route("192.168.50.0/24", RouteTarget::Link(name("eth0")), PROTOCOL_KERNEL);
    route("10.42.1.0/24", RouteTarget::Link(name("cni0")), PROTOCOL_KERNEL);
    route("10.42.2.0/24", via("10.42.2.0", "flannel.1", true), PROTOCOL);
    route("10.42.3.0/24", RouteTarget::Blackhole, PROTOCOL);
    let mac: Mac = "0a:00:00:00:00:02".parse().unwrap();
    plane.neighbours.insert(
        NeighbourKey { link: name("flannel.1"), address: ip("10.42.2.0") },
        Neighbour { mac: Some(mac), permanent: true },
    );
    plane.fdb.insert(
        FdbKey { link: name("flannel.1"), mac },
        FdbEntry { destinations: vec![ip("192.168.50.2")], permanent: true },
    );
    plane
}

fn show(path: &Path) -> String {
    let hop = |title: &str, hop: &Option<Hop>| {
        hop.as_ref().map(|hop| format!("{title}: {} mtu {:?}", hop.text, hop.mtu_bytes))
    };
    let tunnel = path.tunnel.as_ref().map(|tunnel| {
        format!(
            "tunnel: {} {:?} {:?}",
            tunnel.link,
            tunnel.mac.map(|mac| mac.to_string()),
            tunnel.destinations
        )
    });
    let local = path.local.as_ref().map(|link| format!("local: {link}"));
    let lines = [local, hop("route", &path.route), tunnel, hop("underlay", &path.underlay)];
    lines
        .into_iter()
        .flatten()
        .chain(path.problems.iter().map(|problem| format!("! {problem}")))
        .collect::<Vec<_>>()
        .join("\n")
}

fn traced(address: &str, plane: &Dataplane) -> String {
    traced_by(address, &answer(ip(address), plane), plane)
}

fn traced_by(address: &str, by: &Answer, plane: &Dataplane) -> String {
    let mut path = trace(ip(address), by, &facts(), plane);
    if let Some((from, to)) = path.outer(plane) {
        assert_eq!(from, Some(ip("192.168.50.1")));
        path.leave(to, &answer(to, plane), &facts(), plane);
    }
    show(&path)
}

#[test]
fn policy_rules_lead_past_the_routes_of_flannel() {
    let plane = dataplane();
    let diverted = |address: &str| {
        let mut record = answer(ip("8.8.8.8"), &plane).unwrap();
        record.table = 77;
        traced_by(address, &Ok(record), &plane)
    };
    assert_snapshot!(diverted("10.42.2.7"), @r"
    route: 0.0.0.0/0 via 192.168.50.254 dev eth0 table 77 mtu Some(1500)
    ! a policy rule (ip rule) has packets to 10.42.2.7 take table 77 instead of flannel's route 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink
    ");
    // Nobody but the administrator has a say in these.
    assert_snapshot!(diverted("8.8.8.8"), @"route: 0.0.0.0/0 via 192.168.50.254 dev eth0 table 77 mtu Some(1500)");
    let refused = Err("Permission denied".to_owned());
    assert_snapshot!(traced_by("10.42.2.7", &refused, &plane), @"! the kernel has no route to 10.42.2.7: Permission denied (see ip rule, ip route show table all)");
}

#[test]
fn a_packet_is_followed_through_the_tunnel() {
    assert_snapshot!(traced("10.42.2.7", &dataplane()), @r#"
    route: 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink mtu Some(1450)
    tunnel: flannel.1 Some("0a:00:00:00:00:02") [192.168.50.2]
    underlay: 192.168.50.0/24 dev eth0 mtu Some(1500)
    "#);
}

#[test]
fn packets_that_take_no_tunnel() {
    assert_snapshot!(traced("10.42.1.7", &dataplane()), @"route: 10.42.1.0/24 dev cni0 mtu Some(1450)");
    assert_snapshot!(traced("8.8.8.8", &dataplane()), @"route: 0.0.0.0/0 via 192.168.50.254 dev eth0 mtu Some(1500)");
    assert_snapshot!(traced("192.168.50.1", &dataplane()), @"local: eth0");
}

#[test]
fn what_is_missing_is_named() {
    let mut plane = dataplane();
    assert_snapshot!(traced("10.42.3.1", &plane), @r#"
    route: blackhole 10.42.3.0/24 mtu None
    ! packets to 10.42.3.1 are dropped by the route blackhole 10.42.3.0/24
    "#);
    assert_snapshot!(traced("fd00::1", &plane), @"! the kernel has no route to fd00::1: Network is unreachable (see ip rule, ip route show table all)");
    plane.fdb.clear();
    assert_snapshot!(traced("10.42.2.7", &plane), @r#"
    route: 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink mtu Some(1450)
    tunnel: flannel.1 Some("0a:00:00:00:00:02") []
    ! flannel.1 has no FDB entry for 0a:00:00:00:00:02
    "#);
    plane.neighbours.clear();
    assert_snapshot!(traced("10.42.2.7", &plane), @r#"
    route: 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink mtu Some(1450)
    tunnel: flannel.1 None []
    ! flannel.1 has no neighbour entry for 10.42.2.0
    "#);
    plane.links.get_mut(&name("flannel.1")).unwrap().up = false;
    plane.links.get_mut(&name("eth0")).unwrap().up = false;
    assert_snapshot!(traced("10.42.2.7", &plane), @r#"
    route: 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink mtu Some(1450)
    tunnel: flannel.1 None []
    ! flannel.1 is down
    ! flannel.1 has no neighbour entry for 10.42.2.0
    "#);
}
