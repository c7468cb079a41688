use super::*;
use crate::backend::EndpointSources;
use crate::dataplane::model;
use crate::dataplane::{LinkKind, NeighbourKey, Op, PROTOCOL};
use crate::external::Method;
use crate::facts::{AddressFacts, LinkFacts, RouteFacts};
use crate::lease::Revision;
use crate::link::IfIndex;
use crate::owned::{Scope, owned};
use crate::plan::{Prune, plan};
use insta::assert_snapshot;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

fn mac(last: u8) -> Mac {
    Mac([0xaa, 0xaa, 0xaa, 0xaa, 0xaa, last])
}

/// A config of `families` ("4", "6", "46") with this backend.
fn config(families: &str, backend: &str) -> NetworkConfig {
    let (v4, v6) = (families.contains('4'), families.contains('6'));
    NetworkConfig::parse(&format!(
        r#"{{"Network": "10.42.0.0/16", "IPv6Network": "fd00:10:244::/48",
            "EnableIPv4": {v4}, "EnableIPv6": {v6}, "Backend": {backend}}}"#
    ))
    .unwrap()
}

fn dual<T>(v4: T, v6: T) -> DualStack<T> {
    DualStack { v4: Some(v4), v6: Some(v6) }
}

fn external() -> ExternalInterface {
    let address = dual(ip("192.168.50.1"), ip("fd50::1"));
    ExternalInterface {
        name: name("eth0"),
        index: IfIndex(2),
        mtu: 1500,
        address,
        public: address,
        method: Method::DefaultRoute,
    }
}

fn node() -> Node {
    let endpoint = |last| Endpoint { mac: mac(last), port: None };
    Node {
        subnets: subnets(1),
        external: external(),
        endpoints: dual(endpoint(1), endpoint(0x11)),
        blackhole: false,
        stranded: BTreeMap::new(),
        next_hops: NextHops::default(),
    }
}

fn subnets(node: u16) -> Subnets {
    Subnets {
        v4: Some(format!("10.42.{node}.0/24").parse().unwrap()),
        v6: Some(format!("fd00:10:244:{node}::/64").parse().unwrap()),
    }
}

fn facts() -> HostFacts {
    let address =
        |text: &str| AddressFacts { net: net(text), deprecated: false, permanent: true, temporary: false };
    let link = |index, text, addresses: &[&str]| LinkFacts {
        index: IfIndex(index),
        name: name(text),
        mtu: 1500,
        up: true,
        mac: None,
        master: None,
        addresses: addresses.iter().map(|text| address(text)).collect(),
    };
    let route = |destination, gateway: Option<&str>, link| RouteFacts {
        destination: net(destination),
        gateway: gateway.map(ip),
        link: Some(IfIndex(link)),
        source: None,
        metric: 0,
    };
    HostFacts {
        links: vec![
            link(2, "eth0", &["192.168.50.1/24", "fd50::1/64"]),
            link(3, "ppp0", &["10.9.0.1/32"]),
            link(7, "flannel.1", &["10.42.1.0/32"]),
        ],
        routes: vec![
            route("0.0.0.0/0", Some("192.168.50.254"), 2),
            route("192.168.50.0/24", None, 2),
            route("fd50::/64", None, 2),
            route("10.9.0.2/32", None, 3),
            route("192.168.50.128/25", Some("192.168.50.254"), 2),
            route("192.168.77.0/24", None, 7),
        ],
    }
}

fn lease(node: u16, backend: &str) -> Lease {
    let data = |last| {
        let data = backend::Vtep { vni: None, mac: mac(last) }.to_raw();
        (backend == "vxlan").then_some(data)
    };
    Lease {
        subnets: subnets(node),
        attrs: LeaseAttrs {
            public_ip: Some(format!("192.168.50.{node}").parse().unwrap()),
            public_ipv6: Some(format!("fd50::{node}").parse().unwrap()),
            backend_type: backend.to_owned(),
            backend_data: data(node as u8),
            backend_v6_data: data(node as u8),
        },
        revision: Revision::new(1),
    }
}

fn desired(families: &str, backend: &str) -> Desired {
    Desired::new(&config(families, backend), &node(), &facts()).unwrap()
}

fn attrs(
    config: &NetworkConfig,
    external: &ExternalInterface,
    endpoints: &DualStack<Endpoint>,
) -> Result<LeaseAttrs, BackendError> {
    config.backend.attrs(&config.networks(), external, endpoints)
}

/// A state as the ops that make it.
fn render(state: &Dataplane) -> String {
    plan(state, &Dataplane::default(), Prune::Surplus).iter().map(|op| format!("{op}\n")).collect()
}

fn faults(errors: &[PeerError]) -> String {
    errors.iter().map(|error| format!("{error}\n")).collect()
}

