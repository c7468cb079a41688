//! Why a backend cannot run here, and why a peer cannot be reached.

use ipnet::IpNet;
use std::net::IpAddr;

use super::BACKENDS;
use crate::family::Family;
use crate::json::FieldError;
use crate::link::{LinkName, Mac};

/// Config, lease and host do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// This version cannot run the backend.
    #[error(
        "the backend {0} is not in this version of flanneld: set Backend in the network config to {names}", names = supported_names()
    )]
    Unsupported(&'static str),
    /// Our lease has no subnet of a family that is on.
    #[error(
        "{0} is on, but the lease of this node has no {0} subnet: release the lease, so that a new one is taken"
    )]
    NoSubnet(Family),
    /// The external interface has no address of a family that is on.
    #[error(
        "{link} has no {family} address, but {family} is on: add one, or choose another interface with --iface"
    )]
    NoAddress {
        /// The family.
        family: Family,
        /// The external interface.
        link: LinkName,
    },
    /// No MAC was given for a family that is on.
    #[error("the {0} tunnel has no MAC address")]
    NoEndpoint(Family),
    /// The VNI makes the name of the device too long.
    #[error("{0}")]
    NameTooLong(String),
    /// Another reason.
    #[error("{0}")]
    Other(String),
}

/// `vxlan, host-gw, ipip or alloc`.
fn supported_names() -> String {
    let names: Vec<&str> =
        BACKENDS.iter().filter(|entry| entry.is_supported).map(|entry| entry.name).collect();
    names.split_last().map_or_else(String::new, |(last, others)| format!("{} or {last}", others.join(", ")))
}

/// Why a peer cannot be reached, or not in one family.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The peer runs another backend. Not a fault: clusters may be mixed on purpose.
    #[error("the node runs the backend {found:?}, this one {ours:?}")]
    OtherBackend {
        /// As published.
        found: String,
        /// Ours.
        ours: &'static str,
    },
    /// The record has no address to send to.
    #[error("the lease has no {0} address to send to")]
    NoPublicAddress(Family),
    /// The record has our own address.
    #[error(
        "the node publishes {0}, which is the address of this node. Set another --public-ip or --iface on one of the two"
    )]
    OwnAddress(IpAddr),
    /// The record has no data of the backend.
    #[error("the lease has no {0} tunnel data")]
    NoData(Family),
    /// The data cannot be read.
    #[error("the {family} tunnel data of the lease cannot be used")]
    BadData {
        /// The family.
        family: Family,
        /// What is wrong.
        #[source]
        source: FieldError,
    },
    /// The address of the peer is not on the link, and no router may be in between.
    #[error("{address} is not on the link of {link}: {}", .cause.text(link))]
    OffLink {
        /// As published.
        address: IpAddr,
        /// The interface of this node.
        link: LinkName,
        /// What is in the way or missing.
        cause: OffLink,
    },
    /// Another fault of the lease.
    #[error("{0}")]
    Other(String),
    /// Two nodes publish one MAC with different addresses.
    #[error(
        "the {family} VTEP MAC {mac} is that of another node too: give one of them a new one (machines cloned with their state directory?)"
    )]
    DuplicateMac {
        /// The family.
        family: Family,
        /// As published.
        mac: Mac,
    },
}

/// Why an address is not on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffLink {
    /// A route leads to it through a router, although the link has an address of the same network.
    Router(IpNet, IpAddr),
    /// The link has an address of this network, and no route to it.
    NoRoute(IpNet),
    /// It is in no network of the link.
    Elsewhere,
}

impl OffLink {
    fn text(&self, link: &LinkName) -> String {
        let fix = self.fix(link).unwrap_or_default();
        match self {
            Self::Router(destination, router) => format!(
                "the route to {destination} leads to it through {router}. Run `{fix}` if both nodes are on one link, otherwise use vxlan"
            ),
            Self::NoRoute(network) => format!("{link} has no route to its network {network}. Run `{fix}`"),
            Self::Elsewhere => "host-gw needs nodes on one link, vxlan does not".to_owned(),
        }
    }

    fn fix(&self, link: &LinkName) -> Option<String> {
        match self {
            Self::Router(destination, router) => {
                Some(format!("ip route del {destination} via {router} dev {link}"))
            }
            Self::NoRoute(network) => Some(format!("ip route add {network} dev {link}")),
            Self::Elsewhere => None,
        }
    }
}

impl PeerError {
    /// The command on this node that resolves it, if there is one.
    #[must_use]
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::OffLink { link, cause, .. } => cause.fix(link),
            _ => None,
        }
    }

    /// Whether it is as intended and no fault.
    #[must_use]
    pub const fn is_expected(&self) -> bool {
        matches!(self, Self::OtherBackend { .. })
    }
}
