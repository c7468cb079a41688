//! What the status socket of the daemon answers, as the JSON that flannelctl and others read.
//!
//! Keys are lowerCamelCase and stable, and a unit is their last word; times are seconds since 1970 in UTC. Versions may add
//! keys, so readers ignore those that they do not know. No value is a secret.
//!
//! | path | answer |
//! |---|---|
//! | `/status` | [`Status`] |
//! | `/peers` | [`Peers`] |
//! | `/desired`, `/actual` | [`Objects`] |
//! | `/diff` | [`Diff`] |
//! | `/metrics` | text for Prometheus |
//! | anything else | [`Failure`] |

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

use crate::lease::{Revision, Subnets};
use crate::link::{LinkName, Mac};

pub use objects::{
    Action, AddressObject, Diff, FdbObject, Kind, LinkObject, NeighbourObject, Objects, PendingOp,
    RouteObject, classify,
};
pub use peers::{ObjectState, Peer, PeerObject, Peers, State, peers};

mod objects;
mod peers;

/// The paths of the status socket.
pub const PATHS: [&str; 6] = ["/status", "/peers", "/desired", "/actual", "/diff", "/metrics"];

/// Where the status socket is unless a flag says otherwise.
pub const SOCKET: &str = "/run/flannel/flanneld.sock";

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// For people: what is wrong, and what to do.
    pub error: String,
}

/// The state of a daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of flanneld.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub started_at_unix_seconds: u64,
    /// How long it has been running.
    pub uptime_seconds: u64,
    /// Pods can be served: as `/readyz`.
    pub ready: bool,
    /// What is missing, if it is not ready.
    pub not_ready_reasons: Vec<String>,
    /// What is wrong at present; empty on a healthy node.
    pub conditions: Vec<Condition>,
    /// Where the leases are.
    pub store: Store,
    /// Revision of the network config in force; `null` while there is none from the store.
    pub config_revision: Option<Revision>,
    /// The backend in use; `null` before there is a config.
    pub backend: Option<String>,
    /// Our own lease; `null` while we hold none.
    pub lease: Option<OwnLease>,
    /// The interface that carries traffic between nodes; `null` before there is a config.
    pub interface: Option<Interface>,
    /// MTU that pods are told; `null` before there is a lease.
    pub pod_mtu_bytes: Option<u32>,
    /// The tunnel devices of this node.
    pub tunnels: Vec<LinkName>,
    /// How the peers are counted.
    pub peers: PeerCounts,
    /// Subnets that the config offers, and how many are taken, by family.
    pub allocation: Vec<Allocation>,
    /// The last full rounds, the oldest first: each reads the whole kernel and puts it right.
    pub rounds: Vec<Round>,
    /// The last change of leases that was applied by itself, without a full round.
    pub last_lease_change: Option<Round>,
    /// When the last full round ended without a failed operation.
    pub last_success_at_unix_seconds: Option<u64>,
    /// Operations that failed when they were last tried, some of them.
    pub failing_ops: Vec<String>,
    /// The firewall.
    pub firewall: Firewall,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it concerns: the key of a lease (`10.42.2.0-24`), or one of `claim`, `config`, `firewall`, `host`, `interface`,
    /// `kernel`, `node`, `public address`, `store`, `subnet.env`.
    pub about: String,
    /// What is wrong, and where known, what to do.
    pub reason: String,
}

/// The store of leases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Store {
    /// `etcd`, `directory` or `kubernetes`.
    pub kind: String,
    /// Endpoints and prefix, or the path. Without user and password.
    pub location: String,
    /// It can be followed at present.
    pub up: bool,
    /// Its content is known up to this revision; `null` before the first listing.
    pub revision: Option<Revision>,
    /// The last request that it answered or failed.
    pub last_request: Option<StoreRequest>,
    /// Requests sent since the start.
    pub requests: u64,
    /// How many of them failed.
    pub errors: u64,
    /// Times that everything was read anew since the start.
    pub listings: u64,
    /// Times that the watch broke, fell behind or was silent for too long.
    pub watch_restarts: u64,
}

/// A request to the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreRequest {
    /// What was asked, such as `list` or `renew`.
    pub operation: String,
    /// How long it took.
    pub latency_milliseconds: f64,
}

/// Our own lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnLease {
    /// Its key in the store.
    pub key: Subnets,
    /// The subnets.
    pub subnets: Vec<IpNet>,
    /// The store has confirmed it since the start; otherwise it is that of the last run.
    pub confirmed: bool,
    /// It is a reservation, which never ends.
    pub reservation: bool,
    /// Time until it ends unless renewed; `null` for a reservation, and while it is not known.
    pub remaining_seconds: Option<u64>,
    /// It is renewed this long before its end.
    pub renew_margin_seconds: u64,
}

/// The interface that carries traffic between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Its name.
    pub name: LinkName,
    /// What led to it: a flag with its value, or `the default route`.
    pub chosen_by: String,
    /// Its MTU.
    pub mtu_bytes: u32,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// Its own addresses that are in use.
    pub addresses: Vec<IpAddr>,
    /// The addresses that other nodes send to.
    pub public_addresses: Vec<IpAddr>,
}

/// How many leases of others there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerCounts {
    /// In use.
    pub total: u64,
    /// Of these, with something that keeps them from being reached, at least in one family.
    pub faulty: u64,
    /// Of these, without a lease and kept until their grace period ends.
    pub kept: u64,
    /// Records that cannot be read.
    pub unreadable: u64,
}

/// The subnets of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// The network of all pods.
    pub network: IpNet,
    /// Subnets that can be given to nodes; as text where numbers of JSON end (`u128`).
    #[serde(with = "text")]
    pub capacity: u128,
    /// Of these, held by a lease or reservation.
    pub used: u64,
}

/// One run of the reconcile loop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Round {
    /// Why it ran: `start`, `hint`, `overrun`, `retry`, `resync`, `config`, `claim`, `listing`, `overlap`,
    /// `lease-change`.
    pub reason: String,
    /// When it ended.
    pub at_unix_seconds: u64,
    /// How long it took.
    pub elapsed_milliseconds: u64,
    /// Objects that were right already.
    pub kept: u64,
    /// Objects that were set.
    pub set: u64,
    /// Objects that were deleted.
    pub deleted: u64,
    /// Operations that failed; 1 if the kernel could not be read.
    pub failed: u64,
}

/// The firewall.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Firewall {
    /// `nftables` or `iptables`; `null` before the first rules.
    pub mode: Option<String>,
    /// The rules were read back and are right.
    pub correct: bool,
    /// Why they could not be put right.
    pub error: Option<String>,
    /// Why rules of the other mode could not be removed.
    pub cleanup_error: Option<String>,
    /// Times that rules were set because others were wanted.
    pub installs: u64,
    /// Times that rules were put back after another program had changed them.
    pub repairs: u64,
    /// Times that rules were read.
    pub checks: u64,
}

/// Numbers beyond what all readers of JSON can hold, as text.
mod text {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(number: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
