//! The state machine for a subnet that the store assigns. It waits for the assignment, publishes how the node is
//! reached, and reports an assignment that is removed or changed.
//!
//! The record is written once for each change of the published attributes, and again if someone edits it. A record that is
//! changed again soon after that has another daemon: it is left as it is, and the conflict is reported, because two daemons
//! that take turns would help nobody.

use ipnet::IpNet;
use std::time::Duration;

use super::{Failure, Holding, LeaseState, OwnRecord, Phase, Problem, Step, Wanted};
use crate::family::DualStack;
use crate::lease::{LeaseAttrs, Revision, Subnets};
use crate::store::{Assignment, Held};

/// Two changes of another writer within this time are those of a daemon.
const CALM: Duration = Duration::from_secs(60);

/// The assigned lease of this node. Times are durations since the start of the daemon.
#[derive(Clone, Debug)]
pub struct Assigned {
    pub(super) state: LeaseState,
    /// What the record contained when this node wrote or adopted it.
    published: Option<LeaseAttrs>,
    /// The networks that the subnets must be part of: those of the families to publish.
    networks: DualStack<IpNet>,
    /// When a change of another writer was found last.
    edited: Option<Duration>,
    /// Listings that the last view counted.
    listings: Option<u64>,
}

impl Assigned {
    /// A lease that the store assigns. `remembered` is that of an earlier run, which is used while the store is
    /// unreachable. `seed` spreads nodes that start together.
    #[must_use]
    pub fn new(remembered: Option<(Subnets, LeaseAttrs)>, seed: u64) -> Self {
        let state = LeaseState::new(remembered, seed);
        Self { state, published: None, networks: DualStack::default(), edited: None, listings: None }
    }

    /// Sets what to publish. New attributes are published even after a conflict. Another network means that the
    /// assignment is read again: it may be part of this one.
    pub fn want(&mut self, Wanted { attrs, networks }: Wanted) {
        if std::mem::replace(&mut self.networks, networks) != networks {
            self.state.phase = Phase::Read(Duration::ZERO);
        }
        if self.state.wanted.as_ref() != Some(&attrs) && self.has_conflict() {
            self.state.problem = None;
        }
        self.state.wanted = Some(attrs);
    }

    fn has_conflict(&self) -> bool {
        matches!(self.state.problem, Some(Problem::ConflictingWriter { .. }))
    }

    /// Returns what to do now.
    #[must_use]
    pub fn next(&self, now: Duration) -> Step {
        let Some(wanted) = &self.state.wanted else { return Step::Wait(None) };
        match (&self.state.phase, &self.state.own) {
            (Phase::Read(at), _) if now < *at => Step::Wait(Some(*at)),
            (Phase::Held(_), Some(own)) if self.has_conflict() || own.attrs == *wanted => Step::Wait(None),
            (Phase::Held(_), Some(own)) => Step::Update {
                subnets: own.subnets,
                attrs: wanted.clone(),
                held: Held { revision: own.revision, grant: None, remaining: None },
            },
            _ => Step::ReadAssignment,
        }
    }

    /// The assignment was read.
    pub fn read(&mut self, outcome: Result<Assignment, String>, now: Duration) {
        match outcome.map(|assignment| (self.choose(&assignment), assignment)) {
            Ok((Ok(subnets), assignment)) => self.hold(subnets, assignment, now),
            Ok((Err(problem), _)) => {
                if let Some(own) = self.state.own.take() {
                    self.state.lost = Some(own.subnets);
                }
                self.state.problem = Some(problem);
                self.state.read_later(now);
            }
            Err(reason) => self.state.failed(reason, now),
        }
    }

    /// Returns the subnets of the enabled families. Nothing is published before they are all usable.
    fn choose(&self, assignment: &Assignment) -> Result<Subnets, Problem> {
        let Assignment { subnets, place, advice, .. } = assignment;
        let (place, advice) = (place.clone(), *advice);
        for (family, network) in self.networks.iter() {
            match subnets.get(family) {
                None => return Err(Problem::Unassigned { place, family, advice }),
                Some(subnet) if !network.contains(&subnet) => {
                    return Err(Problem::Outside { place, subnet, network: *network, advice });
                }
                Some(_) => {}
            }
        }
        Ok(Subnets {
            v4: subnets.v4.filter(|_| self.networks.v4.is_some()),
            v6: subnets.v6.filter(|_| self.networks.v6.is_some()),
        })
    }

