use super::*;
use flannel_core::facts::{AddressFacts, LinkFacts};
use flannel_core::link::IfIndex;
use std::collections::BTreeSet;

fn gateways() -> Gateways {
    Gateways::from([("cni0".parse().unwrap(), BTreeSet::from(["10.42.1.1/24".parse().unwrap()]))])
}

/// A bridge without its gateway.
fn flushed() -> HostFacts {
    let name = "cni0".parse().unwrap();
    let link = LinkFacts {
        index: IfIndex(7),
        name,
        mtu: 1450,
        up: true,
        mac: None,
        master: None,
        addresses: Vec::new(),
    };
    HostFacts { links: vec![link], routes: Vec::new() }
}

#[tokio::test(start_paused = true)]
async fn a_contested_gateway_is_restored_with_growing_pauses() {
    let (mut bridges, start) = (Bridges::default(), Instant::now());
    let (mut pauses, mut last) = (Vec::new(), start);
    // Flushed all the time, and each flush causes a round.
    while start + Duration::from_secs(200) > Instant::now() {
        if !bridges.repair(&gateways(), &flushed(), Instant::now()).is_empty() {
            pauses.push(last.elapsed().as_secs());
            last = Instant::now();
        }
        let is_contested = pauses.len() >= 5;
        assert_eq!(bridges.conflict(&gateways()).is_some(), is_contested);
        assert_eq!(bridges.next_check(Instant::now()).is_some(), is_contested);
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    assert_eq!(pauses, [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60]);
    // The other program ends.
    tokio::time::advance(QUIET).await;
    assert_eq!(bridges.repair(&gateways(), &HostFacts::default(), Instant::now()), []);
    assert_eq!(bridges.conflict(&gateways()), None);
    assert_eq!(bridges.repair(&gateways(), &flushed(), Instant::now()), [], "a new bridge");
    tokio::time::advance(GRACE).await;
    assert_eq!(bridges.repair(&gateways(), &flushed(), Instant::now()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_bridge_is_completed_by_the_plugin() {
    let (mut bridges, none) = (Bridges::default(), Gateways::new());
    assert_eq!(bridges.repair(&none, &flushed(), Instant::now()), []);
    // The first pod, whose ADD has not set the gateway yet.
    assert_eq!(bridges.repair(&gateways(), &flushed(), Instant::now()), []);
    let check = bridges.next_check(Instant::now()).unwrap();
    assert_eq!(check, Instant::now() + GRACE);
    tokio::time::advance(GRACE / 2).await;
    assert_eq!(bridges.repair(&gateways(), &flushed(), Instant::now()), []);
    let mut complete = flushed();
    let net = "10.42.1.1/24".parse().unwrap();
    let address = AddressFacts { net, deprecated: false, permanent: true, temporary: false };
    complete.links[0].addresses.push(address);
    assert_eq!(bridges.repair(&gateways(), &complete, Instant::now()), []);
    assert_eq!(bridges.next_check(Instant::now()), None);
    // Later it is repaired at once.
    tokio::time::advance(GRACE).await;
    assert_eq!(bridges.repair(&gateways(), &flushed(), Instant::now()).len(), 1);
}
