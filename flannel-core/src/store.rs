//! What a store of leases says and what a write to it must know, as plain values.
//!
//! The stores themselves live in flanneld; these types are here so that the table of leases and the
//! claim machine can speak of them.

use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::lease::{LeaseAttrs, Revision, Subnets};

/// The network config as the store has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigRecord {
    /// Revision of its last change.
    pub revision: Revision,
    /// The JSON text, unparsed.
    pub text: String,
}

/// The store's handle on the life of a record: an etcd lease id, or the expiry file of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant(pub i64);

/// One record below `<prefix>/subnets/`, unparsed: bad records are for the reader to skip and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key without `<prefix>/subnets/`, lossily decoded.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// Revision of its last change.
    pub revision: Revision,
    /// What keeps it alive; `None` is a reservation, which never expires.
    pub grant: Option<Grant>,
    /// Why the store itself cannot use the object behind the record, whose value is empty then.
    pub fault: Option<String>,
    /// The name of its node. Only a store that knows nodes by name does; there, the record exists as long as the node.
    pub node: Option<String>,
}

/// Config and all records at one revision, from one read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The revision at which this was the whole content.
    pub revision: Revision,
    /// The network config, if there is one.
    pub config: Option<ConfigRecord>,
    /// Records in key order.
    pub records: Vec<Record>,
    /// What the store prescribes for this node.
    pub own: OwnNode,
}

/// What a store knows of this node, whether it holds a lease or not. Only a store that knows nodes by name does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnNode {
    /// The prescribed public addresses.
    pub prescribed: Prescribed,
    /// Why the prescribed addresses cannot be read; those that were known before remain in effect.
    pub fault: Option<String>,
    /// What an earlier run published.
    pub published: Option<LeaseAttrs>,
}

/// Public addresses that the store prescribes for this node: they determine its external interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prescribed {
    /// Takes the place of `--public-ip`.
    pub public_ip: Option<Ipv4Addr>,
    /// Takes the place of `--public-ipv6`.
    pub public_ipv6: Option<Ipv6Addr>,
}

/// The subnets that a store assigns to this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The subnets, also those of families that the network config does not enable. Empty if the store has not assigned any yet.
    pub subnets: Subnets,
    /// What is published for it, if anything is.
    pub attrs: Option<LeaseAttrs>,
    /// Revision of the last change of the record.
    pub revision: Revision,
    /// What assigns the subnets, for messages, such as `spec.podCIDRs of node worker-1`.
    pub place: String,
    /// What assigns subnets inside of the network, for messages: a sentence in the imperative.
    pub advice: &'static str,
}

/// Who chooses the subnet of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// The node claims a free one.
    Claimed,
    /// The store assigns one.
    Assigned,
}

/// One change of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A record was created or changed.
    Put(Record),
    /// A record was deleted or has expired.
    Delete {
        /// Its key.
        key: String,
    },
    /// The network config was written, or deleted (`None`).
    Config(Option<ConfigRecord>),
    /// What the store knows of this node changed.
    Own(OwnNode),
}

/// Our record as we last wrote or read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its revision, the guard of the next write.
    pub revision: Revision,
    /// What keeps it alive; `None` is a reservation.
    pub grant: Option<Grant>,
    /// Time left when this was made; `None` is a reservation.
    pub remaining: Option<Duration>,
}

/// What must still hold for a record to be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateGuard {
    /// Revision of the config that the subnet was chosen from.
    pub config: Revision,
    /// Set in dual stack: no record may have changed since this listing, because two keys can
    /// differ and yet share the subnet of one family.
    pub records: Option<Revision>,
}
