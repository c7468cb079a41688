//! Parameters of VXLAN devices.

use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkInfo};
use std::net::IpAddr;

use crate::dataplane::{LinkKind, UdpPort, UdpTunnel, Vxlan};
use crate::link::{IfIndex, Vni};
use crate::message::{DecodeError, attribute};

const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_GROUP: u16 = 2;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_L2MISS: u16 = 13;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_GROUP6: u16 = 16;
const IFLA_VXLAN_LOCAL6: u16 = 17;
const IFLA_VXLAN_GBP: u16 = 23;

/// The parameters in the order and with the zeros that Go flannel sends.
pub(super) fn creation(vxlan: &Vxlan, underlay: Option<IfIndex>) -> Vec<LinkInfo> {
    let mut parameters = vec![InfoVxlan::Id(vxlan.vni.get())];
    parameters.extend(underlay.map(|index| InfoVxlan::Link(index.0)));
    parameters.extend(vxlan.group.map(|group| match group {
        IpAddr::V4(group) => InfoVxlan::Group(group),
        IpAddr::V6(group) => InfoVxlan::Group6(group),
    }));
    parameters.extend(vxlan.local.map(|local| match local {
        IpAddr::V4(local) => InfoVxlan::Local(local),
        IpAddr::V6(local) => InfoVxlan::Local6(local),
    }));
    parameters.extend([
        InfoVxlan::Ttl(0),
        InfoVxlan::Tos(0),
        InfoVxlan::Learning(vxlan.learning),
        InfoVxlan::Proxy(false),
        InfoVxlan::Rsc(false),
        InfoVxlan::L2Miss(vxlan.l2miss),
        InfoVxlan::L3Miss(false),
        InfoVxlan::UDPZeroCsumTX(false),
        InfoVxlan::UDPZeroCsumRX(false),
    ]);
    if vxlan.gbp {
        parameters.push(InfoVxlan::Gbp);
    }
    if vxlan.port > 0 {
        parameters.push(InfoVxlan::Port(vxlan.port));
    }
    info(parameters)
}

/// Turns learning on or off.
pub(super) fn change(vxlan: &Vxlan) -> Vec<LinkInfo> {
    info(vec![InfoVxlan::Learning(vxlan.learning)])
}

fn info(parameters: Vec<InfoVxlan>) -> Vec<LinkInfo> {
    vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(parameters))]
}

/// A device without an identifier (`external`) is none of ours. It receives in both families (`vxlan_sock_add` in the
/// kernel).
pub(super) fn decode(data: &[u8]) -> Result<(LinkKind, Option<IfIndex>), DecodeError> {
    let mut vxlan = Vxlan {
        vni: Vni::DEFAULT,
        local: None,
        lower: None,
        port: 0,
        learning: false,
        gbp: false,
        group: None,
        l2miss: false,
    };
    let (mut vni, mut underlay) = (None, None);
    for attribute in attribute::of("vxlan", data, 0)? {
        match attribute.kind {
            IFLA_VXLAN_ID => vni = Vni::new(attribute.u32()?),
            IFLA_VXLAN_LINK => underlay = super::super::index_of(attribute)?,
            IFLA_VXLAN_GROUP | IFLA_VXLAN_GROUP6 => vxlan.group = Some(attribute.ip()?),
            IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => vxlan.local = Some(attribute.ip()?),
            IFLA_VXLAN_LEARNING => vxlan.learning = attribute.u8()? != 0,
            IFLA_VXLAN_L2MISS => vxlan.l2miss = attribute.u8()? != 0,
            IFLA_VXLAN_PORT => vxlan.port = attribute.u16_be()?,
            IFLA_VXLAN_GBP => vxlan.gbp = true,
            _ => {}
        }
    }
    let kind = match vni {
        Some(vni) => LinkKind::Vxlan(Vxlan { vni, ..vxlan }),
        None => {
            let port = UdpPort { number: vxlan.port, family: None };
            LinkKind::Udp(UdpTunnel { name: Vxlan::NAME.to_owned(), port })
        }
    };
    Ok((kind, underlay))
}
