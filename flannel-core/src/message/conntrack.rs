//! Messages of connection tracking (`NETLINK_NETFILTER`, subsystem 1): UDP entries by destination port.
//!
//! Layout: the kernel's include/uapi/linux/netfilter/nfnetlink_conntrack.h.

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use std::net::IpAddr;

use super::attribute::{self, family_number};
use super::nfnetlink::{self, Writer};
use super::{DecodeError, Frame, Get, Request};
use crate::family::Family;

#[cfg(test)]
mod tests;

const SUBSYSTEM: u16 = 1;
/// `IPCTNL_MSG_CT_*`.
const NEW: u16 = 0;
const GET: u16 = 1;
const DELETE: u16 = 2;

const UDP: u8 = 17;

/// `CTA_*`.
const TUPLE_ORIGINAL: u16 = 1;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
/// The parts of the tuple that a filter compares, as bits of the kernel's nf_internals.h.
const FILTER_PROTOCOL: u32 = 1 << 3;
const FILTER_DESTINATION_PORT: u32 = 1 << 5;

/// A UDP connection, in the direction of its first packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    family: Family,
    /// Destination of the first packet, before any translation.
    pub destination: IpAddr,
    /// Destination port.
    pub port: u16,
    /// `CTA_TUPLE_ORIG`, undecoded: with the zone, the key of the entry.
    tuple: Vec<u8>,
    zone: Option<Vec<u8>>,
    /// Distinguishes the entry from a later one with the same key.
    id: Option<Vec<u8>>,
}

/// Requests the UDP entries of a family. Given a port, kernels from 5.8 on send only the entries with that destination
/// port; older ones send all entries, of other protocols too.
#[must_use]
pub fn dump(family: Family, port: Option<u16>) -> Get<Entry> {
    let request = request(GET, NLM_F_DUMP, family, |w| {
        w.nested(TUPLE_ORIGINAL, |w| {
            w.nested(2, |w| {
                w.bytes(1, &[UDP]);
                if let Some(port) = port {
                    w.bytes(3, &port.to_be_bytes());
                }
            });
        });
        let port = if port.is_some() { FILTER_DESTINATION_PORT } else { 0 };
        w.nested(FILTER, |w| {
            // In host order, unlike all others.
            w.bytes(1, &(FILTER_PROTOCOL | port).to_ne_bytes());
            w.bytes(2, &0_u32.to_ne_bytes());
        });
    });
    Get::encoded(format!("UDP connections of {family}").into(), request, true, decode)
}

/// Deletes an entry.
#[must_use]
pub fn delete(entry: &Entry) -> Request {
    request(DELETE, NLM_F_ACK, entry.family, |w| {
        w.nested_bytes(TUPLE_ORIGINAL, &entry.tuple);
        for (kind, value) in [(ZONE, &entry.zone), (ID, &entry.id)] {
            if let Some(value) = value {
                w.bytes(kind, value);
            }
        }
    })
}

fn request(kind: u16, flags: u16, family: Family, attributes: impl FnOnce(&mut Writer)) -> Request {
    let kind = SUBSYSTEM << 8 | kind;
    Writer::request(kind, flags | NLM_F_REQUEST, family_number(family), 0, attributes)
}

/// Decodes an entry; `None` if it is not UDP over IP.
///
/// # Errors
/// If the message is truncated.
pub fn decode(frame: &Frame<'_>) -> Result<Option<Entry>, DecodeError> {
    let (family, attributes) = nfnetlink::split(frame)?;
    if frame.kind != SUBSYSTEM << 8 | NEW {
        return Ok(None);
    }
    let Some(family) = attribute::family(family) else { return Ok(None) };
    let (mut tuple, mut zone, mut id) = (None, None, None);
    for (kind, value) in attribute::attributes(attributes) {
        match kind {
            TUPLE_ORIGINAL => tuple = Some(value),
            ZONE => zone = Some(value.to_owned()),
            ID => id = Some(value.to_owned()),
            _ => {}
        }
    }
    let Some(tuple) = tuple else { return Ok(None) };
    let Some((destination, port)) = destination(tuple) else { return Ok(None) };
    Ok(Some(Entry { family, destination, port, tuple: tuple.to_owned(), zone, id }))
}

/// Returns destination address and port of a UDP tuple.
fn destination(tuple: &[u8]) -> Option<(IpAddr, u16)> {
    let (mut address, mut port, mut protocol) = (None, None, 0);
    for (part, bytes) in attribute::attributes(tuple) {
        for (kind, value) in attribute::attributes(bytes) {
            match (part, kind) {
                // CTA_TUPLE_IP: CTA_IP_V4_DST and CTA_IP_V6_DST.
                (1, 2) => address = value.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
                (1, 4) => address = value.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
                // CTA_TUPLE_PROTO: CTA_PROTO_NUM and CTA_PROTO_DST_PORT.
                (2, 1) => protocol = value.first().copied().unwrap_or_default(),
                (2, 3) => port = value.first_chunk().map(|bytes| u16::from_be_bytes(*bytes)),
                _ => {}
            }
        }
    }
    address.zip(port).filter(|_| protocol == UDP)
}
