//! A watch of config and records on one etcd stream.

use async_trait::async_trait;
use etcd_client::{GetOptions, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream};
use flannel_core::lease::Revision;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::debug;

use super::connect::Connection;
use super::error::{EtcdError, Kind, is_login_needed, is_out_of_range};
use super::{CALL_LIMIT, EtcdStore, config_record, landmark, record};
use crate::store::error::StoreError;
use crate::store::operation::Operation;
use crate::store::{Change, LeaseWatch, WatchEvent, is_failure};

/// The interval of requests for progress. Without them, the server reports it every ten minutes.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(120);
/// The longest silence of a watch. HTTP/2 pings detect a dead connection much earlier; this detects a server that responds to pings
/// and has lost the watch.
const SILENCE_LIMIT: Duration = Duration::from_secs(300);

/// A running watch of an [`EtcdStore`].
pub(super) struct EtcdWatch {
    store: EtcdStore,
    connection: Connection,
    requests: WatchRequestSender,
    responses: WatchResponseStream,
    /// The watches on the stream.
    parts: Vec<Part>,
    /// Responses that arrived while the second watch was created.
    early: VecDeque<WatchResponse>,
    cluster: u64,
    next_progress: Instant,
    /// The store is not the one that was listed.
    outdated: bool,
}

struct Part {
    id: i64,
    delivered: i64,
}

/// The error of opening a watch.
enum Refusal {
    /// Permission, or in etcd 3.4 also a token that has expired.
    Denied,
    Failed(StoreError),
}

impl EtcdWatch {
    pub(super) async fn open(store: &EtcdStore, after: Revision) -> Result<Self, StoreError> {
        let started = Instant::now();
        let deadline = started + CALL_LIMIT;
        let result = Self::open_widest(store, after, deadline).await;
        let (elapsed, failed) = (started.elapsed(), is_failure(&result));
        store.shared.stats.send_modify(|stats| stats.record(Operation::Watch, elapsed, failed));
        let mut watch = result?;
        watch.outdated = !watch.is_same_store(after).await?;
        Ok(watch)
    }

    /// One range contains config and records, and has one order of events. A role may permit only the keys that Go flannel reads,
    /// without those in between; then two watches are needed.
    async fn open_widest(store: &EtcdStore, after: Revision, deadline: Instant) -> Result<Self, StoreError> {
        let mut fresh = store.shared.target.login.is_none();
        let mut narrow = store.shared.narrow.load(Ordering::Relaxed);
        loop {
            let connection = store.connection(Operation::Watch, deadline).await?;
            let opening = Self::open_on(store, &connection, after, narrow);
            let result = match timeout_at(deadline, opening).await {
                Ok(result) => result,
                Err(_) => Err(Refusal::Failed(store.timed_out(&connection.url, Operation::Watch))),
            };
            match result {
                Ok(watch) => {
                    store.shared.narrow.store(narrow, Ordering::Relaxed);
                    return Ok(watch);
                }
                Err(Refusal::Denied) if !fresh => {
                    fresh = true;
                    store.forget(&connection).await;
                }
                Err(Refusal::Denied) if !narrow => narrow = true,
                Err(Refusal::Denied) => {
                    return Err(store.failure(&connection, Operation::Watch).denied().into());
                }
                Err(Refusal::Failed(error)) => {
                    store.forget(&connection).await;
                    return Err(error);
                }
            }
        }
    }

    async fn open_on(
        store: &EtcdStore,
        connection: &Connection,
        after: Revision,
        narrow: bool,
    ) -> Result<Self, Refusal> {
        let keys = &store.shared.target.keys;
        // Responses are not split into fragments: each then holds whole revisions, so the revision of its last
        // event is a point to resume from.
        let options = WatchOptions::new().with_start_revision(after.number() + 1).with_progress_notify();
        let whole = options.clone().with_range(keys.subnets_end.as_str());
        let first = if narrow { options.clone() } else { whole.clone() };

        let mut client = connection.watch.clone();
        let stream = match client.watch(keys.config.as_str(), Some(first)).await {
            Ok(stream) => stream,
            Err(error) if is_login_needed(&error) => return Err(Refusal::Denied),
            Err(error) => return Err(refusal(store, connection, error).await),
        };
        let (requests, responses) = stream.split();
        let mut watch = Self {
            store: store.clone(),
            connection: connection.clone(),
            requests,
            responses,
            parts: Vec::new(),
            early: VecDeque::new(),
            cluster: 0,
            next_progress: Instant::now() + PROGRESS_INTERVAL,
            outdated: false,
        };
        watch.created(after).await?;
        if narrow {
            let sent = watch.requests.watch(keys.subnets.as_str(), Some(whole)).await;
            if let Err(error) = sent {
                return Err(refusal(store, connection, error).await);
            }
            watch.created(after).await?;
        }
        Ok(watch)
    }

