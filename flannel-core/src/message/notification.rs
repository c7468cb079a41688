//! Decoding of multicast notifications into hints.

use super::{
    DELETE_ADDRESS, DELETE_LINK, DELETE_NEIGHBOUR, DELETE_NEXTHOP, DELETE_ROUTE, DecodeError, Frame,
    NEW_ADDRESS, NEW_LINK, NEW_NEIGHBOUR, NEW_NEXTHOP, NEW_ROUTE, Reply, address, fdb, frames, link,
    neighbour, nexthop, route,
};
use crate::hint::{Hint, Object};

/// Decodes a datagram of notifications. What cannot be decoded may concern us, so it counts as [`Hint::Overrun`].
///
/// The objects of peers that the socket with the port `own` has changed are left out, since they give no reason to observe: in a
/// large cluster a start causes thousands of them. Without such a socket, `own` is `None`.
#[must_use]
pub fn hints(datagram: &[u8], own: Option<u32>) -> Vec<Hint> {
    let is_echo = |frame: &Frame<'_>| own == Some(frame.port) && OF_PEERS.contains(&frame.kind);
    let hints = frames(datagram)
        .filter(|frame| !frame.as_ref().is_ok_and(is_echo))
        .map(|frame| frame.and_then(|frame| decode(&frame)));
    hints.filter_map(|hint| hint.unwrap_or(Some(Hint::Overrun))).collect()
}

/// Notifications about objects that exist for each peer. For FDB entries the kernel does not name the port.
const OF_PEERS: [u16; 6] =
    [NEW_ROUTE, DELETE_ROUTE, NEW_NEIGHBOUR, DELETE_NEIGHBOUR, NEW_NEXTHOP, DELETE_NEXTHOP];

/// Decodes a notification; `None` if its object is of no interest (other tables and families, bridge ports, cached
/// routes).
///
/// # Errors
/// If the message is malformed.
pub fn decode(frame: &Frame<'_>) -> Result<Option<Hint>, DecodeError> {
    if let Reply::Overrun = frame.reply()? {
        return Ok(Some(Hint::Overrun));
    }
    let payload = frame.payload;
    let object = match frame.kind {
        NEW_LINK | DELETE_LINK => link::decode(payload)?.map(|record| Object::Link(Box::new(record))),
        NEW_ADDRESS | DELETE_ADDRESS => address::decode(payload)?.map(Object::Address),
        NEW_ROUTE | DELETE_ROUTE => {
            route::decode(payload)?.filter(route::RouteRecord::is_main).map(Object::Route)
        }
        NEW_NEIGHBOUR | DELETE_NEIGHBOUR => match fdb::decode(payload)? {
            Some(record) => Some(Object::Fdb(record)),
            None => neighbour::decode(payload)?.map(Object::Neighbour),
        },
        NEW_NEXTHOP | DELETE_NEXTHOP => nexthop::decode(payload)?.map(Object::Nexthop),
        _ => None,
    };
    let gone =
        matches!(frame.kind, DELETE_LINK | DELETE_ADDRESS | DELETE_ROUTE | DELETE_NEIGHBOUR | DELETE_NEXTHOP);
    Ok(object.map(if gone { Hint::Removed } else { Hint::Set }))
}
