//! Codecs between netlink messages and values. No sockets: bytes in, bytes out.
//!
//! Encoding uses the types of `netlink-packet-route`. Decoding reads only the attributes that flannel needs, directly
//! from the bytes: an unrelated attribute that a newer kernel or another driver sends in an unexpected form must not
//! make a message undecodable.
//!
//! Layouts: the kernel's include/uapi/linux/{netlink,rtnetlink,if_link,if_addr,neighbour}.h.

mod attribute;
mod frame;
mod nfnetlink;
mod request;

pub mod address;
pub mod bridge;
pub mod conntrack;
pub mod fdb;
pub mod link;
pub mod neighbour;
pub mod nexthop;
pub mod nftables;
pub mod notification;
pub mod route;
pub mod snapshot;
pub mod traffic;

#[cfg(test)]
mod tests;

pub use frame::{Frame, Refusal, Reply, frames};
pub use request::{Get, Request};

/// Messages of links (`RTM_NEWLINK`).
pub const NEW_LINK: u16 = 16;
/// A link was deleted (`RTM_DELLINK`).
pub const DELETE_LINK: u16 = 17;
/// Messages of addresses (`RTM_NEWADDR`).
pub const NEW_ADDRESS: u16 = 20;
/// An address was deleted (`RTM_DELADDR`).
pub const DELETE_ADDRESS: u16 = 21;
/// Messages of routes (`RTM_NEWROUTE`).
pub const NEW_ROUTE: u16 = 24;
/// A route was deleted (`RTM_DELROUTE`).
pub const DELETE_ROUTE: u16 = 25;
/// Messages of neighbours and FDB entries (`RTM_NEWNEIGH`).
pub const NEW_NEIGHBOUR: u16 = 28;
/// A neighbour or FDB entry was deleted (`RTM_DELNEIGH`).
pub const DELETE_NEIGHBOUR: u16 = 29;

/// Messages of nexthop objects (`RTM_NEWNEXTHOP`).
pub const NEW_NEXTHOP: u16 = 104;
/// A nexthop object was deleted (`RTM_DELNEXTHOP`).
pub const DELETE_NEXTHOP: u16 = 105;
/// Requests nexthop objects (`RTM_GETNEXTHOP`).
const GET_NEXTHOP: u16 = 106;

/// The scope of an address or of an IPv4 route (`RT_SCOPE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(pub u8);

impl Scope {
    /// Everywhere (`global` of addresses, `universe` of routes).
    pub const GLOBAL: Self = Self(0);
    /// On the link only.
    pub const LINK: Self = Self(253);
    /// On this host only.
    pub const HOST: Self = Self(254);
}

/// A value that cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A route in a form that is decoded but never set.
    #[error("routes of the form {0:?} cannot be set")]
    RouteForm(String),
    /// A route or tunnel through an interface whose index was not given.
    #[error("the index of interface {0} is unknown")]
    Link(crate::link::LinkName),
}

/// A message from the kernel that cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the message does.
    #[error("netlink message truncated: {available} of {length} bytes")]
    Cut {
        /// Length according to its header.
        length: usize,
        /// Bytes received.
        available: usize,
    },
    /// The message is too short for its fixed part.
    #[error("{object} message too short: {length} bytes")]
    Header {
        /// Kind of the object.
        object: &'static str,
        /// Length of the payload.
        length: usize,
    },
    /// An attribute has a length that its type does not allow.
    #[error("attribute {attribute} of a {object} message has an invalid length: {length} bytes")]
    Attribute {
        /// Kind of the object.
        object: &'static str,
        /// Number of the attribute.
        attribute: u16,
        /// Length of its value.
        length: usize,
    },
    /// A required attribute is missing.
    #[error("attribute {attribute} of a {object} message is missing")]
    Missing {
        /// Kind of the object.
        object: &'static str,
        /// Number of the attribute.
        attribute: u16,
    },
    /// A link with an invalid name.
    #[error(transparent)]
    LinkName(#[from] crate::link::ParseLinkNameError),
    /// A prefix length beyond the bits of the address.
    #[error("a {object} message has an invalid prefix length: {length}")]
    PrefixLength {
        /// Kind of the object.
        object: &'static str,
        /// The length.
        length: u8,
    },
}

/// Netlink pads everything to four bytes.
const fn align(length: usize) -> usize {
    (length + 3) & !3
}
