//! Follows a store: lists, watches from there, resumes after a break, lists again when there is no other way.
//!
//! ```text
//!          ┌── failed: wait ──┐        ┌── failed: wait ──┐
//!          ▼                  │        ▼                  │
//!     ┌─ Listing ─────────────┴─► Opening ◄── broke: wait ┴─ Streaming ─┐
//!     ▲                                                                 │
//!     └────────────────────── outdated, silent ─────────────────────────┘
//! ```
//!
//! The consumer gets a whole listing first, and then again whenever changes may have been missed; it replaces all
//! that was before. In between it gets changes, each at least once and in order.

use flannel_core::backoff::{Backoff, BackoffPolicy};
use flannel_core::lease::Revision;
use flannel_core::store::{Change, Listing};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::error::StoreError;
use super::{Store, Watch, WatchEvent};
use crate::error::chain;

/// What the consumer is told.
#[derive(Debug)]
pub enum Update {
    /// The whole content; replaces everything.
    Listing {
        /// The content.
        listing: Listing,
        /// The store is not the one that was followed before: it was wiped or restored from a backup.
        is_other_store: bool,
    },
    /// Changes since then, in order.
    Changes {
        /// Everything up to here has been told.
        revision: Revision,
        /// Never empty.
        changes: Vec<Change>,
    },
    /// The store cannot be followed. Told once, and again if the reason becomes another.
    Down(StoreError),
    /// It can be again. What was missed comes next.
    Up,
}

/// How many updates may wait for the consumer. It takes them faster than a store makes them; while it works on a round,
/// a burst (a rack of nodes that starts) waits here, and beyond that in the store.
const QUEUE: usize = 64;
/// As Go's daemon: 100 ms doubling to 5 s.
const BACKOFF: BackoffPolicy =
    BackoffPolicy { first: Duration::from_millis(100), cap: Duration::from_secs(5) };
/// A watch that lived this long was a success: the next break is the first of a new series.
const HEALTHY: Duration = Duration::from_secs(10);

/// The way to the consumer.
#[must_use]
pub fn channel() -> (mpsc::Sender<Update>, mpsc::Receiver<Update>) {
    mpsc::channel(QUEUE)
}

/// How often what happened.
#[derive(Debug, Default)]
pub struct WatchCounters {
    listings: AtomicU64,
    watches: AtomicU64,
    breaks: AtomicU64,
    outdated: AtomicU64,
    silences: AtomicU64,
    down: AtomicBool,
}

/// Values of [`WatchCounters`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchStats {
    /// Listings delivered.
    pub listings: u64,
    /// Watches opened; all but the first one of each listing are restarts.
    pub watches: u64,
    /// Watches that ended with an error.
    pub breaks: u64,
    /// Watches that could not go on from where they were.
    pub outdated: u64,
    /// Watches given up because nothing was heard.
    pub silences: u64,
    /// The store cannot be followed at present.
    pub down: bool,
}

impl WatchCounters {
    /// The present values.
    #[must_use]
    pub fn snapshot(&self) -> WatchStats {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WatchStats {
            listings: value(&self.listings),
            watches: value(&self.watches),
            breaks: value(&self.breaks),
            outdated: value(&self.outdated),
            silences: value(&self.silences),
            down: self.down.load(Ordering::Relaxed),
        }
    }
}

/// Follows `store` until told to stop, or until nobody listens any more. `seed` spreads the retries of many nodes.
pub async fn follow(
    store: Store,
    updates: mpsc::Sender<Update>,
    counters: Arc<WatchCounters>,
    seed: u64,
    stop: CancellationToken,
) {
    let mut follower = Follower {
        store,
        updates,
        counters,
        backoff: BACKOFF.delays(seed),
        down: None,
        failures: 0,
        latest: Revision::default(),
    };
    let mut state = State::Listing;
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return,
            next = follower.step(state) => next,
        };
        match next {
            Ok(next) => state = next,
            Err(ConsumerGone) => return,
        }
    }
}

enum State {
    /// Nothing is known, or not enough.
    Listing,
    /// All up to a revision is known.
    Opening { after: Revision },
    /// Changes come by themselves.
    Streaming { watch: Watch, after: Revision, since: Instant },
}

struct ConsumerGone;

