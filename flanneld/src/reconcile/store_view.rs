//! The cluster as the store shows it.

use flannel_core::claim::OwnRecord;
use flannel_core::cluster::{Cluster, Source};
use flannel_core::lease::table::PeerChange;
use flannel_core::lease::{Revision, Subnets};
use flannel_core::plan::Prune;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::time::Instant;

use crate::status::unix_secs;
use crate::store::watch::Update;
use crate::store::{Change, ConfigRecord, Listing, OwnNode, Record};

/// The content of the store, as far as it is known.
pub(super) struct StoreView {
    pub(super) cluster: Cluster,
    /// The config of the store, in force or not.
    offered: Option<ConfigRecord>,
    /// The last config of the store that was taken: a start without a store works with it.
    pub(super) in_force: Option<ConfigRecord>,
    /// When leases of peers changed, since the first listing.
    pub(super) changed: Arc<BTreeMap<Subnets, u64>>,
    pub(super) revision: Revision,
    listings: u64,
    start: Instant,
}

/// What updates of the store brought.
#[derive(Default)]
pub(super) struct News {
    /// Changes of leases that are not part of a listing.
    pub(super) peers: Vec<PeerChange>,
    /// The records behind them, also those that cannot be read.
    pub(super) records: Vec<Change>,
    /// The config: only the last one counts.
    pub(super) config: Option<ConfigRecord>,
    /// What the store knows of this node.
    pub(super) own: Option<OwnNode>,
    /// The view was replaced.
    pub(super) listed: bool,
    /// Something happened that may end a wait of the claim.
    pub(super) wakes_claim: bool,
}

impl StoreView {
    /// Starts with the records of the last run.
    pub(super) fn new(remembered: &[Record]) -> Self {
        let mut cluster = Cluster::default();
        if !remembered.is_empty() {
            cluster.remember(remembered);
        }
        Self {
            cluster,
            offered: None,
            in_force: None,
            changed: Arc::default(),
            revision: Revision::default(),
            listings: 0,
            start: Instant::now(),
        }
    }

    /// Takes an update. `own` is the subnet of this node.
    pub(super) fn take(&mut self, update: Update, own: Option<&Subnets>, news: &mut News) {
        match update {
            Update::Listing { listing, is_other_store } => self.replace(listing, is_other_store, own, news),
            Update::Changes { revision, changes } => {
                self.revision = revision;
                for change in &changes {
                    match change {
                        Change::Config(config) => news.config.clone_from(config),
                        Change::Own(own) => {
                            news.own = Some(own.clone());
                            continue;
                        }
                        Change::Put(_) => continue,
                        Change::Delete { .. } => {}
                    }
                    news.wakes_claim = true;
                }
                let peers = self.cluster.changes(&changes, own, self.start.elapsed());
                self.note_changes(&peers);
                news.peers.extend(peers);
                news.records.extend(changes);
            }
            Update::Up | Update::Down(_) => {}
        }
    }

    fn replace(&mut self, listing: Listing, is_other_store: bool, own: Option<&Subnets>, news: &mut News) {
        // A store that has lost its config is not the one that it was, either.
        let had_config = self.offered.is_some() || self.cluster.source() == Source::Remembered;
        let wiped = had_config && listing.config.is_none() || is_other_store;
        let is_first = self.cluster.source() == Source::Nothing;
        let changes = self.cluster.listing(listing.records, own, wiped, self.start.elapsed());
        if !is_first {
            self.note_changes(&changes);
        }
        self.revision = listing.revision;
        self.listings += 1;
        *news = News {
            config: listing.config,
            own: Some(listing.own),
            listed: true,
            wakes_claim: true,
            ..News::default()
        };
    }

    fn note_changes(&mut self, changes: &[PeerChange]) {
        if changes.is_empty() {
            return;
        }
        let now = unix_secs(SystemTime::now());
        let changed = Arc::make_mut(&mut self.changed);
        for change in changes {
            match change.after {
                Some(_) => drop(changed.insert(change.subnets, now)),
                None => drop(changed.remove(&change.subnets)),
            }
        }
    }

    /// Notes a config that the store offers; returns whether it is a new one.
    pub(super) fn offer(&mut self, config: &ConfigRecord) -> bool {
        let is_new = self.offered.as_ref() != Some(config);
        self.offered = Some(config.clone());
        is_new
    }

    /// Returns the offered config and lets it be offered again.
    pub(super) fn reoffer(&mut self) -> Option<ConfigRecord> {
        self.offered.take()
    }

    /// Our record, for the claim.
    pub(super) fn own_record(&self, own: Subnets) -> OwnRecord {
        let table = self.cluster.table();
        let entry = table.leases().get(&own);
        OwnRecord {
            subnets: own,
            seen: self.revision,
            record: entry.map(|entry| (entry.lease.attrs.clone(), entry.lease.revision, entry.grant)),
            listings: self.listings,
            overlaps: table.overlapping(&own).map(|lease| (lease.subnets, lease.revision)).collect(),
        }
    }

    /// When [`StoreView::end_grace`] has something to do.
    pub(super) fn grace_ends(&self) -> Option<Instant> {
        self.cluster.next_tick().map(|at| self.start + at)
    }

    /// Drops the peers whose grace period is over.
    pub(super) fn end_grace(&mut self) -> Vec<PeerChange> {
        let dropped = self.cluster.tick(self.start.elapsed());
        self.note_changes(&dropped);
        dropped
    }

    /// Whether surplus objects may be removed.
    pub(super) fn prune(&self) -> Prune {
        match self.cluster.source() {
            // Remembered leases may be older than the kernel: a peer that joined last must not be removed.
            Source::Nothing | Source::Remembered => Prune::Keep,
            Source::Store => Prune::Surplus,
        }
    }
}
