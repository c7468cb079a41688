//! The cluster's record of which node holds which subnet.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::family::Family;

pub use key::ParseKeyError;
pub use record::ParseRecordError;
pub(crate) use record::compacted;

mod key;
mod record;
pub mod table;

/// A point in the history of a store. Only the store that made it can interpret it: everybody else may compare two for
/// equality, and has the order of two of one store from [`Revision::is_before`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(i64);

impl Revision {
    /// Wraps the number of a store: larger is later.
    #[must_use]
    pub const fn new(number: i64) -> Self {
        Self(number)
    }

    /// Returns the number, for the store that made it.
    #[must_use]
    pub const fn number(self) -> i64 {
        self.0
    }

    /// Whether this point comes before another one of the same store.
    #[must_use]
    pub const fn is_before(self, other: Self) -> bool {
        self.0 < other.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a store key names: the subnet of one node, of one family or both. `Display` gives the key.
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

    /// Whether the key names nothing (`0.0.0.0-0`).
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// Whether an address belongs to both, in any family.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> bool {
        self.iter().any(|net| {
            other
                .get(Family::of_net(net))
                .is_some_and(|other| net.contains(&other.network()) || other.contains(&net.network()))
        })
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

    /// The address that distinguishes the node from others: the public IPv4 address, or, where there is none, IPv6 address.
    #[must_use]
    pub fn node(&self) -> Option<IpAddr> {
        Family::ALL.into_iter().find_map(|family| self.public_address(family))
    }

    /// Whether two records are of one node.
    #[must_use]
    pub fn is_same_node(&self, other: &Self) -> bool {
        self.node().is_some() && self.node() == other.node()
    }

    /// Whether this is a reservation that no node has taken yet: an administrator writes the address alone. Nodes of
    /// the backends without data (udp, alloc) publish nothing else either.
    #[must_use]
    pub const fn is_unclaimed(&self) -> bool {
        self.backend_type.is_empty() && self.backend_data.is_none() && self.backend_v6_data.is_none()
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
        let key = |attrs: &Self| (attrs.public_ip, attrs.public_ipv6);
        key(self) == key(other)
            && self.backend_type == other.backend_type
            && Family::ALL.into_iter().all(|family| {
                self.backend_data(family).map(RawValue::get) == other.backend_data(family).map(RawValue::get)
            })
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

impl Lease {
    /// Whether another lease takes the place of this one: it shares an address with it, or belongs to the same node.
    #[must_use]
    pub fn is_replaced_by(&self, other: &Self) -> bool {
        self.subnets != other.subnets
            && (self.subnets.overlap(&other.subnets) || self.attrs.is_same_node(&other.attrs))
    }
}
