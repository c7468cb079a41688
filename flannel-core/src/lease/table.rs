//! The leases of the cluster, fed by listings and changes of the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::error::chain;
use crate::lease::{Lease, LeaseAttrs, Subnets};
use crate::store::{Change, Grant, Record};

/// A lease with what keeps it alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableEntry {
    /// The lease.
    pub lease: Arc<Lease>,
    /// What keeps it alive; `None` is a reservation.
    pub grant: Option<Grant>,
}

/// What changed for one subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerChange {
    /// The subnet.
    pub subnets: Subnets,
    /// The lease until now.
    pub before: Option<Arc<Lease>>,
    /// The lease from now on.
    pub after: Option<Arc<Lease>>,
}

/// All leases that the store holds. A record that cannot be read is left out, named in
/// [`LeaseTable::rejected`], and hurts nobody else.
#[derive(Clone, Debug, Default)]
pub struct LeaseTable {
    ready: bool,
    leases: BTreeMap<Subnets, TableEntry>,
    /// Key to reason.
    rejected: BTreeMap<String, String>,
}

impl LeaseTable {
    /// A whole listing has been seen, so what is not here does not exist.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.ready
    }

    /// All leases in the order of their subnets.
    #[must_use]
    pub const fn leases(&self) -> &BTreeMap<Subnets, TableEntry> {
        &self.leases
    }

    /// Records that are left out: key and reason.
    #[must_use]
    pub const fn rejected(&self) -> &BTreeMap<String, String> {
        &self.rejected
    }

    /// Takes a listing as the whole truth and tells what is different from before.
    pub fn replace(&mut self, records: &[Record]) -> Vec<PeerChange> {
        self.ready = true;
        self.rejected.clear();
        let mut seen = BTreeSet::new();
        let mut changes = Vec::new();
        for record in records {
            // An unreadable value under a good key is not a vanished lease of before: nothing is known of it.
            if let Some(change) = self.put(record) {
                changes.push(change);
            }
            if let Ok(subnets) = Subnets::parse_key(&record.key)
                && !self.rejected.contains_key(&record.key)
            {
                seen.insert(subnets);
            }
        }
        let gone: Vec<Subnets> =
            self.leases.keys().filter(|subnets| !seen.contains(subnets)).copied().collect();
        changes.extend(gone.into_iter().filter_map(|subnets| self.remove(&subnets)));
        changes
    }

    /// Takes one change and tells what it means.
    pub fn apply(&mut self, change: &Change) -> Option<PeerChange> {
        match change {
            Change::Put(record) => {
                self.rejected.remove(&record.key);
                self.put(record)
            }
            Change::Delete { key } => {
                self.rejected.remove(key);
                Subnets::parse_key(key).ok().and_then(|subnets| self.remove(&subnets))
            }
            Change::Config(_) | Change::Own(_) => None,
        }
    }

    fn put(&mut self, record: &Record) -> Option<PeerChange> {
        let (subnets, attrs) = match read(record) {
            Ok(parsed) => parsed,
            Err(reason) => {
                self.rejected.insert(record.key.clone(), reason);
                // A lease whose record has become unreadable no longer says how its node is reached.
                return Subnets::parse_key(&record.key).ok().and_then(|subnets| self.remove(&subnets));
            }
        };
        let lease = Lease { subnets, attrs, revision: record.revision };
        let before = self.leases.get(&subnets).map(|entry| Arc::clone(&entry.lease));
        let same = before.as_ref().is_some_and(|before| before.attrs == lease.attrs);
        let lease = Arc::new(lease);
        self.leases.insert(subnets, TableEntry { lease: Arc::clone(&lease), grant: record.grant });
        // A renewal by a Go daemon rewrites the record with the same content: nothing changed for us.
        (!same).then_some(PeerChange { subnets, before, after: Some(lease) })
    }

    fn remove(&mut self, subnets: &Subnets) -> Option<PeerChange> {
        let entry = self.leases.remove(subnets)?;
        Some(PeerChange { subnets: *subnets, before: Some(entry.lease), after: None })
    }

    /// Leases other than `own` that share addresses with it. Never more than the few that a race with an
    /// older flannel or a manual write can leave.
    pub fn overlapping<'a>(&'a self, own: &'a Subnets) -> impl Iterator<Item = &'a Arc<Lease>> {
        self.leases
            .values()
            .map(|entry| &entry.lease)
            .filter(move |lease| lease.subnets != *own && lease.subnets.overlap(own))
    }
}

/// Reads a record.
fn read(record: &Record) -> Result<(Subnets, LeaseAttrs), String> {
    if let Some(fault) = &record.fault {
        return Err(fault.clone());
    }
    let subnets = Subnets::parse_key(&record.key).map_err(|error| chain(&error))?;
    if subnets.v4.is_none() && subnets.v6.is_none() {
        return Err("the key names no subnet".to_owned());
    }
    let attrs = LeaseAttrs::parse(&record.value).map_err(|error| chain(&error))?;
    Ok((subnets, attrs))
}

#[cfg(test)]
mod tests;
