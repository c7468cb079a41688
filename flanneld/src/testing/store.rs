//! A store in memory. It keeps the contract of [`LeaseStore`], on the clock of tokio, and fails on request.

use async_trait::async_trait;
use flannel_core::lease::{LeaseAttrs, Revision, Subnets};
use flannel_core::seed::Seed;
use flannel_core::store::{Change, ConfigRecord, CreateGuard, Grant, Held, Listing, Record};
use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::store::{
    Assignment, Detail, Identity, LeaseStore, LeaseWatch, Life, Operation, Ownership, Serving, Store,
    StoreError, StoreStats, Watch, WatchEvent,
};

/// How the store responds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Availability {
    /// Calls succeed.
    #[default]
    Up,
    /// All calls fail; watches end.
    Down,
    /// Calls exceed their time limit; watches are silent.
    Hanging,
}

/// The fault of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails and has no effect.
    Refuse,
    /// It has its effect, but the response is lost.
    LoseAnswer,
    /// It exceeds its time limit, and has its effect this long after it was sent.
    Late(Duration),
    /// It arrives this long after it was sent.
    Slow(Duration),
}

/// A store in memory. A clone shares the store and the connection.
#[derive(Clone, Default)]
pub(crate) struct MemoryStore {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<()>>,
    line: Arc<Mutex<Line>>,
}

/// The connection of one node to the store.
#[derive(Default)]
struct Line {
    availability: Availability,
    /// The longest time of a message, one way.
    latency: Duration,
    /// The percentage of calls that fail by chance.
    unreliable: u128,
    chance: Option<Seed>,
    faults: Vec<(Operation, u64, Fault)>,
    calls: BTreeMap<Operation, u64>,
}

/// All changes of one incarnation of the store, with their revisions.
pub(crate) type Ledger = Vec<(i64, Change)>;

type Deed = Box<dyn FnOnce(&mut State) + Send>;

struct State {
    availability: Availability,
    revision: i64,
    compacted: i64,
    grants: i64,
    config: Option<ConfigRecord>,
    records: BTreeMap<String, Record>,
    /// A grant lives on when its record is deleted or put under another one, as in etcd.
    lives: BTreeMap<Grant, Grantee>,
    /// What was sent and has not arrived yet.
    late: Vec<(Instant, Deed)>,
    history: Ledger,
    /// Histories of the incarnations before this one.
    past: Vec<Ledger>,
    /// Watches opened so far break when this grows.
    breaks: u64,
    calls: u64,
    /// Set in a store that assigns: the key of the assigned subnet.
    assigned: Option<Option<String>>,
    /// What was announced, in order.
    announced: Vec<Serving>,
    own_events: watch::Sender<u64>,
}

/// The value of a subnet that was assigned and not published.
const NOTHING_PUBLISHED: &[u8] = b"{}";

impl Default for State {
    fn default() -> Self {
        Self {
            availability: Availability::Up,
            // As a fresh etcd has it.
            revision: 1,
            compacted: 0,
            grants: 0,
            config: None,
            records: BTreeMap::new(),
            lives: BTreeMap::new(),
            late: Vec::new(),
            history: Vec::new(),
            past: Vec::new(),
            breaks: 0,
            calls: 0,
            assigned: None,
            announced: Vec::new(),
            own_events: watch::Sender::default(),
        }
    }
}

#[derive(Clone, Copy)]
struct Grantee {
    lifetime: Duration,
    expires: Instant,
}

/// A running watch of a [`MemoryStore`].
struct MemoryWatch {
    store: MemoryStore,
    after: i64,
    incarnation: usize,
    breaks: u64,
    /// When the changes that are there arrive.
    arrival: Option<Instant>,
    changed: watch::Receiver<()>,
}

impl MemoryStore {
    /// Returns the connection in the form that the daemon uses.
    pub(crate) fn shared(&self) -> Store {
        Arc::new(self.clone())
    }

    /// Returns another connection to the same store, whose messages take up to `latency`.
    pub(crate) fn line(&self, latency: Duration, seed: u64) -> Self {
        let line = Line { latency, chance: Some(Seed::new(seed)), ..Line::default() };
        Self { line: Arc::new(Mutex::new(line)), ..self.clone() }
    }

    pub(crate) fn set_availability(&self, availability: Availability) {
        self.change(|state| state.availability = availability);
    }

