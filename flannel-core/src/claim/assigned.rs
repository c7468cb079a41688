//! The state machine for a subnet that the store assigns. It waits for the assignment, publishes how the node is
//! reached, and reports an assignment that is removed or changed.
//!
//! The record is written once for each change of the published attributes. A record that another writer changes is left
//! as it is, and the conflict is reported: two daemons that take turns would help nobody.

use std::time::Duration;

use super::{ACQUIRE, Failure, Holding, OwnRecord, Problem, Step};
use crate::backoff::Backoff;
use crate::lease::{LeaseAttrs, Revision, Subnets};
use crate::store::{Assignment, Held};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// The assignment is read at this time.
    Read(Duration),
    /// The assignment is known.
    Known,
}

/// The assigned lease of this node. Times are durations since the start of the daemon.
#[derive(Clone, Debug)]
pub struct Assigned {
    retry: Backoff,
    wanted: Option<LeaseAttrs>,
    own: Option<Holding>,
    /// What the record contained when this node wrote or adopted it.
    published: Option<LeaseAttrs>,
    /// The store has failed to answer, so that a remembered lease serves.
    fallback: bool,
    /// Attributes of updates without an answer, which may have been written.
    doubtful: Vec<LeaseAttrs>,
    phase: Phase,
    problem: Option<Problem>,
    lost: Option<Subnets>,
}

impl Assigned {
    /// A lease that the store assigns. `remembered` is that of an earlier run, which is used while the store is
    /// unreachable. `seed` spreads nodes that start together.
    #[must_use]
    pub fn new(remembered: Option<(Subnets, LeaseAttrs)>, seed: u64) -> Self {
        Self {
            retry: ACQUIRE.delays(seed),
            wanted: None,
            own: remembered.map(|(subnets, attrs)| Holding::remembered(subnets, attrs)),
            published: None,
            fallback: false,
            doubtful: Vec::new(),
            phase: Phase::Read(Duration::ZERO),
            problem: None,
            lost: None,
        }
    }

    /// Returns the lease; a remembered one only once the store has failed to answer.
    #[must_use]
    pub fn own(&self) -> Option<&Holding> {
        self.own.as_ref().filter(|own| own.confirmed || self.fallback)
    }

    /// Returns what prevents a healthy lease.
    #[must_use]
    pub const fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }

    /// Returns a subnet that is no longer assigned to this node, until another one is.
    #[must_use]
    pub const fn lost(&self) -> Option<Subnets> {
        self.lost
    }

    /// Sets the attributes to publish. New ones are published even after a conflict.
    pub fn want(&mut self, attrs: LeaseAttrs) {
        if self.wanted.as_ref() != Some(&attrs) && self.has_conflict() {
            self.problem = None;
        }
        self.wanted = Some(attrs);
    }

    fn has_conflict(&self) -> bool {
        matches!(self.problem, Some(Problem::ConflictingWriter { .. }))
    }

    /// Returns what to do now.
    #[must_use]
    pub fn next(&self, now: Duration) -> Step {
        let Some(wanted) = &self.wanted else { return Step::Wait(None) };
        match (&self.phase, &self.own) {
            (Phase::Read(at), _) if now < *at => Step::Wait(Some(*at)),
            (Phase::Known, Some(own)) if self.has_conflict() || own.attrs == *wanted => Step::Wait(None),
            (Phase::Known, Some(own)) => Step::Update {
                subnets: own.subnets,
                attrs: wanted.clone(),
                held: Held { revision: own.revision, grant: None, remaining: None },
            },
            (Phase::Read(_), _) | (Phase::Known, None) => Step::ReadAssignment,
        }
    }

    /// The assignment was read.
    pub fn read(&mut self, outcome: Result<Option<Assignment>, String>, now: Duration) {
        match outcome {
            Ok(Some(assignment)) => self.hold(assignment),
            Ok(None) => {
                if let Some(own) = self.own.take() {
                    self.lost = Some(own.subnets);
                }
                self.problem = Some(Problem::Unassigned);
                self.read_later(now);
            }
            Err(reason) => self.failed(reason, now),
        }
    }

    fn hold(&mut self, Assignment { subnets, attrs, revision }: Assignment) {
        self.phase = Phase::Known;
        self.retry.reset();
        let before = self.own.as_ref().filter(|own| own.confirmed && own.subnets == subnets);
        let is_known = |theirs: &LeaseAttrs| {
            [&self.published, &self.wanted]
                .into_iter()
                .flatten()
                .chain(&self.doubtful)
                .any(|own| own == theirs)
        };
        // A record without attributes is published again: nobody is reached by it.
        let theirs = attrs.as_ref().filter(|theirs| before.is_some() && !is_known(theirs));
        // An earlier revision is that of a store restored from a backup.
        let is_rewritten = before.is_some_and(|own| {
            own.revision.is_before(revision) || own.revision == revision && self.has_conflict()
        });
        let conflict = theirs.filter(|_| is_rewritten);
        if conflict.is_none() {
            self.published.clone_from(&attrs);
        }
        self.problem =
            conflict.map(|theirs| Problem::ConflictingWriter { subnets, theirs: Box::new(theirs.clone()) });
        if before.is_none_or(|own| own.revision != revision) {
            self.doubtful.clear();
        }
        let attrs = attrs.unwrap_or_default();
        self.own = Some(Holding { revision, confirmed: true, ..Holding::remembered(subnets, attrs) });
        self.lost = None;
    }

    /// Our record was to be changed to `attrs`.
    pub fn updated(&mut self, attrs: LeaseAttrs, outcome: Result<Held, Failure>, now: Duration) {
        match outcome {
            Ok(held) => {
                if let Some(own) = &mut self.own {
                    self.published = Some(attrs.clone());
                    own.attrs = attrs;
                    own.revision = held.revision;
                }
                self.doubtful.clear();
                self.problem = None;
                self.retry.reset();
            }
            Err(Failure::Raced) => self.read_later(now),
            Err(Failure::Unanswered(reason)) => {
                if !self.doubtful.contains(&attrs) {
                    self.doubtful.push(attrs);
                }
                self.failed(reason, now);
            }
        }
    }

    /// Takes what the watch shows of our record: what is not known already is read.
    pub fn seen(&mut self, view: &OwnRecord, now: Duration) {
        let (Phase::Known, Some(own)) = (&self.phase, &self.own) else { return };
        if view.subnets != own.subnets || view.seen.is_before(own.revision) {
            return;
        }
        match &view.record {
            Some((_, revision, _)) if *revision == own.revision => {}
            Some(_) => self.phase = Phase::Read(now),
            None => self.read_later(now),
        }
    }

    /// Ends a wait for an assignment.
    pub fn wake(&mut self, now: Duration) {
        if let Phase::Read(at) = &mut self.phase {
            *at = (*at).min(now);
        }
    }

    fn failed(&mut self, reason: String, now: Duration) {
        self.problem = Some(Problem::StoreAway(reason));
        self.fallback = true;
        self.read_later(now);
    }

    fn read_later(&mut self, now: Duration) {
        self.phase = Phase::Read(now + self.retry.delay());
    }
}

impl Holding {
    /// A lease that is remembered from an earlier run.
    pub(super) fn remembered(subnets: Subnets, attrs: LeaseAttrs) -> Self {
        Self {
            subnets,
            attrs,
            revision: Revision::default(),
            grant: None,
            expires: None,
            created: None,
            confirmed: false,
        }
    }
}

#[cfg(test)]
mod tests;
