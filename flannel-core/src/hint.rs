//! The meaning of netlink notifications: whether one is a reason to observe the kernel again.
//!
//! A notification is a wakeup and never taken as state. Most of them are echoes of our own changes or concern unmanaged
//! objects, above all those of pods; these cause no round. In doubt the kernel is observed.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::dataplane::mark::marks_one_of;
use crate::dataplane::{
    AddressKey, Dataplane, FdbKey, Link, NeighbourKey, NexthopId, PROTOCOL, PROTOCOL_KERNEL, Route, RouteKey,
    RouteTarget, UdpPort,
};
use crate::facts::{AddressFacts, HostFacts, is_link_local, is_local_scope};
use crate::link::{IfIndex, LinkName, Mac};
use crate::message::address::AddressRecord;
use crate::message::fdb::FdbRecord;
use crate::message::link::LinkRecord;
use crate::message::neighbour::NeighbourRecord;
use crate::message::nexthop::NexthopRecord;
use crate::message::route::RouteRecord;

/// One notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// An object was created or changed.
    Set(Object),
    /// An object was removed.
    Removed(Object),
    /// Notifications were lost (`ENOBUFS`), or one could not be decoded.
    Overrun,
}

/// A kernel object as a notification describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// `RTM_NEWLINK`, `RTM_DELLINK`.
    Link(Box<LinkRecord>),
    /// `RTM_NEWADDR`, `RTM_DELADDR`.
    Address(AddressRecord),
    /// `RTM_NEWROUTE`, `RTM_DELROUTE` of the main table.
    Route(RouteRecord),
    /// `RTM_NEWNEIGH`, `RTM_DELNEIGH` of ARP and ND.
    Neighbour(NeighbourRecord),
    /// `RTM_NEWNEIGH`, `RTM_DELNEIGH` of the family `AF_BRIDGE`.
    Fdb(FdbRecord),
    /// `RTM_NEWNEXTHOP`, `RTM_DELNEXTHOP`.
    Nexthop(NexthopRecord),
}

/// What decides whether a hint matters.
#[derive(Clone, Copy, Debug)]
pub struct Interest<'a> {
    /// What the kernel should have.
    pub desired: &'a Dataplane,
    /// The host as last observed.
    pub facts: &'a HostFacts,
    /// The networks that objects of ours can be in.
    pub networks: &'a [IpNet],
    /// The external interface, or `None` while none is found, when every link and address may be the one.
    pub external: Option<&'a LinkName>,
    /// Routes of the underlay decide how a peer is reached (direct routing, host-gw).
    pub underlay_routes: bool,
    /// Addresses of peers that no route of the underlay reaches as required.
    pub off_link: &'a [IpAddr],
}

/// Whether `hint` is a reason to observe the kernel and plan again.
#[must_use]
pub fn concerns(hint: &Hint, interest: &Interest<'_>) -> bool {
    let (object, gone) = match hint {
        Hint::Set(object) => (object, false),
        Hint::Removed(object) => (object, true),
        Hint::Overrun => return true,
    };
    match object {
        Object::Link(record) => interest.link(record, gone),
        Object::Address(record) => interest.address(record, gone),
        Object::Route(record) => interest.route(record, gone),
        Object::Neighbour(record) => interest.neighbour(record, gone),
        Object::Fdb(record) => interest.fdb(record, gone),
        Object::Nexthop(record) => interest.nexthop(record, gone),
    }
}

