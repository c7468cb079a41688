//! The loop that keeps the kernel, and the agent of the backend, in sync with the leases: wait, observe, plan, apply,
//! report.
//!
//! A full round reads everything and plans from what it read; it follows a start, a notification of the kernel, a failed
//! operation, and a slow interval. A change of a lease costs only what differs: its plan is the difference of the desired
//! state before and after it.

use flannel_core::dataplane::Op;
use flannel_core::desired::{Assembly, Desired};
use flannel_core::facts::HostFacts;
use flannel_core::hint::{Hint, Hints, Interest};
use flannel_core::lease::table::PeerChange;
use flannel_core::lease::{Lease, Subnets};
use flannel_core::link::{LinkName, Mac};
use flannel_core::owned::{Scope, owned};
use flannel_core::plan::plan;
use flannel_core::status::Action;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, info, info_span};

use crate::agent::{AgentOp, Supervisor};
use crate::claim::ClaimState;
use crate::contention::{CHECK, Turn};
use crate::effector::Operation as _;
use crate::error::chain;
use crate::host::pods;
use crate::kernel::{Inbox, Kernel};
use crate::node::{Node, Offer};
use crate::pulse::Pulse;
use crate::status::{Reason, View, ViewRequest};
use crate::store::watch::Update;
use crate::store::{ConfigRecord, Record};
use crate::sys;
use agents::agent_ops;
use apply::{Applied, Failing};
use bridges::Bridges;
use conditions::id as condition;
use conflict::Detector;
use pace::Pace;
use reporter::Reporter;
use store_view::{News, StoreView};

pub(crate) use conditions::id;
pub(crate) use reporter::{Memory, Outputs};

mod agents;
mod apply;
mod bridges;
mod conditions;
mod conflict;
mod host;
mod obstacles;
mod pace;
mod reporter;
mod store_view;

/// What wakes the loop.
pub(crate) struct Inputs {
    /// What the store delivered before the loop started.
    pub(crate) seen: Vec<Update>,
    pub(crate) store: mpsc::Receiver<Update>,
    pub(crate) claim: watch::Receiver<ClaimState>,
    pub(crate) hints: Inbox,
    /// Requests for the desired state.
    pub(crate) views: mpsc::Receiver<ViewRequest>,
    /// Requests of the watchdog.
    pub(crate) pulse: Arc<Pulse>,
}

/// What the last run left for this one.
pub(crate) struct Remembered {
    pub(crate) records: Vec<Record>,
    pub(crate) macs: BTreeMap<LinkName, Mac>,
}

/// The state of the loop.
pub(crate) struct Reconciler<K> {
    kernel: K,
    agent: Supervisor,
    node: Node,
    store: StoreView,
    own: Ownership,
    target: Target,
    pace: Pace,
    conflict: Detector,
    bridges: Bridges,
    failing: Failing,
    reporter: Reporter,
    /// Changes since memory was given back to the system.
    untidy: usize,
}

/// What this node holds.
struct Ownership {
    subnets: Option<Subnets>,
    /// Full rounds since it holds the present lease.
    rounds: u32,
    /// The device and its addresses were in place once since then.
    has_base: bool,
    macs: BTreeMap<LinkName, Mac>,
    random_mac: fn() -> [u8; 6],
}

/// The desired state, and the host that it was computed for.
#[derive(Default)]
struct Target {
    facts: HostFacts,
    /// The kernel supports nexthop objects; `None` while it did not matter.
    has_nexthops: Option<bool>,
    assembly: Option<Arc<Assembly>>,
    /// Grows with every round and every change of the desired state.
    version: u64,
}

/// Memory is given back after this many changes, at the latest.
const TIDY_AFTER: usize = 500;

/// The route of a replaced pod stays this much longer than the pod.
const STRANDED_CHECK: Duration = Duration::from_secs(5);

/// What ended a wait.
enum Wake {
    Store(Update),
    Claim,
    Hints,
    Agent,
    View(ViewRequest),
    Pulse,
    Timer,
}

impl<K: Kernel> Reconciler<K> {
    /// A loop for `node` that publishes to `outputs`.
    pub(crate) fn new(
        (kernel, agent): (K, Supervisor),
        node: Node,
        remembered: Remembered,
        outputs: Outputs,
        random_mac: fn() -> [u8; 6],
    ) -> Self {
        Self {
            kernel,
            agent,
            node,
            store: StoreView::new(&remembered.records),
            own: Ownership { subnets: None, rounds: 0, has_base: false, macs: remembered.macs, random_mac },
            target: Target::default(),
            pace: Pace::new(Instant::now()),
            conflict: Detector::default(),
            bridges: Bridges::default(),
            failing: Failing::default(),
            reporter: Reporter::new(outputs),
            untidy: 0,
        }
    }

