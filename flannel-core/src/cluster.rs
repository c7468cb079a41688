//! The daemon's view of the cluster: the leases of the store, and those of a moment ago where the
//! store has lost them.
//!
//! A record can vanish although its node lives: an administrator deletes it, or its lease expires while the node is
//! suspended. The node acquires its subnet again within seconds, and its pods must stay reachable until then. So every
//! peer is kept for a short grace period after its lease. It ends early if another lease takes an address of the subnet, or the
//! node publishes something else.
//!
//! A store that is wiped, or restored from an old backup, loses the leases of all nodes, which may need longer to
//! find it again. So a peer that vanishes together with our own lease, which cannot have ended, is kept for longer.

use ipnet::IpNet;
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::family::Family;
use crate::lease::table::{LeaseTable, PeerChange};
use crate::lease::{Lease, Subnets};
use crate::store::{Change, Record};

/// How long a peer is kept whose lease alone vanished. Long enough for its daemon to notice and acquire the subnet again.
pub const PEER_GRACE: Duration = Duration::from_secs(10);

/// How long peers of a wiped store are kept. Long enough for daemons to find the store again at the
/// slowest pace of their retries.
pub const GRACE: Duration = Duration::from_secs(300);

/// A wipe may arrive in pieces (keys deleted one by one): peers that vanished this long before our own lease, or
/// vanish this long after it, belong to it.
const WIPE: Duration = Duration::from_secs(5);

/// Where the peers come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Nothing is known yet.
    #[default]
    Nothing,
    /// The state directory: the store has not answered since the start.
    Remembered,
    /// The store.
    Store,
}

/// The leases that count. Times are durations since the start of the daemon.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    table: LeaseTable,
    source: Source,
    lingering: BTreeMap<Subnets, Kept>,
    /// No grace period ends before this.
    next_end: Option<Duration>,
    /// When our own lease vanished, or the store was found wiped.
    wiped: Option<Duration>,
}

/// A peer in its grace period.
#[derive(Clone, Debug)]
struct Kept {
    lease: Arc<Lease>,
    since: Duration,
    ends: Duration,
}

impl Cluster {
    /// The leases of the store.
    #[must_use]
    pub const fn table(&self) -> &LeaseTable {
        &self.table
    }

    /// Where the peers come from.
    #[must_use]
    pub const fn source(&self) -> Source {
        self.source
    }

    /// Peers that the store has lost and that are kept for now.
    #[must_use]
    pub fn lingering(&self) -> impl ExactSizeIterator<Item = &Subnets> {
        self.lingering.keys()
    }

    /// When [`Cluster::tick`] has something to do.
    #[must_use]
    pub const fn next_tick(&self) -> Option<Duration> {
        self.next_end
    }

    /// Every lease that counts, in no order between the store's and the kept ones.
    pub fn leases(&self) -> impl Iterator<Item = &Arc<Lease>> {
        self.table
            .leases()
            .values()
            .map(|entry| &entry.lease)
            .chain(self.lingering.values().map(|kept| &kept.lease))
    }

    /// The leases that count where some share addresses, which a race of daemons that do not guard their writes or an
    /// edit by hand can cause: of two the older one does. Also the losers, each with a winner.
    #[must_use]
    pub fn settled(&self) -> (Vec<Arc<Lease>>, Vec<(Subnets, Subnets)>) {
        let mut losers: BTreeMap<Subnets, Subnets> = BTreeMap::new();
        for family in Family::ALL {
            let mut nets: Vec<(IpNet, &Arc<Lease>)> =
                self.leases().filter_map(|lease| Some((lease.subnets.get(family)?.trunc(), lease))).collect();
            // Prefixes nest or are apart, so those that contain one stand right before it on a stack.
            nets.sort_by_key(|(net, _)| (net.network(), net.prefix_len()));
            let mut around: Vec<(IpNet, &Arc<Lease>)> = Vec::new();
            for (net, lease) in nets {
                around.retain(|(outer, _)| outer.contains(&net));
                for (_, outer) in &around {
                    let (older, younger) = if lease.revision.is_before(outer.revision) {
                        (lease, *outer)
                    } else {
                        (*outer, lease)
                    };
                    losers.insert(younger.subnets, older.subnets);
                }
                around.push((net, lease));
            }
        }
        let winners = self.leases().filter(|lease| !losers.contains_key(&lease.subnets)).cloned().collect();
        (winners, losers.into_iter().collect())
    }