impl Interest<'_> {
    fn name(&self, index: IfIndex) -> Option<&LinkName> {
        self.facts.link(index).map(|link| &link.name)
    }

    /// The name of `index`, if it is one of our devices.
    fn tunnel(&self, index: IfIndex) -> Option<&LinkName> {
        self.name(index).filter(|name| self.desired.links.contains_key(name))
    }

    /// An interface of others that our objects rest on.
    fn is_underlay(&self, name: &LinkName) -> bool {
        self.external.is_none_or(|external| external == name)
            || self.desired.links.values().any(|link| link.kind.lower() == Some(name))
            || self.desired.routes.values().any(
                |route| matches!(&route.target, RouteTarget::Via { link, .. } | RouteTarget::Link(link) if link == name),
            )
    }

    fn neighbour(&self, record: &NeighbourRecord, gone: bool) -> bool {
        let Some(link) = self.tunnel(record.index) else { return false };
        let key = NeighbourKey { link: link.clone(), address: record.address };
        match self.desired.neighbours.get(&key) {
            Some(wanted) => gone || *wanted != record.neighbour,
            None => !gone && record.neighbour.permanent,
        }
    }

    fn fdb(&self, record: &FdbRecord, gone: bool) -> bool {
        let Some(link) = self.tunnel(record.index) else { return false };
        match self.desired.fdb.get(&FdbKey { link: link.clone(), mac: record.mac }) {
            Some(wanted) => {
                let names_ours = wanted.destinations.as_slice() == record.destination.as_slice();
                if gone { names_ours } else { !names_ours || wanted.permanent != record.permanent }
            }
            None => !gone && record.permanent,
        }
    }

    fn nexthop(&self, record: &NexthopRecord, gone: bool) -> bool {
        match self.desired.nexthops.get(&record.id) {
            Some(wanted) => gone || *wanted != record.object(|index| self.name(index).cloned()),
            None => !gone && record.protocol == PROTOCOL && record.id.is_in(self.networks),
        }
    }

    fn link(&self, record: &LinkRecord, gone: bool) -> bool {
        let (name, now) = (&record.name, (!gone).then_some(&record.link));
        let known = self.facts.link(record.index);
        let renamed = known.map(|link| &link.name).filter(|old| *old != name);
        if renamed.is_some_and(|old| self.desired.links.contains_key(old) || self.is_underlay(old)) {
            return true;
        }
        match (self.desired.links.get(name), now, known) {
            // A new device of ours is observed even if it is as desired: later messages only contain its index.
            (Some(_), None, _) | (Some(_), _, None) => true,
            (Some(wanted), Some(now), Some(_)) => {
                let changed = wanted.change(now).is_some() || wanted.kind.mismatch(&now.kind).is_some();
                renamed.is_some() || changed
            }
            (None, Some(now), _) if self.is_stale(now) => true,
            // It may be the bridge of the pods.
            (None, Some(now), _) if !now.up && now.kind.name() == "bridge" => true,
            // The removed link may have kept the kernel from creating ours.
            (None, None, _) if self.lacks_a_device() => true,
            // A device that is down releases its port.
            (None, Some(now), known)
                if !now.up && known.is_none_or(|known| known.up) && self.blocks_a_device(now) =>
            {
                true
            }
            (None, now, known) => {
                let same = now.zip(known).is_some_and(|(now, known)| {
                    renamed.is_none() && (now.mtu, now.up, now.mac) == (known.mtu, known.up, known.mac)
                });
                !same && self.is_underlay(name)
            }
        }
    }

    /// A stale tunnel device with our mark, by the rule of [`crate::owned`].
    fn is_stale(&self, now: &Link) -> bool {
        let alias = now.alias.as_deref();
        now.kind.is_tunnel() && alias.is_some_and(|alias| marks_one_of(alias, self.networks))
    }

    fn lacks_a_device(&self) -> bool {
        let is_there = |name: &LinkName| self.facts.links.iter().any(|link| link.name == *name && link.up);
        self.desired.links.keys().any(|name| !is_there(name))
    }

    /// Whether a port of `other` can keep one of our devices from being set up.
    fn blocks_a_device(&self, other: &Link) -> bool {
        let blocks = |port: UdpPort| {
            let ours = self.desired.links.values().filter_map(|link| link.kind.udp_port());
            ours.into_iter().any(|ours| ours.overlaps(&port))
        };
        self.lacks_a_device() && other.kind.udp_port().is_some_and(blocks)
    }

    fn address(&self, record: &AddressRecord, gone: bool) -> bool {
        let AddressRecord { index, facts: address, .. } = *record;
        if let Some(link) = self.tunnel(index) {
            let key = AddressKey { link: link.clone(), net: address.net };
            return match self.desired.addresses.contains_key(&key) {
                true => gone,
                false => !gone && !is_local_scope(address.net.addr()),
            };
        }
        // It may be the gateway of the pods.
        if gone && self.networks.iter().any(|network| network.contains(&address.net.addr())) {
            return true;
        }
        // A link-local one that their bridge needs.
        if gone && is_link_local(address.net.addr()) && self.is_bridge(index) {
            return true;
        }
        let is_same = |known: &&AddressFacts| known.net.addr() == address.net.addr();
        let known = self.facts.link(index).and_then(|link| link.addresses.iter().find(is_same));
        // IPv6 addresses are announced again whenever their lifetimes are renewed.
        let same = if gone { known.is_none() } else { known == Some(&address) };
        let is_source = self.desired.links.values().any(|link| link.kind.local() == Some(address.net.addr()));
        !same && (is_source || self.name(index).is_none_or(|name| self.is_external(name)))
    }

    fn is_bridge(&self, index: IfIndex) -> bool {
        self.facts.links.iter().any(|link| link.master == Some(index))
    }

    fn is_external(&self, name: &LinkName) -> bool {
        self.external.is_none_or(|external| external == name)
    }

    fn route(&self, record: &RouteRecord, gone: bool) -> bool {
        let (key, route) = record.entry(|index| self.name(index).cloned());
        let hop = record.hops.first().copied().unwrap_or_default();
        if let Some(wanted) = self.desired.routes.get(&key) {
            // With `net.ipv4.nexthop_compat_mode` 0 the message has the number of the object only.
            let is_reference = record.object.is_some() && hop.index.is_none();
            let is_same =
                if is_reference { wanted.target.object() == record.object } else { *wanted == route };
            return gone || !is_same;
        }
        let on_tunnel = hop.index.is_some_and(|index| self.tunnel(index).is_some());
        if on_tunnel || route.protocol == PROTOCOL {
            return !gone && route.protocol != PROTOCOL_KERNEL;
        }
        let known = self.facts.routes.iter().any(|known| {
            (known.destination, known.metric, known.gateway, known.link)
                == (key.destination, key.metric, hop.gateway, hop.index)
        });
        // A known route that is set or an unknown one that is removed is nothing new.
        if known != gone {
            return false;
        }
        key.destination.prefix_len() == 0
            || (self.underlay_routes && self.leads_to_peer(key.destination))
            || (gone && self.leads_to_gateway(key.destination))
    }

    /// Whether a route to `net` can keep the kernel from setting one of ours ([`crate::obstacle`]).
    fn leads_to_gateway(&self, net: IpNet) -> bool {
        let leads = |route: &Route| match &route.target {
            RouteTarget::Via { gateway, onlink: true, .. } => gateway.is_ipv6() && net.contains(gateway),
            _ => false,
        };
        self.desired.routes.values().any(leads)
    }

    /// Whether a route to `net` decides on the way to the address of a peer.
    fn leads_to_peer(&self, net: IpNet) -> bool {
        let tunnels = self.desired.fdb.values().flat_map(|entry| entry.destinations.iter());
        // A next hop inside the destination is an address of the overlay.
        let direct = self.desired.routes.iter().filter_map(|(key, route)| match &route.target {
            RouteTarget::Via { gateway, .. } if !key.destination.contains(gateway) => Some(gateway),
            _ => None,
        });
        tunnels.chain(direct).chain(self.off_link).any(|address| net.contains(address))
    }
}

