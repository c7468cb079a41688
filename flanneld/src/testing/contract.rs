//! What every kernel does, the fake as well as the real one. The cases on netlink run as root, each in a network
//! namespace of its own (`cargo test -- --ignored`).

use flannel_core::dataplane::{
    Address, AddressKey, Dataplane, FdbEntry, FdbKey, Link, LinkChange, LinkKind, Neighbour, NeighbourKey,
    Nexthop, NexthopId, Op, PROTOCOL, PROTOCOL_BOOT, PROTOCOL_KERNEL, Route, RouteKey, RouteTarget, Vxlan,
};
use flannel_core::link::{LinkName, Mac, Vni};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;

use super::kernel::FakeKernel;
use crate::kernel::{Kernel, KernelError, NetlinkKernel, Observation};

macro_rules! contract {
    ($($case:ident)*) => {
        mod fake {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::FakeKernel::new(super::host())).await;
            })*
        }
        mod netlink {
            $(#[test]
            #[ignore = "needs netns"]
            fn $case() {
                super::in_namespace(|| async {
                    super::set_up_host();
                    super::$case(super::NetlinkKernel::open().unwrap()).await;
                });
            })*
        }
    };
}

contract! {
    a_tunnel_stands_as_asked
    a_tunnel_of_ipv6_stands_as_asked
    ops_are_idempotent
    deleting_what_is_not_there_succeeds
    a_failed_op_stops_no_other
    objects_go_with_their_link
    tunnels_go_with_their_underlay
    objects_are_replaced_in_place
    links_are_changed_in_place
    a_new_mac_takes_the_neighbours_along
    a_downed_link_loses_what_the_kernel_drops
    a_link_of_another_make_is_an_error
    a_second_device_for_a_vni_is_refused
    an_mtu_beyond_the_underlay_is_cut_at_creation_and_refused_later
    gateways_have_to_be_on_the_link
    plain_routes_go_through_the_underlay
    an_on_link_gateway_of_ipv6_must_not_be_found_elsewhere
    blackholes_stand_and_go
    the_host_is_described
    neighbours_are_read_of_tunnels_only
    routes_move_to_nexthop_objects_and_back
    nexthop_objects_take_their_routes_along
    nexthop_objects_go_with_their_link
    a_number_of_another_program_is_refused
}

/// Runs a test in a network namespace of its own. A namespace belongs to a thread, so the runtime has one only.
pub(crate) fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("making a network namespace needs root or CAP_SYS_ADMIN");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs commands of iproute2, one per line, and gives what they print.
pub(crate) fn run(commands: &str) -> String {
    let mut printed = String::new();
    for command in commands.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = command.split_whitespace();
        let program = words.next().unwrap();
        let output = Command::new(program).args(words).output().unwrap();
        let (stdout, stderr) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
        assert!(output.status.success(), "{command}: {stderr}");
        printed.push_str(&String::from_utf8_lossy(&stdout));
    }
    printed
}

/// The namespace that [`host`] describes.
pub(crate) fn set_up_host() {
    run("ip link set lo up
         ip link add eth0 mtu 1500 type veth peer name peer0
         ip link set eth0 address 02:00:00:00:00:01 up
         ip link set peer0 up
         ip addr add 192.168.50.1/24 dev eth0
         ip -6 addr add fd50::1/64 dev eth0 nodad");
}

pub(crate) fn host() -> Dataplane {
    let mut host = Dataplane::default();
    let link = |mac| Link {
        kind: LinkKind::Other("veth".to_owned()),
        mtu: 1500,
        mac: Some(mac),
        up: true,
        alias: None,
    };
    host.links.insert(name("eth0"), link(mac("02:00:00:00:00:01")));
    host.links.insert(name("peer0"), link(mac("02:00:00:00:00:02")));
    for (net, connected, metric) in
        [("192.168.50.1/24", "192.168.50.0/24", 0), ("fd50::1/64", "fd50::/64", 256)]
    {
        host.addresses.insert(address("eth0", net), Address);
        let route = Route { target: RouteTarget::Link(name("eth0")), protocol: PROTOCOL_KERNEL };
        host.routes.insert(RouteKey { destination: connected.parse().unwrap(), metric }, route);
    }
    host
}

pub(crate) fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}

