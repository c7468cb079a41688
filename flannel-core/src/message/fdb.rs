//! Forwarding entries of VXLAN devices: neighbour messages of the family `AF_BRIDGE` with `NTF_SELF`.

use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;

use super::neighbour::{HEADER_LEN, Header, NDA_DST, NDA_LLADDR, NUD_PERMANENT};
use super::{DecodeError, Get, Request, attribute};
use crate::link::{IfIndex, Mac};

/// Makes `destination` the only destination of a unicast MAC (the kernel's `vxlan_fdb_replace`).
#[must_use]
pub fn set(index: IfIndex, mac: Mac, destination: IpAddr) -> Request {
    Request::replace(RouteNetlinkMessage::NewNeighbour(message(index, mac, destination)))
}

/// Removes a destination of a MAC. The kernel also reports success if the MAC has another destination.
#[must_use]
pub fn delete(index: IfIndex, mac: Mac, destination: IpAddr) -> Request {
    Request::change(RouteNetlinkMessage::DelNeighbour(message(index, mac, destination)), 0)
}

/// Requests the forwarding entries of one device.
#[must_use]
pub fn dump(index: IfIndex) -> Get<FdbRecord> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index.0;
    Get::all("forwarding entries", RouteNetlinkMessage::GetNeighbour(message), |frame| decode(frame.payload))
}

fn message(index: IfIndex, mac: Mac, destination: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index.0;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    // The family of the message, `AF_BRIDGE`, is not that of the address.
    let address = NeighbourAddress::from(destination);
    message.attributes =
        vec![NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()), NeighbourAttribute::Destination(address)];
    message
}

/// One destination of a MAC from the kernel, which sends a message for each destination of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbRecord {
    /// VXLAN device.
    pub index: IfIndex,
    /// Inner destination address; all zero for the default destination.
    pub mac: Mac,
    /// Outer destination address.
    pub destination: Option<IpAddr>,
    /// Not aged and not overwritten by learning.
    pub permanent: bool,
}

const OBJECT: &str = "forwarding entry";
const NTF_SELF: u8 = 1 << 1;

/// Decodes the payload of a neighbour message; `None` unless it is an entry of a VXLAN device, as opposed to an entry of
/// a bridge about one of its ports.
///
/// # Errors
/// If the message is truncated or an attribute is malformed.
pub fn decode(payload: &[u8]) -> Result<Option<FdbRecord>, DecodeError> {
    let header = Header::decode(OBJECT, payload)?;
    if header.family != attribute::AF_BRIDGE || header.flags & NTF_SELF == 0 {
        return Ok(None);
    }
    let (mut mac, mut destination) = (None, None);
    for attribute in attribute::of(OBJECT, payload, HEADER_LEN)? {
        match attribute.kind {
            NDA_LLADDR => mac = attribute.value.try_into().ok().map(Mac),
            NDA_DST => destination = Some(attribute.ip()?),
            _ => {}
        }
    }
    let mac = mac.ok_or(DecodeError::Missing { object: OBJECT, attribute: NDA_LLADDR })?;
    let permanent = header.state & NUD_PERMANENT != 0;
    Ok(Some(FdbRecord { index: header.index, mac, destination, permanent }))
}
