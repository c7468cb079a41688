//! Runs operations and counts them.

use flannel_core::dataplane::Op;
use flannel_core::status::{Action, classify};
use std::collections::BTreeSet;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Reconciler;
use crate::error::chain;
use crate::kernel::Kernel;

/// Whether operations are all that is wanted at present.
#[derive(Clone, Copy)]
pub(super) enum Tried {
    All,
    Some,
}

/// What came of operations.
#[derive(Clone, Copy, Default)]
pub(super) struct Applied {
    /// Objects of the desired state that were right already.
    pub(super) kept: u64,
    pub(super) set: u64,
    pub(super) deleted: u64,
    pub(super) failed: u64,
    /// Those that failed of our own device and its addresses, which every peer needs.
    pub(super) failed_own: u64,
}

impl Applied {
    /// A round that could not even look.
    pub(super) const BLIND: Self = Self { kept: 0, set: 0, deleted: 0, failed: 1, failed_own: 0 };

    /// How many succeeded.
    pub(super) const fn done(&self) -> u64 {
        self.set + self.deleted
    }
}

impl<K: Kernel> Reconciler<K> {
    /// Runs operations. A failure is logged when it is new, not at every attempt.
    pub(super) async fn apply(&mut self, ops: &[Op], tried: Tried) -> Applied {
        // Some tell what is wrong; thousands would hide it.
        const SHOWN: usize = 5;
        let mut applied = Applied::default();
        let mut failing = BTreeSet::new();
        let (mut done, started) = (Vec::new(), Instant::now());
        if !ops.is_empty() {
            let results = self.kernel.apply(ops).await;
            self.count(ops, &results);
            for (op, result) in ops.iter().zip(results) {
                let Err(error) = result else {
                    debug!(op = %op, "op applied");
                    done.push(op);
                    match classify(op).0 {
                        Action::Set => applied.set += 1,
                        Action::Delete => applied.deleted += 1,
                    }
                    continue;
                };
                applied.failed += 1;
                applied.failed_own += u64::from(is_own(op));
                if failing.len() < SHOWN {
                    let text = op.to_string();
                    if !self.failing.contains(&text) {
                        warn!(op = %op, error = %chain(&error), "op failed, will retry");
                    }
                    failing.insert(text);
                }
            }
        }
        match tried {
            Tried::All => {
                self.failing = failing;
                self.note_contest(&done, started.elapsed());
            }
            Tried::Some => self.failing.extend(failing),
        }
        applied
    }

    /// Adds to the counters of the metrics.
    fn count<T, E>(&self, ops: &[Op], results: &[Result<T, E>]) {
        self.outputs.history.send_modify(|history| {
            for (op, result) in ops.iter().zip(results) {
                let (action, kind) = classify(op);
                history.ops[kind as usize][action as usize][usize::from(result.is_err())] += 1;
            }
        });
    }
}

fn is_own(op: &Op) -> bool {
    matches!(
        op,
        Op::CreateLink(..) | Op::SetLink(..) | Op::DeleteLink(_) | Op::AddAddress(_) | Op::DeleteAddress(_)
    )
}
