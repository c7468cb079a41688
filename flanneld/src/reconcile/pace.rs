//! When the next full round is due, and why.

use std::time::Duration;
use tokio::time::Instant;

use crate::status::Reason;

/// A full round runs at least this often: it repairs changes without a notification.
const RESYNC: Duration = Duration::from_secs(60);

/// Notifications come in bursts (a removed device takes its routes along), so a round waits this long.
const SETTLE: Duration = Duration::from_millis(5);

/// First and longest wait after a round with failed operations.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Rounds take at most this part of the time, however many notifications arrive.
const COST_SHARE: u32 = 4;

/// Decides when the next full round runs.
#[derive(Debug)]
pub(crate) struct Pace {
    due: Instant,
    reason: Reason,
    /// A round never runs before, so that rounds cannot take all the time.
    earliest: Instant,
    retry: Duration,
}

impl Pace {
    pub(crate) fn new(now: Instant) -> Self {
        Self { due: now, reason: Reason::Start, earliest: now, retry: RETRY.0 }
    }

    /// When to run, and why.
    pub(crate) fn next(&self) -> (Instant, Reason) {
        (self.due.max(self.earliest), self.reason)
    }

    /// Requests a round at `at`.
    pub(crate) fn request(&mut self, reason: Reason, at: Instant) {
        if at < self.due {
            (self.due, self.reason) = (at, reason);
        }
    }

    /// Requests a round when the burst is over.
    pub(crate) fn request_settled(&mut self, reason: Reason, now: Instant) {
        self.request(reason, now + SETTLE);
    }

    /// A round ended.
    pub(crate) fn finished(&mut self, started: Instant, now: Instant, failed: bool) {
        self.earliest = now + (now - started) * COST_SHARE;
        if failed {
            self.due = now + self.retry;
            self.reason = Reason::Retry;
            self.retry = (self.retry * 2).min(RETRY.1);
        } else {
            self.due = now + RESYNC;
            self.reason = Reason::Resync;
            self.retry = RETRY.0;
        }
    }

    /// An operation outside a full round failed.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.request(Reason::Retry, now + self.retry);
    }
}

#[cfg(test)]
mod tests;