pub(crate) fn address(link: &str, net: &str) -> AddressKey {
    AddressKey { link: name(link), net: net.parse().unwrap() }
}

pub(crate) fn neighbour(link: &str, address: &str) -> NeighbourKey {
    NeighbourKey { link: name(link), address: ip(address) }
}

pub(crate) fn fdb(link: &str, address: &str) -> FdbKey {
    FdbKey { link: name(link), mac: mac(address) }
}

pub(crate) fn key(destination: &str) -> RouteKey {
    let metric = if destination.contains(':') { 1024 } else { 0 };
    RouteKey { destination: destination.parse().unwrap(), metric }
}

pub(crate) fn via(gateway: &str, link: &str, onlink: bool) -> Route {
    let target = RouteTarget::via(ip(gateway), &name(link), onlink);
    Route { target, protocol: PROTOCOL }
}

/// The number of the object for a destination, and the object.
pub(crate) fn nexthop(destination: &str, gateway: &str, link: &str) -> (NexthopId, Nexthop) {
    let target = via(gateway, link, true).target;
    (NexthopId::of(destination.parse().unwrap()).unwrap(), Nexthop { target, protocol: PROTOCOL })
}

/// The route through an object of this gateway.
pub(crate) fn via_object(gateway: &str, link: &str, id: NexthopId) -> Route {
    let (gateway, link, onlink) = (ip(gateway), name(link), true);
    Route { target: RouteTarget::Via { gateway, link, onlink, object: Some(id) }, protocol: PROTOCOL }
}

/// `flannel.1` as the daemon wants it.
pub(crate) fn vxlan() -> Link {
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
    Link {
        kind: LinkKind::Vxlan(vxlan),
        mtu: 1450,
        mac: Some(mac("1a:2b:3c:4d:5e:6f")),
        up: true,
        alias: Some("flannel".to_owned()),
    }
}

/// `flannel-v6.1` as the daemon wants it.
pub(crate) fn vxlan_v6() -> Link {
    let mut link = vxlan();
    let LinkKind::Vxlan(vxlan) = &mut link.kind else { unreachable!() };
    vxlan.local = Some(ip("fd50::1"));
    link.mtu = 1430;
    link.mac = Some(mac("1a:2b:3c:4d:5e:70"));
    link
}

pub(crate) const PEER: &str = "aa:aa:aa:aa:aa:02";

/// Device, address and one peer, in the order of a plan.
pub(crate) fn tunnel() -> Vec<Op> {
    vec![
        Op::CreateLink(name("flannel.1"), vxlan().into()),
        Op::AddAddress(address("flannel.1", "10.42.1.0/32")),
        Op::SetNeighbour(neighbour("flannel.1", "10.42.2.0"), mac(PEER)),
        Op::SetFdb(fdb("flannel.1", PEER), ip("192.168.50.2")),
        Op::SetRoute(key("10.42.2.0/24"), via("10.42.2.0", "flannel.1", true)),
    ]
}

/// What [`tunnel`] makes.
fn tunnel_stands() -> Dataplane {
    let mut wanted = Dataplane::default();
    wanted.links.insert(name("flannel.1"), vxlan());
    wanted.addresses.insert(address("flannel.1", "10.42.1.0/32"), Address);
    let entry = Neighbour { mac: Some(mac(PEER)), permanent: true };
    wanted.neighbours.insert(neighbour("flannel.1", "10.42.2.0"), entry);
    let entry = FdbEntry { destinations: vec![ip("192.168.50.2")], permanent: true };
    wanted.fdb.insert(fdb("flannel.1", PEER), entry);
    wanted.routes.insert(key("10.42.2.0/24"), via("10.42.2.0", "flannel.1", true));
    wanted
}

