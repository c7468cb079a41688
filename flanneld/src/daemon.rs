//! Starts the tasks of the daemon and ends them.
//!
//! | task | input | output |
//! |---|---|---|
//! | health ([`crate::healthz`]) | readiness, the board | `/healthz`, `/readyz`, `/metrics` |
//! | status ([`crate::board`]) | everything that the others publish; views of reconcile | the status socket |
//! | watch ([`crate::store::watch`]) | the store | listings and changes → reconcile |
//! | monitor ([`crate::kernel`]) | netlink multicast | notifications → reconcile |
//! | claim ([`crate::claim`]) | attributes, our record | our lease → reconcile, publish, remember |
//! | firewall ([`crate::firewall`]) | rules, notifications | the rules in the kernel |
//! | publish ([`crate::publish`]) | all of the above; the [`crate::pulse`] of reconcile | `subnet.env`, readiness, service manager |
//! | announce ([`crate::announce`]) | readiness | the store, where it has a place for it |
//! | remember ([`crate::publish`]) | leases, config | the state directory |
//! | reconcile ([`crate::reconcile`]) | listings, our lease, notifications | the kernel, the agent; rules → firewall; `subnet.env` → publish |
//!
//! The first four run from the start; the others need a network config. If a task ends before the daemon is stopped, the
//! daemon ends: the service manager restarts it, and a start is just another round.

use anyhow::{Context as _, anyhow, bail};
use std::convert::Infallible;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info, info_span, warn};

use crate::agent::{self, Supervisor};
use crate::announce;
use crate::board::socket::StatusSocket;
use crate::board::{Board, Sources};
use crate::claim::{self, ClaimState};
use crate::cli::Options;
use crate::firewall::{self, FirewallStatus};
use crate::healthz;
use crate::kernel::{Inbox, Monitor, NetlinkKernel};
use crate::node::Node;
use crate::notify::Notifier;
use crate::publish::{self, Publisher};
use crate::pulse::Pulse;
use crate::reconcile::{self, Outputs, Reconciler};
use crate::start::{First, FirstConfig, Past, check_bridge};
use crate::state::Remembered;
use crate::status::{Readiness, ViewRequest};
use crate::store::Store;
use crate::store::watch::{self as store_watch, Update, WatchStats};

/// How long tasks may take to end. All of them end at their next wait; only a blocked disk takes longer.
const GRACE: Duration = Duration::from_millis(700);

/// Runs the daemon until a signal or the end of a task.
///
/// # Errors
///
/// Fails if the daemon cannot start with these options, or if a task failed.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let mut tasks = Tasks::default();
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    let outcome = tokio::select! {
        _ = interrupt.recv() => Ok("SIGINT"),
        _ = terminate.recv() => Ok("SIGTERM"),
        outcome = start_and_watch(options, &mut tasks) => Err(outcome),
    };
    tasks.end().await;
    match outcome {
        Ok(signal) => {
            info!(signal, "stopped: devices, routes, rules, subnet file and lease are kept");
            Ok(())
        }
        Err(Err(error)) => Err(error),
    }
}

/// A row of the table of tasks.
type Task = (&'static str, Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>);

/// A task that cannot fail.
fn task(name: &'static str, future: impl Future<Output = ()> + Send + 'static) -> Task {
    let future = future.instrument(info_span!("task", name));
    let future = async {
        future.await;
        Ok(())
    };
    (name, Box::pin(future))
}

/// The running tasks, and the token that stops them.
#[derive(Default)]
struct Tasks {
    set: JoinSet<anyhow::Result<&'static str>>,
    stop: CancellationToken,
}

impl Tasks {
    fn start(&mut self, table: impl IntoIterator<Item = Task>) {
        for (name, task) in table {
            self.set.spawn(async move { task.await.map(|()| name) });
        }
    }

    /// Waits for a task to end, which none should.
    async fn watch(&mut self) -> anyhow::Result<Infallible> {
        match self.set.join_next().await {
            Some(Ok(Ok(name))) => bail!("the task {name} ended unexpectedly"),
            Some(Ok(Err(error))) => Err(error),
            Some(Err(error)) => Err(anyhow!(error).context("a task failed")),
            None => bail!("all tasks have ended"),
        }
    }

    async fn end(&mut self) {
        self.stop.cancel();
        let ended = async { while self.set.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            warn!("a task did not end in time and is aborted");
        }
    }
}

/// The sending ends of what tasks publish. They exist before any task starts, so that the first request can be answered.
struct Channels {
    readiness: watch::Sender<Readiness>,
    claim: watch::Sender<ClaimState>,
    firewall: watch::Sender<FirewallStatus>,
    host: watch::Sender<Vec<String>>,
    announcement: watch::Sender<Option<String>>,
    outputs: Outputs,
    watch: watch::Sender<WatchStats>,
    views: mpsc::Receiver<ViewRequest>,
}

impl Channels {
    fn open(options: &Options, store: &Store) -> (Self, Arc<Board>) {
        // One request for a view is under way at a time.
        let (ask, views) = mpsc::channel(1);
        let channels = Self {
            readiness: watch::Sender::new(Readiness::waiting("starting")),
            claim: watch::Sender::default(),
            firewall: watch::Sender::default(),
            host: watch::Sender::default(),
            announcement: watch::Sender::default(),
            outputs: Outputs::default(),
            watch: watch::Sender::default(),
            views,
        };
        let board = Board::new(Sources {
            store: Arc::clone(store),
            watch: channels.watch.subscribe(),
            readiness: channels.readiness.subscribe(),
            claim: channels.claim.subscribe(),
            report: channels.outputs.report.subscribe(),
            history: channels.outputs.history.subscribe(),
            firewall: channels.firewall.subscribe(),
            host: channels.host.subscribe(),
            announcement: channels.announcement.subscribe(),
            views: ask,
            renew_margin: options.renew_margin,
        });
        (channels, Arc::new(board))
    }
}

/// Starts everything, then waits for a task to end, which none should.
async fn start_and_watch(options: Options, tasks: &mut Tasks) -> anyhow::Result<Infallible> {
    let store = options.store.open()?;
    let (channels, board) = Channels::open(&options, &store);
    if let Some(address) = options.healthz {
        let listener = healthz::bind(address)?;
        let serving = healthz::serve(listener, Arc::clone(&board), tasks.stop.clone());
        tasks.start([task("health", serving)]);
    }
    if let Some(path) = &options.status_socket {
        let socket = StatusSocket::bind(path)?;
        tasks.start([task("status", socket.serve(board, tasks.stop.clone()))]);
    }
    let mut past = Past::load(&options);
    let (sender, mut updates) = store_watch::channel();
    let stats = channels.watch.clone();
    let watch = store_watch::follow(Arc::clone(&store), sender, stats, random(), tasks.stop.clone());
    // Notifications before the first observation, so that no change falls in between.
    let (hints, mut kernel) = (Inbox::default(), NetlinkKernel::open()?);
    let monitor = monitor(Monitor::open(kernel.port())?, hints.clone(), tasks.stop.clone());
    tasks.start([task("watch", watch), ("monitor", Box::pin(monitor))]);

    let first = FirstConfig {
        options: options.node.clone(),
        remembered: past.remembered.config.as_ref().map(|config| config.text.clone()),
        place: &store.identity().config_place,
        readiness: &channels.readiness,
        problem: None,
        own: past.own_node(),
    };
    let First { node, seen, own } = first.wait(&mut kernel, &mut updates).await?;
    past.restore(&node, &own);
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
    let parts = Parts { options, past, store, kernel, node, seen, updates, hints, channels };
    tasks.start(parts.table(&tasks.stop));
    tasks.watch().await
}

async fn monitor(monitor: Monitor, inbox: Inbox, stop: CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        Err(error) = monitor.run(inbox) => Err(error.into()),
    }
}

