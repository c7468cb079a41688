//! Restores the gateways of the pods' bridges, and does not compete with another program that keeps removing them.

use flannel_core::dataplane::Op;
use flannel_core::facts::HostFacts;
use flannel_core::gateway::{self, Gateways};
use flannel_core::link::{IfIndex, LinkName};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use tracing::warn;

/// Time from the first pod on a bridge to the first repair: the plugin has yet to complete the bridge.
const GRACE: Duration = Duration::from_millis(300);
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
    /// When each bridge with pods may be repaired; none before the first observation.
    due: Option<BTreeMap<IfIndex, Instant>>,
    /// When to check a bridge that lacks something and may not be repaired yet.
    next: Option<Instant>,
}

impl Bridges {
    /// Returns the operations that restore `gateways` now.
    pub(super) fn repair(&mut self, gateways: &Gateways, facts: &HostFacts, now: Instant) -> Vec<Op> {
        if self.last.is_some_and(|last| now >= last + QUIET) {
            (self.repeats, self.last) = (0, None);
        }
        let gateways = self.settled(gateways, facts, now);
        let ops = gateway::restore(&gateways, facts);
        let is_pausing = self.last.is_some_and(|last| now < last + self.pause());
        if ops.is_empty() || is_pausing {
            return Vec::new();
        }
        let repairs: Vec<String> = ops.iter().map(ToString::to_string).collect();
        warn!(repairs = repairs.join(", "), "gateway of pods restored");
        (self.repeats, self.last) = (self.repeats.saturating_add(1), Some(now));
        ops
    }

    /// Returns the gateways on bridges that may be repaired now.
    fn settled(&mut self, gateways: &Gateways, facts: &HostFacts, now: Instant) -> Gateways {
        // Whatever exists at the start of the daemon has been completed.
        let new = self.due.as_ref().map_or(now, |_| now + GRACE);
        let known = self.due.take().unwrap_or_default();
        let links = facts.links.iter().filter(|link| gateways.contains_key(&link.name));
        let due: BTreeMap<&LinkName, (IfIndex, Instant)> = links
            .map(|link| (&link.name, (link.index, known.get(&link.index).copied().unwrap_or(new))))
            .collect();
        let is_young = |name: &LinkName| due.get(name).is_some_and(|(_, due)| *due > now);
        let (young, old): (Gateways, Gateways) =
            gateways.clone().into_iter().partition(|(name, _)| is_young(name));
        let lacks_something = !gateway::restore(&young, facts).is_empty();
        self.next = young.keys().filter_map(|name| Some(due.get(name)?.1)).min().filter(|_| lacks_something);
        self.due = Some(due.into_values().collect());
        old
    }

    /// When to check again: a new bridge, and during a conflict at the end of the pause and at the end of the conflict.
    pub(super) fn next_check(&self, now: Instant) -> Option<Instant> {
        [self.next, self.next_of_conflict(now)].into_iter().flatten().min()
    }

    fn next_of_conflict(&self, now: Instant) -> Option<Instant> {
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
