//! Follows a store: lists, watches from the revision of the listing, resumes after a break, lists again if it cannot resume.
//!
//! ```text
//!          ┌── failed: wait ──┐        ┌── failed: wait ──┐
//!          ▼                  │        ▼                  │
//!     ┌─ Listing ─────────────┴─► Opening ◄── broke: wait ┴─ Streaming ─┐
//!     ▲                                                                 │
//!     └────────────────────── outdated, silent ─────────────────────────┘
//! ```
//!
//! The consumer receives a listing first, and another one, which replaces everything, whenever changes may have been missed. In
//! between it receives changes, each at least once and in order.

use flannel_core::backoff::{Backoff, BackoffPolicy};
use flannel_core::lease::Revision;
use flannel_core::store::{Change, Listing};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::error::StoreError;
use super::{Store, Watch, WatchEvent};
use crate::error::chain;

/// An update for the consumer.
#[derive(Debug)]
pub enum Update {
    /// The whole content, which replaces everything.
    Listing {
        /// The content.
        listing: Listing,
        /// The store is not the one that was followed before: it was wiped or restored from a backup.
        is_other_store: bool,
    },
    /// Changes since then, in order.
    Changes {
        /// Everything up to here has been delivered.
        revision: Revision,
        /// Never empty.
        changes: Vec<Change>,
    },
    /// The store cannot be followed. Sent once for each reason.
    Down(StoreError),
    /// It can be followed again. Missed changes come next.
    Up,
}

/// How many updates may wait for the consumer. While it works on a round, a burst (a rack of nodes that starts) waits here, and
/// beyond that in the store.
const QUEUE: usize = 64;
/// As in Go flannel: 100 ms doubling to 5 s.
const BACKOFF: BackoffPolicy =
    BackoffPolicy { first: Duration::from_millis(100), cap: Duration::from_secs(5) };
/// After this time a watch counts as a success: the next break is the first of a new series.
const HEALTHY: Duration = Duration::from_secs(10);

/// Returns the channel to the consumer.
#[must_use]
pub fn channel() -> (mpsc::Sender<Update>, mpsc::Receiver<Update>) {
    mpsc::channel(QUEUE)
}

/// The counters of a follower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchStats {
    /// Listings delivered.
    pub listings: u64,
    /// Watches opened; all but the first one of each listing are restarts.
    pub watches: u64,
    /// Watches that ended with an error.
    pub breaks: u64,
    /// Watches that could not continue at their revision.
    pub outdated: u64,
    /// Watches abandoned because they were silent.
    pub silences: u64,
    /// The store cannot be followed at present.
    pub down: bool,
}

/// Follows `store` until `stop`, or until the receiver is dropped. `seed` spreads the retries of many nodes.
pub async fn follow(
    store: Store,
    updates: mpsc::Sender<Update>,
    stats: watch::Sender<WatchStats>,
    seed: u64,
    stop: CancellationToken,
) {
    let mut follower = Follower {
        store,
        updates,
        stats,
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
    /// The content is unknown, or changes may have been missed.
    Listing,
    /// Everything up to a revision is known.
    Opening { after: Revision },
    /// A watch delivers changes.
    Streaming { watch: Watch, after: Revision, since: Instant },
}

struct ConsumerGone;

struct Follower {
    store: Store,
    updates: mpsc::Sender<Update>,
    stats: watch::Sender<WatchStats>,
    /// Everything up to here has been delivered.
    latest: Revision,
    backoff: Backoff,
    /// The last reason sent, while the store is down.
    down: Option<String>,
    /// Failures since the last sign of life.
    failures: u32,
}

impl Follower {
    async fn step(&mut self, state: State) -> Result<State, ConsumerGone> {
        match state {
            State::Listing => match self.store.list().await {
                Ok(listing) => {
                    self.count(|stats| stats.listings += 1);
                    self.up().await?;
                    let after = listing.revision;
                    let is_other_store = after.is_before(self.latest);
                    self.latest = after;
                    self.send(Update::Listing { listing, is_other_store }).await?;
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
                    self.count(|stats| stats.watches += 1);
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
                    self.send(Update::Changes { revision: after, changes }).await?;
                }
                Ok(State::Streaming { watch, after, since })
            }
            Some(Ok(WatchEvent::Outdated)) => {
                self.count(|stats| stats.outdated += 1);
                info!(revision = after.number(), "revision no longer in the store, listing again");
                self.again().await;
                Ok(State::Listing)
            }
            Some(Err(error)) => {
                self.count(|stats| stats.breaks += 1);
                // A connection ends now and then: report it only if it cannot be opened again at once.
                if self.failures > 0 {
                    self.down(error).await?;
                } else {
                    debug!(error = %chain(&error), revision = after.number(), "watch ended, resuming");
                }
                self.wait().await;
                Ok(State::Opening { after })
            }
            None => {
                self.count(|stats| stats.silences += 1);
                warn!(revision = after.number(), "watch silent for too long, listing again");
                self.again().await;
                Ok(State::Listing)
            }
        }
    }

    /// Waits, except the first time: a store that ends every watch must not be listed without pause.
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

    /// Ends a series of failures.
    fn alive(&mut self) {
        self.failures = 0;
        self.backoff.reset();
    }

    async fn up(&mut self) -> Result<(), ConsumerGone> {
        if self.down.take().is_some() {
            info!("store reachable again");
            self.count(|stats| stats.down = false);
            self.send(Update::Up).await?;
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
        self.count(|stats| stats.down = true);
        self.send(Update::Down(error)).await
    }

    fn count(&self, change: impl FnOnce(&mut WatchStats)) {
        self.stats.send_modify(change);
    }

    async fn send(&self, update: Update) -> Result<(), ConsumerGone> {
        self.updates.send(update).await.map_err(|_| ConsumerGone)
    }
}

#[cfg(test)]
mod tests;
