//! Starts the tasks of the daemon and ends them.
//!
//! | task | listens to | tells |
//! |---|---|---|
//! | health ([`crate::healthz`]) | readiness, the board | `/healthz`, `/readyz`, `/metrics` |
//! | status ([`crate::status`]) | everything that the others publish; asks reconcile | the status socket |
//! | follow ([`crate::store::watch`]) | the store | listings and changes → reconcile |
//! | claim ([`crate::claim`]) | wanted attributes, our record | our lease → reconcile, publish, remember |
//! | monitor ([`crate::kernel`]) | netlink multicast | hints → reconcile |
//! | reconcile ([`crate::reconcile`]) | listings, our lease, hints | the kernel; rules → firewall; `subnet.env` → publish |
//! | firewall ([`crate::firewall`]) | rules, notifications | the rules in the kernel |
//! | publish ([`crate::publish`]) | all of the above; asks reconcile for its [`crate::pulse`] | `subnet.env`, readiness, service manager |
//! | remember ([`crate::publish`]) | leases, config | the state directory |
//!
//! A task that ends before the daemon is told to stop ends the daemon: the service manager starts it anew,
//! and a start is just another round.

use anyhow::{Context as _, anyhow, bail};
use flannel_core::backend::BackendError;
use flannel_core::family::Family;
use flannel_core::lease::{LeaseAttrs, Revision, Subnets};
use flannel_core::ruleset::Mode;
use flannel_core::store::{Change, Record};
use flannel_core::subnet_env::PreviousEnv;
use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info, info_span, warn};

use crate::claim::{self, ClaimState};
use crate::cli::Options;
use crate::error::chain;
use crate::firewall::{self, FirewallStatus};
use crate::healthz::{Endpoints, Healthz, Readiness};
use crate::host::subnet_file;
use crate::host::sysctl::Sysctl;
use crate::kernel::{Inbox, Kernel as _, Monitor, NetlinkKernel};
use crate::node::{Node, NodeError, NodeOptions};
use crate::notify::Notifier;
use crate::publish::{self, Publisher};
use crate::pulse::pulse;
use crate::reconcile::{self, Memory, Outputs, Reconciler};
use crate::state::{Remembered, StateDir};
use crate::status::{Board, Sources, StatusSocket, ViewRequest, metrics};
use crate::store::Store;
use crate::store::watch::{self as store_watch, Update, WatchCounters};

/// How long tasks may take to end. All of them end at their next wait; only a blocked disk takes longer.
const GRACE: Duration = Duration::from_millis(700);

/// How long a start waits for the store before it goes on with what the state directory has.
const STORE_PATIENCE: Duration = Duration::from_secs(3);

/// Runs the daemon until a signal or the end of a task.
///
/// # Errors
///
/// Fails if the daemon cannot start with what it was given, or if a task failed.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    let outcome = tokio::select! {
        _ = interrupt.recv() => Ok("SIGINT"),
        _ = terminate.recv() => Ok("SIGTERM"),
        outcome = start_and_watch(options, &mut tasks, stop.clone()) => Err(outcome),
    };
    stop.cancel();
    let ended = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, ended).await.is_err() {
        warn!("a task did not end in time and is aborted");
    }
    match outcome {
        Ok(signal) => {
            info!(signal, "stopped: devices, routes, rules, subnet file and lease stay");
            Ok(())
        }
        Err(Ok(never)) => match never {},
        Err(Err(error)) => Err(error),
    }
}

/// Starts everything, then waits for a task to end, which none should.
async fn start_and_watch(
    options: Options,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: CancellationToken,
) -> anyhow::Result<std::convert::Infallible> {
    let store = options.store.open()?;
    let (channels, board) = Channels::open(&options, &store);
    if let Some(address) = options.healthz {
        let healthz = Healthz::bind(address)?;
        let board = Arc::clone(&board);
        let endpoints = Endpoints {
            readiness: channels.readiness.subscribe(),
            metrics: Arc::new(move || metrics::page(&board)),
        };
        spawn(tasks, healthz.serve(endpoints, stop.clone()));
    }
    if let Some(path) = &options.status_socket {
        let socket = StatusSocket::bind(path)?;
        spawn(tasks, socket.serve(board, stop.clone()));
    }
    let starting = start(options, store, tasks, channels, stop);
    starting.await?;
    match tasks.join_next().await {
        Some(Ok(Ok(()))) => bail!("a task ended although nothing told it to"),
        Some(Ok(Err(error))) => Err(error),
        Some(Err(error)) => Err(anyhow!(error).context("a task failed")),
        None => bail!("all tasks have ended"),
    }
}

