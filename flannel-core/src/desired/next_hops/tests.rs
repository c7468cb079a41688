use super::*;
use crate::dataplane::{Nexthop, RouteTarget};

const NETWORK: &str = "10.42.0.0/16";

fn objects(all: &[(&str, u8)]) -> Dataplane {
    let mut observed = Dataplane::default();
    for (destination, protocol) in all {
        let object = Nexthop { target: RouteTarget::Blackhole, protocol: *protocol };
        observed.nexthops.insert(NexthopId::of(destination.parse().unwrap()).unwrap(), object);
    }
    observed
}

fn check(peers: usize, observed: &Dataplane) -> Option<usize> {
    match NexthopThreshold(Some(8)).choose(peers, observed, &[NETWORK.parse().unwrap()]) {
        NextHops::InRoutes => None,
        NextHops::Objects { taken } => Some(taken.len()),
    }
}

#[test]
fn objects_are_used_from_a_number_of_peers_on() {
    let none = Dataplane::default();
    assert_eq!((check(0, &none), check(7, &none), check(8, &none)), (None, None, Some(0)));
    assert_eq!(NexthopThreshold(None).choose(1_000_000, &none, &[]), NextHops::InRoutes);
}

#[test]
fn a_network_that_shrinks_a_little_keeps_them() {
    let present = objects(&[("10.42.2.0/24", PROTOCOL)]);
    assert_eq!((check(7, &present), check(6, &present), check(5, &present)), (Some(0), Some(0), None));
    // Those of another cluster on this host, or of another program, do not count.
    assert_eq!(check(7, &objects(&[("10.99.2.0/24", PROTOCOL), ("10.42.2.0/24", 3)])), None);
}

#[test]
fn numbers_of_unmanaged_objects_are_not_used() {
    let found = objects(&[("10.42.2.0/24", 3), ("10.42.3.0/24", PROTOCOL), ("10.99.4.0/24", 3)]);
    assert_eq!(check(8, &found), Some(1));
}
