//! Kernel objects and operations on the wire.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

use crate::dataplane::{
    Dataplane, FdbKey, Link, LinkKind, NeighbourKey, Nexthop, NexthopId, Op, PROTOCOL, Route, RouteKey,
    RouteTarget,
};
use crate::link::{LinkName, Mac};

/// Kernel objects of ours, each list in the order of its keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Objects {
    /// Interfaces.
    pub links: Vec<LinkObject>,
    /// Addresses on them.
    pub addresses: Vec<AddressObject>,
    /// Neighbour (ARP, ND) entries.
    pub neighbours: Vec<NeighbourObject>,
    /// Forwarding entries of tunnel devices.
    pub fdb: Vec<FdbObject>,
    /// Nexthop objects, which a large cluster has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nexthops: Vec<NexthopObject>,
    /// Routes of the main table.
    pub routes: Vec<RouteObject>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkObject {
    /// Its name.
    pub name: LinkName,
    /// The kernel's name of its kind.
    pub kind: String,
    /// MTU.
    pub mtu_bytes: u32,
    /// Hardware address.
    pub mac: Option<Mac>,
    /// Administratively up.
    pub up: bool,
    /// Alias.
    pub alias: Option<String>,
    /// What a tunnel device has beyond that, under the name of the kind.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<LinkKind>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressObject {
    /// Interface.
    pub link: LinkName,
    /// Address and prefix length.
    pub address: IpNet,
}

/// A neighbour entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NeighbourObject {
    /// Interface.
    pub link: LinkName,
    /// Address that is resolved.
    pub address: IpAddr,
    /// Hardware address.
    pub mac: Option<Mac>,
    /// Never probed, never aged.
    pub permanent: bool,
}

/// A forwarding entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FdbObject {
    /// Tunnel device.
    pub link: LinkName,
    /// Inner destination.
    pub mac: Mac,
    /// Outer destinations.
    pub destinations: Vec<IpAddr>,
    /// Never aged.
    pub permanent: bool,
}

/// A nexthop object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NexthopObject {
    /// Its number.
    pub id: u32,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Outgoing interface.
    pub link: Option<LinkName>,
    /// The next hop is taken as reachable.
    pub onlink: bool,
    /// Number of who set it; 241 for flannel.
    pub protocol: u8,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteObject {
    /// Destination.
    pub destination: IpNet,
    /// Metric.
    pub metric: u32,
    /// `unicast`, `blackhole`, or `other` with a description in `note`.
    pub kind: String,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Outgoing interface.
    pub link: Option<LinkName>,
    /// The next hop is taken as reachable.
    pub onlink: bool,
    /// Number of the nexthop object that contains next hop and interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nexthop_id: Option<u32>,
    /// Number of who set it; 241 for flannel.
    pub protocol: u8,
    /// What the other fields cannot say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The difference between what the kernel should have and what it has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Diff {
    /// The operations that would make them equal, in their order.
    pub ops: Vec<PendingOp>,
    /// Objects that nobody wants are among them. Not while the store has not answered since the start: what is remembered
    /// may be older than the kernel.
    pub removes_surplus: bool,
    /// Nothing changed while the kernel was read. Otherwise some operations may be done already.
    pub settled: bool,
}

/// An operation that would run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingOp {
    /// It as a line, in the manner of iproute2.
    pub text: String,
    /// What it does.
    pub action: Action,
    /// To what.
    pub kind: Kind,
    /// The object: the name of a link, `ADDRESS dev LINK`, the destination of a route.
    pub object: String,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Creates or changes.
    Set,
    /// Deletes.
    Delete,
}

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An interface.
    Link,
    /// An address of an interface.
    Address,
    /// A neighbour entry.
    Neighbour,
    /// A forwarding entry.
    Fdb,
    /// A nexthop object.
    Nexthop,
    /// A route.
    Route,
    /// The agent of the backend, or a peer that it serves.
    Agent,
}

impl Action {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Set, Self::Delete];
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Link, Self::Address, Self::Neighbour, Self::Fdb, Self::Nexthop, Self::Route, Self::Agent];
}

/// What an operation does, and to what.
#[must_use]
pub const fn classify(op: &Op) -> (Action, Kind) {
    match op {
        Op::CreateLink(..) | Op::SetLink(..) => (Action::Set, Kind::Link),
        Op::DeleteLink(_) => (Action::Delete, Kind::Link),
        Op::AddAddress(_) => (Action::Set, Kind::Address),
        Op::DeleteAddress(_) => (Action::Delete, Kind::Address),
        Op::SetNeighbour(..) => (Action::Set, Kind::Neighbour),
        Op::DeleteNeighbour(_) => (Action::Delete, Kind::Neighbour),
        Op::SetFdb(..) => (Action::Set, Kind::Fdb),
        Op::DeleteFdb(..) => (Action::Delete, Kind::Fdb),
        Op::AddNexthop(..) | Op::ReplaceNexthop(..) => (Action::Set, Kind::Nexthop),
        Op::DeleteNexthop(_) => (Action::Delete, Kind::Nexthop),
        Op::SetRoute(..) => (Action::Set, Kind::Route),
        Op::DeleteRoute(..) => (Action::Delete, Kind::Route),
    }
}

