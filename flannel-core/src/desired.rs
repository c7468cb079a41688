//! What the kernel should have, from the config, our own lease, the leases of others and facts of the host.
//!
//! It is made of a base, our own device and what belongs to it, and of one fragment for each peer. A
//! fragment depends on the lease of that peer alone, so that a change of a lease costs as much as the
//! fragment, whatever the size of the cluster: [`Assembly`] keeps the sum. Peers whose subnets overlap are
//! for the caller to sort out.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::{BackendConfig, NetworkConfig};
use crate::dataplane::{Dataplane, FdbEntry, FdbKey, PROTOCOL, Route, RouteKey, RouteTarget};
use crate::external::ExternalInterface;
use crate::facts::HostFacts;
use crate::family::{DualStack, Family};
use crate::lease::{Lease, LeaseAttrs, Subnets};
use crate::link::{LinkName, Mac};

pub use assembly::{Assembly, Difference};
pub use error::{DesiredError, PeerError};
pub use vxlan::Endpoint;

mod alloc;
mod assembly;
mod blackhole;
mod error;
mod host_gw;
pub mod stranded;
pub mod vxlan;

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
}

/// Desired state of one node.
#[derive(Clone, Debug)]
pub struct Desired {
    backend: Backend,
    /// The name that peers of ours publish.
    published_type: &'static str,
    networks: DualStack<IpNet>,
    node: Node,
    base: Dataplane,
}

#[derive(Clone, Debug)]
enum Backend {
    Vxlan(vxlan::Tunnels),
    HostGw(host_gw::Gateways),
    Alloc,
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
    pub fn new(config: &NetworkConfig, node: &Node, facts: &HostFacts) -> Result<Self, DesiredError> {
        let mut networks = DualStack::default();
        for family in Family::ALL {
            *networks.slot(family) = config.network(family);
            if config.has(family) && node.subnets.get(family).is_none() {
                return Err(DesiredError::NoSubnet(family));
            }
        }
        let (backend, mut base) = match &config.backend {
            BackendConfig::Vxlan(options) => {
                let (tunnels, base) = vxlan::Tunnels::new(options, networks, node, facts)?;
                (Backend::Vxlan(tunnels), base)
            }
            BackendConfig::HostGw => {
                (Backend::HostGw(host_gw::Gateways::new(networks, node, facts)?), Dataplane::default())
            }
            BackendConfig::Alloc => (Backend::Alloc, alloc::base()),
            other => return Err(DesiredError::Backend(other.name())),
        };
        if node.blackhole {
            let subnets = networks.iter().filter_map(|(family, _)| node.subnets.get(family));
            base.routes.extend(subnets.map(blackhole::route));
        }
        if !matches!(backend, Backend::Alloc) {
            base.routes.extend(node.stranded.iter().map(stranded::route));
        }
        let published_type = config.backend.published_type();
        Ok(Self { backend, published_type, networks, node: node.clone(), base })
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
        match &self.backend {
            Backend::Vxlan(tunnels) => tunnels.is_direct(),
            Backend::HostGw(_) => true,
            Backend::Alloc => false,
        }
    }

    /// There are pods with addresses of a lost subnet.
    #[must_use]
    pub fn has_stranded_pods(&self) -> bool {
        !self.node.stranded.is_empty()
    }

