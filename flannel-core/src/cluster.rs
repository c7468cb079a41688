//! The daemon's view of the cluster: the leases of the store, and those of a moment ago where the
//! store has lost them.
//!
//! A store that is wiped, or restored from an old backup, takes away the leases of nodes that live. Their owners put
//! them back within seconds, and until then their pods must stay reachable. So a peer that vanishes
//! together with our own lease, which cannot have ended, is kept until it is back or the grace period is over.

use ipnet::IpNet;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::family::Family;
use crate::lease::table::{LeaseTable, PeerChange};
use crate::lease::{Lease, Subnets};
use crate::store::{Change, Record};

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
    lingering: BTreeMap<Subnets, Arc<Lease>>,
    grace_ends: Option<Duration>,
    /// Peers that vanished a moment ago.
    recent: VecDeque<(Duration, Arc<Lease>)>,
    /// When our own lease vanished, or the store was found wiped.
    wiped: Option<Duration>,
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
    pub const fn lingering(&self) -> &BTreeMap<Subnets, Arc<Lease>> {
        &self.lingering
    }

    /// When [`Cluster::tick`] has something to do.
    #[must_use]
    pub const fn next_tick(&self) -> Option<Duration> {
        self.grace_ends
    }

    /// Every lease that counts, in no order between the store's and the kept ones.
    pub fn leases(&self) -> impl Iterator<Item = &Arc<Lease>> {
        self.table.leases().values().map(|entry| &entry.lease).chain(self.lingering.values())
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
        records: &[Record],
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

    /// Gives up the kept peers once the grace period is over.
    pub fn tick(&mut self, now: Duration) -> Vec<PeerChange> {
        if self.grace_ends.is_none_or(|ends| now < ends) {
            return Vec::new();
        }
        self.grace_ends = None;
        std::mem::take(&mut self.lingering)
            .into_iter()
            .map(|(subnets, lease)| PeerChange { subnets, before: Some(lease), after: None })
            .collect()
    }

    fn settle(&mut self, changes: Vec<PeerChange>, own: Option<&Subnets>, now: Duration) -> Vec<PeerChange> {
        self.recent.retain(|(at, _)| *at + WIPE > now);
        let lost_ours = own
            .is_some_and(|own| changes.iter().any(|change| change.subnets == *own && change.after.is_none()));
        let mut settled = Vec::new();
        if lost_ours {
            self.wiped = Some(now);
            settled.extend(self.revive(now));
        }
        let wiped = self.wiped.is_some_and(|at| now < at + WIPE);
        for change in changes {
            let Some(lease) = &change.after else {
                match change.before.as_ref().filter(|_| own != Some(&change.subnets)) {
                    Some(before) if wiped => self.keep(Arc::clone(before), now),
                    Some(before) => {
                        self.recent.push_back((now, Arc::clone(before)));
                        settled.push(change);
                    }
                    None => settled.push(change),
                }
                continue;
            };
            self.recent.retain(|(_, recent)| !recent.subnets.overlap(&lease.subnets));
            settled.extend(self.displace(lease));
            let before = change.before.clone().or_else(|| self.lingering.remove(&change.subnets));
            if before.as_ref().is_none_or(|before| before.attrs != lease.attrs) {
                settled.push(PeerChange { before, ..change });
            }
        }
        if self.lingering.is_empty() {
            self.grace_ends = None;
        }
        settled
    }

    fn keep(&mut self, lease: Arc<Lease>, now: Duration) {
        self.lingering.insert(lease.subnets, lease);
        self.grace_ends = Some(now + GRACE);
    }

    /// Brings back the peers that vanished just before our own lease did.
    fn revive(&mut self, now: Duration) -> Vec<PeerChange> {
        let recent = std::mem::take(&mut self.recent);
        let mut revived = Vec::new();
        for (_, lease) in recent {
            revived.push(PeerChange {
                subnets: lease.subnets,
                before: None,
                after: Some(Arc::clone(&lease)),
            });
            self.keep(lease, now);
        }
        revived
    }

    /// A lease of the store ends the grace of every kept peer that it overlaps: the subnet has a new owner.
    fn displace(&mut self, lease: &Lease) -> Vec<PeerChange> {
        let displaced: Vec<Subnets> = self
            .lingering
            .keys()
            .filter(|kept| **kept != lease.subnets && kept.overlap(&lease.subnets))
            .copied()
            .collect();
        displaced
            .into_iter()
            .map(|subnets| PeerChange { subnets, before: self.lingering.remove(&subnets), after: None })
            .collect()
    }
}

#[cfg(test)]
mod tests;
