//! Decoding of multicast notifications into hints.

use super::{
    DELETE_ADDRESS, DELETE_LINK, DELETE_NEIGHBOUR, DELETE_ROUTE, DecodeError, Frame, NEW_ADDRESS, NEW_LINK,
    NEW_NEIGHBOUR, NEW_ROUTE, Reply, address, fdb, frames, link, neighbour, route,
};
use crate::dataplane::RouteKey;
use crate::hint::{Hint, RouteKind, RouteNow};

/// Decodes a datagram of notifications. What cannot be decoded may concern us, so it counts as [`Hint::Overrun`].
#[must_use]
pub fn hints(datagram: &[u8]) -> Vec<Hint> {
    let hints = frames(datagram).map(|frame| frame.and_then(|frame| decode(&frame)));
    hints.filter_map(|hint| hint.unwrap_or(Some(Hint::Overrun))).collect()
}

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
    match frame.kind {
        NEW_LINK | DELETE_LINK => Ok(link::decode(payload)?.map(|record| Hint::Link {
            index: record.index,
            name: Some(record.name),
            now: (frame.kind == NEW_LINK).then_some(record.link),
        })),
        NEW_ADDRESS | DELETE_ADDRESS => Ok(address::decode(payload)?.map(|record| Hint::Address {
            index: record.index,
            address: record.facts,
            gone: frame.kind == DELETE_ADDRESS,
        })),
        NEW_ROUTE | DELETE_ROUTE => {
            Ok(route::decode(payload)?.filter(route::RouteRecord::is_main).map(|record| Hint::Route {
                key: RouteKey { destination: record.destination, metric: record.metric },
                route: route_now(&record),
                gone: frame.kind == DELETE_ROUTE,
            }))
        }
        NEW_NEIGHBOUR | DELETE_NEIGHBOUR => {
            let gone = frame.kind == DELETE_NEIGHBOUR;
            if let Some(record) = fdb::decode(payload)? {
                let fdb::FdbRecord { index, mac, destination, permanent } = record;
                return Ok(Some(Hint::Fdb { index, mac, destination, permanent, gone }));
            }
            Ok(neighbour::decode(payload)?.map(|record| Hint::Neighbour {
                index: record.index,
                address: record.address,
                mac: record.neighbour.mac,
                permanent: record.neighbour.permanent,
                gone,
            }))
        }
        _ => Ok(None),
    }
}

fn route_now(record: &route::RouteRecord) -> RouteNow {
    let hop = record.hops.first().copied().unwrap_or_default();
    let kind = match record.kind {
        route::BLACKHOLE => RouteKind::Blackhole,
        route::UNICAST if record.is_plain() => RouteKind::Unicast,
        _ => RouteKind::Other,
    };
    RouteNow { gateway: hop.gateway, link: hop.index, onlink: hop.onlink, kind, protocol: record.protocol }
}
