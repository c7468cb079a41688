use super::*;
use crate::facts::AddressFacts;
use crate::link::IfIndex;
use insta::assert_snapshot;
use ipnet::IpNet;
use proptest::prelude::*;

type Stack = &'static [Family];

const V4: Stack = &[Family::V4];
const V6: Stack = &[Family::V6];
const DUAL: Stack = &Family::ALL;

/// An interface in the form `2 eth0 192.0.2.1/24 2001:db8::1/64*dpt`: after the star d for deprecated, l for a
/// lifetime, t for temporary.
fn link(text: &str) -> LinkFacts {
    let mut words = text.split(' ');
    let index = IfIndex(words.next().unwrap().parse().unwrap());
    let name = words.next().unwrap().parse().unwrap();
    let addresses = words.map(|word| {
        let (net, marks) = word.split_once('*').unwrap_or((word, ""));
        AddressFacts {
            net: net.parse().unwrap(),
            deprecated: marks.contains('d'),
            permanent: !marks.contains('l'),
            temporary: marks.contains('t'),
        }
    });
    LinkFacts { index, name, mtu: 1500, up: true, mac: None, master: None, addresses: addresses.collect() }
}

/// A route as `ip route` writes it, with the number of the interface: `default via 192.0.2.254 dev 2 metric 100`.
fn route(text: &str) -> RouteFacts {
    let words: Vec<&str> = text.split(' ').collect();
    let after = |key| words.iter().position(|word| *word == key).map(|place| words[place + 1]);
    RouteFacts {
        destination: match words[0] {
            "default" => "0.0.0.0/0".parse().unwrap(),
            net => net.parse().unwrap(),
        },
        gateway: after("via").map(|text| text.parse().unwrap()),
        link: after("dev").map(|text| IfIndex(text.parse().unwrap())),
        source: after("src").map(|text| text.parse().unwrap()),
        metric: after("metric").map_or(0, |text| text.parse().unwrap()),
    }
}

fn host(links: &[&str], routes: &[&str]) -> HostFacts {
    HostFacts {
        links: links.iter().map(|text| link(text)).collect(),
        routes: routes.iter().map(|text| route(text)).collect(),
    }
}

/// The golden host of the spec, beside one with a default route.
fn golden() -> HostFacts {
    host(
        &[
            "1 lo 127.0.0.1/8 ::1/128",
            "2 eth0 10.9.9.9/24 2001:db8:9::9/64",
            "3 dummy0 1.10.100.1/32 192.168.200.128/32 172.16.30.18/32 172.16.31.200/32 172.16.32.100/32 2001:db8::1/64",
        ],
        &[
            "default via 10.9.9.1 dev 2",
            "10.9.9.0/24 dev 2 src 10.9.9.9",
            "172.16.32.254/32 via 172.16.32.100 dev 3",
            "::/0 via fe80::1 dev 2 metric 1024",
            "2001:db8::/64 dev 3 metric 256",
        ],
    )
}

/// Wishes from flags: `--iface=eth0 --public-ip=192.0.2.1`.
fn wish(flags: &str) -> Criteria {
    let mut wish = Criteria::default();
    for flag in flags.split(' ').filter(|flag| !flag.is_empty()) {
        match flag.split_once('=').unwrap() {
            ("--iface", name) => wish.names.push(name.to_owned()),
            ("--iface-regex", pattern) => wish.regexes.push(pattern.to_owned()),
            ("--iface-can-reach", address) => wish.can_reach = Some(address.parse().unwrap()),
            ("--public-ip", address) => wish.public_ip = Some(address.parse().unwrap()),
            ("--public-ipv6", address) => wish.public_ipv6 = Some(address.parse().unwrap()),
            (flag, _) => panic!("{flag} is not known"),
        }
    }
    wish
}

fn stack_of(family: Family) -> Stack {
    match family {
        Family::V4 => V4,
        Family::V6 => V6,
    }
}