const VXLAN: &str = r#"{"Type": "vxlan"}"#;
const DIRECT: &str = r#"{"Type": "vxlan", "DirectRouting": true}"#;
const HOST_GW: &str = r#"{"Type": "host-gw"}"#;

#[test]
fn vxlan_golden_state() {
    let desired = desired("46", VXLAN);
    let (full, errors) = desired.full(&[lease(2, "vxlan")]);
    assert_eq!(errors, []);
    assert_snapshot!(render(&full), @r#"
    link add flannel-v6.1 mtu 1430 address aa:aa:aa:aa:aa:11 up alias "flannel 10.42.0.0/16 fd00:10:244::/48" type vxlan id 1 local fd50::1 dev eth0 dstport 8472 nolearning
    link add flannel.1 mtu 1450 address aa:aa:aa:aa:aa:01 up alias "flannel 10.42.0.0/16 fd00:10:244::/48" type vxlan id 1 local 192.168.50.1 dev eth0 dstport 8472 nolearning
    addr add fd00:10:244:1::/128 dev flannel-v6.1
    addr add 10.42.1.0/32 dev flannel.1
    fdb replace aa:aa:aa:aa:aa:02 dst fd50::2 dev flannel-v6.1
    fdb replace aa:aa:aa:aa:aa:02 dst 192.168.50.2 dev flannel.1
    neigh replace fd00:10:244:2:: lladdr aa:aa:aa:aa:aa:02 dev flannel-v6.1
    neigh replace 10.42.2.0 lladdr aa:aa:aa:aa:aa:02 dev flannel.1
    route replace 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink
    route replace fd00:10:244:2::/64 via fd00:10:244:2:: dev flannel-v6.1 onlink
    "#);
    assert!(full.neighbours.values().all(|neighbour| neighbour.permanent));
    assert!(full.routes.values().all(|route| route.protocol == PROTOCOL));
    let metrics: Vec<u32> = full.routes.keys().map(|key| key.metric).collect();
    assert_eq!(metrics, [0, 1024]);
}

#[test]
fn vxlan_of_one_family() {
    for (families, device, other) in [("4", "flannel.1", Family::V6), ("6", "flannel-v6.1", Family::V4)] {
        let (full, errors) = desired(families, VXLAN).full(&[lease(2, "vxlan")]);
        assert_eq!(errors, []);
        assert_eq!(full.links.keys().collect::<Vec<_>>(), [&name(device)]);
        assert!(full.routes.keys().all(|key| Family::of_net(key.destination) != other));
        assert_eq!((full.neighbours.len(), full.fdb.len(), full.routes.len()), (1, 1, 1));
    }
}

#[test]
fn vxlan_options() {
    let desired = desired(
        "4",
        r#"{"Type": "vxlan", "VNI": 4096, "Port": 4789, "MTU": 1400, "GBP": true, "Learning": true}"#,
    );
    assert_snapshot!(render(desired.base()), @r#"
    link add flannel.4096 mtu 1350 address aa:aa:aa:aa:aa:01 up alias "flannel 10.42.0.0/16" type vxlan id 4096 local 192.168.50.1 dev eth0 dstport 4789 learning gbp
    addr add 10.42.1.0/32 dev flannel.4096
    "#);
}

#[test]
fn vxlan_direct_routing() {
    let desired = desired("46", DIRECT);
    assert!(desired.depends_on_routes());
    let at = |node, address: &str| {
        let mut lease = lease(node, "vxlan");
        lease.attrs.public_ip = Some(address.parse().unwrap());
        lease
    };
    let peers = [
        at(3, "192.168.50.3"),
        // Behind a router, by a longer prefix or the default route.
        at(4, "192.168.50.200"),
        at(5, "172.20.0.1"),
        // At the other end of a line.
        at(6, "10.9.0.2"),
        // Our own tunnel is no underlay.
        at(7, "192.168.77.1"),
    ];
    let (full, errors) = desired.full(&peers);
    assert_eq!(errors, []);
    let routes: Vec<String> =
        render(&full).lines().filter(|line| line.starts_with("route")).map(str::to_owned).collect();
    assert_snapshot!(routes.join("\n"), @r"
    route replace 10.42.3.0/24 via 192.168.50.3 dev eth0
    route replace 10.42.4.0/24 via 10.42.4.0 dev flannel.1 onlink
    route replace 10.42.5.0/24 via 10.42.5.0 dev flannel.1 onlink
    route replace 10.42.6.0/24 via 10.9.0.2 dev ppp0
    route replace 10.42.7.0/24 via 10.42.7.0 dev flannel.1 onlink
    route replace fd00:10:244:3::/64 via fd50::3 dev eth0
    route replace fd00:10:244:4::/64 via fd50::4 dev eth0
    route replace fd00:10:244:5::/64 via fd50::5 dev eth0
    route replace fd00:10:244:6::/64 via fd50::6 dev eth0
    route replace fd00:10:244:7::/64 via fd50::7 dev eth0
    ");
}

#[test]
fn the_local_address_is_the_public_one_only_if_it_is_here() {
    let local = |public: &str| {
        let mut node = node();
        node.external.public.v4 = Some(ip(public));
        let desired = Desired::new(&config("4", VXLAN), &node, &facts()).unwrap();
        let LinkKind::Vxlan(vxlan) = &desired.base().links[&name("flannel.1")].kind else { panic!() };
        vxlan.local.unwrap()
    };
    assert_eq!(local("192.168.50.1"), ip("192.168.50.1"));
    assert_eq!(local("10.9.0.1"), ip("10.9.0.1"), "on another interface");
    assert_eq!(local("203.0.113.1"), ip("192.168.50.1"), "translated");
}

#[test]
fn an_existing_device_keeps_mac_and_port() {
    let mut observed = desired("46", r#"{"Type": "vxlan", "Port": 4789}"#).base().clone();
    observed.links.get_mut(&name("flannel.1")).unwrap().mac = Some(mac(0x42));
    observed.links.get_mut(&name("flannel-v6.1")).unwrap().kind = LinkKind::Other("dummy".to_owned());
    let existing = |observed: &Dataplane| {
        let remembered = BTreeMap::new();
        let sources = EndpointSources { observed, remembered: &remembered, published: None, random: [0; 6] };
        let mut endpoints = DualStack::default();
        for family in Family::ALL {
            let endpoint = config("46", VXLAN).backend.endpoint(family, &sources);
            *endpoints.slot(family) = endpoint
                .map(|(_, endpoint)| endpoint)
                .filter(|endpoint| endpoint.mac.0 != [2, 0, 0, 0, 0, 0]);
        }
        endpoints
    };
    let found = existing(&observed);
    assert_eq!(found, DualStack { v4: Some(Endpoint { mac: mac(0x42), port: Some(4789) }), v6: None });

    let port = |config: &NetworkConfig| {
        let node = Node { endpoints: dual(found.v4.unwrap(), found.v4.unwrap()), ..node() };
        let desired = Desired::new(config, &node, &facts()).unwrap();
        let LinkKind::Vxlan(vxlan) = &desired.base().links[&name("flannel.1")].kind else { panic!() };
        vxlan.port
    };
    assert_eq!(port(&config("4", VXLAN)), 4789, "the config names none");
    assert_eq!(port(&config("4", r#"{"Type": "vxlan", "Port": 8472}"#)), 8472);
    assert_eq!(existing(&Dataplane::default()), DualStack::default());
    let other = desired("4", r#"{"Type": "vxlan", "VNI": 3, "Port": 4789}"#);
    let link = other.base().links.values().next().unwrap().clone();
    let impostor = Dataplane { links: [(name("flannel.1"), link)].into(), ..Dataplane::default() };
    assert_eq!(existing(&impostor), DualStack::default(), "it will be replaced");
}

#[test]
fn mtus() {
    let check = |families, backend: &str, external_mtu| {
        let config = config(families, backend);
        let node = Node { external: ExternalInterface { mtu: external_mtu, ..external() }, ..node() };
        let reported =
            config.backend.mtu(&config.networks(), external_mtu).map_err(|error| error.to_string())?;
        let desired = Desired::new(&config, &node, &facts()).unwrap();
        let devices: Vec<String> = desired.base().links.values().map(|link| link.mtu.to_string()).collect();
        Ok::<_, String>(format!("{reported}: {}", devices.join(" ")))
    };
    assert_eq!(check("4", VXLAN, 1500).unwrap(), "1450: 1450");
    assert_eq!(check("6", VXLAN, 1500).unwrap(), "1430: 1430");
    assert_eq!(check("46", VXLAN, 1500).unwrap(), "1450: 1430 1450");
    assert_eq!(check("46", VXLAN, 9000).unwrap(), "8950: 8930 8950");
    assert_eq!(check("46", r#"{"Type": "vxlan", "MTU": 1400}"#, 1500).unwrap(), "1350: 1330 1350");
    assert_eq!(check("4", r#"{"Type": "vxlan", "MTU": 9000}"#, 1500).unwrap(), "1450: 1450", "clamped");
    assert_eq!(check("46", HOST_GW, 1500).unwrap(), "1500: ");
    assert_eq!(check("4", r#"{"Type": "alloc"}"#, 1400).unwrap(), "1400: ");
    assert_snapshot!(check("46", VXLAN, 1300).unwrap_err(), @"the MTU of the underlay is 1300, but an IPv6 tunnel needs 1350: raise it, or Backend.MTU where that is the smaller one");
    assert_snapshot!(check("4", r#"{"Type": "udp"}"#, 1500).unwrap_err(), @r#"the backend udp is not in this version of flanneld: set Backend in the network config to vxlan, host-gw, ipip or alloc"#);
}

#[test]
fn host_gw_golden_state() {
    let desired = desired("46", HOST_GW);
    let (full, errors) = desired.full(&[lease(2, "host-gw")]);
    assert_eq!(errors, []);
    assert_snapshot!(render(&full), @r"
    route replace 10.42.2.0/24 via 192.168.50.2 dev eth0
    route replace fd00:10:244:2::/64 via fd50::2 dev eth0
    ");
}

#[test]
fn host_gw_needs_one_link() {
    let far = |facts: &HostFacts| {
        let mut lease = lease(200, "host-gw");
        lease.attrs.public_ipv6 = Some("fe80::2".parse().unwrap());
        let desired = Desired::new(&config("46", HOST_GW), &node(), facts).unwrap();
        let peer = desired.peer(&lease);
        (render(&peer.dataplane), faults(&peer.errors))
    };
    let (routes, errors) = far(&facts());
    assert_snapshot!(routes, @"route replace fd00:10:244:200::/64 via fe80::2 dev eth0");
    assert_snapshot!(errors, @"192.168.50.200 is not on the link of eth0: the route to 192.168.50.128/25 leads to it through 192.168.50.254. Run `ip route del 192.168.50.128/25 via 192.168.50.254 dev eth0` if both nodes are on one link, otherwise use vxlan");
    let mut missing = facts();
    missing.routes.retain(|route| !net("192.168.50.0/24").contains(&route.destination));
    assert_snapshot!(far(&missing).1, @"192.168.50.200 is not on the link of eth0: eth0 has no route to its network 192.168.50.0/24. Run `ip route add 192.168.50.0/24 dev eth0`");
    missing.links[0].addresses.clear();
    assert_snapshot!(far(&missing).1, @"192.168.50.200 is not on the link of eth0: host-gw needs nodes on one link, vxlan does not");
    // A route that stands, though the way to its next hop was taken away, is left alone.
    let mut standing = facts();
    standing.routes.push(RouteFacts {
        destination: net("10.42.200.0/24"),
        gateway: Some(ip("192.168.50.200")),
        link: Some(IfIndex(2)),
        source: None,
        metric: 0,
    });
    let (routes, errors) = far(&standing);
    assert_snapshot!(routes, @r"
    route replace 10.42.200.0/24 via 192.168.50.200 dev eth0
    route replace fd00:10:244:200::/64 via fe80::2 dev eth0
    ");
    assert_eq!(errors, "");
}

#[test]
fn alloc_wants_nothing() {
    let (full, errors) = desired("46", r#"{"Type": "alloc"}"#).full(&[lease(2, ""), lease(3, "vxlan")]);
    assert!(full.is_empty());
    assert_eq!(errors, []);
}

#[test]
fn blackhole_gives_way_to_the_bridge() {
    let base = |backend| {
        let node = Node { blackhole: true, ..node() };
        render(Desired::new(&config("46", backend), &node, &facts()).unwrap().base())
    };
    assert_snapshot!(base(HOST_GW), @r"
    route replace blackhole 10.42.1.0/24 metric 4294967295
    route replace blackhole fd00:10:244:1::/64
    ");
    assert_eq!(base(r#"{"Type": "alloc"}"#), base(HOST_GW));
}

#[test]
fn a_reservation_that_nobody_has_taken_is_no_fault() {
    let mut lease = lease(2, "vxlan");
    (lease.attrs.backend_type, lease.attrs.backend_data) = (String::new(), None);
    lease.attrs.backend_v6_data = None;
    for backend in [VXLAN, HOST_GW] {
        let peer = desired("46", backend).peer(&lease);
        assert!(peer.errors.is_empty() && peer.dataplane == Dataplane::default(), "{peer:?}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of faults")]
fn faults_of_peers_are_named_and_hurt_one_family() {
    let faulty = |backend: &'static str, alter: &dyn Fn(&mut Lease)| {
        let published = if backend == HOST_GW { "host-gw" } else { "vxlan" };
        let mut lease = lease(2, published);
        alter(&mut lease);
        let peer = desired("46", backend).peer(&lease);
        let kept: Vec<String> = peer.dataplane.routes.keys().map(|key| key.destination.to_string()).collect();
        format!("{}keeps {}", faults(&peer.errors), kept.join(" "))
    };
    let data = |text: &str| Some(serde_json::value::RawValue::from_string(text.to_owned()).unwrap());
    let cases = [
        faulty(VXLAN, &|lease| lease.attrs.backend_type = "host-gw".to_owned()),
        faulty(VXLAN, &|lease| lease.attrs.public_ip = None),
        faulty(VXLAN, &|lease| lease.attrs.public_ip = Some("224.0.0.1".parse().unwrap())),
        faulty(VXLAN, &|lease| lease.attrs.public_ip = Some("192.168.50.1".parse().unwrap())),
        faulty(HOST_GW, &|lease| lease.attrs.public_ipv6 = Some("fd50::1".parse().unwrap())),
        faulty(VXLAN, &|lease| lease.attrs.backend_v6_data = None),
        faulty(VXLAN, &|lease| lease.attrs.backend_data = data(r#"{"VNI": 1, "VtepMAC": ""}"#)),
        faulty(VXLAN, &|lease| lease.attrs.backend_data = data(r#"{"VtepMAC": "01:00:5e:00:00:01"}"#)),
        faulty(VXLAN, &|lease| lease.attrs.backend_data = data(r#"{"VtepMAC": "00:00:00:00:00:00"}"#)),
        faulty(VXLAN, &|lease| lease.subnets.v4 = Some("192.168.50.0/24".parse().unwrap())),
        faulty(VXLAN, &|lease| lease.subnets.v4 = Some("10.42.0.0/16".parse().unwrap())),
        faulty(VXLAN, &|lease| lease.subnets.v4 = Some("10.42.1.128/25".parse().unwrap())),
        faulty(VXLAN, &|lease| lease.subnets.v6 = None),
    ];
    assert_snapshot!(cases.join("\n--\n"), @r#"
    the node runs the backend "host-gw", this one "vxlan"
    keeps 
    --
    the lease has no IPv4 address to send to
    keeps fd00:10:244:2::/64
    --
    the lease has no IPv4 address to send to
    keeps fd00:10:244:2::/64
    --
    the node publishes 192.168.50.1, which is the address of this node. Set another --public-ip or --iface on one of the two
    keeps fd00:10:244:2::/64
    --
    the node publishes fd50::1, which is the address of this node. Set another --public-ip or --iface on one of the two
    keeps 10.42.2.0/24
    --
    the lease has no IPv6 tunnel data
    keeps 10.42.2.0/24
    --
    the IPv4 tunnel data of the lease cannot be used
    keeps fd00:10:244:2::/64
    --
    the lease has the IPv4 VTEP MAC 01:00:5e:00:00:01, which is not the address of one interface
    keeps fd00:10:244:2::/64
    --
    the lease has the IPv4 VTEP MAC 00:00:00:00:00:00, which is not the address of one interface
    keeps fd00:10:244:2::/64
    --
    the subnet 192.168.50.0/24 is outside the network 10.42.0.0/16
    keeps fd00:10:244:2::/64
    --
    the subnet 10.42.0.0/16 is outside the network 10.42.0.0/16
    keeps fd00:10:244:2::/64
    --
    the subnet 10.42.1.128/25 overlaps the subnet 10.42.1.0/24 of this node
    keeps fd00:10:244:2::/64
    --
    keeps 10.42.2.0/24
    "#);
    assert!(desired("46", VXLAN).peer(&lease(1, "vxlan")).dataplane.is_empty(), "our own lease");
}

/// The pod network contains the underlay, 192.168.50.0/24 on eth0.
#[test]
fn a_route_must_not_cut_the_node_off() {
    let config =
        NetworkConfig::parse(r#"{"Network": "192.168.0.0/16", "Backend": {"Type": "vxlan"}}"#).unwrap();
    let own = Subnets { v4: Some("192.168.1.0/24".parse().unwrap()), v6: None };
    let desired = Desired::new(&config, &Node { subnets: own, ..node() }, &facts()).unwrap();
    let check = |subnet: &str| {
        let mut lease = lease(2, "vxlan");
        lease.subnets = Subnets { v4: Some(subnet.parse().unwrap()), v6: None };
        let peer = desired.peer(&lease);
        assert_eq!(peer.errors.len() + peer.dataplane.routes.len(), 1, "{subnet}: {:?}", peer.errors);
        peer.dataplane.routes.len() == 1
    };
    assert!(!check("192.168.50.0/24"), "it would replace the connected route");
    assert!(!check("192.168.50.0/28"), "it would hide a part with our own address");
    assert!(check("192.168.50.64/26"), "a part of a flat network that is set aside for pods");
    assert!(check("192.168.48.0/21"), "the connected route is more specific");
    assert!(check("192.168.51.0/24"));
}

#[test]
fn tolerant_reading_of_records() {
    let mut lease = lease(2, "vxlan");
    lease.subnets.v4 = Some("10.42.2.7/24".parse().unwrap());
    let text = r#"{"vtepmac": "0A-00-00-00-00-09"}"#;
    lease.attrs.backend_data = Some(serde_json::value::RawValue::from_string(text.to_owned()).unwrap());
    let peer = desired("4", VXLAN).peer(&lease);
    assert_eq!(peer.errors, []);
    assert_snapshot!(render(&peer.dataplane), @r"
    fdb replace 0a:00:00:00:00:09 dst 192.168.50.2 dev flannel.1
    neigh replace 10.42.2.0 lladdr 0a:00:00:00:00:09 dev flannel.1
    route replace 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink
    ");
}

#[test]
fn nodes_that_do_not_fit() {
    let error = |config: NetworkConfig, alter: &dyn Fn(&mut Node)| {
        let mut node = node();
        alter(&mut node);
        Desired::new(&config, &node, &facts()).unwrap_err().to_string()
    };
    let public = |node: &mut Node| node.external.public.v4 = Some(ip("203.0.113.1"));
    let cases = [
        error(config("46", VXLAN), &|node| node.subnets.v6 = None),
        error(config("46", VXLAN), &|node| node.endpoints.v6 = None),
        error(config("6", VXLAN), &|node| {
            (node.external.address.v6, node.external.public.v6) = (None, None);
        }),
        error(config("4", r#"{"Type": "vxlan", "VNI": 16777215}"#), &|_| {}),
        error(config("46", r#"{"Type": "vxlan", "VNI": 10000}"#), &|_| {}),
        error(config("4", HOST_GW), &public),
        error(config("4", r#"{"Type": "wireguard"}"#), &|_| {}),
    ];
    assert_snapshot!(cases.join("\n"), @r#"
    IPv6 is on, but the lease of this node has no IPv6 subnet: release the lease, so that a new one is taken
    the IPv6 tunnel has no MAC address
    eth0 has no IPv6 address, but IPv6 is on: add one, or choose another interface with --iface
    Backend.VNI is 16777215, but the device name flannel.16777215 would be longer than 15 bytes: must be at most 9999999
    Backend.VNI is 10000, but the device name flannel-v6.10000 would be longer than 15 bytes: must be at most 9999
    the public address 203.0.113.1 is not on eth0 (which has 192.168.50.1), so host-gw cannot route through it: leave --public-ip out, or use vxlan
    the backend wireguard is not in this version of flanneld: set Backend in the network config to vxlan, host-gw, ipip or alloc
    "#);
    // With IPv6 alone nobody is told the IPv4 address.
    let mut node = node();
    public(&mut node);
    assert!(Desired::new(&config("6", HOST_GW), &node, &facts()).is_ok());
}

#[test]
fn published_records_are_golden() {
    let publish = |families, backend: &str| {
        let external = ExternalInterface {
            address: DualStack::default(),
            public: dual(ip("192.168.64.3"), ip("fd00::3")),
            ..external()
        };
        attrs(&config(families, backend), &external, &node().endpoints).unwrap().to_json()
    };
    assert_snapshot!(publish("4", VXLAN), @r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"aa:aa:aa:aa:aa:01"}}"#);
    assert_snapshot!(publish("46", VXLAN), @r#"{"PublicIP":"192.168.64.3","PublicIPv6":"fd00::3","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"aa:aa:aa:aa:aa:01"},"BackendV6Data":{"VNI":1,"VtepMAC":"aa:aa:aa:aa:aa:11"}}"#);
    assert_snapshot!(publish("6", VXLAN), @r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::3","BackendType":"vxlan","BackendV6Data":{"VNI":1,"VtepMAC":"aa:aa:aa:aa:aa:11"}}"#);
    assert_snapshot!(publish("4", HOST_GW), @r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"host-gw"}"#);
    assert_snapshot!(publish("46", HOST_GW), @r#"{"PublicIP":"192.168.64.3","PublicIPv6":"fd00::3","BackendType":"host-gw"}"#);
    assert_snapshot!(publish("6", HOST_GW), @r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::3","BackendType":"host-gw"}"#);
    assert_snapshot!(publish("4", r#"{"Type": "alloc"}"#), @r#"{"PublicIP":"192.168.64.3","PublicIPv6":null}"#);
    assert!(attrs(&config("4", VXLAN), &external(), &DualStack::default()).is_err());
}

#[test]
fn an_entry_that_two_leases_share_outlives_the_first() {
    let mut assembly = Assembly::new(desired("4", VXLAN), [Arc::new(lease(2, "vxlan"))]);
    // The node moves to another subnet; its old lease expires later.
    let moved = Lease { subnets: subnets(3), ..lease(2, "vxlan") };
    let ops =
        |difference: Difference| difference.plan().iter().map(|op| format!("{op}\n")).collect::<String>();
    assert_snapshot!(ops(assembly.set(Arc::new(moved.clone()))), @r"
    neigh replace 10.42.3.0 lladdr aa:aa:aa:aa:aa:02 dev flannel.1
    route replace 10.42.3.0/24 via 10.42.3.0 dev flannel.1 onlink
    ");
    assert_snapshot!(ops(assembly.remove(&subnets(2))), @r"
    route del 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink
    neigh del 10.42.2.0 dev flannel.1
    ");
    assert_eq!(assembly.dataplane(), &desired("4", VXLAN).full(&[moved]).0);
    assert!(assembly.errors().is_empty());
}

/// Overlapping leases exist for a moment, until the older one counts.
#[test]
fn a_neighbour_that_two_leases_share_outlives_one_of_them() {
    let inside = Lease {
        subnets: Subnets { v4: Some("10.42.2.0/26".parse().unwrap()), v6: None },
        ..lease(3, "vxlan")
    };
    let alone = Assembly::new(desired("4", VXLAN), [Arc::new(lease(2, "vxlan"))]);
    let mut assembly = alone.clone();
    assembly.set(Arc::new(inside.clone()));
    assembly.remove(&inside.subnets);
    assert_eq!(assembly.dataplane(), alone.dataplane());
    assembly.set(Arc::new(inside));
    assembly.remove(&subnets(2));
    assembly.set(Arc::new(lease(2, "vxlan")));
    let both = Assembly::new(desired("4", VXLAN), assembly.leases().values().cloned());
    assert_eq!(assembly.dataplane(), both.dataplane());
}

#[test]
fn cloned_machines() {
    let clone = Lease {
        attrs: LeaseAttrs { public_ip: Some("192.168.50.9".parse().unwrap()), ..lease(2, "vxlan").attrs },
        ..lease(3, "vxlan")
    };
    let mut assembly = Assembly::new(desired("4", VXLAN), [Arc::new(clone), Arc::new(lease(2, "vxlan"))]);
    let errors = assembly.errors().get(&subnets(3)).unwrap();
    assert_snapshot!(faults(errors), @"the IPv4 VTEP MAC aa:aa:aa:aa:aa:02 is that of another node too: give one of them a new one (machines cloned with their state directory?)");
    let ops = assembly.remove(&subnets(2)).plan();
    assert_snapshot!(ops.iter().map(|op| format!("{op}\n")).collect::<String>(), @r"
    fdb replace aa:aa:aa:aa:aa:02 dst 192.168.50.9 dev flannel.1
    fdb del aa:aa:aa:aa:aa:02 dst 192.168.50.2 dev flannel.1
    neigh replace 10.42.3.0 lladdr aa:aa:aa:aa:aa:02 dev flannel.1
    route replace 10.42.3.0/24 via 10.42.3.0 dev flannel.1 onlink
    route del 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink
    neigh del 10.42.2.0 dev flannel.1
    ");
    assert!(assembly.errors().is_empty());
}

/// A change of the lease table: a peer with a MAC and an address from small ranges, or none.
#[derive(Clone, Debug)]
struct Step {
    node: u16,
    lease: Option<(u8, u8, u8, bool)>,
}

fn any_step() -> impl Strategy<Value = Step> {
    let lease = prop::option::weighted(0.7, (1..4u8, 1..4u8, 2..6u8, any::<bool>()));
    (2..6u16, lease).prop_map(|(node, lease)| Step { node, lease })
}

impl Step {
    fn lease(&self) -> Option<Arc<Lease>> {
        let (v4, v6, address, is_vxlan) = self.lease?;
        let mut lease = lease(self.node, "vxlan");
        let data = |last| Some(backend::Vtep { vni: None, mac: mac(last) }.to_raw());
        (lease.attrs.backend_data, lease.attrs.backend_v6_data) = (data(v4), data(v6));
        lease.attrs.public_ip = Some(format!("192.168.50.{address}").parse().unwrap());
        lease.attrs.public_ipv6 = Some(format!("fd50::{address}").parse().unwrap());
        lease.attrs.backend_type = if is_vxlan { "vxlan" } else { "host-gw" }.to_owned();
        Some(Arc::new(lease))
    }
}

fn kernel() -> Dataplane {
    let mut kernel = Dataplane::default();
    let kind = LinkKind::Other(String::new());
    let nic = crate::dataplane::Link { kind, mtu: 1500, mac: None, up: true, alias: None };
    kernel.links.insert(name("eth0"), nic);
    for net in [net("192.168.50.1/24"), net("fd50::1/64")] {
        let key = crate::dataplane::AddressKey { link: name("eth0"), net };
        kernel.addresses.insert(key, crate::dataplane::Address);
    }
    kernel
}

proptest! {
    #[test]
    fn any_changes_end_where_a_fresh_start_would(
        steps in prop::collection::vec(any_step(), 1..20),
        direct in any::<bool>(),
    ) {
        let desired = desired("46", if direct { DIRECT } else { VXLAN });
        let mut kernel = kernel();
        let run = |kernel: &mut Dataplane, ops: &[Op]| {
            for op in ops {
                assert_eq!(model::apply(kernel, op), Ok(()), "{op}");
            }
        };
        let mut assembly = Assembly::new(desired.clone(), []);
        run(&mut kernel, &plan(assembly.dataplane(), &Dataplane::default(), Prune::Surplus));
        for step in &steps {
            let difference = match step.lease() {
                Some(lease) => assembly.set(lease),
                None => assembly.remove(&subnets(step.node)),
            };
            run(&mut kernel, &difference.plan());
            let (full, errors) = desired.full(assembly.leases().values().map(|lease| &**lease));
            prop_assert_eq!(assembly.dataplane(), &full);
            let found: Vec<(Subnets, PeerError)> = assembly
                .errors()
                .iter()
                .flat_map(|(subnets, errors)| errors.iter().map(|error| (*subnets, error.clone())))
                .collect();
            prop_assert_eq!(found, errors);
            let networks = [net("10.42.0.0/16"), net("fd00:10:244::/48")];
            let ours = owned(kernel.clone(), &Scope { desired: &full, networks: &networks });
            prop_assert_eq!(ours, full);
        }
        let fresh = Assembly::new(desired, assembly.leases().values().cloned());
        prop_assert_eq!(fresh.dataplane(), assembly.dataplane());
        prop_assert_eq!(fresh.errors(), assembly.errors());
    }
}

#[test]
fn neighbours_are_keyed_by_the_zero_address() {
    let peer = desired("46", VXLAN).peer(&lease(2, "vxlan"));
    let key = NeighbourKey { link: name("flannel-v6.1"), address: ip("fd00:10:244:2::") };
    assert!(peer.dataplane.neighbours.contains_key(&key));
}

#[test]
fn what_cannot_work_shows_before_there_is_a_lease() {
    let facts = HostFacts::default();
    let translated = ExternalInterface { public: dual(ip("203.0.113.9"), ip("2001:db8::9")), ..external() };
    let outcome = |families, backend, external: &ExternalInterface| {
        let config = config(families, backend);
        config.backend.check(&config.networks(), external, &facts).map_err(|error| error.to_string())
    };
    let host_gw = r#"{"Type": "host-gw"}"#;
    assert_eq!(outcome("46", host_gw, &external()), Ok(()));
    assert_eq!(outcome("6", host_gw, &translated), Ok(()));
    assert_eq!(outcome("4", r#"{"Type": "vxlan"}"#, &translated), Ok(()));
    assert_snapshot!(
        outcome("4", host_gw, &translated).unwrap_err(),
        @"the public address 203.0.113.9 is not on eth0 (which has 192.168.50.1), so host-gw cannot route through it: leave --public-ip out, or use vxlan"
    );
    let long = r#"{"Type": "vxlan", "VNI": 10000}"#;
    assert_eq!(outcome("4", long, &external()), Ok(()));
    assert_snapshot!(
        outcome("46", long, &external()).unwrap_err(),
        @"Backend.VNI is 10000, but the device name flannel-v6.10000 would be longer than 15 bytes: must be at most 9999"
    );
}

/// The node has lost 10.42.9.0/24 to another one while pods with addresses of it run.
#[test]
fn pods_of_a_lost_subnet_stay_in_reach_of_their_host() {
    let mut facts = facts();
    let bridge = |number, texts: [&str; 2]| LinkFacts {
        index: IfIndex(number),
        name: name(&format!("cni{number}")),
        mtu: 1450,
        up: true,
        mac: None,
        master: None,
        addresses: texts
            .map(|text| AddressFacts { net: net(text), deprecated: false, permanent: true, temporary: false })
            .to_vec(),
    };
    let tunnels = BTreeSet::from([name("flannel.1")]);
    let networks = [net("10.42.0.0/16"), net("fd00:10:244::/48")];
    let pods =
        || ["10.42.9.7", "10.42.1.7", "10.42.9.1", "192.168.50.9", "fd00:10:244:9::7"].map(ip).to_vec();
    facts.links.push(bridge(7, ["10.42.1.1/24", "172.30.0.1/16"]));
    let find = |facts: &HostFacts, pods: &dyn Fn() -> Vec<IpAddr>| {
        stranded::find(facts, &subnets(1), &networks, &tunnels, pods)
    };
    // Nobody reads files where there is no bridge of a former subnet.
    assert_eq!(find(&facts, &|| panic!("asked for pods")), BTreeMap::new());
    facts.links.push(bridge(8, ["10.42.9.1/24", "fd00:10:244:9::1/64"]));
    let found = find(&facts, &pods);
    let expected = [("10.42.9.7", "cni8"), ("fd00:10:244:9::7", "cni8")];
    assert_eq!(found, expected.map(|(pod, bridge)| (ip(pod), name(bridge))).into());

    let node = Node { stranded: found, ..node() };
    let base = Desired::new(&config("46", r#"{"Type":"host-gw"}"#), &node, &facts).unwrap().base().clone();
    let routes: Vec<String> =
        base.routes.keys().map(|key| format!("{} metric {}", key.destination, key.metric)).collect();
    assert_eq!(routes, ["10.42.9.7/32 metric 0", "fd00:10:244:9::7/128 metric 1024"]);
    let alloc = Desired::new(&config("46", r#"{"Type":"alloc"}"#), &node, &facts).unwrap();
    assert!(alloc.base().routes.is_empty(), "nothing takes the place of the kernel's route there");
}
