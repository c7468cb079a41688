//! A kernel in miniature: what an op does to a [`Dataplane`]. Plans are tested on it, and flanneld's
//! fake kernel is made of it; a contract suite holds it against the real one.
//!
//! It has the refusals and side effects that decide on the order of a plan: things vanish with
//! their interface, a new MAC takes the neighbours along, a VXLAN device cannot outgrow its underlay. It does not
//! make the addresses and routes that a kernel makes by itself.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{
    Address, AddressKey, Dataplane, FdbEntry, Link, LinkChange, LinkKind, Neighbour, Nexthop, NexthopId, Op,
    Route, RouteKey, RouteTarget,
};
use crate::family::Family;
use crate::link::{LinkName, Mac};

/// Why the kernel refuses an op, named after its error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `ENODEV`.
    #[error("no such device")]
    NoDevice,
    /// `EEXIST`.
    #[error("exists already")]
    Exists,
    /// `EINVAL`.
    #[error("invalid argument")]
    Invalid,
    /// `ENETDOWN`.
    #[error("network is down")]
    Down,
    /// `ENETUNREACH`.
    #[error("network is unreachable")]
    Unreachable,
}

/// Runs one op.
///
/// # Errors
/// As the kernel refuses it. Setting what stands and deleting what is gone succeed.
pub fn apply(state: &mut Dataplane, op: &Op) -> Result<(), Refusal> {
    match op {
        Op::CreateLink(name, link) => create_link(state, name, link)?,
        Op::SetLink(name, change) => set_link(state, name, change)?,
        Op::DeleteLink(name) => delete_link(state, name),
        Op::AddAddress(key) => {
            require(state, &key.link)?;
            state.addresses.insert(key.clone(), Address);
        }
        Op::DeleteAddress(key) => delete_address(state, key),
        Op::SetNeighbour(key, mac) => {
            require(state, &key.link)?;
            state.neighbours.insert(key.clone(), Neighbour { mac: Some(*mac), permanent: true });
        }
        Op::DeleteNeighbour(key) => {
            state.neighbours.remove(key);
        }
        Op::SetFdb(key, destination) => {
            require(state, &key.link)?;
            set_fdb(state, key, *destination);
        }
        Op::DeleteFdb(key, destination) => {
            if let Some(entry) = state.fdb.get_mut(key) {
                entry.destinations.retain(|found| found != destination);
                if entry.destinations.is_empty() {
                    state.fdb.remove(key);
                }
            }
        }
        Op::AddNexthop(id, _) if state.nexthops.contains_key(id) => return Err(Refusal::Exists),
        Op::AddNexthop(id, nexthop) | Op::ReplaceNexthop(id, nexthop) => set_nexthop(state, *id, nexthop)?,
        Op::DeleteNexthop(id) => {
            state.nexthops.remove(id);
            drop_routes(state, |target| target.object() == Some(*id));
        }
        Op::SetRoute(key, route) => set_route(state, *key, route)?,
        Op::DeleteRoute(key, route) => {
            if let Some(found) = state.routes.remove(key) {
                let mut routes: Vec<Route> = found.each().cloned().collect();
                let is_meant =
                    |found: &Route| found.target == route.target && found.protocol == route.protocol;
                let first = routes.iter().position(is_meant);
                first.map(|place| routes.remove(place));
                if let Some(rest) = Route::several(routes) {
                    state.routes.insert(*key, rest);
                }
            }
        }
    }
    Ok(())
}

fn require<'a>(state: &'a Dataplane, name: &LinkName) -> Result<&'a Link, Refusal> {
    state.links.get(name).ok_or(Refusal::NoDevice)
}

