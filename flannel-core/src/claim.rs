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
use crate::store::{CreateGuard, Grant, Held};

pub use assigned::Assigned;
pub use own::{Outcome, OwnLease};
pub use problem::Problem;
pub use step::{Failure, Step};
pub use view::OwnRecord;

mod adopt;
mod assigned;
mod outcome;
mod own;
mod problem;
mod step;
mod view;

/// Attempts to get a lease. Short at first: simultaneous starters lose races that are over in milliseconds.
const ACQUIRE: BackoffPolicy =
    BackoffPolicy { first: Duration::from_millis(50), cap: Duration::from_secs(5) };

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

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// The store is read at this time.
    Read(Duration),
    /// A record is to be created.
    Create(Subnets, CreateGuard),
    /// A record of ours is to be deleted, after which we read again.
    Delete(Subnets, Revision),
    /// We hold a lease. It is not renewed before this time.
    Held(Duration),
}

/// The claim of this node. Times are durations since the start of the daemon.
#[derive(Clone, Debug)]
pub struct Claim {
    renew_margin: Duration,
    chance: Seed,
    acquire: Backoff,
    renew: Backoff,
    wanted: Option<LeaseAttrs>,
    wish: Option<Subnets>,
    own: Option<Holding>,
    /// The store has failed to answer, so that a remembered lease serves.
    fallback: bool,
    /// What updates without an answer may have written, or may yet write: for as long as our record has the revision that
    /// they are guarded by.
    doubtful: Vec<LeaseAttrs>,
    /// Our record cannot be read: it has to be written anew.
    damaged: bool,
    /// Listings that the last view counted.
    listings: Option<u64>,
    phase: Phase,
    problem: Option<Problem>,
    /// A subnet of ours that belongs to another node now, until we hold a new one.
    lost: Option<Subnets>,
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
        let own = remembered.map(|(subnets, attrs)| Holding::remembered(subnets, attrs));
        Self {
            renew_margin,
            chance: Seed::new(seed),
            acquire: ACQUIRE.delays(seed),
            renew: RENEW.delays(seed),
            wanted: None,
            wish,
            own,
            fallback: false,
            doubtful: Vec::new(),
            damaged: false,
            listings: None,
            phase: Phase::Read(Duration::ZERO),
            problem: None,
            lost: None,
        }
    }

    /// The lease that we hold. Remembered ones count only once the store has failed to answer.
    #[must_use]
    pub fn own(&self) -> Option<&Holding> {
        self.own.as_ref().filter(|own| own.confirmed || self.fallback)
    }

    /// What is in the way.
    #[must_use]
    pub const fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }

    /// A subnet of ours that belongs to another node now, until we hold a new one: whatever else is in the way
    /// meanwhile, no pod may be started with it.
    #[must_use]
    pub const fn lost(&self) -> Option<Subnets> {
        self.lost
    }

    /// Sets how we want to be reached.
    pub fn want(&mut self, attrs: LeaseAttrs) {
        if let Some(Problem::DuplicateAddress { subnets, theirs }) = &self.problem
            && !theirs.is_same_node(&attrs)
        {
            // With an address of our own again, the record is plainly the other node's.
            self.lose(*subnets);
            self.phase = Phase::Read(Duration::ZERO);
        }
        self.wanted = Some(attrs);
    }

    /// What to do now.
    #[must_use]
    pub fn next(&self, now: Duration) -> Step {
        let Some(wanted) = &self.wanted else { return Step::Wait(None) };
        match &self.phase {
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
        let Some(own) = &self.own else { return Step::List };
        if matches!(self.problem, Some(Problem::DuplicateAddress { .. })) {
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

    /// The store could not be listed.
    pub fn failed(&mut self, reason: String, now: Duration) {
        self.problem = Some(Problem::StoreAway(reason));
        self.fallback = true;
        self.read_later(now);
    }

    fn hold(&mut self, own: Holding) {
        if self.own.as_ref().is_none_or(|before| before.revision != own.revision) {
            self.doubtful.clear();
        }
        self.own = Some(own);
        self.damaged = false;
        self.problem = None;
        self.lost = None;
    }

    fn lose(&mut self, subnets: Subnets) {
        self.problem = Some(Problem::Taken(subnets));
        self.lost = Some(subnets);
        self.own = None;
        self.wish = None;
    }

    /// The store has something new that may end a wait: a config, a freed subnet.
    pub fn stir(&mut self, now: Duration) {
        if let Phase::Read(at) = &mut self.phase {
            *at = (*at).min(now);
        }
    }

    fn wait_for(&mut self, problem: Problem, now: Duration) {
        self.problem = Some(problem);
        self.read_later(now);
    }

    fn read_again(&mut self, failure: Failure, now: Duration) {
        match failure {
            Failure::Raced => self.read_later(now),
            Failure::Unanswered(reason) => self.failed(reason, now),
        }
    }

    fn read_later(&mut self, now: Duration) {
        self.phase = Phase::Read(now + self.acquire.delay());
    }
}

impl Holding {
    fn is_younger_than(&self, other: Revision) -> bool {
        self.created.is_some_and(|created| other.is_before(created))
    }
}

#[cfg(test)]
mod tests;
