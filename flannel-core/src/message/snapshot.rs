//! Complete dumps combined: indices become names, and records become facts and objects.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::address::AddressRecord;
use super::fdb::FdbRecord;
use super::link::LinkRecord;
use super::neighbour::NeighbourRecord;
use super::nexthop::NexthopRecord;
use super::route::RouteRecord;
use crate::dataplane::{
    Address, AddressKey, Dataplane, FdbEntry, FdbKey, Link, NeighbourKey, NexthopId, Route, RouteKey,
    RouteTarget,
};
use crate::facts::HostFacts;
use crate::link::{IfIndex, LinkName};

/// The records of one observation of the kernel, each kind in dump order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// All links.
    pub links: Vec<LinkRecord>,
    /// Addresses of both families.
    pub addresses: Vec<AddressRecord>,
    /// Routes of both families.
    pub routes: Vec<RouteRecord>,
    /// Nexthop objects.
    pub nexthops: Vec<NexthopRecord>,
    /// Neighbours of the tunnel devices.
    pub neighbours: Vec<NeighbourRecord>,
    /// Forwarding entries of the tunnel devices.
    pub fdb: Vec<FdbRecord>,
}

impl Snapshot {
    /// Returns the names of the links by index.
    #[must_use]
    pub fn names(&self) -> BTreeMap<IfIndex, LinkName> {
        self.links.iter().map(|link| (link.index, link.name.clone())).collect()
    }

    /// Returns the facts about the host, without the routes of tunnel devices, which are part of the objects, and without objects of
    /// links that were deleted between two dumps.
    #[must_use]
    pub fn facts(&self, tunnels: &BTreeSet<LinkName>) -> HostFacts {
        let mut links: Vec<_> = self.links.iter().map(LinkRecord::facts).collect();
        let places: BTreeMap<IfIndex, usize> =
            links.iter().enumerate().map(|(place, link)| (link.index, place)).collect();
        for address in &self.addresses {
            if let Some(place) = places.get(&address.index) {
                links[*place].addresses.push(address.facts);
            }
        }
        let is_tunnel = |link| places.get(&link).is_some_and(|place| tunnels.contains(&links[*place].name));
        let routes = self.routes.iter().filter_map(RouteRecord::facts);
        let routes = routes.filter(|route| !route.link.is_some_and(is_tunnel)).collect();
        HostFacts { links, routes }
    }

    /// Takes the next hops of routes from their nexthop objects, where the kernel leaves them out.
    pub fn resolve(&mut self) {
        let objects: BTreeMap<NexthopId, NexthopRecord> =
            self.nexthops.iter().map(|record| (record.id, *record)).collect();
        self.routes.iter_mut().for_each(|route| route.resolve(|id| objects.get(&id).copied()));
    }

    /// Returns the kernel objects. Of each kind only one form exists at a time: a large cluster has tens of thousands.
    #[must_use]
    pub fn dataplane(self) -> Dataplane {
        let names = self.names();
        let name = |index: IfIndex| names.get(&index).cloned();
        let Self { links, addresses, routes, nexthops, neighbours, fdb } = self;
        let address = |record: AddressRecord| {
            Some((AddressKey { link: name(record.index)?, net: record.facts.net }, Address))
        };
        let neighbour = |record: NeighbourRecord| {
            Some((NeighbourKey { link: name(record.index)?, address: record.address }, record.neighbour))
        };
        let links = links.into_iter().map(|record| (record.name.clone(), link(&record, &names)));
        Dataplane {
            links: links.collect(),
            addresses: addresses.into_iter().filter_map(address).collect(),
            neighbours: neighbours.into_iter().filter_map(neighbour).collect(),
            fdb: destinations(fdb, name),
            nexthops: nexthops.into_iter().map(|record| (record.id, record.object(name))).collect(),
            routes: grouped(routes.into_iter().filter(RouteRecord::is_main).map(|route| route.entry(name))),
        }
    }
}

/// Combines the destinations of each MAC.
fn destinations(
    records: Vec<FdbRecord>,
    name: impl Fn(IfIndex) -> Option<LinkName>,
) -> BTreeMap<FdbKey, FdbEntry> {
    let mut entries: BTreeMap<FdbKey, FdbEntry> = BTreeMap::new();
    for record in records {
        let Some(link) = name(record.index) else { continue };
        let entry = entries
            .entry(FdbKey { link, mac: record.mac })
            .or_insert_with(|| FdbEntry { destinations: Vec::new(), permanent: record.permanent });
        entry.destinations.extend(record.destination);
    }
    entries
}

/// Combines the routes that share a key.
fn grouped(routes: impl Iterator<Item = (RouteKey, Route)>) -> BTreeMap<RouteKey, Route> {
    let mut grouped: BTreeMap<RouteKey, Route> = BTreeMap::new();
    for (key, route) in routes {
        match grouped.entry(key) {
            Entry::Vacant(place) => drop(place.insert(route)),
            Entry::Occupied(mut place) => {
                let all = place.get().each().cloned().chain([route]).collect();
                place.get_mut().target = RouteTarget::Several(all);
            }
        }
    }
    grouped
}

fn link(record: &LinkRecord, names: &BTreeMap<IfIndex, LinkName>) -> Link {
    let mut link = record.link.clone();
    link.kind.set_lower(record.underlay.and_then(|index| names.get(&index).cloned()));
    link
}