    /// What `lease` needs. Our own lease needs nothing.
    #[must_use]
    pub fn peer(&self, lease: &Lease) -> Peer {
        let mut peer = Peer::default();
        if lease.subnets == self.node.subnets || matches!(self.backend, Backend::Alloc) {
            return peer;
        }
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
            match self.fragment(&lease.attrs, family, *network, subnet) {
                Ok(fragment) => peer.dataplane.extend(fragment),
                Err(error) => peer.errors.push(error),
            }
        }
        peer
    }

    fn fragment(
        &self,
        attrs: &LeaseAttrs,
        family: Family,
        network: IpNet,
        subnet: IpNet,
    ) -> Result<Dataplane, PeerError> {
        // Keys may have host bits, which the kernel refuses in destinations.
        let subnet = subnet.trunc();
        if !network.contains(&subnet) || subnet == network {
            return Err(PeerError::OutsideNetwork { subnet, network });
        }
        if let Some(own) =
            self.node.subnets.get(family).filter(|own| own.contains(&subnet) || subnet.contains(own))
        {
            return Err(PeerError::OwnSubnet { subnet, own });
        }
        let address = attrs.public_address(family).filter(|address| is_host(*address));
        let address = address.ok_or(PeerError::NoPublicAddress(family))?;
        let external = &self.node.external;
        if [external.public.get(family), external.address.get(family)].contains(&Some(&address)) {
            return Err(PeerError::OwnAddress(address));
        }
        match &self.backend {
            Backend::Vxlan(tunnels) => tunnels.peer(attrs, family, subnet, address),
            Backend::HostGw(gateways) => gateways.peer(subnet, address),
            Backend::Alloc => Ok(Dataplane::default()),
        }
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
}

/// Whether an address can be that of one other host.
fn is_host(address: IpAddr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST))
}

/// The key of a route of ours: the kernel's default metrics, which Go flannel has too.
fn route_key(destination: IpNet) -> RouteKey {
    let metric = match Family::of_net(destination) {
        Family::V4 => 0,
        Family::V6 => 1024,
    };
    RouteKey { destination, metric }
}

/// A route of ours to a next hop.
fn via(gateway: IpAddr, link: &LinkName, onlink: bool) -> Route {
    Route { target: RouteTarget::Via { gateway, link: link.clone(), onlink }, protocol: PROTOCOL }
}

/// The MTU of pods, which goes to `subnet.env`, on an external interface with `external_mtu`.
///
/// # Errors
/// If the backend leaves too little of it, or is none that can be run.
pub fn mtu(config: &NetworkConfig, external_mtu: u32) -> Result<u32, DesiredError> {
    match &config.backend {
        BackendConfig::Vxlan(options) => vxlan::mtu(options, config, external_mtu),
        BackendConfig::HostGw | BackendConfig::Alloc => Ok(external_mtu),
        other => Err(DesiredError::Backend(other.name())),
    }
}

/// Whether `config` can work on this host at all: what shows before there is a lease, and no pod should wait for.
///
/// # Errors
/// If the VNI makes a device name too long, or host-gw has a public address that is not on the interface.
pub fn check(
    config: &NetworkConfig,
    external: &ExternalInterface,
    facts: &HostFacts,
) -> Result<(), DesiredError> {
    let mut families = Family::ALL.into_iter().filter(|family| config.has(*family));
    match &config.backend {
        BackendConfig::Vxlan(options) => {
            families.try_for_each(|family| vxlan::device_name(options.vni, family).map(drop))
        }
        BackendConfig::HostGw if config.has(Family::V4) => host_gw::check(external, facts),
        _ => Ok(()),
    }
}

/// What our lease tells other nodes.
///
/// # Errors
/// If the backend is none that can be run, or an endpoint of it is missing.
pub fn attrs(
    config: &NetworkConfig,
    external: &ExternalInterface,
    endpoints: &DualStack<Endpoint>,
) -> Result<LeaseAttrs, DesiredError> {
    let mut attrs =
        LeaseAttrs { backend_type: config.backend.published_type().to_owned(), ..LeaseAttrs::default() };
    for family in Family::ALL.into_iter().filter(|family| config.has(*family)) {
        match external.public.get(family) {
            Some(IpAddr::V4(address)) => attrs.public_ip = Some(*address),
            Some(IpAddr::V6(address)) => attrs.public_ipv6 = Some(*address),
            None => return Err(DesiredError::NoAddress { family, link: external.name.clone() }),
        }
    }
    match &config.backend {
        BackendConfig::Vxlan(options) => vxlan::publish(&mut attrs, options, config, endpoints)?,
        BackendConfig::HostGw | BackendConfig::Alloc => {}
        other => return Err(DesiredError::Backend(other.name())),
    }
    Ok(attrs)
}

#[cfg(test)]
mod tests;
