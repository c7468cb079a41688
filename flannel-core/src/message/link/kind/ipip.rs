//! Parameters of IP in IP devices.

use netlink_packet_route::IpProtocol;
use netlink_packet_route::link::{
    InfoData, InfoIpTunnel, InfoKind, LinkInfo, TunnelEncapFlags, TunnelEncapType,
};
use std::net::IpAddr;

use crate::dataplane::Ipip;
use crate::message::{DecodeError, attribute};

const IFLA_IPTUN_LOCAL: u16 = 2;
const IFLA_IPTUN_REMOTE: u16 = 3;
const IFLA_IPTUN_COLLECT_METADATA: u16 = 19;

/// The parameters in the order and with the zeros that Go flannel sends.
pub(super) fn creation(ipip: &Ipip) -> Vec<LinkInfo> {
    let mut parameters: Vec<InfoIpTunnel> = ipip.local.map(InfoIpTunnel::Local).into_iter().collect();
    parameters.extend(ipip.remote.map(InfoIpTunnel::Remote));
    parameters.extend([
        InfoIpTunnel::PMtuDisc(false),
        InfoIpTunnel::Ttl(0),
        InfoIpTunnel::Tos(0),
        InfoIpTunnel::Protocol(IpProtocol::from(0_u8)),
        InfoIpTunnel::EncapType(TunnelEncapType::None),
        InfoIpTunnel::EncapFlags(TunnelEncapFlags::empty()),
        InfoIpTunnel::EncapSPort(0),
        InfoIpTunnel::EncapDPort(0),
    ]);
    vec![LinkInfo::Kind(InfoKind::IpIp), LinkInfo::Data(InfoData::IpTunnel(parameters))]
}

/// `None` for a device without addresses of its own (`external`): it is none of ours.
pub(super) fn decode(data: &[u8]) -> Result<Option<Ipip>, DecodeError> {
    let mut ipip = Ipip { local: None, remote: None };
    let given = |address: IpAddr| Some(address).filter(|address| !address.is_unspecified());
    for attribute in attribute::of(Ipip::NAME, data, 0)? {
        match attribute.kind {
            IFLA_IPTUN_LOCAL => ipip.local = given(attribute.ip()?),
            IFLA_IPTUN_REMOTE => ipip.remote = given(attribute.ip()?),
            IFLA_IPTUN_COLLECT_METADATA => return Ok(None),
            _ => {}
        }
    }
    Ok(Some(ipip))
}
