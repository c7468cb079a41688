//! Whatever happens to nodes and store: no two leases ever overlap, no node writes over another one, and once the
//! weather is better every node has a lease of its own.

use proptest::prelude::*;
use std::time::Duration;
use tokio::time::{Instant, sleep};

use super::scene::{HOUR, MINUTE, Node, Start, check_history, dual, record, wanted};
use super::with_address;
use crate::claim::Own;
use crate::testing::store::{Availability, MemoryStore};
use flannel_core::lease::LeaseAttrs;

/// So few subnets that nodes meet.
const CONFIGS: [&str; 4] = [
    r#"{"Network":"10.5.0.0/24","SubnetLen":28}"#,
    r#"{"Network":"10.5.0.0/24","SubnetLen":27}"#,
    r#"{"Network":"10.5.0.0/24","SubnetLen":29,"SubnetMin":"10.5.0.128"}"#,
    r#"{"Network":"10.5.0.0/24","SubnetLen":28,"EnableIPv6":true,"IPv6Network":"fc00::/60"}"#,
];
const NODES: usize = 4;

#[derive(Clone, Debug)]
enum Deed {
    Start(usize, bool),
    Stop(usize),
    Address(usize, u8),
    Line(usize, Availability),
    Unreliable(usize, u128),
    Server(Availability),
    Config(usize),
    NoConfig,
    Break,
    Compact,
    Remove(usize),
    Damage(usize),
    Wipe,
    Pass(u64),
}

fn mood() -> impl Strategy<Value = Availability> {
    prop_oneof![Just(Availability::Up), Just(Availability::Down), Just(Availability::Hanging)]
}

/// What may happen by itself, and what somebody has to do.
fn deed(meddling: bool) -> BoxedStrategy<Deed> {
    let fate = prop_oneof![
        5 => (0..NODES, any::<bool>()).prop_map(|(node, remembers)| Deed::Start(node, remembers)),
        2 => (0..NODES).prop_map(Deed::Stop),
        2 => (0..NODES, 0u8..3).prop_map(|(node, address)| Deed::Address(node, address)),
        4 => (0..NODES, mood()).prop_map(|(node, mood)| Deed::Line(node, mood)),
        3 => (0..NODES, 0u128..60).prop_map(|(node, percent)| Deed::Unreliable(node, percent)),
        1 => mood().prop_map(Deed::Server),
        2 => (0..CONFIGS.len()).prop_map(Deed::Config),
        1 => Just(Deed::NoConfig),
        1 => Just(Deed::Break),
        1 => Just(Deed::Compact),
        // Mostly moments, at times longer than a lease.
        4 => (0u64..3000).prop_map(Deed::Pass),
        4 => (0u64..6_000_000).prop_map(Deed::Pass),
    ];
    if !meddling {
        return fate.boxed();
    }
    prop_oneof![
        12 => fate,
        1 => (0usize..8).prop_map(Deed::Remove),
        1 => (0usize..8).prop_map(Deed::Damage),
        1 => Just(Deed::Wipe),
    ]
    .boxed()
}

