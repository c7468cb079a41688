//! The subnets that a config offers in one family.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::family::Family;

/// A network and the subnets of one length in it that may be given to nodes: from a first to a last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetRange {
    network: IpNet,
    subnet_len: u8,
    /// Start of the first subnet as a number.
    first: u128,
    /// Start of the last subnet as a number. Below `first` where the config has its ends swapped, as Go accepts.
    last: u128,
}

impl SubnetRange {
    /// All subnets of a network but the first: Go's default leaves it free.
    pub(super) fn whole(network: IpNet, subnet_len: u8) -> Self {
        let size = 1 << (Family::of_net(network).bits() - subnet_len);
        Self {
            network,
            subnet_len,
            first: number(network.network()) + size,
            last: number(network.broadcast()) - (size - 1),
        }
    }

    /// The same with the ends that are given.
    pub(super) fn between(self, min: Option<IpAddr>, max: Option<IpAddr>) -> Self {
        Self { first: min.map_or(self.first, number), last: max.map_or(self.last, number), ..self }
    }

    /// The family.
    #[must_use]
    pub const fn family(&self) -> Family {
        Family::of_net(self.network)
    }

    /// The whole network, host bits cleared.
    #[must_use]
    pub const fn network(&self) -> IpNet {
        self.network
    }

    /// Prefix length of each subnet.
    #[must_use]
    pub const fn subnet_len(&self) -> u8 {
        self.subnet_len
    }

    /// Start of the first subnet (`SubnetMin`).
    #[must_use]
    pub fn min(&self) -> IpAddr {
        address(self.family(), self.first)
    }

    /// Start of the last subnet (`SubnetMax`).
    #[must_use]
    pub fn max(&self) -> IpAddr {
        address(self.family(), self.last)
    }

    /// How many subnets there are; 0 where `SubnetMin` is above `SubnetMax`.
    #[must_use]
    pub fn count(&self) -> u128 {
        self.last.checked_sub(self.first).map_or(0, |span| span / self.size() + 1)
    }

    /// The subnet at a place, counted from 0.
    #[must_use]
    pub fn nth(&self, place: u128) -> Option<IpNet> {
        (place < self.count())
            .then(|| subnet(self.family(), self.first + place * self.size(), self.subnet_len))
    }

    /// The places of the subnets that overlap `net`, from the first to the last.
    #[must_use]
    pub fn places_of(&self, net: IpNet) -> Option<(u128, u128)> {
        if Family::of_net(net) != self.family() || self.count() == 0 {
            return None;
        }
        let end = self.last + (self.size() - 1);
        let (from, to) = (number(net.network()), number(net.broadcast()));
        if to < self.first || from > end {
            return None;
        }
        let place = |at: u128| (at.clamp(self.first, end) - self.first) / self.size();
        Some((place(from), place(to)))
    }

    /// Whether `subnet` is one of the range.
    #[must_use]
    pub fn allows(&self, subnet: IpNet) -> bool {
        subnet.prefix_len() == self.subnet_len && subnet == subnet.trunc() && self.places_of(subnet).is_some()
    }

    /// Start of the subnet that holds an address.
    pub(super) fn start_of_subnet(&self, address: IpAddr) -> IpAddr {
        let start = number(address) & !(self.size() - 1);
        self::address(self.family(), start)
    }

    const fn size(&self) -> u128 {
        1 << (self.family().bits() - self.subnet_len)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(family: Family, number: u128) -> IpAddr {
    match family {
        // A number of an IPv4 range has 32 bits.
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

fn subnet(family: Family, number: u128, len: u8) -> IpNet {
    match address(family, number) {
        IpAddr::V4(address) => IpNet::V4(Ipv4Net::new_assert(address, len)),
        IpAddr::V6(address) => IpNet::V6(Ipv6Net::new_assert(address, len)),
    }
}