    fn hold(&mut self, subnets: Subnets, assignment: Assignment, now: Duration) {
        let Assignment { attrs, revision, .. } = assignment;
        self.state.phase = Phase::Held(now);
        if attrs == self.state.wanted {
            // Otherwise a write follows: one that fails again must not be repeated without pause.
            self.state.acquire.reset();
        }
        let before = self.state.own.as_ref().filter(|own| own.confirmed && own.subnets == subnets);
        let is_known = |found: &LeaseAttrs| {
            [&self.published, &self.state.wanted]
                .into_iter()
                .flatten()
                .chain(&self.state.doubtful)
                .any(|own| own == found)
        };
        // A record without attributes is published again: nobody is reached by it.
        let found = attrs.as_ref().filter(|found| before.is_some() && !is_known(found));
        // An earlier revision is that of a store restored from a backup.
        let is_rewritten = before.is_some_and(|own| {
            own.revision.is_before(revision) || own.revision == revision && self.has_conflict()
        });
        let is_other_revision = before.is_none_or(|own| own.revision != revision);
        let edit = found.filter(|_| is_rewritten);
        if edit.is_none() {
            self.published.clone_from(&attrs);
        }
        self.state.problem = edit.map(|found| self.classify(subnets, found, now));
        if is_other_revision {
            self.state.doubtful.clear();
        }
        let attrs = attrs.unwrap_or_default();
        self.state.own = Some(Holding { revision, confirmed: true, ..Holding::remembered(subnets, attrs) });
        self.state.lost = None;
    }

    /// Returns the problem with a record that another writer has changed to `found`.
    fn classify(&mut self, subnets: Subnets, found: &LeaseAttrs, now: Duration) -> Problem {
        let is_known = self.state.own.as_ref().is_some_and(|own| own.attrs == *found);
        let is_rewritten = match &self.state.problem {
            Some(Problem::Edited { .. }) if is_known => false,
            Some(Problem::ConflictingWriter { .. }) => true,
            _ => self.edited.replace(now).is_some_and(|before| now < before + CALM),
        };
        let found = Box::new(found.clone());
        if is_rewritten {
            Problem::ConflictingWriter { subnets, found }
        } else {
            Problem::Edited { subnets, found }
        }
    }

    /// Our record was to be changed to `attrs`.
    pub fn updated(&mut self, attrs: LeaseAttrs, outcome: Result<Held, Failure>, now: Duration) {
        match outcome {
            Ok(held) => {
                if let Some(own) = &mut self.state.own {
                    self.published = Some(attrs.clone());
                    own.attrs = attrs;
                    own.revision = held.revision;
                }
                self.state.doubtful.clear();
                self.state.problem = None;
                self.state.acquire.reset();
            }
            Err(Failure::Raced) => self.state.read_later(now),
            Err(Failure::Unanswered(reason)) => {
                self.state.doubt(attrs);
                self.state.failed(reason, now);
            }
        }
    }

    /// Takes what the watch shows of our record: what is not known already is read.
    pub fn seen(&mut self, view: &OwnRecord, now: Duration) {
        let listed = self.listings.replace(view.listings).is_some_and(|before| before != view.listings);
        let (Phase::Held(_), Some(own)) = (&self.state.phase, &self.state.own) else { return };
        if view.subnets != own.subnets {
            return;
        }
        if view.seen.is_before(own.revision) {
            // Late, or of a store that has lost its content: only a reading of our own can tell.
            if listed {
                self.state.phase = Phase::Read(now);
            }
            return;
        }
        match &view.record {
            Some((_, revision, _)) if *revision == own.revision => {}
            Some(_) => self.state.phase = Phase::Read(now),
            None => self.state.read_later(now),
        }
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
