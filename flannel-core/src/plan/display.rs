//! Ops as lines that read like iproute2 commands, for logs and `flannelctl plan`.

use std::fmt;

use crate::dataplane::{Link, LinkChange, Nexthop, NexthopId, Op, Route, RouteKey, RouteTarget};
use crate::family::Family;

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateLink(name, link) => write!(f, "link add {name}{} {}", link.parameters(), link.kind),
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
            Self::AddNexthop(id, nexthop) => write!(f, "nexthop add {}", nexthop_text(*id, nexthop)),
            Self::ReplaceNexthop(id, nexthop) => write!(f, "nexthop replace {}", nexthop_text(*id, nexthop)),
            Self::DeleteNexthop(id) => write!(f, "nexthop del id {id}"),
            Self::SetRoute(key, route) => write!(f, "route replace {}", route_text(key, route)),
            Self::DeleteRoute(key, route) => write!(f, "route del {}", route_text(key, route)),
        }
    }
}

impl Link {
    /// Returns the parameters that all kinds of link have.
    fn parameters(&self) -> LinkChange {
        let Self { mtu, mac, up, alias, .. } = self;
        LinkChange { mtu: Some(*mtu), mac: *mac, up: Some(*up), alias: alias.clone(), kind: None }
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

/// Returns a nexthop object in the format of iproute2.
fn nexthop_text(id: NexthopId, nexthop: &Nexthop) -> String {
    match &nexthop.target {
        RouteTarget::Other(other) => format!("id {id} # {other}"),
        target => format!("id {id}{}", next_hop_text(target)),
    }
}

/// Returns ` via 10.42.2.0 dev flannel.1 onlink`; empty for a target without interface.
fn next_hop_text(target: &RouteTarget) -> String {
    match target {
        RouteTarget::Via { gateway, link, onlink, object } => {
            let object = object.map(|id| format!(" nhid {id}")).unwrap_or_default();
            let onlink = if *onlink { " onlink" } else { "" };
            format!("{object} via {gateway} dev {link}{onlink}")
        }
        RouteTarget::Link(link) => format!(" dev {link}"),
        RouteTarget::Blackhole | RouteTarget::Other(_) | RouteTarget::Several(_) => String::new(),
    }
}

/// Returns a route in the format of iproute2.
#[must_use]
pub fn route_text(key: &RouteKey, route: &Route) -> String {
    let RouteKey { destination, metric } = key;
    let kind = if route.target == RouteTarget::Blackhole { "blackhole " } else { "" };
    let mut text = format!("{kind}{destination}{}", next_hop_text(&route.target));
    // The defaults of the kernel are omitted.
    if !matches!((Family::of_net(*destination), metric), (Family::V4, 0) | (Family::V6, 1024)) {
        text += &format!(" metric {metric}");
    }
    if let RouteTarget::Other(other) = &route.target {
        text += &format!(" # {other}");
    }
    text
}
