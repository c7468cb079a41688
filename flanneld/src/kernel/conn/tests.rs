//! Requests of flannel-core for which plans have no op, applied to the real kernel.

use flannel_core::exchange::Changes;
use flannel_core::link::IfIndex;
use flannel_core::message::link::{self, LinkRecord, LinkSettings, NewBridge, NewVeth};
use flannel_core::message::{Request, Scope, address, route};
use std::fs::File;
use std::os::fd::AsRawFd;

use super::*;
use crate::testing::contract::{in_namespace, ip, mac, name, run};

/// Creates a network namespace, which exists while its file is open.
fn other_namespace() -> File {
    let make = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    };
    std::thread::spawn(make).join().unwrap()
}

/// Runs commands in a namespace.
fn run_in(namespace: &File, commands: &str) -> String {
    std::thread::scope(|scope| {
        let run = || {
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            run(commands)
        };
        scope.spawn(run).join().unwrap()
    })
}

async fn send(connection: &mut Connection, request: &Request) {
    let results = connection.run(&mut Changes::new(std::slice::from_ref(request))).await.unwrap();
    assert!(matches!(results[..], [Ok(_)]), "{request:?}: {results:?}");
}

async fn read(connection: &mut Connection, link: &str) -> LinkRecord {
    connection.fetch(&link::get(&name(link))).await.unwrap().unwrap().remove(0)
}

#[test]
#[ignore = "needs netns"]
fn a_pod_is_attached_to_a_bridge() {
    in_namespace(|| async {
        let pod = other_namespace();
        let mut connection = Connection::open(&[], 1 << 20).unwrap();
        let up = LinkSettings { up: Some(true), ..LinkSettings::default() };
        let lo = read(&mut connection, "lo").await;
        send(&mut connection, &link::set(lo.index, &up)).await;
        assert!(read(&mut connection, "lo").await.link.up);

        let bridge = NewBridge {
            name: name("cni0"),
            mtu: Some(1450),
            mac: Some(mac("0a:58:0a:2a:01:01")),
            vlan_filtering: false,
        };
        send(&mut connection, &link::create_bridge(&bridge)).await;
        let cni0 = read(&mut connection, "cni0").await.index;
        send(&mut connection, &link::set(cni0, &up)).await;
        let veth = NewVeth {
            name: name("veth1"),
            mac: None,
            master: Some(cni0),
            up: true,
            mtu: Some(1450),
            queue_length: Some(0),
            peer: name("eth0"),
            peer_mac: Some(mac("0a:58:0a:2a:01:02")),
            peer_netns: Some(pod.as_raw_fd()),
        };
        send(&mut connection, &link::create_veth(&veth)).await;
        let veth1 = read(&mut connection, "veth1").await;
        assert_eq!((veth1.master, veth1.link.up, veth1.link.mtu), (Some(cni0), true, 1450));
        let hairpin = LinkSettings { hairpin: Some(true), ..LinkSettings::default() };
        send(&mut connection, &link::set(veth1.index, &hairpin)).await;
        assert!(read(&mut connection, "veth1").await.hairpin);
        let free = LinkSettings { master: Some(None), ..LinkSettings::default() };
        send(&mut connection, &link::set(veth1.index, &free)).await;
        assert_eq!(read(&mut connection, "veth1").await.master, None);
        assert!(run("ip -br link show cni0").contains("0a:58:0a:2a:01:01"));
        let eth0 = run_in(&pod, "ip -br link show eth0");
        assert!(eth0.contains("0a:58:0a:2a:01:02"), "{eth0}");

        let gateway = address::NewAddress {
            broadcast: Some("10.42.1.255".parse().unwrap()),
            ..address::NewAddress::new(cni0, "10.42.1.1/24".parse().unwrap())
        };
        send(&mut connection, &address::add(&gateway)).await;
        let local = address::NewAddress {
            scope: Scope::HOST,
            ..address::NewAddress::new(lo.index, "10.9.9.9/32".parse().unwrap())
        };
        send(&mut connection, &address::add(&local)).await;
        let shown = run("ip addr show");
        assert!(shown.contains("inet 10.42.1.1/24 brd 10.42.1.255 scope global cni0"), "{shown}");
        assert!(shown.contains("inet 10.9.9.9/32 scope host lo"), "{shown}");

        routes(&mut connection, cni0).await;

        send(&mut connection, &link::delete(veth1.index)).await;
        assert_eq!(run_in(&pod, "ip -br link show").lines().count(), 1, "the other end is deleted, too");
    });
}

async fn routes(connection: &mut Connection, cni0: IfIndex) {
    let general = route::NewRoute {
        gateway: Some(ip("10.42.1.2")),
        index: Some(cni0),
        source: Some(ip("10.42.1.1")),
        metric: 50,
        mtu: Some(1400),
        advmss: Some(1300),
        table: 1000,
        ..route::NewRoute::new("10.77.0.0/16".parse().unwrap(), 4)
    };
    send(connection, &route::add(&general)).await;
    // The bridge no longer has a port with a carrier.
    let words = |text: String| {
        text.split_whitespace().filter(|word| *word != "linkdown").collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        words(run("ip route show table 1000")),
        "10.77.0.0/16 via 10.42.1.2 dev cni0 proto static src 10.42.1.1 metric 50 mtu 1400 advmss 1300"
    );
    send(connection, &route::delete(&general)).await;
    assert_eq!(run("ip route show table 1000"), "");
    // A default route of the link, without a gateway.
    let on_link = route::NewRoute {
        index: Some(cni0),
        scope: Scope::LINK,
        ..route::NewRoute::new("0.0.0.0/0".parse().unwrap(), 3)
    };
    send(connection, &route::replace(&on_link)).await;
    assert_eq!(words(run("ip route show default")), "default dev cni0 scope link");
}

#[test]
#[ignore = "needs netns"]
fn a_link_is_moved_and_renamed() {
    in_namespace(|| async {
        let pod = other_namespace();
        let mut connection = Connection::open(&[], 1 << 20).unwrap();
        run("ip link add here type veth peer name there");
        let there = read(&mut connection, "there").await;
        assert_eq!(there.peer, Some(read(&mut connection, "here").await.index));
        let settings = LinkSettings {
            name: Some(name("eth7")),
            mac: Some(mac("0a:58:0a:2a:01:07")),
            mtu: Some(1300),
            netns: Some(pod.as_raw_fd()),
            ..LinkSettings::default()
        };
        send(&mut connection, &link::set(there.index, &settings)).await;
        let shown = run_in(&pod, "ip link show eth7");
        assert!(shown.contains("mtu 1300") && shown.contains("0a:58:0a:2a:01:07"), "{shown}");
    });
}
