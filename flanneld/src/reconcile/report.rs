//! What the loop tells of itself: rounds, this node, how much of the network is taken, and what it wants of the kernel.

use flannel_core::backend::PeerError;
use flannel_core::cluster::Source;
use flannel_core::lease::Subnets;
use flannel_core::lease::table::PeerChange;
use flannel_core::plan::Prune;
use flannel_core::status::{Allocation, Round};
use ipnet::IpNet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

use super::apply::Applied;
use super::{Reason, Reconciler};
use crate::kernel::Kernel;
use crate::status::{NodeReport, View, unix_secs};

/// How long the route of a pod stays that was replaced, beyond the pod.
const STRANDED_CHECK: Duration = Duration::from_secs(5);

impl<K: Kernel> Reconciler<K> {
    /// Notes a round for status and metrics.
    pub(super) fn note_round(&mut self, reason: Reason, applied: Applied, elapsed: Duration) {
        self.version += 1;
        let round = Round {
            reason: reason.name().to_owned(),
            at_unix_seconds: unix_secs(SystemTime::now()),
            elapsed_milliseconds: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            kept: applied.kept,
            set: applied.set,
            deleted: applied.deleted,
            failed: applied.failed,
        };
        let failing = self.failing.iter().cloned().collect();
        self.outputs.history.send_modify(|history| {
            history.failing = failing;
            history.note(reason, round, elapsed);
        });
    }

    /// Tells how far the store is known.
    pub(super) fn note_revision(&self) {
        let revision = Some(self.revision);
        self.outputs.history.send_if_modified(|history| {
            let news = history.revision != revision;
            history.revision = revision;
            news
        });
    }

    /// Notes when leases of peers changed.
    pub(super) fn note_changes(&mut self, changes: &[PeerChange]) {
        if changes.is_empty() {
            return;
        }
        let now = unix_secs(SystemTime::now());
        let changed = Arc::make_mut(&mut self.changed);
        for change in changes {
            match change.after {
                Some(_) => drop(changed.insert(change.subnets, now)),
                None => drop(changed.remove(&change.subnets)),
            }
        }
    }

    /// Brings up to date how much of the network is taken, at the cost of the changes.
    pub(super) fn count_changes(&mut self, changes: &[PeerChange]) {
        for (range, allocation) in self.node.config().ranges().zip(&mut self.report.allocation) {
            for change in changes {
                let net = change.subnets.get(range.family());
                let places = net.and_then(|net| range.places_of(net)).map_or(0, |(from, to)| to - from + 1);
                let places = u64::try_from(places).unwrap_or(u64::MAX);
                match (&change.before, &change.after) {
                    (None, Some(_)) => allocation.used = allocation.used.saturating_add(places),
                    (Some(_), None) => allocation.used = allocation.used.saturating_sub(places),
                    _ => {}
                }
            }
        }
    }

    /// Counts anew how much of the network is taken.
    fn allocation(&self) -> Vec<Allocation> {
        let ranges = self.node.config().ranges();
        ranges
            .map(|range| {
                let nets = self.cluster.leases().filter_map(|lease| lease.subnets.get(range.family()));
                let places = nets.filter_map(|net: IpNet| range.places_of(net));
                let used: u128 = places.map(|(from, to)| to - from + 1).sum();
                Allocation {
                    family: crate::status::family_name(range.family()).to_owned(),
                    network: range.network(),
                    capacity: range.count(),
                    used: u64::try_from(used).unwrap_or(u64::MAX),
                }
            })
            .collect()
    }

    /// Looks again soon while pods have addresses of a lost subnet: nothing tells when they are replaced.
    pub(super) fn watch_stranded(&mut self, now: Instant) {
        if self.assembly.as_ref().is_some_and(|assembly| assembly.desired().has_stranded_pods()) {
            self.pace.request(Reason::Resync, now + STRANDED_CHECK);
        }
    }

    /// What this node is, after a full round.
    pub(super) fn report_node(&mut self) {
        let external = self.node.external().clone();
        self.report.node = Some(NodeReport {
            backend: self.node.config().backend.name(),
            config_revision: self.in_force.as_ref().map(|config| config.revision),
            hardware: self.node.hardware(),
            pod_mtu: self.node.pod_mtu().ok(),
            tunnels: self
                .assembly
                .as_ref()
                .map(|assembly| assembly.desired().tunnels().cloned().collect())
                .unwrap_or_default(),
            external,
        });
        self.report.allocation = self.allocation();
    }

    /// Counts that follow from the rest.
    pub(super) fn report_counts(&mut self) {
        let errors = self.assembly.as_ref().map(|assembly| assembly.errors().values());
        let is_faulty = |errors: &&Vec<PeerError>| errors.iter().any(|error| !error.is_expected());
        self.report.faulty = errors.map_or(0, |errors| errors.filter(is_faulty).count());
        self.report.kept = self.cluster.lingering().len();
        self.report.unreadable = self.cluster.table().rejected().len();
    }

    /// What the loop wants of the kernel now. The large parts are shared.
    pub(super) fn view(&self) -> View {
        let kept: std::collections::BTreeSet<Subnets> = self.cluster.lingering().keys().copied().collect();
        View {
            assembly: self.assembly.clone(),
            networks: self.node.networks(),
            tunnels: self.node.tunnels(),
            prune: self.prune(),
            changed: Arc::clone(&self.changed),
            kept,
            version: self.version,
        }
    }

    /// Whether what nobody wants may go.
    pub(super) fn prune(&self) -> Prune {
        match self.cluster.source() {
            // What is remembered may be older than the kernel: a peer that joined in the last moment must not go.
            Source::Nothing | Source::Remembered => Prune::Keep,
            Source::Store => Prune::Surplus,
        }
    }
}
