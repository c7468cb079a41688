//! The kind of a link: `IFLA_LINKINFO`.

use netlink_packet_route::link::{InfoKind, LinkInfo};

use crate::dataplane::{Ipip, LinkKind, Vxlan};
use crate::link::IfIndex;
use crate::message::{DecodeError, EncodeError};

mod ipip;
mod udp;
mod vxlan;

/// The kind and its parameters, for a new link. `underlay` is the number of its lower link.
pub(super) fn creation(kind: &LinkKind, underlay: Option<IfIndex>) -> Result<Vec<LinkInfo>, EncodeError> {
    if let (Some(lower), None) = (kind.lower(), underlay) {
        return Err(EncodeError::Link(lower.clone()));
    }
    Ok(match kind {
        LinkKind::Vxlan(vxlan) => vxlan::creation(vxlan, underlay),
        LinkKind::Ipip(ipip) => ipip::creation(ipip),
        LinkKind::Udp(tunnel) => vec![LinkInfo::Kind(InfoKind::Other(tunnel.name.clone()))],
        LinkKind::Other(kind) => vec![LinkInfo::Kind(InfoKind::Other(kind.clone()))],
    })
}

/// The parameters that can change in place.
pub(super) fn change(kind: &LinkKind) -> Vec<LinkInfo> {
    match kind {
        LinkKind::Vxlan(vxlan) => vxlan::change(vxlan),
        LinkKind::Ipip(_) | LinkKind::Udp(_) | LinkKind::Other(_) => Vec::new(),
    }
}

/// The kind of a link by its name and data, and the number of its lower link.
pub(super) fn decode(name: String, data: &[u8]) -> Result<(LinkKind, Option<IfIndex>), DecodeError> {
    let known = match name.as_str() {
        Vxlan::NAME => Some(vxlan::decode(data)?),
        Ipip::NAME => ipip::decode(data)?.map(|ipip| (LinkKind::Ipip(ipip), None)),
        udp::GENEVE => udp::geneve(data)?.map(|tunnel| (LinkKind::Udp(tunnel), None)),
        udp::BAREUDP => udp::bareudp(data)?.map(|tunnel| (LinkKind::Udp(tunnel), None)),
        _ => None,
    };
    Ok(known.unwrap_or((LinkKind::Other(name), None)))
}