struct World {
    store: MemoryStore,
    lines: Vec<MemoryStore>,
    nodes: Vec<Option<Node>>,
    /// What each node remembers of its last run.
    last: Vec<Option<Own>>,
    addresses: Vec<u8>,
    wipes: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let store = MemoryStore::default();
        store.set_config(Some(CONFIGS[0]));
        let line = |node| store.line(Duration::from_millis(150), seed ^ u64::try_from(node).unwrap() << 32);
        Self {
            lines: (0..NODES).map(line).collect(),
            store,
            nodes: (0..NODES).map(|_| None).collect(),
            last: vec![None; NODES],
            addresses: vec![0; NODES],
            wipes: 0,
        }
    }

    /// No two nodes ever share an address.
    fn attrs(&self, node: usize) -> LeaseAttrs {
        let number = u8::try_from(node).unwrap() + 1;
        LeaseAttrs {
            public_ip: with_address(number, number + 10 * self.addresses[node]).public_ip,
            ..dual(number)
        }
    }

    async fn stop(&mut self, node: usize) {
        if let Some(running) = self.nodes[node].take() {
            let own = running.state.borrow().own.clone();
            self.last[node] = own.filter(|own| own.confirmed).or(self.last[node].take());
            running.stop().await;
        }
    }

    async fn start(&mut self, node: usize, remembers: bool, seed: u64) {
        self.stop(node).await;
        let last = self.last[node].clone().filter(|_| remembers);
        let start = Start {
            seed,
            lifetime: HOUR,
            margin: 10 * MINUTE,
            preferred: last.as_ref().map(|own| own.subnets),
            remembered: last.map(|own| (own.subnets, own.attrs)),
            ..Start::new(self.attrs(node))
        };
        self.nodes[node] = Some(Node::start(self.lines[node].clone(), start));
    }

    async fn happen(&mut self, deed: &Deed, seed: u64) {
        match *deed {
            Deed::Start(node, remembers) => self.start(node, remembers, seed).await,
            Deed::Stop(node) => self.stop(node).await,
            Deed::Address(node, address) => {
                self.addresses[node] = address;
                if let Some(running) = &self.nodes[node] {
                    running.attrs.send_replace(Some(wanted(self.attrs(node))));
                }
            }
            Deed::Line(node, mood) => self.lines[node].set_line(mood),
            Deed::Unreliable(node, percent) => self.lines[node].set_unreliable(percent),
            Deed::Server(mood) => self.store.set_availability(mood),
            Deed::Config(config) => self.store.set_config(Some(CONFIGS[config])),
            Deed::NoConfig => self.store.set_config(None),
            Deed::Break => self.store.break_watches(),
            Deed::Compact => self.store.compact(),
            Deed::Remove(at) => {
                if let Some(record) = self.store.content().records.get(at) {
                    self.store.remove(&record.key);
                }
            }
            Deed::Damage(at) => {
                if let Some(record) = self.store.content().records.get(at) {
                    self.store.put(&record.key, "{", Some(HOUR));
                }
            }
            Deed::Wipe => {
                self.store.wipe();
                self.wipes += 1;
                // The new config does not have the revision that the old one had.
                for _ in 0..self.wipes {
                    self.store.set_config(Some(CONFIGS[0]));
                }
            }
            Deed::Pass(millis) => sleep(Duration::from_millis(millis)).await,
        }
    }

    /// Nobody believes to hold, by a lease that has not ended, what another one believes to hold.
    fn check_beliefs(&self) {
        // An answer is late by what it took; nodes do not know by how much.
        let still = Instant::now() + MINUTE;
        let beliefs: Vec<Own> = self
            .nodes
            .iter()
            .flatten()
            .filter_map(|node| node.state.borrow().own.clone())
            .filter(|own| own.confirmed && own.expires.is_some_and(|expires| expires > still))
            .collect();
        for (at, one) in beliefs.iter().enumerate() {
            for other in &beliefs[at + 1..] {
                assert!(!one.subnets.overlap(&other.subnets), "{one:?} and {other:?}");
            }
        }
    }

    /// All is well again: everybody gets a lease, and then there is peace.
    async fn heal(&mut self) {
        for line in &self.lines {
            line.set_line(Availability::Up);
            line.set_unreliable(0);
        }
        self.store.set_availability(Availability::Up);
        self.store.set_config(Some(CONFIGS[0]));
        for node in 0..NODES {
            if self.nodes[node].is_none() {
                self.start(node, true, 7).await;
            }
        }
        // Leases that nobody has any more end.
        sleep(2 * HOUR).await;
        for node in 0..NODES {
            let attrs = self.attrs(node);
            let own = self.nodes[node].as_mut().unwrap().holds().await;
            assert_eq!(record(&self.store, own), Some(attrs), "node {node} and {own}");
        }
        assert_eq!(self.store.content().records.len(), NODES);
        let calls = self.store.calls();
        sleep(2 * HOUR).await;
        let calls = self.store.calls() - calls;
        assert!(calls <= 10 * u64::try_from(NODES).unwrap(), "{calls} calls in two quiet hours");
    }
}

fn run(deeds: &[Deed], seed: u64, meddling: bool) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(seed);
        for (deed, seed) in deeds.iter().zip(seed..) {
            world.happen(deed, seed).await;
            check_history(&world.store);
            if !meddling {
                world.check_beliefs();
            }
        }
        world.heal().await;
        check_history(&world.store);
        world.check_beliefs();
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn by_itself(deeds in proptest::collection::vec(deed(false), 1..50), seed in 0..1u64 << 40) {
        run(&deeds, seed, false);
    }

    #[test]
    fn with_somebody_who_meddles(deeds in proptest::collection::vec(deed(true), 1..50), seed in 0..1u64 << 40) {
        run(&deeds, seed, true);
    }
}
