//! A store in memory. It keeps the contract of [`LeaseStore`], on the clock of tokio, and fails when told to.

use flannel_core::lease::{LeaseAttrs, Revision, Subnets};
use flannel_core::store::{Change, ConfigRecord, CreateGuard, Grant, Held, Listing, Record};
use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::store::{Cause, LeaseStore, LeaseWatch, Operation, StoreError, WatchEvent};

/// How it treats calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Answers.
    #[default]
    Well,
    /// Refuses all calls; watches end.
    Down,
    /// Calls run into their time limit; watches stay silent.
    Hanging,
}

/// A store in memory. Cloning shares it.
#[derive(Clone, Default)]
pub(crate) struct MemoryStore {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<()>>,
}

struct State {
    mood: Mood,
    revision: i64,
    compacted: i64,
    grants: i64,
    config: Option<ConfigRecord>,
    records: BTreeMap<String, Life>,
    history: Vec<(i64, Change)>,
    /// Becomes another one when the store is wiped.
    incarnation: u64,
    /// Watches opened so far break when this grows.
    breaks: u64,
    calls: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            mood: Mood::Well,
            // As a fresh etcd has it.
            revision: 1,
            compacted: 0,
            grants: 0,
            config: None,
            records: BTreeMap::new(),
            history: Vec::new(),
            incarnation: 0,
            breaks: 0,
            calls: 0,
        }
    }
}

struct Life {
    record: Record,
    lifetime: Option<Duration>,
    expires: Option<Instant>,
}

/// A running watch of a [`MemoryStore`].
pub(crate) struct MemoryWatch {
    store: MemoryStore,
    after: i64,
    incarnation: u64,
    breaks: u64,
    changed: watch::Receiver<()>,
}

impl MemoryStore {
    pub(crate) fn set_mood(&self, mood: Mood) {
        self.change(|state| state.mood = mood);
    }

    /// Ends all watches with an error.
    pub(crate) fn break_watches(&self) {
        self.change(|state| state.breaks += 1);
    }

    /// Forgets the history up to now.
    pub(crate) fn compact(&self) {
        self.change(|state| {
            state.compacted = state.revision;
            state.history.clear();
        });
    }

    /// Starts as a new, empty store.
    pub(crate) fn wipe(&self) {
        self.change(|state| {
            let fresh = State {
                mood: state.mood,
                incarnation: state.incarnation + 1,
                grants: state.grants,
                breaks: state.breaks,
                calls: state.calls,
                ..State::default()
            };
            *state = fresh;
        });
    }

    /// Writes the config, or removes it.
    pub(crate) fn set_config(&self, text: Option<&str>) {
        self.change(|state| {
            let revision = state.advance();
            state.config = text.map(|text| ConfigRecord { text: text.to_owned(), revision });
            state.log(Change::Config(state.config.clone()));
        });
    }

    /// Writes a record as another program would.
    pub(crate) fn put(&self, key: &str, value: &str, lifetime: Option<Duration>) {
        self.change(|state| {
            let grant = lifetime.map(|_| state.grant());
            state.put(key, value.as_bytes().to_vec(), grant, lifetime);
        });
    }

    /// Deletes a record as another program would.
    pub(crate) fn remove(&self, key: &str) {
        self.change(|state| state.remove(key));
    }

    /// How many calls there were.
    pub(crate) fn calls(&self) -> u64 {
        self.lock().calls
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap();
        state.expire();
        state
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_replace(());
        result
    }

    /// Counts a call and behaves as told.
    async fn answer(&self) -> Result<(), StoreError> {
        let mood = {
            let mut state = self.lock();
            state.calls += 1;
            state.mood
        };
        match mood {
            Mood::Well => Ok(()),
            Mood::Down => Err(unreachable()),
            Mood::Hanging => {
                sleep(CALL_LIMIT).await;
                let store = "memory".to_owned();
                Err(StoreError::TimedOut { store, operation: Operation::List, limit: CALL_LIMIT })
            }
        }
    }
}

/// As the real stores have it.
const CALL_LIMIT: Duration = Duration::from_secs(5);

fn unreachable() -> StoreError {
    StoreError::Unreachable { endpoint: "memory".to_owned(), cause: Cause("told to fail".to_owned()) }
}

impl State {
    fn advance(&mut self) -> Revision {
        self.revision += 1;
        Revision(self.revision)
    }

    fn grant(&mut self) -> Grant {
        self.grants += 1;
        Grant(self.grants)
    }

    fn log(&mut self, change: Change) {
        self.history.push((self.revision, change));
    }

    fn put(
        &mut self,
        key: &str,
        value: Vec<u8>,
        grant: Option<Grant>,
        lifetime: Option<Duration>,
    ) -> Revision {
        let revision = self.advance();
        let record = Record { key: key.to_owned(), value, revision, grant };
        self.log(Change::Put(record.clone()));
        let expires = lifetime.map(|lifetime| Instant::now() + lifetime);
        self.records.insert(key.to_owned(), Life { record, lifetime, expires });
        revision
    }

