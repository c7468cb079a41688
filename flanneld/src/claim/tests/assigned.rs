//! A store that assigns the subnet of the node.

use flannel_core::lease::LeaseAttrs;
use tokio::time::sleep;

use super::scene::{MINUTE, Node, Start, attrs, record, wanted};
use super::{SECOND, subnets, writes};
use crate::claim::ClaimState;
use crate::testing::store::MemoryStore;

const OWN: &str = "10.5.1.0-24";

fn assigning() -> MemoryStore {
    let store = MemoryStore::default();
    store.assign(None);
    store
}

fn is_lost(state: &ClaimState) -> bool {
    state.own.is_none() && state.lost.is_some()
}

#[tokio::test(start_paused = true)]
async fn a_node_waits_for_its_subnet_publishes_and_follows_it() {
    let store = assigning();
    let mut node = Node::start(store.clone(), Start::new(attrs(1)));
    let waits = |state: &ClaimState| {
        state.problem.as_deref() == Some("waiting for a subnet: memory has no IPv4 subnet. Assign a subnet.")
    };
    node.reaches("it waits", MINUTE, waits).await;
    sleep(10 * MINUTE).await;
    assert_eq!((node.own(), writes(&store)), (None, 0));

    store.assign(Some(OWN));
    assert_eq!(node.holds().await, subnets(OWN));
    sleep(SECOND).await;
    assert_eq!(record(&store, subnets(OWN)), Some(attrs(1)));
    let published = writes(&store);
    sleep(10 * MINUTE).await;
    assert_eq!(writes(&store), published, "it is published once");

    node.attrs.send_replace(Some(wanted(attrs(2))));
    sleep(SECOND).await;
    assert_eq!(record(&store, subnets(OWN)), Some(attrs(2)));

    store.assign(None);
    let state = node.reaches("its subnet is lost", MINUTE, is_lost).await;
    assert_eq!(state.lost, Some(subnets(OWN)));
    store.assign(Some("10.5.2.0-24"));
    assert_eq!(node.holds().await, subnets("10.5.2.0-24"));
    sleep(SECOND).await;
    assert_eq!(record(&store, subnets("10.5.2.0-24")), Some(attrs(2)));
    assert_eq!(node.state.borrow().lost, None);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_conflicting_daemon_is_named_and_not_overwritten() {
    let store = assigning();
    store.assign(Some(OWN));
    let mut node = Node::start(store.clone(), Start::new(attrs(1)));
    node.holds().await;
    sleep(SECOND).await;
    // An edit by hand is undone; what follows soon is another daemon.
    store.put(OWN, &attrs(9).to_json(), None);
    sleep(SECOND).await;
    assert_eq!(record(&store, subnets(OWN)), Some(attrs(1)));
    store.put(OWN, &attrs(9).to_json(), None);
    let is_named = |state: &ClaimState| {
        state.problem.as_ref().is_some_and(|problem| problem.contains("conflicting daemon"))
    };
    node.reaches("the conflict is named", MINUTE, is_named).await;
    let before = writes(&store);
    sleep(60 * MINUTE).await;
    assert_eq!((writes(&store), record(&store, subnets(OWN))), (before, Some(attrs(9))));
    assert_eq!(node.own(), Some(subnets(OWN)), "the subnet is still its own");
    store.put(OWN, &attrs(1).to_json(), None);
    node.holds().await;
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_starts_with_its_remembered_subnet_while_the_store_is_down() {
    let store = assigning();
    store.assign(Some(OWN));
    store.set_availability(super::Availability::Down);
    let remembered: Option<(_, LeaseAttrs)> = Some((subnets(OWN), attrs(1)));
    let mut node = Node::start(store.clone(), Start { remembered, ..Start::new(attrs(1)) });
    let serves = |state: &ClaimState| state.own.as_ref().is_some_and(|own| !own.confirmed);
    node.reaches("it goes on with the last lease", MINUTE, serves).await;
    store.set_availability(super::Availability::Up);
    assert_eq!(node.holds().await, subnets(OWN));
    node.stop().await;
}
