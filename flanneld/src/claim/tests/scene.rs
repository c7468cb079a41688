//! Nodes that claim leases from one store in memory, and what has to be true of its history.

use flannel_core::claim::{OwnRecord, Wanted};
use flannel_core::family::DualStack;
use flannel_core::lease::table::LeaseTable;
use flannel_core::lease::{LeaseAttrs, Revision, Subnets};
use flannel_core::store::Change;
use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::claim::{Channels, ClaimState, own_lease, run};
use crate::store::Store;
use crate::store::watch::{Update, channel, follow};
use crate::testing::store::{Ledger, MemoryStore};

pub(super) const DAY: Duration = Duration::from_secs(86_400);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// How the node with this number is reached. Its number is in the address and in the MAC address.
pub(super) fn attrs(node: u8) -> LeaseAttrs {
    let text = format!(
        r#"{{"PublicIP":"192.0.2.{node}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:{node:02x}"}}}}"#
    );
    LeaseAttrs::parse(text.as_bytes()).unwrap()
}

pub(super) fn dual(node: u8) -> LeaseAttrs {
    let attrs = attrs(node);
    LeaseAttrs {
        public_ipv6: Some(format!("fd00::{node:x}").parse().unwrap()),
        backend_v6_data: attrs.backend_data.clone(),
        ..attrs
    }
}

pub(super) fn v6(node: u8) -> LeaseAttrs {
    LeaseAttrs { public_ip: None, backend_data: None, ..dual(node) }
}

/// What a node publishes in the networks of all tests.
pub(super) fn wanted(attrs: LeaseAttrs) -> Wanted {
    let networks = DualStack {
        v4: attrs.public_ip.map(|_| "10.0.0.0/8".parse().unwrap()),
        v6: attrs.public_ipv6.map(|_| "fd00::/8".parse().unwrap()),
    };
    Wanted { attrs, networks }
}

/// How a node starts.
#[derive(Clone)]
pub(super) struct Start {
    pub(super) attrs: LeaseAttrs,
    pub(super) seed: u64,
    pub(super) lifetime: Duration,
    pub(super) margin: Duration,
    /// The subnet of `subnet.env`.
    pub(super) preferred: Option<Subnets>,
    /// The lease in the state directory.
    pub(super) remembered: Option<(Subnets, LeaseAttrs)>,
}

impl Start {
    pub(super) fn new(attrs: LeaseAttrs) -> Self {
        let seed = attrs.to_json().bytes().map(u64::from).sum();
        Self { attrs, seed, lifetime: DAY, margin: HOUR, preferred: None, remembered: None }
    }
}

/// A running node.
pub(super) struct Node {
    /// Its way to the store.
    pub(super) store: MemoryStore,
    pub(super) attrs: watch::Sender<Option<Wanted>>,
    pub(super) state: watch::Receiver<ClaimState>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Node {
    /// Starts a node that uses `store` as its way to the store.
    pub(super) fn start(store: MemoryStore, start: Start) -> Self {
        let stop = CancellationToken::new();
        let attrs = watch::Sender::new(Some(wanted(start.attrs)));
        let state = watch::Sender::new(ClaimState::default());
        let (record, wakeups) = (watch::Sender::new(None), watch::Sender::new(0));
        let channels = Channels {
            store: store.shared(),
            lease_time: start.lifetime,
            attrs: attrs.subscribe(),
            record: record.subscribe(),
            wakeups: wakeups.subscribe(),
            state: state.clone(),
        };
        let lease = own_lease(&channels.store, start.margin, start.preferred, start.remembered, start.seed);
        let view = View {
            table: LeaseTable::default(),
            revision: Revision::new(0),
            listings: 0,
            own: None,
            record,
            wakeups,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(run(lease, channels, stop.clone()));
        tasks.spawn(view.follow(store.shared(), state.subscribe(), start.seed, stop.clone()));
        Self { store, attrs, state: state.subscribe(), stop, tasks }
    }

    pub(super) fn own(&self) -> Option<Subnets> {
        self.state.borrow().own.as_ref().map(|own| own.subnets)
    }

    /// Waits until its state is as wanted.
    pub(super) async fn reaches(
        &mut self,
        what: &str,
        within: Duration,
        wanted: impl FnMut(&ClaimState) -> bool,
    ) -> ClaimState {
        if let Ok(state) = timeout(within, self.state.wait_for(wanted)).await {
            return state.unwrap().clone();
        }
        panic!("not within {within:?}: {what}; {:?}", *self.state.borrow());
    }

    /// Waits for a lease that the store has confirmed, without any problem.
    pub(super) async fn holds(&mut self) -> Subnets {
        let healthy = |state: &ClaimState| {
            state.problem.is_none() && state.own.as_ref().is_some_and(|own| own.confirmed)
        };
        self.reaches("a healthy lease", 10 * MINUTE, healthy).await.own.unwrap().subnets
    }

    /// Stops it, at once.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        let ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.unwrap();
            }
        };
        timeout(Duration::from_millis(1), ended).await.expect("it stops at once");
    }
}

