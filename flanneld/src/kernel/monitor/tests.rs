use flannel_core::dataplane::{LinkChange, Op};
use flannel_core::link::IfIndex;
use std::time::Duration;
use tokio::time::timeout;

use super::super::{Effector, NetlinkKernel};
use super::*;
use crate::testing::contract::{in_namespace, key, name, run, set_up_host, tunnel};

/// Longer than any notification takes, even on a busy host.
const LIMIT: Duration = Duration::from_secs(20);

fn link(index: u32) -> Hint {
    Hint::Link { index: IfIndex(index), name: None, now: None }
}

#[tokio::test]
async fn an_inbox_keeps_hints_until_they_are_taken() {
    let inbox = Inbox::new();
    assert!(inbox.take().is_empty());
    inbox.push([link(1), link(2)]);
    inbox.clone().push([link(1)]);
    timeout(LIMIT, inbox.filled()).await.unwrap();
    assert!(!inbox.take().is_empty());
    assert!(inbox.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_inbox_wakes_only_when_filled() {
    let inbox = Inbox::new();
    inbox.push([link(1)]);
    let _ = inbox.take();
    // Taking hints does not wake the waiter.
    timeout(Duration::from_secs(1), inbox.filled()).await.unwrap_err();
    let (filled, ()) = tokio::join!(timeout(LIMIT, inbox.filled()), async {
        tokio::task::yield_now().await;
        inbox.push([link(2)]);
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
        let mut monitor = Monitor::open().unwrap();
        let mut kernel = NetlinkKernel::open().unwrap();
        for result in kernel.apply(&tunnel()).await {
            result.unwrap();
        }
        let link = name("flannel.1");
        wait_for(&mut monitor, "link", |hint| matches!(hint, Hint::Link { name: Some(name), now: Some(now), .. } if *name == link && now.up)).await;
        wait_for(&mut monitor, "address", |hint| matches!(hint, Hint::Address { gone: false, address, .. } if address.net.prefix_len() == 32)).await;
        wait_for(&mut monitor, "neighbour", |hint| {
            matches!(hint, Hint::Neighbour { permanent: true, gone: false, .. })
        })
        .await;
        wait_for(&mut monitor, "fdb", |hint| {
            matches!(hint, Hint::Fdb { permanent: true, gone: false, destination: Some(_), .. })
        })
        .await;
        wait_for(&mut monitor, "route", |hint| matches!(hint, Hint::Route { key: found, gone: false, .. } if *found == key("10.42.2.0/24"))).await;
        let down = LinkChange { up: Some(false), ..LinkChange::default() };
        kernel.apply(&[Op::SetLink(link.clone(), down)]).await.remove(0).unwrap();
        wait_for(&mut monitor, "downed link", |hint| matches!(hint, Hint::Link { name: Some(name), now: Some(now), .. } if *name == link && !now.up)).await;
        kernel.apply(&[Op::DeleteLink(link.clone())]).await.remove(0).unwrap();
        wait_for(
            &mut monitor,
            "deleted link",
            |hint| matches!(hint, Hint::Link { name: Some(name), now: None, .. } if *name == link),
        )
        .await;
    });
}

/// More notifications than the receive buffer can hold become an overrun, and the monitor continues.
#[test]
#[ignore = "needs netns"]
fn a_flood_is_an_overrun() {
    in_namespace(|| async {
        set_up_host();
        let mut monitor = Monitor { connection: Connection::open(&GROUPS, 4096).unwrap() };
        for number in 0..50 {
            run(&format!("ip route replace 10.50.{number}.0/24 via 192.168.50.2"));
        }
        wait_for(&mut monitor, "the loss", |hint| *hint == Hint::Overrun).await;
        // The kernel drops notifications while the socket is full.
        while timeout(Duration::ZERO, monitor.next()).await.is_ok() {}
        run("ip route replace 10.60.0.0/24 via 192.168.50.2");
        wait_for(
            &mut monitor,
            "what came later",
            |hint| matches!(hint, Hint::Route { key: found, .. } if *found == key("10.60.0.0/24")),
        )
        .await;
    });
}

#[test]
#[ignore = "needs netns"]
fn the_monitor_fills_the_inbox() {
    in_namespace(|| async {
        set_up_host();
        let inbox = Inbox::new();
        let run_monitor = Monitor::open().unwrap().run(inbox.clone());
        run("ip link set peer0 down");
        tokio::select! {
            ended = run_monitor => panic!("{ended:?}"),
            filled = timeout(LIMIT, inbox.filled()) => filled.unwrap(),
        }
        assert!(!inbox.take().is_empty());
    });
}
