//! The part of both state machines that does not depend on who chooses the subnet.

use std::time::Duration;

use super::{Holding, Problem};
use crate::backoff::{Backoff, BackoffPolicy};
use crate::lease::{LeaseAttrs, Revision, Subnets};
use crate::store::CreateGuard;

/// Attempts to get a lease. Short at first: simultaneous starters lose races that are over in milliseconds.
const ACQUIRE: BackoffPolicy =
    BackoffPolicy { first: Duration::from_millis(50), cap: Duration::from_secs(5) };

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The store is read at this time.
    Read(Duration),
    /// A record is to be created.
    Create(Subnets, CreateGuard),
    /// A record of this node is to be deleted; then the store is read again.
    Delete(Subnets, Revision),
    /// This node holds a lease. It is not renewed before this time.
    Held(Duration),
}

/// The lease of this node and what prevents a healthy one. Times are durations since the start of the daemon.
#[derive(Clone, Debug)]
pub struct LeaseState {
    pub(super) acquire: Backoff,
    /// The attributes to publish.
    pub(super) wanted: Option<LeaseAttrs>,
    pub(super) own: Option<Holding>,
    /// The store has failed to answer, so that a remembered lease serves.
    fallback: bool,
    /// Attributes of updates without an answer, which may have been or may yet be written: for as long as the record has
    /// the revision that they are guarded by.
    pub(super) doubtful: Vec<LeaseAttrs>,
    pub(super) phase: Phase,
    pub(super) problem: Option<Problem>,
    pub(super) lost: Option<Subnets>,
}

impl LeaseState {
    pub(super) fn new(remembered: Option<(Subnets, LeaseAttrs)>, seed: u64) -> Self {
        Self {
            acquire: ACQUIRE.delays(seed),
            wanted: None,
            own: remembered.map(|(subnets, attrs)| Holding::remembered(subnets, attrs)),
            fallback: false,
            doubtful: Vec::new(),
            phase: Phase::Read(Duration::ZERO),
            problem: None,
            lost: None,
        }
    }

    /// Returns the lease that this node holds; a remembered one only once the store has failed to answer.
    #[must_use]
    pub fn own(&self) -> Option<&Holding> {
        self.own.as_ref().filter(|own| own.confirmed || self.fallback)
    }

    /// Returns what prevents a healthy lease.
    #[must_use]
    pub const fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }

    /// Returns a subnet that this node has lost, until it holds a new one: no pod may be started with it.
    #[must_use]
    pub const fn lost(&self) -> Option<Subnets> {
        self.lost
    }

    /// The store could not be read.
    pub(super) fn failed(&mut self, reason: String, now: Duration) {
        self.problem = Some(Problem::StoreAway(reason));
        self.fallback = true;
        self.read_later(now);
    }

    /// Ends a wait: the store has something new.
    pub(super) fn wake(&mut self, now: Duration) {
        if let Phase::Read(at) = &mut self.phase {
            *at = (*at).min(now);
        }
    }

    pub(super) fn read_later(&mut self, now: Duration) {
        self.phase = Phase::Read(now + self.acquire.delay());
    }

    /// Remembers attributes of an update without an answer.
    pub(super) fn doubt(&mut self, attrs: LeaseAttrs) {
        if !self.doubtful.contains(&attrs) {
            self.doubtful.push(attrs);
        }
    }
}
