//! The faults; what it does without them is tested by the contract.

use std::time::Duration;

use super::*;
use crate::testing::contract::{host, name, tunnel};

#[tokio::test]
async fn ops_fail_on_order() {
    let mut kernel = FakeKernel::new(host());
    kernel.fail_op(1, Errno::ENOBUFS);
    let results = kernel.apply(&tunnel()).await;
    let failed: Vec<bool> = results.iter().map(Result::is_err).collect();
    assert_eq!(failed, [false, true, false, false, false]);
    assert_eq!(kernel.take_log()[1], "addr add 10.42.1.0/32 dev flannel.1");
    assert!(kernel.take_log().is_empty());
    assert!(kernel.apply(&tunnel()).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn observations_fail_on_order() {
    let mut kernel = FakeKernel::new(host());
    kernel.fail_observations(1);
    kernel.observe(&BTreeSet::new()).await.unwrap_err();
    kernel.observe(&BTreeSet::new()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_hangs_on_order() {
    let mut kernel = FakeKernel::new(host());
    kernel.hang(true);
    tokio::time::timeout(Duration::from_secs(9), kernel.observe(&BTreeSet::new())).await.unwrap_err();
    kernel.hang(false);
    kernel.observe(&BTreeSet::new()).await.unwrap();
}

#[tokio::test]
async fn meddling_is_notified_and_a_number_never_comes_again() {
    let mut kernel = FakeKernel::new(host());
    kernel.apply(&tunnel()).await;
    assert!(kernel.inbox().take().is_empty());
    let index =
        |facts: HostFacts| facts.links.iter().find(|link| link.name == name("flannel.1")).unwrap().index;
    let before = index(kernel.observe(&BTreeSet::new()).await.unwrap().facts);
    kernel.meddle(|dataplane| {
        model::apply(dataplane, &Op::DeleteLink(name("flannel.1"))).unwrap();
    });
    assert!(!kernel.inbox().take().is_empty());
    assert!(!kernel.dataplane().links.contains_key(&name("flannel.1")));
    kernel.apply(&tunnel()).await;
    assert_ne!(index(kernel.observe(&BTreeSet::new()).await.unwrap().facts), before);
}
