//! What the host has, as plain values: the input of interface selection and desired state.

use ipnet::IpNet;
use std::net::IpAddr;

use crate::link::{IfIndex, LinkName, Mac};

/// Interfaces, addresses and main-table routes of a host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// All interfaces, in the kernel's order.
    pub links: Vec<LinkFacts>,
    /// Unicast routes of the main table, in the kernel's dump order.
    pub routes: Vec<RouteFacts>,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkFacts {
    /// Kernel number.
    pub index: IfIndex,
    /// Name.
    pub name: LinkName,
    /// Largest packet in bytes, without the link header.
    pub mtu: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Hardware address, where it has one of six bytes.
    pub mac: Option<Mac>,
    /// Addresses in kernel order, both families.
    pub addresses: Vec<AddressFacts>,
}

/// An address on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressFacts {
    /// Address and prefix length (host bits kept).
    pub net: IpNet,
    /// `IFA_F_DEPRECATED`: preferred lifetime is over.
    pub deprecated: bool,
    /// `IFA_F_PERMANENT`: set by hand, no lifetime.
    pub permanent: bool,
    /// `IFA_F_TEMPORARY`: IPv6 privacy address (RFC 8981).
    pub temporary: bool,
}

/// A unicast route of the main table. A multipath route appears once, with its first next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteFacts {
    /// Destination; `0.0.0.0/0` or `::/0` for the default route.
    pub destination: IpNet,
    /// Next hop, if not directly connected.
    pub gateway: Option<IpAddr>,
    /// Outgoing interface.
    pub link: Option<IfIndex>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Metric: lower is preferred.
    pub metric: u32,
}
