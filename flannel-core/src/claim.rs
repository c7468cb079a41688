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
use crate::config::{NetworkConfig, ParseConfigError};
use crate::family::Family;
use crate::lease::table::LeaseTable;
use crate::lease::{Lease, LeaseAttrs, Revision, Subnets};
use crate::store::{CreateGuard, Grant, Held, Listing};

/// First and longest wait between attempts while something is in the way.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Longest wait between attempts to renew: renewing starts long before the end.
const RENEW_RETRY: Duration = Duration::from_secs(60);

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
    /// Everything up to here is included.
    pub seen: Revision,
    /// The record under our key, if there is one.
    pub record: Option<(LeaseAttrs, Revision, Option<Grant>)>,
    /// A lease of another node that shares addresses with ours and is older.
    pub overlapped_by: Option<Subnets>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// The store is read at this time.
    Read(Duration),
    /// A record is to be created.
    Create(Subnets, CreateGuard),
    /// A record of ours is to be deleted, after which we read again.
    Delete(Subnets, Revision),
    /// We hold a lease. Nothing is written before this time.
    Held(Duration),
}

/// The claim of this node. Times are durations since the start of the daemon.
#[derive(Clone, Debug)]
pub struct Claim {
    renew_margin: Duration,
    chance: u64,
    wanted: Option<LeaseAttrs>,
    wish: Option<Subnets>,
    own: Option<Holding>,
    phase: Phase,
    attempt: u32,
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
            confirmed: false,
        });
        Self {
            renew_margin,
            chance: seed,
            wanted: None,
            wish,
            own,
            phase: Phase::Read(Duration::ZERO),
            attempt: 0,
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
            Phase::Held(not_before) => self.keep(wanted, *not_before, now),
        }
    }

    fn keep(&self, wanted: &LeaseAttrs, not_before: Duration, now: Duration) -> Step {
        let Some(own) = &self.own else { return Step::List };
        if matches!(self.problem, Some(Problem::DuplicateAddress { .. })) {
            return Step::Wait(None);
        }
        let held = Held { revision: own.revision, grant: own.grant, remaining: None };
        let renew_at = own.grant.map(|_| own.expires.map_or(Duration::ZERO, |end| self.renewal_before(end)));
        let due = if own.attrs == *wanted { renew_at } else { Some(Duration::ZERO) };
        match due.map(|due| due.max(not_before)) {
            Some(due) if now < due => Step::Wait(Some(due)),
            None => Step::Wait(None),
            Some(_) if own.attrs == *wanted => Step::Renew { subnets: own.subnets, held },
            Some(_) => Step::Update { subnets: own.subnets, attrs: wanted.clone(), held },
        }
    }

    const fn renewal_before(&self, end: Duration) -> Duration {
        end.saturating_sub(self.renew_margin)
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
        let taken: Vec<Subnets> = table.leases().keys().copied().collect();
        match allocate::choose(&parsed, &taken, wish.as_ref(), self.draw()) {
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
        let own = self.own.clone();
        let is_mine = |lease: &Lease| {
            same_node(&lease.attrs, &wanted)
                || own.as_ref().is_some_and(|own| {
                    // A remembered lease is ours under another address only if the record is the very same.
                    if own.confirmed {
                        same_node(&lease.attrs, &own.attrs)
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
            .filter(|entry| config.allows(&entry.lease.subnets))
            .max_by_key(|entry| (Some(entry.lease.subnets) == preferred, entry.grant.is_none()));
        if let Some(entry) = found {
            let lease = &entry.lease;
            let rewritten = self.own.as_ref().is_some_and(|own| {
                own.confirmed && own.revision != lease.revision && own.attrs != lease.attrs
            });
            if rewritten && lease.attrs != wanted {
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
        self.problem = None;
        self.attempt = 0;
    }

    /// A record was to be created.
    pub fn created(&mut self, outcome: Result<Held, Failure>, now: Duration) {
        let Phase::Create(subnets, _) = self.phase else { return };
        match outcome {
            Ok(held) => {
                let attrs = self.wanted.clone().unwrap_or_default();
                self.hold(Holding {
                    subnets,
                    attrs,
                    revision: held.revision,
                    grant: held.grant,
                    expires: held.remaining.map(|left| now + left),
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
                self.attempt = 0;
            }
            (Ok(_), None) => {}
            (Err(failure), _) => self.read_again(failure, now),
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
                self.attempt = 0;
                self.phase = Phase::Held(now + pause);
            }
            (Ok(_), None) => {}
            (Err(Failure::Raced), _) => self.read_again(Failure::Raced, now),
            (Err(Failure::Unanswered(reason)), _) => {
                self.problem = Some(Problem::StoreAway(reason));
                self.phase = Phase::Held(now + self.delay(RENEW_RETRY));
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

    /// Takes what the watch tells of our record.
    pub fn seen(&mut self, view: &OwnRecord, now: Duration) {
        let (Phase::Held(_), Some(own)) = (&self.phase, &mut self.own) else { return };
        if !own.confirmed || view.seen < own.revision {
            return;
        }
        let Some((attrs, revision, grant)) = &view.record else {
            self.phase = Phase::Read(now);
            return;
        };
        if *revision == own.revision && *attrs == own.attrs {
            if matches!(self.problem, Some(Problem::DuplicateAddress { .. })) {
                self.problem = None;
            }
        } else if *attrs == own.attrs {
            // An update of ours whose answer was lost, or a renewal in Go's way.
            own.revision = *revision;
            if own.grant != *grant {
                own.grant = *grant;
                own.expires = None;
            }
            if matches!(self.problem, Some(Problem::DuplicateAddress { .. })) {
                self.problem = None;
            }
        } else if same_node(attrs, &own.attrs) {
            if self.wanted.as_ref() == Some(attrs) {
                own.attrs = attrs.clone();
                own.revision = *revision;
                own.grant = *grant;
            } else {
                self.problem = Some(Problem::DuplicateAddress {
                    subnets: own.subnets,
                    theirs: Box::new(attrs.clone()),
                });
            }
        } else {
            self.phase = Phase::Read(now);
        }
        if let (Some(_), Phase::Held(_), Some(own)) = (view.overlapped_by, &self.phase, &self.own) {
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
        let wait = self.delay(RETRY.1);
        self.phase = Phase::Read(now + wait);
    }

    /// The next wait: doubles with every attempt in a row up to `longest`, and a random part of it.
    fn delay(&mut self, longest: Duration) -> Duration {
        let whole = RETRY.0.saturating_mul(1 << self.attempt.min(20)).min(longest);
        self.attempt = self.attempt.saturating_add(1);
        let thousandths = u32::try_from(self.draw() % 1000).unwrap_or_default();
        whole / 4 + (whole * 3 / 4) * thousandths / 1000
    }

    /// A number of the sequence that the seed gives (SplitMix64, Steele et al. 2014).
    fn draw(&mut self) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.chance ^ (self.chance >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
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
