//! What can be in the way of a healthy lease.

use std::fmt;

use crate::allocate::AllocateError;
use crate::config::ParseConfigError;
use crate::family::Family;
use crate::lease::{LeaseAttrs, Subnets};

/// What is in the way of a healthy lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The store does not answer, or refuses.
    StoreAway(String),
    /// There is no network config.
    NoConfig,
    /// The network config cannot be used.
    BadConfig(ParseConfigError),
    /// There is no free subnet.
    Full(AllocateError),
    /// Another node took our subnet while our lease had ended.
    Taken(Subnets),
    /// A node with our public address has rewritten our record.
    DuplicateAddress {
        /// The subnet in question.
        subnets: Subnets,
        /// What the other node published.
        theirs: Box<LeaseAttrs>,
    },
    /// The store assigns no subnet to this node.
    Unassigned,
    /// Another writer changed the record of this node.
    ConflictingWriter {
        /// The subnet of the record.
        subnets: Subnets,
        /// What the other writer published.
        theirs: Box<LeaseAttrs>,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StoreAway(reason) => write!(f, "the store does not serve us: {reason}"),
            Self::NoConfig => f.write_str(
                "the store has no network config: write one to <prefix>/config, such as {\"Network\":\"10.5.0.0/16\"}",
            ),
            Self::BadConfig(error) => {
                write!(f, "{error}")?;
                let mut source = std::error::Error::source(error);
                while let Some(error) = source {
                    write!(f, ": {error}")?;
                    source = error.source();
                }
                Ok(())
            }
            Self::Full(error) => error.fmt(f),
            Self::Taken(subnets) => write!(
                f,
                "subnet {subnets} belongs to another node since our lease ended: pods with its addresses must be replaced"
            ),
            Self::DuplicateAddress { subnets, theirs } => write!(
                f,
                "another node uses our public address {}: it has rewritten our record of {subnets}; \
                 give each node its own address (--public-ip, --iface) and restart this one",
                address(theirs),
            ),
            Self::Unassigned => f.write_str("the store has not assigned a subnet to this node"),
            Self::ConflictingWriter { subnets, theirs } => write!(
                f,
                "conflicting daemon: it has published {} in the record {subnets} of this node; \
                 stop it, or give each node a name of its own, and restart this one",
                address(theirs),
            ),
        }
    }
}

/// The public address in a record, for messages.
fn address(attrs: &LeaseAttrs) -> String {
    let address = Family::ALL.into_iter().find_map(|family| attrs.public_address(family));
    address.map_or_else(|| "no address".to_owned(), |address| address.to_string())
}
