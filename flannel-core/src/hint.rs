//! What a netlink notification tells, and whether it is a reason to look at the kernel again.
//!
//! A notification is only ever a hint: nothing is concluded from it but "look" or "do not look". Most of
//! them are echoes of our own changes or concern objects of others, pods above all; these cost
//! no round. Whatever is in doubt is worth a look.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::dataplane::mark::marks_one_of;
use crate::dataplane::{
    AddressKey, Dataplane, FdbKey, Link, NeighbourKey, PROTOCOL, PROTOCOL_KERNEL, RouteKey, RouteTarget,
};
use crate::facts::{AddressFacts, HostFacts, is_local_scope};
use crate::link::{IfIndex, LinkName, Mac};

/// One notification. Interfaces are named by the kernel's number, as in the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// `RTM_NEWLINK`, `RTM_DELLINK`.
    Link {
        /// Number.
        index: IfIndex,
        /// `IFLA_IFNAME`.
        name: Option<LinkName>,
        /// Its state, or `None` if it is gone.
        now: Option<Link>,
    },
    /// `RTM_NEWADDR`, `RTM_DELADDR`.
    Address {
        /// Interface.
        index: IfIndex,
        /// The address with its flags.
        address: AddressFacts,
        /// It was removed.
        gone: bool,
    },
    /// `RTM_NEWROUTE`, `RTM_DELROUTE` of the main table.
    Route {
        /// Destination and metric.
        key: RouteKey,
        /// What the message says of the route.
        route: RouteNow,
        /// It was removed.
        gone: bool,
    },
    /// `RTM_NEWNEIGH`, `RTM_DELNEIGH` of ARP and ND.
    Neighbour {
        /// Interface.
        index: IfIndex,
        /// Address that is resolved.
        address: IpAddr,
        /// Hardware address.
        mac: Option<Mac>,
        /// `NUD_PERMANENT`.
        permanent: bool,
        /// It was removed.
        gone: bool,
    },
    /// `RTM_NEWNEIGH`, `RTM_DELNEIGH` of the family `AF_BRIDGE`.
    Fdb {
        /// VXLAN device.
        index: IfIndex,
        /// Inner destination.
        mac: Mac,
        /// Outer destination.
        destination: Option<IpAddr>,
        /// `NUD_PERMANENT`.
        permanent: bool,
        /// It was removed.
        gone: bool,
    },
    /// Notifications were lost (`ENOBUFS`), or one was not understood.
    Overrun,
}

/// What a route message says beyond the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteNow {
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Outgoing interface.
    pub link: Option<IfIndex>,
    /// `RTNH_F_ONLINK`.
    pub onlink: bool,
    /// Its type.
    pub kind: RouteKind,
    /// `RTA_PROTOCOL`.
    pub protocol: u8,
}

/// Types of route, as far as hints tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// One next hop or one interface.
    Unicast,
    /// Dropped silently.
    Blackhole,
    /// Multipath, a nexthop object or another type.
    Other,
}

/// What the daemon wants and knows: the measure for a hint.
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
}

/// Whether `hint` is a reason to observe the kernel and plan again.
#[must_use]
pub fn concerns(hint: &Hint, interest: &Interest<'_>) -> bool {
    match hint {
        Hint::Link { index, name, now } => interest.link(*index, name.as_ref(), now.as_ref()),
        Hint::Address { index, address, gone } => interest.address(*index, *address, *gone),
        Hint::Route { key, route, gone } => interest.route(*key, route, *gone),
        Hint::Neighbour { index, address, mac, permanent, gone } => {
            let Some(link) = interest.tunnel(*index) else { return false };
            let key = NeighbourKey { link: link.clone(), address: *address };
            match interest.desired.neighbours.get(&key) {
                Some(wanted) => *gone || wanted.mac != *mac || wanted.permanent != *permanent,
                None => !gone && *permanent,
            }
        }
        Hint::Fdb { index, mac, destination, permanent, gone } => {
            let Some(link) = interest.tunnel(*index) else { return false };
            let key = FdbKey { link: link.clone(), mac: *mac };
            match interest.desired.fdb.get(&key) {
                Some(wanted) => {
                    let names_ours = wanted.destinations.as_slice() == destination.as_slice();
                    if *gone { names_ours } else { !names_ours || wanted.permanent != *permanent }
                }
                None => !gone && *permanent,
            }
        }
        Hint::Overrun => true,
    }
}

