//! The operations of a store, with their names in errors and metrics.

use std::fmt;

/// A request to a store: one on the wire, or one pass over the directory under its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Connects.
    Connect,
    /// Sends user and password.
    Authenticate,
    /// Reads the name of this node.
    FindNode,
    /// Reads a node.
    Read,
    /// Reads config and records.
    List,
    /// Opens a watch.
    Watch,
    /// Checks that the store is still the one that was listed.
    Verify,
    /// Creates a grant for a record.
    Grant,
    /// Creates a record.
    Create,
    /// Changes a record.
    Update,
    /// Renews a grant.
    Renew,
    /// Deletes a record.
    Delete,
    /// Revokes a grant.
    Revoke,
    /// Writes the network config.
    PutConfig,
    /// Reads the remaining time of a grant.
    TimeLeft,
    /// Reports whether pods can start.
    Announce,
    /// Reads the network config where flannelctl writes it.
    ReadConfig,
    /// Checks which requests are permitted, for a diagnosis.
    Review,
}

/// All operations in their order, with their names in metrics and their descriptions in errors.
const TABLE: [(Operation, &str, &str); 18] = [
    (Operation::Connect, "connect", "connecting"),
    (Operation::Authenticate, "authenticate", "authenticating"),
    (Operation::FindNode, "find_node", "reading the name of this node"),
    (Operation::Read, "read", "reading a node"),
    (Operation::List, "list", "listing the leases"),
    (Operation::Watch, "watch", "watching the leases"),
    (Operation::Verify, "verify", "checking that the store is still the same"),
    (Operation::Grant, "grant", "granting the time of a lease"),
    (Operation::Create, "create", "creating a lease"),
    (Operation::Update, "update", "changing a lease"),
    (Operation::Renew, "renew", "renewing a lease"),
    (Operation::Delete, "delete", "deleting a lease"),
    (Operation::Revoke, "revoke", "revoking the time of a lease"),
    (Operation::PutConfig, "put_config", "writing the network config"),
    (Operation::TimeLeft, "time_left", "reading the remaining time of a lease"),
    (Operation::Announce, "announce", "reporting whether pods can start"),
    (Operation::ReadConfig, "read_config", "reading the network config"),
    (Operation::Review, "review", "checking permissions"),
];

impl Operation {
    /// The number of operations.
    pub(super) const COUNT: usize = TABLE.len();

    /// Returns all operations of a daemon.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE[..Self::ReadConfig as usize].iter().map(|(operation, ..)| *operation)
    }

    /// Returns the name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        TABLE[self as usize].1
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TABLE[*self as usize].2)
    }
}