fn create_link(state: &mut Dataplane, name: &LinkName, link: &Link) -> Result<(), Refusal> {
    let mut link = link.clone();
    if state.links.contains_key(name) {
        return Err(Refusal::Exists);
    }
    link.kind.complete();
    if state.links.values().any(|other| link.kind.excludes(&other.kind)) {
        return Err(Refusal::Exists);
    }
    if link.kind.lower().is_some_and(|lower| !state.links.contains_key(lower)) {
        return Err(Refusal::NoDevice);
    }
    link.mtu = link.mtu.min(largest_mtu(state, &link.kind).unwrap_or(u32::MAX));
    // The kernel chooses one of its own where none is asked for.
    link.mac = link.mac.or(Some(Mac([0x02, 0xff, 0xff, 0, 0, 1])));
    state.links.insert(name.clone(), link);
    Ok(())
}

/// The MTU of the underlay less the headers.
fn largest_mtu(state: &Dataplane, kind: &LinkKind) -> Option<u32> {
    let lower = state.links.get(kind.lower()?)?;
    Some(lower.mtu.saturating_sub(kind.overhead()))
}

fn set_link(state: &mut Dataplane, name: &LinkName, change: &LinkChange) -> Result<(), Refusal> {
    let found = require(state, name)?;
    let largest = largest_mtu(state, &found.kind);
    if change.mtu.zip(largest).is_some_and(|(mtu, largest)| mtu > largest) {
        return Err(Refusal::Invalid);
    }
    let link = state.links.get_mut(name).ok_or(Refusal::NoDevice)?;
    link.mtu = change.mtu.unwrap_or(link.mtu);
    link.alias = change.alias.clone().or(link.alias.take());
    if let Some(wanted) = &change.kind {
        link.kind.change(wanted);
    }
    let new_mac = change.mac.is_some_and(|mac| link.mac != Some(mac));
    link.mac = change.mac.or(link.mac);
    let goes_down = link.up && change.up == Some(false);
    link.up = change.up.unwrap_or(link.up);
    if new_mac || goes_down {
        state.neighbours.retain(|key, _| key.link != *name);
    }
    if goes_down {
        drop_next_hops(state, name);
        // The kernel drops IPv6 addresses too, unless `keep_addr_on_down` is set.
        state.addresses.retain(|key, _| key.link != *name || Family::of_net(key.net) == Family::V4);
    }
    Ok(())
}

fn delete_link(state: &mut Dataplane, name: &LinkName) {
    let above = |link: &Link| link.kind.lower() == Some(name);
    let mut gone: Vec<LinkName> =
        state.links.iter().filter(|(_, link)| above(link)).map(|(name, _)| name.clone()).collect();
    gone.push(name.clone());
    for name in &gone {
        state.links.remove(name);
        state.addresses.retain(|key, _| key.link != *name);
        state.neighbours.retain(|key, _| key.link != *name);
        state.fdb.retain(|key, _| key.link != *name);
        drop_next_hops(state, name);
    }
}

/// Nexthop objects and routes go with their interface (`nh_netdev_event` in net/ipv4/nexthop.c).
fn drop_next_hops(state: &mut Dataplane, name: &LinkName) {
    state.nexthops.retain(|_, nexthop| nexthop.target.link() != Some(name));
    drop_routes(state, |target| target.link() == Some(name));
}

fn drop_routes(state: &mut Dataplane, goes: impl Fn(&RouteTarget) -> bool) {
    state.routes = std::mem::take(&mut state.routes)
        .into_iter()
        .filter_map(|(key, route)| {
            let rest = route.each().filter(|route| !goes(&route.target)).cloned().collect();
            Some((key, Route::several(rest)?))
        })
        .collect();
}

/// The last IPv4 address of an interface takes all IPv4 routes and neighbours along (`fib_disable_ip` in
/// net/ipv4/fib_frontend.c), except for routes that refer to nexthop objects.
fn delete_address(state: &mut Dataplane, key: &AddressKey) {
    let was_there = state.addresses.remove(key).is_some();
    let is_v4 = |net: IpNet| Family::of_net(net) == Family::V4;
    let mut others = state.addresses.keys().filter(|other| other.link == key.link && is_v4(other.net));
    if !was_there || !is_v4(key.net) || others.next().is_some() {
        return;
    }
    state.neighbours.retain(|other, _| other.link != key.link || other.address.is_ipv6());
    let (v4, rest) =
        std::mem::take(&mut state.routes).into_iter().partition(|(route, _)| is_v4(route.destination));
    state.routes = v4;
    drop_routes(state, |target| target.object().is_none() && target.link() == Some(&key.link));
    state.routes.extend::<BTreeMap<RouteKey, Route>>(rest);
}

