//! IP addresses and networks as Go's `net` package reads them.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::IpAddr;

/// Not an IP address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid IP address: {0}")]
pub(crate) struct ParseIpError(pub(crate) String);

/// Not of the form `address/length`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub(crate) struct ParseCidrError(pub(crate) String);

/// Parses an address; one in the IPv4-mapped form is IPv4.
pub(crate) fn parse_ip(text: &str) -> Result<IpAddr, ParseIpError> {
    text.parse::<IpAddr>().map(|ip| ip.to_canonical()).map_err(|_| ParseIpError(text.to_owned()))
}

/// Parses an address with its prefix length; host bits are kept.
pub(crate) fn parse_cidr(text: &str) -> Result<IpNet, ParseCidrError> {
    let error = || ParseCidrError(text.to_owned());
    let (address, length) = text.split_once('/').ok_or_else(error)?;
    // Go accepts leading zeros, but no sign.
    if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(error());
    }
    let length: u8 = length.parse().map_err(|_| error())?;
    let net = match address.parse().map_err(|_| error())? {
        IpAddr::V4(address) => Ipv4Net::new(address, length).map(IpNet::V4),
        IpAddr::V6(address) => match (address.to_ipv4_mapped(), length.checked_sub(96)) {
            (Some(address), Some(length)) => Ipv4Net::new(address, length).map(IpNet::V4),
            _ => Ipv6Net::new(address, length).map(IpNet::V6),
        },
    };
    net.map_err(|_| error())
}

#[cfg(test)]
mod tests;
