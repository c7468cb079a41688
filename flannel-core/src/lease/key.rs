//! Store keys: `10.5.34.0-24`, `10.12.13.0-24&fd00:12:13::-56`, `0.0.0.0-0&fc00:0:0:1::-64`.

use ipnet::{Ipv4Net, Ipv6Net};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

use super::Subnets;

#[cfg(test)]
mod tests;

/// A key that names no subnet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key {key:?} names no subnet: {rule}")]
pub struct ParseKeyError {
    /// The key.
    pub key: String,
    /// What is wrong with it.
    pub rule: &'static str,
}

impl fmt::Display for Subnets {
    /// Writes the key, which is also how logs name a lease. IPv4 is there even where it is not: `0.0.0.0-0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.v4 {
            Some(net) => write!(f, "{}-{}", net.addr(), net.prefix_len())?,
            None => f.write_str("0.0.0.0-0")?,
        }
        match self.v6 {
            Some(net) => write!(f, "&{}-{}", net.addr(), net.prefix_len()),
            None => Ok(()),
        }
    }
}

impl Subnets {
    /// Reads a key.
    ///
    /// Compatibility: as in Go, only the end is anchored, so that anything may stand before the IPv4 address. Such a key
    /// counts for Go nodes, so it counts here; it differs from what `Display` writes.
    pub fn parse_key(key: &str) -> Result<Self, ParseKeyError> {
        let error = |rule| ParseKeyError { key: key.to_owned(), rule };
        // A run of IPv6 has no dots and an IPv4 address has three, so a key cannot be read in both ways.
        let (v4, v6) = match key.rsplit_once('&') {
            Some((v4, v6)) if !v6.contains('.') => (v4, Some(v6)),
            _ => (key, None),
        };
        let v4 = parse_v4(v4).map_err(error)?;
        let v6 = v6.map(parse_v6).transpose().map_err(error)?;
        Ok(Self {
            v4: Some(v4).filter(|net| !(net.addr().is_unspecified() && net.prefix_len() == 0)),
            v6: v6.filter(|net| !(net.addr().is_unspecified() && net.prefix_len() == 0)),
        })
    }
}

impl Serialize for Subnets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subnets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse_key(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

fn parse_v4(text: &str) -> Result<Ipv4Net, &'static str> {
    const FORM: &str = "the IPv4 part must look like 10.5.34.0-24";
    let (before, len) = text.rsplit_once('-').ok_or(FORM)?;
    // The address is what is left of digits and dots at the end, four groups of it.
    let tail = before.rsplit(|c: char| !(c.is_ascii_digit() || c == '.')).next().unwrap_or_default();
    let groups: Vec<&str> = tail.rsplitn(5, '.').take(4).collect();
    if groups.len() < 4 || groups.iter().any(|group| group.is_empty()) {
        return Err(FORM);
    }
    let address = tail.len() - groups.iter().map(|group| group.len()).sum::<usize>() - 3;
    let address =
        tail[address..].parse().map_err(|_| "the IPv4 address has octets above 255 or with leading zeros")?;
    let len = number(len).filter(|len| *len < 32).ok_or("the IPv4 prefix length must be from 0 to 31")?;
    Ipv4Net::new(address, len).map_err(|_| FORM)
}

fn parse_v6(text: &str) -> Result<Ipv6Net, &'static str> {
    const FORM: &str = "the IPv6 part must look like fd00:12:13::-56, in small letters";
    let (address, len) = text.rsplit_once('-').ok_or(FORM)?;
    if !address.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b':')) {
        return Err(FORM);
    }
    let address = address.parse().map_err(|_| FORM)?;
    let len = number(len).filter(|len| *len < 128).ok_or("the IPv6 prefix length must be from 0 to 127")?;
    Ipv6Net::new(address, len).map_err(|_| FORM)
}

fn number(digits: &str) -> Option<u8> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}
