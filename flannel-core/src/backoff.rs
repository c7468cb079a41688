//! Delays between attempts: growing, capped, and spread so that many nodes do not come back at one moment.

use std::time::Duration;

use crate::seed::Seed;

#[cfg(test)]
mod tests;

/// How delays grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// The first delay.
    pub first: Duration,
    /// The longest delay.
    pub cap: Duration,
}

impl BackoffPolicy {
    /// The delays of one series of failures.
    #[must_use]
    pub const fn delays(self, seed: u64) -> Backoff {
        Backoff { policy: self, next: self.first, seed: Seed::new(seed) }
    }
}

/// Endless delays: each ceiling is twice the one before, up to the cap, and each delay is between half of its ceiling
/// and the whole.
#[derive(Clone, Debug)]
pub struct Backoff {
    policy: BackoffPolicy,
    next: Duration,
    seed: Seed,
}

impl Backoff {
    /// Starts from the first delay again, after a success.
    pub const fn reset(&mut self) {
        self.next = self.policy.first;
    }

    /// The next delay.
    pub fn delay(&mut self) -> Duration {
        let ceiling = self.next.min(self.policy.cap);
        self.next = ceiling.saturating_mul(2).min(self.policy.cap);
        let half = ceiling / 2;
        let spread = self.seed.below(half.as_nanos() + 1);
        // The spread is at most the half, which is a Duration.
        half + Duration::from_nanos(u64::try_from(spread).unwrap_or(u64::MAX))
    }
}
