//! Nexthop objects: `RTM_NEWNEXTHOP`, `RTM_DELNEXTHOP`, `RTM_GETNEXTHOP` (include/uapi/linux/nexthop.h), from Linux 5.3 on.
//!
//! `netlink-packet-route` has no such messages, so these are encoded here.

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST};
use std::borrow::Cow;
use std::net::IpAddr;

use super::attribute::{self, AF_INET, family_number};
use super::route::{Hop, RouteRecord};
use super::{DELETE_NEXTHOP, DecodeError, EncodeError, GET_NEXTHOP, Get, NEW_NEXTHOP, Request, align};
use crate::dataplane::{Nexthop, NexthopId, RouteTarget};
use crate::family::Family;
use crate::link::{IfIndex, LinkName};

const OBJECT: &str = "nexthop";
/// `struct nhmsg`: family, scope, protocol, one reserved byte, flags.
const HEADER_LEN: usize = 8;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_BLACKHOLE: u16 = 4;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_ENCAP_TYPE: u16 = 7;
const NHA_ENCAP: u16 = 8;
const NHA_FDB: u16 = 11;
/// `RTNH_F_ONLINK`. The kernel reports its state in other bits.
const ONLINK: u32 = 4;

/// Adds a nexthop object through the link with the index `index`; fails if its number is taken.
///
/// # Errors
/// If the object has another form than a gateway on a link.
pub fn add(id: NexthopId, nexthop: &Nexthop, index: IfIndex) -> Result<Request, EncodeError> {
    set(id, nexthop, index, NLM_F_EXCL)
}

/// Adds a nexthop object, or replaces the one with its number.
///
/// # Errors
/// As [`add`].
pub fn replace(id: NexthopId, nexthop: &Nexthop, index: IfIndex) -> Result<Request, EncodeError> {
    set(id, nexthop, index, NLM_F_REPLACE)
}

fn set(id: NexthopId, nexthop: &Nexthop, index: IfIndex, flag: u16) -> Result<Request, EncodeError> {
    let RouteTarget::Via { gateway, onlink, object: None, .. } = &nexthop.target else {
        return Err(EncodeError::RouteForm(format!("{:?}", nexthop.target)));
    };
    let flags = if *onlink { ONLINK } else { 0 };
    let mut payload = header(family_number(Family::of(*gateway)), nexthop.protocol, flags);
    push(&mut payload, NHA_ID, &id.get().to_ne_bytes());
    push(&mut payload, NHA_OIF, &index.0.to_ne_bytes());
    match gateway {
        IpAddr::V4(gateway) => push(&mut payload, NHA_GATEWAY, &gateway.octets()),
        IpAddr::V6(gateway) => push(&mut payload, NHA_GATEWAY, &gateway.octets()),
    }
    Ok(Request::encoded(NEW_NEXTHOP, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | flag, &payload))
}

/// Deletes a nexthop object.
#[must_use]
pub fn delete(id: NexthopId) -> Request {
    let mut payload = header(0, 0, 0);
    push(&mut payload, NHA_ID, &id.get().to_ne_bytes());
    Request::encoded(DELETE_NEXTHOP, NLM_F_REQUEST | NLM_F_ACK, &payload)
}

/// Requests all nexthop objects.
#[must_use]
pub fn dump() -> Get<NexthopRecord> {
    let request = Request::encoded(GET_NEXTHOP, NLM_F_REQUEST | NLM_F_DUMP, &header(0, 0, 0));
    Get::encoded(Cow::Borrowed("nexthop objects"), request, true, |frame| decode(frame.payload))
}

fn header(family: u8, protocol: u8, flags: u32) -> Vec<u8> {
    let mut bytes = vec![family, 0, protocol, 0];
    bytes.extend(flags.to_ne_bytes());
    bytes
}

fn push(payload: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // The values here have at most 16 bytes.
    let length = u16::try_from(4 + value.len()).unwrap_or_default();
    payload.extend(length.to_ne_bytes());
    payload.extend(kind.to_ne_bytes());
    payload.extend(value);
    payload.resize(align(payload.len()), 0);
}

/// A nexthop object from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NexthopRecord {
    /// Its number.
    pub id: NexthopId,
    /// The origin of the object (`RTPROT_*`).
    pub protocol: u8,
    /// The gateway of an IPv4 object with a gateway on a link and nothing else, such as a group or an encapsulation.
    pub gateway: Option<IpAddr>,
    /// Outgoing interface.
    pub index: Option<IfIndex>,
    /// The gateway is assumed to be reachable on the link.
    pub onlink: bool,
}

impl NexthopRecord {
    /// Returns the object. `name` returns the names of links.
    pub(crate) fn object(&self, name: impl Fn(IfIndex) -> Option<LinkName>) -> Nexthop {
        let target = match (self.gateway, self.index.and_then(name)) {
            (Some(gateway), Some(link)) => {
                RouteTarget::Via { gateway, link, onlink: self.onlink, object: None }
            }
            _ => RouteTarget::Other("nexthop object of another form".to_owned()),
        };
        Nexthop { target, protocol: self.protocol }
    }
}

impl RouteRecord {
    /// Takes the next hop from the nexthop object of the route, if the message has none.
    pub(crate) fn resolve(&mut self, object: impl Fn(NexthopId) -> Option<NexthopRecord>) {
        if self.hops.iter().all(|hop| hop.index.is_none())
            && let Some(object) = self.object.and_then(object)
        {
            let NexthopRecord { gateway, index, onlink, .. } = object;
            self.hops = vec![Hop { gateway, index, onlink }];
        }
    }
}

/// Decodes the payload of a nexthop message; `None` for an object without a number.
///
/// # Errors
/// If the message is truncated or an attribute is malformed.
pub fn decode(payload: &[u8]) -> Result<Option<NexthopRecord>, DecodeError> {
    let header: &[u8; HEADER_LEN] =
        payload.first_chunk().ok_or(DecodeError::Header { object: OBJECT, length: payload.len() })?;
    let flags = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
    let (mut id, mut gateway, mut index, mut plain) = (None, None, None, header[0] == AF_INET);
    for attribute in attribute::of(OBJECT, payload, HEADER_LEN)? {
        match attribute.kind {
            NHA_ID => id = NexthopId::new(attribute.u32()?),
            NHA_OIF => index = Some(IfIndex(attribute.u32()?)),
            NHA_GATEWAY => gateway = Some(attribute.ip()?),
            NHA_GROUP | NHA_BLACKHOLE | NHA_ENCAP_TYPE | NHA_ENCAP | NHA_FDB => plain = false,
            _ => {}
        }
    }
    let gateway = gateway.filter(|_| plain);
    let onlink = flags & ONLINK != 0;
    Ok(id.map(|id| NexthopRecord { id, protocol: header[2], gateway, index, onlink }))
}

#[cfg(test)]
mod tests;