    /// Does the same for this connection only.
    pub(crate) fn set_line(&self, availability: Availability) {
        self.with_line(|line| line.availability = availability);
        self.changed.send_replace(());
    }

    /// Lets `percent` of the calls of this connection fail, with any fault.
    pub(crate) fn set_unreliable(&self, percent: u128) {
        self.with_line(|line| line.unreliable = percent);
    }

    /// Lets the `nth` call of an operation from now on fail.
    pub(crate) fn fail(&self, operation: Operation, nth: u64, fault: Fault) {
        self.with_line(|line| {
            let at = line.calls.get(&operation).copied().unwrap_or(0) + nth;
            line.faults.push((operation, at, fault));
        });
    }

    /// Ends all watches with an error.
    pub(crate) fn break_watches(&self) {
        self.change(|state| state.breaks += 1);
    }

    /// Lets no watch start before now.
    pub(crate) fn compact(&self) {
        self.change(|state| state.compacted = state.revision);
    }

    /// Lets no watch start ever.
    pub(crate) fn forget_always(&self) {
        self.change(|state| state.compacted = i64::MAX);
    }

    /// Starts as a new, empty store. What was sent to the old one is lost.
    pub(crate) fn wipe(&self) {
        self.change(|state| {
            let old = std::mem::take(state);
            let mut past = old.past;
            past.push(old.history);
            let (availability, grants, breaks, calls) = (old.availability, old.grants, old.breaks, old.calls);
            *state = State { availability, grants, breaks, calls, past, ..State::default() };
        });
    }

    /// Writes the config, or removes it.
    pub(crate) fn set_config(&self, text: Option<&str>) {
        self.change(|state| state.set_config(text));
    }

    /// Writes a record as another program would.
    pub(crate) fn put(&self, key: &str, value: &str, lifetime: Option<Duration>) {
        self.change(|state| {
            let grant = lifetime.map(|lifetime| state.grant(lifetime));
            state.put(key, value.as_bytes().to_vec(), grant);
        });
    }

    /// Deletes a record as another program would.
    pub(crate) fn remove(&self, key: &str) {
        self.change(|state| state.remove(key));
    }

    /// Assigns a subnet to the only node, or none, in place of what was assigned. From now on it is a store that assigns.
    pub(crate) fn assign(&self, key: Option<&str>) {
        self.change(|state| {
            if let Some(Some(before)) = state.assigned.replace(key.map(str::to_owned)) {
                state.remove(&before);
            }
            if let Some(key) = key {
                state.put(key, NOTHING_PUBLISHED.to_vec(), None);
            }
        });
    }

    /// Returns what was announced so far.
    pub(crate) fn announced(&self) -> Vec<Serving> {
        self.lock().announced.clone()
    }

    /// Someone else changed what was announced.
    pub(crate) fn change_announcement(&self) {
        self.lock().own_events.send_modify(|count| *count += 1);
    }

    /// What is in it now.
    pub(crate) fn content(&self) -> Listing {
        self.lock().listing()
    }

    /// How many calls there were.
    pub(crate) fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Returns the number of calls of an operation on this connection.
    pub(crate) fn calls_of(&self, operation: Operation) -> u64 {
        self.with_line(|line| line.calls.get(&operation).copied().unwrap_or(0))
    }

    /// All that has ever happened, by incarnation.
    pub(crate) fn ledgers(&self) -> Vec<Ledger> {
        let state = self.lock();
        state.past.iter().chain([&state.history]).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap();
        state.catch_up();
        state
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_replace(());
        result
    }

    fn with_line<T>(&self, change: impl FnOnce(&mut Line) -> T) -> T {
        change(&mut self.line.lock().unwrap())
    }

    /// Counts a call; answers with the incarnation that it was sent to.
    fn count(&self) -> usize {
        let mut state = self.lock();
        state.calls += 1;
        state.past.len()
    }

    /// Returns the availability of the store for this connection.
    fn availability(&self) -> Availability {
        match self.lock().availability {
            Availability::Up => self.with_line(|line| line.availability),
            availability => availability,
        }
    }

