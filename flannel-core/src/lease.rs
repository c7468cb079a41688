//! The cluster's record of which node holds which subnet.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::value::RawValue;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::family::Family;

/// A modification number of the store: larger is later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

/// What a store key names: the subnet of one node, of one family or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnets {
    /// The IPv4 subnet. Host bits are kept as the key has them (`10.5.1.7-24`).
    pub v4: Option<Ipv4Net>,
    /// The IPv6 subnet.
    pub v6: Option<Ipv6Net>,
}

impl Subnets {
    /// The subnet of `family`.
    #[must_use]
    pub fn get(&self, family: Family) -> Option<IpNet> {
        match family {
            Family::V4 => self.v4.map(IpNet::V4),
            Family::V6 => self.v6.map(IpNet::V6),
        }
    }

    /// Both subnets that are there, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> {
        Family::ALL.into_iter().filter_map(|family| self.get(family))
    }
}

/// How a node is reached: the value of a lease record.
#[derive(Clone, Debug, Default)]
pub struct LeaseAttrs {
    /// The address that other nodes send to; `None` is written as `0.0.0.0`.
    pub public_ip: Option<Ipv4Addr>,
    /// The same for IPv6; `None` is written as `null`.
    pub public_ipv6: Option<Ipv6Addr>,
    /// The backend as published (`vxlan`, `host-gw`, …); empty for udp, alloc and tencent-vpc.
    pub backend_type: String,
    /// Data of the backend for IPv4, compact JSON.
    pub backend_data: Option<Box<RawValue>>,
    /// Data of the backend for IPv6, compact JSON.
    pub backend_v6_data: Option<Box<RawValue>>,
}

impl LeaseAttrs {
    /// The address that other nodes send to.
    #[must_use]
    pub fn public_address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.public_ip.map(IpAddr::V4),
            Family::V6 => self.public_ipv6.map(IpAddr::V6),
        }
    }

    /// The data of the backend for `family`.
    #[must_use]
    pub fn backend_data(&self, family: Family) -> Option<&RawValue> {
        match family {
            Family::V4 => self.backend_data.as_deref(),
            Family::V6 => self.backend_v6_data.as_deref(),
        }
    }
}

impl PartialEq for LeaseAttrs {
    fn eq(&self, other: &Self) -> bool {
        let text = |data: &Option<Box<RawValue>>| data.as_ref().map(|data| data.get().to_owned());
        (self.public_ip, self.public_ipv6, &self.backend_type)
            == (other.public_ip, other.public_ipv6, &other.backend_type)
            && text(&self.backend_data) == text(&other.backend_data)
            && text(&self.backend_v6_data) == text(&other.backend_v6_data)
    }
}

impl Eq for LeaseAttrs {}

/// A node's hold on its subnet, as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What is held.
    pub subnets: Subnets,
    /// How the holder is reached.
    pub attrs: LeaseAttrs,
    /// Revision of the last change of the record.
    pub revision: Revision,
}
