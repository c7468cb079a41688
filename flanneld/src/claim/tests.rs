mod assigned;
mod chaos;
mod scene;

use flannel_core::lease::{LeaseAttrs, Subnets};
use std::time::Duration;
use tokio::time::{Instant, sleep};

use crate::store::Operation;
use crate::testing::store::{Availability, Fault, MemoryStore};
use scene::{DAY, HOUR, MINUTE, Node, Start, attrs, check_history, dual, record, v6, wanted};

const CONFIG: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
const SECOND: Duration = Duration::from_secs(1);

fn configured() -> MemoryStore {
    let store = MemoryStore::default();
    store.set_config(Some(CONFIG));
    store
}

fn subnets(key: &str) -> Subnets {
    Subnets::parse_key(key).unwrap()
}

fn grant_of(store: &MemoryStore, key: Subnets) -> Option<flannel_core::store::Grant> {
    let content = store.content();
    content.records.iter().find(|record| record.key == key.to_string()).expect("a record").grant
}

/// How many records were written or deleted.
fn writes(store: &MemoryStore) -> usize {
    let changes = |ledger: &crate::testing::store::Ledger| {
        ledger.iter().filter(|(_, change)| !matches!(change, flannel_core::store::Change::Config(_))).count()
    };
    store.ledgers().iter().map(changes).sum()
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_for_days_without_a_write() {
    let store = configured();
    let mut node = Node::start(store.line(Duration::from_millis(80), 1), Start::new(attrs(1)));
    let own = node.holds().await;
    for _ in 0..10 {
        sleep(DAY / 2).await;
        assert_eq!(node.own(), Some(own));
        assert_eq!(record(&store, own), Some(attrs(1)));
        let expires = node.state.borrow().own.as_ref().unwrap().expires.unwrap();
        assert!(expires >= Instant::now() + HOUR - SECOND, "{:?}", expires - Instant::now());
    }
    assert_eq!(writes(&store), 1);
    // Every 23 hours.
    assert_eq!(node.store.calls_of(Operation::Renew), 5);
    // The claim lists once, the follower at first and after each silent hour.
    assert!(node.store.calls_of(Operation::List) <= 2 + 5 * 24, "{}", node.store.calls_of(Operation::List));
    node.stop().await;
    // What is not renewed ends.
    sleep(DAY).await;
    assert_eq!(record(&store, own), None);
}

#[tokio::test(start_paused = true)]
async fn a_short_lease_is_kept_alive_through_short_failures() {
    let store = configured();
    let start = Start { lifetime: 10 * SECOND, ..Start::new(attrs(1)) };
    let mut node = Node::start(store.line(Duration::from_millis(80), 1), start);
    let own = node.holds().await;
    for minute in 0..60 {
        if minute % 3 == 0 {
            node.store.set_line(Availability::Down);
            sleep(4 * SECOND).await;
            node.store.set_line(Availability::Up);
        }
        sleep(MINUTE).await;
    }
    assert_eq!(node.holds().await, own);
    assert_eq!(writes(&store), 1, "it never ended");
    let renewals = node.store.calls_of(Operation::Renew);
    assert!((360..2000).contains(&renewals), "{renewals}");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_without_memory_waits_for_the_store() {
    for mood in [Availability::Down, Availability::Hanging] {
        let store = configured();
        store.set_availability(mood);
        let mut node = Node::start(store.line(Duration::ZERO, 1), Start::new(attrs(1)));
        let state = node.reaches("a reason", MINUTE, |state| state.problem.is_some()).await;
        assert!(state.problem.unwrap().starts_with("the store does not serve us: "));
        sleep(6 * HOUR).await;
        assert_eq!(node.own(), None);
        // It keeps trying, but does not hammer: two tasks, a call every few seconds each.
        let calls = store.calls();
        assert!((2000..20_000).contains(&calls), "{calls}");
        store.set_availability(Availability::Up);
        node.holds().await;
        node.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_with_memory_goes_on_while_the_store_is_away() {
    for mood in [Availability::Down, Availability::Hanging] {
        let store = configured();
        store.set_availability(mood);
        let lease = subnets("10.5.33.0-24");
        let start = Start { remembered: Some((lease, attrs(1))), ..Start::new(attrs(1)) };
        let mut node = Node::start(store.line(Duration::ZERO, 1), start);
        let state = node.reaches("the remembered lease", MINUTE, |state| state.own.is_some()).await;
        let own = state.own.unwrap();
        assert_eq!((own.subnets, own.confirmed), (lease, false));
        sleep(6 * HOUR).await;
        assert_eq!(node.own(), Some(lease));
        store.set_availability(Availability::Up);
        assert_eq!(node.holds().await, lease);
        assert_eq!(record(&store, lease), Some(attrs(1)));
        node.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_remembered_lease_that_another_node_has_is_not_used() {
    let store = configured();
    store.put("10.5.33.0-24", &attrs(2).to_json(), Some(DAY));
    let lease = subnets("10.5.33.0-24");
    let start = Start { remembered: Some((lease, attrs(1))), preferred: Some(lease), ..Start::new(attrs(1)) };
    let mut node = Node::start(store.line(Duration::from_millis(10), 1), start);
    let state = node.reaches("the loss", MINUTE, |state| state.lost.is_some()).await;
    assert_eq!((state.lost, state.own), (Some(lease), None));
    assert_ne!(node.holds().await, lease);
    assert_eq!(node.state.borrow().lost, None);
    check_history(&store);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ended_while_the_store_was_away_is_taken_again_if_it_is_free() {
    for mood in [Availability::Down, Availability::Hanging] {
        let store = configured();
        let mut node = Node::start(store.line(Duration::from_millis(20), 1), Start::new(attrs(1)));
        let own = node.holds().await;
        node.store.set_line(mood);
        sleep(3 * DAY).await;
        assert_eq!(record(&store, own), None, "it has ended");
        assert_eq!(node.own(), Some(own), "traffic goes on");
        node.store.set_line(Availability::Up);
        let healed = Instant::now();
        assert_eq!(node.holds().await, own);
        assert!(healed.elapsed() < 2 * MINUTE, "{:?}", healed.elapsed());
        assert_eq!(record(&store, own), Some(attrs(1)));
        check_history(&store);
        node.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_taken_meanwhile_is_left_to_its_new_owner() {
    let store = configured();
    let mut node = Node::start(store.line(Duration::from_millis(20), 1), Start::new(attrs(1)));
    let own = node.holds().await;
    node.store.set_line(Availability::Down);
    sleep(2 * DAY).await;
    let start = Start { preferred: Some(own), ..Start::new(attrs(2)) };
    let mut other = Node::start(store.line(Duration::from_millis(20), 2), start);
    assert_eq!(other.holds().await, own);
    node.store.set_line(Availability::Up);
    let state = node.reaches("the loss", 2 * MINUTE, |state| state.lost == Some(own)).await;
    assert!(state.problem.unwrap().contains("belongs to another node"), "named");
    assert_ne!(node.holds().await, own);
    assert_eq!(other.holds().await, own);
    check_history(&store);
    node.stop().await;
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_adopts_the_lease_without_a_write() {
    let store = configured();
    let mut node = Node::start(store.line(Duration::from_millis(20), 1), Start::new(attrs(1)));
    let own = node.holds().await;
    node.stop().await;
    for remembered in [None, Some((own, attrs(1)))] {
        sleep(20 * HOUR).await;
        let start = Start { remembered, ..Start::new(attrs(1)) };
        let mut node = Node::start(store.line(Duration::from_millis(20), 1), start);
        assert_eq!(node.holds().await, own);
        node.reaches("the first renewal", MINUTE, |state| {
            state.own.as_ref().is_some_and(|own| own.expires.is_some())
        })
        .await;
        assert_eq!(writes(&store), 1);
        assert_eq!((node.store.calls_of(Operation::Create), node.store.calls_of(Operation::Renew)), (0, 1));
        node.stop().await;
    }
}

async fn all_start_at_once(config: &str, attrs: fn(u8) -> LeaseAttrs, seed: u64) {
    let store = MemoryStore::default();
    store.set_config(Some(config));
    let mut nodes: Vec<Node> = (1..=48)
        .map(|number| {
            let line = store.line(Duration::from_millis(30), seed << 8 | u64::from(number));
            Node::start(line, Start { seed: seed << 8 | u64::from(number), ..Start::new(attrs(number)) })
        })
        .collect();
    let started = Instant::now();
    let mut owned = Vec::new();
    for node in &mut nodes {
        owned.push(node.holds().await);
    }
    let took = started.elapsed();
    let tries: u64 = nodes.iter().map(|node| node.store.calls_of(Operation::Create)).sum();
    assert!(took < 20 * SECOND, "seed {seed}: {took:?}, {tries} attempts");
    assert!(tries < 48 * 8, "seed {seed}: {tries} attempts");
    check_history(&store);
    let content = store.content();
    assert_eq!(content.records.len(), 48);
    for (own, number) in owned.iter().zip(1..) {
        assert_eq!(record(&store, *own), Some(attrs(number)));
    }
    assert_eq!(writes(&store), 48, "nobody wrote twice");
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn many_nodes_that_start_at_once_get_subnets_of_their_own() {
    let v4_config = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.60.0"}"#;
    let v6_config =
        r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetMax":"fc00:0:0:3c::"}"#;
    let dual_config = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.60.0",
        "EnableIPv6":true,"IPv6Network":"fc00::/48","IPv6SubnetMax":"fc00:0:0:3c::"}"#;
    for seed in 0..5 {
        all_start_at_once(v4_config, attrs, seed).await;
        all_start_at_once(v6_config, v6, seed).await;
        all_start_at_once(dual_config, dual, seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_creation_whose_answer_is_lost_leaves_one_lease() {
    for fault in [Fault::LoseAnswer, Fault::Late(SECOND), Fault::Late(12 * SECOND), Fault::Refuse] {
        let store = configured();
        let line = store.line(Duration::from_millis(20), 1);
        line.fail(Operation::Create, 1, fault);
        let mut node = Node::start(line, Start::new(attrs(1)));
        let own = node.holds().await;
        sleep(HOUR).await;
        assert_eq!(node.holds().await, own, "{fault:?}");
        assert_eq!(store.content().records.len(), 1, "{fault:?}");
        assert_eq!(writes(&store), 1, "{fault:?}");
        node.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_whose_answer_is_lost_is_known_as_ours() {
    for fault in
        [Fault::LoseAnswer, Fault::Late(SECOND), Fault::Late(Duration::from_millis(5500)), Fault::Refuse]
    {
        let store = configured();
        let mut node = Node::start(store.line(Duration::from_millis(20), 1), Start::new(attrs(1)));
        let own = node.holds().await;
        let grant = grant_of(&store, own);
        node.store.fail(Operation::Update, 1, fault);
        node.attrs.send_replace(Some(wanted(with_address(1, 101))));
        // It changes once more before anything is known of the first.
        sleep(4 * SECOND).await;
        node.attrs.send_replace(Some(wanted(with_address(1, 102))));
        sleep(MINUTE).await;
        assert_eq!(node.holds().await, own, "{fault:?}");
        assert_eq!(record(&store, own), Some(with_address(1, 102)), "{fault:?}");
        assert_eq!((grant_of(&store, own), store.content().records.len()), (grant, 1));
        check_history(&store);
        node.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_or_deletion_whose_answer_is_lost_is_repeated() {
    for fault in [Fault::LoseAnswer, Fault::Late(9 * SECOND), Fault::Refuse] {
        let store = configured();
        store.put("10.9.1.0-24", &attrs(1).to_json(), Some(DAY));
        let line = store.line(Duration::from_millis(20), 1);
        line.fail(Operation::Delete, 1, fault);
        line.fail(Operation::Renew, 1, fault);
        let mut node = Node::start(line, Start::new(attrs(1)));
        let own = node.holds().await;
        assert_ne!(own, subnets("10.9.1.0-24"), "it is outside of the network");
        sleep(3 * DAY).await;
        assert_eq!(node.holds().await, own, "{fault:?}");
        assert_eq!(store.content().records.len(), 1, "{fault:?}");
        node.stop().await;
    }
}

/// The attributes of a node that has moved to another address.
fn with_address(node: u8, last: u8) -> LeaseAttrs {
    LeaseAttrs { public_ip: Some([192, 0, 2, last].into()), ..attrs(node) }
}

#[tokio::test(start_paused = true)]
async fn a_new_public_address_is_published_under_the_same_subnet() {
    let store = configured();
    let mut node = Node::start(store.line(Duration::from_millis(20), 1), Start::new(attrs(1)));
    let own = node.holds().await;
    let grant = grant_of(&store, own);
    for last in [101, 102, 1] {
        node.attrs.send_replace(Some(wanted(with_address(1, last))));
        let changed = Instant::now();
        let published = |state: &super::ClaimState| {
            state.own.as_ref().is_some_and(|own| own.attrs == with_address(1, last))
        };
        let state = node.reaches("the new address", SECOND, published).await;
        assert!(changed.elapsed() < SECOND);
        assert_eq!((state.own.unwrap().subnets, state.problem), (own, None));
        assert_eq!(record(&store, own), Some(with_address(1, last)));
        assert_eq!(grant_of(&store, own), grant);
    }
    assert_eq!(node.store.calls_of(Operation::Update), 3);
    // While the store is away, the last of several counts.
    node.store.set_line(Availability::Down);
    for last in [103, 104] {
        node.attrs.send_replace(Some(wanted(with_address(1, last))));
        sleep(MINUTE).await;
    }
    node.store.set_line(Availability::Up);
    assert_eq!(node.holds().await, own);
    sleep(MINUTE).await;
    assert_eq!(record(&store, own), Some(with_address(1, 104)));
    check_history(&store);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_nodes_with_one_address_are_named_and_do_not_fight() {
    let twin = || LeaseAttrs { public_ip: attrs(1).public_ip, ..attrs(2) };
    let store = configured();
    let mut first = Node::start(store.line(Duration::from_millis(20), 1), Start::new(attrs(1)));
    let own = first.holds().await;
    let mut second = Node::start(store.line(Duration::from_millis(20), 2), Start::new(twin()));
    assert_eq!(second.holds().await, own, "by Go's rule the record is its own");
    let state = first.reaches("the conflict", MINUTE, |state| state.problem.is_some()).await;
    let problem = state.problem.unwrap();
    assert!(problem.contains("another node uses our public address 192.0.2.1"), "{problem}");
    assert_eq!(state.own.unwrap().subnets, own);
    let before = writes(&store);
    sleep(5 * DAY).await;
    assert_eq!(writes(&store), before, "no rewriting war");
    assert_eq!(record(&store, own), Some(twin()));

    // The administrator gives the first one an address of its own.
    first.attrs.send_replace(Some(wanted(with_address(1, 101))));
    let other = first.holds().await;
    assert_ne!(other, own);
    assert_eq!(second.holds().await, own);
    assert_eq!((record(&store, own), record(&store, other)), (Some(twin()), Some(with_address(1, 101))));
    first.stop().await;
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_other_way_of_mending_two_nodes_with_one_address() {
    let twin = || LeaseAttrs { public_ip: attrs(1).public_ip, ..attrs(2) };
    let store = configured();
    let mut first = Node::start(store.line(Duration::from_millis(20), 1), Start::new(attrs(1)));
    let own = first.holds().await;
    let mut second = Node::start(store.line(Duration::from_millis(20), 2), Start::new(twin()));
    second.holds().await;
    first.reaches("the conflict", MINUTE, |state| state.problem.is_some()).await;
    // The second one gets an address of its own, and keeps the record.
    second.attrs.send_replace(Some(wanted(attrs(2))));
    let state = first.reaches("the loss", MINUTE, |state| state.lost == Some(own)).await;
    assert_eq!(state.own, None);
    let other = first.holds().await;
    assert_eq!((record(&store, own), record(&store, other)), (Some(attrs(2)), Some(attrs(1))));
    // Or it is switched off, and its lease ends.
    let mut third = Node::start(
        store.line(Duration::from_millis(20), 3),
        Start::new(LeaseAttrs { public_ip: attrs(1).public_ip, ..attrs(3) }),
    );
    assert_eq!(third.holds().await, other);
    first.reaches("the conflict", MINUTE, |state| state.problem.is_some()).await;
    third.stop().await;
    first.reaches("the end of the conflict", 2 * DAY, |state| state.problem.is_none()).await;
    assert_eq!(first.holds().await, other);
    assert_eq!(record(&store, other), Some(attrs(1)));
    first.stop().await;
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_config_changes_while_nodes_run() {
    let store = configured();
    let mut node = Node::start(store.line(Duration::from_millis(20), 1), Start::new(attrs(1)));
    let own = node.holds().await;
    for config in [Some(r#"{"Network":"10.9.0.0/16","SubnetLen":26}"#), Some("{"), None] {
        store.set_config(config);
        sleep(2 * DAY).await;
        node.attrs.send_replace(Some(wanted(with_address(1, 101))));
        sleep(MINUTE).await;
        assert_eq!(node.holds().await, own, "{config:?}");
        assert_eq!(record(&store, own), Some(with_address(1, 101)), "{config:?}");
        node.attrs.send_replace(Some(wanted(attrs(1))));
    }
    // Others wait for a config, and start when there is one.
    let mut other = Node::start(store.line(Duration::from_millis(20), 2), Start::new(attrs(2)));
    let state = other.reaches("a reason", MINUTE, |state| state.problem.is_some()).await;
    assert!(state.problem.unwrap().contains("no network config"));
    store.set_config(Some(r#"{"Network":"10.9.0.0/16","SubnetLen":26}"#));
    let started = Instant::now();
    let new = other.holds().await;
    assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
    assert!(new.to_string().starts_with("10.9.") && new.to_string().ends_with("-26"), "{new}");
    // With its next start a node follows, and takes its old record away.
    node.stop().await;
    let start = Start { preferred: Some(own), remembered: Some((own, attrs(1))), ..Start::new(attrs(1)) };
    let mut node = Node::start(store.line(Duration::from_millis(20), 1), start);
    let new = node.holds().await;
    assert!(new.to_string().starts_with("10.9."), "{new}");
    assert_eq!((record(&store, own), record(&store, new)), (None, Some(attrs(1))));
    check_history(&store);
    node.stop().await;
    other.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_config_that_changes_between_choice_and_creation_makes_the_choice_void() {
    let store = configured();
    let line = store.line(Duration::from_millis(20), 1);
    line.fail(Operation::Create, 1, Fault::Slow(2 * SECOND));
    let mut node = Node::start(line, Start::new(attrs(1)));
    sleep(SECOND).await;
    store.set_config(Some(r#"{"Network":"10.9.0.0/16","SubnetLen":26}"#));
    let own = node.holds().await.to_string();
    assert!(own.starts_with("10.9.") && own.ends_with("-26"), "{own}");
    assert_eq!((writes(&store), node.store.calls_of(Operation::Create)), (1, 2));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_network_is_waited_for() {
    let store = MemoryStore::default();
    store.set_config(Some(r#"{"Network":"10.5.0.0/24","SubnetLen":26,"SubnetMax":"10.5.0.64"}"#));
    store.put("10.5.0.64-26", &attrs(9).to_json(), Some(2 * DAY));
    let mut node = Node::start(store.line(Duration::from_millis(20), 1), Start::new(attrs(1)));
    let state = node.reaches("a reason", MINUTE, |state| state.problem.is_some()).await;
    assert!(state.problem.unwrap().contains("no free IPv4 subnet"));
    sleep(DAY).await;
    assert_eq!(node.own(), None);
    store.remove("10.5.0.64-26");
    let freed = Instant::now();
    assert_eq!(node.holds().await, subnets("10.5.0.64-26"));
    assert!(freed.elapsed() < SECOND, "{:?}", freed.elapsed());
    check_history(&store);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_record_that_somebody_deletes_or_damages_is_put_back() {
    let store = configured();
    let mut node = Node::start(store.line(Duration::from_millis(20), 1), Start::new(attrs(1)));
    let own = node.holds().await;
    let key = own.to_string();
    let deeds: [&dyn Fn(); 5] = [
        &|| store.remove(&key),
        &|| store.put(&key, "{not json", Some(HOUR)),
        &|| store.put(&key, "", None),
        &|| {
            store.remove(&key);
            store.compact();
        },
        &|| {
            store.set_availability(Availability::Down);
            store.remove(&key);
            store.compact();
            store.set_availability(Availability::Up);
        },
    ];
    for deed in deeds {
        deed();
        sleep(SECOND).await;
        assert_eq!(record(&store, own), Some(attrs(1)));
        assert_eq!(node.holds().await, own);
    }
    sleep(3 * DAY).await;
    assert_eq!((node.holds().await, record(&store, own)), (own, Some(attrs(1))));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_deleted_as_soon_as_it_is_created_is_put_back() {
    let store = configured();
    let line = store.line(Duration::from_millis(400), 1);
    let mut node = Node::start(line, Start::new(attrs(1)));
    let own = node.holds().await;
    // Its watch has not shown the creation yet, and shows both at once.
    store.remove(&own.to_string());
    sleep(MINUTE).await;
    assert_eq!(record(&store, own), Some(attrs(1)));
    assert_eq!(node.holds().await, own);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_reservation_is_used_and_stays_one() {
    let store = configured();
    // As an administrator lays it out: only the address.
    store.put("10.5.77.0-24", r#"{"PublicIP":"192.0.2.1"}"#, None);
    let line = store.line(Duration::from_millis(20), 1);
    let mut node =
        Node::start(line, Start { preferred: Some(subnets("10.5.3.0-24")), ..Start::new(attrs(1)) });
    let own = node.holds().await;
    assert_eq!(own, subnets("10.5.77.0-24"));
    sleep(3 * DAY).await;
    node.attrs.send_replace(Some(wanted(with_address(1, 101))));
    sleep(MINUTE).await;
    assert_eq!((record(&store, own), grant_of(&store, own)), (Some(with_address(1, 101)), None));
    assert_eq!(node.store.calls_of(Operation::Renew), 0);
    node.stop().await;
    // Nobody else gets it while the node is away, and the node does.
    sleep(30 * DAY).await;
    let mut node = Node::start(store.clone(), Start::new(with_address(1, 101)));
    assert_eq!(node.holds().await, own);
    assert_eq!(writes(&store), 3, "laid out, filled in, changed once");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_becomes_a_reservation_and_back() {
    let store = configured();
    let mut node = Node::start(store.line(Duration::from_millis(20), 1), Start::new(attrs(1)));
    let own = node.holds().await;
    store.put(&own.to_string(), &attrs(1).to_json(), None);
    sleep(3 * DAY).await;
    assert_eq!((node.holds().await, grant_of(&store, own)), (own, None));
    // As a Go daemon renews: the same record under a new grant.
    store.put(&own.to_string(), &attrs(1).to_json(), Some(2 * HOUR));
    sleep(3 * DAY).await;
    assert_eq!(node.holds().await, own);
    assert!(grant_of(&store, own).is_some());
    assert_eq!(writes(&store), 3, "it never ended");
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nodes_of_a_wiped_store_put_their_leases_back() {
    let store = configured();
    let mut nodes: Vec<Node> = (1..=12)
        .map(|number| {
            let line = store.line(Duration::from_millis(30), u64::from(number));
            Node::start(line, Start { seed: u64::from(number), ..Start::new(attrs(number)) })
        })
        .collect();
    let mut owned = Vec::new();
    for node in &mut nodes {
        owned.push(node.holds().await);
    }
    store.wipe();
    sleep(2 * MINUTE).await;
    assert_eq!(store.content().records, []);
    store.set_config(Some(CONFIG));
    sleep(2 * MINUTE).await;
    for ((node, own), number) in nodes.iter_mut().zip(owned).zip(1..) {
        assert_eq!(node.holds().await, own);
        assert_eq!(record(&store, own), Some(attrs(number)));
    }
    check_history(&store);
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_younger_of_two_overlapping_leases_goes() {
    // A daemon that does not guard its writes, with an older config, puts a larger lease between our listing and our creation.
    let store = configured();
    let larger = subnets("10.5.8.0-23");
    let line = store.line(Duration::from_millis(20), 1);
    line.fail(Operation::Create, 1, Fault::Slow(2 * SECOND));
    line.fail(Operation::Delete, 1, Fault::Refuse);
    let mut node =
        Node::start(line, Start { preferred: Some(subnets("10.5.9.0-24")), ..Start::new(attrs(1)) });
    sleep(SECOND).await;
    store.put("10.5.8.0-23", &attrs(2).to_json(), Some(DAY));
    sleep(MINUTE).await;
    let own = node.holds().await;
    assert!(!own.overlap(&larger), "{own}");
    assert_eq!(store.content().records.len(), 2);
    assert_eq!((record(&store, own), record(&store, larger)), (Some(attrs(1)), Some(attrs(2))));
    assert_eq!((node.store.calls_of(Operation::Create), node.store.calls_of(Operation::Delete)), (2, 2));
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_overlap_that_comes_later_moves_nobody() {
    let store = configured();
    let start = Start { preferred: Some(subnets("10.5.9.0-24")), ..Start::new(attrs(1)) };
    let mut node = Node::start(store.line(Duration::from_millis(20), 1), start);
    let own = node.holds().await;
    store.put("10.5.8.0-23", &attrs(2).to_json(), Some(DAY));
    sleep(2 * DAY).await;
    assert_eq!((node.holds().await, record(&store, own)), (own, Some(attrs(1))));
    assert_eq!(node.store.calls_of(Operation::Delete), 0);
    node.stop().await;
}

#[tokio::test(start_paused = true)]
async fn it_stops_at_once_wherever_it_is() {
    let mut ended = 0;
    for (mood, latency) in
        [(Availability::Up, 400), (Availability::Up, 0), (Availability::Hanging, 0), (Availability::Down, 0)]
    {
        for millis in (0..3000).step_by(37) {
            let store = configured();
            store.put("10.9.1.0-24", &attrs(1).to_json(), Some(DAY));
            store.set_availability(mood);
            let line = store.line(Duration::from_millis(latency), millis);
            let mut node = Node::start(line, Start { seed: millis, ..Start::new(attrs(1)) });
            sleep(Duration::from_millis(millis)).await;
            node.attrs.send_replace(Some(wanted(with_address(1, 101))));
            if millis % 2 == 0 {
                tokio::task::yield_now().await;
            }
            node.stop().await;
            // What it left behind is what the next start continues with.
            store.set_availability(Availability::Up);
            node = Node::start(store.line(Duration::ZERO, 1), Start::new(with_address(1, 101)));
            node.holds().await;
            check_history(&store);
            node.stop().await;
            ended += 1;
        }
    }
    assert_eq!(ended, 4 * 82);
}
