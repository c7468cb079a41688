//! Rounds of the reconcile loop: their reasons, outcomes and durations.

use flannel_core::lease::Revision;
use flannel_core::status::{Kind, Round};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use crate::histogram::Histogram;

/// Why a round runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// The daemon started.
    Start,
    /// The kernel or the agent reported a change by another program.
    Hint,
    /// Notifications were lost.
    Overrun,
    /// Operations failed in the last round.
    Retry,
    /// The interval of full checks has passed.
    Resync,
    /// The network config changed.
    Config,
    /// Our own lease changed.
    Claim,
    /// A listing replaced the view of the cluster.
    Listing,
    /// Two leases share an object, so that the difference of one is not enough.
    Overlap,
    /// Leases changed. Never the reason of a full round: only the difference is applied.
    LeaseChange,
}

/// All reasons in their order, with their names in logs, status and metrics.
const NAMES: [(Reason, &str); 10] = [
    (Reason::Start, "start"),
    (Reason::Hint, "hint"),
    (Reason::Overrun, "overrun"),
    (Reason::Retry, "retry"),
    (Reason::Resync, "resync"),
    (Reason::Config, "config"),
    (Reason::Claim, "claim"),
    (Reason::Listing, "listing"),
    (Reason::Overlap, "overlap"),
    (Reason::LeaseChange, "lease-change"),
];

impl Reason {
    /// The reasons of rounds without a change of the desired state: what they change, other programs had changed.
    pub(crate) const REPAIRS: [Self; 3] = [Self::Hint, Self::Overrun, Self::Resync];

    /// Returns all reasons.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        NAMES.iter().map(|(reason, _)| *reason)
    }

    /// Returns the name in logs, status and metrics.
    pub(crate) const fn name(self) -> &'static str {
        NAMES[self as usize].1
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How many full rounds are kept.
const ROUNDS: usize = 16;

/// The work of the reconcile loop since the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// The last full rounds, the oldest first.
    pub(crate) rounds: VecDeque<Round>,
    pub(crate) last_lease_change: Option<Round>,
    pub(crate) last_success_at_unix_seconds: Option<u64>,
    /// A few of the operations whose last attempt failed.
    pub(crate) failing: Vec<String>,
    /// How many failed in the last full round and the changes since.
    pub(crate) failing_count: u64,
    /// The revision up to which the store is known.
    pub(crate) revision: Option<Revision>,
    pub(crate) by_reason: BTreeMap<Reason, u64>,
    /// Operations by kind, action and result (failed last).
    pub(crate) ops: [[[u64; 2]; 2]; Kind::ALL.len()],
    /// Operations that repaired changes of others, by the reason of the round.
    pub(crate) repairs: BTreeMap<Reason, u64>,
    /// Of full rounds.
    pub(crate) durations: Histogram<{ DURATION_CLASSES.len() }>,
}

impl History {
    /// Adds a round that ended.
    pub(crate) fn note(&mut self, reason: Reason, round: Round, elapsed: Duration) {
        *self.by_reason.entry(reason).or_default() += 1;
        if reason == Reason::LeaseChange {
            self.failing_count += round.failed;
            self.last_lease_change = Some(round);
            return;
        }
        self.durations.note(&DURATION_CLASSES, elapsed);
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

/// The upper bounds of the classes of round durations.
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
