//! Objects of other programs because of which the kernel refuses one of ours.
//!
//! The kernel gives an error number and does not name the object. What can be in the way follows from its rules: a name,
//! the parameters of a tunnel, a UDP port, the way to a gateway. Nothing here is ours to remove, so each obstacle comes
//! with the command for it.

use std::fmt;
use std::net::IpAddr;

use crate::dataplane::{Dataplane, Link, LinkKind, Op, Route, RouteKey, RouteTarget, UdpPort};
use crate::family::Family;
use crate::link::LinkName;
use crate::owned::Scope;
use crate::plan::route_text;

/// A UDP socket that is bound to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpSocket {
    /// Where it receives.
    pub port: UdpPort,
    /// Id and name of its process; `None` for a socket of the kernel, or if it is unknown.
    pub process: Option<(u32, String)>,
}

/// An object that the kernel refuses, and what is in the way of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The device of ours, or the one of our route.
    pub link: LinkName,
    /// What is in the way.
    pub blocker: Blocker,
}

/// An object of another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocker {
    /// An interface of this kind has the name; a NIC has none.
    Name(String),
    /// The interface has what only one can have.
    Identity(LinkName, String),
    /// The interface receives on the port.
    Port(LinkName, u16),
    /// The socket is bound to the port.
    Socket(UdpSocket),
    /// The route leads to the gateway of our route to the destination.
    Route(RouteKey, Box<RouteKey>, Box<Route>),
}

/// Returns what is in the way of desired objects that `observed` lacks. `sockets` returns the sockets of a UDP port.
#[must_use]
pub fn obstacles(
    observed: &Dataplane,
    scope: &Scope<'_>,
    sockets: impl Fn(u16) -> Vec<UdpSocket>,
) -> Vec<Obstacle> {
    let situation = Situation { observed, scope };
    let desired = scope.desired;
    let links = desired.links.iter().filter_map(|(name, wanted)| {
        Some(Obstacle { link: name.clone(), blocker: situation.of_link(name, wanted, &sockets)? })
    });
    let routes = desired.routes.iter().filter_map(|(key, wanted)| situation.of_route(key, wanted));
    links.chain(routes).collect()
}

struct Situation<'a> {
    observed: &'a Dataplane,
    scope: &'a Scope<'a>,
}

