//! The loop that makes the kernel match the leases: wait, observe, plan, apply, report.
//!
//! A full round reads everything and plans from what it read; it follows a start, a hint of the kernel, a failed
//! operation, and a slow interval. A change of a lease costs only what differs: the plan is made from
//! what the lease wanted before and wants now.

use flannel_core::claim::OwnRecord;
use flannel_core::cluster::{Cluster, Source};
use flannel_core::dataplane::Dataplane;
use flannel_core::desired::Assembly;
use flannel_core::facts::HostFacts;
use flannel_core::family::Family;
use flannel_core::hint::{Hint, Interest};
use flannel_core::lease::table::PeerChange;
use flannel_core::lease::{Lease, LeaseAttrs, Revision, Subnets};
use flannel_core::link::{LinkName, Mac};
use flannel_core::owned::{Scope, owned};
use flannel_core::plan::plan;
use flannel_core::status::{Action, classify};
use flannel_core::subnet_env::SubnetEnv;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, info, info_span, warn};

use crate::claim::ClaimState;
use crate::error::chain;
use crate::firewall;
use crate::host::pods;
use crate::kernel::{Inbox, Kernel};
use crate::node::{Node, Offer};
use crate::pulse::Answerer;
use crate::status::{History, Report, ViewRequest};
use crate::store::watch::Update;
use crate::store::{Change, ConfigRecord, Record};
use crate::sys;
use apply::{Applied, Tried};
use conditions::id as condition;
use pace::Pace;
use rival::Rivalry;

pub(crate) use pace::Reason;

mod apply;
mod conditions;
mod pace;
mod report;
mod rival;

/// What the loop listens to.
pub(crate) struct Inputs {
    /// What the store told before the loop started.
    pub(crate) seen: Vec<Update>,
    pub(crate) store: mpsc::Receiver<Update>,
    pub(crate) claim: watch::Receiver<ClaimState>,
    pub(crate) hints: Inbox,
    /// Who wants to know what the kernel should have.
    pub(crate) views: mpsc::Receiver<ViewRequest>,
    /// Who wants to know whether we are alive.
    pub(crate) pulse: Answerer,
}

/// What the loop tells the other tasks.
#[derive(Default)]
pub(crate) struct Outputs {
    /// How we want to be reached.
    pub(crate) attrs: watch::Sender<Option<LeaseAttrs>>,
    /// Our record as the store shows it.
    pub(crate) record: watch::Sender<Option<OwnRecord>>,
    /// Counts what may end a wait of the claim.
    pub(crate) stirs: watch::Sender<u64>,
    pub(crate) firewall: watch::Sender<Option<firewall::Desired>>,
    /// What the CNI plugin is to be told.
    pub(crate) subnet_env: watch::Sender<Option<SubnetEnv>>,
    pub(crate) report: watch::Sender<Report>,
    pub(crate) history: watch::Sender<History>,
    /// What is worth keeping over a restart.
    pub(crate) memory: watch::Sender<Memory>,
}

/// What is worth keeping over a restart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) config: Option<ConfigRecord>,
    pub(crate) macs: BTreeMap<LinkName, Mac>,
    /// The hardware address of the external interface.
    pub(crate) hardware: Option<Mac>,
    /// The leases of the store, if they come from there.
    pub(crate) leases: Option<Vec<Arc<Lease>>>,
}

/// The state of the loop.
pub(crate) struct Reconciler<K> {
    kernel: K,
    node: Node,
    cluster: Cluster,
    /// The config of the store, in force or not.
    offered: Option<ConfigRecord>,
    /// The last config of the store that was taken: what a start without a store can work with.
    in_force: Option<ConfigRecord>,
    macs: BTreeMap<LinkName, Mac>,
    /// What the last full round saw, and what the kernel should hold since.
    facts: HostFacts,
    assembly: Option<Arc<Assembly>>,
    /// Grows with every round and every change of what is wanted.
    version: u64,
    /// When leases of peers changed, since the first listing.
    changed: Arc<BTreeMap<Subnets, u64>>,
    own: Option<Subnets>,
    revision: Revision,
    /// How many listings the store has given.
    listings: u64,
    pace: Pace,
    rivalry: Rivalry,
    /// Operations that failed when they were last tried, a few of them.
    failing: BTreeSet<String>,
    /// Full rounds since we hold the present lease.
    rounds_as_owner: u32,
    /// Changes since memory was given back to the system.
    untidy: usize,
    start: Instant,
    outputs: Outputs,
    report: Report,
    chance: fn() -> [u8; 6],
}

