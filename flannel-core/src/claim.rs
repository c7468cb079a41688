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

use std::fmt;
use std::time::Duration;

use crate::allocate::{self, AllocateError};
use crate::backoff::{Backoff, BackoffPolicy};
use crate::config::{NetworkConfig, ParseConfigError};
use crate::family::Family;
use crate::lease::table::LeaseTable;
use crate::lease::{Lease, LeaseAttrs, Revision, Subnets};
use crate::seed::Seed;
use crate::store::{CreateGuard, Grant, Held, Listing};

/// Attempts to get a lease. Short at first: simultaneous starters lose races that are over in milliseconds.
const ACQUIRE: BackoffPolicy =
    BackoffPolicy { first: Duration::from_millis(50), cap: Duration::from_secs(5) };

/// Attempts to renew one, which starts long before its end.
const RENEW: BackoffPolicy = BackoffPolicy { first: Duration::from_secs(1), cap: Duration::from_secs(60) };

/// What the caller does next, and then reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing until an input arrives, or until this time since the start.
    Wait(Option<Duration>),
    /// List the store; report with [`Claim::listed`] or [`Claim::failed`].
    List,
    /// Create a record; report with [`Claim::created`].
    Create {
        /// Its key.
        subnets: Subnets,
        /// Its value.
        attrs: LeaseAttrs,
        /// What must still hold.
        guard: CreateGuard,
    },
    /// Change our record; report with [`Claim::updated`].
    Update {
        /// Its key.
        subnets: Subnets,
        /// Its new value.
        attrs: LeaseAttrs,
        /// What is known of it.
        held: Held,
    },
    /// Prolong our record; report with [`Claim::renewed`].
    Renew {
        /// Its key.
        subnets: Subnets,
        /// What is known of it.
        held: Held,
    },
    /// Delete a record of ours that cannot be used; report with [`Claim::deleted`].
    Delete {
        /// Its key.
        subnets: Subnets,
        /// Its revision.
        revision: Revision,
    },
}

/// Why a write did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A guard did not hold, or what should be renewed is gone. Nothing was written.
    Raced,
    /// No answer, or the store refused: what happened is unknown. With the reason.
    Unanswered(String),
}

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

/// What is in the way of a healthy lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// The store does not answer, or refuses.
    StoreAway(String),
    /// There is no network config.
    NoConfig,
    /// The network config cannot be used.
    BadConfig(ParseConfigError),
    /// There is no free subnet.
    Full(AllocateError),
    /// Another node took our subnet while our lease had ended.
    Taken(Subnets),
    /// A node with our public address has rewritten our record.
    DuplicateAddress {
        /// The subnet in question.
        subnets: Subnets,
        /// What the other node published.
        theirs: Box<LeaseAttrs>,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StoreAway(reason) => write!(f, "the store does not serve us: {reason}"),
            Self::NoConfig => f.write_str(
                "the store has no network config: write one to <prefix>/config, such as {\"Network\":\"10.5.0.0/16\"}",
            ),
            Self::BadConfig(error) => {
                write!(f, "{error}")?;
                let mut source = std::error::Error::source(error);
                while let Some(error) = source {
                    write!(f, ": {error}")?;
                    source = error.source();
                }
                Ok(())
            }
            Self::Full(error) => error.fmt(f),
            Self::Taken(subnets) => write!(
                f,
                "subnet {subnets} belongs to another node since our lease ended: pods with its addresses must be replaced"
            ),
            Self::DuplicateAddress { subnets, theirs } => write!(
                f,
                "another node uses our public address {}: it has rewritten our record of {subnets}; \
                 give each node its own address (--public-ip, --iface) and restart this one",
                Family::ALL
                    .into_iter()
                    .find_map(|family| theirs.public_address(family))
                    .map_or_else(String::new, |address| address.to_string()),
            ),
        }
    }
}

