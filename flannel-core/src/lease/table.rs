//! The leases of the cluster, fed by listings and changes of the store.

use ipnet::IpNet;
use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
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
    /// The name of its node, if the store knows nodes by name.
    pub node: Option<Box<str>>,
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
    /// The subnets of the leases, in the order of their addresses.
    nets: BTreeSet<(IpNet, Subnets)>,
    /// How many leases each node has, by its address.
    nodes: BTreeMap<IpAddr, u32>,
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

    /// The name of the node that has a lease, if the store knows nodes by name.
    #[must_use]
    pub fn node(&self, subnets: &Subnets) -> Option<&str> {
        self.leases.get(subnets)?.node.as_deref()
    }

    /// Takes a listing as the whole truth and tells what is different from before.
    pub fn replace(&mut self, records: impl IntoIterator<Item = impl Borrow<Record>>) -> Vec<PeerChange> {
        self.ready = true;
        self.rejected.clear();
        let mut seen = BTreeSet::new();
        let mut changes = Vec::new();
        for record in records {
            let record = record.borrow();
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
        // Inserts in ascending order leave the maps half full.
        self.leases = std::mem::take(&mut self.leases).into_iter().collect();
        self.nets = std::mem::take(&mut self.nets).into_iter().collect();
        self.nodes = std::mem::take(&mut self.nodes).into_iter().collect();
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
        let lease = Arc::new(Lease { subnets, attrs, revision: record.revision });
        let node = record.node.as_deref().map(Box::from);
        let entry = TableEntry { lease: Arc::clone(&lease), grant: record.grant, node };
        let before = self.leases.insert(subnets, entry).map(|entry| entry.lease);
        let same = before.as_ref().is_some_and(|before| before.attrs == lease.attrs);
        if let Some(before) = &before {
            self.leave(before);
        } else {
            self.nets.extend(subnets.iter().map(|net| (net.trunc(), subnets)));
        }
        if let Some(node) = lease.attrs.node() {
            *self.nodes.entry(node).or_default() += 1;
        }
        // A renewal by a Go daemon rewrites the record with the same content: nothing changed for us.
        (!same).then_some(PeerChange { subnets, before, after: Some(lease) })
    }

    fn remove(&mut self, subnets: &Subnets) -> Option<PeerChange> {
        let lease = self.leases.remove(subnets)?.lease;
        self.leave(&lease);
        for net in subnets.iter() {
            self.nets.remove(&(net.trunc(), *subnets));
        }
        Some(PeerChange { subnets: *subnets, before: Some(lease), after: None })
    }

    /// A lease no longer belongs to its node.
    fn leave(&mut self, lease: &Lease) {
        let Some(node) = lease.attrs.node() else { return };
        match self.leases_of(node) {
            0 | 1 => drop(self.nodes.remove(&node)),
            count => drop(self.nodes.insert(node, count - 1)),
        }
    }

    fn leases_of(&self, node: IpAddr) -> u32 {
        self.nodes.get(&node).copied().unwrap_or_default()
    }

    /// Whether another lease takes the place of one that is no longer here; see [`Lease::is_replaced_by`].
    #[must_use]
    pub fn has_replaced(&self, gone: &Lease) -> bool {
        let is_of = |node: &IpAddr| {
            // It may be here again.
            let same =
                self.leases.get(&gone.subnets).is_some_and(|entry| entry.lease.attrs.node() == Some(*node));
            self.leases_of(*node) > u32::from(same)
        };
        gone.attrs.node().as_ref().is_some_and(is_of) || self.overlapping(&gone.subnets).next().is_some()
    }

    /// Leases other than `own` that share addresses with it. Never more than the few that a race with an
    /// older flannel or a manual write can leave.
    pub fn overlapping(&self, own: &Subnets) -> impl Iterator<Item = &Arc<Lease>> {
        let found: BTreeSet<&Subnets> = own.iter().flat_map(|net| self.sharing(net.trunc())).collect();
        found
            .into_iter()
            .filter(move |subnets| *subnets != own)
            .filter_map(|subnets| Some(&self.leases.get(subnets)?.lease))
    }

    /// The leases with addresses of `net`. Prefixes nest or are apart, so theirs begin inside of it, or contain it.
    fn sharing(&self, net: IpNet) -> impl Iterator<Item = &Subnets> {
        const FIRST: Subnets = Subnets { v4: None, v6: None };
        let begin = IpNet::new(net.network(), 0).unwrap_or(net);
        let inside =
            self.nets.range((begin, FIRST)..).take_while(move |(other, _)| net.contains(&other.network()));
        let around = std::iter::successors(net.supernet(), IpNet::supernet);
        let around = around.filter(move |outer| outer.network() != net.network());
        let around = around.flat_map(|outer| {
            self.nets.range((outer, FIRST)..).take_while(move |(other, _)| *other == outer)
        });
        inside.chain(around).map(|(_, subnets)| subnets)
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