async fn apply(kernel: &mut impl Kernel, ops: &[Op]) {
    let results = kernel.apply(ops).await;
    assert_eq!(results.len(), ops.len());
    for (op, result) in ops.iter().zip(results) {
        if let Err(error) = result {
            panic!("{op:?}: {error:?}");
        }
    }
}

async fn refused(kernel: &mut impl Kernel, op: Op) -> KernelError {
    let mut results = kernel.apply(&[op]).await;
    results.remove(0).unwrap_err()
}

/// The number of a refusal.
fn errno(error: &KernelError) -> nix::errno::Errno {
    match error {
        KernelError::Refused { cause, .. } => cause.errno,
        other => panic!("{other:?}"),
    }
}

async fn observe(kernel: &mut impl Kernel) -> Observation {
    let tunnels = BTreeSet::from([name("flannel.1"), name("flannel-v6.1")]);
    kernel.observe(&tunnels).await.unwrap()
}

/// Everything but what the host had before and what the kernel makes by itself.
async fn ours(kernel: &mut impl Kernel) -> Dataplane {
    let mut found = observe(kernel).await.dataplane;
    found.links.retain(|name, _| name.as_str().starts_with("flannel"));
    found.addresses.retain(|key, _| {
        let link_local = matches!(key.net.addr(), IpAddr::V6(address) if address.is_unicast_link_local());
        key.link.as_str().starts_with("flannel") && !link_local
    });
    found.routes.retain(|_, route| route.protocol == PROTOCOL);
    found.nexthops.retain(|_, object| object.protocol == PROTOCOL);
    found
}

async fn routes_move_to_nexthop_objects_and_back(mut kernel: impl Kernel) {
    apply(&mut kernel, &tunnel()).await;
    let (id, object) = nexthop("10.42.2.0/24", "10.42.2.0", "flannel.1");
    let route = via_object("10.42.2.0", "flannel.1", id);
    let ops = [Op::AddNexthop(id, object.clone()), Op::SetRoute(key("10.42.2.0/24"), route.clone())];
    apply(&mut kernel, &ops).await;
    let mut wanted = tunnel_stands();
    wanted.nexthops.insert(id, object.clone());
    wanted.routes.insert(key("10.42.2.0/24"), route.clone());
    assert_eq!(ours(&mut kernel).await, wanted);
    assert!(observe(&mut kernel).await.has_nexthops);

    // The routes follow an object that is replaced.
    let (_, other) = nexthop("10.42.2.0/24", "10.42.9.0", "flannel.1");
    apply(&mut kernel, &[Op::ReplaceNexthop(id, other.clone())]).await;
    wanted.nexthops.insert(id, other);
    wanted.routes.insert(key("10.42.2.0/24"), via_object("10.42.9.0", "flannel.1", id));
    assert_eq!(ours(&mut kernel).await, wanted);

    // A plain route is another one: its deletion does not delete this one.
    apply(&mut kernel, &[Op::DeleteRoute(key("10.42.2.0/24"), via("10.42.9.0", "flannel.1", true))]).await;
    assert_eq!(ours(&mut kernel).await, wanted);
    apply(&mut kernel, &[Op::ReplaceNexthop(id, object)]).await;
    let plain = via("10.42.2.0", "flannel.1", true);
    apply(&mut kernel, &[Op::SetRoute(key("10.42.2.0/24"), plain), Op::DeleteNexthop(id)]).await;
    assert_eq!(ours(&mut kernel).await, tunnel_stands());
    // By the number alone.
    let (again, object) = nexthop("10.42.2.0/24", "10.42.2.0", "flannel.1");
    let ops = [Op::AddNexthop(again, object), Op::SetRoute(key("10.42.2.0/24"), route.clone())];
    apply(&mut kernel, &ops).await;
    apply(&mut kernel, &[Op::DeleteRoute(key("10.42.2.0/24"), route), Op::DeleteNexthop(again)]).await;
    let found = ours(&mut kernel).await;
    assert!(found.routes.is_empty() && found.nexthops.is_empty(), "{found:?}");
}

