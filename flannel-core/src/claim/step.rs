//! What the claim machine wants done.

use std::time::Duration;

use crate::lease::{LeaseAttrs, Revision, Subnets};
use crate::store::{CreateGuard, Held};

/// What the caller does next, and then reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing until an input arrives, or until this time since the start.
    Wait(Option<Duration>),
    /// List the store; report with [`super::Outcome::Listed`].
    List,
    /// Read the subnet that the store assigns to this node; report with [`super::Assigned::read`].
    ReadAssignment,
    /// Create a record; report with [`super::Claim::created`].
    Create {
        /// Its key.
        subnets: Subnets,
        /// Its value.
        attrs: LeaseAttrs,
        /// What must still hold.
        guard: CreateGuard,
    },
    /// Change our record; report with [`super::Claim::updated`].
    Update {
        /// Its key.
        subnets: Subnets,
        /// Its new value.
        attrs: LeaseAttrs,
        /// What is known of it.
        held: Held,
    },
    /// Prolong our record; report with [`super::Claim::renewed`].
    Renew {
        /// Its key.
        subnets: Subnets,
        /// What is known of it.
        held: Held,
    },
    /// Delete a record of ours that cannot be used; report with [`super::Claim::deleted`].
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
