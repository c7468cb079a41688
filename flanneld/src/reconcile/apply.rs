//! Runs operations on an effector and counts their results.

use flannel_core::status::Action;
use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::Display;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::effector::{Effector, Operation as _};
use crate::error::chain;
use crate::status::History;

/// The results of operations.
#[derive(Clone, Copy, Default)]
pub(super) struct Applied {
    /// Objects of the desired state that were up to date.
    pub(super) kept: u64,
    pub(super) set: u64,
    pub(super) deleted: u64,
    pub(super) failed: u64,
    /// Those that failed and that every peer depends on.
    pub(super) failed_own: u64,
}

impl Applied {
    /// A round whose observation failed.
    pub(super) const BLIND: Self = Self { kept: 0, set: 0, deleted: 0, failed: 1, failed_own: 0 };

    /// How many succeeded.
    pub(super) const fn done(&self) -> u64 {
        self.set + self.deleted
    }
}

/// A few are enough to find the cause; thousands would hide it.
const SHOWN: usize = 5;

/// A few of the operations whose last attempt failed, as text.
#[derive(Default)]
pub(super) struct Failing {
    before: BTreeSet<String>,
    now: BTreeSet<String>,
}

impl Failing {
    /// From here on all operations are tried that are needed.
    pub(super) fn start_round(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }

    pub(super) fn list(&self) -> Vec<String> {
        self.now.iter().cloned().collect()
    }

    /// Logs a failure when it is new, not at every attempt.
    fn note(&mut self, op: &impl Display, error: &dyn Error) {
        if self.now.len() >= SHOWN {
            return;
        }
        let text = op.to_string();
        if !self.before.contains(&text) && !self.now.contains(&text) {
            warn!(op = %op, error = %chain(error), "operation failed, retrying");
        }
        self.now.insert(text);
    }
}

/// Runs operations, counts them in `applied` and for the metrics, and returns those that succeeded.
pub(super) async fn run<'a, E: Effector>(
    effector: &mut E,
    ops: &'a [E::Op],
    applied: &mut Applied,
    failing: &mut Failing,
    history: &watch::Sender<History>,
) -> Vec<&'a E::Op> {
    let mut done = Vec::new();
    if ops.is_empty() {
        return done;
    }
    let results = effector.apply(ops).await;
    history.send_modify(|history| {
        for (op, result) in ops.iter().zip(&results) {
            let (action, kind) = op.class();
            history.ops[kind as usize][action as usize][usize::from(result.is_err())] += 1;
        }
    });
    for (op, result) in ops.iter().zip(results) {
        match result {
            Ok(()) => {
                debug!(op = %op, "operation applied");
                done.push(op);
                match op.class().0 {
                    Action::Set => applied.set += 1,
                    Action::Delete => applied.deleted += 1,
                }
            }
            Err(error) => {
                applied.failed += 1;
                applied.failed_own += u64::from(op.is_own());
                failing.note(op, &error);
            }
        }
    }
    done
}
