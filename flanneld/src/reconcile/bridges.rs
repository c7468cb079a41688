//! Restores the gateways of the pods' bridges, and does not compete with another program that keeps removing them.

use flannel_core::dataplane::Op;
use flannel_core::facts::HostFacts;
use flannel_core::gateway::{self, Gateways};
use flannel_core::link::LinkName;
use std::time::Duration;
use tokio::time::Instant;
use tracing::warn;

/// Repairs that follow each other within [`QUIET`] before pauses begin.
const REPETITIONS: u32 = 5;
/// Longest pause between two repairs; the first is a second.
const LONGEST: Duration = Duration::from_secs(60);
/// After this time without a repair the conflict is over.
const QUIET: Duration = Duration::from_secs(90);

/// Paces the repairs.
#[derive(Debug, Default)]
pub(super) struct Bridges {
    repeats: u32,
    last: Option<Instant>,
}

impl Bridges {
    /// Returns the operations that restore `gateways` now.
    pub(super) fn repair(&mut self, gateways: &Gateways, facts: &HostFacts, now: Instant) -> Vec<Op> {
        if self.last.is_some_and(|last| now >= last + QUIET) {
            *self = Self::default();
        }
        let ops = gateway::restore(gateways, facts);
        let is_pausing = self.last.is_some_and(|last| now < last + self.pause());
        if ops.is_empty() || is_pausing {
            return Vec::new();
        }
        let repairs: Vec<String> = ops.iter().map(ToString::to_string).collect();
        warn!(repairs = repairs.join(", "), "gateway of pods restored");
        (self.repeats, self.last) = (self.repeats.saturating_add(1), Some(now));
        ops
    }

    /// When to check again during a conflict: at the end of the pause, and at the end of the conflict.
    pub(super) fn next_check(&self, now: Instant) -> Option<Instant> {
        let last = self.last.filter(|_| self.is_contested())?;
        let pause = last + self.pause();
        Some(if now < pause { pause } else { last + QUIET })
    }

    /// Returns the conflict, for people.
    pub(super) fn conflict(&self, gateways: &Gateways) -> Option<String> {
        let names: Vec<&str> = gateways.keys().map(LinkName::as_str).collect();
        self.is_contested().then(|| {
            format!(
                "another program repeatedly removes the gateway of pods from {0} or sets {0} down: exclude {0} from its \
                 configuration; until then the gateway is restored with growing pauses",
                names.join(", ")
            )
        })
    }

    const fn is_contested(&self) -> bool {
        self.repeats >= REPETITIONS
    }

    /// How long to wait after the last repair.
    fn pause(&self) -> Duration {
        match self.repeats.checked_sub(REPETITIONS) {
            Some(more) => Duration::from_secs(1 << more.min(6)).min(LONGEST),
            None => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests;
