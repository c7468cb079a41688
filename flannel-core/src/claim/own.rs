//! The lease of this node, whoever chooses its subnet.

use ipnet::IpNet;
use std::ops::Deref;
use std::time::Duration;

use super::{Assigned, Claim, Failure, LeaseState, OwnRecord, Step};
use crate::family::DualStack;
use crate::lease::LeaseAttrs;
use crate::store::{Assignment, Held, Listing};

/// The lease of this node. The caller asks [`OwnLease::next`] what to do, does it, and reports the outcome.
#[derive(Clone, Debug)]
pub enum OwnLease {
    /// The node chooses a free subnet and claims it.
    Claimed(Claim),
    /// The store assigns a subnet to the node.
    Assigned(Assigned),
}

/// What this node publishes, and for which networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How the node is reached.
    pub attrs: LeaseAttrs,
    /// The networks of the enabled families.
    pub networks: DualStack<IpNet>,
}

/// The outcome of a [`Step`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of [`Step::Wait`]: an input arrived, or the time is over.
    Waited,
    /// Of [`Step::List`].
    Listed(Result<Listing, String>),
    /// Of [`Step::ReadAssignment`].
    AssignmentRead(Result<Assignment, String>),
    /// Of [`Step::Create`], with the attributes.
    Created(LeaseAttrs, Result<Held, Failure>),
    /// Of [`Step::Update`], with the attributes.
    Updated(LeaseAttrs, Result<Held, Failure>),
    /// Of [`Step::Renew`].
    Renewed(Result<Held, Failure>),
    /// Of [`Step::Delete`].
    Deleted(Result<(), Failure>),
}

impl Deref for OwnLease {
    type Target = LeaseState;

    fn deref(&self) -> &LeaseState {
        match self {
            Self::Claimed(claim) => &claim.state,
            Self::Assigned(assigned) => &assigned.state,
        }
    }
}

impl OwnLease {
    /// Sets what to publish.
    pub fn want(&mut self, wanted: Wanted) {
        match self {
            Self::Claimed(claim) => claim.want(wanted.attrs),
            Self::Assigned(assigned) => assigned.want(wanted),
        }
    }

    /// Returns what to do now.
    #[must_use]
    pub fn next(&self, now: Duration) -> Step {
        match self {
            Self::Claimed(claim) => claim.next(now),
            Self::Assigned(assigned) => assigned.next(now),
        }
    }

    /// Takes the outcome of a step.
    pub fn report(&mut self, outcome: Outcome, now: Duration) {
        match (self, outcome) {
            (Self::Claimed(claim), Outcome::Listed(Ok(listing))) => claim.listed(&listing, now),
            (Self::Claimed(claim), Outcome::Listed(Err(reason))) => claim.state.failed(reason, now),
            (Self::Claimed(claim), Outcome::Created(attrs, outcome)) => claim.created(attrs, outcome, now),
            (Self::Claimed(claim), Outcome::Updated(attrs, outcome)) => claim.updated(attrs, outcome, now),
            (Self::Claimed(claim), Outcome::Renewed(outcome)) => claim.renewed(outcome, now),
            (Self::Claimed(claim), Outcome::Deleted(outcome)) => claim.deleted(outcome, now),
            (Self::Assigned(assigned), Outcome::AssignmentRead(outcome)) => assigned.read(outcome, now),
            (Self::Assigned(assigned), Outcome::Updated(attrs, outcome)) => {
                assigned.updated(attrs, outcome, now);
            }
            // Of steps that this kind of lease never asks for.
            (Self::Claimed(_) | Self::Assigned(_), _) => {}
        }
    }

    /// Takes what the watch shows of our record.
    pub fn seen(&mut self, view: &OwnRecord, now: Duration) {
        match self {
            Self::Claimed(claim) => claim.seen(view, now),
            Self::Assigned(assigned) => assigned.seen(view, now),
        }
    }

    /// Ends a wait: the store has something new.
    pub fn wake(&mut self, now: Duration) {
        match self {
            Self::Claimed(claim) => claim.state.wake(now),
            Self::Assigned(assigned) => assigned.state.wake(now),
        }
    }
}
