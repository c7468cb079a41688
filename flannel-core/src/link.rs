//! Names and numbers of kernel interfaces.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// The name of a kernel interface: 1 to 15 bytes, no `/`, no white space (`dev_valid_name` in
/// the kernel's net/core/dev.c).
///
/// It is stored in place: a large cluster has tens of thousands of objects with one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkName {
    /// The text, padded with zero bytes, which no name contains: the order is that of the texts.
    bytes: [u8; LinkName::LONGEST],
}

/// A text that cannot name an interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an interface name: it must have 1 to 15 bytes, without '/', ':' or white space")]
pub struct ParseLinkNameError(pub String);

impl LinkName {
    /// Bytes of the longest name (`IFNAMSIZ` less the final zero byte).
    const LONGEST: usize = 15;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let length = self.bytes.iter().position(|byte| *byte == 0).unwrap_or(Self::LONGEST);
        // It was made from a text of this length.
        std::str::from_utf8(&self.bytes[..length]).unwrap_or_default()
    }
}

impl fmt::Debug for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LinkName").field(&self.as_str()).finish()
    }
}

impl Serialize for LinkName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl FromStr for LinkName {
    type Err = ParseLinkNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = (1..=Self::LONGEST).contains(&text.len())
            && text != "."
            && text != ".."
            && !text.chars().any(|c| c == '/' || c == ':' || c == '\0' || c.is_whitespace());
        if !valid {
            return Err(ParseLinkNameError(text.to_owned()));
        }
        let mut bytes = [0; Self::LONGEST];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { bytes })
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<'de> Deserialize<'de> for LinkName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The kernel's number of an interface. Valid only while the interface lives: resolved when an
/// operation runs and never kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfIndex(pub u32);

/// A 48-bit Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// A text that is no Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MAC address: six bytes in hexadecimal, such as 0a:58:0a:05:01:00")]
pub struct ParseMacError(pub String);

impl Mac {
    /// A unicast, locally administered address made from six bytes of chance (IEEE 802 section
    /// 8.2: the two low bits of the first byte).
    #[must_use]
    pub const fn from_seed(mut seed: [u8; 6]) -> Self {
        seed[0] = (seed[0] & 0xfe) | 0x02;
        Self(seed)
    }

    /// Whether it can be the address of one interface: neither a group nor all zero.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = ParseMacError;

    /// Reads `0a:58:…`, `0A-58-…` and Cisco's `0a58.0a05.0100`, the forms that Go's `net.ParseMAC` takes
    /// for six bytes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseMacError(text.to_owned());
        let (separator, digits) = match text.as_bytes().get(2) {
            Some(b':') => (':', 2),
            Some(b'-') => ('-', 2),
            _ => ('.', 4),
        };
        let groups: Vec<&str> = text.split(separator).collect();
        if groups.len() * digits != 12 || groups.iter().any(|group| group.len() != digits) {
            return Err(error());
        }
        let hex = groups.concat();
        // Rust accepts a leading sign.
        let number = hex.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(&hex, 16));
        let [_, _, mac @ ..] = number.and_then(Result::ok).ok_or_else(error)?.to_be_bytes();
        Ok(Self(mac))
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A VXLAN network identifier: 1 to 2^24 - 1 (RFC 7348 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Vni(NonZeroU32);

impl Vni {
    /// The identifier of a Go flannel whose configuration names none.
    pub const DEFAULT: Self = Self(NonZeroU32::MIN);

    /// The identifier, if it is in range.
    #[must_use]
    pub fn new(vni: u32) -> Option<Self> {
        NonZeroU32::new(vni).filter(|vni| vni.get() < 1 << 24).map(Self)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl<'de> Deserialize<'de> for Vni {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let vni = u32::deserialize(deserializer)?;
        Self::new(vni)
            .ok_or_else(|| D::Error::custom(format_args!("{vni} is not a VXLAN network identifier")))
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