impl From<&Op> for PendingOp {
    fn from(op: &Op) -> Self {
        let (action, kind) = classify(op);
        let object = match op {
            Op::CreateLink(name, _) | Op::SetLink(name, _) | Op::DeleteLink(name) => name.to_string(),
            Op::AddAddress(key) | Op::DeleteAddress(key) => format!("{} dev {}", key.net, key.link),
            Op::SetNeighbour(key, _) | Op::DeleteNeighbour(key) => {
                format!("{} dev {}", key.address, key.link)
            }
            Op::SetFdb(key, _) | Op::DeleteFdb(key, _) => format!("{} dev {}", key.mac, key.link),
            Op::AddNexthop(id, _) | Op::ReplaceNexthop(id, _) | Op::DeleteNexthop(id) => id.to_string(),
            Op::SetRoute(key, _) | Op::DeleteRoute(key, _) => key.destination.to_string(),
        };
        Self { text: op.to_string(), action, kind, object }
    }
}

impl From<&Dataplane> for Objects {
    fn from(dataplane: &Dataplane) -> Self {
        Self {
            links: dataplane.links.iter().map(link).collect(),
            addresses: dataplane
                .addresses
                .keys()
                .map(|key| AddressObject { link: key.link.clone(), address: key.net })
                .collect(),
            neighbours: dataplane
                .neighbours
                .iter()
                .map(|(NeighbourKey { link, address }, neighbour)| NeighbourObject {
                    link: link.clone(),
                    address: *address,
                    mac: neighbour.mac,
                    permanent: neighbour.permanent,
                })
                .collect(),
            fdb: dataplane
                .fdb
                .iter()
                .map(|(FdbKey { link, mac }, entry)| FdbObject {
                    link: link.clone(),
                    mac: *mac,
                    destinations: entry.destinations.clone(),
                    permanent: entry.permanent,
                })
                .collect(),
            nexthops: dataplane.nexthops.iter().map(nexthop).collect(),
            routes: dataplane
                .routes
                .iter()
                .flat_map(|(key, several)| several.each().map(move |one| route(key, one)))
                .collect(),
        }
    }
}

fn link((name, link): (&LinkName, &Link)) -> LinkObject {
    LinkObject {
        name: name.clone(),
        kind: link.kind.name().to_owned(),
        mtu_bytes: link.mtu,
        mac: link.mac,
        up: link.up,
        alias: link.alias.clone(),
        parameters: link.kind.is_tunnel().then(|| link.kind.clone()),
    }
}

fn nexthop((id, nexthop): (&NexthopId, &Nexthop)) -> NexthopObject {
    let (gateway, onlink) = match &nexthop.target {
        RouteTarget::Via { gateway, onlink, .. } => (Some(*gateway), *onlink),
        _ => (None, false),
    };
    let link = nexthop.target.link().cloned();
    NexthopObject { id: id.get(), gateway, link, onlink, protocol: nexthop.protocol }
}

fn route(key: &RouteKey, route: &Route) -> RouteObject {
    let plain = RouteObject {
        destination: key.destination,
        metric: key.metric,
        kind: "unicast".to_owned(),
        gateway: None,
        link: None,
        onlink: false,
        nexthop_id: route.target.object().map(NexthopId::get),
        protocol: route.protocol,
        note: None,
    };
    match &route.target {
        RouteTarget::Via { gateway, link, onlink, .. } => {
            RouteObject { gateway: Some(*gateway), link: Some(link.clone()), onlink: *onlink, ..plain }
        }
        RouteTarget::Link(link) => RouteObject { link: Some(link.clone()), ..plain },
        RouteTarget::Blackhole => RouteObject { kind: "blackhole".to_owned(), ..plain },
        RouteTarget::Other(note) => {
            RouteObject { kind: "other".to_owned(), note: Some(note.clone()), ..plain }
        }
        RouteTarget::Several(routes) => RouteObject {
            kind: "other".to_owned(),
            note: Some(format!("{} routes under one key", routes.len())),
            ..plain
        },
    }
}

const _: () = assert!(PROTOCOL == 241, "the number is in the documentation of RouteObject");
