//! The store that the options name, chosen at run time.

use flannel_core::lease::{LeaseAttrs, Revision, Subnets};
use std::time::Duration;

use super::dir::{DirStore, DirWatch};
use super::error::StoreError;
use super::etcd::{EtcdOptionsError, EtcdStore, EtcdWatch};
use super::stats::StoreStats;
use super::{CreateGuard, Held, LeaseStore, LeaseWatch, Life, Listing, Record, WatchEvent};
use crate::cli::StoreOptions;

/// Any of the stores.
#[derive(Clone)]
pub enum AnyStore {
    /// In etcd.
    Etcd(EtcdStore),
    /// In a directory.
    Directory(DirStore),
}

impl AnyStore {
    /// The store that the options name. Nothing is connected or read yet.
    ///
    /// # Errors
    /// Fails if the options cannot work.
    pub fn new(options: StoreOptions) -> Result<Self, EtcdOptionsError> {
        Ok(match options {
            StoreOptions::Etcd(options) => Self::Etcd(EtcdStore::new(options)?),
            StoreOptions::Directory(path) => Self::Directory(DirStore::new(path)),
        })
    }

    /// What was asked so far.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        match self {
            Self::Etcd(store) => store.stats(),
            Self::Directory(store) => store.stats(),
        }
    }

    /// What kind of store it is.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Etcd(_) => "etcd",
            Self::Directory(_) => "directory",
        }
    }

    /// Where the store is, for people.
    #[must_use]
    pub fn location(&self) -> String {
        match self {
            Self::Etcd(store) => store.location(),
            Self::Directory(store) => store.path().display().to_string(),
        }
    }

    /// Writes the network config, if it still has the revision `current`, or does not exist if that is `None`.
    ///
    /// # Errors
    /// [`StoreError::Raced`] if somebody else has written it.
    pub async fn put_config(&self, text: &str, current: Option<Revision>) -> Result<Revision, StoreError> {
        match self {
            Self::Etcd(store) => store.put_config(text, current).await,
            Self::Directory(store) => store.put_config(text, current).await,
        }
    }

    /// How long a record lives; `None` if for ever, or if it has ended.
    ///
    /// # Errors
    /// Fails if the store cannot be asked.
    pub async fn life(&self, record: &Record) -> Result<Option<Life>, StoreError> {
        let Some(grant) = record.grant else { return Ok(None) };
        match self {
            Self::Etcd(store) => store.life(grant).await,
            Self::Directory(store) => store.life(&record.key).await,
        }
    }

    /// Lets a record live for `lifetime` from now on, or for ever, if it is still as it was read. Its value stays.
    ///
    /// # Errors
    /// [`StoreError::Raced`] if it has another revision.
    pub async fn set_lifetime(
        &self,
        record: &Record,
        lifetime: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        match self {
            Self::Etcd(store) => store.set_lifetime(record, lifetime).await,
            Self::Directory(store) => store.set_lifetime(record, lifetime).await,
        }
    }

    /// Deletes the record of any key, also one that no daemon could read, at a revision.
    ///
    /// # Errors
    /// [`StoreError::Raced`] if it has another revision.
    pub async fn delete_key(&self, key: &str, revision: Revision) -> Result<(), StoreError> {
        match self {
            Self::Etcd(store) => store.delete_key(key, revision).await,
            Self::Directory(store) => store.delete_key(key, revision).await,
        }
    }
}

impl LeaseStore for AnyStore {
    type Watch = AnyWatch;

    async fn list(&self) -> Result<Listing, StoreError> {
        match self {
            Self::Etcd(store) => store.list().await,
            Self::Directory(store) => store.list().await,
        }
    }

    async fn watch(&self, after: Revision) -> Result<AnyWatch, StoreError> {
        Ok(match self {
            Self::Etcd(store) => AnyWatch::Etcd(Box::new(store.watch(after).await?)),
            Self::Directory(store) => AnyWatch::Directory(Box::new(store.watch(after).await?)),
        })
    }

    async fn create(
        &self,
        subnets: &Subnets,
        attrs: &LeaseAttrs,
        guard: CreateGuard,
        lifetime: Option<Duration>,
    ) -> Result<Held, StoreError> {
        match self {
            Self::Etcd(store) => store.create(subnets, attrs, guard, lifetime).await,
            Self::Directory(store) => store.create(subnets, attrs, guard, lifetime).await,
        }
    }

    async fn update(&self, subnets: &Subnets, attrs: &LeaseAttrs, held: &Held) -> Result<Held, StoreError> {
        match self {
            Self::Etcd(store) => store.update(subnets, attrs, held).await,
            Self::Directory(store) => store.update(subnets, attrs, held).await,
        }
    }

    async fn renew(&self, subnets: &Subnets, held: &Held) -> Result<Held, StoreError> {
        match self {
            Self::Etcd(store) => store.renew(subnets, held).await,
            Self::Directory(store) => store.renew(subnets, held).await,
        }
    }

    async fn delete(&self, subnets: &Subnets, revision: Revision) -> Result<(), StoreError> {
        match self {
            Self::Etcd(store) => store.delete(subnets, revision).await,
            Self::Directory(store) => store.delete(subnets, revision).await,
        }
    }
}

/// A running watch of any of the stores.
pub enum AnyWatch {
    /// In etcd.
    Etcd(Box<EtcdWatch>),
    /// In a directory.
    Directory(Box<DirWatch>),
}

impl LeaseWatch for AnyWatch {
    async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        match self {
            Self::Etcd(watch) => watch.next().await,
            Self::Directory(watch) => watch.next().await,
        }
    }

    fn silence_limit(&self) -> Option<Duration> {
        match self {
            Self::Etcd(watch) => watch.silence_limit(),
            Self::Directory(watch) => watch.silence_limit(),
        }
    }
}
