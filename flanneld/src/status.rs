//! What the reconcile loop has reached, as a value on a watch channel: readiness and logs are read off it.

use std::collections::BTreeMap;

/// The outcome of the reconcile loop up to now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// The kernel matched the leases after the last full round.
    pub(crate) converged: bool,
    /// The peers come from a listing of the store, or from the state directory while it is away.
    pub(crate) peers_known: bool,
    /// Leases of other nodes that are in use.
    pub(crate) peers: usize,
    /// What is wrong, by what it concerns: a subnet, the config, the interface.
    pub(crate) conditions: BTreeMap<String, String>,
}