impl Interest<'_> {
    fn name(&self, index: IfIndex) -> Option<&LinkName> {
        self.facts.links.iter().find(|link| link.index == index).map(|link| &link.name)
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

    fn link(&self, index: IfIndex, name: Option<&LinkName>, now: Option<&Link>) -> bool {
        let known = self.facts.links.iter().find(|link| link.index == index);
        let old_name = known.map(|link| &link.name);
        let Some(name) = name.or(old_name) else { return false };
        let renamed = old_name.is_some_and(|old| old != name);
        if renamed
            && old_name.is_some_and(|old| self.desired.links.contains_key(old) || self.is_underlay(old))
        {
            return true;
        }
        match (self.desired.links.get(name), now, known) {
            // A new device of ours has to be looked at once even if it is as wanted: only then is its number
            // known, and with it what later messages are about.
            (Some(_), None, _) | (Some(_), _, None) => true,
            (Some(wanted), Some(now), Some(_)) => renamed || wanted.change(now).is_some(),
            (None, Some(now), _) if self.is_stale(now) => true,
            // What was removed may have kept the kernel from making ours.
            (None, None, _) if self.lacks_a_device() => true,
            (None, now, known) => {
                let same = now.zip(known).is_some_and(|(now, known)| {
                    !renamed && (now.mtu, now.up, now.mac) == (known.mtu, known.up, known.mac)
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
        let is_there = |name: &LinkName| self.facts.links.iter().any(|link| link.name == *name);
        self.desired.links.keys().any(|name| !is_there(name))
    }

    fn address(&self, index: IfIndex, address: AddressFacts, gone: bool) -> bool {
        if let Some(link) = self.tunnel(index) {
            let key = AddressKey { link: link.clone(), net: address.net };
            return match self.desired.addresses.contains_key(&key) {
                true => gone,
                false => !gone && !is_local_scope(address.net.addr()),
            };
        }
        let known = self.facts.links.iter().find(|link| link.index == index).and_then(|link| {
            link.addresses
                .iter()
                .find(|known| known.net.addr() == address.net.addr())
                .map(|known| (link, known))
        });
        // IPv6 addresses are announced again whenever their lifetimes are renewed.
        let same = if gone { known.is_none() } else { known.is_some_and(|(_, known)| *known == address) };
        let is_source = self.desired.links.values().any(|link| link.kind.local() == Some(address.net.addr()));
        !same && (is_source || self.name(index).is_none_or(|name| self.is_external(name)))
    }

    fn is_external(&self, name: &LinkName) -> bool {
        self.external.is_none_or(|external| external == name)
    }

    fn route(&self, key: RouteKey, route: &RouteNow, gone: bool) -> bool {
        if let Some(wanted) = self.desired.routes.get(&key) {
            return gone || !self.says(&wanted.target, wanted.protocol, route);
        }
        let on_tunnel = route.link.is_some_and(|index| self.tunnel(index).is_some());
        if on_tunnel || route.protocol == PROTOCOL {
            return !gone && route.protocol != PROTOCOL_KERNEL;
        }
        let known = self.facts.routes.iter().any(|known| {
            (known.destination, known.metric, known.gateway, known.link)
                == (key.destination, key.metric, route.gateway, route.link)
        });
        // Known and there, or unknown and gone: nothing new.
        if known != gone {
            return false;
        }
        key.destination.prefix_len() == 0 || (self.underlay_routes && self.leads_to_peer(key.destination))
    }

    /// Whether the message tells of just the route that we want.
    fn says(&self, target: &RouteTarget, protocol: u8, now: &RouteNow) -> bool {
        let link = now.link.and_then(|index| self.name(index));
        protocol == now.protocol
            && match target {
                RouteTarget::Via { gateway, link: wanted, onlink } => {
                    now.kind == RouteKind::Unicast
                        && now.gateway == Some(*gateway)
                        && now.onlink == *onlink
                        && link == Some(wanted)
                }
                RouteTarget::Link(wanted) => {
                    now.kind == RouteKind::Unicast && now.gateway.is_none() && link == Some(wanted)
                }
                RouteTarget::Blackhole => now.kind == RouteKind::Blackhole,
                RouteTarget::Other(_) | RouteTarget::Several(_) => false,
            }
    }

    /// Whether a route to `net` decides on the way to the address of a peer.
    fn leads_to_peer(&self, net: IpNet) -> bool {
        let tunnels = self.desired.fdb.values().flat_map(|entry| entry.destinations.iter());
        // A next hop inside the destination is an address of the overlay.
        let direct = self.desired.routes.iter().filter_map(|(key, route)| match &route.target {
            RouteTarget::Via { gateway, .. } if !key.destination.contains(gateway) => Some(gateway),
            _ => None,
        });
        tunnels.chain(direct).any(|address| net.contains(address))
    }
}

/// Hints that arrived and were not judged yet: of each object only the last, so that what was wrong for a moment
/// in the middle of our own changes does not count.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    latest: BTreeMap<Object, Hint>,
    overrun: bool,
}

/// Identity of the object of a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Object {
    Link(IfIndex),
    Address(IfIndex, IpNet),
    Route(RouteKey),
    Neighbour(IfIndex, IpAddr),
    Fdb(IfIndex, Mac, Option<IpAddr>),
}

impl Hints {
    /// Objects that are told apart; beyond, a look at everything is cheaper than keeping more. A cluster of
    /// 5,000 nodes in both families has 30,000.
    const CAPACITY: usize = 100_000;

    /// Takes in a hint.
    pub fn push(&mut self, hint: Hint) {
        let object = match &hint {
            Hint::Link { index, .. } => Object::Link(*index),
            Hint::Address { index, address, .. } => Object::Address(*index, address.net),
            Hint::Route { key, .. } => Object::Route(*key),
            Hint::Neighbour { index, address, .. } => Object::Neighbour(*index, *address),
            // A unicast MAC has one destination, replaced without a word about the former one
            // (`vxlan_fdb_update` in the kernel); others have one entry for each.
            Hint::Fdb { index, mac, destination, .. } => {
                Object::Fdb(*index, *mac, destination.filter(|_| !mac.is_unicast()))
            }
            Hint::Overrun => {
                self.overrun = true;
                return;
            }
        };
        if self.latest.len() >= Self::CAPACITY {
            self.latest.clear();
            self.overrun = true;
        }
        self.latest.insert(object, hint);
    }

    /// The first hint that is a reason to look again.
    #[must_use]
    pub fn reason(&self, interest: &Interest<'_>) -> Option<&Hint> {
        if self.overrun {
            return Some(&Hint::Overrun);
        }
        self.latest.values().find(|hint| concerns(hint, interest))
    }

    /// Forgets all, because they were judged or a look at everything is about to begin.
    pub fn clear(&mut self) {
        self.latest.clear();
        self.overrun = false;
    }

    /// Nothing arrived.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.latest.is_empty() && !self.overrun
    }
}

#[cfg(test)]
mod tests;
