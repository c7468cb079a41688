//! The way that a packet takes out of this node, followed through routes, neighbours and forwarding entries.
//!
//! What is followed is the main table: policy rules and other tables are not seen.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

use crate::dataplane::{Dataplane, FdbKey, LinkKind, NeighbourKey, Route, RouteKey, RouteTarget};
use crate::facts::HostFacts;
use crate::link::{LinkName, Mac};
use crate::plan::route_text;

/// How a packet leaves this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// Where it goes.
    pub address: IpAddr,
    /// The interface of this host that has the address; then it does not leave.
    pub local: Option<LinkName>,
    /// The route that it takes.
    pub route: Option<Hop>,
    /// The tunnel that the route leads into.
    pub tunnel: Option<Tunnel>,
    /// The route that the packet around it takes.
    pub underlay: Option<Hop>,
    /// What keeps it from getting there.
    pub problems: Vec<String>,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// Its destination.
    pub destination: IpNet,
    /// Next hop; `null` where the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Outgoing interface; `null` for a route that drops.
    pub link: Option<LinkName>,
    /// MTU of that interface.
    pub mtu_bytes: Option<u32>,
    /// It in the manner of iproute2.
    pub text: String,
}

/// The way through a VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// The device.
    pub link: LinkName,
    /// The next hop inside, whose address is resolved.
    pub gateway: IpAddr,
    /// The VTEP that it stands for.
    pub mac: Option<Mac>,
    /// The nodes that frames for this VTEP go to.
    pub destinations: Vec<IpAddr>,
}

/// Follows a packet to `address`. `dataplane` has the neighbours and forwarding entries of the tunnel devices.
#[must_use]
pub fn trace(address: IpAddr, facts: &HostFacts, dataplane: &Dataplane) -> Path {
    let mut path =
        Path { address, local: None, route: None, tunnel: None, underlay: None, problems: Vec::new() };
    if let Some(owner) = facts.owner(address) {
        path.local = Some(owner.name.clone());
        return path;
    }
    let Some(route) = hop(address, dataplane, &mut path.problems) else { return path };
    if let Some(link) = &route.link
        && let Some(LinkKind::Vxlan(_)) = dataplane.links.get(link).map(|found| &found.kind)
    {
        let gateway = route.gateway.unwrap_or(address);
        let tunnel = tunnel(link.clone(), gateway, dataplane, &mut path.problems);
        if let Some(destination) = tunnel.destinations.first() {
            path.underlay = hop(*destination, dataplane, &mut path.problems);
        }
        path.tunnel = Some(tunnel);
    }
    path.route = Some(route);
    path
}

/// The route to an address: the longest prefix, then the lowest metric.
fn hop(address: IpAddr, dataplane: &Dataplane, problems: &mut Vec<String>) -> Option<Hop> {
    let matching = dataplane.routes.iter().filter(|(key, _)| key.destination.contains(&address));
    let Some((key, route)) =
        matching.max_by_key(|(key, _)| (key.destination.prefix_len(), std::cmp::Reverse(key.metric)))
    else {
        problems.push(format!("no route leads to {address}"));
        return None;
    };
    let route = route.each().next()?;
    let hop = described(key, route, dataplane);
    match &hop.link {
        None => problems.push(format!("packets to {address} end at the route {}", hop.text)),
        Some(link) => match dataplane.links.get(link) {
            Some(found) if !found.up => problems.push(format!("{link} is down")),
            _ => {}
        },
    }
    Some(hop)
}

fn described(key: &RouteKey, route: &Route, dataplane: &Dataplane) -> Hop {
    let link = route.target.link().cloned();
    let gateway = match &route.target {
        RouteTarget::Via { gateway, .. } => Some(*gateway),
        _ => None,
    };
    let mtu = link.as_ref().and_then(|link| dataplane.links.get(link)).map(|link| link.mtu);
    Hop { destination: key.destination, gateway, link, mtu_bytes: mtu, text: route_text(key, route) }
}

fn tunnel(link: LinkName, gateway: IpAddr, dataplane: &Dataplane, problems: &mut Vec<String>) -> Tunnel {
    let key = NeighbourKey { link: link.clone(), address: gateway };
    let mac = dataplane.neighbours.get(&key).and_then(|neighbour| neighbour.mac);
    let mut destinations = Vec::new();
    match mac {
        None => problems
            .push(format!("{link} does not know the VTEP of {gateway}: its neighbour entry is missing")),
        Some(mac) => match dataplane.fdb.get(&FdbKey { link: link.clone(), mac }) {
            Some(entry) if !entry.destinations.is_empty() => destinations.clone_from(&entry.destinations),
            _ => problems.push(format!("{link} does not know the node of {mac}: its FDB entry is missing")),
        },
    }
    Tunnel { link, gateway, mac, destinations }
}

#[cfg(test)]
mod tests;
