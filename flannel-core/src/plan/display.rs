//! Ops as lines that read like iproute2 commands, for logs and `flannelctl plan`.

use std::fmt;

use crate::dataplane::{Link, LinkChange, Op, Route, RouteKey, RouteTarget};
use crate::family::Family;

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateLink(name, link) => write!(f, "link add {name}{}", Parameters(link)),
            Self::SetLink(name, change) => write!(f, "link set {name}{change}"),
            Self::DeleteLink(name) => write!(f, "link del {name}"),
            Self::AddAddress(key) => write!(f, "addr add {} dev {}", key.net, key.link),
            Self::DeleteAddress(key) => write!(f, "addr del {} dev {}", key.net, key.link),
            Self::SetNeighbour(key, mac) => {
                write!(f, "neigh replace {} lladdr {mac} dev {}", key.address, key.link)
            }
            Self::DeleteNeighbour(key) => write!(f, "neigh del {} dev {}", key.address, key.link),
            Self::SetFdb(key, destination) => {
                write!(f, "fdb replace {} dst {destination} dev {}", key.mac, key.link)
            }
            Self::DeleteFdb(key, destination) => {
                write!(f, "fdb del {} dst {destination} dev {}", key.mac, key.link)
            }
            Self::SetRoute(key, route) => write!(f, "route replace {}", Written(key, &route.target)),
            Self::DeleteRoute(key, route) => write!(f, "route del {}", Written(key, &route.target)),
        }
    }
}

/// The parameters of a new interface.
struct Parameters<'a>(&'a Link);

impl fmt::Display for Parameters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Link { kind, mtu, mac, up, alias } = self.0;
        let change =
            LinkChange { mtu: Some(*mtu), mac: *mac, up: Some(*up), alias: alias.clone(), kind: None };
        write!(f, "{change} {kind}")
    }
}

impl fmt::Display for LinkChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        if let Some(mac) = self.mac {
            write!(f, " address {mac}")?;
        }
        if let Some(up) = self.up {
            f.write_str(if up { " up" } else { " down" })?;
        }
        if let Some(alias) = &self.alias {
            write!(f, " alias {alias:?}")?;
        }
        match &self.kind {
            Some(kind) => write!(f, " type {} {}", kind.name(), kind.changeable()),
            None => Ok(()),
        }
    }
}

/// A route as iproute2 writes it.
#[must_use]
pub fn route_text(key: &RouteKey, route: &Route) -> String {
    Written(key, &route.target).to_string()
}

/// A route as iproute2 writes it.
struct Written<'a>(&'a RouteKey, &'a RouteTarget);

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(RouteKey { destination, metric }, target) = self;
        match target {
            RouteTarget::Via { gateway, link, onlink } => {
                write!(f, "{destination} via {gateway} dev {link}")?;
                f.write_str(if *onlink { " onlink" } else { "" })?;
            }
            RouteTarget::Link(link) => write!(f, "{destination} dev {link}")?,
            RouteTarget::Blackhole => write!(f, "blackhole {destination}")?,
            RouteTarget::Other(_) | RouteTarget::Several(_) => write!(f, "{destination}")?,
        }
        // The kernel's defaults go without saying.
        match (Family::of_net(*destination), metric) {
            (Family::V4, 0) | (Family::V6, 1024) => {}
            (_, metric) => write!(f, " metric {metric}")?,
        }
        match target {
            RouteTarget::Other(text) => write!(f, " # {text}"),
            _ => Ok(()),
        }
    }
}
