//! The way that a packet takes out of this node, followed through routes, neighbours and forwarding entries.
//!
//! Which route a packet takes is the kernel's answer, since policy rules and other tables have a part in it.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

use crate::dataplane::{Dataplane, FdbKey, NeighbourKey, PROTOCOL, Route, RouteKey, RouteTarget};
use crate::facts::HostFacts;
use crate::link::{LinkName, Mac};
use crate::message::route::{MAIN_TABLE, RouteRecord};
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
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// Its destination.
    pub destination: IpNet,
    /// Next hop; `null` where the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Outgoing interface; `null` for a route that drops.
    pub link: Option<LinkName>,
    /// MTU of that interface.
    pub mtu_bytes: Option<u32>,
    /// The table that it is in.
    pub table: u32,
    /// It in the manner of iproute2.
    pub text: String,
}

/// The way through a tunnel device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// The device.
    pub link: LinkName,
    /// The next hop inside, whose address is resolved.
    pub gateway: IpAddr,
    /// The VTEP that it stands for; `null` where the next hop is the node itself.
    pub mac: Option<Mac>,
    /// The nodes that frames for this VTEP go to.
    pub destinations: Vec<IpAddr>,
}

/// What the kernel says about the route of a packet: the entry that decides, or why it has none.
pub type Answer = Result<RouteRecord, String>;

/// Follows a packet to `address`, about whose route the kernel has said `answer`, to the end of a tunnel, if it leads into
/// one. `dataplane` has the neighbours and forwarding entries of the tunnel devices.
#[must_use]
pub fn trace(address: IpAddr, answer: &Answer, facts: &HostFacts, dataplane: &Dataplane) -> Path {
    let mut path =
        Path { address, local: None, route: None, tunnel: None, underlay: None, problems: Vec::new() };
    if let Some(owner) = facts.owner(address) {
        path.local = Some(owner.name.clone());
        return path;
    }
    path.route = hop(address, answer, facts, dataplane, &mut path.problems);
    if let Some(route) = &path.route
        && let Some(link) = &route.link
        && let Some(kind) = dataplane.links.get(link).map(|found| &found.kind)
        && kind.is_tunnel()
    {
        let gateway = route.gateway.unwrap_or(address);
        path.tunnel = Some(match kind.has_fdb() {
            true => tunnel(link.clone(), gateway, dataplane, &mut path.problems),
            false => Tunnel { link: link.clone(), gateway, mac: None, destinations: vec![gateway] },
        });
    }
    path
}

impl Path {
    /// The addresses of the packet around it, which the tunnel makes: from, and to.
    #[must_use]
    pub fn outer(&self, dataplane: &Dataplane) -> Option<(Option<IpAddr>, IpAddr)> {
        let tunnel = self.tunnel.as_ref()?;
        let local = dataplane.links.get(&tunnel.link)?.kind.local();
        Some((local, *tunnel.destinations.first()?))
    }

    /// Goes on to the underlay, by what the kernel says about the packet around it.
    pub fn leave(&mut self, to: IpAddr, answer: &Answer, facts: &HostFacts, dataplane: &Dataplane) {
        self.underlay = hop(to, answer, facts, dataplane, &mut self.problems);
    }
}

/// The route that the kernel has chosen.
fn hop(
    address: IpAddr,
    answer: &Answer,
    facts: &HostFacts,
    dataplane: &Dataplane,
    problems: &mut Vec<String>,
) -> Option<Hop> {
    let main = in_main_table(address, dataplane);
    let hop = match (answer, main) {
        (Ok(record), _) => {
            let (key, route) = record.entry(|index| facts.link(index).map(|link| link.name.clone()));
            described(&key, &route, record.table, dataplane)
        }
        // Of an entry that drops packets the kernel does not tell which one it is.
        (Err(_), Some((key, route))) if route.target.link().is_none() => {
            described(key, route, MAIN_TABLE, dataplane)
        }
        (Err(reason), _) => {
            problems.push(format!(
                "the kernel has no route to {address}: {reason} (see ip rule, ip route show table all)"
            ));
            return None;
        }
    };
    if let Some((key, route)) = main
        && route.protocol == PROTOCOL
        && hop.table != MAIN_TABLE
    {
        problems.push(format!(
            "a policy rule (ip rule) has packets to {address} take table {} instead of flannel's route {}",
            hop.table,
            route_text(key, route)
        ));
    }
    match &hop.link {
        None => problems.push(format!("packets to {address} are dropped by the route {}", hop.text)),
        Some(link) => match dataplane.links.get(link) {
            Some(found) if !found.up => problems.push(format!("{link} is down")),
            _ => {}
        },
    }
    Some(hop)
}

/// What it would be without policy rules: the longest prefix, then the lowest metric.
fn in_main_table(address: IpAddr, dataplane: &Dataplane) -> Option<(&RouteKey, &Route)> {
    let matching = dataplane.routes.iter().filter(|(key, _)| key.destination.contains(&address));
    let (key, route) =
        matching.max_by_key(|(key, _)| (key.destination.prefix_len(), std::cmp::Reverse(key.metric)))?;
    Some((key, route.each().next()?))
}

fn described(key: &RouteKey, route: &Route, table: u32, dataplane: &Dataplane) -> Hop {
    let link = route.target.link().cloned();
    let gateway = match &route.target {
        RouteTarget::Via { gateway, .. } => Some(*gateway),
        _ => None,
    };
    let mtu = link.as_ref().and_then(|link| dataplane.links.get(link)).map(|link| link.mtu);
    let mut text = route_text(key, route);
    if table != MAIN_TABLE {
        text.push_str(&format!(" table {table}"));
    }
    Hop { destination: key.destination, gateway, link, mtu_bytes: mtu, table, text }
}

fn tunnel(link: LinkName, gateway: IpAddr, dataplane: &Dataplane, problems: &mut Vec<String>) -> Tunnel {
    let key = NeighbourKey { link: link.clone(), address: gateway };
    let mac = dataplane.neighbours.get(&key).and_then(|neighbour| neighbour.mac);
    let mut destinations = Vec::new();
    match mac {
        None => problems.push(format!("{link} has no neighbour entry for {gateway}")),
        Some(mac) => match dataplane.fdb.get(&FdbKey { link: link.clone(), mac }) {
            Some(entry) if !entry.destinations.is_empty() => destinations.clone_from(&entry.destinations),
            _ => problems.push(format!("{link} has no FDB entry for {mac}")),
        },
    }
    Tunnel { link, gateway, mac, destinations }
}

#[cfg(test)]
mod tests;
