//! Desired state of a whole cluster, kept up to date at the cost of each change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Desired, Peer};
use crate::backend::PeerError;
use crate::dataplane::{Dataplane, Op};
use crate::family::Family;
use crate::lease::{Lease, Subnets};
use crate::link::Mac;
use crate::plan::{Prune, plan};

/// Base and fragments put together.
///
/// Fragments meet in the FDB entry of a VTEP MAC that several leases have. That happens when a node holds two
/// leases for a while, since it moved to another subnet: the entry must outlive the first of them. If the leases
/// have different addresses (cloned machines), the first in the order of subnets has the entry, and the
/// others are faulty.
#[derive(Clone, Debug)]
pub struct Assembly {
    desired: Desired,
    leases: BTreeMap<Subnets, Arc<Lease>>,
    /// Who publishes which MAC.
    macs: BTreeSet<(Family, Mac, Subnets)>,
    dataplane: Dataplane,
    errors: BTreeMap<Subnets, Vec<PeerError>>,
}

/// What a change of one lease changes, complete for the objects that it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Until now.
    pub before: Dataplane,
    /// From now on.
    pub after: Dataplane,
}

impl Difference {
    /// The ops for a kernel that has what was desired until now.
    #[must_use]
    pub fn plan(&self) -> Vec<Op> {
        plan(&self.after, &self.before, Prune::Surplus)
    }
}

impl Assembly {
    /// Puts everything together.
    #[must_use]
    pub fn new(desired: Desired, peers: impl IntoIterator<Item = Arc<Lease>>) -> Self {
        let leases = peers.into_iter().map(|lease| (lease.subnets, lease)).collect();
        let (dataplane, macs, errors) = (desired.base().clone(), BTreeSet::new(), BTreeMap::new());
        let mut assembly = Self { desired, leases, macs, dataplane, errors };
        for lease in assembly.leases.clone().into_values() {
            let peer = assembly.desired.peer(&lease);
            assembly.macs.extend(macs_of(&lease.subnets, &peer.dataplane));
            assembly.add(lease.subnets, peer);
        }
        assembly
    }

    /// The rules it is made by.
    #[must_use]
    pub const fn desired(&self) -> &Desired {
        &self.desired
    }

    /// What the kernel should have.
    #[must_use]
    pub const fn dataplane(&self) -> &Dataplane {
        &self.dataplane
    }

    /// Peers that cannot be reached, or not in one family.
    #[must_use]
    pub const fn errors(&self) -> &BTreeMap<Subnets, Vec<PeerError>> {
        &self.errors
    }

    /// The peers.
    #[must_use]
    pub const fn leases(&self) -> &BTreeMap<Subnets, Arc<Lease>> {
        &self.leases
    }

    /// Takes a new or changed lease.
    pub fn set(&mut self, lease: Arc<Lease>) -> Difference {
        self.change(lease.subnets, Some(lease))
    }

    /// Forgets a lease.
    pub fn remove(&mut self, subnets: &Subnets) -> Difference {
        self.change(*subnets, None)
    }

    fn change(&mut self, subnets: Subnets, lease: Option<Arc<Lease>>) -> Difference {
        let new = lease.as_ref().map(|lease| self.desired.peer(lease).dataplane).unwrap_or_default();
        let new_macs: Vec<_> = macs_of(&subnets, &new).collect();
        let affected = self.affected(subnets, &new_macs);

        let mut touched = new;
        for subnets in &affected {
            if let Some(lease) = self.leases.get(subnets) {
                touched.extend(self.desired.peer(lease).dataplane);
            }
        }
        let before = self.dataplane.restricted_to(&touched);
        self.dataplane.retract(&touched);
        for (family, mac) in self.macs_in_use(&subnets) {
            self.macs.remove(&(family, mac, subnets));
        }
        self.macs.extend(new_macs);
        match lease {
            Some(lease) => drop(self.leases.insert(subnets, lease)),
            None => drop(self.leases.remove(&subnets)),
        }
        for subnets in affected {
            self.errors.remove(&subnets);
            if let Some(lease) = self.leases.get(&subnets) {
                let peer = self.desired.peer(lease);
                self.add(subnets, peer);
            }
        }
        Difference { before, after: self.dataplane.restricted_to(&touched) }
    }

    /// The peers that share an FDB entry with this one, directly or by way of others, and itself.
    fn affected(&self, subnets: Subnets, new_macs: &[(Family, Mac, Subnets)]) -> BTreeSet<Subnets> {
        let mut affected = BTreeSet::from([subnets]);
        let mut open: Vec<(Family, Mac)> = new_macs.iter().map(|(family, mac, _)| (*family, *mac)).collect();
        open.extend(self.macs_in_use(&subnets));
        let mut seen = BTreeSet::new();
        while let Some((family, mac)) = open.pop() {
            if !seen.insert((family, mac)) {
                continue;
            }
            for sharer in self.sharers(family, mac) {
                if affected.insert(sharer) {
                    open.extend(self.macs_in_use(&sharer));
                }
            }
        }
        affected
    }

    fn macs_in_use(&self, subnets: &Subnets) -> Vec<(Family, Mac)> {
        let Some(lease) = self.leases.get(subnets) else { return Vec::new() };
        macs_of(subnets, &self.desired.peer(lease).dataplane).map(|(family, mac, _)| (family, mac)).collect()
    }

    fn sharers(&self, family: Family, mac: Mac) -> impl Iterator<Item = Subnets> {
        let first = Subnets { v4: None, v6: None };
        let from = self.macs.range((family, mac, first)..);
        from.take_while(move |(f, m, _)| (*f, *m) == (family, mac)).map(|(_, _, subnets)| *subnets)
    }

    fn add(&mut self, subnets: Subnets, mut peer: Peer) {
        super::yield_to(&self.dataplane, &mut peer);
        self.dataplane.extend(peer.dataplane);
        if !peer.errors.is_empty() {
            self.errors.insert(subnets, peer.errors);
        }
    }
}

fn macs_of<'a>(
    subnets: &'a Subnets,
    peer: &'a Dataplane,
) -> impl Iterator<Item = (Family, Mac, Subnets)> + 'a {
    peer.fdb
        .iter()
        .filter_map(|(key, entry)| Some((Family::of(*entry.destinations.first()?), key.mac, *subnets)))
}
