//! The interface to the store of leases: etcd, a directory, or the nodes of Kubernetes.
//!
//! Writes are always guarded: a record is created only while its key is absent and the network
//! config is unchanged, and changed or deleted only at the revision that the writer knows.

mod dir;
mod error;
mod etcd;
mod identity;
mod kubernetes;
mod notices;
mod operation;
mod options;
mod stats;
pub mod watch;

use async_trait::async_trait;
use flannel_core::lease::{LeaseAttrs, Revision, Subnets};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch as watch_channel;

pub use error::{Detail, StoreError, StoreOptionsError};
#[cfg(test)]
pub(crate) use etcd::EtcdOptions;
pub use identity::{Identity, is_scope};
pub use kubernetes::{ClusterFacts, ConfigMap, Rule};
pub use operation::Operation;
pub use options::{CONFIG_MAP, FLAGS, KUBERNETES_FLAGS, LEASE_DIR, PAIRS, StoreOptions};
pub(crate) use stats::LATENCY_CLASSES;
pub use stats::{OperationStats, StoreStats};

pub use flannel_core::store::{
    Assignment, Change, ConfigRecord, CreateGuard, Grant, Held, Listing, OwnNode, Ownership, Record,
};

/// A store, chosen at run time by [`StoreOptions::open`].
pub type Store = Arc<dyn LeaseStore>;

/// A running watch. Dropping it ends it.
pub type Watch = Box<dyn LeaseWatch>;

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// Changes up to and including a revision, in order. Without changes it shows that the watch works.
    Changes {
        /// Everything up to here has been delivered.
        revision: Revision,
        /// The changes.
        changes: Vec<Change>,
    },
    /// The requested revision no longer exists (compaction, another store): list again.
    Outdated,
}

/// Whether pods can start on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serving {
    /// They can.
    Ready,
    /// They cannot, for this reason.
    NotReady(String),
}

/// A change of a lease by an administrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// Deletes it.
    Release,
    /// Creates it, or keeps it from expiring.
    Reserve,
    /// Lets it expire.
    Unreserve,
    /// Gives its node another subnet.
    Move,
}

/// The lifetime of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The remaining time.
    pub left: Duration,
    /// The time after the last renewal.
    pub granted: Duration,
}

/// A store of leases. Every call has a time limit of its own and never retries. A write that ends in an error other
/// than [`StoreError::Raced`], or whose future is dropped, may have happened: list again to know.
#[async_trait]
pub trait LeaseStore: Send + Sync + 'static {
    /// Returns the names of this store.
    fn identity(&self) -> &Identity;

    /// Returns the counters of all requests so far.
    fn stats(&self) -> StoreStats;

    /// Returns who chooses the subnet of a node.
    fn ownership(&self) -> Ownership {
        Ownership::Claimed
    }

    /// Reads the subnets that the store assigns to this node: none where nodes claim them.
    async fn assignment(&self) -> Result<Assignment, StoreError> {
        Ok(Assignment {
            subnets: Subnets { v4: None, v6: None },
            attrs: None,
            revision: Revision::default(),
            place: self.identity().location.clone(),
            advice: "Let the node claim a subnet.",
        })
    }

    /// Reports whether pods can start on this node, if the store has a place for it.
    async fn announce(&self, _serving: &Serving) -> Result<(), StoreError> {
        Ok(())
    }

    /// Counts events after which the report of [`LeaseStore::announce`] may no longer be there. Without a sender there are none.
    fn own_events(&self) -> watch_channel::Receiver<u64> {
        watch_channel::Sender::default().subscribe()
    }

    /// Returns the key of the record of this node according to the last listing. Only a store that knows nodes by name does.
    fn own_key(&self) -> Option<String> {
        None
    }

    /// Returns why this store does not make a change, and what to do instead; `None` if it does.
    fn refusal(&self, _change: LeaseChange) -> Option<(&'static str, &'static str)> {
        None
    }

    /// Sends a short request, whose time tells how fast the store is.
    async fn probe(&self) -> Result<(), StoreError> {
        self.list().await.map(drop)
    }

    /// Examines the cluster that the nodes belong to, after a listing; `None` where the store knows of none.
    async fn examine(&self) -> Option<ClusterFacts> {
        None
    }

    /// Reads config and records at one revision, in as few requests as possible.
    async fn list(&self) -> Result<Listing, StoreError>;

    /// Starts to deliver all changes after `after`.
    async fn watch(&self, after: Revision) -> Result<Watch, StoreError>;

    /// Creates a record that expires after `lifetime`, or never. Fails with [`StoreError::Raced`] if
    /// the key exists or the guard does not hold.
    async fn create(
        &self,
        subnets: &Subnets,
        attrs: &LeaseAttrs,
        guard: CreateGuard,
        lifetime: Option<Duration>,
    ) -> Result<Held, StoreError>;

    /// Changes the own record and keeps its grant (a reservation remains one) and its remaining time. Fails with
    /// [`StoreError::Raced`] unless it has the revision of `held`.
    async fn update(&self, subnets: &Subnets, attrs: &LeaseAttrs, held: &Held) -> Result<Held, StoreError>;

    /// Renews the own record without writing it; returns the remaining time. Fails with [`StoreError::Raced`] if the grant has
    /// expired.
    async fn renew(&self, subnets: &Subnets, held: &Held) -> Result<Held, StoreError>;

    /// Deletes the record of any key, also one that no daemon can read. Fails with [`StoreError::Raced`] if it has
    /// another revision.
    async fn delete(&self, key: &str, revision: Revision) -> Result<(), StoreError>;

    /// Writes the network config. Fails with [`StoreError::Raced`] unless it still has the revision `current`, or does
    /// not exist if that is `None`.
    async fn put_config(&self, text: &str, current: Option<Revision>) -> Result<Revision, StoreError>;

    /// Returns the lifetime of a record; `None` if it does not expire, or has expired.
    async fn life(&self, record: &Record) -> Result<Option<Life>, StoreError>;

    /// Whether [`LeaseStore::life`] needs a request for each record, which is slow for many.
    fn is_life_remote(&self) -> bool {
        false
    }

    /// Returns by how many seconds the clock of the store is ahead of that of this host, or why that is unknown; `None`
    /// for a store without a clock of its own.
    async fn clock_ahead_secs(&self) -> Option<Result<i64, String>> {
        None
    }

    /// Lets a record expire after `lifetime`, or never, and keeps its value. Fails with [`StoreError::Raced`] if its revision has
    /// changed.
    async fn set_lifetime(&self, record: &Record, lifetime: Option<Duration>)
    -> Result<Revision, StoreError>;
}

/// A running watch.
#[async_trait]
pub trait LeaseWatch: Send {
    /// Waits for the next event. An error ends the watch. Cancel-safe.
    async fn next(&mut self) -> Result<WatchEvent, StoreError>;

    /// Returns the longest silence of a working watch; `None` if it can be silent forever.
    fn silence_limit(&self) -> Option<Duration> {
        None
    }
}

/// Whether a request counts as failed. A lost race is a response.
fn is_failure<T>(result: &Result<T, StoreError>) -> bool {
    result.as_ref().is_err_and(|error| !matches!(error, StoreError::Raced))
}

#[cfg(test)]
mod tests;