/// The sending ends of what tasks tell each other, made before any of them starts, so that the first question about the
/// daemon can be answered.
struct Channels {
    readiness: watch::Sender<Readiness>,
    claim: watch::Sender<ClaimState>,
    firewall: watch::Sender<FirewallStatus>,
    host: watch::Sender<Vec<String>>,
    outputs: Outputs,
    watch: Arc<WatchCounters>,
    views: mpsc::Receiver<ViewRequest>,
}

impl Channels {
    fn open(options: &Options, store: &Store) -> (Self, Arc<Board>) {
        // One question about the kernel is under way at a time.
        let (ask, views) = mpsc::channel(1);
        let channels = Self {
            readiness: watch::Sender::new(Readiness::NotReady { reasons: vec!["starting".to_owned()] }),
            claim: watch::Sender::default(),
            firewall: watch::Sender::default(),
            host: watch::Sender::default(),
            outputs: Outputs::default(),
            watch: Arc::default(),
            views,
        };
        let board = Board::new(Sources {
            store: Arc::clone(store),
            watch: Arc::clone(&channels.watch),
            readiness: channels.readiness.subscribe(),
            claim: channels.claim.subscribe(),
            report: channels.outputs.report.subscribe(),
            history: channels.outputs.history.subscribe(),
            firewall: channels.firewall.subscribe(),
            host: channels.host.subscribe(),
            views: ask,
            renew_margin: options.renew_margin,
        });
        (channels, Arc::new(board))
    }
}

/// What the last run left.
struct Past {
    state: Option<StateDir>,
    remembered: Remembered,
    /// What `subnet.env` says.
    previous: Option<PreviousEnv>,
}

impl Past {
    fn load(options: &Options) -> Self {
        let (state, remembered) = match StateDir::open(&options.state_dir, &options.store.scope()) {
            Ok(mut state) => {
                let remembered = state.load();
                (Some(state), remembered)
            }
            Err(error) => {
                warn!(
                    error = %chain(&error),
                    "going on without the state directory: a start while the store is away will find nothing"
                );
                (None, Remembered::default())
            }
        };
        let previous = match subnet_file::read(&options.subnet_file) {
            Ok(text) => text.map(|text| PreviousEnv::parse(&text)).filter(|env| !env.subnets.is_empty()),
            Err(error) => {
                warn!(error = %chain(&error), "could not read the subnet file of the last run");
                None
            }
        };
        Self { state, remembered, previous }
    }

    /// The lease of the last run.
    fn lease(&self) -> Option<(Subnets, LeaseAttrs)> {
        let lease = self.remembered.lease.as_ref()?;
        Some((Subnets::parse_key(&lease.key).ok()?, LeaseAttrs::parse(&lease.value).ok()?))
    }

    /// Forgets what belongs to another node: the disk of this one is a copy of its disk. A node whose address has
    /// changed keeps its interface, and one whose interface was exchanged keeps its address.
    fn forget_if_cloned(&mut self, node: &Node) {
        let Some((subnets, attrs)) = self.lease() else { return };
        let before = self.remembered.lease.as_ref().and_then(|lease| lease.hardware);
        let public = node.external().public;
        let moved = Family::ALL
            .into_iter()
            .find_map(|family| Some((attrs.public_address(family)?, public.get(family)?)))
            .is_some_and(|(before, now)| before != *now);
        if moved && before.is_some() && node.hardware().is_some() && before != node.hardware() {
            warn!(subnet = %subnets, "state directory is that of another node: its lease and tunnel address are left to it");
            self.remembered.lease = None;
            self.remembered.vtep_macs.clear();
        }
    }

