//! Attributes (`struct nlattr`) and the plain values in them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{DecodeError, align};
use crate::family::Family;

/// The flags `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER` in the two high bits of a type.
const TYPE_MASK: u16 = 0x3fff;

/// Returns number and value of each attribute, up to the first one that is truncated, like the kernel's own
/// `nla_for_each_attr`.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Returns the value of the first attribute with the number `kind`.
pub(super) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// Returns the four bytes at `offset` as a number in host order.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..offset + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Decodes a text that may end with a zero byte.
pub(super) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// An attribute with its kind of object, which errors name.
#[derive(Clone, Copy)]
pub(super) struct Attribute<'a> {
    pub(super) object: &'static str,
    pub(super) kind: u16,
    pub(super) value: &'a [u8],
}

impl Attribute<'_> {
    const fn bad(&self) -> DecodeError {
        DecodeError::Attribute { object: self.object, attribute: self.kind, length: self.value.len() }
    }

    pub(super) fn u8(&self) -> Result<u8, DecodeError> {
        self.value.first().copied().ok_or_else(|| self.bad())
    }

    pub(super) fn u16_be(&self) -> Result<u16, DecodeError> {
        self.value.try_into().map(u16::from_be_bytes).map_err(|_| self.bad())
    }

    pub(super) fn u32(&self) -> Result<u32, DecodeError> {
        self.value.try_into().map(u32::from_ne_bytes).map_err(|_| self.bad())
    }

    pub(super) fn be32(&self) -> Result<u32, DecodeError> {
        self.value.try_into().map(u32::from_be_bytes).map_err(|_| self.bad())
    }

    pub(super) fn be64(&self) -> Result<u64, DecodeError> {
        self.value.try_into().map(u64::from_be_bytes).map_err(|_| self.bad())
    }

    pub(super) fn text(&self) -> String {
        text(self.value)
    }

    /// Decodes an address, whose family follows from its length.
    pub(super) fn ip(&self) -> Result<IpAddr, DecodeError> {
        if let Ok(bytes) = <[u8; 4]>::try_from(self.value) {
            return Ok(IpAddr::V4(Ipv4Addr::from(bytes)));
        }
        <[u8; 16]>::try_from(self.value)
            .map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)))
            .map_err(|_| self.bad())
    }
}

/// Returns the attributes of `object` behind the fixed part of `header` bytes.
pub(super) fn of<'a>(
    object: &'static str,
    payload: &'a [u8],
    header: usize,
) -> Result<impl Iterator<Item = Attribute<'a>> + use<'a>, DecodeError> {
    let bytes = payload.get(header..).ok_or(DecodeError::Header { object, length: payload.len() })?;
    Ok(attributes(bytes).map(move |(kind, value)| Attribute { object, kind, value }))
}

/// Returns the attribute with the number `kind`, which is required.
pub(super) fn required<'a>(
    object: &'static str,
    bytes: &'a [u8],
    kind: u16,
) -> Result<Attribute<'a>, DecodeError> {
    let value = find(bytes, kind).ok_or(DecodeError::Missing { object, attribute: kind })?;
    Ok(Attribute { object, kind, value })
}

/// `AF_INET`.
pub(super) const AF_INET: u8 = 2;
/// `AF_INET6`.
pub(super) const AF_INET6: u8 = 10;
/// `AF_BRIDGE`.
pub(super) const AF_BRIDGE: u8 = 7;

/// Returns the family with the kernel's number.
pub(super) const fn family(number: u8) -> Option<Family> {
    match number {
        AF_INET => Some(Family::V4),
        AF_INET6 => Some(Family::V6),
        _ => None,
    }
}

/// Returns the kernel's number of a family.
pub(super) const fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}