    fn remove(&mut self, key: &str) {
        if self.records.remove(key).is_some() {
            self.advance();
            self.log(Change::Delete { key: key.to_owned() });
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let over = |life: &Life| life.expires.is_some_and(|expires| expires <= now);
        let expired: Vec<String> =
            self.records.iter().filter(|(_, life)| over(life)).map(|(key, _)| key.clone()).collect();
        for key in expired {
            self.remove(&key);
        }
    }

    fn at(&self, key: &str, revision: Revision) -> Result<&Life, StoreError> {
        let life = self.records.get(key);
        life.filter(|life| life.record.revision == revision).ok_or(StoreError::Raced)
    }
}

impl LeaseStore for MemoryStore {
    type Watch = MemoryWatch;

    async fn list(&self) -> Result<Listing, StoreError> {
        self.answer().await?;
        let state = self.lock();
        Ok(Listing {
            revision: Revision(state.revision),
            config: state.config.clone(),
            records: state.records.values().map(|life| life.record.clone()).collect(),
        })
    }

    async fn watch(&self, after: Revision) -> Result<MemoryWatch, StoreError> {
        self.answer().await?;
        let state = self.lock();
        let (incarnation, breaks) = (state.incarnation, state.breaks);
        drop(state);
        let changed = self.changed.subscribe();
        Ok(MemoryWatch { store: self.clone(), after: after.0, incarnation, breaks, changed })
    }

    async fn create(
        &self,
        subnets: &Subnets,
        attrs: &LeaseAttrs,
        guard: CreateGuard,
        lifetime: Option<Duration>,
    ) -> Result<Held, StoreError> {
        self.answer().await?;
        self.change(|state| {
            let key = subnets.to_string();
            let same_config = state.config.as_ref().map(|config| config.revision) == Some(guard.config);
            let newest = state.records.values().map(|life| life.record.revision).max().unwrap_or_default();
            let same_records = guard.records.is_none_or(|records| newest <= records);
            if state.records.contains_key(&key) || !same_config || !same_records {
                return Err(StoreError::Raced);
            }
            let grant = lifetime.map(|_| state.grant());
            let revision = state.put(&key, attrs.to_json().into_bytes(), grant, lifetime);
            Ok(Held { revision, grant, remaining: lifetime })
        })
    }

    async fn update(&self, subnets: &Subnets, attrs: &LeaseAttrs, held: &Held) -> Result<Held, StoreError> {
        self.answer().await?;
        self.change(|state| {
            let key = subnets.to_string();
            let life = state.at(&key, held.revision)?;
            let (grant, lifetime, expires) = (life.record.grant, life.lifetime, life.expires);
            let revision = state.put(&key, attrs.to_json().into_bytes(), grant, lifetime);
            state.records.get_mut(&key).expect("it was just put").expires = expires;
            Ok(Held { revision, grant, ..*held })
        })
    }

    async fn renew(&self, subnets: &Subnets, held: &Held) -> Result<Held, StoreError> {
        self.answer().await?;
        if held.grant.is_none() {
            return Ok(Held { remaining: None, ..*held });
        }
        self.change(|state| {
            let life = state.records.get_mut(&subnets.to_string());
            let life = life.filter(|life| life.record.grant == held.grant).ok_or(StoreError::Raced)?;
            life.expires = life.lifetime.map(|lifetime| Instant::now() + lifetime);
            Ok(Held { remaining: life.lifetime, ..*held })
        })
    }

    async fn delete(&self, subnets: &Subnets, revision: Revision) -> Result<(), StoreError> {
        self.answer().await?;
        self.change(|state| {
            let key = subnets.to_string();
            state.at(&key, revision)?;
            state.remove(&key);
            Ok(())
        })
    }
}

impl LeaseWatch for MemoryWatch {
    async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        loop {
            self.changed.borrow_and_update();
            let next_expiry = {
                let state = self.store.lock();
                let outdated = state.incarnation != self.incarnation
                    || self.after < state.compacted
                    || self.after > state.revision;
                match state.mood {
                    Mood::Down => return Err(unreachable()),
                    Mood::Well if state.breaks != self.breaks => return Err(unreachable()),
                    Mood::Well if outdated => return Ok(WatchEvent::Outdated),
                    Mood::Well => {
                        let new = state.history.iter().filter(|(revision, _)| *revision > self.after);
                        let changes: Vec<Change> = new.map(|(_, change)| change.clone()).collect();
                        if !changes.is_empty() {
                            self.after = state.revision;
                            return Ok(WatchEvent::Changes { revision: Revision(self.after), changes });
                        }
                    }
                    Mood::Hanging => {}
                }
                state.records.values().filter_map(|life| life.expires).min()
            };
            let expiry = async {
                match next_expiry {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                _ = self.changed.changed() => {}
                () = expiry => {}
            }
        }
    }

    fn silence_limit(&self) -> Option<Duration> {
        Some(Duration::from_secs(3600))
    }
}