async fn nexthop_objects_take_their_routes_along(mut kernel: impl Kernel) {
    apply(&mut kernel, &tunnel()).await;
    let (id, object) = nexthop("10.42.2.0/24", "10.42.2.0", "flannel.1");
    let route = via_object("10.42.2.0", "flannel.1", id);
    apply(&mut kernel, &[Op::AddNexthop(id, object), Op::SetRoute(key("10.42.2.0/24"), route.clone())]).await;
    // The last address of the link takes plain routes only.
    apply(&mut kernel, &[Op::SetRoute(key("10.42.3.0/24"), via("10.42.3.0", "flannel.1", true))]).await;
    apply(&mut kernel, &[Op::DeleteAddress(address("flannel.1", "10.42.1.0/32"))]).await;
    assert_eq!(ours(&mut kernel).await.routes.into_keys().collect::<Vec<_>>(), [key("10.42.2.0/24")]);
    apply(&mut kernel, &[Op::DeleteNexthop(id), Op::DeleteNexthop(id)]).await;
    let found = ours(&mut kernel).await;
    assert!(found.routes.is_empty() && found.nexthops.is_empty(), "{found:?}");
    let error = refused(&mut kernel, Op::SetRoute(key("10.42.2.0/24"), route)).await;
    assert_eq!(errno(&error), nix::errno::Errno::EINVAL, "there is no such object");
}

async fn nexthop_objects_go_with_their_link(mut kernel: impl Kernel) {
    apply(&mut kernel, &tunnel()).await;
    let (id, object) = nexthop("10.42.2.0/24", "10.42.2.0", "flannel.1");
    let add = Op::AddNexthop(id, object);
    apply(&mut kernel, std::slice::from_ref(&add)).await;
    let down = LinkChange { up: Some(false), ..LinkChange::default() };
    apply(&mut kernel, &[Op::SetLink(name("flannel.1"), down.into())]).await;
    assert!(ours(&mut kernel).await.nexthops.is_empty());
    let error = refused(&mut kernel, add).await;
    assert_eq!(errno(&error), nix::errno::Errno::ENETDOWN);
}

/// It is not overwritten, and no route refers to it.
async fn a_number_of_another_program_is_refused(mut kernel: impl Kernel) {
    apply(&mut kernel, &tunnel()).await;
    let (id, object) = nexthop("10.42.3.0/24", "10.42.3.0", "flannel.1");
    let foreign = Nexthop { protocol: PROTOCOL_BOOT, ..nexthop("10.42.3.0/24", "10.42.9.0", "flannel.1").1 };
    apply(&mut kernel, &[Op::AddNexthop(id, foreign.clone())]).await;
    let (fine, fine_object) = nexthop("10.42.4.0/24", "10.42.4.0", "flannel.1");
    let ops = [
        Op::AddNexthop(id, object),
        Op::AddNexthop(fine, fine_object),
        Op::SetRoute(key("10.42.3.0/24"), via_object("10.42.3.0", "flannel.1", id)),
        Op::SetRoute(key("10.42.4.0/24"), via_object("10.42.4.0", "flannel.1", fine)),
    ];
    let results: Vec<bool> = kernel.apply(&ops).await.iter().map(Result::is_ok).collect();
    assert_eq!(results, [false, true, false, true]);
    let found = observe(&mut kernel).await.dataplane;
    assert_eq!(found.nexthops[&id], foreign);
    assert!(
        !found.routes.contains_key(&key("10.42.3.0/24")) && found.routes.contains_key(&key("10.42.4.0/24"))
    );
}

async fn a_tunnel_stands_as_asked(mut kernel: impl Kernel) {
    apply(&mut kernel, &tunnel()).await;
    assert_eq!(ours(&mut kernel).await, tunnel_stands());
}