    /// Waits until a watch is created.
    async fn created(&mut self, after: Revision) -> Result<(), Refusal> {
        loop {
            match self.responses.message().await {
                Ok(Some(response)) if response.canceled() && response.compact_revision() == 0 => {
                    debug!(reason = response.cancel_reason(), "watch refused");
                    return Err(Refusal::Denied);
                }
                Ok(Some(response)) if response.created() => {
                    self.cluster = response.header().map_or(0, |header| header.cluster_id());
                    self.parts.push(Part { id: response.watch_id(), delivered: after.number() });
                    return Ok(());
                }
                Ok(Some(response)) => self.early.push_back(response),
                Ok(None) => return Err(Refusal::Denied),
                Err(error) if is_login_needed(&error) => return Err(Refusal::Denied),
                Err(error) => return Err(refusal(&self.store, &self.connection, error).await),
            }
        }
    }

    /// Checks that the store has the revision `after`, and a landmark at that revision.
    async fn is_same_store(&self, after: Revision) -> Result<bool, StoreError> {
        let keys = &self.store.shared.target.keys;
        let known = self.store.with_landmarks(|landmarks| landmarks.at(after.number()));
        let key = known.as_ref().map_or(keys.config.as_bytes(), |known| &known.key).to_vec();
        let request = |mut connection: Connection| {
            let (key, options) = (key.clone(), GetOptions::new().with_revision(after.number()));
            async move {
                match connection.kv.get(key, Some(options)).await {
                    Err(error) if is_out_of_range(&error) => Ok(None),
                    result => result.map(Some),
                }
            }
        };
        let Some(response) = self.store.call(Operation::Verify, request).await? else { return Ok(false) };
        Ok(match known {
            Some(known) => response.kvs().first().map(landmark) == Some(known),
            None => true,
        })
    }

    /// Converts a response to an event.
    fn event(&mut self, response: &WatchResponse) -> WatchEvent {
        let header = response.header();
        let replaced = header.is_some_and(|header| header.cluster_id() != self.cluster);
        if response.canceled() || replaced {
            debug!(
                reason = response.cancel_reason(),
                revision = response.compact_revision(),
                "watch cancelled"
            );
            return WatchEvent::Outdated;
        }
        let last = response.events().last().and_then(|event| event.kv()).map(|kv| kv.mod_revision());
        let part = self.parts.iter_mut().find(|part| part.id == response.watch_id());
        if let Some(part) = part {
            // A notification of progress has no event; everything up to the revision in its header was delivered. The response
            // to a request for progress belongs to no watch, and must not be used: before 3.4.25 and 3.5.8 it overtakes events
            // (etcd-io/etcd#15220).
            let progress = header.map_or(0, |header| header.revision());
            part.delivered = part.delivered.max(last.unwrap_or(progress));
        }
        let changes = response.events().iter().filter_map(|event| self.change(event)).collect();
        let delivered = self.parts.iter().map(|part| part.delivered).min().unwrap_or(0);
        WatchEvent::Changes { revision: Revision::new(delivered), changes }
    }

    fn change(&self, event: &etcd_client::Event) -> Option<Change> {
        let keys = &self.store.shared.target.keys;
        let kv = event.kv()?;
        // Not by `event_type`, which panics for unknown types. A deleted key has version 0.
        let deleted = kv.version() == 0;
        if kv.key() == keys.config.as_bytes() {
            return Some(Change::Config((!deleted).then(|| config_record(kv))));
        }
        if !kv.key().starts_with(keys.subnets.as_bytes()) {
            return None;
        }
        let record = record(kv.clone(), &keys.subnets);
        Some(if deleted {
            self.store.with_landmarks(|landmarks| landmarks.delete(kv.key()));
            Change::Delete { key: record.key }
        } else {
            self.store.with_landmarks(|landmarks| landmarks.put(landmark(kv)));
            Change::Put(record)
        })
    }
}

async fn refusal(store: &EtcdStore, connection: &Connection, error: etcd_client::Error) -> Refusal {
    Refusal::Failed(store.failed(connection, Operation::Watch, error).await)
}

#[async_trait]
impl LeaseWatch for EtcdWatch {
    async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        if self.outdated {
            return Ok(WatchEvent::Outdated);
        }
        if let Some(response) = self.early.pop_front() {
            return Ok(self.event(&response));
        }
        loop {
            let message = tokio::select! {
                message = self.responses.message() => Some(message),
                () = sleep_until(self.next_progress) => None,
            };
            match message {
                Some(Ok(Some(response))) => return Ok(self.event(&response)),
                Some(Ok(None)) => {
                    self.store.forget(&self.connection).await;
                    let text = format!("etcd at {} ended the watch", self.connection.url);
                    return Err(EtcdError::new(Kind::Unreachable, text, None).into());
                }
                Some(Err(error)) => {
                    return Err(self.store.failed(&self.connection, Operation::Watch, error).await);
                }
                None => {
                    self.next_progress += PROGRESS_INTERVAL;
                    // If it cannot be sent, the stream has ended, which the next iteration detects.
                    let _ = self.requests.request_progress().await;
                }
            }
        }
    }

    fn silence_limit(&self) -> Option<Duration> {
        Some(SILENCE_LIMIT)
    }
}
