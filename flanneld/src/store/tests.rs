//! The contract of [`LeaseStore`]: the same cases on every store.

mod cases;
pub(super) mod server;

use etcd_client::{Client, PutOptions};
use flannel_core::lease::{LeaseAttrs, Revision, Subnets};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

use super::dir::DirStore;
use super::etcd::{EtcdOptions, EtcdStore};
use super::{Change, LeaseStore as _, Store, StoreError, Watch, WatchEvent};
use crate::testing::store::MemoryStore;
use server::Server;

pub(super) const PREFIX: &str = "/coreos.com/network";

/// A store and what other programs do to it.
pub(super) trait Bench {
    fn store(&self) -> Store;
    /// Writes a record as an administrator would, with a lease or without one.
    async fn lay_out(&self, key: &str, value: &str, lifetime: Option<Duration>);
    async fn remove(&self, key: &str);
    async fn put_config(&self, text: &str);
    async fn remove_config(&self);
    /// Makes everything before this moment unavailable to watches.
    async fn forget_history(&self);
}

pub(super) struct EtcdBench {
    _server: Server,
    store: EtcdStore,
    client: Client,
}

impl EtcdBench {
    pub(super) async fn new() -> Self {
        let server = Server::start().await;
        let client = server.client().await;
        Self { store: server.store(), _server: server, client }
    }
}

impl Bench for EtcdBench {
    fn store(&self) -> Store {
        Arc::new(self.store.clone())
    }

    async fn lay_out(&self, key: &str, value: &str, lifetime: Option<Duration>) {
        let mut client = self.client.clone();
        let mut options = PutOptions::new();
        if let Some(lifetime) = lifetime {
            let seconds = i64::try_from(lifetime.as_secs()).unwrap();
            options = options.with_lease(client.lease_grant(seconds, None).await.unwrap().id());
        }
        client.put(format!("{PREFIX}/subnets/{key}"), value, Some(options)).await.unwrap();
    }

    async fn remove(&self, key: &str) {
        self.client.clone().delete(format!("{PREFIX}/subnets/{key}"), None).await.unwrap();
    }

    async fn put_config(&self, text: &str) {
        self.client.clone().put(format!("{PREFIX}/config"), text, None).await.unwrap();
    }

    async fn remove_config(&self) {
        self.client.clone().delete(format!("{PREFIX}/config"), None).await.unwrap();
    }

    async fn forget_history(&self) {
        let revision = self.store.list().await.unwrap().revision.number();
        self.client.clone().compact(revision, None).await.unwrap();
    }
}

pub(super) struct DirBench {
    pub(super) directory: TempDir,
    store: DirStore,
}

impl DirBench {
    pub(super) async fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("flannel-dir-").tempdir().unwrap();
        // One level more, which the store has to make.
        let store = DirStore::new(directory.path().join("leases.d"));
        store.list().await.unwrap();
        Self { directory, store }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("leases.d").join(name)
    }
}

impl Bench for DirBench {
    fn store(&self) -> Store {
        Arc::new(self.store.clone())
    }

    async fn lay_out(&self, key: &str, value: &str, lifetime: Option<Duration>) {
        match lifetime {
            Some(lifetime) => {
                let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + lifetime;
                fs::write(self.path("leases").join(key), at.as_secs_f64().to_string()).unwrap();
            }
            None => drop(fs::remove_file(self.path("leases").join(key))),
        }
        fs::write(self.path("subnets").join(key), value).unwrap();
    }

    async fn remove(&self, key: &str) {
        fs::remove_file(self.path("subnets").join(key)).unwrap();
    }

    async fn put_config(&self, text: &str) {
        fs::write(self.path("config"), text).unwrap();
    }

    async fn remove_config(&self) {
        fs::remove_file(self.path("config")).unwrap();
    }

    async fn forget_history(&self) {
        fs::remove_file(self.path(".index")).unwrap();
    }
}

pub(super) fn options(endpoints: &str) -> EtcdOptions {
    EtcdOptions { endpoints: endpoints.to_owned(), prefix: PREFIX.to_owned(), ..EtcdOptions::default() }
}

#[derive(Default)]
struct MemoryBench {
    store: MemoryStore,
}

impl Bench for MemoryBench {
    fn store(&self) -> Store {
        self.store.shared()
    }

    async fn lay_out(&self, key: &str, value: &str, lifetime: Option<Duration>) {
        self.store.put(key, value, lifetime);
    }

    async fn remove(&self, key: &str) {
        self.store.remove(key);
    }

    async fn put_config(&self, text: &str) {
        self.store.set_config(Some(text));
    }

    async fn remove_config(&self) {
        self.store.set_config(None);
    }

    async fn forget_history(&self) {
        self.store.compact();
    }
}

macro_rules! contract {
    ($($case:ident)*) => {
        mod memory {
            $(
                #[tokio::test(start_paused = true)]
                async fn $case() {
                    super::cases::$case(&super::MemoryBench::default()).await;
                }
            )*
        }

        mod directory {
            $(
                #[tokio::test]
                async fn $case() {
                    super::cases::$case(&super::DirBench::new().await).await;
                }
            )*
        }

        mod etcd {
            $(
                #[tokio::test]
                #[ignore = "needs etcd"]
                async fn $case() {
                    super::cases::$case(&super::EtcdBench::new().await).await;
                }
            )*
        }
    };
}

contract! {
    an_empty_store_lists_nothing
    a_listing_is_complete_and_in_key_order
    a_thousand_records_are_listed
    malformed_records_are_delivered_raw
    a_record_is_created_once
    creation_needs_the_config_it_was_chosen_from
    creation_can_need_unchanged_records
    of_many_at_once_one_wins
    an_update_needs_the_revision_and_keeps_the_grant
    a_reservation_remains_one
    a_deletion_needs_the_revision
    renewal_prolongs_without_writing
    an_unrenewed_record_expires
    a_watch_delivers_every_change
    a_watch_resumes_where_it_was
    a_watch_without_history_is_outdated
    a_lease_becomes_a_reservation_and_back
}
