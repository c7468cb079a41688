//! Kernel state as one value: what we want and what is there have the same type.
//!
//! Every map is keyed by the kernel's own key, and values are normalised when a message is read
//! (prefixes masked, defaults filled in), so that equal means equal and the difference of two values
//! is a plan.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::family::Family;
use crate::link::{LinkName, Mac};

pub use kind::{Ipip, LinkKind, UdpPort, UdpTunnel, Vxlan};
pub use nexthop::{Nexthop, NexthopId};

mod kind;
pub mod mark;
pub mod model;
mod nexthop;

/// The routing protocol number that marks routes and neighbours as ours
/// (`RTA_PROTOCOL`/`NDA_PROTOCOL`; free in iproute2's rt_protos).
pub const PROTOCOL: u8 = 0xf1;

/// Number that kernels and Go's flanneld give to routes (`RTPROT_BOOT`).
pub const PROTOCOL_BOOT: u8 = 3;

/// Number of routes that the kernel makes by itself for addresses (`RTPROT_KERNEL`).
pub const PROTOCOL_KERNEL: u8 = 2;

/// The kernel objects that flannel deals with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dataplane {
    /// Interfaces by name.
    pub links: BTreeMap<LinkName, Link>,
    /// Addresses by interface and `address/prefix`.
    pub addresses: BTreeMap<AddressKey, Address>,
    /// Permanent neighbour (ARP, ND) entries.
    pub neighbours: BTreeMap<NeighbourKey, Neighbour>,
    /// Forwarding entries of VXLAN devices.
    pub fdb: BTreeMap<FdbKey, FdbEntry>,
    /// Nexthop objects.
    pub nexthops: BTreeMap<NexthopId, Nexthop>,
    /// Routes of the main table.
    pub routes: BTreeMap<RouteKey, Route>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Kind and what belongs to it.
    pub kind: LinkKind,
    /// MTU in bytes.
    pub mtu: u32,
    /// Hardware address.
    pub mac: Option<Mac>,
    /// Administratively up.
    pub up: bool,
    /// `IFLA_IFALIAS`, shown by `ip link`.
    pub alias: Option<String>,
}

/// Kernel key of an address: interface and local address with prefix length.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressKey {
    /// Interface.
    pub link: LinkName,
    /// Address with its prefix length, host bits kept.
    pub net: IpNet,
}

/// What is worth comparing of an address: nothing beyond its being there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address;

/// Kernel key of a neighbour entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeighbourKey {
    /// Interface.
    pub link: LinkName,
    /// Address that is resolved.
    pub address: IpAddr,
}

/// A neighbour entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Hardware address; `None` for an incomplete entry.
    pub mac: Option<Mac>,
    /// `NUD_PERMANENT`: never probed, never aged.
    pub permanent: bool,
}

/// Kernel key of an FDB entry of a VXLAN device. A MAC may have several destinations; ours have one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbKey {
    /// VXLAN device.
    pub link: LinkName,
    /// Inner destination address.
    pub mac: Mac,
}

/// A forwarding entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// Outer destination addresses; ours have exactly one.
    pub destinations: Vec<IpAddr>,
    /// `NUD_PERMANENT`: not aged and not overwritten by learning.
    pub permanent: bool,
}

/// Kernel key of a route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// Destination with host bits cleared.
    pub destination: IpNet,
    /// Metric (`RTA_PRIORITY`): 0 for our IPv4 routes, 1024 for our IPv6 routes, the kernel's defaults.
    pub metric: u32,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What happens to packets.
    pub target: RouteTarget,
    /// Who set it: [`PROTOCOL`] for ours.
    pub protocol: u8,
}

/// What a route does with packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// Sends them to a next hop.
    Via {
        /// Next hop.
        gateway: IpAddr,
        /// Outgoing interface.
        link: LinkName,
        /// The gateway is taken as reachable on the link (`RTNH_F_ONLINK`).
        onlink: bool,
        /// The nexthop object that contains gateway and link, instead of the route (`RTA_NH_ID`).
        object: Option<NexthopId>,
    },
    /// Sends them out of an interface without a next hop.
    Link(LinkName),
    /// Drops them silently.
    Blackhole,
    /// Any other form (multipath, a group of nexthop objects, another type), described for logs. Never equal to
    /// anything that we want.
    Other(String),
    /// Several routes share the key, in the kernel's order. Only ever observed; ops name each by itself.
    Several(Vec<Route>),
}