struct Follower {
    store: Store,
    updates: mpsc::Sender<Update>,
    counters: Arc<WatchCounters>,
    /// Everything up to here has been delivered.
    latest: Revision,
    backoff: Backoff,
    /// The reason that was told last, while the store is down.
    down: Option<String>,
    /// Failures since the last sign of life.
    failures: u32,
}

impl Follower {
    async fn step(&mut self, state: State) -> Result<State, ConsumerGone> {
        match state {
            State::Listing => match self.store.list().await {
                Ok(listing) => {
                    count(&self.counters.listings);
                    self.up().await?;
                    let after = listing.revision;
                    let is_other_store = after.is_before(self.latest);
                    self.latest = after;
                    self.tell(Update::Listing { listing, is_other_store }).await?;
                    Ok(State::Opening { after })
                }
                Err(error) => {
                    self.down(error).await?;
                    self.wait().await;
                    Ok(State::Listing)
                }
            },
            State::Opening { after } => match self.store.watch(after).await {
                Ok(watch) => {
                    count(&self.counters.watches);
                    self.up().await?;
                    Ok(State::Streaming { watch, after, since: Instant::now() })
                }
                Err(error) => {
                    self.down(error).await?;
                    self.wait().await;
                    Ok(State::Opening { after })
                }
            },
            State::Streaming { watch, after, since } => self.stream(watch, after, since).await,
        }
    }

    async fn stream(
        &mut self,
        mut watch: Watch,
        after: Revision,
        since: Instant,
    ) -> Result<State, ConsumerGone> {
        let event = match watch.silence_limit() {
            Some(limit) => timeout(limit, watch.next()).await.ok(),
            None => Some(watch.next().await),
        };
        if since.elapsed() >= HEALTHY {
            self.alive();
        }
        match event {
            Some(Ok(WatchEvent::Changes { revision, changes })) => {
                self.alive();
                let after = revision;
                self.latest = after;
                if !changes.is_empty() {
                    self.tell(Update::Changes { revision: after, changes }).await?;
                }
                Ok(State::Streaming { watch, after, since })
            }
            Some(Ok(WatchEvent::Outdated)) => {
                count(&self.counters.outdated);
                info!(revision = after.number(), "revision no longer in the store, listing again");
                self.again().await;
                Ok(State::Listing)
            }
            Some(Err(error)) => {
                count(&self.counters.breaks);
                // A connection ends now and then. It is bad news only if it does not come back at once.
                if self.failures > 0 {
                    self.down(error).await?;
                } else {
                    debug!(error = %chain(&error), revision = after.number(), "watch ended, resuming");
                }
                self.wait().await;
                Ok(State::Opening { after })
            }
            None => {
                count(&self.counters.silences);
                warn!(revision = after.number(), "watch silent for too long, listing again");
                self.again().await;
                Ok(State::Listing)
            }
        }
    }

    /// Goes on at once the first time; a store that never lets us watch must not be listed without pause.
    async fn again(&mut self) {
        if self.failures > 0 {
            self.wait().await;
        } else {
            self.failures = 1;
        }
    }

    async fn wait(&mut self) {
        self.failures = self.failures.saturating_add(1);
        sleep(self.backoff.delay()).await;
    }

    /// Notes a sign of life.
    fn alive(&mut self) {
        self.failures = 0;
        self.backoff.reset();
    }

    async fn up(&mut self) -> Result<(), ConsumerGone> {
        if self.down.take().is_some() {
            info!("store reachable again");
            self.counters.down.store(false, Ordering::Relaxed);
            self.tell(Update::Up).await?;
        }
        Ok(())
    }

    async fn down(&mut self, error: StoreError) -> Result<(), ConsumerGone> {
        let reason = chain(&error);
        if self.down.as_ref() == Some(&reason) {
            return Ok(());
        }
        if error.is_transient() {
            warn!(error = reason, "store unreachable, retrying");
        } else {
            error!(error = reason, "store rejected the request, retrying");
        }
        self.down = Some(reason);
        self.counters.down.store(true, Ordering::Relaxed);
        self.tell(Update::Down(error)).await
    }

    async fn tell(&self, update: Update) -> Result<(), ConsumerGone> {
        self.updates.send(update).await.map_err(|_| ConsumerGone)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests;
