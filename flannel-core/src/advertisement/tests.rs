use super::*;
use crate::message::route::{BLACKHOLE, Hop, MAIN_TABLE};

fn route(destination: &str, protocol: u8, expires_secs: Option<u64>) -> RouteRecord {
    RouteRecord {
        destination: destination.parse().unwrap(),
        metric: 1024,
        table: MAIN_TABLE,
        protocol,
        kind: UNICAST,
        tos: 0,
        cloned: false,
        hops: vec![Hop { index: Some(IfIndex(2)), ..Hop::default() }],
        object: None,
        source: None,
        special: true,
        expires: expires_secs.map(Duration::from_secs),
    }
}

#[test]
fn routes_from_advertisements_are_recognised() {
    let advertised = [
        route("::/0", PROTOCOL_RA, Some(1800)),
        route("2001:db8:7::/48", PROTOCOL_RA, None),
        route("fd77::/64", PROTOCOL_KERNEL, Some(60)),
    ];
    let others = [
        route("::/0", 3, None),
        route("::/0", 3, Some(60)),
        route("fe80::/64", PROTOCOL_KERNEL, None),
        // Of an address with a lifetime, as DHCPv6 assigns it.
        route("fd77::9/128", PROTOCOL_KERNEL, Some(60)),
        route("192.0.2.0/24", PROTOCOL_KERNEL, Some(60)),
        RouteRecord { cloned: true, ..route("fd77::9/128", PROTOCOL_RA, Some(60)) },
        RouteRecord { kind: BLACKHOLE, ..route("::/0", PROTOCOL_RA, None) },
    ];
    let all: Vec<RouteRecord> = advertised.iter().chain(&others).cloned().collect();
    let found: Vec<IpNet> = routes(&all).iter().map(|route| route.destination).collect();
    assert_eq!(found, advertised.map(|route| route.destination));
}

#[test]
fn each_interface_of_a_route_counts_once() {
    let hops = [3, 2, 3].map(|index| Hop { index: Some(IfIndex(index)), ..Hop::default() });
    let both = RouteRecord { hops: hops.into(), ..route("::/0", PROTOCOL_RA, Some(9)) };
    let found = routes(&[both]);
    let expires = Some(Duration::from_secs(9));
    let destination = "::/0".parse().unwrap();
    assert_eq!(found, [2, 3].map(|index| Advertised { index: IfIndex(index), destination, expires }));
}

#[test]
fn changed_interfaces_survive_as_text() {
    let links = ["eth0", "bond0.7"].map(|name| name.parse().unwrap()).into();
    assert_eq!(from_text(&to_text(&links)), links);
    assert_eq!(from_text("eth0\n\nno name\n"), ["eth0".parse().unwrap()].into());
}