impl RouteTarget {
    /// A next hop that is part of the route.
    #[must_use]
    pub fn via(gateway: IpAddr, link: &LinkName, onlink: bool) -> Self {
        Self::Via { gateway, link: link.clone(), onlink, object: None }
    }

    /// The nexthop object that it refers to.
    #[must_use]
    pub const fn object(&self) -> Option<NexthopId> {
        match self {
            Self::Via { object, .. } => *object,
            _ => None,
        }
    }

    /// The outgoing interface, where there is just one.
    #[must_use]
    pub const fn link(&self) -> Option<&LinkName> {
        match self {
            Self::Via { link, .. } | Self::Link(link) => Some(link),
            Self::Blackhole | Self::Other(_) | Self::Several(_) => None,
        }
    }
}

impl RouteKey {
    /// The key of a route of ours: with the kernel's default metric, which Go flannel has too.
    #[must_use]
    pub const fn owned(destination: IpNet) -> Self {
        let metric = match Family::of_net(destination) {
            Family::V4 => 0,
            Family::V6 => 1024,
        };
        Self { destination, metric }
    }
}

impl Route {
    /// A route of ours to a next hop.
    #[must_use]
    pub fn via(gateway: IpAddr, link: &LinkName, onlink: bool) -> Self {
        Self { target: RouteTarget::via(gateway, link, onlink), protocol: PROTOCOL }
    }

    /// The routes that the key stands for: those of [`RouteTarget::Several`], otherwise this one.
    pub fn each(&self) -> impl Iterator<Item = &Self> {
        match &self.target {
            RouteTarget::Several(routes) => routes.iter(),
            _ => std::slice::from_ref(self).iter(),
        }
    }

    /// The value of a key that stands for `routes`, unless there are none.
    #[must_use]
    pub fn several(mut routes: Vec<Self>) -> Option<Self> {
        let protocol = routes.first()?.protocol;
        match routes.len() {
            1 => routes.pop(),
            _ => Some(Self { target: RouteTarget::Several(routes), protocol }),
        }
    }
}

impl Dataplane {
    /// Adds all of `other`; where both have an object, that of `other` wins.
    pub fn extend(&mut self, other: Self) {
        self.links.extend(other.links);
        self.addresses.extend(other.addresses);
        self.neighbours.extend(other.neighbours);
        self.fdb.extend(other.fdb);
        self.nexthops.extend(other.nexthops);
        self.routes.extend(other.routes);
    }

    /// Builds the maps anew with full nodes: inserts in ascending order leave them half empty.
    pub fn pack(&mut self) {
        fn packed<K: Ord, V>(all: &mut BTreeMap<K, V>) {
            *all = std::mem::take(all).into_iter().collect();
        }
        packed(&mut self.neighbours);
        packed(&mut self.fdb);
        packed(&mut self.nexthops);
        packed(&mut self.routes);
    }

    /// Takes out the objects that `other` has, whatever their values.
    pub fn retract(&mut self, other: &Self) {
        fn without<K: Ord, V>(all: &mut BTreeMap<K, V>, keys: &BTreeMap<K, V>) {
            for key in keys.keys() {
                all.remove(key);
            }
        }
        without(&mut self.links, &other.links);
        without(&mut self.addresses, &other.addresses);
        without(&mut self.neighbours, &other.neighbours);
        without(&mut self.fdb, &other.fdb);
        without(&mut self.nexthops, &other.nexthops);
        without(&mut self.routes, &other.routes);
    }

    /// The objects of this value that `other` has too, with the values that they have here.
    #[must_use]
    pub fn restricted_to(&self, other: &Self) -> Self {
        fn common<K: Ord + Clone, V: Clone>(all: &BTreeMap<K, V>, keys: &BTreeMap<K, V>) -> BTreeMap<K, V> {
            keys.keys()
                .filter_map(|key| all.get_key_value(key))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        }
        Self {
            links: common(&self.links, &other.links),
            addresses: common(&self.addresses, &other.addresses),
            neighbours: common(&self.neighbours, &other.neighbours),
            fdb: common(&self.fdb, &other.fdb),
            nexthops: common(&self.nexthops, &other.nexthops),
            routes: common(&self.routes, &other.routes),
        }
    }

