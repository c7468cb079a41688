use flannel_core::dataplane::{LinkChange, Op};
use flannel_core::facts::AddressFacts;
use flannel_core::hint::Object;
use flannel_core::link::IfIndex;
use flannel_core::message::Scope;
use flannel_core::message::address::AddressRecord;
use std::time::Duration;
use tokio::time::timeout;

use super::super::{Effector, NetlinkKernel};
use super::*;
use crate::testing::contract::{in_namespace, key, name, run, set_up_host, tunnel};

/// Longer than any notification takes, even on a busy host.
const LIMIT: Duration = Duration::from_secs(20);

fn address(last: u8) -> Hint {
    let net = format!("192.0.2.{last}/24").parse().unwrap();
    let facts = AddressFacts { net, deprecated: false, permanent: true, temporary: false };
    let (index, scope) = (IfIndex(1), Scope::GLOBAL);
    Hint::Set(Object::Address(AddressRecord { index, scope, unusable: false, duplicate: false, facts }))
}

#[tokio::test]
async fn an_inbox_keeps_hints_until_they_are_taken() {
    let inbox = Inbox::default();
    assert!(inbox.take().is_empty());
    inbox.push([address(1), address(2)]);
    inbox.clone().push([address(1)]);
    timeout(LIMIT, inbox.filled()).await.unwrap();
    assert!(!inbox.take().is_empty());
    assert!(inbox.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_inbox_wakes_only_when_filled() {
    let inbox = Inbox::default();
    inbox.push([address(1)]);
    let _ = inbox.take();
    // Taking hints does not wake the waiter.
    timeout(Duration::from_secs(1), inbox.filled()).await.unwrap_err();
    let (filled, ()) = tokio::join!(timeout(LIMIT, inbox.filled()), async {
        tokio::task::yield_now().await;
        inbox.push([address(2)]);
    });
    filled.unwrap();
}

/// Reads hints until one matches.
async fn wait_for(monitor: &mut Monitor, what: &str, matches: impl Fn(&Hint) -> bool) {
    let found = async { while !monitor.next().await.unwrap().iter().any(&matches) {} };
    timeout(LIMIT, found).await.unwrap_or_else(|_| panic!("no hint about {what}"));
}

#[test]
#[ignore = "needs netns"]
fn every_kind_of_object_gives_a_hint() {
    in_namespace(|| async {
        set_up_host();
        let mut monitor = Monitor::open(OwnPort::default()).unwrap();
        let mut kernel = NetlinkKernel::open().unwrap();
        for result in kernel.apply(&tunnel()).await {
            result.unwrap();
        }
        let link = name("flannel.1");
        let is_set = |hint: &Hint, up| matches!(hint, Hint::Set(Object::Link(record)) if record.name == link && record.link.up == up);
        let is_route = |hint: &Hint| matches!(hint, Hint::Set(Object::Route(route)) if route.destination == key("10.42.2.0/24").destination);
        wait_for(&mut monitor, "link", |hint| is_set(hint, true)).await;
        wait_for(&mut monitor, "address", |hint| {
            matches!(hint, Hint::Set(Object::Address(address)) if address.facts.net.prefix_len() == 32)
        })
        .await;
        wait_for(
            &mut monitor,
            "neighbour",
            |hint| matches!(hint, Hint::Set(Object::Neighbour(neighbour)) if neighbour.neighbour.permanent),
        )
        .await;
        wait_for(
            &mut monitor,
            "fdb",
            |hint| matches!(hint, Hint::Set(Object::Fdb(fdb)) if fdb.permanent && fdb.destination.is_some()),
        )
        .await;
        wait_for(&mut monitor, "route", is_route).await;
        let down = LinkChange { up: Some(false), ..LinkChange::default() };
        kernel.apply(&[Op::SetLink(link.clone(), down.into())]).await.remove(0).unwrap();
        wait_for(&mut monitor, "downed link", |hint| is_set(hint, false)).await;
        kernel.apply(&[Op::DeleteLink(link.clone())]).await.remove(0).unwrap();
        wait_for(
            &mut monitor,
            "deleted link",
            |hint| matches!(hint, Hint::Removed(Object::Link(record)) if record.name == link),
        )
        .await;
    });
}

/// The notifications about the own changes for a peer are before that about the change of another program.
#[test]
#[ignore = "needs netns"]
fn own_changes_for_peers_give_no_hints() {
    in_namespace(|| async {
        set_up_host();
        let mut kernel = NetlinkKernel::open().unwrap();
        let mut monitor = Monitor::open(kernel.port()).unwrap();
        for result in kernel.apply(&tunnel()).await {
            result.unwrap();
        }
        run("ip route replace 10.60.0.0/24 via 192.168.50.2");
        let [own, foreign] = ["10.42.2.0/24", "10.60.0.0/24"].map(|destination| key(destination).destination);
        wait_for(&mut monitor, "the route of another program", |hint| match hint {
            Hint::Set(Object::Route(route)) => {
                assert_ne!(route.destination, own);
                route.destination == foreign
            }
            Hint::Set(Object::Neighbour(neighbour)) => {
                assert!(!neighbour.neighbour.permanent, "{neighbour:?}");
                false
            }
            _ => false,
        })
        .await;
    });
}

/// More notifications than the receive buffer can hold become an overrun, and the monitor continues.
#[test]
#[ignore = "needs netns"]
fn a_flood_is_an_overrun() {
    in_namespace(|| async {
        set_up_host();
        let mut monitor =
            Monitor { connection: Connection::open(&GROUPS, 4096).unwrap(), own: OwnPort::default() };
        for number in 0..50 {
            run(&format!("ip route replace 10.50.{number}.0/24 via 192.168.50.2"));
        }
        wait_for(&mut monitor, "the loss", |hint| *hint == Hint::Overrun).await;
        // The kernel drops notifications while the socket is full.
        while timeout(Duration::ZERO, monitor.next()).await.is_ok() {}
        run("ip route replace 10.60.0.0/24 via 192.168.50.2");
        wait_for(&mut monitor, "what came later", |hint| {
            matches!(hint, Hint::Set(Object::Route(route)) if route.destination == key("10.60.0.0/24").destination)
        })
        .await;
    });
}

#[test]
#[ignore = "needs netns"]
fn the_monitor_fills_the_inbox() {
    in_namespace(|| async {
        set_up_host();
        let inbox = Inbox::default();
        let run_monitor = Monitor::open(OwnPort::default()).unwrap().run(inbox.clone());
        run("ip link set peer0 down");
        tokio::select! {
            ended = run_monitor => panic!("{ended:?}"),
            filled = timeout(LIMIT, inbox.filled()) => filled.unwrap(),
        }
        assert!(!inbox.take().is_empty());
    });
}
