//! Somebody else who puts his own in place of ours, above all another flanneld with the same VNI: each would undo what
//! the other did for ever.
//!
//! What is only removed is put back at once, however often. But a device of ours that is another one every time, or one
//! that nobody wants and that comes again and again, has somebody behind it who means it. After some rounds of that,
//! one soon after the other, it is said, and from then on what is contested is tried ever less often; everything else
//! goes on. With the end of the other daemon, as far as it can be seen from here, ours is put back at once.

use flannel_core::dataplane::Op;
use flannel_core::link::LinkName;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

use super::conditions::id;
use super::{Reason, Reconciler};
use crate::host::daemons;
use crate::kernel::Kernel;

/// Repetitions of one operation, each soon after the last, that are taken as a rival's work.
const REPETITIONS: u32 = 8;
/// What counts as soon, beside a multiple of what a round takes.
const SOON: Duration = Duration::from_secs(1);
const SOON_ROUNDS: u32 = 10;

/// First and longest pause between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Without a contest for so long, which is longer than the longest pause of a daemon like this one, there is no rival.
const QUIET: Duration = Duration::from_secs(90);
/// How often it is looked whether the rival lives, and how soon after a notification at the kernel, when no
/// device of somebody else may be half made.
const LOOK: Duration = Duration::from_secs(1);

/// What is known of rivals.
#[derive(Debug, Default)]
pub(super) struct Rivalry {
    /// By operation: how often it was repeated, and when it ran last.
    repeats: BTreeMap<String, (u32, Instant)>,
    contest: Option<Contest>,
}

#[derive(Debug)]
struct Contest {
    /// Devices that were found contested with the last look.
    links: BTreeSet<LinkName>,
    /// Other daemons of this host, when it began.
    others: Vec<u32>,
    pause: Duration,
    /// They are left alone until then.
    until: Instant,
    /// When one of ours was last put in place of another.
    last: Instant,
    /// The end of the pause is still to come.
    waiting: bool,
}

/// What time has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It is time for the next try.
    Try,
    /// The rival has gone, or keeps quiet.
    Over,
}

/// The device of an operation that removals by others do not lead to.
fn contested(op: &Op) -> Option<&LinkName> {
    match op {
        Op::DeleteLink(name) => Some(name),
        Op::SetLink(name, change) => (change.mac.is_some() || change.alias.is_some()).then_some(name),
        Op::DeleteAddress(key) => Some(&key.link),
        _ => None,
    }
}

impl Rivalry {
    /// Takes out of `ops` what is to be left alone for now.
    pub(super) fn hold_back(&mut self, ops: &mut Vec<Op>, now: Instant) {
        let Some(contest) = &mut self.contest else { return };
        contest.links = ops.iter().filter_map(contested).cloned().collect();
        if now < contest.until {
            ops.retain(|op| op.link().is_none_or(|link| !contest.links.contains(link)));
        }
    }

    /// The same for operations that follow from changes of leases.
    pub(super) fn hold_back_changes(&self, ops: &mut Vec<Op>, now: Instant) {
        if let Some(contest) = self.contest.as_ref().filter(|contest| now < contest.until) {
            ops.retain(|op| op.link().is_none_or(|link| !contest.links.contains(link)));
        }
    }

    /// Takes note of operations that have succeeded. Answers with the devices that are contested, if that is news.
    pub(super) fn note<'a>(
        &mut self,
        ops: impl Iterator<Item = &'a Op>,
        took: Duration,
        now: Instant,
    ) -> Option<BTreeSet<LinkName>> {
        let soon = SOON + took * SOON_ROUNDS;
        self.repeats.retain(|_, (_, last)| now - *last <= soon);
        let mut links = BTreeSet::new();
        for (op, link) in ops.filter_map(|op| Some((op, contested(op)?))) {
            let (count, last) = self.repeats.entry(op.to_string()).or_insert((0, now));
            (*count, *last) = (count.saturating_add(1), now);
            if *count >= REPETITIONS || self.contest.is_some() {
                links.insert(link.clone());
            }
        }
        if links.is_empty() {
            return None;
        }
        match &mut self.contest {
            Some(contest) => {
                contest.pause = (contest.pause * 2).min(PAUSE.1);
                (contest.until, contest.last, contest.waiting) = (now + contest.pause, now, true);
                None
            }
            None => {
                let (others, pause) = (Vec::new(), PAUSE.0);
                let contest = Contest {
                    links: links.clone(),
                    others,
                    pause,
                    until: now + pause,
                    last: now,
                    waiting: true,
                };
                self.contest = Some(contest);
                Some(links)
            }
        }
    }

    fn is_pausing(&self, now: Instant) -> bool {
        self.contest.as_ref().is_some_and(|contest| now < contest.until)
    }

    /// When [`Rivalry::turn`] is to be asked.
    pub(super) fn next_turn(&self, now: Instant) -> Option<Instant> {
        let contest = self.contest.as_ref()?;
        let soon = now + LOOK;
        Some(if contest.waiting { contest.until.min(soon) } else { soon })
    }

    /// What to do now, if anything. `lives` tells whether a daemon is still there.
    fn turn(&mut self, lives: impl Fn(u32) -> bool, now: Instant) -> Option<Turn> {
        let contest = self.contest.as_mut()?;
        let gone = !contest.others.is_empty() && !contest.others.iter().any(|pid| lives(*pid));
        if gone || now >= contest.last + QUIET {
            *self = Self::default();
            return Some(Turn::Over);
        }
        if contest.waiting && now >= contest.until {
            contest.waiting = false;
            return Some(Turn::Try);
        }
        None
    }
}

impl<K: Kernel> Reconciler<K> {
    /// Judges operations of a full round that have succeeded.
    pub(super) fn note_contest(&mut self, done: &[&Op], took: Duration) {
        let Some(links) = self.rivalry.note(done.iter().copied(), took, Instant::now()) else { return };
        let own = std::process::id();
        let others = daemons::processes().into_iter().map(|other| other.pid);
        let others: Vec<u32> = others.filter(|pid| *pid != own).collect();
        let names = join(&links);
        let who = match others.as_slice() {
            [] => "perhaps another flanneld with the same VNI, which cannot be seen from here (in a container of its own?)"
                .to_owned(),
            others => format!("most likely another flanneld with the same VNI (process {})", join(others)),
        };
        let reason = format!(
            "another program changes {names} as often as it is put right, {who}: stop it, or give one of the two networks \
             another VNI; until then {names} is put right ever less often"
        );
        if let Some(contest) = &mut self.rivalry.contest {
            contest.others = others;
        }
        self.set_condition(id::RIVAL, Some(reason));
    }

    /// Asks for a round because the kernel told of something: at once, or slowly while a rival is left alone.
    pub(super) fn look_soon(&mut self, reason: Reason, now: Instant) {
        if self.rivalry.is_pausing(now) {
            self.pace.request(reason, now + LOOK);
        } else {
            self.pace.request_settled(reason, now);
        }
    }

    /// Looks whether a rival has gone, and whether it is time for the next try.
    pub(super) fn watch_rival(&mut self) {
        let now = Instant::now();
        match self.rivalry.turn(daemons::is_running, now) {
            Some(Turn::Over) => {
                self.set_condition(id::RIVAL, None);
                self.pace.request(Reason::Hint, now);
            }
            Some(Turn::Try) => self.pace.request(Reason::Hint, now),
            None => {}
        }
    }
}

fn join(items: impl IntoIterator<Item = impl ToString>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