    /// The leases of the last run, as records.
    fn records(&self) -> Vec<Record> {
        let records = self.remembered.records.iter().map(|(key, value)| Record {
            key: key.clone(),
            value: value.clone(),
            revision: Revision::default(),
            grant: None,
        });
        records.collect()
    }
}

async fn start(
    options: Options,
    store: Store,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    channels: Channels,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let past = Past::load(&options);
    let (sender, mut updates) = store_watch::channel();
    let follow =
        store_watch::follow(store.clone(), sender, Arc::clone(&channels.watch), chance(), stop.clone());
    tasks.spawn(async move {
        follow.instrument(info_span!("watch")).await;
        Ok(())
    });

    // Hints before the first look, so that nothing falls between the two.
    let monitor = Monitor::open()?;
    let hints = Inbox::new();
    let inbox = hints.clone();
    let stopped = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = stopped.cancelled() => Ok(()),
            outcome = monitor.run(inbox) => match outcome {
                Ok(never) => match never {},
                Err(error) => Err(error.into()),
            },
        }
    });

    let mut kernel = NetlinkKernel::open()?;
    let (node, seen) =
        first_config((&options, &store), &past, &mut kernel, &mut updates, &channels.readiness).await?;
    check_bridge(&node)?;
    let external = node.external();
    info!(
        link = %external.name,
        method = %external.method,
        mtu_bytes = external.mtu,
        public = %external.public,
        backend = node.config().backend.name(),
        "external interface chosen"
    );
    spawn_rest(options, past, store, kernel, node, (seen, updates), hints, channels, tasks, &stop);
    Ok(())
}

/// Waits for a config that can be used: that of the store, or that of the last run while the store is away. Returns
/// also what the store has told meanwhile.
async fn first_config(
    (options, store): (&Options, &Store),
    past: &Past,
    kernel: &mut NetlinkKernel,
    updates: &mut mpsc::Receiver<Update>,
    readiness: &watch::Sender<Readiness>,
) -> anyhow::Result<(Node, Vec<Update>)> {
    let node_options = NodeOptions::from(options);
    let patience = tokio::time::sleep(STORE_PATIENCE);
    tokio::pin!(patience);
    let mut remembered = past.remembered.config.as_ref().map(|config| config.text.clone());
    let mut seen = Vec::new();
    let mut complaint = None;
    loop {
        let update = tokio::select! {
            update = updates.recv() => Some(update.context("the store is not followed any more")?),
            () = &mut patience, if remembered.is_some() => None,
        };
        let offered = match &update {
            Some(Update::Listing { listing, .. }) => {
                seen.clear();
                Some(listing.config.as_ref().map(|config| config.text.clone()))
            }
            Some(Update::Changes { changes, .. }) => changes.iter().rev().find_map(|change| match change {
                Change::Config(config) => Some(config.as_ref().map(|config| config.text.clone())),
                _ => None,
            }),
            Some(Update::Down(_)) | None => Some(remembered.take()),
            Some(Update::Up) => None,
        };
        let away = matches!(update, Some(Update::Down(_)) | None);
        if let Some(Update::Down(error)) = &update {
            let reason = format!("the store does not answer: {}", chain(error));
            readiness.send_replace(Readiness::NotReady { reasons: vec![reason] });
        }
        seen.extend(update);
        let problem = match offered {
            None => continue,
            Some(None) if away => continue,
            Some(None) => {
                format!("the store has no network config: write one to {}", store.identity().config_place)
            }
            Some(Some(text)) => match try_config(&node_options, &text, kernel).await? {
                Ok(node) => return Ok((node, seen)),
                Err(problem) => problem,
            },
        };
        // Said once: the store tells when it changes.
        if complaint.as_ref() != Some(&problem) {
            warn!(reason = %problem, "waiting for a network config");
            readiness.send_replace(Readiness::NotReady { reasons: vec![problem.clone()] });
            complaint = Some(problem);
        }
        // A store that has lost its config, or got a broken one, stops no node that had a good one.
        if let Some(text) = remembered.take()
            && let Ok(node) = try_config(&node_options, &text, kernel).await?
        {
            warn!("going on with the network config of the last run");
            return Ok((node, seen));
        }
    }
}