    /// How many objects are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        let Self { links, addresses, neighbours, fdb, nexthops, routes } = self;
        links.len() + addresses.len() + neighbours.len() + fdb.len() + nexthops.len() + routes.len()
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One change of the kernel, idempotent: setting what stands and deleting what is gone succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Creates an interface with all its parameters, down or up as given.
    CreateLink(LinkName, Box<Link>),
    /// Changes parameters of an existing interface in place.
    SetLink(LinkName, Box<LinkChange>),
    /// Deletes an interface.
    DeleteLink(LinkName),
    /// Adds an address.
    AddAddress(AddressKey),
    /// Removes an address.
    DeleteAddress(AddressKey),
    /// Sets a permanent neighbour entry, replacing what is there.
    SetNeighbour(NeighbourKey, Mac),
    /// Removes a neighbour entry.
    DeleteNeighbour(NeighbourKey),
    /// Makes `destination` the only destination of a MAC.
    SetFdb(FdbKey, IpAddr),
    /// Removes one destination of a MAC.
    DeleteFdb(FdbKey, IpAddr),
    /// Adds a nexthop object. Fails if another one has its number, which may be unmanaged.
    AddNexthop(NexthopId, Nexthop),
    /// Replaces a nexthop object of ours in place: routes that refer to it follow.
    ReplaceNexthop(NexthopId, Nexthop),
    /// Removes a nexthop object. The kernel removes the routes that refer to it, by a search of the whole table: remove
    /// them first.
    DeleteNexthop(NexthopId),
    /// Sets a route, replacing in place what has the same key (`NLM_F_CREATE | NLM_F_REPLACE`).
    SetRoute(RouteKey, Route),
    /// Removes a route; the value says which, where several share a key. With [`RouteTarget::Other`] it names
    /// destination and metric alone, and the kernel removes the first that it finds under them.
    DeleteRoute(RouteKey, Route),
}

impl Op {
    /// The interface that it is about or that its object lives on.
    #[must_use]
    pub const fn link(&self) -> Option<&LinkName> {
        match self {
            Self::CreateLink(name, _) | Self::SetLink(name, _) | Self::DeleteLink(name) => Some(name),
            Self::AddAddress(key) | Self::DeleteAddress(key) => Some(&key.link),
            Self::SetNeighbour(key, _) | Self::DeleteNeighbour(key) => Some(&key.link),
            Self::SetFdb(key, _) | Self::DeleteFdb(key, _) => Some(&key.link),
            Self::AddNexthop(_, nexthop) | Self::ReplaceNexthop(_, nexthop) => nexthop.target.link(),
            Self::DeleteNexthop(_) => None,
            Self::SetRoute(_, route) | Self::DeleteRoute(_, route) => route.target.link(),
        }
    }
}

/// Parameters of an interface to change; `None` leaves one as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// New MTU in bytes.
    pub mtu: Option<u32>,
    /// New hardware address.
    pub mac: Option<Mac>,
    /// Set up or down.
    pub up: Option<bool>,
    /// New alias.
    pub alias: Option<String>,
    /// The wanted kind, of which the parameters that can change in place count.
    pub kind: Option<LinkKind>,
}

impl Link {
    /// The changes in place that turn `found` into this link.
    #[must_use]
    pub fn change(&self, found: &Self) -> Option<LinkChange> {
        let change = LinkChange {
            mtu: Some(self.mtu).filter(|mtu| found.mtu != *mtu),
            mac: self.mac.filter(|mac| found.mac != Some(*mac)),
            up: Some(self.up).filter(|up| found.up != *up),
            alias: self.alias.clone().filter(|alias| found.alias.as_ref() != Some(alias)),
            kind: self.kind.differs_in_place(&found.kind).then(|| self.kind.clone()),
        };
        (change != LinkChange::default()).then_some(change)
    }
}
