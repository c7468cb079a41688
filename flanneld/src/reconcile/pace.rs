//! When the next full round is due, and why.

use std::fmt;
use std::time::Duration;
use tokio::time::Instant;

/// A round is repeated at this interval even if nothing hints at a need: repairs what no notification told.
const RESYNC: Duration = Duration::from_secs(60);

/// Notifications come in bursts (a device that goes takes its routes along), so the look waits this long.
const SETTLE: Duration = Duration::from_millis(5);

/// First and longest wait after a round with failed operations.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Rounds take at most this part of the time, however many notifications arrive.
const COST_SHARE: u32 = 4;

/// Why a full round runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// The daemon started.
    Start,
    /// The kernel told of a change that is not ours.
    Hint,
    /// Notifications were lost.
    Overrun,
    /// Operations failed in the last round.
    Retry,
    /// The slow interval has passed.
    Resync,
    /// The network config changed.
    Config,
    /// Our own lease changed.
    Claim,
    /// A listing replaced the view of the cluster.
    Listing,
    /// Peers that had vanished with a wiped store were given up.
    Grace,
    /// The wish of somebody else: two leases share an object, so a difference is not enough.
    Overlap,
    /// Leases changed. Never the reason of a full round: the difference alone is applied.
    LeaseChange,
}

impl Reason {
    /// All of them.
    pub(crate) const ALL: [Self; 11] = [
        Self::Start,
        Self::Hint,
        Self::Overrun,
        Self::Retry,
        Self::Resync,
        Self::Config,
        Self::Claim,
        Self::Listing,
        Self::Grace,
        Self::Overlap,
        Self::LeaseChange,
    ];

    /// Those of rounds in which the leases are as before, so that what they set was changed by others.
    pub(crate) const REPAIRS: [Self; 3] = [Self::Hint, Self::Overrun, Self::Resync];

    /// The name in logs, status and metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Hint => "hint",
            Self::Overrun => "overrun",
            Self::Retry => "retry",
            Self::Resync => "resync",
            Self::Config => "config",
            Self::Claim => "claim",
            Self::Listing => "listing",
            Self::Grace => "grace",
            Self::Overlap => "overlap",
            Self::LeaseChange => "lease-change",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Decides when the next full round runs.
#[derive(Debug)]
pub(crate) struct Pace {
    due: Instant,
    reason: Reason,
    /// Not before this, so that rounds cannot take all the time.
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

    /// A round is wanted at once.
    pub(crate) fn request(&mut self, reason: Reason, now: Instant) {
        self.pull(reason, now);
    }

    /// A round is wanted once the burst is over.
    pub(crate) fn request_settled(&mut self, reason: Reason, now: Instant) {
        self.pull(reason, now + SETTLE);
    }

    fn pull(&mut self, reason: Reason, at: Instant) {
        if at < self.due {
            self.due = at;
            self.reason = reason;
        }
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
        self.pull(Reason::Retry, now + self.retry);
    }
}

#[cfg(test)]
mod tests;
