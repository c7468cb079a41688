//! What the daemon knows of itself: values that its tasks publish on watch channels, and the [`Board`] that makes the
//! answers of the status socket and of `/metrics` from them.

use flannel_core::dataplane::Dataplane;
use flannel_core::desired::Assembly;
use flannel_core::external::ExternalInterface;
use flannel_core::lease::{Revision, Subnets};
use flannel_core::link::{LinkName, Mac};
use flannel_core::plan::Prune;
use flannel_core::status::{Allocation, Round};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

use crate::reconcile::Reason;

pub(crate) use board::{Board, Sources, family_name};
pub(crate) use socket::StatusSocket;

mod board;
pub(crate) mod metrics;
mod socket;

/// The outcome of the reconcile loop up to now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    /// The kernel matched the leases after the last full round.
    pub(crate) converged: bool,
    /// The peers come from a listing of the store, or from the state directory while it is away.
    pub(crate) peers_known: bool,
    /// Leases of other nodes that are in use.
    pub(crate) peers: usize,
    /// Of these, with a fault, and lost by the store but kept.
    pub(crate) faulty: usize,
    pub(crate) kept: usize,
    /// Records that cannot be read.
    pub(crate) unreadable: usize,
    /// What is wrong, by what it concerns: a subnet, the config, the interface.
    pub(crate) conditions: BTreeMap<String, String>,
    /// This node; `None` before the first round.
    pub(crate) node: Option<NodeReport>,
    /// How much of the network is taken.
    pub(crate) allocation: Vec<Allocation>,
}

/// What this node is at present.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeReport {
    pub(crate) backend: &'static str,
    pub(crate) config_revision: Option<Revision>,
    pub(crate) external: ExternalInterface,
    pub(crate) hardware: Option<Mac>,
    pub(crate) pod_mtu: Option<u32>,
    pub(crate) tunnels: Vec<LinkName>,
}

/// How many full rounds are remembered.
const ROUNDS: usize = 16;

/// What the reconcile loop has done since the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// The last full rounds, the oldest first.
    pub(crate) rounds: VecDeque<Round>,
    pub(crate) last_lease_change: Option<Round>,
    pub(crate) last_success_at_unix_seconds: Option<u64>,
    /// Operations that failed when they were last tried, some of them.
    pub(crate) failing: Vec<String>,
    /// How many failed in the last full round and the changes since.
    pub(crate) failing_count: u64,
    /// What the store has told is known up to here.
    pub(crate) revision: Option<Revision>,
    pub(crate) by_reason: BTreeMap<Reason, u64>,
    /// Operations by kind, action and result (failed last).
    pub(crate) ops: [[[u64; 2]; 2]; 5],
    /// Operations that put right what others had changed, by what made us look.
    pub(crate) repairs: BTreeMap<Reason, u64>,
    pub(crate) durations: Durations,
}

impl History {
    /// Notes a round that ended.
    pub(crate) fn note(&mut self, reason: Reason, round: Round, elapsed: Duration) {
        *self.by_reason.entry(reason).or_default() += 1;
        if reason == Reason::LeaseChange {
            self.failing_count += round.failed;
            self.last_lease_change = Some(round);
            return;
        }
        self.durations.note(elapsed);
        self.failing_count = round.failed;
        if round.failed == 0 {
            self.last_success_at_unix_seconds = Some(round.at_unix_seconds);
        }
        if Reason::REPAIRS.contains(&reason) {
            *self.repairs.entry(reason).or_default() += round.set + round.deleted;
        }
        if self.rounds.len() >= ROUNDS {
            self.rounds.pop_front();
        }
        self.rounds.push_back(round);
    }
}

/// The upper ends of the classes that rounds are counted in.
pub(crate) const DURATION_CLASSES: [Duration; 8] = [
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// How long rounds took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Durations {
    pub(crate) classes: [u64; DURATION_CLASSES.len()],
    pub(crate) count: u64,
    pub(crate) total: Duration,
}

impl Durations {
    fn note(&mut self, elapsed: Duration) {
        if let Some(class) = DURATION_CLASSES.iter().position(|end| elapsed <= *end) {
            self.classes[class] += 1;
        }
        self.count += 1;
        self.total += elapsed;
    }
}

/// Where the reconcile loop is asked for a [`View`].
pub(crate) type ViewRequest = oneshot::Sender<View>;

/// What the reconcile loop wants of the kernel at one moment. It shares the large parts with the loop, so that asking costs
/// nothing; a change of leases while somebody holds a view costs the loop a copy.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// `None` while we hold no lease.
    pub(crate) assembly: Option<Arc<Assembly>>,
    /// The networks that objects of ours can be in.
    pub(crate) networks: Vec<IpNet>,
    /// The devices whose neighbours and FDB entries may be ours.
    pub(crate) tunnels: BTreeSet<LinkName>,
    pub(crate) prune: Prune,
    /// When leases of peers changed.
    pub(crate) changed: Arc<BTreeMap<Subnets, u64>>,
    /// Peers that the store has lost.
    pub(crate) kept: BTreeSet<Subnets>,
    /// Two views of the same version want the same, and no round ran between them.
    pub(crate) version: u64,
}

impl View {
    /// What is wanted; nothing while we hold no lease.
    fn desired(&self) -> Option<&Dataplane> {
        self.assembly.as_ref().map(|assembly| assembly.dataplane())
    }
}

/// The time of day as answers have it.
pub(crate) fn unix_secs(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
