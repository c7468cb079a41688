//! Leases in etcd, API version 3.
//!
//! Every call is one attempt with a time limit. Only a request that the server rejected because of an old login is repeated.
//! Requests share one connection ([`connect`]); after a failure it is dropped, so that the next call uses the fastest endpoint.
//!
//! A call whose future is dropped, or that ends in an error other than [`StoreError::Raced`], may have been executed, which the next
//! listing shows: a record of a `create` without response has the address of its node, and expires unless renewed.

mod clock;
mod connect;
mod error;
mod landmark;
mod options;
mod watch;

use async_trait::async_trait;
use etcd_client::{
    Compare, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use flannel_core::lease::{LeaseAttrs, Revision, Subnets};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;

pub(crate) use options::EtcdOptions;
pub(super) use options::{FLAGS, PAIRS};

use super::error::{StoreError, StoreOptionsError};
use super::identity::{ETCD, scope};
use super::operation::Operation;
use super::stats::StoreStats;
use super::{
    ConfigRecord, CreateGuard, Grant, Held, Identity, LeaseStore, Life, Listing, Record, Watch, is_failure,
};
use connect::{Connection, Connector};
use error::{EtcdError, Failure, Kind, is_login_needed, is_not_found};
use landmark::{Landmark, Landmarks};
use options::Target;
use watch::EtcdWatch;

/// Time limit of a call with its connection. A quorum that has lost its leader needs about a second for a new one.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// Time limit for revoking the grant of a failed creation: it expires anyway.
const REVOKE_LIMIT: Duration = Duration::from_secs(1);

/// The leases in one etcd cluster. Cloning shares the connection.
#[derive(Clone)]
pub(super) struct EtcdStore {
    shared: Arc<Shared>,
}

struct Shared {
    target: Target,
    identity: Identity,
    link: sync::Mutex<Link>,
    stats: sync::watch::Sender<StoreStats>,
    landmarks: Mutex<Landmarks>,
    /// The role of the user does not include the keys between config and subnets.
    narrow: AtomicBool,
}

/// The present connection, and the connector of the next one. The lock is held while connecting, so that all requests wait for
/// one race.
#[derive(Default)]
struct Link {
    connection: Option<Connection>,
    connector: Connector,
}

impl EtcdStore {
    /// Checks the options. Nothing is connected until the first call.
    ///
    /// # Errors
    /// Fails if the options cannot work.
    pub(super) fn new(options: EtcdOptions) -> Result<Self, StoreOptionsError> {
        let scope = scope(ETCD, &options.prefix);
        let target = Target::new(options)?;
        for endpoint in &target.endpoints {
            if target.ignores_certificates(endpoint) {
                warn!(endpoint = %endpoint.url, "certificates are given but the endpoint is plain http, they are not used");
            }
        }
        Ok(Self {
            shared: Arc::new(Shared {
                identity: identity(&target, scope),
                target,
                link: sync::Mutex::default(),
                stats: sync::watch::Sender::default(),
                landmarks: Mutex::default(),
                narrow: AtomicBool::new(false),
            }),
        })
    }

    fn record_key(&self, key: &str) -> String {
        format!("{}{key}", self.shared.target.keys.subnets)
    }

    async fn txn(&self, operation: Operation, txn: Txn) -> Result<TxnResponse, StoreError> {
        let request = |mut connection: Connection| {
            let txn = txn.clone();
            async move { connection.kv.txn(txn).await }
        };
        self.call(operation, request).await
    }

    /// Runs a guarded write; returns its revision.
    async fn transact(&self, operation: Operation, txn: Txn) -> Result<Revision, StoreError> {
        let response = self.txn(operation, txn).await?;
        if response.succeeded() { Ok(revision_of(&response)) } else { Err(StoreError::Raced) }
    }

    /// Sends one request within the time limit and counts it.
    async fn call<T, F, R>(&self, operation: Operation, request: F) -> Result<T, StoreError>
    where
        F: Fn(Connection) -> R,
        R: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + CALL_LIMIT;
        let mut fresh = self.shared.target.login.is_none();
        loop {
            let connection = self.connection(operation, deadline).await?;
            let started = Instant::now();
            let result = timeout_at(deadline, request(connection.clone())).await;
            let result = match result {
                Ok(Err(error)) if !fresh && is_login_needed(&error) => {
                    // It was not executed, so it can be sent again with a new token.
                    fresh = true;
                    self.forget(&connection).await;
                    continue;
                }
                Ok(Ok(answer)) => {
                    connection.proven.store(true, Ordering::Relaxed);
                    Ok(answer)
                }
                Ok(Err(error)) => Err(self.failed(&connection, operation, error).await),
                Err(_) => {
                    self.forget(&connection).await;
                    Err(self.timed_out(&connection.url, operation))
                }
            };
            self.shared
                .stats
                .send_modify(|stats| stats.record(operation, started.elapsed(), is_failure(&result)));
            return result;
        }
    }

    /// Returns the present connection, or a new one.
    async fn connection(&self, operation: Operation, deadline: Instant) -> Result<Connection, StoreError> {
        let connect = async {
            let mut link = self.shared.link.lock().await;
            if let Some(connection) = &link.connection {
                return Ok(connection.clone());
            }
            let connection = link.connector.connect(&self.shared.target, &self.shared.stats).await;
            let connection = connection.map_err(StoreError::from)?;
            link.connection = Some(connection.clone());
            Ok(connection)
        };
        timeout_at(deadline, connect)
            .await
            .unwrap_or_else(|_| Err(self.timed_out(&self.shared.identity.location, operation)))
    }

    /// Drops a failed connection, unless it was already replaced.
    async fn forget(&self, failed: &Connection) {
        let mut link = self.shared.link.lock().await;
        if link.connection.as_ref().is_some_and(|current| current.generation == failed.generation) {
            link.connection = None;
            link.connector.avoid(failed.at);
        }
    }

    /// Classifies an error, and drops the connection unless the server rejected the request.
    async fn failed(
        &self,
        connection: &Connection,
        operation: Operation,
        error: etcd_client::Error,
    ) -> StoreError {
        if is_not_found(&error) {
            return StoreError::Raced;
        }
        let error = self.failure(connection, operation).classify(error);
        if !matches!(error.kind, Kind::Permission | Kind::Rejected) {
            self.forget(connection).await;
        }
        error.into()
    }

    fn failure<'a>(&'a self, connection: &'a Connection, operation: Operation) -> Failure<'a> {
        let fresh = !connection.proven.load(Ordering::Relaxed);
        Failure { target: &self.shared.target, endpoint: &connection.url, fresh, operation }
    }

    fn timed_out(&self, endpoint: &str, operation: Operation) -> StoreError {
        let limit = CALL_LIMIT.as_secs();
        let text = format!("etcd at {endpoint} did not answer in {limit} s: {operation}");
        EtcdError::new(Kind::TimedOut, text, None).into()
    }

    /// Runs `change` on the landmarks, which a panic cannot make inconsistent.
    fn with_landmarks<T>(&self, change: impl FnOnce(&mut Landmarks) -> T) -> T {
        change(&mut self.shared.landmarks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl LeaseStore for EtcdStore {
    fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    fn stats(&self) -> StoreStats {
        *self.shared.stats.borrow()
    }

    async fn list(&self) -> Result<Listing, StoreError> {
        let keys = &self.shared.target.keys;
        let whole = GetOptions::new().with_range(keys.subnets_end.as_str());
        let txn = Txn::new().and_then([
            TxnOp::get(keys.config.as_str(), None),
            TxnOp::get(keys.subnets.as_str(), Some(whole)),
        ]);
        let response = self.txn(Operation::List, txn).await?;
        let revision = revision_of(&response);
        let mut ranges = response.op_responses().into_iter().map(|response| match response {
            TxnOpResponse::Get(mut range) => range.take_kvs(),
            _ => Vec::new(),
        });
        // The client has copied all records.
        drop(response);
        let config = ranges.next().and_then(|config| config.first().map(config_record));
        let records = ranges.next().unwrap_or_default();
        self.with_landmarks(|landmarks| landmarks.replace(records.iter().map(landmark)));
        Ok(Listing {
            revision,
            config,
            records: records.into_iter().map(|kv| record(kv, &keys.subnets)).collect(),
            ..Listing::default()
        })
    }

    async fn watch(&self, after: Revision) -> Result<Watch, StoreError> {
        Ok(Box::new(EtcdWatch::open(self, after).await?))
    }

    async fn create(
        &self,
        subnets: &Subnets,
        attrs: &LeaseAttrs,
        guard: CreateGuard,
        lifetime: Option<Duration>,
    ) -> Result<Held, StoreError> {
        let keys = &self.shared.target.keys;
        let key = self.record_key(&subnets.to_string());
        let mut guards = vec![
            Compare::version(key.as_str(), CompareOp::Equal, 0),
            Compare::mod_revision(keys.config.as_str(), CompareOp::Equal, guard.config.number()),
        ];
        if let Some(records) = guard.records {
            let later = Compare::mod_revision(keys.subnets.as_str(), CompareOp::Less, records.number() + 1);
            guards.push(later.with_range(keys.subnets_end.as_str()));
        }
        let put = |options| TxnOp::put(key.as_str(), attrs.to_json(), options);
        self.put_granted(Operation::Create, guards, put, lifetime).await
    }

    async fn update(&self, subnets: &Subnets, attrs: &LeaseAttrs, held: &Held) -> Result<Held, StoreError> {
        let key = self.record_key(&subnets.to_string());
        // The guard ensures that the key exists and has the same lease.
        let put = TxnOp::put(key.as_str(), attrs.to_json(), Some(PutOptions::new().with_ignore_lease()));
        let txn = Txn::new()
            .when([Compare::mod_revision(key, CompareOp::Equal, held.revision.number())])
            .and_then([put]);
        let revision = self.transact(Operation::Update, txn).await?;
        Ok(Held { revision, ..*held })
    }

    async fn renew(&self, _: &Subnets, held: &Held) -> Result<Held, StoreError> {
        let Some(Grant(grant)) = held.grant else { return Ok(Held { remaining: None, ..*held }) };
        let started = Instant::now();
        let request = |mut connection: Connection| async move {
            let (mut keeper, mut answers) = match connection.lease.keep_alive(grant).await {
                Ok(stream) => stream,
                // etcd-client's form of a response without remaining time: the server does not have the grant.
                Err(etcd_client::Error::LeaseKeepAliveError(_)) => return Ok(None),
                Err(error) => return Err(error),
            };
            // It hides the first response, so another request follows on the same stream.
            keeper.keep_alive().await?;
            Ok(answers.message().await?.map(|answer| answer.ttl()))
        };
        let ttl = self.call(Operation::Renew, request).await?.unwrap_or(0);
        let ttl = u64::try_from(ttl).ok().filter(|ttl| *ttl > 0).ok_or(StoreError::Raced)?;
        let remaining = Duration::from_secs(ttl).saturating_sub(started.elapsed());
        Ok(Held { remaining: Some(remaining), ..*held })
    }

    async fn delete(&self, key: &str, revision: Revision) -> Result<(), StoreError> {
        let key = self.record_key(key);
        let txn = Txn::new()
            .when([Compare::mod_revision(key.as_str(), CompareOp::Equal, revision.number())])
            .and_then([TxnOp::delete(key, None)]);
        self.transact(Operation::Delete, txn).await.map(|_| ())
    }

    async fn put_config(&self, text: &str, current: Option<Revision>) -> Result<Revision, StoreError> {
        let key = self.shared.target.keys.config.as_str();
        let txn = Txn::new()
            .when([Compare::mod_revision(
                key,
                CompareOp::Equal,
                current.map_or(0, |current| current.number()),
            )])
            .and_then([TxnOp::put(key, text, None)]);
        self.transact(Operation::PutConfig, txn).await
    }

    async fn life(&self, record: &Record) -> Result<Option<Life>, StoreError> {
        let Some(Grant(grant)) = record.grant else { return Ok(None) };
        let request =
            |mut connection: Connection| async move { connection.lease.time_to_live(grant, None).await };
        let answer = self.call(Operation::TimeLeft, request).await?;
        // An unknown grant has -1 seconds.
        let seconds = |number: i64| u64::try_from(number).ok().map(Duration::from_secs);
        Ok(seconds(answer.ttl())
            .map(|left| Life { left, granted: seconds(answer.granted_ttl()).unwrap_or(left) }))
    }

    fn is_life_remote(&self) -> bool {
        true
    }

    async fn clock_ahead_secs(&self) -> Option<Result<i64, String>> {
        Some(clock::ahead_secs(&self.shared.target).await)
    }

    async fn set_lifetime(
        &self,
        record: &Record,
        lifetime: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        let key = self.record_key(&record.key);
        let guard = Compare::mod_revision(key.as_str(), CompareOp::Equal, record.revision.number());
        // A put without a grant detaches the key from its previous one.
        let put = |options| TxnOp::put(key.as_str(), record.value.as_slice(), options);
        Ok(self.put_granted(Operation::Update, vec![guard], put, lifetime).await?.revision)
    }
}

impl EtcdStore {
    /// Writes a record with a new grant, which is revoked if a guard fails, or without a grant.
    async fn put_granted(
        &self,
        operation: Operation,
        guards: Vec<Compare>,
        put: impl FnOnce(Option<PutOptions>) -> TxnOp,
        lifetime: Option<Duration>,
    ) -> Result<Held, StoreError> {
        let started = Instant::now();
        let granted = match lifetime {
            Some(lifetime) => Some(self.grant(lifetime).await?),
            None => None,
        };
        let put = put(granted.map(|(grant, _)| PutOptions::new().with_lease(grant)));
        let result = self.transact(operation, Txn::new().when(guards).and_then([put])).await;
        if let (Err(_), Some((grant, _))) = (&result, granted) {
            self.revoke(grant).await;
        }
        Ok(Held {
            revision: result?,
            grant: granted.map(|(grant, _)| Grant(grant)),
            remaining: granted.map(|(_, ttl)| ttl.saturating_sub(started.elapsed())),
        })
    }

    /// Creates a grant and returns its time, which the server may have extended (it has a minimum).
    async fn grant(&self, lifetime: Duration) -> Result<(i64, Duration), StoreError> {
        let whole = lifetime.as_secs() + u64::from(lifetime.subsec_nanos() > 0);
        let seconds = i64::try_from(whole).unwrap_or(i64::MAX).max(1);
        let request = |mut connection: Connection| async move { connection.lease.grant(seconds, None).await };
        let response = self.call(Operation::Grant, request).await?;
        let ttl = u64::try_from(response.ttl()).unwrap_or(0);
        Ok((response.id(), Duration::from_secs(ttl)))
    }

    /// Revokes the grant of a record that was not created, which deletes the record if it exists after all.
    async fn revoke(&self, grant: i64) {
        let request = |mut connection: Connection| async move { connection.lease.revoke(grant).await };
        // On failure it expires by itself.
        let _ = timeout(REVOKE_LIMIT, self.call(Operation::Revoke, request)).await;
    }
}

fn identity(target: &Target, scope: String) -> Identity {
    let urls: Vec<&str> = target.endpoints.iter().map(|endpoint| endpoint.url.as_str()).collect();
    Identity {
        kind: "etcd",
        location: format!("{} {}", urls.join(","), target.keys.prefix),
        config_place: format!("the etcd key {}", target.keys.config),
        scope,
    }
}

fn revision_of(response: &TxnResponse) -> Revision {
    Revision::new(response.header().map_or(0, etcd_client::ResponseHeader::revision))
}

fn config_record(kv: &KeyValue) -> ConfigRecord {
    ConfigRecord {
        text: String::from_utf8_lossy(kv.value()).into_owned(),
        revision: Revision::new(kv.mod_revision()),
    }
}

fn record(kv: KeyValue, stem: &str) -> Record {
    let revision = Revision::new(kv.mod_revision());
    let grant = Some(kv.lease()).filter(|lease| *lease != 0).map(Grant);
    let (key, value) = kv.into_key_value();
    let key = key.strip_prefix(stem.as_bytes()).unwrap_or(&key);
    Record { key: String::from_utf8_lossy(key).into_owned(), value, revision, grant, fault: None, node: None }
}

fn landmark(kv: &KeyValue) -> Landmark {
    Landmark { key: kv.key().to_vec(), revision: kv.mod_revision(), lease: kv.lease() }
}

#[cfg(test)]
mod tests;
