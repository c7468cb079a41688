//! Names what other programs have in the way of operations that failed.

use flannel_core::obstacle::{Obstacle, obstacles};
use flannel_core::owned::Scope;
use std::collections::BTreeSet;

use super::Reconciler;
use super::conditions::id as condition;
use crate::host::sockets;
use crate::kernel::Kernel;

/// A few are enough to act on.
const SHOWN: usize = 5;

impl<K: Kernel> Reconciler<K> {
    /// Reports the obstacles after a round with this number of failed operations. The condition is kept if the kernel
    /// cannot be observed.
    pub(super) async fn report_obstacles(&mut self, failed: u64) {
        let found = if failed == 0 { Some(Vec::new()) } else { self.obstacles().await };
        let Some(found) = found else { return };
        let text = |obstacle: &Obstacle| format!("{obstacle}: run `{}`", obstacle.fix());
        let texts: Vec<String> = found.iter().take(SHOWN).map(text).collect();
        self.reporter.set_condition(condition::OBSTACLE, (!texts.is_empty()).then(|| texts.join("; ")));
    }

    /// Observes the kernel again: the round has removed what was ours to remove.
    async fn obstacles(&mut self) -> Option<Vec<Obstacle>> {
        let observed = self.kernel.observe(&BTreeSet::new()).await.ok()?.dataplane;
        let (assembly, networks) = (self.target.assembly.as_ref()?, self.node.networks());
        let scope = Scope { desired: assembly.dataplane(), networks: &networks };
        Some(obstacles(&observed, &scope, sockets::udp))
    }
}
