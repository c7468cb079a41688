use super::*;
use crate::dataplane::{AddressKey, FdbKey, NeighbourKey, PROTOCOL, Vxlan};
use crate::link::Vni;

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

fn vxlan(vni: u32, local: &str, mtu: u32) -> Link {
    Link {
        kind: LinkKind::Vxlan(Vxlan {
            vni: Vni::new(vni).unwrap(),
            local: Some(local.parse().unwrap()),
            lower: Some(name("eth0")),
            port: 0,
            learning: false,
            gbp: false,
            group: None,
            l2miss: false,
        }),
        mtu,
        mac: Some(mac(1)),
        up: true,
        alias: None,
    }
}

fn host() -> Dataplane {
    let mut host = Dataplane::default();
    let nic =
        Link { kind: LinkKind::Other(String::new()), mtu: 1500, mac: Some(mac(9)), up: true, alias: None };
    host.links.insert(name("eth0"), nic);
    host.addresses
        .insert(AddressKey { link: name("eth0"), net: "192.168.50.1/24".parse().unwrap() }, Address);
    host
}

fn via(gateway: &str, link: &str, onlink: bool) -> Route {
    let target = RouteTarget::via(gateway.parse().unwrap(), &name(link), onlink);
    Route { target, protocol: PROTOCOL }
}

fn route(destination: &str, route: Route) -> Op {
    let destination: IpNet = destination.parse().unwrap();
    let metric = if Family::of_net(destination) == Family::V4 { 0 } else { 1024 };
    Op::SetRoute(RouteKey { destination, metric }, route)
}

#[test]
fn vxlan_devices() {
    let mut state = host();
    let create = |name_: &str, link: Link| Op::CreateLink(name(name_), link.into());
    assert_eq!(apply(&mut state, &create("flannel.1", vxlan(1, "192.168.50.1", 9000))), Ok(()));
    assert_eq!(state.links[&name("flannel.1")].mtu, 1450, "clamped at creation");
    let LinkKind::Vxlan(made) = &state.links[&name("flannel.1")].kind else { panic!() };
    assert_eq!(made.port, 8472);
    assert_eq!(apply(&mut state, &create("flannel.1", vxlan(2, "192.168.50.1", 1450))), Err(Refusal::Exists));
    assert_eq!(apply(&mut state, &create("other", vxlan(1, "192.168.50.1", 1450))), Err(Refusal::Exists));
    assert_eq!(apply(&mut state, &create("flannel-v6.1", vxlan(1, "fd50::1", 1450))), Ok(()));
    assert_eq!(state.links[&name("flannel-v6.1")].mtu, 1430);
    let mtu =
        |mtu| Op::SetLink(name("flannel.1"), LinkChange { mtu: Some(mtu), ..LinkChange::default() }.into());
    assert_eq!(apply(&mut state, &mtu(1451)), Err(Refusal::Invalid), "refused later on");
    assert_eq!(apply(&mut state, &mtu(1400)), Ok(()));
    assert_eq!(apply(&mut state, &Op::DeleteLink(name("eth0"))), Ok(()));
    assert_eq!(state, Dataplane::default(), "the underlay takes all along");
}

#[test]
fn side_effects_of_a_link() {
    let mut state = host();
    let link = name("flannel.1");
    let neighbour =
        Op::SetNeighbour(NeighbourKey { link: link.clone(), address: "10.42.2.0".parse().unwrap() }, mac(2));
    assert_eq!(apply(&mut state, &neighbour), Err(Refusal::NoDevice));
    apply(&mut state, &Op::CreateLink(link.clone(), vxlan(1, "192.168.50.1", 1450).into())).unwrap();
    apply(&mut state, &neighbour).unwrap();
    let tunnel = route("10.42.2.0/24", via("10.42.2.0", "flannel.1", true));
    apply(&mut state, &tunnel).unwrap();
    let set = |change: LinkChange| Op::SetLink(name("flannel.1"), change.into());
    apply(&mut state, &set(LinkChange { mac: Some(mac(1)), ..LinkChange::default() })).unwrap();
    assert_eq!(state.neighbours.len(), 1, "the same MAC changes nothing");
    apply(&mut state, &set(LinkChange { mac: Some(mac(5)), ..LinkChange::default() })).unwrap();
    assert_eq!((state.neighbours.len(), state.routes.len()), (0, 1));
    apply(&mut state, &set(LinkChange { up: Some(false), ..LinkChange::default() })).unwrap();
    assert_eq!(state.routes.len(), 0);
    assert_eq!(apply(&mut state, &tunnel), Err(Refusal::Down));
}

