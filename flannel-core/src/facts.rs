//! What the host has, as plain values: the input of interface selection and desired state.

use ipnet::IpNet;
use std::net::IpAddr;

use crate::family::Family;
use crate::link::{IfIndex, LinkName, Mac};

pub use lookup::RouteLookup;

mod lookup;

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
    /// Bridge that it is attached to.
    pub master: Option<IfIndex>,
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

impl HostFacts {
    /// The interface with this number.
    #[must_use]
    pub fn link(&self, index: IfIndex) -> Option<&LinkFacts> {
        self.links.iter().find(|link| link.index == index)
    }

    /// The oldest interface that has this address.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<&LinkFacts> {
        self.links.iter().filter(|link| link.has(address)).min_by_key(|link| link.index)
    }
}

impl LinkFacts {
    /// Whether the interface has this address.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|found| found.net.addr() == address)
    }

    /// The addresses of `family` that can be published, best first: global before link-local, set by hand
    /// before given for a time, lasting before temporary, then in the kernel's order.
    #[must_use]
    pub fn usable(&self, family: Family) -> Vec<IpAddr> {
        let mut found: Vec<&AddressFacts> = self
            .addresses
            .iter()
            .filter(|found| Family::of_net(found.net) == family && found.is_usable())
            .collect();
        found.sort_by_key(|found| (is_link_local(found.net.addr()), !found.permanent, found.temporary));
        found.into_iter().map(|found| found.net.addr()).collect()
    }
}

impl AddressFacts {
    /// Global in Go's sense (private and unique local addresses too) or link-local, and not deprecated.
    fn is_usable(&self) -> bool {
        let address = self.net.addr();
        let broadcast = address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
        !(self.deprecated
            || broadcast
            || address.is_unspecified()
            || address.is_loopback()
            || address.is_multicast())
    }
}

pub(crate) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Link-local and multicast addresses, which the kernel sets by itself.
pub(crate) fn is_local_scope(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_multicast(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_multicast(),
    }
}
