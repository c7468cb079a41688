//! vxlan: a tunnel device for each family. A peer's subnet is routed to the peer's zero address, a
//! permanent neighbour entry turns that into the peer's MAC, and an FDB entry that into its public address.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{DesiredError, Node, PeerError, route_key, via};
use crate::config::{NetworkConfig, VxlanConfig};
use crate::dataplane::mark::alias;
use crate::dataplane::{
    Address, AddressKey, Dataplane, FdbEntry, FdbKey, Link, LinkKind, Neighbour, NeighbourKey, Vxlan,
};
use crate::facts::{HostFacts, RouteFacts, RouteLookup};
use crate::family::{DualStack, Family};
use crate::lease::LeaseAttrs;
use crate::lease::vxlan::VxlanData;
use crate::link::{IfIndex, LinkName, Mac, Vni};

/// One end of our tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The MAC that peers send to. It must be that of the device at all times.
    pub mac: Mac,
    /// UDP port of the device that was found at start; counts only where the config names none.
    pub port: Option<u16>,
}

/// The name of the device of `family`.
///
/// # Errors
/// If the number makes it longer than names can be.
pub fn device_name(vni: Vni, family: Family) -> Result<LinkName, DesiredError> {
    let (name, largest) = match family {
        Family::V4 => (format!("flannel.{vni}"), 9_999_999),
        Family::V6 => (format!("flannel-v6.{vni}"), 9_999),
    };
    name.parse().map_err(|_| DesiredError::NameTooLong { vni, name, largest })
}

/// The endpoints of devices that are there already, whoever made them. A start keeps their MAC, which peers know,
/// and, as Go flannel does, their port if the config names none. To be asked once, at start: later on
/// these are what a device is restored to.
#[must_use]
pub fn existing(options: &VxlanConfig, observed: &Dataplane) -> DualStack<Endpoint> {
    let mut endpoints = DualStack::default();
    for family in Family::ALL {
        let link = device_name(options.vni, family).ok().and_then(|name| observed.links.get(&name));
        if let Some(Link { kind: LinkKind::Vxlan(vxlan), mac: Some(mac), .. }) = link
            && mac.is_unicast()
            // Anything else goes as soon as we start ([`crate::plan::mismatch`]), and its port with it.
            && (vxlan.vni, vxlan.gbp, vxlan.group, vxlan.l2miss) == (options.vni, options.gbp, None, false)
        {
            let port = Some(vxlan.port).filter(|port| *port > 0);
            *endpoints.slot(family) = Some(Endpoint { mac: *mac, port });
        }
    }
    endpoints
}

/// What the headers of a tunnel take of the underlay's MTU: Ethernet 14, VXLAN 8, UDP 8, IP 20 or 40.
const fn overhead(family: Family) -> u32 {
    match family {
        Family::V4 => 50,
        Family::V6 => 70,
    }
}

/// The MTU of the underlay to reckon with. The kernel does not make a device larger than the interface under it
/// allows, so an option beyond that has no effect, for the device as for pods.
fn budget(options: &VxlanConfig, external_mtu: u32) -> u32 {
    options.mtu.unwrap_or(external_mtu).min(external_mtu)
}

fn device_mtu(options: &VxlanConfig, external_mtu: u32, family: Family) -> Result<u32, DesiredError> {
    // The least MTU of IP: RFC 791 and RFC 8200 section 5. Below it the kernel turns IPv6 off on the device.
    let least = match family {
        Family::V4 => 68,
        Family::V6 => 1280,
    };
    let budget = budget(options, external_mtu);
    let mtu = budget.saturating_sub(overhead(family));
    if mtu < least {
        return Err(DesiredError::MtuTooSmall { family, mtu: budget, least: least + overhead(family) });
    }
    Ok(mtu)
}

/// The MTU of pods.
///
/// Compatibility: in dual stack it is that of the IPv4 tunnel, as in Go flannel, so that all nodes of a cluster agree
/// and IPv4 loses nothing. The IPv6 device is 20 bytes smaller; a larger packet of a pod is answered with "packet
/// too big" by the node itself, one hop away, where no firewall of others can lose it. With IPv6 alone,
/// where Go's value helps nobody, it is what fits the tunnel.
pub(super) fn mtu(
    options: &VxlanConfig,
    config: &NetworkConfig,
    external_mtu: u32,
) -> Result<u32, DesiredError> {
    let families = Family::ALL.into_iter().filter(|family| config.has(*family));
    let mtus: Vec<u32> =
        families.map(|family| device_mtu(options, external_mtu, family)).collect::<Result<_, _>>()?;
    Ok(mtus.first().copied().unwrap_or(external_mtu))
}

/// Adds what peers need to know of our endpoints.
pub(super) fn publish(
    attrs: &mut LeaseAttrs,
    options: &VxlanConfig,
    config: &NetworkConfig,
    endpoints: &DualStack<Endpoint>,
) -> Result<(), DesiredError> {
    for family in Family::ALL.into_iter().filter(|family| config.has(*family)) {
        let Endpoint { mac, .. } = endpoints.get(family).ok_or(DesiredError::NoEndpoint(family))?;
        let data = Some(VxlanData { vni: Some(options.vni), vtep_mac: *mac }.to_raw());
        match family {
            Family::V4 => attrs.backend_data = data,
            Family::V6 => attrs.backend_v6_data = data,
        }
    }
    Ok(())
}

