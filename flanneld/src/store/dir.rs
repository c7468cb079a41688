//! Leases in a directory, for the nodes of one machine and for leases that a configuration tool writes.
//!
//! ```text
//! PATH/config            the network config, as in etcd at <prefix>/config
//! PATH/subnets/<key>     one record each, as in etcd at <prefix>/subnets/<key>
//! PATH/leases/<key>      when the record expires; without this file it is a reservation, which does not expire
//! PATH/.index, .lock     revisions, and the lock of every daemon that reads or writes
//! ```
//!
//! Other programs may write the files at any time, with or without the lock: a change is noticed at once, and a file that is half
//! written is read again when it is complete. Expired records are removed by the first process that notices them.
//!
//! A call whose future is dropped is completed.

mod expiry;
mod index;
mod tree;
mod watch;

use async_trait::async_trait;
use flannel_core::lease::{LeaseAttrs, Revision, Subnets};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync;
use tokio::task::spawn_blocking;

use super::error::{Detail, StoreError};
use super::identity::{DIRECTORY, scope};
use super::is_failure;
use super::operation::Operation;
use super::stats::StoreStats;
use super::{CreateGuard, Held, Identity, LeaseStore, Life, Listing, Record, Watch};
use crate::files::FileError;
use tree::Tree;
use watch::DirWatch;

/// The leases in one directory. Cloning shares it.
#[derive(Clone)]
pub(super) struct DirStore {
    shared: Arc<Shared>,
}

struct Shared {
    identity: Identity,
    tree: Tree,
    stats: sync::watch::Sender<StoreStats>,
}

impl DirStore {
    /// A store in a directory, which is created when it is first used.
    #[must_use]
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let scope = scope(DIRECTORY, path.to_str().unwrap_or_default());
        // Independent of later changes of the working directory. It fails only for an empty path.
        let path = std::path::absolute(&path).unwrap_or(path);
        let identity = Identity {
            kind: "directory",
            location: path.display().to_string(),
            config_place: format!("the file {}", path.join("config").display()),
            scope,
        };
        let shared = Shared { identity, tree: Tree::new(path), stats: sync::watch::Sender::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Runs an operation on a thread that may block, and counts it.
    async fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        work: impl FnOnce(&Tree) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = self.shared.clone();
        let counted = move || {
            let started = Instant::now();
            let result = work(&shared.tree);
            shared.stats.send_modify(|stats| stats.record(operation, started.elapsed(), is_failure(&result)));
            result
        };
        spawn_blocking(counted).await.unwrap_or_else(|error| resume_unwind(error.into_panic()))
    }
}

impl From<FileError> for StoreError {
    fn from(error: FileError) -> Self {
        Self::Unusable(Detail::new(error, "Check --lease-dir and the permissions below it."))
    }
}

#[async_trait]
impl LeaseStore for DirStore {
    fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    fn stats(&self) -> StoreStats {
        *self.shared.stats.borrow()
    }

    async fn list(&self) -> Result<Listing, StoreError> {
        self.run(Operation::List, |tree| Ok(tree.lock()?.list())).await
    }

    async fn watch(&self, after: Revision) -> Result<Watch, StoreError> {
        Ok(Box::new(DirWatch::new(self.clone(), after)?))
    }

    async fn create(
        &self,
        subnets: &Subnets,
        attrs: &LeaseAttrs,
        guard: CreateGuard,
        lifetime: Option<Duration>,
    ) -> Result<Held, StoreError> {
        let (key, value) = (subnets.to_string(), attrs.to_json());
        self.run(Operation::Create, move |tree| tree.lock()?.create(&key, &value, guard, lifetime)).await
    }

    async fn update(&self, subnets: &Subnets, attrs: &LeaseAttrs, held: &Held) -> Result<Held, StoreError> {
        let (key, value, held) = (subnets.to_string(), attrs.to_json(), *held);
        self.run(Operation::Update, move |tree| tree.lock()?.update(&key, &value, &held)).await
    }

    async fn renew(&self, subnets: &Subnets, held: &Held) -> Result<Held, StoreError> {
        let (key, held) = (subnets.to_string(), *held);
        self.run(Operation::Renew, move |tree| tree.lock()?.renew(&key, &held)).await
    }

    async fn delete(&self, key: &str, revision: Revision) -> Result<(), StoreError> {
        let key = key.to_owned();
        self.run(Operation::Delete, move |tree| tree.lock()?.delete(&key, revision)).await
    }

    async fn put_config(&self, text: &str, current: Option<Revision>) -> Result<Revision, StoreError> {
        let text = text.to_owned();
        self.run(Operation::PutConfig, move |tree| tree.lock()?.put_config(&text, current)).await
    }

    async fn life(&self, record: &Record) -> Result<Option<Life>, StoreError> {
        let key = record.key.clone();
        self.run(Operation::TimeLeft, move |tree| Ok(tree.lock()?.life(&key))).await
    }

    async fn set_lifetime(
        &self,
        record: &Record,
        lifetime: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        let (key, revision) = (record.key.clone(), record.revision);
        self.run(Operation::Update, move |tree| tree.lock()?.set_lifetime(&key, revision, lifetime)).await
    }
}

#[cfg(test)]
mod tests;
