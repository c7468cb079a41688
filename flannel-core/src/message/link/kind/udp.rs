//! The ports of UDP tunnels of other programs.

use crate::dataplane::{UdpPort, UdpTunnel};
use crate::family::Family;
use crate::message::{DecodeError, attribute};

const IFLA_GENEVE_REMOTE: u16 = 2;
const IFLA_GENEVE_PORT: u16 = 5;
const IFLA_GENEVE_REMOTE6: u16 = 7;
const IFLA_BAREUDP_PORT: u16 = 1;

pub(super) const GENEVE: &str = "geneve";
pub(super) const BAREUDP: &str = "bareudp";

/// Geneve (RFC 8926). Without a remote address it receives in both families.
pub(super) fn geneve(data: &[u8]) -> Result<Option<UdpTunnel>, DecodeError> {
    let (mut number, mut family) = (None, None);
    for attribute in attribute::of(GENEVE, data, 0)? {
        match attribute.kind {
            IFLA_GENEVE_REMOTE => family = Some(Family::V4),
            IFLA_GENEVE_REMOTE6 => family = Some(Family::V6),
            IFLA_GENEVE_PORT => number = Some(attribute.u16_be()?),
            _ => {}
        }
    }
    Ok(number.map(|number| UdpTunnel { name: GENEVE.to_owned(), port: UdpPort { number, family } }))
}

/// Bare UDP tunnels, which receive in both families.
pub(super) fn bareudp(data: &[u8]) -> Result<Option<UdpTunnel>, DecodeError> {
    let mut attributes = attribute::of(BAREUDP, data, 0)?;
    let port = attributes.find(|attribute| attribute.kind == IFLA_BAREUDP_PORT);
    let number = port.map(|port| port.u16_be()).transpose()?;
    let port = number.map(|number| UdpPort { number, family: None });
    Ok(port.map(|port| UdpTunnel { name: BAREUDP.to_owned(), port }))
}
