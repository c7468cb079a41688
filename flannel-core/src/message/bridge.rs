//! VLANs of bridge ports: link messages of the family `AF_BRIDGE`.

use netlink_packet_route::link::{
    AfSpecBridge, BridgeFlag, BridgeVlanInfo, BridgeVlanInfoFlags, LinkAttribute, LinkExtentMask, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::attribute::{self, AF_BRIDGE, u32_at};
use super::{DecodeError, Get, Request};
use crate::link::IfIndex;

/// The membership of a port in a VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Membership {
    /// Frames carry the VLAN's tag.
    Tagged,
    /// Untagged frames belong to this VLAN, and its frames leave untagged. A port has one such VLAN.
    Access,
}

/// Adds a port to a VLAN, or changes its membership.
#[must_use]
pub fn add_vlan(port: IfIndex, vlan: u16, membership: Membership) -> Request {
    let flags = match membership {
        Membership::Tagged => BridgeVlanInfoFlags::empty(),
        Membership::Access => BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged,
    };
    Request::change(RouteNetlinkMessage::SetLink(message(port, vlan, flags)), 0)
}

/// Removes a port from a VLAN.
#[must_use]
pub fn delete_vlan(port: IfIndex, vlan: u16) -> Request {
    Request::change(RouteNetlinkMessage::DelLink(message(port, vlan, BridgeVlanInfoFlags::empty())), 0)
}

/// Requests the VLANs of all ports.
#[must_use]
pub fn dump_vlans() -> Get<PortVlans> {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::Brvlan])];
    Get::all("bridge ports", RouteNetlinkMessage::GetLink(message), |frame| decode_vlans(frame.payload))
}

fn message(port: IfIndex, vlan: u16, flags: BridgeVlanInfoFlags) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = port.0;
    message.attributes = vec![LinkAttribute::AfSpecBridge(vec![
        // The VLANs of the port, not those of a device that is a hardware bridge.
        AfSpecBridge::Flags(BridgeFlag::Controller),
        AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid: vlan }),
    ])];
    message
}

/// The VLANs of a port, or of the bridge itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortVlans {
    /// The port.
    pub port: IfIndex,
    /// Its VLANs.
    pub vlans: Vec<(u16, Membership)>,
}

const OBJECT: &str = "bridge port";
const HEADER_LEN: usize = 16;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const VLAN_INFO_PVID: u16 = 1 << 1;

/// Decodes the payload of a link message of the family `AF_BRIDGE`; `None` for other families.
///
/// # Errors
/// If the message is truncated or an attribute is malformed.
pub fn decode_vlans(payload: &[u8]) -> Result<Option<PortVlans>, DecodeError> {
    let port = u32_at(payload, 4).ok_or(DecodeError::Header { object: OBJECT, length: payload.len() })?;
    if payload[0] != AF_BRIDGE {
        return Ok(None);
    }
    let mut vlans = Vec::new();
    let attributes = payload.get(HEADER_LEN..).unwrap_or_default();
    let of_port = attribute::find(attributes, IFLA_AF_SPEC).unwrap_or_default();
    for (kind, value) in attribute::attributes(of_port) {
        if kind == IFLA_BRIDGE_VLAN_INFO
            && let &[f0, f1, v0, v1] = value
        {
            let access = u16::from_ne_bytes([f0, f1]) & VLAN_INFO_PVID != 0;
            let membership = if access { Membership::Access } else { Membership::Tagged };
            vlans.push((u16::from_ne_bytes([v0, v1]), membership));
        }
    }
    Ok(Some(PortVlans { port: IfIndex(port), vlans }))
}

#[cfg(test)]
mod tests;
