//! Complete dumps combined: indices become names, and records become facts and objects.

use std::collections::BTreeMap;

use super::address::AddressRecord;
use super::fdb::FdbRecord;
use super::link::LinkRecord;
use super::neighbour::NeighbourRecord;
use super::nexthop::NexthopRecord;
use super::route::RouteRecord;
use crate::dataplane::{
    Address, AddressKey, Dataplane, FdbEntry, FdbKey, Link, NeighbourKey, NexthopId, Route, RouteKey,
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

    /// Returns the facts about the host, without objects of links that were deleted between two dumps.
    #[must_use]
    pub fn facts(&self) -> HostFacts {
        let mut links: Vec<_> = self.links.iter().map(LinkRecord::facts).collect();
        let places: BTreeMap<IfIndex, usize> =
            links.iter().enumerate().map(|(place, link)| (link.index, place)).collect();
        for address in &self.addresses {
            if let Some(place) = places.get(&address.index) {
                links[*place].addresses.push(address.facts);
            }
        }
        HostFacts { links, routes: self.routes.iter().filter_map(RouteRecord::facts).collect() }
    }

    /// Takes the next hops of routes from their nexthop objects, where the kernel leaves them out.
    pub fn resolve(&mut self) {
        let objects: BTreeMap<NexthopId, NexthopRecord> =
            self.nexthops.iter().map(|record| (record.id, *record)).collect();
        self.routes.iter_mut().for_each(|route| route.resolve(|id| objects.get(&id).copied()));
    }

    /// Returns the kernel objects.
    #[must_use]
    pub fn dataplane(&self) -> Dataplane {
        let names = self.names();
        let name = |index: IfIndex| names.get(&index).cloned();
        let mut dataplane = Dataplane::default();
        for record in &self.links {
            dataplane.links.insert(record.name.clone(), link(record, &names));
        }
        for record in &self.addresses {
            if let Some(link) = name(record.index) {
                dataplane.addresses.insert(AddressKey { link, net: record.facts.net }, Address);
            }
        }
        for record in &self.neighbours {
            if let Some(link) = name(record.index) {
                let key = NeighbourKey { link, address: record.address };
                dataplane.neighbours.insert(key, record.neighbour);
            }
        }
        for record in &self.fdb {
            let Some(link) = name(record.index) else { continue };
            let entry = dataplane
                .fdb
                .entry(FdbKey { link, mac: record.mac })
                .or_insert_with(|| FdbEntry { destinations: Vec::new(), permanent: record.permanent });
            entry.destinations.extend(record.destination);
        }
        dataplane.nexthops = self.nexthops.iter().map(|record| (record.id, record.object(name))).collect();
        let mut routes: BTreeMap<RouteKey, Vec<Route>> = BTreeMap::new();
        for (key, route) in self.routes.iter().filter(|route| route.is_main()).map(|route| route.entry(name))
        {
            routes.entry(key).or_default().push(route);
        }
        let routes = routes.into_iter().filter_map(|(key, routes)| Some((key, Route::several(routes)?)));
        dataplane.routes = routes.collect();
        dataplane
    }
}

fn link(record: &LinkRecord, names: &BTreeMap<IfIndex, LinkName>) -> Link {
    let mut link = record.link.clone();
    link.kind.set_lower(record.underlay.and_then(|index| names.get(&index).cloned()));
    link
}
