//! The state machine that gets a subnet lease and keeps it. Inputs in, next step out: the caller asks
//! [`Claim::next`] what to do, does it, and tells the outcome.
//!
//! Rules, whoever else runs in the cluster:
//!
//! * Nothing is written without a guard: a record is created only while its key is absent and the config is the one it was
//!   chosen from, changed and deleted only at the revision that we know.
//! * A record with our public address is ours (Go's rule), so a node keeps its subnet over restarts.
//! * Losing a race means reading again and choosing again, for as long as it takes.
//! * Losing the lease means taking the same subnet again if it is free, another one if not.
//! * A record of ours that another node with our public address rewrites is left as it is: two nodes
//!   that take turns would help nobody. The conflict is named instead.
//! * A write without an answer may have happened, or may yet happen: what it would leave is known as ours.

use std::time::Duration;

use crate::backoff::{Backoff, BackoffPolicy};
use crate::lease::{LeaseAttrs, Revision, Subnets};
use crate::seed::Seed;
use crate::store::{Grant, Held};

pub use assigned::Assigned;
pub use own::{Outcome, OwnLease, Wanted};
pub use problem::Problem;
pub use state::LeaseState;
use state::Phase;
pub use step::{Failure, Step};
pub use view::OwnRecord;

mod adopt;
mod assigned;
mod outcome;
mod own;
mod problem;
mod state;
mod step;
mod view;

/// Attempts to renew one, which starts long before its end.
const RENEW: BackoffPolicy = BackoffPolicy { first: Duration::from_secs(1), cap: Duration::from_secs(60) };

/// Renewals are never closer than this, however little time a lease has.
const RENEW_PAUSE: Duration = Duration::from_millis(250);

/// A lease that we hold, as far as we know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The subnet.
    pub subnets: Subnets,
    /// How we are reached, as published.
    pub attrs: LeaseAttrs,
    /// Revision of the record; zero for a lease that is only remembered.
    pub revision: Revision,
    /// What keeps it alive; `None` is a reservation.
    pub grant: Option<Grant>,
    /// When it ends unless renewed; `None` is never, or not known yet.
    pub expires: Option<Duration>,
    /// Revision of its creation, if this run created it.
    pub created: Option<Revision>,
    /// The store has confirmed it since the start.
    pub confirmed: bool,
}

/// The claim of this node. Times are durations since the start of the daemon.
#[derive(Clone, Debug)]
pub struct Claim {
    renew_margin: Duration,
    chance: Seed,
    renew: Backoff,
    wish: Option<Subnets>,
    state: LeaseState,
    /// Our record cannot be read: it has to be written anew.
    damaged: bool,
    /// Listings that the last view counted.
    listings: Option<u64>,
}

impl Claim {
    /// A claim that renews `renew_margin` before the end of its lease. `wish` is the subnet of an
    /// earlier run; `remembered` the whole lease, which is used while the store is away. `seed` spreads nodes
    /// that start together.
    #[must_use]
    pub fn new(
        renew_margin: Duration,
        wish: Option<Subnets>,
        remembered: Option<(Subnets, LeaseAttrs)>,
        seed: u64,
    ) -> Self {
        Self {
            renew_margin,
            chance: Seed::new(seed),
            renew: RENEW.delays(seed),
            wish,
            state: LeaseState::new(remembered, seed),
            damaged: false,
            listings: None,
        }
    }

    /// Sets how we want to be reached.
    pub fn want(&mut self, attrs: LeaseAttrs) {
        if let Some(Problem::DuplicateAddress { subnets, found }) = &self.state.problem
            && !found.is_same_node(&attrs)
        {
            // With an address of our own again, the record is plainly the other node's.
            self.lose(*subnets);
            self.state.phase = Phase::Read(Duration::ZERO);
        }
        self.state.wanted = Some(attrs);
    }

    /// What to do now.
    #[must_use]
    pub fn next(&self, now: Duration) -> Step {
        let Some(wanted) = &self.state.wanted else { return Step::Wait(None) };
        match &self.state.phase {
            Phase::Read(at) if now < *at => Step::Wait(Some(*at)),
            Phase::Read(_) => Step::List,
            Phase::Create(subnets, guard) => {
                Step::Create { subnets: *subnets, attrs: wanted.clone(), guard: *guard }
            }
            Phase::Delete(subnets, revision) => Step::Delete { subnets: *subnets, revision: *revision },
            Phase::Held(renew_from) => self.keep(wanted, *renew_from, now),
        }
    }

    fn keep(&self, wanted: &LeaseAttrs, renew_from: Duration, now: Duration) -> Step {
        let Some(own) = &self.state.own else { return Step::List };
        if matches!(self.state.problem, Some(Problem::DuplicateAddress { .. })) {
            return Step::Wait(None);
        }
        let held = Held { revision: own.revision, grant: own.grant, remaining: None };
        // Of an adopted lease the end is not known: the first renewal tells it.
        let due = own.grant.map(|_| {
            let due = own.expires.map_or(Duration::ZERO, |end| end.saturating_sub(self.renew_margin));
            due.max(renew_from)
        });
        // Renewal comes first: a store that takes no writes, but renews, must not cost us the lease.
        if due.is_some_and(|due| due <= now) {
            return Step::Renew { subnets: own.subnets, held };
        }
        if self.damaged || own.attrs != *wanted {
            return Step::Update { subnets: own.subnets, attrs: wanted.clone(), held };
        }
        Step::Wait(due)
    }

    fn hold(&mut self, own: Holding) {
        if self.state.own.as_ref().is_none_or(|before| before.revision != own.revision) {
            self.state.doubtful.clear();
        }
        self.state.own = Some(own);
        self.damaged = false;
        self.state.problem = None;
        self.state.lost = None;
    }

    fn lose(&mut self, subnets: Subnets) {
        self.state.problem = Some(Problem::Taken(subnets));
        self.state.lost = Some(subnets);
        self.state.own = None;
        self.wish = None;
    }

    fn wait_for(&mut self, problem: Problem, now: Duration) {
        self.state.problem = Some(problem);
        self.state.read_later(now);
    }

    fn read_again(&mut self, failure: Failure, now: Duration) {
        match failure {
            Failure::Raced => self.state.read_later(now),
            Failure::Unanswered(reason) => self.state.failed(reason, now),
        }
    }
}

impl Holding {
    fn is_younger_than(&self, other: Revision) -> bool {
        self.created.is_some_and(|created| other.is_before(created))
    }
}

#[cfg(test)]
mod tests;
