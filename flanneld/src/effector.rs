//! The seam between the reconcile loop and what it controls: the kernel, and the agent of a backend.

use flannel_core::dataplane::Op;
use flannel_core::status::{Action, Kind, classify};
use std::error::Error;
use std::fmt::Display;

/// Something with a state that can be read, and changed by operations.
pub trait Effector: Send {
    /// Limits an observation.
    type Scope: Sync;
    /// The observed state.
    type State;
    /// One change of the state.
    type Op: Operation;
    /// Why it could not be read, or an operation failed.
    type Error: Error;

    /// Reads the state in full.
    fn observe(
        &mut self,
        scope: &Self::Scope,
    ) -> impl Future<Output = Result<Self::State, Self::Error>> + Send;

    /// Runs operations in order. The result has one entry for each; a failed operation does not stop those after it.
    fn apply(&mut self, ops: &[Self::Op]) -> impl Future<Output = Vec<Result<(), Self::Error>>> + Send;
}

/// An operation, as logs, status and metrics need it. Its text is a line in the manner of iproute2.
pub trait Operation: Display + Sync {
    /// Returns the class that the operation is counted in.
    fn class(&self) -> (Action, Kind);

    /// Whether every peer depends on it.
    fn is_own(&self) -> bool;
}

impl Operation for Op {
    fn class(&self) -> (Action, Kind) {
        classify(self)
    }

    fn is_own(&self) -> bool {
        matches!(self.class().1, Kind::Link | Kind::Address)
    }
}
