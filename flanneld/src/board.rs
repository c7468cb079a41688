//! Answers requests of the status socket and of `/metrics`, from what the tasks of the daemon publish.

use flannel_core::dataplane::Dataplane;
use flannel_core::lease::Revision;
use flannel_core::owned::{Scope, owned};
use flannel_core::plan::{Prune, plan};
use flannel_core::status::{
    Condition, Diff, Interface, Objects, OwnLease, Peers, PendingOp, Status, Store, StoreRequest, peers,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use crate::claim::ClaimState;
use crate::firewall::FirewallStatus;
use crate::kernel::{Effector as _, KernelError, NetlinkKernel};
use crate::reconcile::id;
use crate::status::{History, Readiness, Report, View, ViewRequest, unix_secs};
use crate::store::watch::WatchStats;
use crate::sys;

pub(crate) mod metrics;
pub(crate) mod socket;

/// The sources of the board.
pub(crate) struct Sources {
    pub(crate) store: crate::store::Store,
    pub(crate) watch: watch::Receiver<WatchStats>,
    pub(crate) readiness: watch::Receiver<Readiness>,
    pub(crate) claim: watch::Receiver<ClaimState>,
    pub(crate) report: watch::Receiver<Report>,
    pub(crate) history: watch::Receiver<History>,
    pub(crate) firewall: watch::Receiver<FirewallStatus>,
    /// Problems with settings of the host.
    pub(crate) host: watch::Receiver<Vec<String>>,
    /// The problem with reports to the store.
    pub(crate) announcement: watch::Receiver<Option<String>>,
    /// Requests to the reconcile loop.
    pub(crate) views: mpsc::Sender<ViewRequest>,
    pub(crate) renew_margin: Duration,
}

/// The answers of this daemon.
pub(crate) struct Board {
    pub(crate) sources: Sources,
    pub(crate) started: (Instant, SystemTime),
    /// Answers about the whole cluster are computed one at a time: each is megabytes in a large one.
    turn: Semaphore,
}

/// An error while answering a question about the kernel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ViewError {
    #[error("flanneld is still starting: {0}")]
    NotStarted(String),
    #[error("the reconcile loop did not respond within {} s: it waits for the kernel", PATIENCE.as_secs())]
    Busy,
    #[error("could not read the kernel")]
    Kernel(#[from] KernelError),
    #[error("flanneld is stopping")]
    Stopping,
}

/// The time limit for a response of the reconcile loop.
const PATIENCE: Duration = Duration::from_secs(8);

/// The maximum number of observations, which are repeated if the desired state changes meanwhile.
const ATTEMPTS: u32 = 5;

/// A question about the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    Peers,
    Desired,
    Actual,
    Diff,
}

/// Desired and actual state at one moment.
struct Comparison {
    view: View,
    actual: Dataplane,
    settled: bool,
}

impl Board {
    pub(crate) fn new(sources: Sources) -> Self {
        let started = (Instant::now(), SystemTime::now());
        Self { sources, started, turn: Semaphore::new(1) }
    }

    /// Answers a question about the kernel as JSON. The computation runs on its own thread, so that it does not delay the loop.
    pub(crate) async fn ask(&self, question: Question) -> Result<Vec<u8>, ViewError> {
        let _turn = self.turn.acquire().await.map_err(|_| ViewError::Stopping)?;
        let comparison = match question {
            Question::Desired => {
                Comparison { view: self.view().await?, actual: Dataplane::default(), settled: true }
            }
            Question::Peers | Question::Actual | Question::Diff => self.compare().await?,
        };
        let answer = tokio::task::spawn_blocking(move || {
            let answer = comparison.answer(question);
            drop(comparison);
            sys::release_memory();
            answer
        });
        answer.await.map_err(|_| ViewError::Stopping)
    }

    async fn view(&self) -> Result<View, ViewError> {
        let (sender, receiver) = oneshot::channel();
        if self.sources.report.borrow().node.is_none() {
            return Err(ViewError::NotStarted(self.sources.readiness.borrow().0.join("; ")));
        }
        self.sources.views.send(sender).await.map_err(|_| ViewError::Stopping)?;
        match timeout(PATIENCE, receiver).await {
            Ok(view) => view.map_err(|_| ViewError::Stopping),
            Err(_) => Err(ViewError::Busy),
        }
    }

    /// Reads the kernel through its own connection, between two views with the same desired state.
    async fn compare(&self) -> Result<Comparison, ViewError> {
        let mut kernel = NetlinkKernel::open()?;
        let mut before = self.view().await?;
        let mut attempt = 1;
        loop {
            let observed = kernel.observe(&before.tunnels).await?.dataplane;
            let after = self.view().await?;
            let settled = after.version == before.version;
            if settled || attempt >= ATTEMPTS {
                // Without a lease nothing is desired or owned.
                let scope = after.desired().map(|desired| Scope { desired, networks: &after.networks });
                let actual = scope.map(|scope| owned(observed, &scope));
                let actual = actual.unwrap_or_default();
                return Ok(Comparison { view: after, actual, settled });
            }
            before = after;
            attempt += 1;
        }
    }