/// What the reconcile loop does for the claim: shows it its record.
struct View {
    table: LeaseTable,
    revision: Revision,
    listings: u64,
    own: Option<Subnets>,
    record: watch::Sender<Option<OwnRecord>>,
    wakeups: watch::Sender<u64>,
}

impl View {
    async fn follow(
        mut self,
        store: Store,
        mut state: watch::Receiver<ClaimState>,
        seed: u64,
        stop: CancellationToken,
    ) {
        let (sender, mut updates) = channel();
        let mut follow = pin!(follow(store, sender, watch::Sender::default(), seed, stop));
        loop {
            tokio::select! {
                () = &mut follow => return,
                Some(update) = updates.recv() => self.take(update),
                Ok(()) = state.changed() => {
                    let own = state.borrow_and_update().own.as_ref().map(|own| own.subnets);
                    if own.is_some() && own != self.own {
                        self.own = own;
                        self.tell();
                    }
                }
            }
        }
    }

    fn take(&mut self, update: Update) {
        match update {
            Update::Listing { listing, .. } => {
                self.revision = listing.revision;
                self.listings += 1;
                self.table.replace(&listing.records);
                self.wakeups.send_modify(|count| *count += 1);
                self.tell();
            }
            Update::Changes { revision, changes } => {
                self.revision = revision;
                for change in &changes {
                    self.table.apply(change);
                }
                if changes.iter().any(|change| !matches!(change, Change::Put(_))) {
                    self.wakeups.send_modify(|count| *count += 1);
                }
                self.tell();
            }
            Update::Down(_) | Update::Up => {}
        }
    }

    fn tell(&self) {
        let Some(own) = self.own else { return };
        let record = self.table.leases().get(&own);
        let record = record.map(|entry| (entry.lease.attrs.clone(), entry.lease.revision, entry.grant));
        let overlaps = self.table.overlapping(&own).map(|lease| (lease.subnets, lease.revision)).collect();
        let view = OwnRecord { subnets: own, seen: self.revision, record, listings: self.listings, overlaps };
        self.record.send_if_modified(|old| {
            let news = view.is_news(old.as_ref());
            if news {
                *old = Some(view.clone());
            }
            news
        });
    }
}

/// The holder of a record, by its MAC address: a node may change its address, but not this.
fn holder(attrs: &LeaseAttrs) -> String {
    let data = attrs.backend_data.as_ref().or(attrs.backend_v6_data.as_ref());
    data.map_or_else(|| format!("{:?}", attrs.public_ip), |data| data.get().to_owned())
}

/// Checks that at every revision no two leases overlap, and that no node writes over the record of another one.
pub(super) fn check_history(store: &MemoryStore) {
    store.ledgers().iter().for_each(check_ledger);
}

fn check_ledger(ledger: &Ledger) {
    let mut held: BTreeMap<Subnets, Option<String>> = BTreeMap::new();
    for (revision, change) in ledger {
        match change {
            Change::Put(record) => {
                let subnets = Subnets::parse_key(&record.key).unwrap();
                // Only tests write what cannot be read.
                let new = LeaseAttrs::parse(&record.value).ok().map(|attrs| holder(&attrs));
                if let (Some(Some(old)), Some(new)) = (held.get(&subnets), &new) {
                    assert_eq!(old, new, "at revision {revision} the record of {subnets} was overwritten");
                }
                for other in held.keys().filter(|other| **other != subnets) {
                    assert!(!other.overlap(&subnets), "at revision {revision} {other} and {subnets} overlap");
                }
                held.insert(subnets, new);
            }
            Change::Delete { key } => drop(held.remove(&Subnets::parse_key(key).unwrap())),
            Change::Config(_) | Change::Own(_) => {}
        }
    }
}

/// The record under a key.
pub(super) fn record(store: &MemoryStore, key: Subnets) -> Option<LeaseAttrs> {
    let content = store.content();
    let record = content.records.iter().find(|record| record.key == key.to_string())?;
    LeaseAttrs::parse(&record.value).ok()
}