impl Situation<'_> {
    fn of_link(
        &self,
        name: &LinkName,
        wanted: &Link,
        sockets: &impl Fn(u16) -> Vec<UdpSocket>,
    ) -> Option<Blocker> {
        let kind = &wanted.kind;
        match self.observed.links.get(name) {
            // The kernel does not delete a NIC.
            Some(found) if !kind.replaces(&found.kind) || found.kind.name().is_empty() => {
                return Some(Blocker::Name(found.kind.name().to_owned()));
            }
            Some(found) if found.up && kind.mismatch(&found.kind).is_none() => return None,
            _ => {}
        }
        let has_device = self.observed.links.get(name).is_some_and(|it| kind.mismatch(&it.kind).is_none());
        let excluded = self.others().find(|(_, other)| !has_device && kind.excludes(&other.kind));
        if let Some((other, _)) = excluded {
            return Some(Blocker::Identity(other.clone(), kind.identity()));
        }
        self.of_port(kind, sockets)
    }

    fn of_port(&self, kind: &LinkKind, sockets: &impl Fn(u16) -> Vec<UdpSocket>) -> Option<Blocker> {
        let port = kind.udp_port()?;
        let receives = |other: &Link, family| {
            let port = UdpPort { family, ..port };
            other.up && other.kind.udp_port().is_some_and(|other| other.overlaps(&port))
        };
        let mut receivers = self.others().filter(|(_, other)| receives(other, port.family));
        if let Some((other, _)) = receivers.clone().find(|(_, other)| !kind.shares_port(&other.kind)) {
            return Some(Blocker::Port(other.clone(), port.number));
        }
        if receivers.next().is_some() {
            return None;
        }
        // A socket for both families may be one of the kernel for IPv6 alone.
        let is_of_kernel = |socket: &UdpSocket| {
            let all = || self.observed.links.values();
            socket.port.family.is_none() && all().any(|other| receives(other, Some(Family::V6)))
        };
        let found = sockets(port.number);
        found.into_iter().find(|it| it.port.overlaps(&port) && !is_of_kernel(it)).map(Blocker::Socket)
    }

    /// Links that a plan does not remove.
    fn others(&self) -> impl Iterator<Item = (&LinkName, &Link)> + Clone {
        let is_other = |name: &LinkName, link: &Link| {
            !self.scope.desired.links.contains_key(name) && !self.scope.is_stale(link)
        };
        self.observed.links.iter().filter(move |(name, link)| is_other(name, link))
    }

    /// IPv6 looks up an on-link gateway before it takes a route, and refuses if that finds another interface
    /// (`ip6_route_check_nh_onlink` in the kernel).
    fn of_route(&self, key: &RouteKey, wanted: &Route) -> Option<Obstacle> {
        let RouteTarget::Via { gateway, link, onlink: true, .. } = &wanted.target else { return None };
        let is_set = self.observed.routes.get(key) == Some(wanted);
        if is_set || Family::of(*gateway) == Family::V4 || !self.observed.links.contains_key(link) {
            return None;
        }
        let (found, route) = self.best_route(*gateway)?;
        let is_other = route.target.link().is_some_and(|found| found != link) && found != key;
        let blocker = || Blocker::Route(*key, Box::new(*found), Box::new(route.clone()));
        is_other.then(|| Obstacle { link: link.clone(), blocker: blocker() })
    }

    /// The route to an address. A default route leads everywhere and is none.
    fn best_route(&self, address: IpAddr) -> Option<(&RouteKey, &Route)> {
        let covers = |key: &RouteKey| key.destination.prefix_len() > 0 && key.destination.contains(&address);
        let covering = self.observed.routes.iter().filter(|(key, _)| covers(key));
        let best =
            covering.min_by_key(|(key, _)| (std::cmp::Reverse(key.destination.prefix_len()), key.metric))?;
        Some((best.0, best.1.each().next()?))
    }
}

impl Obstacle {
    /// The command that removes what is in the way.
    #[must_use]
    pub fn fix(&self) -> String {
        match &self.blocker {
            Blocker::Name(kind) if kind.is_empty() => format!("ip link set {} name NEW", self.link),
            Blocker::Name(_) => format!("ip link del {}", self.link),
            Blocker::Identity(other, _) | Blocker::Port(other, _) => format!("ip link del {other}"),
            Blocker::Socket(UdpSocket { process: Some((pid, _)), .. }) => format!("kill {pid}"),
            Blocker::Socket(socket) => format!("ss -ulnp sport = :{}", socket.port.number),
            Blocker::Route(_, key, route) => {
                format!("ip -6 {}", Op::DeleteRoute(**key, (**route).clone()))
            }
        }
    }
}

/// What is in the way, and of what.
impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let link = &self.link;
        match &self.blocker {
            Blocker::Name(kind) if kind.is_empty() => {
                write!(f, "another interface has the name {link} and cannot be deleted")
            }
            Blocker::Name(kind) => write!(f, "an interface of the kind {kind} has the name {link}"),
            Blocker::Identity(other, identity) => {
                write!(f, "the interface {other} has {identity}, which {link} needs")
            }
            Blocker::Port(other, port) => {
                write!(f, "the interface {other} receives on UDP port {port}, which {link} needs")
            }
            Blocker::Socket(UdpSocket { port, process: Some((pid, name)) }) => {
                write!(f, "process {pid} ({name}) receives on UDP port {}, which {link} needs", port.number)
            }
            Blocker::Socket(UdpSocket { port, process: None }) => {
                write!(f, "another program receives on UDP port {}, which {link} needs", port.number)
            }
            Blocker::Route(wanted, key, route) => write!(
                f,
                "the unmanaged route {} leads to the gateway of the route to {}",
                route_text(key, route),
                wanted.destination
            ),
        }
    }
}

#[cfg(test)]
mod tests;
