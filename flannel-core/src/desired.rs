//! What the kernel should have, from the config, our own lease, the leases of others and facts of the host.
//!
//! It is made of a base, our own device and what belongs to it, and of one fragment for each peer. A
//! fragment depends on the lease of that peer alone, so that a change of a lease costs as much as the
//! fragment, whatever the size of the cluster: [`Assembly`] keeps the sum. Peers whose subnets overlap are
//! for the caller to sort out.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::backend::{self, BackendError, Endpoint, PeerError, Peering, Prepared};
use crate::config::NetworkConfig;
use crate::dataplane::{Dataplane, FdbEntry, FdbKey};
use crate::external::ExternalInterface;
use crate::facts::HostFacts;
use crate::family::{DualStack, Family};
use crate::lease::{Lease, LeaseAttrs, Subnets};
use crate::link::{LinkName, Mac};

pub use assembly::{Assembly, Difference};
pub use next_hops::{NextHops, NexthopThreshold};

mod assembly;
mod blackhole;
mod next_hops;
pub mod stranded;

/// Our own part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What our lease holds.
    pub subnets: Subnets,
    /// The interface that carries traffic between nodes.
    pub external: ExternalInterface,
    /// Our tunnel endpoints, for backends that have some.
    pub endpoints: DualStack<Endpoint>,
    /// Packets to pods of this node that do not exist are dropped (`--ip-blackhole-route`).
    pub blackhole: bool,
    /// Pods that have addresses of a lost subnet ([`stranded`]), and their bridges.
    pub stranded: BTreeMap<IpAddr, LinkName>,
    /// Where the next hops of routes to peers are.
    pub next_hops: NextHops,
}

/// Desired state of one node.
#[derive(Clone, Debug)]
pub struct Desired {
    peering: Option<Arc<dyn Peering>>,
    /// The name that peers of ours publish.
    published_type: &'static str,
    uses_underlay_routes: bool,
    /// Networks that the backend carries.
    networks: DualStack<IpNet>,
    node: Node,
    /// Addresses of the external interface with their networks.
    underlay: Vec<IpNet>,
    base: Dataplane,
}

impl PartialEq for Desired {
    fn eq(&self, other: &Self) -> bool {
        let Self { peering, published_type, uses_underlay_routes, networks, node, underlay, base } = self;
        let has_same_peering = match (peering, &other.peering) {
            (Some(one), Some(other)) => one.is_same(other.as_ref()),
            (one, other) => one.is_none() && other.is_none(),
        };
        has_same_peering
            && (published_type, uses_underlay_routes) == (&other.published_type, &other.uses_underlay_routes)
            && (networks, node) == (&other.networks, &other.node)
            && (underlay, base) == (&other.underlay, &other.base)
    }
}

/// What one peer needs in the kernel.
#[derive(Debug, Default)]
pub struct Peer {
    /// Its objects. A family with a fault has none, the other is not affected.
    pub dataplane: Dataplane,
    /// Faults of its lease, at most one for each family.
    pub errors: Vec<PeerError>,
}

impl Desired {
    /// Works out our own part.
    ///
    /// # Errors
    /// If config, lease and host do not fit together.
    pub fn new(config: &NetworkConfig, node: &Node, facts: &HostFacts) -> Result<Self, BackendError> {
        let (backend, networks) = (&config.backend, config.networks());
        let missing = |(family, _): (Family, _)| node.subnets.get(family).is_none().then_some(family);
        if let Some(family) = networks.iter().find_map(missing) {
            return Err(BackendError::NoSubnet(family));
        }
        let Prepared { mut base, peering } = backend.prepare(&backend::Node {
            networks,
            subnets: node.subnets,
            external: &node.external,
            endpoints: node.endpoints,
            facts,
        })?;
        if node.blackhole {
            let subnets = networks.iter().filter_map(|(family, _)| node.subnets.get(family));
            base.routes.extend(subnets.map(blackhole::route));
        }
        if peering.is_some() {
            base.routes.extend(node.stranded.iter().map(stranded::route));
        }
        Ok(Self {
            peering,
            published_type: backend.published_type(),
            uses_underlay_routes: backend.uses_underlay_routes(),
            networks: backend.served(&networks),
            node: node.clone(),
            underlay: facts
                .links
                .iter()
                .filter(|link| link.name == node.external.name)
                .flat_map(|link| link.addresses.iter().map(|address| address.net))
                .collect(),
            base,
        })
    }

    /// What does not depend on peers: our device, its addresses, the blackhole.
    #[must_use]
    pub const fn base(&self) -> &Dataplane {
        &self.base
    }

    /// The tunnel devices, whose neighbours and FDB entries are ours.
    pub fn tunnels(&self) -> impl Iterator<Item = &LinkName> {
        self.base.links.keys()
    }

    /// Whether routes of the underlay decide how peers are reached.
    #[must_use]
    pub const fn depends_on_routes(&self) -> bool {
        self.uses_underlay_routes
    }

    /// There are pods with addresses of a lost subnet.
    #[must_use]
    pub fn has_stranded_pods(&self) -> bool {
        !self.node.stranded.is_empty()
    }