    /// One call: the request, its effect, the response.
    async fn call<T>(
        &self,
        operation: Operation,
        deed: impl FnOnce(&mut State) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let sent = Instant::now();
        let incarnation = self.count();
        let (fault, there, back) = self.with_line(|line| line.dial(operation));
        let there = if let Some(Fault::Slow(time)) = fault { time } else { there };
        pass(there).await;
        match (self.availability(), fault) {
            _ if self.lock().past.len() != incarnation => return Err(unreachable()),
            (Availability::Down, _) | (_, Some(Fault::Refuse)) => return Err(unreachable()),
            (Availability::Hanging, _) => return Err(timed_out(operation, sent).await),
            (Availability::Up, Some(Fault::Late(after))) => {
                self.change(|state| state.late.push((sent + after, Box::new(|state| drop(deed(state))))));
                return Err(timed_out(operation, sent).await);
            }
            (Availability::Up, _) => {}
        }
        let result = self.change(deed);
        if fault == Some(Fault::LoseAnswer) {
            return Err(timed_out(operation, sent).await);
        }
        pass(back).await;
        match self.availability() {
            Availability::Up => result,
            Availability::Down => Err(unreachable()),
            Availability::Hanging => Err(timed_out(operation, sent).await),
        }
    }
}

/// As the real stores have it.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(5);

