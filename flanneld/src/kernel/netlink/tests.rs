//! Cases of the real kernel only. Those that it shares with the fake are in `testing/contract.rs`.

use flannel_core::dataplane::{
    FdbKey, Link, NeighbourKey, Op, PROTOCOL, PROTOCOL_BOOT, Route, RouteKey, RouteTarget,
};
use flannel_core::facts::HostFacts;
use flannel_core::link::Mac;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use super::*;
use crate::testing::contract::{
    PEER, address, fdb, in_namespace, ip, key, mac, name, neighbour, run, set_up_host, tunnel, via, vxlan,
    vxlan_v6,
};

async fn apply_all(kernel: &mut NetlinkKernel, ops: &[Op]) {
    for (op, result) in ops.iter().zip(kernel.apply(ops).await) {
        result.unwrap_or_else(|error| panic!("{op:?}: {error:?}"));
    }
}

async fn observe(kernel: &mut NetlinkKernel) -> Observation {
    kernel.observe(&BTreeSet::from([name("flannel.1"), name("flannel-v6.1")])).await.unwrap()
}

/// If the connection breaks, answered ops keep their results, and all others fail.
#[test]
fn ops_without_an_answer_fail() {
    let ops = &tunnel()[..3];
    let cause = std::io::ErrorKind::TimedOut.into();
    let error = KernelError::Socket { action: "read from", cause };
    let results = apply::give_up(ops, vec![Some(Ok(())), None, None], error);
    let [Ok(()), Err(first), Err(second)] = results.as_slice() else { panic!("{results:?}") };
    assert!(matches!(first, KernelError::Socket { .. }), "{first:?}");
    assert!(matches!(second, KernelError::Unanswered { op } if *op == ops[2].to_string()), "{second:?}");
    let error = KernelError::Unsteady { what: "links".to_owned(), attempts: 1 };
    let nothing_sent = apply::give_up(ops, Vec::new(), error);
    assert!(nothing_sent.len() == 3 && nothing_sent.iter().all(Result::is_err), "{nothing_sent:?}");
}

/// The output of iproute2 is that of a node of Go flannel, except for the ownership marks (alias and protocol).
#[test]
#[ignore = "needs netns"]
#[expect(clippy::too_many_lines, reason = "one golden state")]
fn iproute2_shows_the_golden_state() {
    in_namespace(|| async {
        set_up_host();
        let mut kernel = NetlinkKernel::open().unwrap();
        apply_all(&mut kernel, &tunnel()).await;
        let v6 = "flannel-v6.1";
        let ops = [
            Op::CreateLink(name(v6), vxlan_v6().into()),
            Op::AddAddress(address(v6, "fd00:10:244:1::/128")),
            Op::SetNeighbour(neighbour(v6, "fd00:10:244:2::"), mac(PEER)),
            Op::SetFdb(fdb(v6, PEER), ip("fd50::2")),
            Op::SetRoute(key("fd00:10:244:2::/64"), via("fd00:10:244:2::", v6, true)),
            Op::SetRoute(key("10.42.3.0/24"), via("192.168.50.3", "eth0", false)),
        ];
        apply_all(&mut kernel, &ops).await;

        let link = run("ip -d link show dev flannel.1");
        assert!(
            link.contains(
                "vxlan id 1 local 192.168.50.1 dev eth0 srcport 0 0 dstport 8472 nolearning ttl auto ageing 300 \
                 udpcsum noudp6zerocsumtx noudp6zerocsumrx"
            ),
            "{link}"
        );
        let first = link.lines().next().unwrap();
        assert!(first.contains("<BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue"), "{link}");
        assert!(link.contains("addrgenmode eui64") && !link.contains("qlen"), "{link}");
        assert!(link.contains("alias flannel"), "{link}");
        assert_eq!(
            run(
                "cat /proc/sys/net/ipv6/conf/flannel.1/accept_ra /proc/sys/net/ipv6/conf/flannel-v6.1/accept_ra"
            ),
            "0\n0\n"
        );
        let address = run("ip -br -4 addr show dev flannel.1");
        assert!(address.trim_end().ends_with("10.42.1.0/32"), "{address}");
        let address = run("ip -6 addr show dev flannel-v6.1 scope global");
        assert!(address.contains("inet6 fd00:10:244:1::/128 scope global nodad"), "{address}");
        let shown = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            shown(run("ip route show 10.42.2.0/24")),
            "10.42.2.0/24 via 10.42.2.0 dev flannel.1 proto 241 onlink"
        );
        assert_eq!(
            shown(run("ip -6 route show fd00:10:244:2::/64")),
            "fd00:10:244:2::/64 via fd00:10:244:2:: dev flannel-v6.1 proto 241 metric 1024 onlink pref medium"
        );
        assert_eq!(
            shown(run("ip route show 10.42.3.0/24")),
            "10.42.3.0/24 via 192.168.50.3 dev eth0 proto 241"
        );
        assert_eq!(
            shown(run("ip neigh show dev flannel.1 nud permanent")),
            "10.42.2.0 lladdr aa:aa:aa:aa:aa:02 PERMANENT proto 241"
        );
        assert_eq!(
            shown(run("bridge fdb show dev flannel.1")),
            "aa:aa:aa:aa:aa:02 dst 192.168.50.2 self permanent"
        );
        assert_eq!(
            shown(run("bridge fdb show dev flannel-v6.1")),
            "aa:aa:aa:aa:aa:02 dst fd50::2 self permanent"
        );
    });
}