async fn a_tunnel_of_ipv6_stands_as_asked(mut kernel: impl Kernel) {
    let link = "flannel-v6.1";
    let ops = [
        Op::CreateLink(name(link), vxlan_v6().into()),
        Op::AddAddress(address(link, "fd00:10:244:1::/128")),
        Op::SetNeighbour(neighbour(link, "fd00:10:244:2::"), mac(PEER)),
        Op::SetFdb(fdb(link, PEER), ip("fd50::2")),
        Op::SetRoute(key("fd00:10:244:2::/64"), via("fd00:10:244:2::", link, true)),
    ];
    apply(&mut kernel, &tunnel()).await;
    apply(&mut kernel, &ops).await;
    let mut wanted = tunnel_stands();
    wanted.links.insert(name(link), vxlan_v6());
    wanted.addresses.insert(address(link, "fd00:10:244:1::/128"), Address);
    let entry = Neighbour { mac: Some(mac(PEER)), permanent: true };
    wanted.neighbours.insert(neighbour(link, "fd00:10:244:2::"), entry);
    let entry = FdbEntry { destinations: vec![ip("fd50::2")], permanent: true };
    wanted.fdb.insert(fdb(link, PEER), entry);
    wanted.routes.insert(key("fd00:10:244:2::/64"), via("fd00:10:244:2::", link, true));
    assert_eq!(ours(&mut kernel).await, wanted);
}

async fn ops_are_idempotent(mut kernel: impl Kernel) {
    apply(&mut kernel, &tunnel()).await;
    apply(&mut kernel, &tunnel()).await;
    assert_eq!(ours(&mut kernel).await, tunnel_stands());
}

/// In the order of a plan, from a route back to the device.
fn tear_down() -> Vec<Op> {
    vec![
        Op::DeleteRoute(key("10.42.2.0/24"), via("10.42.2.0", "flannel.1", true)),
        Op::DeleteFdb(fdb("flannel.1", PEER), ip("192.168.50.2")),
        Op::DeleteNeighbour(neighbour("flannel.1", "10.42.2.0")),
        Op::DeleteAddress(address("flannel.1", "10.42.1.0/32")),
        Op::DeleteLink(name("flannel.1")),
    ]
}

async fn deleting_what_is_not_there_succeeds(mut kernel: impl Kernel) {
    // Without the link; with the link but nothing on it; with all.
    apply(&mut kernel, &tear_down()).await;
    apply(&mut kernel, &tunnel()[..1]).await;
    apply(&mut kernel, &tear_down()[..4]).await;
    apply(&mut kernel, &tunnel()).await;
    apply(&mut kernel, &tear_down()).await;
    assert_eq!(ours(&mut kernel).await, Dataplane::default());
}

async fn a_failed_op_stops_no_other(mut kernel: impl Kernel) {
    let mut ops = tunnel();
    ops.insert(3, Op::SetNeighbour(neighbour("flannel.9", "10.42.9.0"), mac(PEER)));
    ops.insert(1, Op::SetRoute(key("10.42.7.0/24"), via("172.16.9.9", "eth0", false)));
    let results = kernel.apply(&ops).await;
    let failed: Vec<usize> = (0..ops.len()).filter(|place| results[*place].is_err()).collect();
    assert_eq!(failed, [1, 4], "{results:?}");
    assert!(matches!(&results[4], Err(KernelError::NoLink { link, .. }) if link.as_str() == "flannel.9"));
    assert_eq!(ours(&mut kernel).await, tunnel_stands());
}

async fn objects_go_with_their_link(mut kernel: impl Kernel) {
    apply(&mut kernel, &tunnel()).await;
    apply(&mut kernel, &[Op::DeleteLink(name("flannel.1"))]).await;
    assert_eq!(ours(&mut kernel).await, Dataplane::default());
    apply(&mut kernel, &tunnel()).await;
    assert_eq!(ours(&mut kernel).await, tunnel_stands());
}

async fn tunnels_go_with_their_underlay(mut kernel: impl Kernel) {
    apply(&mut kernel, &tunnel()).await;
    apply(&mut kernel, &[Op::DeleteLink(name("eth0"))]).await;
    assert_eq!(ours(&mut kernel).await, Dataplane::default());
    let error = refused(&mut kernel, tunnel().remove(0)).await;
    assert!(matches!(&error, KernelError::NoLink { link, .. } if link.as_str() == "eth0"), "{error:?}");
}

