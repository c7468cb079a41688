//! Neighbours (ARP and ND entries): `RTM_NEWNEIGH`, `RTM_DELNEIGH`, `RTM_GETNEIGH`.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteType;
use std::net::IpAddr;

use super::{DecodeError, Get, Request, attribute};
use crate::dataplane::{Neighbour, PROTOCOL};
use crate::family::Family;
use crate::link::{IfIndex, Mac};

/// Sets a permanent neighbour entry with our protocol number, which kernels from 5.0 on store.
#[must_use]
pub fn set(index: IfIndex, address: IpAddr, mac: Mac) -> Request {
    let mut message = message(index, address);
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message.attributes.push(NeighbourAttribute::Protocol(PROTOCOL.into()));
    Request::replace(RouteNetlinkMessage::NewNeighbour(message))
}

/// Deletes a neighbour entry.
#[must_use]
pub fn delete(index: IfIndex, address: IpAddr) -> Request {
    Request::change(RouteNetlinkMessage::DelNeighbour(message(index, address)), 0)
}

/// Requests the neighbours of one family on one link.
#[must_use]
pub fn dump(family: Family, index: IfIndex) -> Get<NeighbourRecord> {
    let mut message = NeighbourMessage::default();
    message.header.family = attribute::family_number(family).into();
    // Strict checking rejects a filter in the header.
    message.attributes = vec![NeighbourAttribute::IfIndex(index.0)];
    Get::all("neighbours", RouteNetlinkMessage::GetNeighbour(message), |frame| decode(frame.payload))
}

fn message(index: IfIndex, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = attribute::family_number(Family::of(address)).into();
    message.header.ifindex = index.0;
    message.attributes = vec![NeighbourAttribute::Destination(NeighbourAddress::from(address))];
    message
}

/// A neighbour from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourRecord {
    /// Link.
    pub index: IfIndex,
    /// Network address.
    pub address: IpAddr,
    /// The entry.
    pub neighbour: Neighbour,
}

const OBJECT: &str = "neighbour";
pub(super) const NDA_DST: u16 = 1;
pub(super) const NDA_LLADDR: u16 = 2;
pub(super) const NUD_PERMANENT: u16 = 0x80;
const NUD_NOARP: u16 = 0x40;
const NTF_PROXY: u8 = 1 << 3;

/// `struct ndmsg`.
pub(super) struct Header {
    pub(super) family: u8,
    pub(super) index: IfIndex,
    pub(super) state: u16,
    pub(super) flags: u8,
}

/// Length of `struct ndmsg`.
pub(super) const HEADER_LEN: usize = 12;

impl Header {
    pub(super) fn decode(object: &'static str, payload: &[u8]) -> Result<Self, DecodeError> {
        let header: &[u8; HEADER_LEN] =
            payload.first_chunk().ok_or(DecodeError::Header { object, length: payload.len() })?;
        Ok(Self {
            family: header[0],
            index: IfIndex(u32::from_ne_bytes([header[4], header[5], header[6], header[7]])),
            state: u16::from_ne_bytes([header[8], header[9]]),
            flags: header[10],
        })
    }
}

/// Decodes the payload of a neighbour message; `None` for other families (FDB entries have messages of this type), for
/// proxy entries, and for the kernel's entries of multicast and broadcast addresses (`NUD_NOARP`).
///
/// # Errors
/// If the message is truncated or an attribute is malformed.
pub fn decode(payload: &[u8]) -> Result<Option<NeighbourRecord>, DecodeError> {
    let header = Header::decode(OBJECT, payload)?;
    let Some(family) = attribute::family(header.family) else {
        return Ok(None);
    };
    if header.flags & NTF_PROXY != 0 || header.state & NUD_NOARP != 0 {
        return Ok(None);
    }
    let (mut address, mut mac) = (None, None);
    for attribute in attribute::of(OBJECT, payload, HEADER_LEN)? {
        match attribute.kind {
            NDA_DST => address = Some(attribute.ip()?),
            NDA_LLADDR => mac = attribute.value.try_into().ok().map(Mac),
            _ => {}
        }
    }
    let address = address.filter(|address| Family::of(*address) == family);
    let address = address.ok_or(DecodeError::Missing { object: OBJECT, attribute: NDA_DST })?;
    let permanent = header.state & NUD_PERMANENT != 0;
    Ok(Some(NeighbourRecord { index: header.index, address, neighbour: Neighbour { mac, permanent } }))
}
