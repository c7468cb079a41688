//! Counters of the requests to a store, cheap enough to be always on.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::operation::Operation;

/// The upper ends of the classes that latencies are counted in: from a directory on this host to the time limit of a call.
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

/// The running counters.
#[derive(Debug, Default)]
pub(super) struct Counters {
    operations: [Counter; Operation::ALL.len()],
    /// The place of the operation that ended last, counted from 1.
    newest: AtomicUsize,
}

#[derive(Debug, Default)]
struct Counter {
    requests: AtomicU64,
    errors: AtomicU64,
    last_micros: AtomicU64,
    total_micros: AtomicU64,
    /// How many requests fell into each class; those beyond the last are in none.
    classes: [AtomicU64; LATENCY_CLASSES.len()],
}

impl Counters {
    /// Counts a request that took `elapsed`.
    pub(super) fn record(&self, operation: Operation, elapsed: Duration, is_failure: bool) {
        let counter = &self.operations[operation as usize];
        counter.requests.fetch_add(1, Ordering::Relaxed);
        if is_failure {
            counter.errors.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        counter.last_micros.store(micros, Ordering::Relaxed);
        counter.total_micros.fetch_add(micros, Ordering::Relaxed);
        if let Some(class) = LATENCY_CLASSES.iter().position(|end| elapsed <= *end) {
            counter.classes[class].fetch_add(1, Ordering::Relaxed);
        }
        self.newest.store(operation as usize + 1, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> StoreStats {
        let operations = Operation::ALL.map(|operation| {
            let counter = &self.operations[operation as usize];
            OperationStats {
                operation,
                requests: counter.requests.load(Ordering::Relaxed),
                errors: counter.errors.load(Ordering::Relaxed),
                last: Duration::from_micros(counter.last_micros.load(Ordering::Relaxed)),
                total: Duration::from_micros(counter.total_micros.load(Ordering::Relaxed)),
                classes: counter.classes.each_ref().map(|class| class.load(Ordering::Relaxed)),
            }
        });
        let newest = self.newest.load(Ordering::Relaxed).checked_sub(1);
        StoreStats { operations, newest }
    }
}

/// What was asked of a store so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreStats {
    operations: [OperationStats; Operation::ALL.len()],
    newest: Option<usize>,
}

impl StoreStats {
    /// No request yet.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Counters::default().snapshot()
    }

    /// One kind of request.
    #[must_use]
    pub fn of(&self, operation: Operation) -> OperationStats {
        self.operations[operation as usize]
    }

    /// All kinds.
    pub fn iter(&self) -> impl Iterator<Item = OperationStats> {
        self.operations.iter().copied()
    }

    /// The kind of the request that ended last.
    #[must_use]
    pub fn newest(&self) -> Option<OperationStats> {
        self.newest.map(|at| self.operations[at])
    }

    /// All failures together.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.iter().map(|stats| stats.errors).sum()
    }

    /// All requests together.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.iter().map(|stats| stats.requests).sum()
    }
}

/// What was asked of a store so far, of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationStats {
    /// The kind.
    pub operation: Operation,
    /// How many requests were sent.
    pub requests: u64,
    /// How many of them failed.
    pub errors: u64,
    /// How long the last one took.
    pub last: Duration,
    /// How long all of them took together.
    pub total: Duration,
    /// How many took longer than the class of [`LATENCY_CLASSES`] before and no longer than this one.
    pub(crate) classes: [u64; LATENCY_CLASSES.len()],
}