    /// Runs until `stop`. Everything stays in the kernel then, so that pods do not notice.
    pub(crate) async fn run(mut self, mut inputs: Inputs, stop: CancellationToken) {
        self.take_updates(std::mem::take(&mut inputs.seen)).await;
        loop {
            let (due, _) = self.pace.next();
            let others = [
                self.store.grace_ends(),
                self.conflict.next_check(Instant::now()),
                self.reporter.remember_at,
            ];
            let due = others.into_iter().flatten().fold(due, Instant::min);
            let wake = tokio::select! {
                () = stop.cancelled() => break,
                Some(update) = inputs.store.recv() => Wake::Store(update),
                Ok(()) = inputs.claim.changed() => Wake::Claim,
                () = inputs.hints.filled() => Wake::Hints,
                () = self.agent.changed() => Wake::Agent,
                Some(request) = inputs.views.recv() => Wake::View(request),
                () = inputs.pulse.request.notified() => Wake::Pulse,
                () = tokio::time::sleep_until(due) => Wake::Timer,
            };
            // A stop interrupts a round that waits for the kernel: the next start repairs what is half done.
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.take(wake, &mut inputs) => {}
            }
            self.reporter.publish(self.target.assembly.as_deref(), &self.store.cluster);
        }
        if self.reporter.remember_at.is_some() {
            self.remember();
        }
    }

    async fn take(&mut self, wake: Wake, inputs: &mut Inputs) {
        match wake {
            Wake::Store(update) => {
                let mut updates = vec![update];
                while let Ok(update) = inputs.store.try_recv() {
                    updates.push(update);
                }
                self.take_updates(updates).await;
            }
            Wake::Claim => {
                let own = inputs.claim.borrow_and_update().own.as_ref().map(|own| own.subnets);
                self.take_claim(own);
            }
            Wake::Hints => {
                let hints = inputs.hints.take();
                self.take_hints(&hints);
                // After a start there is one for each object of each peer.
                if hints.len() >= TIDY_AFTER {
                    drop(hints);
                    self.release_memory();
                }
            }
            Wake::Agent => self.pace.request_settled(Reason::Hint, Instant::now()),
            // The requester may be gone.
            Wake::View(request) => drop(request.send(self.view())),
            Wake::Pulse => inputs.pulse.response.notify_one(),
            Wake::Timer => self.take_timer().await,
        }
    }

    async fn take_updates(&mut self, updates: Vec<Update>) {
        let mut news = News::default();
        for update in updates {
            let down = if let Update::Down(error) = &update { Some(chain(error)) } else { None };
            self.store.take(update, self.own.subnets.as_ref(), &mut news);
            self.reporter.set_silently(condition::STORE, down);
        }
        let revision = Some(self.store.revision);
        self.reporter
            .outputs
            .history
            .send_if_modified(|history| std::mem::replace(&mut history.revision, revision) != revision);
        self.reporter.count_changes(&news.peers, self.node.config());
        self.reporter.report_records(&news.records, self.store.cluster.table());
        if news.listed {
            self.pace.request(Reason::Listing, Instant::now());
        }
        self.take_config(news.config);
        self.take_own_node(news.own);
        self.inform_claim(news.wakes_claim);
        self.apply_changes(news.peers).await;
    }

    /// Takes a config of the store, if it can be taken while pods run.
    fn take_config(&mut self, config: Option<ConfigRecord>) {
        let Some(record) = config.filter(|config| self.store.offer(config)) else { return };
        let outcome = self.node.offer(&record.text, self.own.subnets.as_ref());
        let refused = match outcome {
            Offer::Refused(reason) => Some(reason),
            Offer::Taken | Offer::Same => {
                if outcome == Offer::Taken {
                    info!(revision = %record.revision, "network config taken from the store");
                    self.pace.request(Reason::Config, Instant::now());
                }
                self.store.in_force = Some(record);
                None
            }
        };
        self.reporter.set_condition(condition::CONFIG, refused);
    }

    fn inform_claim(&self, wake: bool) {
        let record = self.own.subnets.map(|own| self.store.own_record(own));
        self.reporter.inform_claim(record, wake);
    }

    /// Applies what changed for single leases: the difference of the desired state before and after.
    async fn apply_changes(&mut self, changes: Vec<PeerChange>) {
        let (Some(own), Some(assembly)) = (self.own.subnets, &mut self.target.assembly) else { return };
        let changes: Vec<_> = changes.into_iter().filter(|change| change.subnets != own).collect();
        if changes.is_empty() {
            return;
        }
        let started = Instant::now();
        let assembly = Arc::make_mut(assembly);
        let (mut ops, mut touched, mut contested) = (Vec::new(), BTreeSet::new(), false);
        for change in changes {
            touched.insert(change.subnets);
            contested |= self.store.cluster.table().overlapping(&change.subnets).next().is_some();
            let difference = match change.after {
                Some(lease) => assembly.set(lease),
                None => assembly.remove(&change.subnets),
            };
            ops.extend(difference.plan());
        }
        if contested {
            assembly.set_contested();
            self.target.version += 1;
            self.pace.request(Reason::Overlap, Instant::now());
            return;
        }
        let agent_ops = agent_ops(assembly, &touched).filter(|_| self.agent.is_running()).collect::<Vec<_>>();
        self.conflict.hold_back_changes(&mut ops, started);
        let applied = self.apply(&agent_ops, &ops).await;
        self.note_round(Reason::LeaseChange, applied, started.elapsed());
        info!(changes = touched.len(), applied = applied.done(), failed = applied.failed, "leases changed");
        if applied.failed > 0 {
            self.pace.failed(Instant::now());
        }
        self.untidy += touched.len();
        self.switch_next_hops();
        if let Some(assembly) = &self.target.assembly {
            let table = self.store.cluster.table();
            touched.iter().for_each(|subnets| self.reporter.report_peer(*subnets, assembly, table));
        }
        self.reporter.remember_soon();
        // Thousands of changes leave the heap in pieces. Rarely, since it walks the whole heap.
        if self.untidy >= TIDY_AFTER {
            self.release_memory();
        }
    }

    fn release_memory(&mut self) {
        self.untidy = 0;
        sys::release_memory();
    }

    fn take_claim(&mut self, own: Option<Subnets>) {
        if own.is_some() && own != self.own.subnets {
            (self.own.subnets, self.own.rounds, self.own.has_base) = (own, 0, false);
            // A config that waited for a restart is in force with a lease that was chosen from it.
            let offered = self.store.reoffer();
            self.take_config(offered);
            self.inform_claim(false);
            self.pace.request(Reason::Claim, Instant::now());
        }
    }

    fn take_hints(&mut self, hints: &Hints) {
        let now = Instant::now();
        let Some(assembly) = &self.target.assembly else {
            // No object is owned yet; the state of the host decides what can be.
            self.pace.request_settled(Reason::Hint, now);
            return;
        };
        let networks = self.node.networks();
        let off_link = assembly.off_link();
        let has_interface = !self.reporter.report.conditions.contains_key(condition::INTERFACE);
        let interest = Interest {
            desired: assembly.dataplane(),
            facts: &self.target.facts,
            networks: &networks,
            // Without one, any interface may become the external interface.
            external: has_interface.then_some(&self.node.external().name),
            underlay_routes: assembly.desired().depends_on_routes(),
            off_link: &off_link,
        };
        let Some(hint) = hints.reason(&interest) else { return };
        debug!(hint = ?hint, "kernel changed");
        let reason = if *hint == Hint::Overrun { Reason::Overrun } else { Reason::Hint };
        if self.conflict.is_pausing(now) {
            self.pace.request(reason, now + CHECK);
        } else {
            self.pace.request_settled(reason, now);
        }
    }

    async fn take_timer(&mut self) {
        let now = Instant::now();
        let dropped = self.store.end_grace();
        if !dropped.is_empty() {
            info!(peers = dropped.len(), "peers removed, their leases did not return in the grace period");
            self.reporter.count_changes(&dropped, self.node.config());
            self.apply_changes(dropped).await;
        }
        if self.reporter.remember_at.is_some_and(|at| at <= now) {
            self.remember();
        }
        let turn = self.conflict.check(now);
        if turn == Some(Turn::Over) {
            self.reporter.set_condition(condition::CONFLICT, None);
        }
        if turn.is_some() {
            self.pace.request(Reason::Hint, now);
        }
        let (due, reason) = self.pace.next();
        if due <= Instant::now() {
            self.full_round(reason).await;
        }
    }

    async fn full_round(&mut self, reason: Reason) {
        let started = Instant::now();
        let outcome = self.observe_and_apply().instrument(info_span!("round", reason = %reason)).await;
        let finished = Instant::now();
        let applied = outcome.unwrap_or(Applied::BLIND);
        let failed = applied.failed;
        self.pace.finished(started, finished, failed > 0);
        if self.target.assembly.as_ref().is_some_and(|assembly| assembly.desired().has_stranded_pods()) {
            // No notification tells when the last pod of a lost subnet is replaced.
            self.pace.request(Reason::Resync, finished + STRANDED_CHECK);
        }
        if let Some(at) = self.bridges.next_check(finished) {
            self.pace.request(Reason::Resync, at);
        }
        let took = finished - started;
        self.note_round(reason, applied, took);
        if applied.done() > 0 || failed > 0 {
            info!(reason = %reason, applied = applied.done(), failed, elapsed_ms = took.as_millis(), "round");
        } else {
            debug!(reason = %reason, elapsed_ms = took.as_millis(), "round without changes");
        }
        self.reporter.report.converged = match outcome {
            Ok(applied) if self.own.subnets.is_some() => {
                self.own.rounds = self.own.rounds.saturating_add(1);
                // What the kernel refuses again for one peer must not keep the pods of the others from starting.
                applied.failed == 0 || applied.failed_own == 0 && self.own.rounds > 1
            }
            _ => false,
        };
        self.report_node();
        self.remember();
        self.release_memory();
    }

    fn remember(&mut self) {
        self.reporter.remember(&self.store.cluster, self.store.in_force.as_ref());
    }

    /// One full round; fails if there is no observation or no desired state.
    async fn observe_and_apply(&mut self) -> Result<Applied, ()> {
        let observed = self.kernel.observe(&self.node.tunnels()).await;
        let mut observed = self.reporter.check(condition::KERNEL, observed).ok_or(())?;
        self.target.facts = std::mem::take(&mut observed.facts);
        self.follow_host(&observed.dataplane);
        let Some(own) = self.own.subnets else { return Ok(Applied::default()) };

        let (mut peers, losers) = self.store.cluster.settled();
        peers.retain(|lease| lease.subnets != own);
        let next_hops = self.choose_next_hops(peers.len(), &observed);
        let desired = self.node.desired(&own, &self.target.facts, next_hops, pods::addresses);
        let desired = self.reporter.check(condition::NODE, desired).ok_or(())?;
        let assembly = self.assembly(desired, peers);
        let networks = self.node.networks();
        let scope = Scope { desired: assembly.dataplane(), networks: &networks };
        let actual = owned(observed.dataplane, &scope);
        let mut ops = plan(assembly.dataplane(), &actual, self.store.prune());
        self.conflict.hold_back(&mut ops, Instant::now());
        ops.extend(self.restore_bridges(&own));
        let agent_ops = self.plan_agent(&own, &assembly).await;
        self.reporter.report_peers(assembly.errors(), self.store.cluster.table(), &losers);
        let wanted = assembly.dataplane().len();
        self.target.assembly = Some(assembly);
        self.failing.start_round();
        let mut applied = self.apply(&agent_ops, &ops).await;
        let set = ops.iter().filter(|op| op.class().0 == Action::Set).count();
        applied.kept = wanted.saturating_sub(set) as u64;
        self.report_obstacles(applied.failed).await;
        self.own.has_base |= applied.failed_own == 0;
        self.offer_services(&own);
        Ok(applied)
    }

    /// The present assembly, if nothing that it is made of has changed. A new one takes time and memory.
    fn assembly(&mut self, desired: Desired, peers: Vec<Arc<Lease>>) -> Arc<Assembly> {
        let present = self.target.assembly.take();
        let present = present.filter(|assembly| assembly.is_made_of(&desired, &peers));
        present.unwrap_or_else(|| Arc::new(Assembly::new(desired, peers)))
    }

    /// Applies both parts of a plan. The agent comes first: kernel objects depend on its device.
    async fn apply(&mut self, agent_ops: &[AgentOp], ops: &[Op]) -> Applied {
        let history = &self.reporter.outputs.history;
        let mut applied = Applied::default();
        apply::run(&mut self.agent, agent_ops, &mut applied, &mut self.failing, history).await;
        let started = Instant::now();
        let done = apply::run(&mut self.kernel, ops, &mut applied, &mut self.failing, history).await;
        let conflict = self.conflict.note(done.into_iter(), started.elapsed(), Instant::now());
        if conflict.is_some() {
            self.reporter.set_condition(condition::CONFLICT, conflict);
        }
        self.reporter.set_condition(condition::AGENT, self.agent.problem());
        applied
    }

    fn note_round(&mut self, reason: Reason, applied: Applied, elapsed: Duration) {
        self.target.version += 1;
        self.reporter.note_round(reason, applied, elapsed, self.failing.list());
    }

    /// The present desired state. The large parts are shared.
    fn view(&self) -> View {
        View {
            assembly: self.target.assembly.clone(),
            networks: self.node.networks(),
            tunnels: self.node.tunnels(),
            prune: self.store.prune(),
            changed: Arc::clone(&self.store.changed),
            kept: self.store.cluster.lingering().copied().collect(),
            version: self.target.version,
        }
    }
}

#[cfg(test)]
mod tests;
