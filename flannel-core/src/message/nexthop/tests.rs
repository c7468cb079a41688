//! Answers are those of Linux 6.18 about objects made by iproute2.

use super::*;
use crate::dataplane::{PROTOCOL, Route, RouteKey};
use crate::message::{route, snapshot::Snapshot};

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn id(number: u32) -> NexthopId {
    NexthopId::new(number).unwrap()
}

/// `id 170525184 via 10.42.2.0 dev flannel.1 onlink proto 241`, with index 4.
const OURS: &str = "02fdf100040000000800010000022a0a0800050004000000080006000a2a0200";

fn ours() -> Nexthop {
    let target = RouteTarget::via("10.42.2.0".parse().unwrap(), &"flannel.1".parse().unwrap(), true);
    Nexthop { target, protocol: PROTOCOL }
}

fn name(index: IfIndex) -> Option<LinkName> {
    (index.0 == 4).then(|| "flannel.1".parse().unwrap())
}

#[test]
fn objects_are_decoded() {
    let record = decode(&bytes(OURS)).unwrap().unwrap();
    assert_eq!(
        (record.id, record.id.get()),
        (NexthopId::of("10.42.2.0/24".parse().unwrap()).unwrap(), 0x0a2a_0200)
    );
    assert_eq!(record.object(name), ours());
    for (sample, expected) in [
        ("02fd0000000000000800010005000000080005000300000008000600c0a83205", 5),
        ("0200000000000000080001000600000004000400", 6),
        ("0000000000000000080001000700000006000300000000000c000200050000000000000008000e0000000080", 7),
        ("0afd0000000000000800010008000000080005000300000014000600fd500000000000000000000000000005", 8),
    ] {
        let record = decode(&bytes(sample)).unwrap().unwrap();
        let form = record.object(name);
        assert_eq!((record.id, record.protocol), (id(expected), 0));
        assert!(
            matches!(form.target, RouteTarget::Other(_)),
            "blackhole, group, unknown link or IPv6: {form:?}"
        );
    }
    assert!(decode(&bytes("02fdf100")).is_err());
    assert!(decode(&bytes("02fdf10004000000060001000002")).is_err());
}

#[test]
fn an_object_is_set_as_it_is_read() {
    for (request, flags) in [
        (add(id(0x0a2a_0200), &ours(), IfIndex(4)), 0x605),
        (replace(id(0x0a2a_0200), &ours(), IfIndex(4)), 0x505),
    ] {
        let message = request.unwrap().to_bytes(9);
        assert_eq!(message[..4], 48u32.to_ne_bytes());
        assert_eq!(message[4..8], [104, 0, (flags & 0xff) as u8, (flags >> 8) as u8]);
        let record = decode(&message[16..]).unwrap().unwrap();
        assert_eq!((record.id.get(), record.object(name)), (0x0a2a_0200, ours()));
    }
    let other = Nexthop { target: RouteTarget::Blackhole, ..ours() };
    assert!(add(id(1), &other, IfIndex(4)).is_err());
    let message = delete(id(5)).to_bytes(9);
    assert_eq!(message[4..8], [105, 0, 5, 0]);
    assert_eq!(decode(&message[16..]).unwrap().unwrap().id, id(5));
    assert_eq!(dump().request.to_bytes(9)[4..8], [106, 0, 1, 3]);
}

/// With `net.ipv4.nexthop_compat_mode` 0 a route has nothing but the number of its object.
#[test]
fn a_route_without_next_hop_takes_it_from_its_object() {
    let sample = bytes("02180000fef100010000000008000f00fe000000080001000a2a020008001e0000022a0a");
    let mut route = route::decode(&sample).unwrap().unwrap();
    assert_eq!((route.object, route.hops[0].index), (Some(id(0x0a2a_0200)), None));
    let mut snapshot = Snapshot { routes: vec![route.clone()], ..Snapshot::default() };
    snapshot.nexthops.extend(decode(&bytes(OURS)).unwrap());
    snapshot.resolve();
    route.resolve(|_| decode(&bytes(OURS)).unwrap());
    let (key, found) = snapshot.routes[0].entry(name);
    let RouteTarget::Via { gateway, link, onlink, .. } = ours().target else { panic!() };
    let target = RouteTarget::Via { gateway, link, onlink, object: Some(id(0x0a2a_0200)) };
    let wanted = Route { target, protocol: PROTOCOL };
    assert_eq!((key, found), (RouteKey::owned("10.42.2.0/24".parse().unwrap()), wanted.clone()));

    // It is set with the number alone, and deleted so.
    let new = route::NewRoute::planned(&key, &wanted, Some(IfIndex(4))).unwrap();
    for request in [route::replace(&new), route::delete(&new)] {
        let record = route::decode(&request.to_bytes(1)[16..]).unwrap().unwrap();
        assert_eq!(
            (record.object, record.hops[0].gateway, record.hops[0].index),
            (Some(id(0x0a2a_0200)), None, None)
        );
    }
}