    /// Returns the state of the daemon, without the kernel.
    pub(crate) fn status(&self) -> Status {
        let report = self.sources.report.borrow().clone();
        let node = report.node.as_ref();
        let history = self.sources.history.borrow().clone();
        let not_ready_reasons = self.sources.readiness.borrow().0.clone();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at_unix_seconds: unix_secs(self.started.1),
            uptime_seconds: self.started.0.elapsed().as_secs(),
            ready: not_ready_reasons.is_empty(),
            not_ready_reasons,
            conditions: self.conditions(),
            store: self.store(history.revision),
            config_revision: node.and_then(|node| node.config_revision),
            backend: node.map(|node| node.backend.to_owned()),
            lease: self.lease(),
            interface: node.map(|node| {
                let external = &node.external;
                Interface {
                    name: external.name.clone(),
                    chosen_by: external.method.to_string(),
                    mtu_bytes: external.mtu,
                    mac: node.hardware,
                    addresses: external.address.iter().map(|(_, address)| *address).collect(),
                    public_addresses: external.public.iter().map(|(_, address)| *address).collect(),
                }
            }),
            pod_mtu_bytes: node.and_then(|node| node.pod_mtu),
            tunnels: node.map(|node| node.tunnels.clone()).unwrap_or_default(),
            peers: report.peers,
            allocation: report.allocation,
            rounds: history.rounds.into(),
            last_lease_change: history.last_lease_change,
            last_success_at_unix_seconds: history.last_success_at_unix_seconds,
            failing_ops: history.failing,
            firewall: self.sources.firewall.borrow().clone(),
        }
    }

    /// Returns the present problems, in the order of their subjects.
    pub(crate) fn conditions(&self) -> Vec<Condition> {
        let mut conditions: Vec<Condition> = self
            .sources
            .report
            .borrow()
            .conditions
            .iter()
            .map(|(about, reason)| Condition { about: about.clone(), reason: reason.clone() })
            .collect();
        let mut add = |about: &str, reason: &str| {
            conditions.push(Condition { about: about.to_owned(), reason: reason.to_owned() });
        };
        if let Some(problem) = &self.sources.claim.borrow().problem {
            add("claim", problem);
        }
        let firewall = self.sources.firewall.borrow();
        for error in firewall.error.iter().chain(&firewall.cleanup_error) {
            add("firewall", error);
        }
        for problem in self.sources.host.borrow().iter() {
            add("host", problem);
        }
        if let Some(problem) = &*self.sources.announcement.borrow() {
            add(ANNOUNCEMENT, problem);
        }
        conditions.sort();
        conditions
    }

    fn store(&self, revision: Option<Revision>) -> Store {
        let (stats, identity) = (self.sources.store.stats(), self.sources.store.identity());
        let watch = *self.sources.watch.borrow();
        Store {
            kind: identity.kind.to_owned(),
            location: identity.location.clone(),
            up: self.store_is_up(),
            revision,
            last_request: stats.newest.map(|newest| StoreRequest {
                operation: newest.name().to_owned(),
                latency_milliseconds: stats.of(newest).last.as_secs_f64() * 1000.0,
            }),
            requests: stats.requests(),
            errors: stats.errors(),
            listings: watch.listings,
            watch_restarts: watch.breaks + watch.outdated + watch.silences,
        }
    }

    pub(crate) fn store_is_up(&self) -> bool {
        let watch = *self.sources.watch.borrow();
        watch.listings > 0 && !watch.down
    }

    pub(crate) fn lease(&self) -> Option<OwnLease> {
        let claim = self.sources.claim.borrow();
        let own = claim.own.as_ref()?;
        let remaining = own.expires.map(|end| end.saturating_duration_since(Instant::now()).as_secs());
        Some(OwnLease {
            key: own.subnets,
            subnets: own.subnets.iter().collect(),
            confirmed: own.confirmed,
            reservation: own.reservation,
            remaining_seconds: remaining,
            renew_margin_seconds: self.sources.renew_margin.as_secs(),
        })
    }
}

impl Comparison {
    fn answer(&self, question: Question) -> Vec<u8> {
        let view = &self.view;
        match question {
            Question::Desired => json(&view.desired().map(Objects::from).unwrap_or_default()),
            Question::Actual => json(&Objects::from(&self.actual)),
            Question::Diff => {
                let ops = view.desired().map(|desired| plan(desired, &self.actual, view.prune));
                json(&Diff {
                    ops: ops.iter().flatten().map(PendingOp::from).collect(),
                    removes_surplus: view.prune == Prune::Surplus,
                    settled: self.settled,
                })
            }
            Question::Peers => {
                let is_kept = |subnets: &_| view.kept.contains(subnets);
                let peers = view
                    .assembly
                    .as_ref()
                    .map(|assembly| peers(assembly, &self.actual, &view.changed, is_kept));
                json(&Peers { peers: peers.unwrap_or_default(), settled: self.settled })
            }
        }
    }
}

/// Returns an answer as one line.
pub(crate) fn json(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).unwrap_or_else(|error| {
        // Only for maps whose keys are not text, which do not occur.
        format!("{{\"error\":\"{error}\"}}").into_bytes()
    });
    bytes.push(b'\n');
    bytes
}

/// The number of conditions by subject, for metrics: leases are one subject, so that the labels are bounded.
pub(crate) fn by_subject(conditions: &[Condition]) -> BTreeMap<String, u64> {
    let label = |subject: &str| subject.replace([' ', '.'], "_");
    let subjects = [&id::ALL[..], &["claim", "firewall", "host", ANNOUNCEMENT, LEASE]].concat();
    let mut counts: BTreeMap<String, u64> = subjects.iter().map(|subject| (label(subject), 0)).collect();
    for condition in conditions {
        let about = condition.about.as_str();
        let subject = if subjects.contains(&about) { about } else { LEASE };
        *counts.entry(label(subject)).or_default() += 1;
    }
    counts
}

/// The subject of problems with reports to the store.
const ANNOUNCEMENT: &str = "readiness report";
/// The subject of conditions about the key of a lease.
const LEASE: &str = "lease";
