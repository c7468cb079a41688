//! Codecs between netlink messages and values. No sockets: bytes in, bytes out.
//!
//! Encoding uses the types of `netlink-packet-route`. Decoding reads only the attributes that flannel
//! needs, straight from the bytes, because one attribute of an unrelated device that a newer kernel
//! or another driver sends in an unexpected form must not make the whole dump unreadable.
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
pub mod nftables;
pub mod notification;
pub mod route;
pub mod snapshot;
pub mod traffic;

#[cfg(test)]
mod tests;

pub use frame::{Frame, Frames, Refusal, Reply, frames};
pub use request::{Get, Request};

/// Messages of links (`RTM_NEWLINK`).
pub const NEW_LINK: u16 = 16;
/// A link is gone (`RTM_DELLINK`).
pub const DELETE_LINK: u16 = 17;
/// Messages of addresses (`RTM_NEWADDR`).
pub const NEW_ADDRESS: u16 = 20;
/// An address is gone (`RTM_DELADDR`).
pub const DELETE_ADDRESS: u16 = 21;
/// Messages of routes (`RTM_NEWROUTE`).
pub const NEW_ROUTE: u16 = 24;
/// A route is gone (`RTM_DELROUTE`).
pub const DELETE_ROUTE: u16 = 25;
/// Messages of neighbours and FDB entries (`RTM_NEWNEIGH`).
pub const NEW_NEIGHBOUR: u16 = 28;
/// A neighbour or FDB entry is gone (`RTM_DELNEIGH`).
pub const DELETE_NEIGHBOUR: u16 = 29;

/// What an object may be reached by: `RT_SCOPE_*`, of addresses and of IPv4 routes.
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

/// A value that no message can carry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A VXLAN device whose underlay interface was not given by number.
    #[error("the interface number of the underlay {0} is not known")]
    Underlay(crate::link::LinkName),
    /// A route in a form that is only ever read.
    #[error("a route of the form {0:?} can be read, not set")]
    RouteForm(String),
    /// A route through an interface whose number was not given.
    #[error("the interface number of {0} is not known")]
    Link(crate::link::LinkName),
}

/// A message of the kernel that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the message does.
    #[error("a netlink message says it has {length} bytes, {available} are there")]
    Cut {
        /// Length that the header gives.
        length: usize,
        /// Bytes that are there.
        available: usize,
    },
    /// The fixed part of a message is cut off.
    #[error("a {object} message has {length} bytes, too few for its header")]
    Header {
        /// Kind of the object.
        object: &'static str,
        /// Length of the payload.
        length: usize,
    },
    /// An attribute has a length that its type does not allow.
    #[error("attribute {attribute} of a {object} message has {length} bytes, which its type does not allow")]
    Attribute {
        /// Kind of the object.
        object: &'static str,
        /// Number of the attribute.
        attribute: u16,
        /// Length of its value.
        length: usize,
    },
    /// An attribute that every such message has is not there.
    #[error("a {object} message has no attribute {attribute}")]
    Missing {
        /// Kind of the object.
        object: &'static str,
        /// Number of the attribute.
        attribute: u16,
    },
    /// A link with a name that is none.
    #[error(transparent)]
    LinkName(#[from] crate::link::ParseLinkNameError),
    /// A prefix length beyond the bits of the address.
    #[error("a {object} message has prefix length {length}, more than its family has bits")]
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
