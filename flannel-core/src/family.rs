//! The two address families, so that IPv4 and IPv6 share one code path.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address family that flannel serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl Family {
    /// Both families, IPv4 first: the order in which everything is done and shown.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The family of a network.
    #[must_use]
    pub const fn of_net(net: ipnet::IpNet) -> Self {
        match net {
            ipnet::IpNet::V4(_) => Self::V4,
            ipnet::IpNet::V6(_) => Self::V6,
        }
    }

    /// The network of all addresses: the destination of a default route.
    #[must_use]
    pub const fn any(self) -> ipnet::IpNet {
        match self {
            Self::V4 => ipnet::IpNet::new_assert(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            Self::V6 => ipnet::IpNet::new_assert(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
        }
    }

    /// Bits in an address, which is also the prefix length of a single host.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// One optional value per family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DualStack<T> {
    /// The value for IPv4.
    pub v4: Option<T>,
    /// The value for IPv6.
    pub v6: Option<T>,
}

impl<T: fmt::Display> fmt::Display for DualStack<T> {
    /// The values that are there, IPv4 first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.v4, &self.v6) {
            (Some(v4), Some(v6)) => write!(f, "{v4} {v6}"),
            (Some(v4), None) => v4.fmt(f),
            (None, Some(v6)) => v6.fmt(f),
            (None, None) => f.write_str("none"),
        }
    }
}

impl<T> Default for DualStack<T> {
    fn default() -> Self {
        Self { v4: None, v6: None }
    }
}

impl<T> DualStack<T> {
    /// The value of `family`.
    #[must_use]
    pub const fn get(&self, family: Family) -> Option<&T> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    /// The place of the value of `family`.
    pub const fn slot(&mut self, family: Family) -> &mut Option<T> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// The values that are there, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = (Family, &T)> {
        Family::ALL.into_iter().filter_map(|family| Some((family, self.get(family)?)))
    }
}

/// Returns the address after `address`.
#[must_use]
pub fn following(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits().wrapping_add(1))),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits().wrapping_add(1))),
    }
}

/// Reads `address/length`. Host bits are kept. Compatibility: as Go's `net.ParseCIDR`, leading zeros are refused in
/// IPv4 octets and tolerated in the length.
#[must_use]
pub fn parse_net(text: &str) -> Option<ipnet::IpNet> {
    let (address, len) = text.split_once('/')?;
    if len.is_empty() || !len.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    ipnet::IpNet::new(address.parse().ok()?, len.parse().ok()?).ok()
}