async fn objects_are_replaced_in_place(mut kernel: impl Kernel) {
    apply(&mut kernel, &tunnel()).await;
    let other = "aa:aa:aa:aa:aa:03";
    let ops = [
        Op::SetNeighbour(neighbour("flannel.1", "10.42.2.0"), mac(other)),
        Op::SetFdb(fdb("flannel.1", PEER), ip("192.168.50.3")),
        Op::SetRoute(key("10.42.2.0/24"), via("192.168.50.2", "eth0", false)),
    ];
    apply(&mut kernel, &ops).await;
    let mut wanted = tunnel_stands();
    let entry = Neighbour { mac: Some(mac(other)), permanent: true };
    wanted.neighbours.insert(neighbour("flannel.1", "10.42.2.0"), entry);
    let entry = FdbEntry { destinations: vec![ip("192.168.50.3")], permanent: true };
    wanted.fdb.insert(fdb("flannel.1", PEER), entry);
    wanted.routes.insert(key("10.42.2.0/24"), via("192.168.50.2", "eth0", false));
    assert_eq!(ours(&mut kernel).await, wanted);
    // Deleting a destination that the MAC no longer has leaves the one that it has.
    apply(&mut kernel, &[Op::DeleteFdb(fdb("flannel.1", PEER), ip("192.168.50.2"))]).await;
    assert_eq!(ours(&mut kernel).await, wanted);
}

fn learning() -> LinkKind {
    let mut kind = vxlan().kind;
    let LinkKind::Vxlan(parameters) = &mut kind else { unreachable!() };
    parameters.learning = true;
    kind
}

async fn links_are_changed_in_place(mut kernel: impl Kernel) {
    apply(&mut kernel, &tunnel()).await;
    let change = LinkChange {
        mtu: Some(1400),
        alias: Some("another".to_owned()),
        kind: Some(learning()),
        ..LinkChange::default()
    };
    apply(&mut kernel, &[Op::SetLink(name("flannel.1"), change.into())]).await;
    let mut wanted = tunnel_stands();
    let link = wanted.links.get_mut(&name("flannel.1")).unwrap();
    (link.mtu, link.alias) = (1400, Some("another".to_owned()));
    let LinkKind::Vxlan(parameters) = &mut link.kind else { unreachable!() };
    parameters.learning = true;
    assert_eq!(ours(&mut kernel).await, wanted);
    let error = refused(&mut kernel, Op::SetLink(name("flannel.9"), LinkChange::default().into())).await;
    assert!(matches!(error, KernelError::NoLink { .. }), "{error:?}");
    // Creating it as it was makes it so again.
    apply(&mut kernel, &[Op::CreateLink(name("flannel.1"), vxlan().into())]).await;
    assert_eq!(ours(&mut kernel).await, tunnel_stands());
}

async fn a_new_mac_takes_the_neighbours_along(mut kernel: impl Kernel) {
    apply(&mut kernel, &tunnel()).await;
    let new = mac("1a:2b:3c:4d:5e:99");
    let change = LinkChange { mac: Some(new), ..LinkChange::default() };
    apply(&mut kernel, &[Op::SetLink(name("flannel.1"), change.into())]).await;
    let mut wanted = tunnel_stands();
    wanted.links.get_mut(&name("flannel.1")).unwrap().mac = Some(new);
    wanted.neighbours.clear();
    assert_eq!(ours(&mut kernel).await, wanted);
}

async fn a_downed_link_loses_what_the_kernel_drops(mut kernel: impl Kernel) {
    apply(&mut kernel, &tunnel()).await;
    let up = |up| Op::SetLink(name("flannel.1"), LinkChange { up: Some(up), ..LinkChange::default() }.into());
    apply(&mut kernel, &[up(false)]).await;
    let mut wanted = tunnel_stands();
    wanted.links.get_mut(&name("flannel.1")).unwrap().up = false;
    wanted.neighbours.clear();
    wanted.routes.clear();
    assert_eq!(ours(&mut kernel).await, wanted);
    let error = refused(&mut kernel, tunnel().remove(4)).await;
    assert_eq!(errno(&error), nix::errno::Errno::ENETDOWN);
    apply(&mut kernel, &[up(true)]).await;
    apply(&mut kernel, &tunnel()[2..]).await;
    assert_eq!(ours(&mut kernel).await, tunnel_stands());
}