/// A node by this config, or what is wrong with the config. Anything else that is wrong ends the start.
async fn try_config(
    options: &NodeOptions,
    text: &str,
    kernel: &mut NetlinkKernel,
) -> anyhow::Result<Result<Node, String>> {
    let facts = kernel.observe(&BTreeSet::new()).await?.facts;
    match Node::new(options.clone(), text, &facts) {
        Ok(node) => Ok(Ok(node)),
        Err(
            error @ (NodeError::Config(_)
            | NodeError::NoFamily
            | NodeError::Host(BackendError::NameTooLong { .. })),
        ) => Ok(Err(chain(&error))),
        Err(error) => Err(error.into()),
    }
}

/// Refuses to start where iptables rules could not see bridged pod traffic.
fn check_bridge(node: &Node) -> anyhow::Result<()> {
    let mode = if node.config().enable_nftables { Mode::Nftables } else { Mode::Iptables };
    for finding in firewall::bridge::findings(&Sysctl::default(), mode, &node.families()) {
        if finding.fatal {
            bail!("{finding}");
        }
        warn!(reason = %finding, "bridged pod traffic does not pass the firewall");
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "one call that moves every part to its task")]
fn spawn_rest(
    options: Options,
    mut past: Past,
    store: Store,
    kernel: NetlinkKernel,
    mut node: Node,
    (seen, updates): (Vec<Update>, mpsc::Receiver<Update>),
    hints: Inbox,
    channels: Channels,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &CancellationToken,
) {
    past.forget_if_cloned(&node);
    if let Some(previous) = &past.previous {
        node.inherit(previous.networks.iter());
    }
    let wish = past.previous.map(|previous| previous.subnets);
    let families = node.families();
    let Channels { readiness, claim: claim_state, firewall: firewall_status, host, outputs, views, .. } =
        channels;
    let (asker, answerer) = pulse();
    let publisher = Publisher {
        inputs: publish::Inputs {
            claim: claim_state.subscribe(),
            report: outputs.report.subscribe(),
            firewall: firewall_status.subscribe(),
            subnet_env: outputs.subnet_env.subscribe(),
        },
        subnet_file: options.subnet_file.clone(),
        families,
        readiness,
        host,
        notifier: Notifier::from_env(|name| std::env::var_os(name), std::process::id()),
        pulse: asker,
        written: false,
        checked: None,
        converged: false,
    };
    let lease = claim::own_lease(&store, options.renew_margin, wish, past.lease(), chance());
    let ports = claim::Ports {
        store,
        lease_time: options.lease_time,
        attrs: outputs.attrs.subscribe(),
        record: outputs.record.subscribe(),
        stirs: outputs.stirs.subscribe(),
        state: claim_state.clone(),
    };
    let records = past.records();
    let inputs = reconcile::Inputs {
        seen,
        store: updates,
        claim: claim_state.subscribe(),
        hints,
        views,
        pulse: answerer,
    };
    let firewall =
        firewall::run(outputs.firewall.subscribe(), options.firewall_resync, firewall_status, stop.clone());
    let memory: watch::Receiver<Memory> = outputs.memory.subscribe();
    if let Some(state) = past.state {
        spawn(tasks, publish::remember(state, memory, claim_state.subscribe(), stop.clone()));
    }
    let macs = past.remembered.vtep_macs;
    let reconciler = Reconciler::new(kernel, node, (&records, macs), outputs, chance_mac);
    spawn(tasks, claim::run(lease, ports, stop.clone()).instrument(info_span!("claim")));
    spawn(tasks, firewall);
    spawn(tasks, publisher.run(stop.clone()));
    spawn(tasks, reconciler.run(inputs, stop.clone()));
}

fn spawn(tasks: &mut JoinSet<anyhow::Result<()>>, task: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        task.await;
        Ok(())
    });
}

/// A number that differs between processes: std seeds its hasher from the system's randomness.
fn chance() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

fn chance_mac() -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = chance().to_ne_bytes();
    [a, b, c, d, e, f]
}
