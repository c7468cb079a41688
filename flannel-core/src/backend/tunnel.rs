//! What tunnels have in common: the MTU, the device with its address, and direct routes beside the tunnel.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{BackendError, Behaviour, Node};
use crate::dataplane::mark::alias;
use crate::dataplane::{Address, AddressKey, Dataplane, Link};
use crate::facts::{HostFacts, RouteFacts, RouteLookup};
use crate::family::Family;
use crate::link::{IfIndex, LinkName};

/// The MTU inside the tunnel of `family`.
pub(super) fn mtu(backend: &dyn Behaviour, family: Family, external_mtu: u32) -> Result<u32, BackendError> {
    let (underlay, overhead) = (backend.underlay_mtu(external_mtu), backend.overhead(family));
    // The least MTU of IP: RFC 791 and RFC 8200 section 5. Below it the kernel turns IPv6 off on the device.
    let least = match family {
        _ if overhead == 0 => 0,
        Family::V4 => 68,
        Family::V6 => 1280,
    };
    let mtu = underlay.saturating_sub(overhead);
    if mtu < least {
        let needed = least + overhead;
        return Err(BackendError::Other(format!(
            "the MTU of the underlay is {underlay}, but an {family} tunnel needs {needed}: raise it, or Backend.MTU where that is the smaller one"
        )));
    }
    Ok(mtu)
}

/// Adds the device of `family` with its address, the first of our subnet.
pub(super) fn add_device(
    base: &mut Dataplane,
    node: &Node<'_>,
    family: Family,
    name: &LinkName,
    link: Link,
) -> Result<(), BackendError> {
    let subnet = node.subnets.get(family).ok_or(BackendError::NoSubnet(family))?;
    let networks: Vec<IpNet> = node.networks.iter().map(|(_, network)| *network).collect();
    base.links.insert(name.clone(), Link { alias: Some(alias(&networks)), ..link });
    let net = IpNet::from(subnet.network());
    base.addresses.insert(AddressKey { link: name.clone(), net }, Address);
    Ok(())
}

/// Routes of the underlay, which decide on direct routing.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Underlay {
    routes: RouteLookup,
    names: BTreeMap<IfIndex, LinkName>,
}

impl Underlay {
    /// The routes of the host without those through our devices.
    pub(super) fn new(facts: &HostFacts, base: &Dataplane) -> Self {
        let foreign = facts.links.iter().filter(|link| !base.links.contains_key(&link.name));
        let names: BTreeMap<_, _> = foreign.map(|link| (link.index, link.name.clone())).collect();
        let has_link = |route: &&RouteFacts| route.link.is_some_and(|index| names.contains_key(&index));
        Self { routes: RouteLookup::new(facts.routes.iter().filter(has_link)), names }
    }

    /// The interface on whose link `address` is: its route has no next hop.
    pub(super) fn link_to(&self, address: IpAddr) -> Option<&LinkName> {
        let route = self.routes.find(address).filter(|route| route.gateway.is_none())?;
        self.names.get(&route.link?)
    }
}