#[test]
fn the_last_address_takes_routes_and_neighbours_along() {
    let mut state = host();
    let link = name("flannel.1");
    apply(&mut state, &Op::CreateLink(link.clone(), vxlan(1, "192.168.50.1", 1450).into())).unwrap();
    let address = |text: &str| AddressKey { link: link.clone(), net: text.parse().unwrap() };
    for text in ["10.42.1.0/32", "10.42.9.0/32", "fd00:42:0:1::/128"] {
        apply(&mut state, &Op::AddAddress(address(text))).unwrap();
    }
    for subnet in ["10.42.2.0", "fd00:42:0:2::"] {
        let key = NeighbourKey { link: link.clone(), address: subnet.parse().unwrap() };
        apply(&mut state, &Op::SetNeighbour(key, mac(2))).unwrap();
        let net = if subnet.contains('.') { format!("{subnet}/24") } else { format!("{subnet}/64") };
        apply(&mut state, &route(&net, via(subnet, "flannel.1", true))).unwrap();
    }
    apply(&mut state, &Op::DeleteAddress(address("10.42.9.0/32"))).unwrap();
    assert_eq!((state.routes.len(), state.neighbours.len()), (2, 2));
    apply(&mut state, &Op::DeleteAddress(address("10.42.1.0/32"))).unwrap();
    let left: Vec<bool> = state.routes.keys().map(|key| key.destination.addr().is_ipv6()).collect();
    assert_eq!((left.as_slice(), state.neighbours.len()), ([true].as_slice(), 1));
}

#[test]
fn routes() {
    let mut state = host();
    assert_eq!(apply(&mut state, &route("10.42.2.0/24", via("192.168.50.2", "eth0", false))), Ok(()));
    assert_eq!(
        apply(&mut state, &route("10.42.3.0/24", via("192.168.60.2", "eth0", false))),
        Err(Refusal::Unreachable)
    );
    apply(&mut state, &Op::CreateLink(name("flannel-v6.1"), vxlan(1, "fd50::1", 1430).into())).unwrap();
    apply(&mut state, &route("fd00:42:0:2::/64", via("fe80::2", "eth0", true))).unwrap();
    let tunnel = route("fd00:42:0:2::/64", via("fd00:42:0:2::", "flannel-v6.1", true));
    assert_eq!(apply(&mut state, &tunnel), Err(Refusal::Invalid), "the gateway is found on eth0");
    let Op::SetRoute(key, _) = tunnel else { panic!() };
    apply(&mut state, &Op::DeleteRoute(key, via("fe80::2", "eth0", true))).unwrap();
    assert_eq!(apply(&mut state, &tunnel), Ok(()));
    assert_eq!(apply(&mut state, &Op::DeleteRoute(key, via("fe80::2", "eth0", true))), Ok(()));
    assert_eq!(state.routes.len(), 2, "another route under the key is not the one that was meant");
}

#[test]
fn unicast_fdb_entries_have_one_destination() {
    let mut state = host();
    apply(&mut state, &Op::CreateLink(name("flannel.1"), vxlan(1, "192.168.50.1", 1450).into())).unwrap();
    let key = |mac| FdbKey { link: name("flannel.1"), mac };
    for last in [2, 3] {
        let destination: IpAddr = format!("192.168.50.{last}").parse().unwrap();
        apply(&mut state, &Op::SetFdb(key(mac(2)), destination)).unwrap();
        apply(&mut state, &Op::SetFdb(key(Mac([0; 6])), destination)).unwrap();
    }
    assert_eq!(state.fdb[&key(mac(2))].destinations, ["192.168.50.3".parse::<IpAddr>().unwrap()]);
    assert_eq!(state.fdb[&key(Mac([0; 6]))].destinations.len(), 2);
    apply(&mut state, &Op::DeleteFdb(key(mac(2)), "192.168.50.2".parse().unwrap())).unwrap();
    apply(&mut state, &Op::DeleteFdb(key(mac(2)), "192.168.50.3".parse().unwrap())).unwrap();
    assert!(!state.fdb.contains_key(&key(mac(2))));
}
