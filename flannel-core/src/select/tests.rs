use super::*;
use crate::facts::{AddressFacts, RouteFacts};
use insta::assert_snapshot;
use ipnet::IpNet;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn address(text: &str) -> AddressFacts {
    AddressFacts { net: net(text), deprecated: false, permanent: true, temporary: false }
}

fn link(index: u32, name: &str, addresses: &[&str]) -> LinkFacts {
    LinkFacts {
        index: IfIndex(index),
        name: name.parse().unwrap(),
        mtu: 1500,
        up: true,
        mac: None,
        addresses: addresses.iter().map(|text| address(text)).collect(),
    }
}

fn route(destination: &str, gateway: Option<&str>, link: u32, metric: u32) -> RouteFacts {
    let (destination, gateway) = (net(destination), gateway.map(ip));
    RouteFacts { destination, gateway, link: Some(IfIndex(link)), source: None, metric }
}

/// The host of the golden vectors.
fn golden() -> HostFacts {
    let addresses = [
        "1.10.100.1/32",
        "192.168.200.128/32",
        "172.16.30.18/32",
        "172.16.31.200/32",
        "172.16.32.100/32",
        "2001:db8::1/64",
    ];
    HostFacts {
        links: vec![link(1, "lo", &["127.0.0.1/8", "::1/128"]), link(2, "dummy0", &addresses)],
        routes: vec![route("172.16.32.254/32", Some("172.16.32.100"), 2, 0)],
    }
}

/// Two NICs, pods and a tunnel.
fn host() -> HostFacts {
    HostFacts {
        links: vec![
            link(1, "lo", &["127.0.0.1/8", "::1/128"]),
            link(2, "eth0", &["192.168.50.1/24", "fd50::1/64", "fe80::1/64"]),
            link(3, "eth1", &["10.9.0.1/16"]),
            link(4, "flannel.1", &["10.42.1.0/32", "fe80::4/64"]),
            link(5, "cni0", &["10.42.1.1/24"]),
        ],
        routes: vec![
            route("0.0.0.0/0", Some("10.9.0.254"), 3, 100),
            route("0.0.0.0/0", Some("192.168.50.254"), 2, 50),
            route("192.168.50.0/24", None, 2, 0),
            route("10.9.0.0/16", None, 3, 0),
            route("10.9.7.0/24", Some("192.168.50.7"), 2, 0),
            route("::/0", Some("fe80::ff"), 2, 1024),
            route("fd50::/64", None, 2, 256),
        ],
    }
}

fn names(names: &[&str]) -> Wish {
    Wish { names: names.iter().map(|name| (*name).to_owned()).collect(), ..Wish::default() }
}

fn regexes(patterns: &[&str]) -> Wish {
    Wish { regexes: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(), ..Wish::default() }
}

fn can_reach(target: &str) -> Wish {
    Wish { can_reach: Some(ip(target)), ..Wish::default() }
}

fn public(v4: Option<&str>, v6: Option<&str>) -> Wish {
    Wish {
        public_ip: v4.map(|text| text.parse().unwrap()),
        public_ipv6: v6.map(|text| text.parse().unwrap()),
        ..Wish::default()
    }
}