/// A unicast MAC has one destination; others collect them.
fn set_fdb(state: &mut Dataplane, key: &super::FdbKey, destination: IpAddr) {
    let entry = FdbEntry { destinations: vec![destination], permanent: true };
    match state.fdb.get_mut(key) {
        Some(found) if !key.mac.is_unicast() => {
            found.permanent = true;
            if !found.destinations.contains(&destination) {
                found.destinations.push(destination);
            }
        }
        _ => {
            state.fdb.insert(key.clone(), entry);
        }
    }
}

/// The form of a route that refers to an object.
fn referring(target: &RouteTarget, id: NexthopId) -> RouteTarget {
    let mut target = target.clone();
    if let RouteTarget::Via { object, .. } = &mut target {
        *object = Some(id);
    }
    target
}

fn set_nexthop(state: &mut Dataplane, id: NexthopId, nexthop: &Nexthop) -> Result<(), Refusal> {
    if let RouteTarget::Via { gateway, link, onlink, .. } = &nexthop.target {
        if !require(state, link)?.up {
            return Err(Refusal::Down);
        }
        if !onlink && !is_on_link(state, *gateway, link) {
            return Err(Refusal::Unreachable);
        }
    }
    state.nexthops.insert(id, nexthop.clone());
    for route in state.routes.values_mut().filter(|route| route.target.object() == Some(id)) {
        route.target = referring(&nexthop.target, id);
    }
    Ok(())
}

fn set_route(state: &mut Dataplane, key: RouteKey, route: &Route) -> Result<(), Refusal> {
    let mut route = route.clone();
    if let Some(link) = route.target.link()
        && !require(state, link)?.up
    {
        return Err(Refusal::Down);
    }
    if let RouteTarget::Via { gateway, link, onlink, object: None } = &route.target {
        let found = best_route(state, *gateway).and_then(|route| route.each().next()?.target.link());
        match (onlink, Family::of(*gateway)) {
            (true, Family::V6) if found.is_some_and(|found| found != link) => return Err(Refusal::Invalid),
            (false, _) if !is_on_link(state, *gateway, link) => return Err(Refusal::Unreachable),
            _ => {}
        }
    }
    if let Some(id) = route.target.object() {
        let object = state.nexthops.get(&id).ok_or(Refusal::Invalid)?;
        route.target = referring(&object.target, id);
    }
    match state.routes.get_mut(&key).map(|found| &mut found.target) {
        Some(RouteTarget::Several(routes)) => {
            if routes.iter().skip(1).any(|found| *found == route) {
                return Err(Refusal::Exists);
            }
            if let Some(first) = routes.first_mut() {
                *first = route;
            }
        }
        _ => {
            state.routes.insert(key, route);
        }
    }
    Ok(())
}

/// The route, default routes apart, that a packet to `address` takes.
fn best_route(state: &Dataplane, address: IpAddr) -> Option<&Route> {
    let covering = state
        .routes
        .iter()
        .filter(|(key, _)| key.destination.prefix_len() > 0 && key.destination.contains(&address));
    let (_, route) =
        covering.min_by_key(|(key, _)| (std::cmp::Reverse(key.destination.prefix_len()), key.metric))?;
    Some(route)
}

fn is_on_link(state: &Dataplane, gateway: IpAddr, link: &LinkName) -> bool {
    state.addresses.keys().any(|key| key.link == *link && key.net.contains(&gateway))
        || state.routes.iter().any(|(key, route)| {
            key.destination.contains(&gateway) && route.target == RouteTarget::Link(link.clone())
        })
}

#[cfg(test)]
mod tests;
