//! Desired state of a whole cluster, kept up to date at the cost of each change.

use ipnet::{Ipv4Net, Ipv6Net};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
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
    is_contested: bool,
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
        let leases: BTreeMap<_, _> = peers.into_iter().map(|lease| (lease.subnets, lease)).collect();
        let (dataplane, macs, errors) = (desired.base().clone(), BTreeSet::new(), BTreeMap::new());
        let mut assembly = Self { desired, leases, macs, dataplane, errors, is_contested: false };
        let mut macs = Vec::new();
        for lease in assembly.leases.clone().into_values() {
            let peer = assembly.desired.peer(&lease);
            macs.extend(macs_of(&peer.dataplane).map(|(family, mac)| (family, mac, lease.subnets)));
            assembly.add(lease.subnets, peer);
        }
        assembly.macs = macs.into_iter().collect();
        assembly.dataplane.pack();
        assembly
    }

    /// Whether it is what [`Assembly::new`] makes of `desired` and `peers`.
    #[must_use]
    pub fn is_made_of(&self, desired: &Desired, peers: &[Arc<Lease>]) -> bool {
        !self.is_contested
            && self.leases.len() == peers.len()
            && self.desired == *desired
            && peers.iter().all(|lease| self.leases.get(&lease.subnets) == Some(lease))
    }

    /// Notes that leases in it have shared addresses: which of two leases has an address depends on both, so that changes of one
    /// leave an incomplete state behind. [`Assembly::is_made_of`] is `false` from now on.
    pub const fn set_contested(&mut self) {
        self.is_contested = true;
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

    /// Addresses of peers that are not on the link, as the backend requires.
    #[must_use]
    pub fn off_link(&self) -> Vec<IpAddr> {
        let address = |error: &PeerError| match error {
            PeerError::OffLink { address, .. } => Some(*address),
            _ => None,
        };
        self.errors.values().flatten().filter_map(address).collect()
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
        let peer =
            |lease: Option<&Arc<Lease>>| lease.map(|lease| self.desired.peer(lease)).unwrap_or_default();
        let (old, mut new) = (peer(self.leases.get(&subnets)).dataplane, Some(peer(lease.as_ref())));
        let mut touched = new.as_ref().map(|new| new.dataplane.clone()).unwrap_or_default();
        let (old_macs, new_macs): (Vec<_>, Vec<_>) = (macs_of(&old).collect(), macs_of(&touched).collect());
        let affected = self.affected(subnets, [old_macs.as_slice(), &new_macs].concat());

        touched.extend(old);
        for other in affected.iter().filter(|other| **other != subnets) {
            touched.extend(peer(self.leases.get(other)).dataplane);
        }
        let before = self.dataplane.restricted_to(&touched);
        self.dataplane.retract(&touched);
        for (family, mac) in old_macs {
            self.macs.remove(&(family, mac, subnets));
        }
        self.macs.extend(new_macs.into_iter().map(|(family, mac)| (family, mac, subnets)));
        match lease {
            Some(lease) => drop(self.leases.insert(subnets, lease)),
            None => drop(self.leases.remove(&subnets)),
        }
        for affected in affected {
            self.errors.remove(&affected);
            let new = new.take_if(|_| affected == subnets);
            let known = || self.leases.get(&affected).map(|lease| self.desired.peer(lease));
            if let Some(peer) = new.or_else(known) {
                self.add(affected, peer);
            }
        }
        Difference { before, after: self.dataplane.restricted_to(&touched) }
    }

    /// The peers that share an FDB entry or a neighbour with this one, directly or by way of others, and itself.
    fn affected(&self, subnets: Subnets, mut macs: Vec<(Family, Mac)>) -> BTreeSet<Subnets> {
        let (mut affected, mut seen) = (BTreeSet::from([subnets]), BTreeSet::new());
        let mut begins = vec![subnets];
        loop {
            let sharers: Vec<Subnets> = match (begins.pop(), macs.pop()) {
                (Some(subnets), mac) => {
                    macs.extend(mac);
                    self.beside(subnets).collect()
                }
                (None, Some((family, mac))) if seen.insert((family, mac)) => {
                    self.sharers(family, mac).collect()
                }
                (None, Some(_)) => Vec::new(),
                (None, None) => return affected,
            };
            for sharer in sharers {
                if let Some(lease) = self.leases.get(&sharer)
                    && affected.insert(sharer)
                {
                    macs.extend(macs_of(&self.desired.peer(lease).dataplane));
                    begins.push(sharer);
                }
            }
        }
    }

    /// The leases that begin at the same address, so that they share the neighbour of their tunnel endpoint: they overlap.
    fn beside(&self, subnets: Subnets) -> impl Iterator<Item = Subnets> {
        let begin = |subnets: &Subnets| subnets.iter().next().map(|net| net.addr());
        let first = match (subnets.v4, subnets.v6) {
            (Some(net), _) => Subnets { v4: Ipv4Net::new(net.addr(), 0).ok(), v6: None },
            (None, net) => Subnets { v4: None, v6: net.and_then(|net| Ipv6Net::new(net.addr(), 0).ok()) },
        };
        let leases = self.leases.range(first..).map(|(other, _)| *other);
        leases.take_while(move |other| begin(other) == begin(&subnets))
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

fn macs_of(peer: &Dataplane) -> impl Iterator<Item = (Family, Mac)> {
    peer.fdb.iter().filter_map(|(key, entry)| Some((Family::of(*entry.destinations.first()?), key.mac)))
}