async fn a_link_of_another_make_is_an_error(mut kernel: impl Kernel) {
    apply(&mut kernel, &tunnel()).await;
    for change in [
        |vxlan: &mut Vxlan| vxlan.vni = Vni::new(7).unwrap(),
        |vxlan: &mut Vxlan| vxlan.port = 4789,
        |vxlan: &mut Vxlan| vxlan.local = Some(ip("192.168.50.77")),
        |vxlan: &mut Vxlan| vxlan.lower = Some(name("peer0")),
        |vxlan: &mut Vxlan| vxlan.gbp = true,
    ] {
        let mut link = vxlan();
        let LinkKind::Vxlan(parameters) = &mut link.kind else { unreachable!() };
        change(parameters);
        let error = refused(&mut kernel, Op::CreateLink(name("flannel.1"), link.into())).await;
        assert!(matches!(error, KernelError::OtherLink { .. }), "{error:?}");
    }
    assert_eq!(ours(&mut kernel).await, tunnel_stands());
}

async fn a_second_device_for_a_vni_is_refused(mut kernel: impl Kernel) {
    apply(&mut kernel, &tunnel()).await;
    let error = refused(&mut kernel, Op::CreateLink(name("flannel.2"), vxlan().into())).await;
    assert_eq!(errno(&error), nix::errno::Errno::EEXIST);
    assert_eq!(ours(&mut kernel).await, tunnel_stands());
}

async fn an_mtu_beyond_the_underlay_is_cut_at_creation_and_refused_later(mut kernel: impl Kernel) {
    let tall = |link: Link| Link { mtu: 9000, ..link };
    let ops = [
        Op::CreateLink(name("flannel.1"), tall(vxlan()).into()),
        Op::CreateLink(name("flannel-v6.1"), tall(vxlan_v6()).into()),
    ];
    apply(&mut kernel, &ops).await;
    let links = ours(&mut kernel).await.links;
    assert_eq!((links[&name("flannel.1")].mtu, links[&name("flannel-v6.1")].mtu), (1450, 1430));
    let change = LinkChange { mtu: Some(9000), ..LinkChange::default() };
    let error = refused(&mut kernel, Op::SetLink(name("flannel.1"), change.into())).await;
    assert_eq!(errno(&error), nix::errno::Errno::EINVAL);
}

async fn gateways_have_to_be_on_the_link(mut kernel: impl Kernel) {
    apply(&mut kernel, &tunnel()).await;
    let error =
        refused(&mut kernel, Op::SetRoute(key("10.42.7.0/24"), via("172.16.0.1", "eth0", false))).await;
    assert_eq!(errno(&error), nix::errno::Errno::ENETUNREACH);
    let off_link = Op::SetRoute(key("10.42.7.0/24"), via("10.42.7.0", "flannel.1", false));
    assert_eq!(errno(&refused(&mut kernel, off_link).await), nix::errno::Errno::ENETUNREACH);
    assert_eq!(ours(&mut kernel).await, tunnel_stands());
}

async fn plain_routes_go_through_the_underlay(mut kernel: impl Kernel) {
    let ops = [
        Op::SetRoute(key("10.42.3.0/24"), via("192.168.50.3", "eth0", false)),
        Op::SetRoute(key("fd00:10:244:3::/64"), via("fd50::3", "eth0", false)),
    ];
    apply(&mut kernel, &ops).await;
    let routes = ours(&mut kernel).await.routes;
    assert_eq!(routes[&key("10.42.3.0/24")], via("192.168.50.3", "eth0", false));
    assert_eq!(routes[&key("fd00:10:244:3::/64")], via("fd50::3", "eth0", false));
}