/// What a watch or listing tells of our record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnRecord {
    /// Our key.
    pub subnets: Subnets,
    /// Everything up to here is included.
    pub seen: Revision,
    /// The record under our key, if there is one.
    pub record: Option<(LeaseAttrs, Revision, Option<Grant>)>,
    /// It comes from a listing, which shows also what a store has lost with its revisions.
    pub listed: bool,
    /// Leases of other nodes that share addresses with ours, with their revisions.
    pub overlaps: Vec<(Subnets, Revision)>,
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
    /// What an update without an answer may have written.
    doubtful: Option<LeaseAttrs>,
    phase: Phase,
    problem: Option<Problem>,
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
        let own = remembered.map(|(subnets, attrs)| Holding {
            subnets,
            attrs,
            revision: Revision(0),
            grant: None,
            expires: None,
            created: None,
            confirmed: false,
        });
        Self {
            renew_margin,
            chance: Seed::new(seed),
            acquire: ACQUIRE.delays(seed),
            renew: RENEW.delays(seed),
            wanted: None,
            wish,
            own,
            doubtful: None,
            phase: Phase::Read(Duration::ZERO),
            problem: None,
        }
    }

    /// The lease that we hold. Remembered ones count only once the store has failed to answer.
    #[must_use]
    pub fn own(&self) -> Option<&Holding> {
        self.own.as_ref().filter(|own| own.confirmed || matches!(self.problem, Some(Problem::StoreAway(_))))
    }

    /// What is in the way.
    #[must_use]
    pub const fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }

    /// Sets how we want to be reached.
    pub fn want(&mut self, attrs: LeaseAttrs) {
        if let Some(Problem::DuplicateAddress { subnets, theirs }) = &self.problem
            && !same_node(theirs, &attrs)
        {
            // With an address of our own again, the record is plainly the other node's.
            self.problem = Some(Problem::Taken(*subnets));
            self.own = None;
            self.wish = None;
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
        if own.attrs != *wanted {
            return Step::Update { subnets: own.subnets, attrs: wanted.clone(), held };
        }
        if own.grant.is_none() {
            return Step::Wait(None);
        }
        // Of an adopted lease the end is not known: the first renewal tells it.
        let due = own.expires.map_or(Duration::ZERO, |end| end.saturating_sub(self.renew_margin));
        let due = due.max(renew_from);
        if now < due { Step::Wait(Some(due)) } else { Step::Renew { subnets: own.subnets, held } }
    }

    /// The store could not be listed.
    pub fn failed(&mut self, reason: String, now: Duration) {
        self.problem = Some(Problem::StoreAway(reason));
        self.read_later(now);
    }

    /// The store was listed.
    pub fn listed(&mut self, listing: &Listing, now: Duration) {
        let Some(config) = &listing.config else {
            return self.wait_for(Problem::NoConfig, now);
        };
        let parsed = match NetworkConfig::parse(&config.text) {
            Ok(parsed) => parsed,
            Err(error) => return self.wait_for(Problem::BadConfig(error), now),
        };
        let mut table = LeaseTable::default();
        table.replace(&listing.records);
        if let Some(phase) = self.adopt(&table, &parsed, now) {
            self.phase = phase;
            return;
        }
        let wish = self.own.as_ref().map(|own| own.subnets).or(self.wish);
        // Keys of unreadable records count: they cannot be created.
        let taken: Vec<Subnets> =
            listing.records.iter().filter_map(|record| Subnets::parse_key(&record.key).ok()).collect();
        match allocate::choose(&parsed, &taken, wish.as_ref(), self.chance.next_u64()) {
            Ok(subnets) => {
                let dual = parsed.has(Family::V4) && parsed.has(Family::V6);
                let guard =
                    CreateGuard { config: config.revision, records: dual.then_some(listing.revision) };
                self.phase = Phase::Create(subnets, guard);
            }
            Err(error) => self.wait_for(Problem::Full(error), now),
        }
    }

    /// Looks for a record that is ours: the next phase, or `None` if a subnet must be chosen.
    fn adopt(&mut self, table: &LeaseTable, config: &NetworkConfig, now: Duration) -> Option<Phase> {
        let wanted = self.wanted.clone()?;
        let (own, doubtful) = (self.own.clone(), self.doubtful.clone());
        let is_mine = |lease: &Lease| {
            same_node(&lease.attrs, &wanted)
                || own.as_ref().is_some_and(|own| {
                    // A remembered lease is ours under another address only if the record is the very same.
                    if own.confirmed {
                        same_node(&lease.attrs, &own.attrs) || doubtful.as_ref() == Some(&lease.attrs)
                    } else {
                        lease.subnets == own.subnets && lease.attrs == own.attrs
                    }
                })
        };
        if let Some(own) = &self.own
            && table.leases().get(&own.subnets).is_some_and(|entry| !is_mine(&entry.lease))
        {
            self.problem = Some(Problem::Taken(own.subnets));
            self.wish = None;
            self.own = None;
        }
        let mine = || table.leases().values().filter(|entry| is_mine(&entry.lease));
        let preferred = self.own.as_ref().map(|own| own.subnets);
        let found = mine()
            // A running node is not moved because the config has changed: its pods would lose their addresses.
            .filter(|entry| {
                config.allows(&entry.lease.subnets)
                    || own.as_ref().is_some_and(|own| own.confirmed && own.subnets == entry.lease.subnets)
            })
            .max_by_key(|entry| (Some(entry.lease.subnets) == preferred, entry.grant.is_none()));
        if let Some(entry) = found {
            let lease = &entry.lease;
            let rewritten = self.own.as_ref().is_some_and(|own| {
                own.confirmed && own.revision != lease.revision && own.attrs != lease.attrs
            });
            if rewritten && lease.attrs != wanted && doubtful.as_ref() != Some(&lease.attrs) {
                self.problem = Some(Problem::DuplicateAddress {
                    subnets: lease.subnets,
                    theirs: Box::new(lease.attrs.clone()),
                });
                return Some(Phase::Held(now));
            }
            self.hold(Holding {
                subnets: lease.subnets,
                attrs: lease.attrs.clone(),
                revision: lease.revision,
                grant: entry.grant,
                expires: None,
                created: None,
                confirmed: true,
            });
            return Some(Phase::Held(now));
        }
        // Of another range or length: Go's daemon replaces it too. Reservations are the administrator's.
        mine()
            .find(|entry| entry.grant.is_some())
            .map(|entry| Phase::Delete(entry.lease.subnets, entry.lease.revision))
    }

    fn hold(&mut self, own: Holding) {
        self.own = Some(own);
        self.doubtful = None;
        self.problem = None;
        self.acquire.reset();
    }

    /// A record was to be created with `attrs`.
    pub fn created(&mut self, attrs: LeaseAttrs, outcome: Result<Held, Failure>, now: Duration) {
        let Phase::Create(subnets, _) = self.phase else { return };
        match outcome {
            Ok(held) => {
                self.hold(Holding {
                    subnets,
                    attrs,
                    revision: held.revision,
                    grant: held.grant,
                    expires: held.remaining.map(|left| now + left),
                    created: Some(held.revision),
                    confirmed: true,
                });
                self.phase = Phase::Held(now);
            }
            Err(failure) => self.read_again(failure, now),
        }
    }

    /// Our record was to be changed to `attrs`.
    pub fn updated(&mut self, attrs: LeaseAttrs, outcome: Result<Held, Failure>, now: Duration) {
        match (outcome, &mut self.own) {
            (Ok(held), Some(own)) => {
                own.attrs = attrs;
                own.revision = held.revision;
                own.grant = held.grant;
                own.expires = held.remaining.map(|left| now + left).or(own.expires);
                self.problem = None;
                self.acquire.reset();
            }
            (Ok(_), None) => {}
            (Err(failure), _) => {
                self.doubtful = matches!(failure, Failure::Unanswered(_)).then_some(attrs);
                self.read_again(failure, now);
            }
        }
    }

    /// Our record was to be prolonged.
    pub fn renewed(&mut self, outcome: Result<Held, Failure>, now: Duration) {
        match (outcome, &mut self.own) {
            (Ok(held), Some(own)) => {
                own.expires = held.remaining.map(|left| now + left);
                // A grant that a Go daemon made may be shorter than our margin; without a pause we would spin.
                let pause = held.remaining.unwrap_or_default() / 3;
                self.problem = None;
                self.renew.reset();
                self.phase = Phase::Held(now + pause);
            }
            (Ok(_), None) => {}
            (Err(Failure::Raced), _) => self.read_again(Failure::Raced, now),
            (Err(Failure::Unanswered(reason)), _) => {
                self.problem = Some(Problem::StoreAway(reason));
                self.phase = Phase::Held(now + self.renew.delay());
            }
        }
    }

    /// A record was to be deleted.
    pub fn deleted(&mut self, outcome: Result<(), Failure>, now: Duration) {
        let Phase::Delete(subnets, _) = self.phase else { return };
        match outcome {
            Ok(()) => {
                self.own = self.own.take().filter(|own| own.subnets != subnets);
                self.phase = Phase::Read(now);
            }
            Err(failure) => self.read_again(failure, now),
        }
    }

    /// Takes what a watch or listing tells of our record.
    pub fn seen(&mut self, view: &OwnRecord, now: Duration) {
        let (Phase::Held(_), Some(own)) = (&self.phase, &mut self.own) else { return };
        let stale = view.seen < own.revision && !view.listed;
        if !own.confirmed || view.subnets != own.subnets || stale {
            return;
        }
        let Some((attrs, revision, grant)) = &view.record else {
            self.phase = Phase::Read(now);
            return;
        };
        let ours = *attrs == own.attrs
            || self.wanted.as_ref() == Some(attrs)
            || self.doubtful.as_ref() == Some(attrs);
        if ours {
            // Our own write, one whose answer was lost, or a renewal in Go's way.
            own.attrs = attrs.clone();
            own.revision = *revision;
            if own.grant != *grant {
                own.grant = *grant;
                own.expires = None;
                self.phase = Phase::Held(now);
            }
            if matches!(self.problem, Some(Problem::DuplicateAddress { .. })) {
                self.problem = None;
            }
        } else if same_node(attrs, &own.attrs) {
            self.problem =
                Some(Problem::DuplicateAddress { subnets: own.subnets, theirs: Box::new(attrs.clone()) });
        } else {
            self.phase = Phase::Read(now);
        }
        self.yield_to_older(&view.overlaps);
    }

    /// Gives up a lease that we created although an older one overlaps it: a daemon that does not guard its writes came
    /// between our listing and our creation. The younger lease goes.
    fn yield_to_older(&mut self, overlaps: &[(Subnets, Revision)]) {
        let (Phase::Held(_), Some(own)) = (&self.phase, &self.own) else { return };
        let older = |revision: Revision| own.created.is_some_and(|created| revision < created);
        if overlaps.iter().any(|(_, revision)| older(*revision)) {
            self.phase = Phase::Delete(own.subnets, own.revision);
        }
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

/// Whether two records are of one node: the same public IPv4 address, or, where there is none, IPv6 address.
fn same_node(one: &LeaseAttrs, other: &LeaseAttrs) -> bool {
    match (one.public_ip, other.public_ip) {
        (Some(one), Some(other)) => one == other,
        (None, None) => one.public_ipv6.is_some() && one.public_ipv6 == other.public_ipv6,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