async fn pass(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

fn unreachable() -> StoreError {
    StoreError::Unavailable(Detail::new("set to fail", ""))
}

async fn timed_out(operation: Operation, sent: Instant) -> StoreError {
    sleep_until(sent + CALL_LIMIT).await;
    StoreError::TimedOut(Detail::new(format!("no answer in time: {operation}"), ""))
}

impl Line {
    /// What happens to a call: what goes wrong, and the times of its two messages.
    fn dial(&mut self, operation: Operation) -> (Option<Fault>, Duration, Duration) {
        let count = self.calls.entry(operation).or_default();
        *count += 1;
        let now = (operation, *count);
        let planned = self.faults.iter().find(|(operation, nth, _)| (*operation, *nth) == now);
        let fault = planned.map(|(_, _, fault)| *fault).or_else(|| self.bad_luck());
        (fault, self.time(), self.time())
    }

    fn bad_luck(&mut self) -> Option<Fault> {
        let chance = self.chance.as_mut().filter(|_| self.unreliable > 0)?;
        if chance.below(100) >= self.unreliable {
            return None;
        }
        Some(match chance.below(3) {
            0 => Fault::Refuse,
            1 => Fault::LoseAnswer,
            _ => Fault::Late(Duration::from_millis(chance.next_u64() % 10_000)),
        })
    }

    fn time(&mut self) -> Duration {
        let most = self.latency.as_nanos();
        let chance = self.chance.as_mut().filter(|_| most > 0);
        let nanos = chance.map_or(0, |chance| chance.below(most));
        Duration::from_nanos(u64::try_from(nanos).unwrap())
    }
}

impl State {
    fn advance(&mut self) -> Revision {
        self.revision += 1;
        Revision::new(self.revision)
    }

    fn grant(&mut self, lifetime: Duration) -> Grant {
        self.grants += 1;
        let grant = Grant(self.grants);
        self.lives.insert(grant, Grantee { lifetime, expires: Instant::now() + lifetime });
        grant
    }

    fn log(&mut self, change: Change) {
        self.history.push((self.revision, change));
    }

    fn put(&mut self, key: &str, value: Vec<u8>, grant: Option<Grant>) -> Revision {
        let revision = self.advance();
        let record = Record { key: key.to_owned(), value, revision, grant, fault: None, node: None };
        self.log(Change::Put(record.clone()));
        self.records.insert(key.to_owned(), record);
        revision
    }

    fn set_config(&mut self, text: Option<&str>) -> Revision {
        let revision = self.advance();
        self.config = text.map(|text| ConfigRecord { text: text.to_owned(), revision });
        self.log(Change::Config(self.config.clone()));
        revision
    }

    fn remove(&mut self, key: &str) {
        if self.records.remove(key).is_some() {
            self.advance();
            self.log(Change::Delete { key: key.to_owned() });
        }
    }

    /// When something happens by itself.
    fn next_event(&self) -> Option<Instant> {
        let expiries = self.lives.values().map(|life| life.expires);
        expiries.chain(self.late.iter().map(|(at, _)| *at)).min()
    }

    /// Lets happen what was due meanwhile, in its order.
    fn catch_up(&mut self) {
        while let Some(at) = self.next_event().filter(|at| *at <= Instant::now()) {
            if let Some((&grant, _)) = self.lives.iter().find(|(_, life)| life.expires == at) {
                self.lives.remove(&grant);
                let of_grant = |record: &&Record| record.grant == Some(grant);
                let gone: Vec<String> =
                    self.records.values().filter(of_grant).map(|record| record.key.clone()).collect();
                gone.iter().for_each(|key| self.remove(key));
            } else if let Some(next) = self.late.iter().position(|(due, _)| *due == at) {
                let (_, deed) = self.late.remove(next);
                deed(self);
            }
        }
    }

    fn listing(&self) -> Listing {
        Listing {
            revision: Revision::new(self.revision),
            config: self.config.clone(),
            records: self.records.values().cloned().collect(),
            ..Listing::default()
        }
    }

    fn at(&self, key: &str, revision: Revision) -> Result<&Record, StoreError> {
        let record = self.records.get(key);
        record.filter(|record| record.revision == revision).ok_or(StoreError::Raced)
    }

    fn create(
        &mut self,
        key: &str,
        value: Vec<u8>,
        guard: CreateGuard,
        lifetime: Option<Duration>,
    ) -> Result<Held, StoreError> {
        let same_config = self.config.as_ref().map(|config| config.revision) == Some(guard.config);
        let newest = self.records.values().map(|record| record.revision.number()).max().unwrap_or(0);
        let same_records = guard.records.is_none_or(|records| newest <= records.number());
        if self.records.contains_key(key) || !same_config || !same_records {
            return Err(StoreError::Raced);
        }
        let grant = lifetime.map(|lifetime| self.grant(lifetime));
        let revision = self.put(key, value, grant);
        Ok(Held { revision, grant, remaining: lifetime })
    }

    fn update(&mut self, key: &str, value: Vec<u8>, held: Held) -> Result<Held, StoreError> {
        let grant = self.at(key, held.revision)?.grant;
        let revision = self.put(key, value, grant);
        Ok(Held { revision, grant, ..held })
    }

    fn renew(&mut self, held: Held) -> Result<Held, StoreError> {
        let Some(grant) = held.grant else { return Ok(Held { remaining: None, ..held }) };
        let life = self.lives.get_mut(&grant).ok_or(StoreError::Raced)?;
        life.expires = Instant::now() + life.lifetime;
        Ok(Held { remaining: Some(life.lifetime), ..held })
    }

    fn delete(&mut self, key: &str, revision: Revision) -> Result<(), StoreError> {
        self.at(key, revision)?;
        self.remove(key);
        Ok(())
    }
}

#[async_trait]
impl LeaseStore for MemoryStore {
    fn identity(&self) -> &Identity {
        static IDENTITY: LazyLock<Identity> = LazyLock::new(|| Identity {
            kind: "memory",
            location: "memory".to_owned(),
            config_place: "memory".to_owned(),
            scope: "memory".to_owned(),
        });
        &IDENTITY
    }

    fn stats(&self) -> StoreStats {
        StoreStats::default()
    }

    fn ownership(&self) -> Ownership {
        if self.lock().assigned.is_some() { Ownership::Assigned } else { Ownership::Claimed }
    }

    async fn assignment(&self) -> Result<Assignment, StoreError> {
        let read = |state: &mut State| {
            let key = state.assigned.as_ref().and_then(Option::as_ref);
            let record = key.and_then(|key| state.records.get(key));
            let published = record.filter(|record| record.value != NOTHING_PUBLISHED);
            let none = Subnets { v4: None, v6: None };
            Ok(Assignment {
                subnets: record.map_or(none, |record| Subnets::parse_key(&record.key).unwrap()),
                attrs: published.map(|record| LeaseAttrs::parse(&record.value).unwrap()),
                revision: record.map_or(Revision::default(), |record| record.revision),
                place: "memory".to_owned(),
                advice: "Assign a subnet.",
            })
        };
        self.call(Operation::List, read).await
    }

    async fn announce(&self, serving: &Serving) -> Result<(), StoreError> {
        let serving = serving.clone();
        let note = |state: &mut State| {
            state.announced.push(serving);
            Ok(())
        };
        self.call(Operation::Announce, note).await
    }

    fn own_events(&self) -> watch::Receiver<u64> {
        self.lock().own_events.subscribe()
    }

    async fn list(&self) -> Result<Listing, StoreError> {
        self.call(Operation::List, |state| Ok(state.listing())).await
    }

    async fn watch(&self, after: Revision) -> Result<Watch, StoreError> {
        let (incarnation, breaks) =
            self.call(Operation::Watch, |state| Ok((state.past.len(), state.breaks))).await?;
        let changed = self.changed.subscribe();
        let (store, after) = (self.clone(), after.number());
        Ok(Box::new(MemoryWatch { store, after, incarnation, breaks, arrival: None, changed }))
    }

    async fn create(
        &self,
        subnets: &Subnets,
        attrs: &LeaseAttrs,
        guard: CreateGuard,
        lifetime: Option<Duration>,
    ) -> Result<Held, StoreError> {
        let (key, value) = (subnets.to_string(), attrs.to_json().into_bytes());
        self.call(Operation::Create, move |state| state.create(&key, value, guard, lifetime)).await
    }

    async fn update(&self, subnets: &Subnets, attrs: &LeaseAttrs, held: &Held) -> Result<Held, StoreError> {
        let (key, value, held) = (subnets.to_string(), attrs.to_json().into_bytes(), *held);
        self.call(Operation::Update, move |state| state.update(&key, value, held)).await
    }

    async fn renew(&self, _: &Subnets, held: &Held) -> Result<Held, StoreError> {
        let held = *held;
        self.call(Operation::Renew, move |state| state.renew(held)).await
    }

    async fn delete(&self, key: &str, revision: Revision) -> Result<(), StoreError> {
        let key = key.to_owned();
        self.call(Operation::Delete, move |state| state.delete(&key, revision)).await
    }

    async fn put_config(&self, text: &str, current: Option<Revision>) -> Result<Revision, StoreError> {
        let text = text.to_owned();
        self.call(Operation::PutConfig, move |state| match &state.config {
            config if config.as_ref().map(|config| config.revision) != current => Err(StoreError::Raced),
            _ => Ok(state.set_config(Some(&text))),
        })
        .await
    }

    async fn life(&self, record: &Record) -> Result<Option<Life>, StoreError> {
        let grant = record.grant;
        let life = move |state: &mut State| {
            let life = grant.and_then(|grant| state.lives.get(&grant));
            Ok(life.map(|life| Life { left: life.expires - Instant::now(), granted: life.lifetime }))
        };
        self.call(Operation::TimeLeft, life).await
    }

    async fn set_lifetime(
        &self,
        record: &Record,
        lifetime: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        let (key, revision) = (record.key.clone(), record.revision);
        let set = move |state: &mut State| {
            let value = state.at(&key, revision)?.value.clone();
            let grant = lifetime.map(|lifetime| state.grant(lifetime));
            Ok(state.put(&key, value, grant))
        };
        self.call(Operation::Update, set).await
    }
}

impl MemoryWatch {
    /// What there is to tell now; otherwise when to look again.
    fn poll(&mut self) -> Result<Result<WatchEvent, StoreError>, Option<Instant>> {
        let availability = self.store.availability();
        let state = self.store.lock();
        if availability == Availability::Down
            || availability == Availability::Up && state.breaks != self.breaks
        {
            return Ok(Err(unreachable()));
        }
        let next_event = state.next_event();
        if availability == Availability::Hanging {
            return Err(next_event);
        }
        let outdated = state.past.len() != self.incarnation
            || self.after < state.compacted
            || self.after > state.revision;
        if outdated {
            return Ok(Ok(WatchEvent::Outdated));
        }
        let new = state.history.iter().filter(|(revision, _)| *revision > self.after);
        let changes: Vec<Change> = new.map(|(_, change)| change.clone()).collect();
        if changes.is_empty() {
            return Err(next_event);
        }
        let arrival = *self.arrival.get_or_insert_with(|| Instant::now() + self.store.with_line(Line::time));
        if arrival > Instant::now() {
            return Err(Some(next_event.map_or(arrival, |event| event.min(arrival))));
        }
        self.arrival = None;
        self.after = state.revision;
        Ok(Ok(WatchEvent::Changes { revision: Revision::new(self.after), changes }))
    }
}

#[async_trait]
impl LeaseWatch for MemoryWatch {
    async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        loop {
            self.changed.borrow_and_update();
            let look_again = match self.poll() {
                Ok(event) => return event,
                Err(look_again) => look_again,
            };
            let timer = async {
                match look_again {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                _ = self.changed.changed() => {}
                () = timer => {}
            }
        }
    }

    fn silence_limit(&self) -> Option<Duration> {
        Some(Duration::from_secs(3600))
    }
}