/// The interface, its addresses, and the public ones where they differ.
fn chosen(facts: &HostFacts, stack: Stack, flags: &str) -> Result<String, SelectError> {
    let external = select(&wish(flags), stack, facts)?.external;
    let texts = |values: DualStack<IpAddr>| values.iter().map(|(_, a)| a.to_string()).collect::<Vec<_>>();
    let mut text = format!("{} {}", external.name, texts(external.address).join(" "));
    if external.public != external.address {
        text.push_str(&format!(" -> {}", texts(external.public).join(" ")));
    }
    Ok(text)
}

fn check(facts: &HostFacts, cases: &[(Stack, &str, &str)]) {
    for (stack, flags, expected) in cases {
        let found = chosen(facts, stack, flags).unwrap_or_else(|error| error.to_string());
        assert_eq!(&found, expected, "{stack:?} {flags}");
    }
}

fn errors(facts: &HostFacts, cases: &[(Stack, &str)]) -> String {
    let texts = cases.iter().map(|(stack, flags)| chosen(facts, stack, flags).unwrap_err().to_string());
    texts.collect::<Vec<_>>().join("\n")
}

#[test]
fn golden_lookups() {
    check(
        &golden(),
        &[
            (V4, r"--iface-regex=192\.168\.200\.\d+", "dummy0 192.168.200.128"),
            (V4, r"--iface-regex=dummy\d+", "dummy0 1.10.100.1"),
            (V4, "--iface=dummy0", "dummy0 1.10.100.1"),
            (V4, "--iface=172.16.30.18", "dummy0 172.16.30.18"),
            (DUAL, "--iface=172.16.30.18", "dummy0 172.16.30.18 2001:db8::1"),
            (
                V4,
                r"--iface-regex=172\.16\.30\.\d+ --public-ip=172.16.31.200",
                "dummy0 172.16.30.18 -> 172.16.31.200",
            ),
            (V4, "--iface-can-reach=172.16.32.254", "dummy0 172.16.32.100"),
        ],
    );
}

#[test]
fn nothing_given() {
    check(
        &golden(),
        &[
            (V4, "", "eth0 10.9.9.9"),
            (V6, "", "eth0 2001:db8:9::9"),
            (DUAL, "", "eth0 10.9.9.9 2001:db8:9::9"),
            (V4, "--iface=", "eth0 10.9.9.9"),
            (V4, "--iface-regex=", "eth0 10.9.9.9"),
            (V4, "--public-ip=172.16.31.200", "dummy0 172.16.31.200"),
            (V6, "--public-ipv6=2001:db8::1", "dummy0 2001:db8::1"),
            // Of a family that is off it chooses nothing, but is told to other nodes.
            (V6, "--public-ip=172.16.31.200", "eth0 2001:db8:9::9 -> 172.16.31.200 2001:db8:9::9"),
            (V4, "--public-ipv6=2001:db8::1", "eth0 10.9.9.9 -> 10.9.9.9 2001:db8::1"),
            (
                V6,
                "--public-ip=10.9.9.9 --public-ipv6=2001:db8::1",
                "dummy0 2001:db8::1 -> 10.9.9.9 2001:db8::1",
            ),
            (DUAL, "--public-ip=172.16.31.200", "dummy0 172.16.31.200 2001:db8::1"),
            (DUAL, "--public-ipv6=2001:db8::1", "dummy0 1.10.100.1 2001:db8::1"),
            (DUAL, "--public-ip=172.16.31.200 --public-ipv6=2001:db8::1", "dummy0 172.16.31.200 2001:db8::1"),
            (V4, "--public-ip=10.9.9.9 --public-ipv6=2001:db8::1", "eth0 10.9.9.9 -> 10.9.9.9 2001:db8::1"),
        ],
    );
}

#[test]
fn default_routes() {
    let links = &["2 eth0 192.0.2.1/24", "3 eth1 198.51.100.1/24", "4 flannel.1 10.5.0.0/32"];
    for (routes, expected) in [
        (&["default via 192.0.2.254 dev 2", "default via 198.51.100.254 dev 3"][..], "eth0 192.0.2.1"),
        (&["default dev 3 metric 20", "default dev 2 metric 100"], "eth1 198.51.100.1"),
        (&["default dev 2 metric 100", "default dev 3 metric 20"], "eth1 198.51.100.1"),
        (&["default metric 1", "default dev 3 metric 20"], "eth1 198.51.100.1"),
        (&["default dev 4", "default dev 3 metric 20"], "eth1 198.51.100.1"),
        (&["0.0.0.0/1 dev 2", "default dev 3 metric 20"], "eth1 198.51.100.1"),
    ] {
        for flags in ["", "--iface=", "--iface-regex="] {
            check(&host(links, routes), &[(V4, flags, expected)]);
        }
    }
}