async fn an_on_link_gateway_of_ipv6_must_not_be_found_elsewhere(mut kernel: impl Kernel) {
    let destination = key("fd00:10:244:2::/64");
    let direct = via("fd50::2", "eth0", false);
    let tunnel = Op::SetRoute(destination, via("fd00:10:244:2::", "flannel-v6.1", true));
    let ops = [
        Op::CreateLink(name("flannel-v6.1"), vxlan_v6().into()),
        Op::AddAddress(address("flannel-v6.1", "fd00:10:244:1::/128")),
        Op::SetRoute(destination, direct.clone()),
    ];
    apply(&mut kernel, &ops).await;
    let error = refused(&mut kernel, tunnel.clone()).await;
    assert_eq!(errno(&error), nix::errno::Errno::EINVAL);
    apply(&mut kernel, &[Op::DeleteRoute(destination, direct.clone()), tunnel]).await;
    // The other way round it is replaced in place.
    apply(&mut kernel, &[Op::SetRoute(destination, direct.clone())]).await;
    assert_eq!(ours(&mut kernel).await.routes[&destination], direct);
}

async fn blackholes_stand_and_go(mut kernel: impl Kernel) {
    let blackhole = Route { target: RouteTarget::Blackhole, protocol: PROTOCOL };
    for destination in ["10.42.1.0/24", "fd00:10:244:1::/64"] {
        let key = key(destination);
        apply(&mut kernel, &[Op::SetRoute(key, blackhole.clone())]).await;
        assert_eq!(ours(&mut kernel).await.routes[&key], blackhole);
        apply(&mut kernel, &[Op::DeleteRoute(key, blackhole.clone())]).await;
        assert_eq!(ours(&mut kernel).await, Dataplane::default());
    }
}

async fn the_host_is_described(mut kernel: impl Kernel) {
    let Observation { facts, dataplane, .. } = observe(&mut kernel).await;
    let eth0 = facts.links.iter().find(|link| link.name == name("eth0")).unwrap();
    assert_eq!((eth0.mtu, eth0.up, eth0.mac), (1500, true, Some(mac("02:00:00:00:00:01"))));
    let nets: BTreeSet<String> = eth0.addresses.iter().map(|address| address.net.to_string()).collect();
    assert!(nets.contains("192.168.50.1/24") && nets.contains("fd50::1/64"), "{nets:?}");
    let flags = eth0.addresses.iter().all(|address| address.permanent && !address.deprecated);
    assert!(flags, "{eth0:?}");
    let connected = facts.routes.iter().find(|route| route.destination == "192.168.50.0/24".parse().unwrap());
    assert_eq!(connected.unwrap().link, Some(eth0.index));
    assert_eq!(connected.unwrap().gateway, None);
    let key = RouteKey { destination: "192.168.50.0/24".parse().unwrap(), metric: 0 };
    assert_eq!(dataplane.routes[&key].target, RouteTarget::Link(name("eth0")));
    assert_eq!(dataplane.routes[&key].protocol, PROTOCOL_KERNEL);
    assert_eq!(dataplane.links[&name("eth0")].kind, LinkKind::Other("veth".to_owned()));
    assert!(dataplane.addresses.contains_key(&address("eth0", "fd50::1/64")));
    // Neither the tables that the kernel keeps for itself nor multicast.
    let strange = dataplane
        .routes
        .keys()
        .find(|key| key.destination.addr().is_multicast() || key.destination.addr().is_loopback());
    assert_eq!(strange, None);
}

async fn neighbours_are_read_of_tunnels_only(mut kernel: impl Kernel) {
    apply(&mut kernel, &tunnel()).await;
    apply(&mut kernel, &[Op::SetNeighbour(neighbour("eth0", "192.168.50.9"), mac(PEER))]).await;
    assert_eq!(ours(&mut kernel).await.neighbours, tunnel_stands().neighbours);
    let none = kernel.observe(&BTreeSet::new()).await.unwrap().dataplane;
    assert!(none.neighbours.is_empty() && none.fdb.is_empty());
    assert!(none.links.contains_key(&name("flannel.1")));
}
