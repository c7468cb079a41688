//! Why a backend cannot run here, and why a peer cannot be reached.

use ipnet::IpNet;
use std::net::IpAddr;

use super::BACKENDS;
use crate::family::Family;
use crate::json::FieldError;
use crate::link::{LinkName, Mac, Vni};

/// Config, lease and host do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// This version cannot run the backend.
    #[error(
        "the backend {0} is not in this version of flanneld: set Backend in the network config to {names}", names = supported_names()
    )]
    Unsupported(&'static str),
    /// A family is on that the backend does not carry.
    #[error(
        "the backend {backend} does not carry {family}, which the network config enables: pods of different nodes cannot reach each other over {family}. Set Enable{family} to false, or Backend.Type to vxlan"
    )]
    FamilyNotCarried {
        /// Its name.
        backend: &'static str,
        /// The family.
        family: Family,
    },
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
    /// The underlay's packets are too small for the tunnel.
    #[error(
        "the MTU of the underlay is {mtu}, but an {family} tunnel needs {least}: raise it, or Backend.MTU where that is the smaller one"
    )]
    MtuTooSmall {
        /// Family of the tunnel.
        family: Family,
        /// What is left.
        mtu: u32,
        /// The least that would do.
        least: u32,
    },
    /// The VNI makes the name of the device too long.
    #[error(
        "Backend.VNI is {vni}, but the device name {name} would be longer than 15 bytes: must be at most {largest}"
    )]
    NameTooLong {
        /// As configured.
        vni: Vni,
        /// The name.
        name: String,
        /// What would do.
        largest: u32,
    },
    /// host-gw with a public address that no peer could use as next hop.
    #[error(
        "the public address {public} is not on {link} (which has {own}), so host-gw cannot route through it: leave --public-ip out, or use vxlan"
    )]
    PublicAddressElsewhere {
        /// As requested.
        public: IpAddr,
        /// The interface's own.
        own: IpAddr,
        /// The external interface.
        link: LinkName,
    },
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
    /// The subnet is not one of this cluster.
    #[error("the subnet {subnet} is outside the network {network}")]
    OutsideNetwork {
        /// As leased.
        subnet: IpNet,
        /// The cluster's network.
        network: IpNet,
    },
    /// The subnet is ours.
    #[error("the subnet {subnet} overlaps the subnet {own} of this node")]
    OwnSubnet {
        /// As leased.
        subnet: IpNet,
        /// Ours.
        own: IpNet,
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
    /// The MAC is not that of one interface.
    #[error("the lease has the {family} VTEP MAC {mac}, which is not the address of one interface")]
    BadMac {
        /// The family.
        family: Family,
        /// As published.
        mac: Mac,
    },
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
    /// host-gw to a node on another link.
    #[error("{gateway} is not on the link of {link}: host-gw needs nodes on one link, vxlan does not")]
    NotOnLink {
        /// The node's address.
        gateway: IpAddr,
        /// The external interface.
        link: LinkName,
    },
}

impl PeerError {
    /// Whether it is as intended and no fault.
    #[must_use]
    pub const fn is_expected(&self) -> bool {
        matches!(self, Self::OtherBackend { .. })
    }
}
