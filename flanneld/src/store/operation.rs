//! The operations of a store, as errors and metrics name them.

use std::fmt;

/// What is asked of a store. One entry is one request on the wire (or one locked pass over the directory).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// A connection was made.
    Connect,
    /// User and password were sent.
    Authenticate,
    /// Config and records were read.
    List,
    /// A watch was opened.
    Watch,
    /// It was checked that the store is still the one that was listed.
    Verify,
    /// A grant was made for a new record.
    Grant,
    /// A record was created.
    Create,
    /// A record was changed.
    Update,
    /// A grant was prolonged.
    Renew,
    /// A record was deleted.
    Delete,
    /// A grant was given back.
    Revoke,
    /// The network config was written.
    PutConfig,
    /// It was asked how long a grant lasts.
    TimeLeft,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Connect,
        Self::Authenticate,
        Self::List,
        Self::Watch,
        Self::Verify,
        Self::Grant,
        Self::Create,
        Self::Update,
        Self::Renew,
        Self::Delete,
        Self::Revoke,
        Self::PutConfig,
        Self::TimeLeft,
    ];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Authenticate => "authenticate",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Verify => "verify",
            Self::Grant => "grant",
            Self::Create => "create",
            Self::Update => "update",
            Self::Renew => "renew",
            Self::Delete => "delete",
            Self::Revoke => "revoke",
            Self::PutConfig => "put_config",
            Self::TimeLeft => "time_left",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::Authenticate => "authenticating",
            Self::List => "listing the leases",
            Self::Watch => "watching the leases",
            Self::Verify => "checking that the store is still the same",
            Self::Grant => "granting the time of a lease",
            Self::Create => "creating a lease",
            Self::Update => "changing a lease",
            Self::Renew => "renewing a lease",
            Self::Delete => "deleting a lease",
            Self::Revoke => "giving back the time of a lease",
            Self::PutConfig => "writing the network config",
            Self::TimeLeft => "asking how long a lease lasts",
        })
    }
}