#[test]
fn wishes_are_tried_in_order() {
    check(
        &golden(),
        &[
            (V4, "--iface=eth7 --iface=dummy0 --iface=eth0", "dummy0 1.10.100.1"),
            (V4, "--iface-can-reach=10.9.9.1 --iface-regex=dummy --iface=eth7", "dummy0 1.10.100.1"),
            (V4, "--iface-can-reach=10.9.9.1 --iface-regex=( --iface=eth7", "eth0 10.9.9.9"),
            (V4, "--iface=eth7 --iface=", "eth0 10.9.9.9"),
            (V4, "--iface=dummy0 --public-ip=203.0.113.7", "dummy0 1.10.100.1 -> 203.0.113.7"),
            (V4, "--iface=dummy0 --public-ip=10.9.9.9", "dummy0 1.10.100.1 -> 10.9.9.9"),
            (
                V4,
                "--iface=dummy0 --public-ipv6=2001:db8:9::9",
                "dummy0 1.10.100.1 -> 1.10.100.1 2001:db8:9::9",
            ),
        ],
    );
    let Selection { external, failed } =
        select(&wish("--iface=eth7 --iface-regex=( --iface-can-reach=10.9.9.1"), V4, &golden()).unwrap();
    let failed: Vec<String> = failed.iter().map(ToString::to_string).collect();
    assert_snapshot!(external.method, @"--iface-can-reach=10.9.9.1");
    assert_snapshot!(failed.join("\n"), @"
    --iface=eth7: there is no such interface
    --iface-regex=(: not a regular expression: unclosed group
    ");
}

#[test]
fn addresses_of_interfaces() {
    check(
        &golden(),
        &[
            (V6, "--iface=2001:db8::1", "dummy0 2001:db8::1"),
            (V4, "--iface=::ffff:172.16.30.18", "dummy0 172.16.30.18"),
            (DUAL, "--iface=2001:db8::1", "dummy0 1.10.100.1 2001:db8::1"),
            (DUAL, "--iface=2001:db8:9::9 --public-ipv6=2001:db8::1", "dummy0 1.10.100.1 2001:db8::1"),
            (
                DUAL,
                "--iface=2001:db8::1 --public-ipv6=2001:db8:f::f",
                "dummy0 1.10.100.1 2001:db8::1 -> 1.10.100.1 2001:db8:f::f",
            ),
            (
                DUAL,
                "--iface=10.9.9.9 --public-ipv6=2001:db8:f::f",
                "eth0 10.9.9.9 2001:db8:9::9 -> 10.9.9.9 2001:db8:f::f",
            ),
            (
                DUAL,
                "--iface=172.16.30.18 --public-ip=203.0.113.7 --public-ipv6=2001:db8::1",
                "dummy0 172.16.30.18 2001:db8::1 -> 203.0.113.7 2001:db8::1",
            ),
        ],
    );
}

#[test]
fn expressions() {
    let facts = host(
        &[
            "9 late 192.0.2.9/24 2001:db8::9/64",
            "2 eth0 192.0.2.2/24 10.0.0.2/8 fe80::2/64",
            "3 eth1 2001:db8::3/64 fd00::3/64",
            "4 eth2 192.0.2.4/24*d 192.0.2.44/24 2001:db8::4/64",
            "5 flannel.1 10.5.1.0/32",
            "6 cni0 10.5.1.1/24",
            "7 flannel0 10.6.1.0/32",
            "8 flannel-lan 10.7.0.1/24 fd00:7::1/64",
        ],
        &[],
    );
    check(
        &facts,
        &[
            (V4, r"--iface-regex=^192\.0\.2\.", "eth0 192.0.2.2"),
            (V4, r"--iface-regex=0\.2\.9", "late 192.0.2.9"),
            (V4, r"--iface-regex=^10\.", "eth0 10.0.0.2"),
            (V4, r"--iface-regex=^10\.[5-7]\.", "flannel-lan 10.7.0.1"),
            (V4, "--iface-regex=flannel", "flannel-lan 10.7.0.1"),
            (V6, "--iface-regex=^fd00:", "eth1 fd00::3"),
            // Where both are on, eth0 and eth1 match by half: neither gives an address to another one.
            (DUAL, r"--iface-regex=^192\.0\.2\.|^2001:db8:", "eth2 192.0.2.44 2001:db8::4"),
            (DUAL, r"--iface-regex=^192\.0\.2\.2$|^fd00:|^eth2", "eth2 192.0.2.44 2001:db8::4"),
            (DUAL, r"--iface-regex=^192\.0\.2\.2$|^fe80:", "eth0 192.0.2.2 fe80::2"),
            // Addresses of all interfaces go before names.
            (V4, r"--iface-regex=eth0|192\.0\.2\.9", "late 192.0.2.9"),
        ],
    );
}

/// One match is enough where the interface has a global address of the other family, as with `--iface=ADDRESS`.
#[test]
fn expressions_for_one_family_of_two() {
    let links =
        ["2 eth0 172.18.4.4/24 fe80::2/64", "3 eth1 172.18.4.5/24 172.18.4.6/24 fe80::3/64 fd00::3/64"];
    check(
        &host(&links, &[]),
        &[
            (DUAL, "--iface=172.18.4.5", "eth1 172.18.4.5 fd00::3"),
            (DUAL, "--iface-regex=^172[.]18[.]", "eth1 172.18.4.5 fd00::3"),
            (DUAL, "--iface-regex=^172[.]18[.].*6$", "eth1 172.18.4.6 fd00::3"),
            (DUAL, "--iface-regex=^fd00:", "eth1 172.18.4.5 fd00::3"),
            // Go flannel finds these by both addresses and by name.
            (DUAL, "--iface-regex=^172[.]18[.]|^fe80:", "eth0 172.18.4.4 fe80::2"),
            (DUAL, "--iface-regex=^172[.]18[.]|^eth0", "eth0 172.18.4.4 fe80::2"),
        ],
    );
    assert_snapshot!(errors(&host(&links[..1], &[]), &[(DUAL, "--iface-regex=^172[.]18[.]")]), @"no interface for traffic between nodes was found: --iface-regex=^172[.]18[.]: 172.18.4.4 on eth0 matches, but eth0 has no global IPv6 address, and the network uses both families. Name an interface or an address of this host: --iface=NAME (there are eth0 with 172.18.4.4)");
}

#[test]
fn names_as_ip_link_prints_them() {
    let facts = host(
        &["2 eno2 192.0.2.2/24", "3 eno2.7 192.0.2.3/24", "4 a@if9 192.0.2.4/24", "5 a 192.0.2.5/24"],
        &[],
    );
    check(
        &facts,
        &[
            (V4, "--iface=eno2@if7", "eno2 192.0.2.2"),
            (V4, "--iface=eno2@if7:", "eno2 192.0.2.2"),
            (V4, "--iface=eno2:", "eno2 192.0.2.2"),
            (V4, "--iface=eno2.7@eno2", "eno2.7 192.0.2.3"),
            (V4, "--iface=a@if9", "a@if9 192.0.2.4"),
            (V4, "--iface=a@if9@if3", "a@if9 192.0.2.4"),
            (V4, "--iface=a@if8", "a 192.0.2.5"),
        ],
    );
    let unknown = errors(&facts, &[(V4, "--iface=eno3@if7")]);
    assert!(unknown.contains("--iface=eno3@if7: there is no such interface"), "{unknown}");
}

#[test]
fn names_of_our_devices() {
    let ours = |name: &str| is_ours(&name.parse().unwrap());
    for name in
        ["flannel.1", "flannel-v6.4096", "flannel.ipip", "flannel-wg", "flannel-wg-v6", "flannel0", "cni0"]
    {
        assert!(ours(name), "{name}");
    }
    for name in ["flannel", "flannel-net", "flannel.eth", "eth0", "flannel.", "cni1"] {
        assert!(!ours(name), "{name}");
    }
}

#[test]
fn order_of_addresses() {
    for (addresses, expected) in [
        ("192.168.0.1/24 10.0.0.1/8", "192.168.0.1"),
        ("169.254.1.1/16 192.0.2.1/24", "192.0.2.1"),
        ("169.254.1.1/16", "169.254.1.1"),
        ("192.0.2.1/24*l 192.0.2.2/24", "192.0.2.2"),
        ("169.254.1.1/16 192.0.2.1/24*l", "192.0.2.1"),
        ("192.0.2.1/24*d 192.0.2.2/24*l", "192.0.2.2"),
        ("127.0.0.1/8 0.0.0.0/0 224.0.0.1/4 255.255.255.255/32 192.0.2.1/24", "192.0.2.1"),
        ("fe80::1/64 fd00::1/64", "fd00::1"),
        ("fe80::1/64*l", "fe80::1"),
        ("fe80::1/64 fd00::1/64*lt", "fd00::1"),
        ("fd00::1/64*lt fd00::2/64*l", "fd00::2"),
        ("fd00::1/64*lt fd00::2/64*t fd00::3/64*l", "fd00::2"),
        ("::1/128 ff02::1/128 fe00::1/64", "fe00::1"),
    ] {
        let family = Family::of(expected.parse().unwrap());
        let facts = host(&[&format!("2 eth0 {addresses}")], &[]);
        check(&facts, &[(stack_of(family), "--iface=eth0", &format!("eth0 {expected}"))]);
    }
}

/// Private addresses of the spec's vectors, and others, can all be told to other nodes.
#[test]
fn private_addresses_are_usable() {
    for address in [
        "192.168.0.1",
        "172.16.0.1",
        "172.31.0.1",
        "10.1.2.3",
        "8.8.8.8",
        "172.32.0.1",
        "192.167.0.1",
        "192.169.0.1",
        "fc00::1",
        "fcff::1",
        "fd00::1",
        "fdff::1",
        "2001::",
        "fe00::",
    ] {
        let net = IpNet::from(address.parse::<IpAddr>().unwrap());
        let facts = host(&[&format!("2 eth0 {net}")], &[]);
        check(&facts, &[(stack_of(Family::of(net.addr())), "--iface=eth0", &format!("eth0 {address}"))]);
    }
}

#[test]
fn routes_to_an_address() {
    let facts = host(
        &[
            "2 eth0 192.0.2.1/24 198.51.100.1/24 2001:db8:2::1/64",
            "3 eth1 203.0.113.1/24 203.0.113.2/24*d 2001:db8:3::1/64 2001:db8:3::2/64",
            "4 flannel.1 10.5.1.0/32",
            "5 cni0 10.5.1.1/24",
        ],
        &[
            "default via 198.51.100.254 dev 2 metric 100",
            "default dev 3 metric 200",
            "10.0.0.0/8 dev 3",
            "10.1.0.0/16 via 198.51.100.254 dev 2",
            "10.2.0.0/16 dev 3 src 203.0.113.2 metric 20",
            "10.2.0.0/16 dev 2 metric 30",
            "10.3.0.0/16 dev 2 src 203.0.113.1",
            "10.5.1.0/24 dev 5 src 10.5.1.1",
            "10.5.2.0/24 via 10.5.2.0 dev 4",
            "2001:db8:f::/48 via fe80::1 dev 3 src 2001:db8:3::2 metric 1024",
        ],
    );
    let cases: [(Stack, &str, &str); 14] = [
        (V4, "8.8.8.8", "eth0 198.51.100.1"),
        (V4, "10.9.0.1", "eth1 203.0.113.1"),
        (V4, "10.1.0.1", "eth0 198.51.100.1"),
        (V4, "10.2.0.1", "eth1 203.0.113.2"),
        (V4, "10.3.0.1", "eth0 203.0.113.1"),
        (V4, "203.0.113.2", "eth1 203.0.113.2"),
        (V4, "::ffff:10.2.0.1", "eth1 203.0.113.2"),
        // Our own devices do not count, so that the answer is the same before and after they are made.
        (V4, "10.5.2.7", "eth1 203.0.113.1"),
        (V4, "10.5.1.1", "eth1 203.0.113.1"),
        // A family only tells the way to the interface; its source does not become the address of the other.
        (V6, "8.8.8.8", "eth0 2001:db8:2::1"),
        (V4, "2001:db8:f::1", "eth1 203.0.113.1"),
        (V6, "2001:db8:f::1", "eth1 2001:db8:3::1"),
        (DUAL, "2001:db8:f::1", "eth1 203.0.113.1 2001:db8:3::1"),
        (DUAL, "2001:db8:3::2", "eth1 203.0.113.1 2001:db8:3::2"),
    ];
    for (stack, target, expected) in cases {
        check(&facts, &[(stack, &format!("--iface-can-reach={target}"), expected)]);
    }
}

#[test]
fn errors_name_what_was_tried() {
    let facts = golden();
    assert_snapshot!(errors(&facts, &[
        (V4, "--iface=eth7 --iface=192.0.2.1 --iface-regex=( --iface-regex=^wl"),
        (V4, "--iface=eth0,eth1"),
        (V4, "--iface=lo"),
        (V4, r"--iface-regex=a{9999999}"),
        (V4, "--iface-regex=\u{1b}[0m"),
    ]), @r#"
    no interface for traffic between nodes was found: --iface=eth7: there is no such interface; --iface=192.0.2.1: no interface has the address 192.0.2.1; --iface-regex=(: not a regular expression: unclosed group; --iface-regex=^wl: no address or name of an interface matches. Name an interface or an address of this host: --iface=NAME (there are eth0 with 10.9.9.9, dummy0 with 1.10.100.1)
    no interface for traffic between nodes was found: --iface=eth0,eth1: there is no such interface (a comma does not separate names: give --iface once for each). Name an interface or an address of this host: --iface=NAME (there are eth0 with 10.9.9.9, dummy0 with 1.10.100.1)
    no interface for traffic between nodes was found: --iface=lo: lo has no IPv4 address that other nodes could send to, but the network uses IPv4. Name an interface or an address of this host: --iface=NAME (there are eth0 with 10.9.9.9, dummy0 with 1.10.100.1)
    no interface for traffic between nodes was found: --iface-regex=a{9999999}: not a regular expression: Compiled regex exceeds size limit of 10485760 bytes. Name an interface or an address of this host: --iface=NAME (there are eth0 with 10.9.9.9, dummy0 with 1.10.100.1)
    no interface for traffic between nodes was found: --iface-regex="\u{1b}[0m": not a regular expression: unclosed character class. Name an interface or an address of this host: --iface=NAME (there are eth0 with 10.9.9.9, dummy0 with 1.10.100.1)
    "#);
    assert_snapshot!(errors(&facts, &[
        (V4, "--public-ip=203.0.113.7"),
        (DUAL, "--public-ip=10.9.9.9 --public-ipv6=2001:db8:f::f"),
        (DUAL, "--public-ip=203.0.113.7 --public-ipv6=2001:db8:f::f"),
        (DUAL, "--public-ip=10.9.9.9 --public-ipv6=2001:db8::1"),
        (V6, "--iface=10.9.9.9"),
        (V4, "--iface=2001:db8::1"),
    ]), @"
    no interface for traffic between nodes was found: --public-ip=203.0.113.7: no interface has the address 203.0.113.7. If that address is translated to one of this host, name the interface too: --iface=NAME (there are eth0 with 10.9.9.9, dummy0 with 1.10.100.1)
    no interface for traffic between nodes was found: --public-ip=10.9.9.9: no interface has the address 2001:db8:f::f. If that address is translated to one of this host, name the interface too: --iface=NAME (there are eth0 with 10.9.9.9 and 2001:db8:9::9, dummy0 with 1.10.100.1 and 2001:db8::1)
    no interface for traffic between nodes was found: --public-ip=203.0.113.7: no interface has the address 203.0.113.7. If that address is translated to one of this host, name the interface too: --iface=NAME (there are eth0 with 10.9.9.9 and 2001:db8:9::9, dummy0 with 1.10.100.1 and 2001:db8::1)
    no interface for traffic between nodes was found: --public-ip=10.9.9.9: 10.9.9.9 is on eth0 and 2001:db8::1 on dummy0, but both must be on one interface. Name an interface or an address of this host: --iface=NAME (there are eth0 with 10.9.9.9 and 2001:db8:9::9, dummy0 with 1.10.100.1 and 2001:db8::1)
    no interface for traffic between nodes was found: --iface=10.9.9.9: it is an IPv4 address, but the network uses IPv6. Name an interface or an address of this host: --iface=NAME (there are eth0 with 2001:db8:9::9, dummy0 with 2001:db8::1)
    no interface for traffic between nodes was found: --iface=2001:db8::1: it is an IPv6 address, but the network uses IPv4. Name an interface or an address of this host: --iface=NAME (there are eth0 with 10.9.9.9, dummy0 with 1.10.100.1)
    ");
}

#[test]
fn errors_name_what_the_host_lacks() {
    let mut facts = host(
        &[
            "2 eth0 192.0.2.1/24 2001:db8::1/64*d",
            "3 eth1 fe80::3/64",
            "4 eth2 198.51.100.1/24 2001:db8:2::1/64",
        ],
        &["default dev 2", "::/0 dev 4"],
    );
    assert_snapshot!(errors(&facts, &[(DUAL, ""), (DUAL, "--iface=eth0"), (V6, "--iface-can-reach=192.0.2.7")]), @"
    no interface for traffic between nodes was found: the default route: the IPv4 default route leads through eth0 and that of IPv6 through eth2, but both must lead through one. Name an interface or an address of this host: --iface=NAME (there are eth0 with 192.0.2.1, eth2 with 198.51.100.1 and 2001:db8:2::1)
    no interface for traffic between nodes was found: --iface=eth0: eth0 has no IPv6 address that other nodes could send to, but the network uses IPv6. Name an interface or an address of this host: --iface=NAME (there are eth0 with 192.0.2.1, eth2 with 198.51.100.1 and 2001:db8:2::1)
    no interface for traffic between nodes was found: --iface-can-reach=192.0.2.7: eth0 has no IPv6 address that other nodes could send to, but the network uses IPv6. Name an interface or an address of this host: --iface=NAME (there are eth2 with 2001:db8:2::1)
    ");
    facts.links[0].mtu = 0;
    facts.routes.clear();
    assert_snapshot!(errors(&facts, &[(V4, ""), (V6, ""), (V4, "--iface=eth0"), (V4, "--iface-can-reach=8.8.8.8")]), @"
    no interface for traffic between nodes was found: the default route: there is no IPv4 default route. Name an interface or an address of this host: --iface=NAME (there are eth0 with 192.0.2.1, eth2 with 198.51.100.1)
    no interface for traffic between nodes was found: the default route: there is no IPv6 default route. Name an interface or an address of this host: --iface=NAME (there are eth2 with 2001:db8:2::1)
    no interface for traffic between nodes was found: --iface=eth0: eth0 has the MTU 0: give it another one (ip link set eth0 mtu 1500). Name an interface or an address of this host: --iface=NAME (there are eth0 with 192.0.2.1, eth2 with 198.51.100.1)
    no interface for traffic between nodes was found: --iface-can-reach=8.8.8.8: there is no route to 8.8.8.8. Name an interface or an address of this host: --iface=NAME (there are eth0 with 192.0.2.1, eth2 with 198.51.100.1)
    ");
    assert_snapshot!(errors(&HostFacts::default(), &[(V4, "")]), @"no interface for traffic between nodes was found: the default route: there is no IPv4 default route. Name an interface or an address of this host: --iface=NAME (no interface of this host has a suitable address now)");
    let many: Vec<String> = (1..20).map(|place| format!("{place} eth{place} 10.0.0.{place}/24")).collect();
    let many = host(&many.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    assert_snapshot!(errors(&many, &[(V4, "")]), @"no interface for traffic between nodes was found: the default route: there is no IPv4 default route. Name an interface or an address of this host: --iface=NAME (there are eth1 with 10.0.0.1, eth2 with 10.0.0.2, eth3 with 10.0.0.3, eth4 with 10.0.0.4, eth5 with 10.0.0.5, eth6 with 10.0.0.6, eth7 with 10.0.0.7, eth8 with 10.0.0.8, and 11 more)");
}

#[test]
fn follows_a_new_address_and_mtu() {
    let mut facts = golden();
    let before = select(&wish("--iface=eth0"), DUAL, &facts).unwrap().external;
    facts.links[1] = LinkFacts { mtu: 9000, ..link("12 eth0 10.9.9.10/24 2001:db8:9::9/64") };
    let after = select(&wish("--iface=eth0"), DUAL, &facts).unwrap().external;
    let address = |text: &str| Some(text.parse().unwrap());
    let own = DualStack { v4: address("10.9.9.10"), v6: address("2001:db8:9::9") };
    assert_eq!(
        after,
        ExternalInterface { index: IfIndex(12), mtu: 9000, address: own, public: own, ..before }
    );
}

fn any_flags() -> impl Strategy<Value = String> {
    let flag = prop::sample::select(vec![
        "--iface=eth1",
        "--iface=",
        "--iface=10.0.2.2",
        "--iface=fd00::2",
        "--iface-regex=^10",
        "--iface-regex=eth",
        "--iface-regex=10.0.[23]|fd",
        "--iface-can-reach=10.5.0.1",
        "--iface-can-reach=fd00::9",
        "--public-ip=10.0.3.3",
        "--public-ipv6=fd00::3",
    ]);
    prop::collection::vec(flag, 0..4).prop_map(|flags| flags.join(" "))
}

fn any_links() -> impl Strategy<Value = Vec<LinkFacts>> {
    let addresses = prop::sample::subsequence(
        vec!["10.0.2.2/24", "10.0.3.3/24*l", "fd00::2/64", "fd00::3/64*d", "fe80::4/64"],
        0..=5,
    );
    prop::collection::vec(addresses, 0..4).prop_map(|hosts| {
        let text = |(place, addresses): (usize, &Vec<&str>)| {
            format!("{} eth{place} {}", place + 2, addresses.join(" ")).trim_end().to_owned()
        };
        hosts.iter().enumerate().map(text).map(|text| link(&text)).collect()
    })
}

fn any_routes() -> impl Strategy<Value = Vec<RouteFacts>> {
    let routes = vec![
        "default dev 2",
        "default dev 3",
        "::/0 dev 2 metric 1024",
        "::/0 dev 3",
        "10.5.0.0/16 via 10.0.2.1 dev 4",
        "fd00::/64 dev 3",
    ];
    prop::sample::subsequence(routes.clone(), 0..=routes.len())
        .prop_map(|routes| routes.into_iter().map(route).collect())
}

proptest! {
    /// What pods and the daemon itself add to the host changes neither choice nor reason, and neither does the
    /// order of the listing.
    #[test]
    fn the_choice_is_stable(
        flags in any_flags(),
        stack in prop::sample::select(vec![V4, V6, DUAL]),
        links in any_links(),
        routes in any_routes(),
    ) {
        let quiet = HostFacts { links, routes };
        let mut busy = quiet.clone();
        busy.links.push(link("40 flannel.1 10.5.1.0/32 fe80::40/64"));
        busy.links.push(link("41 flannel-v6.1 fd00:5:1::/128"));
        busy.links.push(link("42 cni0 10.5.1.1/24 fd00:5:1::1/64"));
        busy.links.push(link("43 cali0a1b2c fe80::43/64"));
        busy.links.reverse();
        busy.routes.extend(["10.5.0.0/24 via 10.5.0.0 dev 40", "10.5.1.0/24 dev 42 src 10.5.1.1"].map(route));
        busy.routes.push(route("fd00:5::/64 via fd00:5:: dev 41"));
        let first = select(&wish(&flags), stack, &quiet);
        prop_assert_eq!(&first, &select(&wish(&flags), stack, &busy));
        if let Ok(Selection { external, .. }) = first {
            for family in Family::ALL {
                prop_assert_eq!(external.address.get(family).is_some(), stack.contains(&family));
                prop_assert!(external.address.get(family).is_none_or(|address| Family::of(*address) == family));
                prop_assert!(external.public.get(family).is_none_or(|address| Family::of(*address) == family));
            }
        }
    }
}