    /// Starts with the records of the last run, until the store answers.
    pub fn remember(&mut self, records: &[Record]) {
        if self.source == Source::Nothing {
            self.table.replace(records);
            self.source = Source::Remembered;
        }
    }

    /// Takes a listing. `own` is the lease that we hold and have not lost; `wiped` tells that the store is plainly not
    /// what it was: it has no config, or counts its revisions anew.
    pub fn listing(
        &mut self,
        records: impl IntoIterator<Item = impl Borrow<Record>>,
        own: Option<&Subnets>,
        wiped: bool,
        now: Duration,
    ) -> Vec<PeerChange> {
        if wiped {
            self.wiped = Some(now);
        }
        let changes = self.table.replace(records);
        self.source = Source::Store;
        self.settle(changes, own, now)
    }

    /// Takes the changes of one moment.
    pub fn changes(&mut self, changes: &[Change], own: Option<&Subnets>, now: Duration) -> Vec<PeerChange> {
        let changes = changes.iter().filter_map(|change| self.table.apply(change)).collect();
        self.settle(changes, own, now)
    }

    /// Drops the kept peers whose grace period is over.
    pub fn tick(&mut self, now: Duration) -> Vec<PeerChange> {
        if self.next_end.is_none_or(|ends| now < ends) {
            return Vec::new();
        }
        let dropped = self.drop_kept(|kept| kept.ends <= now);
        self.next_end = self.lingering.values().map(|kept| kept.ends).min();
        dropped
    }

    fn settle(&mut self, changes: Vec<PeerChange>, own: Option<&Subnets>, now: Duration) -> Vec<PeerChange> {
        let lost_ours = own
            .is_some_and(|own| changes.iter().any(|change| change.subnets == *own && change.after.is_none()));
        if lost_ours {
            self.wiped = Some(now);
            self.prolong(now);
        }
        let grace = if self.wiped.is_some_and(|at| now < at + WIPE) { GRACE } else { PEER_GRACE };
        let mut settled = Vec::new();
        for change in changes {
            match (&change.before, &change.after) {
                (Some(before), None) if own != Some(&change.subnets) && self.may_return(before) => {
                    self.keep(Arc::clone(before), now, grace);
                }
                (_, None) => settled.push(change),
                (_, Some(lease)) => {
                    let before = change.before.clone().or_else(|| self.take_kept(&change.subnets));
                    settled.extend(self.drop_kept(|kept| kept.lease.is_replaced_by(lease)));
                    if before.as_ref().is_none_or(|before| before.attrs != lease.attrs) {
                        settled.push(PeerChange { before, ..change });
                    }
                }
            }
        }
        if self.lingering.is_empty() {
            self.next_end = None;
        }
        settled
    }

    /// Whether the node of a lease that vanished may still live with it: its record was removed, not made unreadable, and
    /// nothing has replaced it.
    fn may_return(&self, lease: &Lease) -> bool {
        !self.table.rejected().contains_key(&lease.subnets.to_string()) && !self.table.has_replaced(lease)
    }

    fn keep(&mut self, lease: Arc<Lease>, now: Duration, grace: Duration) {
        let ends = now + grace;
        self.lingering.insert(lease.subnets, Kept { lease, since: now, ends });
        self.next_end = Some(self.next_end.map_or(ends, |next| next.min(ends)));
    }

    /// Keeps the peers for longer that vanished just before our own lease did.
    fn prolong(&mut self, now: Duration) {
        for kept in self.lingering.values_mut().filter(|kept| now < kept.since + WIPE) {
            kept.ends = now + GRACE;
        }
    }

    fn take_kept(&mut self, subnets: &Subnets) -> Option<Arc<Lease>> {
        self.lingering.remove(subnets).map(|kept| kept.lease)
    }

    fn drop_kept(&mut self, has_ended: impl Fn(&Kept) -> bool) -> Vec<PeerChange> {
        let ended = self.lingering.extract_if(.., |_, kept| has_ended(kept));
        ended.map(|(subnets, kept)| PeerChange { subnets, before: Some(kept.lease), after: None }).collect()
    }
}

#[cfg(test)]
mod tests;
