//! Ranges of addresses, and the order of their allocation.

use flannel_core::family::Family;
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::CniError;

/// The addresses of a subnet that may be allocated, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) subnet: IpNet,
    start: u128,
    end: u128,
    pub(crate) gateway: IpAddr,
}

/// A range in the config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RangeConf {
    pub(crate) subnet: Option<IpNet>,
    pub(crate) start: Option<IpAddr>,
    pub(crate) end: Option<IpAddr>,
    pub(crate) gateway: Option<IpAddr>,
}

/// Ranges of one family; an interface gets one address of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RangeSet(Vec<Range>);

/// Returns an address as a number; addresses of different families are never compared.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

impl Range {
    /// Completes a range with its defaults.
    pub(crate) fn new(conf: &RangeConf) -> Result<Self, CniError> {
        let subnet = conf.subnet.ok_or_else(|| {
            CniError::internal("IP <nil> not v4 nor v6: a range needs a subnet, such as 10.1.2.0/24")
        })?;
        // Network, gateway, broadcast and one address to allocate.
        if subnet.prefix_len() + 2 > Family::of_net(subnet).bits() {
            return Err(CniError::internal(format!("Network {subnet} too small to allocate from")));
        }
        if subnet.trunc() != subnet {
            let (length, network) = (subnet.prefix_len(), subnet.network());
            return Err(CniError::internal(format!(
                "Network has host bits set. For a subnet mask of length {length} the network address is {network}"
            )));
        }
        let first = number(subnet.network()) + 1;
        // IPv6 has no broadcast address.
        let last = number(subnet.broadcast()) - u128::from(Family::of_net(subnet) == Family::V4);
        let mut range =
            Self { subnet, start: first, end: last, gateway: conf.gateway.unwrap_or(subnet.network()) };
        if conf.gateway.is_none() {
            range.gateway = range.address(first);
        }
        let outside = |end: &str, address: IpAddr| {
            CniError::internal(format!("{end} {address} not in network {subnet}"))
        };
        if let Some(start) = conf.start {
            if !subnet.contains(&start) {
                return Err(outside("RangeStart", start));
            }
            range.start = number(start);
        }
        if let Some(end) = conf.end {
            if !subnet.contains(&end) || number(end) < range.start {
                return Err(outside("RangeEnd", end));
            }
            range.end = number(end);
        }
        Ok(range)
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.subnet {
            // An IPv4 range has no larger numbers.
            IpNet::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            IpNet::V6(_) => Ipv6Addr::from(number).into(),
        }
    }

    fn family(&self) -> Family {
        Family::of_net(self.subnet)
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family() && (self.start..=self.end).contains(&number(address))
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.family() == other.family() && self.start <= other.end && other.start <= self.end
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.address(self.start), self.address(self.end))
    }
}

impl RangeSet {
    pub(crate) fn new(confs: &[RangeConf]) -> Result<Self, CniError> {
        let ranges = confs.iter().map(Range::new).collect::<Result<Vec<_>, _>>()?;
        let first = ranges.first().ok_or_else(|| CniError::internal("empty range set"))?;
        if ranges.iter().any(|range| range.family() != first.family()) {
            return Err(CniError::internal("mixed address families"));
        }
        for (at, range) in ranges.iter().enumerate() {
            if let Some(other) = ranges[at + 1..].iter().find(|other| range.overlaps(other)) {
                return Err(CniError::internal(format!("subnets {range} and {other} overlap")));
            }
        }
        Ok(Self(ranges))
    }

    pub(crate) fn family(&self) -> Option<Family> {
        self.0.first().map(Range::family)
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|range| other.0.iter().any(|other| range.overlaps(other)))
    }

    /// Returns the range that contains an address.
    pub(crate) fn range_of(&self, address: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(address))
    }

    /// Returns all addresses except gateways, each once, with their ranges: round robin after the last allocated one.
    pub(crate) fn candidates(&self, last: Option<IpAddr>) -> impl Iterator<Item = (IpAddr, &Range)> {
        let at = last.and_then(|last| self.0.iter().position(|range| range.contains(last)));
        let (first, from) = match (at, last) {
            (Some(at), Some(last)) => (at, number(last) + 1),
            _ => (0, self.0.first().map_or(0, |range| range.start)),
        };
        let count = self.0.len();
        // The range of the last address occurs twice: its end first, its beginning at the end.
        let spans = (0..=count).map(move |step| {
            let range = &self.0[(first + step) % count];
            let start = if step == 0 { from } else { range.start };
            let end = if step == count { from.saturating_sub(1).min(range.end) } else { range.end };
            (range, start, end)
        });
        spans.flat_map(|(range, start, end)| {
            let gateway = range.gateway;
            (start..=end)
                .map(move |number| range.address(number))
                .filter(move |address| *address != gateway)
                .map(move |address| (address, range))
        })
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests;
