//! Conflicting daemons: other programs, mostly a second flanneld with the same VNI, that repeatedly change owned objects.
//!
//! Removals are repaired at once, however often they happen. But a device that differs anew in every round, or one that is
//! surplus in every round, is contested by somebody. After several such rounds in quick succession the conflict
//! is reported, and from then on contested objects are repaired with growing pauses; everything else is unaffected.
//! When the other daemon ends, as far as this process can see that, they are repaired at once.

use flannel_core::dataplane::Op;
use flannel_core::link::LinkName;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

use crate::contention::{Contention, Turn};

/// Repetitions of one operation in quick succession that indicate a conflict.
const REPETITIONS: u32 = 8;
/// What counts as quick, beside a multiple of the duration of a round.
const QUICK: Duration = Duration::from_secs(1);
const QUICK_ROUNDS: u32 = 10;

/// Detects a conflict and paces the repairs during it.
#[derive(Debug, Default)]
pub(super) struct Detector {
    /// By operation: how often it was repeated, and when it ran last.
    repeats: BTreeMap<String, (u32, Instant)>,
    conflict: Option<Conflict>,
}

#[derive(Debug)]
struct Conflict {
    /// Devices that were contested in the last round.
    links: BTreeSet<LinkName>,
    contention: Contention,
}

/// The device of an operation that does not follow from removals.
fn contested(op: &Op) -> Option<&LinkName> {
    match op {
        Op::DeleteLink(name) => Some(name),
        Op::SetLink(name, change) => (change.mac.is_some() || change.alias.is_some()).then_some(name),
        Op::DeleteAddress(key) => Some(&key.link),
        _ => None,
    }
}

impl Detector {
    /// Removes operations on contested objects from `ops` during a pause.
    pub(super) fn hold_back(&mut self, ops: &mut Vec<Op>, now: Instant) {
        let Some(conflict) = &mut self.conflict else { return };
        conflict.links = ops.iter().filter_map(contested).cloned().collect();
        self.hold_back_changes(ops, now);
    }

    /// Does the same for operations that follow from changes of leases.
    pub(super) fn hold_back_changes(&self, ops: &mut Vec<Op>, now: Instant) {
        if let Some(conflict) = self.conflict.as_ref().filter(|conflict| conflict.contention.is_pausing(now))
        {
            ops.retain(|op| op.link().is_none_or(|link| !conflict.links.contains(link)));
        }
    }

    /// Counts operations of a full round that succeeded. Returns the reason for people when a conflict begins.
    pub(super) fn note<'a>(
        &mut self,
        ops: impl Iterator<Item = &'a Op>,
        took: Duration,
        now: Instant,
    ) -> Option<String> {
        let quick = QUICK + took * QUICK_ROUNDS;
        self.repeats.retain(|_, (_, last)| now - *last <= quick);
        let mut links = BTreeSet::new();
        for (op, link) in ops.filter_map(|op| Some((op, contested(op)?))) {
            let (count, last) = self.repeats.entry(op.to_string()).or_insert((0, now));
            (*count, *last) = (count.saturating_add(1), now);
            if *count >= REPETITIONS || self.conflict.is_some() {
                links.insert(link.clone());
            }
        }
        if links.is_empty() {
            return None;
        }
        match &mut self.conflict {
            Some(conflict) => {
                conflict.contention.repaired(now);
                None
            }
            None => {
                let contention = Contention::new(now);
                let reason = reason(&links, &contention);
                self.conflict = Some(Conflict { links, contention });
                Some(reason)
            }
        }
    }

    /// Whether contested objects are not repaired at present.
    pub(super) fn is_pausing(&self, now: Instant) -> bool {
        self.conflict.as_ref().is_some_and(|conflict| conflict.contention.is_pausing(now))
    }

    /// When [`Detector::check`] is due.
    pub(super) fn next_check(&self, now: Instant) -> Option<Instant> {
        self.conflict.as_ref().map(|conflict| conflict.contention.next_check(now))
    }

    /// Returns what to do now, if anything.
    pub(super) fn check(&mut self, now: Instant) -> Option<Turn> {
        let turn = self.conflict.as_mut()?.contention.check(now);
        if turn == Some(Turn::Over) {
            *self = Self::default();
        }
        turn
    }
}

/// The condition: who is in conflict about what, and what to do.
fn reason(links: &BTreeSet<LinkName>, contention: &Contention) -> String {
    let names = links.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let who = contention.suspect("another flanneld with the same VNI");
    format!(
        "another program repeatedly changes {names}, {who}: stop it, or give one of the two networks another VNI; \
         until then {names} is repaired with growing pauses"
    )
}

#[cfg(test)]
mod tests;
