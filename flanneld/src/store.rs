//! The seam to the store of leases: etcd, or a directory.
//!
//! Writes are always guarded: a record is created only while its key is absent and the network
//! config is unchanged, and changed or deleted only at the revision that the writer knows.

mod any;
pub mod dir;
mod encode;
mod error;
pub mod etcd;
mod stats;
pub mod watch;

use flannel_core::lease::{LeaseAttrs, Revision, Subnets};
use std::time::Duration;

pub use any::{AnyStore, AnyWatch};
pub use error::{Cause, StoreError, TlsProblem};
pub(crate) use stats::LATENCY_CLASSES;
pub use stats::{Operation, OperationStats, StoreStats};

pub use flannel_core::store::{Change, ConfigRecord, CreateGuard, Grant, Held, Listing, Record};

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// Changes up to and including a revision, in order. Without changes it is a sign of life.
    Changes {
        /// Everything up to here has been delivered.
        revision: Revision,
        /// The changes.
        changes: Vec<Change>,
    },
    /// The revision asked for is gone (compaction, a store that was replaced): list again.
    Outdated,
}

/// How long a record lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Time left.
    pub left: Duration,
    /// Time that it had when it was last renewed.
    pub granted: Duration,
}

/// A store of leases. Every call has a time limit of its own and never retries. A write that ends in an error other
/// than [`StoreError::Raced`], or whose future is dropped, may have happened: list again to know.
pub trait LeaseStore: Clone + Send + Sync + 'static {
    /// A running watch.
    type Watch: LeaseWatch;

    /// Reads config and records at one revision, in one request.
    fn list(&self) -> impl Future<Output = Result<Listing, StoreError>> + Send;

    /// Starts to deliver all changes after `after`.
    fn watch(&self, after: Revision) -> impl Future<Output = Result<Self::Watch, StoreError>> + Send;

    /// Creates a record that lives for `lifetime`, or for ever. Fails with [`StoreError::Raced`] if
    /// the key exists or the guard does not hold.
    fn create(
        &self,
        subnets: &Subnets,
        attrs: &LeaseAttrs,
        guard: CreateGuard,
        lifetime: Option<Duration>,
    ) -> impl Future<Output = Result<Held, StoreError>> + Send;

    /// Changes our record and keeps its grant (a reservation stays one) and the time it has left. Fails with
    /// [`StoreError::Raced`] unless it is still at the revision of `held`.
    fn update(
        &self,
        subnets: &Subnets,
        attrs: &LeaseAttrs,
        held: &Held,
    ) -> impl Future<Output = Result<Held, StoreError>> + Send;

    /// Prolongs the life of our record without writing it; answers with the time left. Fails with
    /// [`StoreError::Raced`] if the grant has expired.
    fn renew(&self, subnets: &Subnets, held: &Held) -> impl Future<Output = Result<Held, StoreError>> + Send;

    /// Deletes a record at a revision. Fails with [`StoreError::Raced`] if it has another one.
    fn delete(
        &self,
        subnets: &Subnets,
        revision: Revision,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A running watch. Dropping it ends it.
pub trait LeaseWatch: Send + 'static {
    /// Waits for the next event. An error ends the watch. Cancel-safe.
    fn next(&mut self) -> impl Future<Output = Result<WatchEvent, StoreError>> + Send;

    /// How long it may be silent while all is well; `None` if silence says nothing.
    fn silence_limit(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests;
