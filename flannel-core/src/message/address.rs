//! Addresses: `RTM_NEWADDR`, `RTM_DELADDR`, `RTM_GETADDR`.

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use std::net::Ipv4Addr;

use super::{DecodeError, Get, Request, Scope, attribute};
use crate::facts::AddressFacts;
use crate::family::Family;
use crate::link::IfIndex;

/// An address to set on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewAddress {
    /// Link.
    pub index: IfIndex,
    /// Address and prefix length.
    pub net: IpNet,
    /// Scope.
    pub scope: Scope,
    /// Skip duplicate address detection (`IFA_F_NODAD`; IPv6).
    pub no_dad: bool,
    /// Broadcast address (IPv4).
    pub broadcast: Option<Ipv4Addr>,
}

impl NewAddress {
    /// Creates a global address without a broadcast address, used without duplicate address detection.
    #[must_use]
    pub fn new(index: IfIndex, net: IpNet) -> Self {
        let no_dad = Family::of_net(net) == Family::V6;
        Self { index, net, scope: Scope::GLOBAL, no_dad, broadcast: None }
    }

    /// Adds the broadcast address that an IPv4 network has with more than two addresses.
    #[must_use]
    pub fn with_broadcast(mut self) -> Self {
        if let IpNet::V4(net) = self.net
            && net.prefix_len() < 31
        {
            self.broadcast = Some(net.broadcast());
        }
        self
    }
}

/// Adds an address.
#[must_use]
pub fn add(address: &NewAddress) -> Request {
    let mut message = message(address.index, address.net);
    message.header.scope = address.scope.0.into();
    message.attributes.extend(address.broadcast.map(AddressAttribute::Broadcast));
    if address.no_dad {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    Request::create(RouteNetlinkMessage::NewAddress(message))
}

/// Deletes an address.
#[must_use]
pub fn delete(index: IfIndex, net: IpNet) -> Request {
    Request::change(RouteNetlinkMessage::DelAddress(message(index, net)), 0)
}

/// Requests the addresses of a family, on one link or on all.
#[must_use]
pub fn dump(family: Family, link: Option<IfIndex>) -> Get<AddressRecord> {
    let mut message = AddressMessage::default();
    message.header.family = attribute::family_number(family).into();
    message.header.index = link.map_or(0, |index| index.0);
    Get::all("addresses", RouteNetlinkMessage::GetAddress(message), |frame| decode(frame.payload))
}

fn message(index: IfIndex, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = attribute::family_number(Family::of_net(net)).into();
    message.header.prefix_len = net.prefix_len();
    message.header.index = index.0;
    // Links other than point-to-point have the address itself as the peer.
    message.attributes = vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
    message
}

/// An address from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRecord {
    /// Link.
    pub index: IfIndex,
    /// Scope.
    pub scope: Scope,
    /// Duplicate address detection is in progress or found a duplicate (IPv6).
    pub unusable: bool,
    /// Duplicate address detection found a duplicate.
    pub duplicate: bool,
    /// The address.
    pub facts: AddressFacts,
}

const OBJECT: &str = "address";
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_TEMPORARY: u32 = 0x01;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_DEPRECATED: u32 = 0x20;
const IFA_F_TENTATIVE: u32 = 0x40;
const IFA_F_PERMANENT: u32 = 0x80;

/// Decodes the payload of an address message; `None` for a family other than IPv4 and IPv6.
///
/// # Errors
/// If the message is truncated or an attribute is malformed.
pub fn decode(payload: &[u8]) -> Result<Option<AddressRecord>, DecodeError> {
    let Some(index) = attribute::u32_at(payload, 4) else {
        return Err(DecodeError::Header { object: OBJECT, length: payload.len() });
    };
    let (length, mut flags, scope) = (payload[1], u32::from(payload[2]), Scope(payload[3]));
    let Some(family) = attribute::family(payload[0]) else {
        return Ok(None);
    };
    let (mut address, mut local) = (None, None);
    for attribute in attribute::of(OBJECT, payload, 8)? {
        match attribute.kind {
            IFA_ADDRESS => address = Some(attribute.ip()?),
            IFA_LOCAL => local = Some(attribute.ip()?),
            IFA_FLAGS => flags = attribute.u32()?,
            _ => {}
        }
    }
    // On point-to-point links IFA_ADDRESS is the peer; IPv6 without a peer has IFA_ADDRESS alone.
    let own = local.or(address).filter(|own| Family::of(*own) == family);
    let own = own.ok_or(DecodeError::Missing { object: OBJECT, attribute: IFA_ADDRESS })?;
    let net = IpNet::new(own, length).map_err(|_| DecodeError::PrefixLength { object: OBJECT, length })?;
    let facts = AddressFacts {
        net,
        deprecated: flags & IFA_F_DEPRECATED != 0,
        permanent: flags & IFA_F_PERMANENT != 0,
        // The same bit means "secondary" in IPv4.
        temporary: family == Family::V6 && flags & IFA_F_TEMPORARY != 0,
    };
    let unusable = flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED) != 0;
    let duplicate = flags & IFA_F_DADFAILED != 0;
    Ok(Some(AddressRecord { index: IfIndex(index), scope, unusable, duplicate, facts }))
}