/// Memory is given back after this many changes, at the latest.
const TIDY_AFTER: usize = 500;

/// What ended a wait.
enum Wake {
    Store(Update),
    Claim,
    Hints,
    View(ViewRequest),
    Pulse,
    Timer,
}

impl<K: Kernel> Reconciler<K> {
    /// A loop for `node`. `remembered` are the records and MAC addresses of the last run.
    pub(crate) fn new(
        kernel: K,
        node: Node,
        remembered: (&[Record], BTreeMap<LinkName, Mac>),
        outputs: Outputs,
        chance: fn() -> [u8; 6],
    ) -> Self {
        let mut cluster = Cluster::default();
        if !remembered.0.is_empty() {
            cluster.remember(remembered.0);
        }
        let start = Instant::now();
        Self {
            kernel,
            node,
            cluster,
            offered: None,
            in_force: None,
            failing: BTreeSet::new(),
            rounds_as_owner: 0,
            untidy: 0,
            macs: remembered.1,
            facts: HostFacts::default(),
            assembly: None,
            version: 0,
            changed: Arc::default(),
            own: None,
            revision: Revision::default(),
            listings: 0,
            pace: Pace::new(start),
            rivalry: Rivalry::default(),
            start,
            outputs,
            report: Report::default(),
            chance,
        }
    }

