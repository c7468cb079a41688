//! Routes to many peers refer to nexthop objects.

use super::*;
use flannel_core::dataplane::{Nexthop, NexthopId, PROTOCOL_BOOT};

/// How many routes refer to an object and how many contain their next hop.
fn forms(plane: &Dataplane) -> (usize, usize) {
    let ours = plane.routes.values().filter(|route| matches!(route.target, RouteTarget::Via { .. }));
    let (objects, plain): (Vec<_>, Vec<_>) = ours.partition(|route| route.target.object().is_some());
    assert_eq!(
        objects.len(),
        plane.nexthops.values().filter(|object| object.protocol != PROTOCOL_BOOT).count()
    );
    (objects.len(), plain.len())
}

async fn lab(peers: u8) -> Lab {
    let kernel = FakeKernel::new(contract::host());
    let mut lab = Lab::start(&kernel, CONFIG, &[]);
    let records: Vec<Record> = [own()].into_iter().chain((2..2 + peers).map(peer)).collect();
    lab.list(&records).await;
    lab.hold("10.42.1.0-24");
    lab.until("all peers are reachable", |plane| routes(plane).len() == usize::from(peers)).await;
    lab.quiet().await;
    lab
}

/// The threshold of these tests is 8, and objects are kept down to 6.
#[tokio::test(start_paused = true)]
async fn the_form_of_routes_follows_the_number_of_peers() {
    let mut lab = lab(7).await;
    assert_eq!(forms(&lab.kernel.dataplane()), (0, 7));
    lab.kernel.take_log();
    lab.change(vec![Change::Put(peer(9))]).await;
    lab.until("all routes refer to objects", |plane| forms(plane) == (8, 0)).await;
    let log = lab.kernel.take_log();
    assert!(!log.iter().any(|op| op.starts_with("route del")), "no route may be missing: {log:#?}");
    // A change of one lease costs four operations.
    lab.change(vec![Change::Put(peer(10))]).await;
    lab.until("the new peer has an object, too", |plane| forms(plane) == (9, 0)).await;
    assert_eq!(lab.kernel.take_log().len(), 4);
    lab.change((8..=10).map(|number| delete(&format!("10.42.{number}.0-24"))).collect()).await;
    lab.until_grace_ends().await;
    assert_eq!(forms(&lab.kernel.dataplane()), (6, 0));
    lab.kernel.take_log();
    lab.change(vec![delete("10.42.7.0-24")]).await;
    lab.until_grace_ends().await;
    lab.until("routes contain their next hops again", |plane| forms(plane) == (0, 5)).await;
    let log = lab.kernel.take_log();
    let deleted: Vec<_> = log.iter().filter(|op| op.starts_with("route del")).collect();
    assert_eq!(deleted.len(), 1, "only the route of the peer that left: {log:#?}");
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn flushed_objects_are_restored() {
    let lab = lab(8).await;
    let right = lab.kernel.dataplane();
    lab.kernel.meddle(|plane| {
        plane.nexthops.clear();
        plane.routes.retain(|_, route| route.target.object().is_none());
    });
    lab.until("all is as before", |plane| *plane == right).await;
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_object_of_another_program_is_kept() {
    let mut lab = lab(8).await;
    let id = NexthopId::of("10.42.20.0/24".parse().unwrap()).unwrap();
    let foreign = Nexthop { target: RouteTarget::Blackhole, protocol: PROTOCOL_BOOT };
    // It appears in the same moment as the peer: the object is found when ours is added.
    lab.kernel.meddle(|plane| drop(plane.nexthops.insert(id, foreign.clone())));
    lab.change(vec![Change::Put(peer(20))]).await;
    lab.until("the new peer has a plain route", |plane| forms(plane) == (8, 1)).await;
    lab.quiet().await;
    assert_eq!(lab.kernel.dataplane().nexthops[&id], foreign);
    assert!(lab.report.borrow().converged);
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_kernel_without_objects_has_plain_routes() {
    let kernel = FakeKernel::new(contract::host());
    kernel.lack_nexthops();
    let mut lab = Lab::start(&kernel, CONFIG, &[]);
    let records: Vec<Record> = [own()].into_iter().chain((2..12).map(peer)).collect();
    lab.list(&records).await;
    lab.hold("10.42.1.0-24");
    lab.until("all peers are reachable", |plane| forms(plane) == (0, 10)).await;
    lab.change(vec![Change::Put(peer(13))]).await;
    lab.until("the new peer is reachable", |plane| forms(plane) == (0, 11)).await;
    lab.end().await;
}