/// What is needed to reach peers.
#[derive(Clone, Debug)]
pub(super) struct Tunnels {
    devices: DualStack<LinkName>,
    /// With direct routing, the routes of the underlay.
    direct: Option<Underlay>,
}

#[derive(Clone, Debug)]
struct Underlay {
    routes: RouteLookup,
    names: BTreeMap<IfIndex, LinkName>,
}

impl Tunnels {
    /// The tunnels, and our own devices with their addresses.
    pub(super) fn new(
        options: &VxlanConfig,
        networks: DualStack<IpNet>,
        node: &Node,
        facts: &HostFacts,
    ) -> Result<(Self, Dataplane), DesiredError> {
        let mut devices = DualStack::default();
        let mut base = Dataplane::default();
        let alias = alias(&networks.iter().map(|(_, network)| *network).collect::<Vec<_>>());
        for (family, _) in networks.iter() {
            let name = device_name(options.vni, family)?;
            let subnet = node.subnets.get(family).ok_or(DesiredError::NoSubnet(family))?;
            let link = Link { alias: Some(alias.clone()), ..device(options, family, node, facts)? };
            base.links.insert(name.clone(), link);
            let net = IpNet::from(subnet.network());
            base.addresses.insert(AddressKey { link: name.clone(), net }, Address);
            *devices.slot(family) = Some(name);
        }
        let direct = options.direct_routing.then(|| Underlay::new(facts, &base));
        Ok((Self { devices, direct }, base))
    }

    pub(super) const fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    pub(super) fn peer(
        &self,
        attrs: &LeaseAttrs,
        family: Family,
        subnet: IpNet,
        address: IpAddr,
    ) -> Result<Dataplane, PeerError> {
        let mut peer = Dataplane::default();
        if let Some(link) = self.direct.as_ref().and_then(|underlay| underlay.link_to(address)) {
            peer.routes.insert(route_key(subnet), via(address, link, false));
            return Ok(peer);
        }
        let Some(device) = self.devices.get(family) else { return Ok(peer) };
        let data = attrs.backend_data(family).ok_or(PeerError::NoData(family))?;
        let mac = VxlanData::parse(data).map_err(|source| PeerError::BadData { family, source })?.vtep_mac;
        if !mac.is_unicast() {
            return Err(PeerError::BadMac { family, mac });
        }
        let gateway = subnet.network();
        peer.neighbours.insert(
            NeighbourKey { link: device.clone(), address: gateway },
            Neighbour { mac: Some(mac), permanent: true },
        );
        let entry = FdbEntry { destinations: vec![address], permanent: true };
        peer.fdb.insert(FdbKey { link: device.clone(), mac }, entry);
        peer.routes.insert(route_key(subnet), via(gateway, device, true));
        Ok(peer)
    }
}

fn device(
    options: &VxlanConfig,
    family: Family,
    node: &Node,
    facts: &HostFacts,
) -> Result<Link, DesiredError> {
    let endpoint = node.endpoints.get(family).ok_or(DesiredError::NoEndpoint(family))?;
    let external = &node.external;
    // The public address, as Go flannel has it, unless it is not on this host (translated on the way): the kernel
    // could send nothing from it.
    let public = external.public.get(family).filter(|address| facts.owner(**address).is_some());
    let local = public.or_else(|| external.address.get(family));
    let local = local.ok_or_else(|| DesiredError::NoAddress { family, link: external.name.clone() })?;
    let vxlan = Vxlan {
        vni: options.vni,
        local: Some(*local),
        lower: Some(external.name.clone()),
        port: options.port.or(endpoint.port).unwrap_or(VxlanConfig::DEFAULT_PORT),
        learning: options.learning,
        gbp: options.gbp,
        group: None,
        l2miss: false,
    };
    Ok(Link {
        kind: LinkKind::Vxlan(vxlan),
        mtu: device_mtu(options, external.mtu, family)?,
        mac: Some(endpoint.mac),
        up: true,
        alias: None,
    })
}

impl Underlay {
    /// The routes of the host without those through our devices.
    fn new(facts: &HostFacts, base: &Dataplane) -> Self {
        let foreign = facts.links.iter().filter(|link| !base.links.contains_key(&link.name));
        let names: BTreeMap<_, _> = foreign.map(|link| (link.index, link.name.clone())).collect();
        let has_link = |route: &&RouteFacts| route.link.is_some_and(|index| names.contains_key(&index));
        Self { routes: RouteLookup::new(facts.routes.iter().filter(has_link)), names }
    }

    /// The interface on whose link `address` is: its route has no next hop.
    fn link_to(&self, address: IpAddr) -> Option<&LinkName> {
        let route = self.routes.find(address).filter(|route| route.gateway.is_none())?;
        self.names.get(&route.link?)
    }
}