/// Received hints: of each object only the last, so that a state in the middle of our own changes does not count.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    latest: BTreeMap<Identity, Hint>,
    overrun: bool,
}

/// The identity of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identity {
    Link(IfIndex),
    Address(IfIndex, IpNet),
    Route(RouteKey),
    Neighbour(IfIndex, IpAddr),
    Fdb(IfIndex, Mac, Option<IpAddr>),
    Nexthop(NexthopId),
}

impl Object {
    fn identity(&self) -> Identity {
        match self {
            Self::Link(link) => Identity::Link(link.index),
            Self::Address(address) => Identity::Address(address.index, address.facts.net),
            Self::Route(route) => Identity::Route(route.key()),
            Self::Nexthop(nexthop) => Identity::Nexthop(nexthop.id),
            Self::Neighbour(neighbour) => Identity::Neighbour(neighbour.index, neighbour.address),
            // A unicast MAC has one destination, which is replaced without a notification about the former one
            // (`vxlan_fdb_update` in the kernel); others have an entry for each destination.
            Self::Fdb(fdb) => {
                Identity::Fdb(fdb.index, fdb.mac, fdb.destination.filter(|_| !fdb.mac.is_unicast()))
            }
        }
    }
}

impl Hints {
    /// More objects than this count as an overrun. A cluster of 5,000 nodes in both families has 30,000.
    const CAPACITY: usize = 100_000;

    /// Adds a hint.
    pub fn push(&mut self, hint: Hint) {
        let identity = match &hint {
            Hint::Set(object) | Hint::Removed(object) => object.identity(),
            Hint::Overrun => {
                self.overrun = true;
                return;
            }
        };
        if self.latest.len() >= Self::CAPACITY {
            self.latest.clear();
            self.overrun = true;
        }
        self.latest.insert(identity, hint);
    }

    /// Returns the first hint that is a reason to observe the kernel again.
    #[must_use]
    pub fn reason(&self, interest: &Interest<'_>) -> Option<&Hint> {
        if self.overrun {
            return Some(&Hint::Overrun);
        }
        self.latest.values().find(|hint| concerns(hint, interest))
    }

    /// Number of objects that hints are about.
    #[must_use]
    pub fn len(&self) -> usize {
        self.latest.len()
    }

    /// Removes all hints.
    pub fn clear(&mut self) {
        self.latest.clear();
        self.overrun = false;
    }

    /// Whether no hint arrived.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.latest.is_empty() && !self.overrun
    }
}

#[cfg(test)]
mod tests;