/// `interface own -> public (way)`, or the error.
fn check(wish: &Wish, stack: Stack, facts: &HostFacts) -> String {
    match select(wish, stack, facts) {
        Ok(Selection { external, .. }) => {
            let list = |pair: DualStack<IpAddr>| {
                pair.iter().map(|(_, address)| address.to_string()).collect::<Vec<_>>().join(" ")
            };
            let (own, public) = (list(external.address), list(external.public));
            format!("{} {own} -> {public} ({})", external.name, external.way)
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn golden_lookups() {
    let check = |wish: Wish, stack| {
        let found = select(&wish, stack, &golden()).unwrap().external;
        assert_eq!((found.name.as_str(), found.index, found.mtu), ("dummy0", IfIndex(2), 1500));
        let text = |address: Option<IpAddr>| address.map(|address| address.to_string()).unwrap_or_default();
        (text(found.address.v4), text(found.public.v4), text(found.address.v6))
    };
    let same = |v4: &str| (v4.to_owned(), v4.to_owned(), String::new());
    assert_eq!(check(regexes(&[r"192\.168\.200\.\d+"]), Stack::V4), same("192.168.200.128"));
    assert_eq!(check(regexes(&[r"dummy\d+"]), Stack::V4), same("1.10.100.1"));
    assert_eq!(check(names(&["dummy0"]), Stack::V4), same("1.10.100.1"));
    assert_eq!(check(names(&["172.16.30.18"]), Stack::V4), same("172.16.30.18"));
    let dual = ("172.16.30.18".to_owned(), "172.16.30.18".to_owned(), "2001:db8::1".to_owned());
    assert_eq!(check(names(&["172.16.30.18"]), Stack::Dual), dual);
    let translated =
        Wish { public_ip: Some("172.16.31.200".parse().unwrap()), ..regexes(&[r"172\.16\.30\.\d+"]) };
    let (own, public) = ("172.16.30.18".to_owned(), "172.16.31.200".to_owned());
    assert_eq!(check(translated, Stack::V4), (own, public, String::new()));
    assert_eq!(check(can_reach("172.16.32.254"), Stack::V4), same("172.16.32.100"));
}

#[test]
fn without_a_wish() {
    let host = host();
    let check = |wish: Wish, stack| check(&wish, stack, &host);
    assert_snapshot!(check(Wish::default(), Stack::V4), @"eth0 192.168.50.1 -> 192.168.50.1 (the default route)");
    assert_snapshot!(check(Wish::default(), Stack::V6), @"eth0 fd50::1 -> fd50::1 (the default route)");
    assert_snapshot!(check(Wish::default(), Stack::Dual), @"eth0 192.168.50.1 fd50::1 -> 192.168.50.1 fd50::1 (the default route)");
    assert_snapshot!(check(public(Some("10.9.0.1"), None), Stack::V4), @"eth1 10.9.0.1 -> 10.9.0.1 (--public-ip=10.9.0.1)");
    assert_snapshot!(check(public(Some("10.9.0.1"), None), Stack::V6), @"eth0 fd50::1 -> 10.9.0.1 fd50::1 (the default route)");
    assert_snapshot!(check(public(Some("10.9.0.1"), None), Stack::Dual), @"no interface for traffic between nodes was found: --public-ip=10.9.0.1: eth1 has no IPv6 address that other nodes could send to. Name an interface or an address of this host: --iface=NAME");
    assert_snapshot!(check(public(None, Some("fd50::1")), Stack::Dual), @"eth0 192.168.50.1 fd50::1 -> 192.168.50.1 fd50::1 (--public-ipv6=fd50::1)");
    assert_snapshot!(check(public(None, Some("fd50::1")), Stack::V4), @"eth0 192.168.50.1 -> 192.168.50.1 fd50::1 (the default route)");
    assert_snapshot!(check(public(Some("203.0.113.9"), None), Stack::V4), @"no interface for traffic between nodes was found: --public-ip=203.0.113.9: no interface has the address 203.0.113.9. If the public address is translated to one of this host, name the interface too: --iface=NAME");
    assert_snapshot!(check(public(Some("10.9.0.1"), Some("fd50::1")), Stack::Dual), @"no interface for traffic between nodes was found: --public-ip=10.9.0.1: 10.9.0.1 is on eth1 and fd50::1 on eth0, but both must be on one interface. Name an interface or an address of this host: --iface=NAME");
}

#[test]
fn names_and_addresses() {
    let host = host();
    let check = |wish: Wish, stack| check(&wish, stack, &host);
    assert_snapshot!(check(names(&["eth7", "eth1", "eth0"]), Stack::V4), @"eth1 10.9.0.1 -> 10.9.0.1 (--iface=eth1)");
    assert_snapshot!(check(names(&[""]), Stack::V4), @r#"eth0 192.168.50.1 -> 192.168.50.1 (--iface="")"#);
    assert_snapshot!(check(names(&["eth7", ""]), Stack::V4), @r#"eth0 192.168.50.1 -> 192.168.50.1 (--iface="")"#);
    assert_snapshot!(check(names(&["eth1"]), Stack::Dual), @"no interface for traffic between nodes was found: --iface=eth1: eth1 has no IPv6 address that other nodes could send to. Name an interface or an address of this host: --iface=NAME");
    assert_snapshot!(check(names(&["fd50::1"]), Stack::V6), @"eth0 fd50::1 -> fd50::1 (--iface=fd50::1)");
    assert_snapshot!(check(names(&["fd50::1"]), Stack::Dual), @"eth0 192.168.50.1 fd50::1 -> 192.168.50.1 fd50::1 (--iface=fd50::1)");
    assert_snapshot!(check(names(&["fd50::1"]), Stack::V4), @"no interface for traffic between nodes was found: --iface=fd50::1: fd50::1 is no address of the cluster, which uses IPv4. Name an interface or an address of this host: --iface=NAME");
    assert_snapshot!(check(names(&["eth 7"]), Stack::V4), @r#"no interface for traffic between nodes was found: --iface="eth 7": there is no such interface (there are lo, eth0, eth1, flannel.1, cni0). Name an interface or an address of this host: --iface=NAME"#);
    let translated =
        Wish { names: names(&["eth0"]).names, ..public(Some("203.0.113.9"), Some("2001:db8::9")) };
    assert_snapshot!(check(translated.clone(), Stack::Dual), @"eth0 192.168.50.1 fd50::1 -> 203.0.113.9 2001:db8::9 (--iface=eth0)");
    assert_snapshot!(check(translated, Stack::V4), @"eth0 192.168.50.1 -> 203.0.113.9 2001:db8::9 (--iface=eth0)");
    let elsewhere = Wish { names: names(&["10.9.0.1"]).names, ..public(None, Some("fd50::1")) };
    assert_snapshot!(check(elsewhere, Stack::Dual), @"no interface for traffic between nodes was found: --iface=10.9.0.1: 10.9.0.1 is on eth1 and fd50::1 on eth0, but both must be on one interface. Name an interface or an address of this host: --iface=NAME");
    let v6 = Wish { names: names(&["fd50::1"]).names, ..public(None, Some("2001:db8::9")) };
    assert_snapshot!(check(v6, Stack::Dual), @"eth0 192.168.50.1 fd50::1 -> 192.168.50.1 2001:db8::9 (--iface=fd50::1)");
}

#[test]
fn expressions() {
    let mut host = host();
    // Made anew after the tunnel, so it comes last in the kernel's order.
    host.links.push(link(9, "wan0", &["10.50.0.1/16", "fd51::1/64"]));
    let check = |wish: Wish, stack| check(&wish, stack, &host);
    assert_snapshot!(check(regexes(&[r"^10\.(42\.1\.0|50)"]), Stack::V4), @r"wan0 10.50.0.1 -> 10.50.0.1 (--iface-regex=^10\.(42\.1\.0|50))");
    assert_snapshot!(check(regexes(&["flannel"]), Stack::V4), @"no interface for traffic between nodes was found: --iface-regex=flannel: no address or name of an interface matches. Name an interface or an address of this host: --iface=NAME");
    assert_snapshot!(check(regexes(&[r"^10\.50|^fd51"]), Stack::Dual), @r"wan0 10.50.0.1 fd51::1 -> 10.50.0.1 fd51::1 (--iface-regex=^10\.50|^fd51)");
    // eth1 and cni0 match in IPv4 alone, which leaves nothing behind.
    assert_snapshot!(check(regexes(&[r"^10\.|^fd51"]), Stack::Dual), @r"wan0 10.50.0.1 fd51::1 -> 10.50.0.1 fd51::1 (--iface-regex=^10\.|^fd51)");
    assert_snapshot!(check(regexes(&["eth[", "(", "wan"]), Stack::V4), @"wan0 10.50.0.1 -> 10.50.0.1 (--iface-regex=wan)");
    assert_snapshot!(check(regexes(&["eth[", "none"]), Stack::V4), @"no interface for traffic between nodes was found: --iface-regex=eth[: not a regular expression: unclosed character class; --iface-regex=none: no address or name of an interface matches. Name an interface or an address of this host: --iface=NAME");
    let failed = select(&regexes(&["eth[", "none", "eth0"]), Stack::V4, &host).unwrap().failed;
    let failed: Vec<String> = failed.iter().map(|Attempt { way, error }| format!("{way}: {error}")).collect();
    assert_snapshot!(failed.join("\n"), @r"
    --iface-regex=eth[: not a regular expression: unclosed character class
    --iface-regex=none: no address or name of an interface matches
    ");
}

#[test]
fn routes() {
    let mut host = host();
    let check = |wish: Wish, stack, host: &HostFacts| check(&wish, stack, host);
    assert_snapshot!(check(can_reach("10.9.7.1"), Stack::V4, &host), @"eth0 192.168.50.1 -> 192.168.50.1 (--iface-can-reach=10.9.7.1)");
    assert_snapshot!(check(can_reach("10.9.8.1"), Stack::V4, &host), @"eth1 10.9.0.1 -> 10.9.0.1 (--iface-can-reach=10.9.8.1)");
    assert_snapshot!(check(can_reach("8.8.8.8"), Stack::V4, &host), @"eth0 192.168.50.1 -> 192.168.50.1 (--iface-can-reach=8.8.8.8)");
    assert_snapshot!(check(can_reach("8.8.8.8"), Stack::Dual, &host), @"eth0 192.168.50.1 fd50::1 -> 192.168.50.1 fd50::1 (--iface-can-reach=8.8.8.8)");
    assert_snapshot!(check(can_reach("fd50::7"), Stack::Dual, &host), @"eth0 192.168.50.1 fd50::1 -> 192.168.50.1 fd50::1 (--iface-can-reach=fd50::7)");
    assert_snapshot!(check(can_reach("fd50::7"), Stack::V6, &host), @"eth0 fd50::1 -> fd50::1 (--iface-can-reach=fd50::7)");
    assert_snapshot!(check(can_reach("10.9.0.1"), Stack::V4, &host), @"eth1 10.9.0.1 -> 10.9.0.1 (--iface-can-reach=10.9.0.1)");
    // The source that a route names counts, if the interface has it.
    host.links[1].addresses.push(address("192.168.50.8/24"));
    host.routes[1].source = Some(ip("192.168.50.8"));
    assert_snapshot!(check(can_reach("8.8.8.8"), Stack::V4, &host), @"eth0 192.168.50.8 -> 192.168.50.8 (--iface-can-reach=8.8.8.8)");
    host.routes.retain(|route| route.destination.prefix_len() > 0);
    assert_snapshot!(check(can_reach("8.8.8.8"), Stack::V4, &host), @"no interface for traffic between nodes was found: --iface-can-reach=8.8.8.8: there is no route to 8.8.8.8. Name an interface or an address of this host: --iface=NAME");
    assert_snapshot!(check(Wish::default(), Stack::V6, &host), @"no interface for traffic between nodes was found: the default route: there is no IPv6 default route. Name an interface or an address of this host: --iface=NAME");
    host.routes.push(route("0.0.0.0/0", Some("10.9.0.254"), 3, 0));
    host.routes.push(route("::/0", Some("fe80::ff"), 2, 1024));
    assert_snapshot!(check(Wish::default(), Stack::Dual, &host), @"no interface for traffic between nodes was found: the default route: the IPv4 default route leads through eth1 and that of IPv6 through eth0, but both must lead through one. Name an interface or an address of this host: --iface=NAME");
}

#[test]
fn a_default_route_without_interface_is_passed_over() {
    let mut host = host();
    host.routes[1].link = None;
    assert_snapshot!(check(&Wish::default(), Stack::V4, &host), @"eth1 10.9.0.1 -> 10.9.0.1 (the default route)");
}

#[test]
fn order_of_addresses() {
    let with = |alter: fn(&mut AddressFacts), text| {
        let mut address = address(text);
        alter(&mut address);
        address
    };
    let mut eth0 = link(2, "eth0", &[]);
    eth0.addresses = vec![
        address("169.254.1.1/16"),
        with(|a| a.deprecated = true, "10.0.0.1/8"),
        with(|a| a.permanent = false, "10.0.0.2/8"),
        address("224.0.0.1/32"),
        address("127.0.0.2/8"),
        address("10.0.0.3/8"),
        address("10.0.0.4/8"),
    ];
    let order: Vec<String> = eth0.usable(Family::V4).iter().map(ToString::to_string).collect();
    assert_eq!(order, ["10.0.0.3", "10.0.0.4", "10.0.0.2", "169.254.1.1"]);
    eth0.addresses = vec![
        address("fe80::1/64"),
        with(|a| (a.permanent, a.temporary) = (false, true), "2001:db8::2/64"),
        with(|a| a.permanent = false, "2001:db8::3/64"),
        with(|a| a.temporary = true, "2001:db8::4/64"),
        address("fd00::5/64"),
    ];
    let order: Vec<String> = eth0.usable(Family::V6).iter().map(ToString::to_string).collect();
    assert_eq!(order, ["fd00::5", "2001:db8::4", "2001:db8::3", "2001:db8::2", "fe80::1"]);
}

#[test]
fn an_mtu_of_zero_is_an_error() {
    let mut host = host();
    host.links[1].mtu = 0;
    assert_snapshot!(check(&names(&["eth0"]), Stack::V4, &host), @"no interface for traffic between nodes was found: --iface=eth0: eth0 has the MTU 0. Name an interface or an address of this host: --iface=NAME");
}

#[test]
fn names_of_our_devices() {
    for name in ["flannel.1", "flannel-v6.4096", "flannel.ipip", "flannel-wg", "flannel-wg-v6", "flannel0"] {
        assert!(is_tunnel(name), "{name}");
    }
    for name in ["flannel", "flannel-net", "flannel.eth", "eth0", "flannel."] {
        assert!(!is_tunnel(name), "{name}");
    }
}
