//! Leases in a directory, for the nodes of one machine and for leases that a configuration tool lays out.
//!
//! ```text
//! PATH/config            the network config, the text that etcd has at <prefix>/config
//! PATH/subnets/<key>     one record each, the text that etcd has at <prefix>/subnets/<key>
//! PATH/leases/<key>      when the record expires; without this file it is a reservation, which never does
//! PATH/.index, .lock     revisions, and the lock under which all of us write
//! ```
//!
//! Anything may write the files at any time, with or without the lock: a change is seen at once, and what is half
//! written is seen again when it is whole. Expired records are removed by whoever sees them first.
//!
//! A call whose future is dropped goes on to its end.

mod expiry;
mod index;
mod tree;
mod watch;

use flannel_core::lease::{LeaseAttrs, Revision, Subnets};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;

pub use watch::DirWatch;

use super::encode::{key_text, value_text};
use super::error::StoreError;
use super::stats::{Counters, Operation, StoreStats};
use super::{CreateGuard, Held, LeaseStore, Life, Listing, Record};
use tree::Tree;

/// The leases in one directory. Cloning shares it.
#[derive(Clone)]
pub struct DirStore {
    shared: Arc<Shared>,
}

struct Shared {
    tree: Tree,
    counters: Counters,
}

impl DirStore {
    /// A store in a directory, which is made when it is first used.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        // Independent of later changes of the working directory. It fails on an empty path only.
        let path = std::path::absolute(&path).unwrap_or(path);
        Self { shared: Arc::new(Shared { tree: Tree::new(path), counters: Counters::default() }) }
    }

    /// What was asked so far.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        self.shared.counters.snapshot()
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.tree.root
    }

    /// Writes the network config, if it still has the revision `current`, or does not exist if that is `None`.
    ///
    /// # Errors
    /// [`StoreError::Raced`] if somebody else has written it.
    pub async fn put_config(&self, text: &str, current: Option<Revision>) -> Result<Revision, StoreError> {
        let text = text.to_owned();
        self.run(Operation::PutConfig, move |tree| tree.lock()?.put_config(&text, current)).await
    }

    /// Deletes the record of any key, also one that no daemon could read, at a revision.
    ///
    /// # Errors
    /// [`StoreError::Raced`] if it has another revision.
    pub async fn delete_key(&self, key: &str, revision: Revision) -> Result<(), StoreError> {
        let key = key.to_owned();
        self.run(Operation::Delete, move |tree| tree.lock()?.delete(&key, revision)).await
    }

    /// How long a record lives; `None` if for ever, or if it has ended.
    ///
    /// # Errors
    /// Fails if the directory cannot be read.
    pub async fn life(&self, key: &str) -> Result<Option<Life>, StoreError> {
        let key = key.to_owned();
        self.run(Operation::TimeLeft, move |tree| Ok(tree.lock()?.life(&key))).await
    }

    /// Lets a record live for `lifetime` from now on, or for ever, if it is still as it was read.
    ///
    /// # Errors
    /// [`StoreError::Raced`] if it has another revision.
    pub async fn set_lifetime(
        &self,
        record: &Record,
        lifetime: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        let (key, revision) = (record.key.clone(), record.revision);
        self.run(Operation::Update, move |tree| tree.lock()?.set_lifetime(&key, revision, lifetime)).await
    }

    /// Does file work where it may block, and counts it.
    async fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        work: impl FnOnce(&Tree) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.shared.clone();
        let counted = move || {
            let started = Instant::now();
            let result = work(&shared.tree);
            shared.counters.record(operation, started.elapsed(), &result);
            result
        };
        spawn_blocking(counted).await.unwrap_or_else(|error| resume_unwind(error.into_panic()))
    }
}

impl LeaseStore for DirStore {
    type Watch = DirWatch;

    async fn list(&self) -> Result<Listing, StoreError> {
        self.run(Operation::List, |tree| tree.lock()?.list()).await
    }

    async fn watch(&self, after: Revision) -> Result<DirWatch, StoreError> {
        Ok(DirWatch::new(self.clone(), after))
    }

    async fn create(
        &self,
        subnets: &Subnets,
        attrs: &LeaseAttrs,
        guard: CreateGuard,
        lifetime: Option<Duration>,
    ) -> Result<Held, StoreError> {
        let (key, value) = (key_text(subnets), value_text(attrs));
        self.run(Operation::Create, move |tree| tree.lock()?.create(&key, &value, guard, lifetime)).await
    }

    async fn update(&self, subnets: &Subnets, attrs: &LeaseAttrs, held: &Held) -> Result<Held, StoreError> {
        let (key, value, held) = (key_text(subnets), value_text(attrs), *held);
        self.run(Operation::Update, move |tree| tree.lock()?.update(&key, &value, &held)).await
    }

    async fn renew(&self, subnets: &Subnets, held: &Held) -> Result<Held, StoreError> {
        let (key, held) = (key_text(subnets), *held);
        self.run(Operation::Renew, move |tree| tree.lock()?.renew(&key, &held)).await
    }

    async fn delete(&self, subnets: &Subnets, revision: Revision) -> Result<(), StoreError> {
        self.delete_key(&key_text(subnets), revision).await
    }
}

#[cfg(test)]
mod tests;