    /// Where the next hops of routes to peers are.
    #[must_use]
    pub const fn next_hops(&self) -> &NextHops {
        &self.node.next_hops
    }

    /// What `lease` needs. Our own lease needs nothing.
    #[must_use]
    pub fn peer(&self, lease: &Lease) -> Peer {
        let mut peer = Peer::default();
        let Some(peering) = self.peering.as_deref().filter(|_| lease.subnets != self.node.subnets) else {
            return peer;
        };
        if !self.published_type.is_empty() && lease.attrs.is_unclaimed() {
            // Nobody is there yet, which is no fault.
            return peer;
        }
        if lease.attrs.backend_type != self.published_type {
            peer.errors.push(PeerError::OtherBackend {
                found: lease.attrs.backend_type.clone(),
                ours: self.published_type,
            });
            return peer;
        }
        for (family, network) in self.networks.iter() {
            let Some(subnet) = lease.subnets.get(family) else { continue };
            let reached = self
                .address(&lease.attrs, family, *network, subnet)
                .and_then(|address| peering.peer(&lease.attrs, subnet.trunc(), address));
            match reached {
                Ok(fragment) => peer.dataplane.extend(fragment),
                Err(error) => peer.errors.push(error),
            }
        }
        if let NextHops::Objects { taken } = &self.node.next_hops {
            peer.dataplane.use_nexthops(|id| taken.contains(&id));
        }
        peer
    }

    /// The address that packets to `subnet` are sent to, if the lease is sound.
    fn address(
        &self,
        attrs: &LeaseAttrs,
        family: Family,
        network: IpNet,
        subnet: IpNet,
    ) -> Result<IpAddr, PeerError> {
        // Keys may have host bits, which the kernel refuses in destinations.
        let subnet = subnet.trunc();
        if !network.contains(&subnet) || subnet == network {
            return Err(PeerError::Other(format!("the subnet {subnet} is outside the network {network}")));
        }
        if let Some(own) =
            self.node.subnets.get(family).filter(|own| own.contains(&subnet) || subnet.contains(own))
        {
            return Err(PeerError::Other(format!(
                "the subnet {subnet} overlaps the subnet {own} of this node"
            )));
        }
        // The route would replace the kernel's route to the neighbours of this host, or hide it: the store and all nodes
        // would be unreachable.
        let hides = |net: &&IpNet| net.contains(&subnet) && subnet.contains(&net.addr());
        if let Some(net) = self.underlay.iter().find(hides) {
            let name = &self.node.external.name;
            return Err(PeerError::Other(format!(
                "the subnet {subnet} contains the address {net} of the external interface {name}, its route would cut this node \
                 off; exclude it with SubnetMin and SubnetMax"
            )));
        }
        let address = attrs.public_address(family).filter(|address| is_host(*address));
        let address = address.ok_or(PeerError::NoPublicAddress(family))?;
        let external = &self.node.external;
        if [external.public.get(family), external.address.get(family)].contains(&Some(&address)) {
            return Err(PeerError::OwnAddress(address));
        }
        Ok(address)
    }

    /// Everything, and the faults of peers. Of peers with one VTEP MAC the first has it.
    #[must_use]
    pub fn full<'a>(
        &self,
        peers: impl IntoIterator<Item = &'a Lease>,
    ) -> (Dataplane, Vec<(Subnets, PeerError)>) {
        let (mut full, mut errors) = (self.base.clone(), Vec::new());
        for lease in peers {
            let mut peer = self.peer(lease);
            yield_to(&full, &mut peer);
            full.extend(peer.dataplane);
            errors.extend(peer.errors.into_iter().map(|error| (lease.subnets, error)));
        }
        (full, errors)
    }
}

/// Takes out of `peer` the families whose VTEP MAC another peer has with another address.
fn yield_to(full: &Dataplane, peer: &mut Peer) {
    let is_taken = |key: &FdbKey, entry: &FdbEntry| full.fdb.get(key).is_some_and(|found| found != entry);
    let taken = peer.dataplane.fdb.iter().filter(|(key, entry)| is_taken(key, entry));
    let taken: Vec<(Family, Mac)> =
        taken.filter_map(|(key, entry)| Some((Family::of(*entry.destinations.first()?), key.mac))).collect();
    for (family, mac) in taken {
        drop_family(&mut peer.dataplane, family);
        peer.errors.push(PeerError::DuplicateMac { family, mac });
    }
}

fn drop_family(peer: &mut Dataplane, family: Family) {
    peer.neighbours.retain(|key, _| Family::of(key.address) != family);
    peer.fdb.retain(|_, entry| entry.destinations.iter().all(|address| Family::of(*address) != family));
    peer.routes.retain(|key, _| Family::of_net(key.destination) != family);
    // Only routes of IPv4 have one.
    peer.nexthops.retain(|_, _| family != Family::V4);
}

/// Whether an address can be that of one other host.
fn is_host(address: IpAddr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST))
}

#[cfg(test)]
mod tests;
