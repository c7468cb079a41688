//! What can be in the way of a healthy lease.

use crate::allocate::AllocateError;
use crate::config::ParseConfigError;
use crate::error::chain;
use crate::family::Family;
use crate::lease::{LeaseAttrs, Subnets};
use ipnet::IpNet;

/// What is in the way of a healthy lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The store does not answer, or refuses.
    #[error("the store does not serve us: {0}")]
    StoreAway(String),
    /// There is no network config.
    #[error(
        "the store has no network config: write one to <prefix>/config, such as {{\"Network\":\"10.5.0.0/16\"}}"
    )]
    NoConfig,
    /// The network config cannot be used.
    #[error("{}", chain(.0))]
    BadConfig(ParseConfigError),
    /// There is no free subnet.
    #[error("{0}")]
    Full(AllocateError),
    /// Another node took our subnet while our lease had ended.
    #[error(
        "subnet {0} belongs to another node since our lease ended: pods with its addresses must be replaced"
    )]
    Taken(Subnets),
    /// A node with our public address has rewritten our record.
    #[error(
        "another node uses our public address {}: it has rewritten our record of {subnets}; \
         give each node its own address (--public-ip, --iface) and restart this one",
        address(found)
    )]
    DuplicateAddress {
        /// The subnet in question.
        subnets: Subnets,
        /// What the other node published.
        found: Box<LeaseAttrs>,
    },
    /// The store has not assigned a subnet to this node.
    #[error("waiting for a subnet: {place} has no {family} subnet. {advice}")]
    Unassigned {
        /// What assigns it.
        place: String,
        /// The family.
        family: Family,
        /// The fix.
        advice: &'static str,
    },
    /// The subnet is not part of the network.
    #[error("{place} assigns {subnet}, which is outside of the {family} network {network} of the network config. {advice}", family = Family::of_net(*network))]
    Outside {
        /// What assigns it.
        place: String,
        /// The subnet.
        subnet: IpNet,
        /// The network.
        network: IpNet,
        /// The fix.
        advice: &'static str,
    },
    /// Someone changed the record of this node once.
    #[error(
        "another writer published {} in the record {subnets} of this node; the record is restored",
        address(found)
    )]
    Edited {
        /// The subnet of the record.
        subnets: Subnets,
        /// What the other writer published.
        found: Box<LeaseAttrs>,
    },
    /// Another writer changes the record of this node again and again.
    #[error(
        "conflicting daemon: it has published {} in the record {subnets} of this node; \
         stop it, or give each node a name of its own, and restart this one",
        address(found)
    )]
    ConflictingWriter {
        /// The subnet of the record.
        subnets: Subnets,
        /// What the other writer published.
        found: Box<LeaseAttrs>,
    },
}

/// The public address in a record, for messages.
fn address(attrs: &LeaseAttrs) -> String {
    let address = Family::ALL.into_iter().find_map(|family| attrs.public_address(family));
    address.map_or_else(|| "no address".to_owned(), |address| address.to_string())
}