#[test]
#[ignore = "needs netns"]
fn an_empty_namespace_has_no_routes() {
    in_namespace(|| async {
        let mut kernel = NetlinkKernel::open().unwrap();
        let Observation { facts, dataplane, .. } = observe(&mut kernel).await;
        assert_eq!(facts.links.len(), 1);
        assert!(!facts.links[0].up);
        assert_eq!((facts.routes.len(), dataplane.routes.len()), (0, 0));
    });
}

#[test]
#[ignore = "needs netns"]
fn the_state_of_go_flannel_is_adopted() {
    in_namespace(|| async {
        set_up_host();
        run("ip link add flannel.1 address 1a:2b:3c:4d:5e:6f mtu 1450 type vxlan id 1 local 192.168.50.1 dev eth0 dstport 8472 nolearning
             ip link set flannel.1 txqueuelen 0 up
             ip addr add 10.42.1.0/32 dev flannel.1
             ip neigh replace 10.42.2.0 lladdr aa:aa:aa:aa:aa:02 dev flannel.1 nud permanent
             bridge fdb replace aa:aa:aa:aa:aa:02 dev flannel.1 dst 192.168.50.2 self permanent
             ip route replace 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink");
        let mut kernel = NetlinkKernel::open().unwrap();
        let index = |facts: &HostFacts| {
            facts.links.iter().find(|link| link.name == name("flannel.1")).map(|link| link.index)
        };
        let Observation { facts, dataplane: before, .. } = observe(&mut kernel).await;
        assert_eq!(before.links[&name("flannel.1")], Link { alias: None, ..vxlan() });
        assert_eq!(before.routes[&key("10.42.2.0/24")].protocol, 3);
        apply_all(&mut kernel, &tunnel()).await;
        let Observation { facts: later, dataplane: after, .. } = observe(&mut kernel).await;
        assert_eq!(index(&later), index(&facts), "the device is kept");
        assert_eq!(after.links[&name("flannel.1")], vxlan());
        assert_eq!(after.routes[&key("10.42.2.0/24")].protocol, PROTOCOL);
        assert_eq!((after.neighbours, after.fdb), (before.neighbours, before.fdb));
    });
}

#[test]
#[ignore = "needs netns"]
fn a_route_behind_another_one_replaces_it() {
    in_namespace(|| async {
        set_up_host();
        let mut kernel = NetlinkKernel::open().unwrap();
        apply_all(&mut kernel, &tunnel()).await;
        run("ip route del 10.42.2.0/24
             ip route add 10.42.2.0/24 via 192.168.50.9 dev eth0
             ip route append 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink proto 241");
        let found = observe(&mut kernel).await.dataplane.routes[&key("10.42.2.0/24")].clone();
        let foreign = Route { protocol: PROTOCOL_BOOT, ..via("192.168.50.9", "eth0", false) };
        let ours = via("10.42.2.0", "flannel.1", true);
        assert_eq!(found.target, RouteTarget::Several(vec![foreign, ours.clone()]));
        apply_all(&mut kernel, &tunnel()[4..]).await;
        let found = observe(&mut kernel).await.dataplane.routes[&key("10.42.2.0/24")].clone();
        assert_eq!(found, ours);
        assert_eq!(run("ip route show 10.42.2.0/24").lines().count(), 1);
    });
}

#[test]
#[ignore = "needs netns"]
fn routes_of_other_forms_are_observed_and_deleted() {
    in_namespace(|| async {
        set_up_host();
        run("ip route add 10.42.4.0/24 proto 241 nexthop via 192.168.50.4 nexthop via 192.168.50.5
             ip route add 10.42.5.0/24 proto 241 via 192.168.50.4 src 192.168.50.1
             ip -6 route add fd00:10:244:4::/64 proto 241 nexthop via fd50::4 nexthop via fd50::5
             ip route add 10.42.6.0/24 via 192.168.50.6 table 77");
        let mut kernel = NetlinkKernel::open().unwrap();
        let routes = observe(&mut kernel).await.dataplane.routes;
        let mut ops = Vec::new();
        for destination in ["10.42.4.0/24", "10.42.5.0/24", "fd00:10:244:4::/64"] {
            let route = routes[&key(destination)].clone();
            assert!(matches!(route.target, RouteTarget::Other(_)), "{route:?}");
            ops.push(Op::DeleteRoute(key(destination), route));
        }
        assert!(!routes.contains_key(&key("10.42.6.0/24")), "another table");
        apply_all(&mut kernel, &ops).await;
        let left = observe(&mut kernel).await.dataplane.routes;
        assert!(left.values().all(|route| route.protocol != PROTOCOL), "{left:?}");
    });
}

#[test]
#[ignore = "needs netns"]
fn an_existing_link_of_another_kind_is_an_error() {
    in_namespace(|| async {
        set_up_host();
        run("ip link add flannel.1 type bridge");
        let mut kernel = NetlinkKernel::open().unwrap();
        let error = kernel.apply(&tunnel()[..1]).await.remove(0).unwrap_err();
        assert!(matches!(&error, KernelError::OtherLink { difference: "kind", .. }), "{error:?}");
    });
}

/// An error in the middle of a long list belongs to its op, and all other ops are applied.
#[test]
#[ignore = "needs netns"]
fn answers_belong_to_their_ops_across_batches() {
    in_namespace(|| async {
        set_up_host();
        let mut kernel = NetlinkKernel::open().unwrap();
        apply_all(&mut kernel, &tunnel()[..1]).await;
        let ops: Vec<Op> = (0..1000u32)
            .map(|number| {
                let destination = Ipv4Addr::from(0x0a30_0000 + (number << 8));
                let route = if number % 100 == 63 {
                    via("172.16.0.1", "eth0", false)
                } else {
                    via(&destination.to_string(), "flannel.1", true)
                };
                Op::SetRoute(key(&format!("{destination}/24")), route)
            })
            .collect();
        let results = kernel.apply(&ops).await;
        for (number, result) in results.iter().enumerate() {
            assert_eq!(result.is_err(), number % 100 == 63, "{number}: {result:?}");
        }
        let routes = observe(&mut kernel).await.dataplane.routes;
        assert_eq!(routes.values().filter(|route| route.protocol == PROTOCOL).count(), 990);
    });
}

/// A link that is deleted and created again in the middle of a list is addressed by its new index.
#[test]
#[ignore = "needs netns"]
fn indices_follow_a_link_that_is_created_again() {
    in_namespace(|| async {
        set_up_host();
        let mut kernel = NetlinkKernel::open().unwrap();
        let mut ops = tunnel();
        ops.push(Op::DeleteLink(name("flannel.1")));
        ops.extend(tunnel());
        apply_all(&mut kernel, &ops).await;
        let dataplane = observe(&mut kernel).await.dataplane;
        assert_eq!(dataplane.routes[&key("10.42.2.0/24")], via("10.42.2.0", "flannel.1", true));
        assert_eq!((dataplane.neighbours.len(), dataplane.fdb.len()), (1, 1));
    });
}

#[test]
#[ignore = "needs netns"]
fn errors_include_the_extended_ack() {
    in_namespace(|| async {
        set_up_host();
        let mut kernel = NetlinkKernel::open().unwrap();
        let op = Op::SetRoute(key("10.42.7.0/24"), via("172.16.0.1", "eth0", false));
        let error = kernel.apply(&[op]).await.remove(0).unwrap_err();
        assert!(error.to_string().contains("10.42.7.0/24"), "{error}");
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(source, "ENETUNREACH: Network is unreachable (Nexthop has invalid gateway)");
    });
}

/// Applies and observes the objects of a large cluster, in one call each. `--nocapture` shows the times.
#[test]
#[ignore = "needs netns"]
fn five_thousand_peers_are_applied_and_observed() {
    const PEERS: u32 = 5000;
    in_namespace(|| async {
        set_up_host();
        let mut kernel = NetlinkKernel::open().unwrap();
        apply_all(&mut kernel, &tunnel()[..2]).await;
        let link = name("flannel.1");
        let mut ops = Vec::new();
        for number in 0..PEERS {
            let subnet = IpAddr::V4(Ipv4Addr::from(0x0a80_0000 + (number << 8)));
            let [_, _, high, low] = number.to_be_bytes();
            let peer = Mac([0x0a, 0, 0, 0, high, low]);
            let public = IpAddr::V4(Ipv4Addr::from(0xac10_0000 + number));
            let target = RouteTarget::via(subnet, &link.clone(), true);
            let to = RouteKey { destination: format!("{subnet}/24").parse().unwrap(), metric: 0 };
            ops.extend([
                Op::SetNeighbour(NeighbourKey { link: link.clone(), address: subnet }, peer),
                Op::SetFdb(FdbKey { link: link.clone(), mac: peer }, public),
                Op::SetRoute(to, Route { target, protocol: PROTOCOL }),
            ]);
        }
        let start = Instant::now();
        apply_all(&mut kernel, &ops).await;
        let applied = start.elapsed();
        let found = observe(&mut kernel).await.dataplane;
        println!("applied {} ops in {applied:?}, observed in {:?}", ops.len(), start.elapsed() - applied);
        for op in &ops {
            match op {
                Op::SetNeighbour(key, mac) => assert_eq!(found.neighbours[key].mac, Some(*mac)),
                Op::SetFdb(key, to) => assert_eq!(found.fdb[key].destinations, [*to]),
                Op::SetRoute(key, route) => assert_eq!(&found.routes[key], route),
                other => panic!("{other:?}"),
            }
        }
    });
}

/// The test for a kind creates no link.
#[test]
#[ignore = "needs netns"]
fn supported_kinds_of_link_are_detected() {
    in_namespace(|| async {
        let mut kernel = NetlinkKernel::open().unwrap();
        let before = observe(&mut kernel).await;
        for kind in ["bridge", "veth", "vxlan"] {
            assert!(kernel.supports_link_kind(kind).await.unwrap(), "{kind}");
        }
        assert!(!kernel.supports_link_kind("nonsense").await.unwrap());
        assert_eq!(observe(&mut kernel).await, before);
    });
}

/// The answer is the entry that decides, or the kernel's error.
#[test]
#[ignore = "needs netns"]
fn the_route_of_a_packet_is_found() {
    in_namespace(|| async {
        set_up_host();
        let mut kernel = NetlinkKernel::open().unwrap();
        apply_all(&mut kernel, &tunnel()).await;
        let question =
            |destination: &str| Question { destination: ip(destination), source: None, input: None };
        let found = kernel.route(&question("10.42.2.7")).await.unwrap().unwrap();
        assert_eq!((found.destination, found.protocol), ("10.42.2.0/24".parse().unwrap(), PROTOCOL));
        assert_eq!(found.hops[0].gateway, Some(ip("10.42.2.0")));
        let none = kernel.route(&question("203.0.113.9")).await.unwrap().unwrap_err();
        assert_eq!(none.errno, Errno::ENETUNREACH);
    });
}
