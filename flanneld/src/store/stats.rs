//! Counters of the requests to a store.

use std::time::Duration;

use super::operation::Operation;
use crate::histogram::Histogram;

/// The upper bounds of the classes of latencies: from a directory on this host to the time limit of a call.
pub(crate) const LATENCY_CLASSES: [Duration; 11] = [
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// The requests to a store so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    operations: [OperationStats; Operation::COUNT],
    /// The operation of the request that ended last.
    pub newest: Option<Operation>,
}

/// The requests of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationStats {
    /// Number of failed requests.
    pub errors: u64,
    /// Duration of the last request.
    pub last: Duration,
    /// Durations of all requests.
    pub durations: Histogram<{ LATENCY_CLASSES.len() }>,
}

impl StoreStats {
    /// Counts a request that took `elapsed`.
    pub(super) fn record(&mut self, operation: Operation, elapsed: Duration, is_failure: bool) {
        let stats = &mut self.operations[operation as usize];
        stats.errors += u64::from(is_failure);
        stats.last = elapsed;
        stats.durations.note(&LATENCY_CLASSES, elapsed);
        self.newest = Some(operation);
    }

    /// Returns the requests of one operation.
    #[must_use]
    pub fn of(&self, operation: Operation) -> &OperationStats {
        &self.operations[operation as usize]
    }

    /// Returns the number of failed requests.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.operations.iter().map(|stats| stats.errors).sum()
    }

    /// Returns the number of requests.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.operations.iter().map(|stats| stats.durations.count).sum()
    }
}
