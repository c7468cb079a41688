//! What the tasks of the daemon publish about their work, as values on watch channels. [`crate::board`] answers from them.

use flannel_core::dataplane::Dataplane;
use flannel_core::desired::Assembly;
use flannel_core::external::ExternalInterface;
use flannel_core::family::Family;
use flannel_core::lease::{Revision, Subnets};
use flannel_core::link::{LinkName, Mac};
use flannel_core::plan::Prune;
use flannel_core::status::{Allocation, PeerCounts};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{oneshot, watch};

pub(crate) use history::{DURATION_CLASSES, History, Reason};

mod history;

/// Why pods cannot start on this node, for status and log. Without a reason it is ready: rules, routes and `subnet.env` are in
/// place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Readiness(pub(crate) Vec<String>);

impl Readiness {
    /// Not ready, for one reason.
    pub(crate) fn waiting(reason: impl Into<String>) -> Self {
        Self(vec![reason.into()])
    }

    pub(crate) const fn is_ready(&self) -> bool {
        self.0.is_empty()
    }
}

/// The outcome of the reconcile loop up to now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    /// The kernel was in sync with the leases after the last full round.
    pub(crate) converged: bool,
    /// The peers come from a listing of the store, or from the state directory while the store is unreachable.
    pub(crate) peers_known: bool,
    pub(crate) peers: PeerCounts,
    /// Present problems, by subject: a subnet, the config, the interface.
    pub(crate) conditions: BTreeMap<String, String>,
    /// This node; `None` before the first round.
    pub(crate) node: Option<NodeReport>,
    /// How many subnets of the network are allocated.
    pub(crate) allocation: Vec<Allocation>,
}

/// The present properties of this node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeReport {
    pub(crate) backend: &'static str,
    pub(crate) config_revision: Option<Revision>,
    pub(crate) external: ExternalInterface,
    pub(crate) hardware: Option<Mac>,
    pub(crate) pod_mtu: Option<u32>,
    pub(crate) tunnels: Vec<LinkName>,
}

/// Asks the reconcile loop for a [`View`].
pub(crate) type ViewRequest = oneshot::Sender<View>;

/// The desired state at one moment. It shares the large parts with the loop, so that a request costs nothing; if
/// leases change while a view exists, the loop copies them.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// `None` while this node holds no lease.
    pub(crate) assembly: Option<Arc<Assembly>>,
    /// The networks that owned objects can be in.
    pub(crate) networks: Vec<IpNet>,
    /// The devices whose neighbours and FDB entries may be owned.
    pub(crate) tunnels: BTreeSet<LinkName>,
    pub(crate) prune: Prune,
    /// When leases of peers changed.
    pub(crate) changed: Arc<BTreeMap<Subnets, u64>>,
    /// Peers that the store has lost.
    pub(crate) kept: BTreeSet<Subnets>,
    /// Two views of one version have the same desired state, and no round ran between them.
    pub(crate) version: u64,
}

impl View {
    /// The desired state; `None` while this node holds no lease.
    pub(crate) fn desired(&self) -> Option<&Dataplane> {
        self.assembly.as_ref().map(|assembly| assembly.dataplane())
    }
}

/// The name of a family in labels and fields.
pub(crate) const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

/// Seconds since 1970.
pub(crate) fn unix_secs(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Publishes `value` and wakes receivers, unless it is the present one.
pub(crate) fn set<T: PartialEq>(channel: &watch::Sender<T>, value: T) {
    channel.send_if_modified(|old| {
        let changed = *old != value;
        *old = value;
        changed
    });
}
