//! Codecs between netlink messages and values. No sockets: bytes in, bytes out.
//!
//! Encoding uses the types of `netlink-packet-route`. Decoding reads only the attributes that flannel
//! needs, straight from the bytes, because one attribute of an unrelated device that a newer kernel
//! or another driver sends in an unexpected form must not make the whole dump unreadable.
//!
//! Layouts: the kernel's include/uapi/linux/{netlink,rtnetlink,if_link,if_addr,neighbour}.h.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL,
    NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;

mod attribute;
mod nfnetlink;

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

const NOOP: u16 = 1;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const OVERRUN: u16 = 4;

/// Length of `struct nlmsghdr`.
const HEADER_LEN: usize = 16;

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

/// A message to the kernel with its flags, not yet numbered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    message: RouteNetlinkMessage,
    flags: u16,
}

impl Request {
    /// Changes something; the kernel answers with an ACK or an error.
    const fn change(message: RouteNetlinkMessage, flags: u16) -> Self {
        Self { message, flags: NLM_F_REQUEST | NLM_F_ACK | flags }
    }

    /// Creates an object; fails if there is one.
    const fn create(message: RouteNetlinkMessage) -> Self {
        Self::change(message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Creates an object or replaces the one with the same key.
    const fn replace(message: RouteNetlinkMessage) -> Self {
        Self::change(message, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Asks for all objects that match.
    const fn dump(message: RouteNetlinkMessage) -> Self {
        Self { message, flags: NLM_F_REQUEST | NLM_F_DUMP }
    }

    /// Asks for one object; the answer is the object or an error.
    const fn get(message: RouteNetlinkMessage) -> Self {
        Self { message, flags: NLM_F_REQUEST }
    }

    /// Appends the bytes of the message, padded so that another one may follow.
    pub fn write(&self, sequence: u32, buffer: &mut Vec<u8>) {
        let mut header = NetlinkHeader::default();
        header.flags = self.flags;
        header.sequence_number = sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(self.message.clone()));
        message.finalize();
        let start = buffer.len();
        buffer.resize(start + align(message.buffer_len()), 0);
        message.serialize(&mut buffer[start..]);
    }

    /// The bytes of the message alone.
    #[must_use]
    pub fn to_bytes(&self, sequence: u32) -> Vec<u8> {
        let mut buffer = Vec::new();
        self.write(sequence, &mut buffer);
        buffer
    }
}

/// The messages in what one read from a netlink socket gave.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

/// Splits what one read from a netlink socket gave into messages.
#[must_use]
pub const fn frames(datagram: &[u8]) -> Frames<'_> {
    Frames { rest: datagram }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let available = self.rest.len();
        let length = attribute::u32_at(self.rest, 0).map_or(0, |length| length as usize);
        if length < HEADER_LEN || length > available {
            self.rest = &[];
            return Some(Err(DecodeError::Cut { length, available }));
        }
        let (bytes, _) = self.rest.split_at(length);
        self.rest = self.rest.get(align(length)..).unwrap_or_default();
        Some(Ok(Frame {
            kind: u16::from_ne_bytes([bytes[4], bytes[5]]),
            flags: u16::from_ne_bytes([bytes[6], bytes[7]]),
            sequence: u32::from_ne_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
            port: u32::from_ne_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]),
            payload: &bytes[HEADER_LEN..],
        }))
    }
}

/// One message from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// Number of the request that this answers; of notifications, of the request that caused it or 0.
    pub sequence: u32,
    /// Port of the socket that asked; of notifications, of the one that caused it, or 0.
    pub port: u32,
    /// Everything after the header.
    pub payload: &'a [u8],
}

/// What a message from the kernel means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The request was carried out. The text is a remark of the kernel, if it made one.
    Ack(Option<String>),
    /// The request was refused, or the dump ended early.
    Refused(Refusal),
    /// The dump is at its end.
    Done,
    /// The kernel had messages for us and no room.
    Overrun,
    /// Nothing.
    Noop,
    /// An object, of the type `kind` of the frame.
    Object(&'a [u8]),
}

/// Why the kernel did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Number of the error, positive (`ENOENT` is 2).
    pub errno: i32,
    /// What the kernel says about it (extended ACK), empty where it says nothing.
    pub text: String,
}

impl<'a> Frame<'a> {
    /// True if the dump that this belongs to changed while it was read: it may miss objects.
    #[must_use]
    pub const fn interrupted(&self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }

    /// What the message means.
    ///
    /// # Errors
    /// If an answer is cut off.
    pub fn reply(&self) -> Result<Reply<'a>, DecodeError> {
        match self.kind {
            NOOP => Ok(Reply::Noop),
            OVERRUN => Ok(Reply::Overrun),
            ERROR => self.error(),
            DONE => {
                // The kernel also sends a DONE without a code.
                let code = attribute::u32_at(self.payload, 0).map_or(0, u32::cast_signed);
                match code {
                    0 => Ok(Reply::Done),
                    _ => Ok(Reply::Refused(self.refusal(code, 4))),
                }
            }
            _ => Ok(Reply::Object(self.payload)),
        }
    }

    /// `struct nlmsgerr`: the code, the header of the request, its payload unless capped, then attributes.
    fn error(&self) -> Result<Reply<'a>, DecodeError> {
        let cut = || DecodeError::Header { object: "error", length: self.payload.len() };
        let code = attribute::u32_at(self.payload, 0).ok_or_else(cut)?.cast_signed();
        let request = attribute::u32_at(self.payload, 4).ok_or_else(cut)? as usize;
        let capped = self.flags & NLM_F_CAPPED != 0;
        let attributes = 4 + if capped { HEADER_LEN } else { align(request) };
        let refusal = self.refusal(code, attributes);
        if code == 0 {
            Ok(Reply::Ack(Some(refusal.text).filter(|text| !text.is_empty())))
        } else {
            Ok(Reply::Refused(refusal))
        }
    }

    /// `NLMSGERR_ATTR_MSG` (1) is a text, `NLMSGERR_ATTR_OFFS` (2) the offset of the bad attribute.
    fn refusal(&self, code: i32, attributes: usize) -> Refusal {
        let mut text = String::new();
        if self.flags & NLM_F_ACK_TLVS != 0 {
            let bytes = self.payload.get(attributes..).unwrap_or_default();
            if let Some((_, message)) = attribute::attributes(bytes).find(|(kind, _)| *kind == 1) {
                text = attribute::text(message);
            }
        }
        Refusal { errno: code.checked_neg().unwrap_or(i32::MAX), text }
    }
}

/// Netlink pads everything to four bytes.
const fn align(length: usize) -> usize {
    (length + 3) & !3
}
