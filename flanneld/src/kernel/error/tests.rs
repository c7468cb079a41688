use flannel_core::dataplane::{AddressKey, FdbKey, LinkChange, NeighbourKey, Route, RouteKey, RouteTarget};
use flannel_core::link::Mac;
use insta::assert_snapshot;

use super::*;

fn name() -> LinkName {
    "flannel.1".parse().unwrap()
}

fn refused(errno: Errno, text: &str) -> KernelError {
    let cause = Refused { errno, text: text.to_owned() };
    KernelError::Refused { op: "route replace 10.42.2.0/24".to_owned(), cause }
}

#[test]
fn deleting_a_missing_and_setting_an_existing_object_are_settled() {
    let address = AddressKey { link: name(), net: "10.42.1.0/32".parse().unwrap() };
    let neighbour = NeighbourKey { link: name(), address: "10.42.2.0".parse().unwrap() };
    let mac = Mac([2; 6]);
    let fdb = FdbKey { link: name(), mac };
    let to = "192.168.50.2".parse().unwrap();
    let key = RouteKey { destination: "10.42.2.0/24".parse().unwrap(), metric: 0 };
    let route = Route { target: RouteTarget::Blackhole, protocol: 3 };
    let all = [Errno::EEXIST, Errno::ENOENT, Errno::ESRCH, Errno::ENODEV, Errno::EADDRNOTAVAIL, Errno::EPERM];
    let cases = [
        (Op::SetLink(name(), LinkChange::default().into()), vec![]),
        (Op::DeleteLink(name()), vec![Errno::ENODEV]),
        (Op::AddAddress(address.clone()), vec![Errno::EEXIST]),
        (Op::DeleteAddress(address), vec![Errno::ENODEV, Errno::EADDRNOTAVAIL]),
        (Op::SetNeighbour(neighbour.clone(), mac), vec![]),
        (Op::DeleteNeighbour(neighbour), vec![Errno::ENOENT, Errno::ENODEV]),
        (Op::SetFdb(fdb.clone(), to), vec![Errno::EEXIST]),
        (Op::DeleteFdb(fdb, to), vec![Errno::ENOENT, Errno::ENODEV]),
        (Op::SetRoute(key, route.clone()), vec![]),
        (Op::DeleteRoute(key, route), vec![Errno::ENOENT, Errno::ESRCH, Errno::ENODEV]),
    ];
    for (op, expected) in cases {
        let settled: Vec<Errno> = all.into_iter().filter(|errno| is_settled(&op, *errno)).collect();
        assert_eq!(settled, expected, "{op:?}");
    }
}

#[test]
fn errors_name_the_object_and_include_the_extended_ack() {
    let error = refused(Errno::ENETUNREACH, "Nexthop has invalid gateway");
    assert_snapshot!(error, @"the kernel refused `route replace 10.42.2.0/24`");
    let source = std::error::Error::source(&error).unwrap();
    assert_snapshot!(source, @"ENETUNREACH: Network is unreachable (Nexthop has invalid gateway)");
    assert_snapshot!(Refused { errno: Errno::EPERM, text: String::new() }, @"EPERM: Operation not permitted");
    let error = KernelError::NoLink { op: "link delete flannel.1".to_owned(), link: name() };
    assert_snapshot!(error, @"`link delete flannel.1` needs the interface flannel.1, which does not exist");
    let error = KernelError::Unsteady { what: "routes".to_owned(), attempts: 6 };
    assert_snapshot!(error, @"routes changed during each of 6 dumps");
}