/// What the tasks that need a config are made of.
struct Parts {
    options: Options,
    past: Past,
    store: Store,
    kernel: NetlinkKernel,
    node: Node,
    /// The updates of the store up to the config, and those to come.
    seen: Vec<Update>,
    updates: mpsc::Receiver<Update>,
    hints: Inbox,
    channels: Channels,
}

impl Parts {
    /// The tasks that need a config.
    fn table(self, stop: &CancellationToken) -> Vec<Task> {
        let Self { options, mut past, store, kernel, mut node, seen, updates, hints, channels } = self;
        past.forget_if_cloned(&node);
        if let Some(previous) = &past.previous {
            node.inherit(previous.networks.iter());
        }
        let pulse = Arc::<Pulse>::default();
        let outputs = channels.outputs;
        let preferred = past.previous.as_ref().map(|previous| previous.subnets);
        let lease = claim::own_lease(&store, options.renew_margin, preferred, past.lease(), random());
        let (ready, problem) = (channels.readiness.subscribe(), channels.announcement);
        let announce = announce::run(Arc::clone(&store), ready, problem, random(), stop.clone());
        let channels_of_claim = claim::Channels {
            store,
            lease_time: options.lease_time,
            attrs: outputs.attrs.subscribe(),
            record: outputs.record.subscribe(),
            wakeups: outputs.wakeups.subscribe(),
            state: channels.claim.clone(),
        };
        let publisher = Publisher::new(
            publish::Inputs {
                claim: channels.claim.subscribe(),
                report: outputs.report.subscribe(),
                firewall: channels.firewall.subscribe(),
                subnet_env: outputs.subnet_env.subscribe(),
            },
            publish::Outputs {
                subnet_file: options.subnet_file,
                readiness: channels.readiness,
                host: channels.host,
                notifier: Notifier::from_env(|name| std::env::var_os(name), std::process::id()),
                pulse: Arc::clone(&pulse),
            },
            node.families(),
        );
        let rules = outputs.firewall.subscribe();
        let firewall = firewall::run(rules, options.firewall_resync, channels.firewall, stop.clone());
        let (memory, own) = (outputs.memory.subscribe(), channels.claim.subscribe());
        let remember = |state| task("remember", publish::remember(state, memory, own, stop.clone()));
        let inputs = reconcile::Inputs {
            seen,
            store: updates,
            claim: channels.claim.subscribe(),
            hints,
            views: channels.views,
            pulse,
        };
        let Remembered { records, vtep_macs: macs, .. } = past.remembered;
        let remembered = reconcile::Remembered { records, macs };
        let agent = Supervisor::new(agent::built_in(), random());
        let reconciler = Reconciler::new((kernel, agent), node, remembered, outputs, random_mac);
        let mut table = vec![
            task("claim", claim::run(lease, channels_of_claim, stop.clone())),
            task("firewall", firewall),
            task("publish", publisher.run(stop.clone())),
            task("announce", announce),
            task("reconcile", reconciler.run(inputs, stop.clone())),
        ];
        table.extend(past.state.take().map(remember));
        table
    }
}

/// A number that differs between processes: std seeds its hasher from the randomness of the system.
fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

fn random_mac() -> [u8; 6] {
    let [a, b, c, d, e, f, ..] = random().to_ne_bytes();
    [a, b, c, d, e, f]
}