    /// Runs until told to stop. Everything stays in the kernel then, so that pods do not notice.
    pub(crate) async fn run(mut self, mut inputs: Inputs, stop: CancellationToken) {
        self.take_updates(std::mem::take(&mut inputs.seen)).await;
        loop {
            let (due, _) = self.pace.next();
            let grace = self.cluster.next_tick().map(|at| self.start + at);
            let rival = self.rivalry.next_turn(Instant::now());
            let due = grace.into_iter().chain(rival).fold(due, Instant::min);
            let wake = tokio::select! {
                () = stop.cancelled() => return,
                Some(update) = inputs.store.recv() => Wake::Store(update),
                Ok(()) = inputs.claim.changed() => Wake::Claim,
                () = inputs.hints.filled() => Wake::Hints,
                Some(request) = inputs.views.recv() => Wake::View(request),
                () = inputs.pulse.asked() => Wake::Pulse,
                () = tokio::time::sleep_until(due) => Wake::Timer,
            };
            // A stop does not wait for a kernel that does not answer: every round can be cut off, the next start mends.
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.take(wake, &mut inputs) => {}
            }
            self.publish();
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
                let claim = inputs.claim.borrow_and_update().clone();
                self.take_claim(&claim);
            }
            Wake::Hints => self.take_hints(&inputs.hints),
            // Who asked may have gone away meanwhile.
            Wake::View(request) => drop(request.send(self.view())),
            Wake::Pulse => inputs.pulse.answer(),
            Wake::Timer => self.take_timer().await,
        }
    }

    async fn take_updates(&mut self, updates: Vec<Update>) {
        let mut changes = Vec::new();
        // Only the last one counts: those before it may be what a start has waited out.
        let mut config = None;
        let mut stirs = false;
        for update in updates {
            match update {
                Update::Listing { listing, is_other_store } => {
                    // A store that has lost the config that it had is another one than before, too.
                    let had_config = self.offered.is_some() || self.cluster.source() == Source::Remembered;
                    let wiped = had_config && listing.config.is_none() || is_other_store;
                    self.revision = listing.revision;
                    config = listing.config;
                    let now = self.start.elapsed();
                    let before = self.cluster.source();
                    let listed = self.cluster.listing(&listing.records, self.own.as_ref(), wiped, now);
                    if before != Source::Nothing {
                        self.note_changes(&listed);
                    }
                    changes.clear();
                    self.listings += 1;
                    stirs = true;
                    self.pace.request(Reason::Listing, Instant::now());
                }
                Update::Changes { revision, changes: seen } => {
                    self.revision = revision;
                    for change in &seen {
                        if let Change::Config(changed) = change {
                            config.clone_from(changed);
                        }
                    }
                    stirs |= seen.iter().any(|change| !matches!(change, Change::Put(_)));
                    let now = self.start.elapsed();
                    let told = self.cluster.changes(&seen, self.own.as_ref(), now);
                    self.note_changes(&told);
                    self.count_changes(&told);
                    changes.extend(told);
                    self.report_records(&seen);
                }
                Update::Down(error) => {
                    self.set_store_condition(Some(chain(&error)));
                    continue;
                }
                Update::Up => {}
            }
            self.set_store_condition(None);
            self.note_revision();
        }
        self.take_config(config);
        self.tell_claim(stirs);
        self.apply_changes(changes).await;
    }

    /// Takes a config of the store, if it can be taken while pods run.
    fn take_config(&mut self, config: Option<ConfigRecord>) {
        let Some(record) = config else { return };
        if self.offered.as_ref() == Some(&record) {
            return;
        }
        self.offered = Some(record.clone());
        let outcome = self.node.offer(&record.text, self.own.as_ref());
        let reason = match &outcome {
            Offer::Taken => {
                info!(revision = %record.revision, "network config taken from the store");
                self.pace.request(Reason::Config, Instant::now());
                self.in_force = Some(record);
                None
            }
            Offer::Same => {
                self.in_force = Some(record);
                None
            }
            Offer::Refused(reason) => Some(reason.clone()),
        };
        self.set_condition(condition::CONFIG, reason);
    }

    /// Tells the claim what the store shows of our record.
    fn tell_claim(&mut self, stirs: bool) {
        if stirs {
            self.outputs.stirs.send_modify(|stirs| *stirs += 1);
        }
        let Some(own) = self.own else { return };
        let table = self.cluster.table();
        let record = table
            .leases()
            .get(&own)
            .map(|entry| (entry.lease.attrs.clone(), entry.lease.revision, entry.grant));
        let overlaps = table.overlapping(&own).map(|lease| (lease.subnets, lease.revision)).collect();
        let (seen, listings) = (self.revision, self.listings);
        let view = OwnRecord { subnets: own, seen, record, listings, overlaps };
        self.outputs.record.send_if_modified(|old| {
            let news = view.is_news(old.as_ref());
            if news {
                *old = Some(view);
            }
            news
        });
    }

    /// Applies what changed for single leases: the difference of what they wanted and want.
    async fn apply_changes(&mut self, changes: Vec<PeerChange>) {
        let (Some(own), Some(assembly)) = (self.own, &mut self.assembly) else { return };
        let changes: Vec<_> = changes.into_iter().filter(|change| change.subnets != own).collect();
        if changes.is_empty() {
            return;
        }
        let started = Instant::now();
        let assembly = Arc::make_mut(assembly);
        let mut ops = Vec::new();
        let (mut touched, mut contested) = (BTreeSet::new(), false);
        for change in changes {
            touched.insert(change.subnets);
            contested |= self.cluster.table().overlapping(&change.subnets).next().is_some();
            let difference = match change.after {
                Some(lease) => assembly.set(lease),
                None => assembly.remove(&change.subnets),
            };
            ops.extend(difference.plan());
        }
        if contested {
            self.version += 1;
            // Who of two has an address depends on both: only a full round looks at all.
            self.pace.request(Reason::Overlap, Instant::now());
            return;
        }
        self.rivalry.hold_back_changes(&mut ops, started);
        let applied = self.apply(&ops, Tried::Some).await;
        self.note_round(Reason::LeaseChange, applied, started.elapsed());
        info!(changes = touched.len(), applied = applied.done(), failed = applied.failed, "leases changed");
        if applied.failed > 0 {
            self.pace.failed(Instant::now());
        }
        self.untidy += touched.len();
        for subnets in touched {
            self.report_peer(subnets);
        }
        self.report.peers = self.assembly.as_ref().map_or(0, |assembly| assembly.leases().len());
        self.remember_leases();
        // What thousands of changes leave in pieces between what stays; once for many, since it walks the whole heap.
        if self.untidy >= TIDY_AFTER {
            self.release_memory();
        }
    }

    fn release_memory(&mut self) {
        self.untidy = 0;
        sys::release_memory();
    }

    fn take_claim(&mut self, claim: &ClaimState) {
        let own = claim.own.as_ref().map(|own| own.subnets);
        if own.is_some() && own != self.own {
            self.own = own;
            self.rounds_as_owner = 0;
            // A config that waited for a restart is in force with a lease that was chosen from it.
            self.offered.take().into_iter().for_each(|config| self.take_config(Some(config)));
            self.tell_claim(false);
            self.pace.request(Reason::Claim, Instant::now());
        }
    }

    fn take_hints(&mut self, inbox: &Inbox) {
        let now = Instant::now();
        let hints = inbox.take();
        let Some(assembly) = &self.assembly else {
            // Nothing is ours yet; what happens to the host decides what can be.
            self.pace.request_settled(Reason::Hint, now);
            return;
        };
        let networks = self.node.networks();
        let interest = Interest {
            desired: assembly.dataplane(),
            facts: &self.facts,
            networks: &networks,
            // While none is found, any interface may become the one.
            external: (!self.report.conditions.contains_key(condition::INTERFACE))
                .then_some(&self.node.external().name),
            underlay_routes: assembly.desired().depends_on_routes(),
        };
        if let Some(hint) = hints.reason(&interest) {
            debug!(hint = ?hint, "kernel changed");
            let reason = if *hint == Hint::Overrun { Reason::Overrun } else { Reason::Hint };
            self.look_soon(reason, now);
        }
    }

    async fn take_timer(&mut self) {
        let now = self.start.elapsed();
        if !self.cluster.tick(now).is_empty() {
            warn!("peers that a wiped store has lost did not come back and are given up");
            self.pace.request(Reason::Grace, Instant::now());
        }
        self.watch_rival();
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
        self.watch_stranded(finished);
        let took = finished - started;
        self.note_round(reason, applied, took);
        if applied.done() > 0 || failed > 0 {
            info!(reason = %reason, applied = applied.done(), failed, elapsed_ms = took.as_millis(), "round");
        } else {
            debug!(reason = %reason, elapsed_ms = took.as_millis(), "round without changes");
        }
        self.report.converged = match outcome {
            Ok(applied) if self.own.is_some() => {
                self.rounds_as_owner = self.rounds_as_owner.saturating_add(1);
                // What the kernel refuses for one peer, even again, must not keep the pods of the others from starting.
                applied.failed == 0 || applied.failed_own == 0 && self.rounds_as_owner > 1
            }
            _ => false,
        };
        self.report.peers_known = self.cluster.source() != Source::Nothing;
        self.report_node();
        self.remember_leases();
        self.release_memory();
    }

    /// One full round; fails if it could not look.
    async fn observe_and_apply(&mut self) -> Result<Applied, ()> {
        let observed = match self.kernel.observe(&self.node.tunnels()).await {
            Ok(observed) => observed,
            Err(error) => {
                self.set_condition(condition::KERNEL, Some(chain(&error)));
                return Err(());
            }
        };
        self.set_condition(condition::KERNEL, None);
        self.facts = observed.facts;
        self.look_at_host(&observed.dataplane);
        let Some(own) = self.own else { return Ok(Applied::default()) };

        let desired = match self.node.desired(&own, &self.facts, pods::addresses) {
            Ok(desired) => desired,
            Err(error) => {
                self.set_condition(condition::NODE, Some(chain(&error)));
                return Err(());
            }
        };
        self.set_condition(condition::NODE, None);
        let (peers, losers) = self.cluster.settled();
        let assembly = Assembly::new(desired, peers.into_iter().filter(|lease| lease.subnets != own));
        let networks = self.node.networks();
        let scope = Scope { desired: assembly.dataplane(), networks: &networks };
        let actual = owned(&observed.dataplane, &scope);
        let mut ops = plan(assembly.dataplane(), &actual, self.prune());
        self.rivalry.hold_back(&mut ops, Instant::now());
        let wanted = assembly.dataplane().len();
        self.report.peers = assembly.leases().len();
        self.set_peer_conditions(assembly.errors(), &losers);
        self.assembly = Some(Arc::new(assembly));
        let mut applied = self.apply(&ops, Tried::All).await;
        let set = ops.iter().filter(|op| classify(op).0 == Action::Set).count();
        applied.kept = wanted.saturating_sub(set) as u64;
        self.offer_services(&own);
        Ok(applied)
    }

    /// Follows the host: its external interface and, at first, the addresses of the tunnel devices.
    fn look_at_host(&mut self, actual: &Dataplane) {
        match self.node.look(&self.facts) {
            Ok(changed) => {
                if changed {
                    let external = self.node.external();
                    info!(
                        link = %external.name,
                        mtu_bytes = external.mtu,
                        public = %external.public,
                        "external interface changed"
                    );
                }
                self.set_condition(condition::INTERFACE, None);
            }
            Err(error) => self.set_condition(condition::INTERFACE, Some(chain(&error))),
        }
        let hardware = self.node.hardware();
        self.outputs.memory.send_if_modified(|memory| {
            let news = memory.hardware != hardware;
            memory.hardware = hardware;
            news
        });
        let public = self.node.external().public;
        let published = self
            .cluster
            .leases()
            .find(|lease| match public.v4 {
                Some(address) => lease.attrs.public_address(Family::V4) == Some(address),
                None => public.v6.is_some() && lease.attrs.public_address(Family::V6) == public.v6,
            })
            .map(|lease| lease.attrs.clone());
        let settled = self.node.settle_endpoints(actual, &self.macs, published.as_ref(), self.chance);
        if !settled.is_empty() {
            self.macs.extend(settled);
            let macs = self.macs.clone();
            self.outputs.memory.send_modify(|memory| memory.macs = macs);
        }
        let attrs = match self.node.attrs() {
            Ok(attrs) => attrs,
            Err(error) => return self.set_condition(condition::ATTRS, Some(chain(&error))),
        };
        self.set_condition(condition::ATTRS, None);
        self.outputs.attrs.send_if_modified(|old| {
            let news = old.as_ref() != Some(&attrs);
            if news {
                *old = Some(attrs);
            }
            news
        });
    }

    /// Hands the firewall and the CNI plugin what follows from our lease.
    fn offer_services(&mut self, own: &Subnets) {
        let firewall = Some(self.node.firewall(own));
        self.outputs.firewall.send_if_modified(|old| {
            let news = *old != firewall;
            if news {
                *old = firewall;
            }
            news
        });
        match self.node.subnet_env(own) {
            Ok(env) => {
                self.set_condition(condition::SUBNET_ENV, None);
                self.outputs.subnet_env.send_if_modified(|old| {
                    let news = old.as_ref() != Some(&env);
                    if news {
                        *old = Some(env);
                    }
                    news
                });
            }
            Err(error) => self.set_condition(condition::SUBNET_ENV, Some(chain(&error))),
        }
    }

    fn remember_leases(&self) {
        if self.cluster.source() != Source::Store {
            return;
        }
        let leases = self.cluster.leases().cloned().collect();
        let config = self.in_force.clone();
        self.outputs.memory.send_modify(|memory| {
            memory.leases = Some(leases);
            memory.config = config.or_else(|| memory.config.take());
        });
    }

    fn publish(&mut self) {
        self.report_counts();
        self.outputs.report.send_if_modified(|old| {
            let news = *old != self.report;
            if news {
                old.clone_from(&self.report);
            }
            news
        });
    }
}

#[cfg(test)]
mod tests;
