//! What the daemon knows of its own state, as values on watch channels: readiness, logs and the status
//! are read off them.

use flannel_core::dataplane::Dataplane;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use crate::reconcile::Reason;

/// The outcome of the reconcile loop up to now.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// The last full round.
    pub(crate) round: Option<Round>,
    /// Full rounds since the start.
    pub(crate) rounds: u64,
    /// The kernel matched the leases after the last full round.
    pub(crate) converged: bool,
    /// The peers came from a listing of the store, or from the state directory while it is away.
    pub(crate) peers_known: bool,
    /// Leases of other nodes that are in use.
    pub(crate) peers: usize,
    /// What is wrong, by what it concerns: a subnet, an object of the kernel, the interface.
    pub(crate) conditions: BTreeMap<String, String>,
}

/// One full round.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub(crate) reason: Reason,
    pub(crate) finished: Instant,
    pub(crate) took: Duration,
    pub(crate) applied: usize,
    pub(crate) failed: usize,
    pub(crate) desired: Arc<Dataplane>,
}
