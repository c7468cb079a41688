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

use crate::allocate;
use crate::backoff::{Backoff, BackoffPolicy};
use crate::config::NetworkConfig;
use crate::family::Family;
use crate::lease::table::{LeaseTable, TableEntry};
use crate::lease::{Lease, LeaseAttrs, Revision, Subnets};
use crate::seed::Seed;
use crate::store::{CreateGuard, Grant, Held, Listing};

pub use problem::Problem;
pub use step::{Failure, Step};

mod problem;
mod step;

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

/// What a watch or listing tells of our record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnRecord {
    /// Our key.
    pub subnets: Subnets,
    /// Everything up to here is included.
    pub seen: Revision,
    /// The record under our key, if there is one.
    pub record: Option<(LeaseAttrs, Revision, Option<Grant>)>,
    /// How many listings there have been. A new one shows also what a store has lost with its revisions; as a number it is
    /// not missed by who sees only the latest view.
    pub listings: u64,
    /// Leases of other nodes that share addresses with ours, with their revisions.
    pub overlaps: Vec<(Subnets, Revision)>,
}

impl OwnRecord {
    /// Whether a claim that knows `before` has to be told this. The revision moves with every change of the cluster; alone it
    /// is no news, unless our record is missing: the claim may have written one since, which is gone again.
    #[must_use]
    pub fn is_news(&self, before: Option<&Self>) -> bool {
        let parts = |view: &Self| (view.subnets, view.listings, view.record.clone(), view.overlaps.clone());
        self.record.is_none() || before.is_none_or(|before| parts(before) != parts(self))
    }
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
        let own = remembered.map(|(subnets, attrs)| Holding {
            subnets,
            attrs,
            revision: Revision::new(0),
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

    /// The store was listed.
    pub fn listed(&mut self, listing: &Listing, now: Duration) {
        let config = match &listing.config {
            None => Err(Problem::NoConfig),
            Some(record) => match NetworkConfig::parse(&record.text) {
                Ok(config) => Ok((config, record.revision)),
                Err(error) => Err(Problem::BadConfig(error)),
            },
        };
        let usable = config.as_ref().ok().map(|(config, _)| config);
        if let Some(phase) = self.adopt(listing, usable, now) {
            self.phase = phase;
            return;
        }
        let (config, revision) = match config {
            Ok(config) => config,
            Err(problem) => return self.wait_for(problem, now),
        };
        let wish = self.own.as_ref().map(|own| own.subnets).or(self.wish);
        // Keys of unreadable records count: they cannot be created.
        let taken: Vec<Subnets> =
            listing.records.iter().filter_map(|record| Subnets::parse_key(&record.key).ok()).collect();
        match allocate::choose(&config, &taken, wish.as_ref(), self.chance.next_u64()) {
            Ok(subnets) => {
                let dual = config.has(Family::V4) && config.has(Family::V6);
                let guard = CreateGuard { config: revision, records: dual.then_some(listing.revision) };
                self.phase = Phase::Create(subnets, guard);
            }
            Err(error) => self.wait_for(Problem::Full(error), now),
        }
    }

    /// Looks for a record that is ours: the next phase, or `None` if a subnet must be chosen.
    fn adopt(&mut self, listing: &Listing, config: Option<&NetworkConfig>, now: Duration) -> Option<Phase> {
        let wanted = self.wanted.clone()?;
        let mut table = LeaseTable::default();
        table.replace(&listing.records);
        let (before, doubtful) = (self.own.clone(), self.doubtful.clone());
        let is_mine = |lease: &Lease| is_ours(lease, &wanted, before.as_ref(), &doubtful);
        if let Some(own) = &before
            && is_lost(own, &table, is_mine)
        {
            self.lose(own.subnets);
        } else if let Some(wish) = self.wish.filter(|_| before.is_none())
            && table
                .leases()
                .values()
                .any(|entry| entry.lease.subnets.overlap(&wish) && !is_mine(&entry.lease))
        {
            // The CNI plugin may have been told of it by an earlier run.
            self.lost = Some(wish);
        } else if let Some(own) = before.as_ref().filter(|own| own.confirmed)
            && let Some(phase) = self.mend(own, listing, &table, now)
        {
            return Some(phase);
        }
        let is_allowed =
            |entry: &TableEntry| config.is_some_and(|config| config.allows(&entry.lease.subnets));
        let held = self.own.as_ref().map(|own| own.subnets);
        // The pods of a running node keep their addresses, whatever the config says now and whatever else is ours. Only the
        // administrator can move them, by deleting our record where there is a reservation.
        let keeps = self.own.as_ref().is_some_and(|own| own.confirmed);
        let mine = table.leases().values().filter(|entry| is_mine(&entry.lease));
        let found = mine
            .clone()
            .filter(|entry| {
                let same = Some(entry.lease.subnets) == held;
                keeps && same || is_allowed(entry) && (!keeps || entry.grant.is_none())
            })
            .max_by_key(|entry| {
                let subnets = Some(entry.lease.subnets);
                (subnets == held, entry.grant.is_none(), subnets == self.wish)
            });
        if let Some(entry) = found {
            return Some(self.take(entry, &wanted, &table, now));
        }
        // Of another range or length: Go's daemon replaces it too. Reservations are the administrator's.
        config?;
        mine.filter(|entry| entry.grant.is_some() && !is_allowed(entry))
            .map(|entry| Phase::Delete(entry.lease.subnets, entry.lease.revision))
            .next()
    }

    /// Our record cannot be read, by us or any other node. Nobody else has a use for it.
    fn mend(&mut self, own: &Holding, listing: &Listing, table: &LeaseTable, now: Duration) -> Option<Phase> {
        let key = own.subnets.to_string();
        table.rejected().get(&key)?;
        let record = listing.records.iter().find(|record| record.key == key)?;
        let expires = own.expires.filter(|_| record.grant == own.grant);
        self.hold(Holding { revision: record.revision, grant: record.grant, expires, ..own.clone() });
        self.damaged = true;
        Some(Phase::Held(now))
    }

    /// Takes over a record that is ours.
    fn take(&mut self, entry: &TableEntry, wanted: &LeaseAttrs, table: &LeaseTable, now: Duration) -> Phase {
        let lease = &entry.lease;
        let before = self.own.clone().filter(|own| own.confirmed && own.subnets == lease.subnets);
        if let Some(own) = &before {
            let known = [&own.attrs, wanted].contains(&&lease.attrs) || self.doubtful.contains(&lease.attrs);
            // A lower revision is that of a store restored from a backup.
            if own.revision.is_before(lease.revision) && !known {
                self.problem = Some(Problem::DuplicateAddress {
                    subnets: lease.subnets,
                    theirs: Box::new(lease.attrs.clone()),
                });
                return Phase::Held(now);
            }
            let overlaps = table.overlapping(&own.subnets).map(|lease| lease.revision);
            if overlaps.into_iter().any(|revision| own.is_younger_than(revision)) {
                return Phase::Delete(lease.subnets, lease.revision);
            }
        }
        let same_grant = before.as_ref().filter(|own| own.grant == entry.grant);
        let same_store = before.as_ref().filter(|own| !lease.revision.is_before(own.revision));
        self.hold(Holding {
            subnets: lease.subnets,
            attrs: lease.attrs.clone(),
            revision: lease.revision,
            grant: entry.grant,
            expires: same_grant.and_then(|own| own.expires),
            created: same_store.and_then(|own| own.created),
            confirmed: true,
        });
        Phase::Held(now)
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
                self.acquire.reset();
                self.phase = Phase::Held(now);
            }
            Err(failure) => {
                if matches!(failure, Failure::Unanswered(_)) {
                    // It may yet be created. Whoever tries the same key again cannot end up with two.
                    self.wish = Some(subnets);
                }
                self.read_again(failure, now);
            }
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
                self.doubtful.clear();
                self.problem = None;
                // Whoever damages a record again and again is not answered at once each time.
                if !std::mem::take(&mut self.damaged) {
                    self.acquire.reset();
                }
            }
            (Ok(_), None) => {}
            (Err(failure), _) => {
                if matches!(failure, Failure::Unanswered(_)) && !self.doubtful.contains(&attrs) {
                    self.doubtful.push(attrs);
                }
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
                let pause = held.remaining.unwrap_or(RENEW.cap) / 3;
                if matches!(self.problem, Some(Problem::StoreAway(_))) {
                    self.problem = None;
                }
                self.renew.reset();
                self.acquire.reset();
                self.phase = Phase::Held(now + pause.max(RENEW_PAUSE));
            }
            (Ok(_), None) => {}
            (Err(Failure::Raced), _) => self.read_again(Failure::Raced, now),
            (Err(Failure::Unanswered(reason)), own) => {
                let delay = self.renew.delay();
                // Several attempts also for a lease that is short, or nearly over.
                let left = own.as_ref().and_then(|own| own.expires).map(|end| end.saturating_sub(now));
                let delay = match left {
                    Some(left) if !left.is_zero() => delay.min(left / 4).max(RENEW_PAUSE),
                    _ => delay,
                };
                self.problem = Some(Problem::StoreAway(reason));
                self.phase = Phase::Held(now + delay);
            }
        }
    }

    /// A record was to be deleted.
    pub fn deleted(&mut self, outcome: Result<(), Failure>, now: Duration) {
        let Phase::Delete(subnets, _) = self.phase else { return };
        if let Err(failure) = outcome {
            return self.read_again(failure, now);
        }
        self.phase = Phase::Read(now);
        match self.own.take_if(|own| own.subnets == subnets) {
            Some(own) if own.confirmed => self.lose(subnets),
            // What the config still allows of it is kept: a node that gets IPv6 keeps its IPv4 subnet.
            _ => drop(self.wish.get_or_insert(subnets)),
        }
    }

    /// Takes what a watch or listing tells of our record.
    pub fn seen(&mut self, view: &OwnRecord, now: Duration) {
        let listed = self.listings.replace(view.listings).is_some_and(|before| before != view.listings);
        let (Phase::Held(_), Some(own)) = (&self.phase, &mut self.own) else { return };
        if !own.confirmed || view.subnets != own.subnets {
            return;
        }
        if view.seen.is_before(own.revision) {
            // Late, or of a store that has lost its content: only a reading of our own can tell.
            if listed {
                self.phase = Phase::Read(now);
            }
            return;
        }
        let Some((attrs, revision, grant)) = &view.record else {
            return self.read_later(now);
        };
        let known =
            *attrs == own.attrs || self.wanted.as_ref() == Some(attrs) || self.doubtful.contains(attrs);
        if known {
            // Our own write, one whose answer was lost, or a renewal in Go's way.
            if own.revision != *revision {
                self.doubtful.clear();
            }
            own.attrs = attrs.clone();
            own.revision = *revision;
            self.damaged = false;
            if own.grant != *grant {
                own.grant = *grant;
                own.expires = None;
                self.phase = Phase::Held(now);
            }
            if matches!(self.problem, Some(Problem::DuplicateAddress { .. })) {
                self.problem = None;
            }
        } else if attrs.is_same_node(&own.attrs) {
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
        if overlaps.iter().any(|(_, revision)| own.is_younger_than(*revision)) {
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

impl Holding {
    fn is_younger_than(&self, other: Revision) -> bool {
        self.created.is_some_and(|created| other.is_before(created))
    }
}

/// Whether a lease is that of this node, which wants `wanted`, holds `own`, and may have written `doubtful`.
fn is_ours(lease: &Lease, wanted: &LeaseAttrs, own: Option<&Holding>, doubtful: &[LeaseAttrs]) -> bool {
    lease.attrs.is_same_node(wanted)
        || own.is_some_and(|own| match own.confirmed {
            true => lease.attrs.is_same_node(&own.attrs) || doubtful.contains(&lease.attrs),
            // A remembered lease is ours under another address only if the record is the very same.
            false => lease.subnets == own.subnets && lease.attrs == own.attrs,
        })
}

/// Whether what we hold belongs to others now, under the same key or another one.
fn is_lost(own: &Holding, table: &LeaseTable, is_mine: impl Fn(&Lease) -> bool) -> bool {
    match table.leases().get(&own.subnets) {
        Some(entry) => !is_mine(&entry.lease),
        None => table.overlapping(&own.subnets).any(|lease| !is_mine(lease)),
    }
}

#[cfg(test)]
mod tests;
