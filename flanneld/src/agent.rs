//! Agents: tasks that do for a backend what no kernel object can, such as forwarding the packets of a TUN device,
//! running a key exchange daemon or calling the API of a cloud.
//!
//! The [`Supervisor`] is the [`Effector`] of the reconcile loop for the agent of the backend in use: it starts the
//! agent, restarts it with a growing delay after it ended, gives it the leases of the peers, and reads back which of
//! them it could not serve.

use async_trait::async_trait;
use flannel_core::backend::Backend;
use flannel_core::backoff::{Backoff, BackoffPolicy};
use flannel_core::external::ExternalInterface;
use flannel_core::lease::{Lease, Subnets};
use flannel_core::status::{Action, Kind};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout};

use crate::effector::{Effector, Operation};

/// The leases of the peers that an agent serves.
pub type Peers = BTreeMap<Subnets, Arc<Lease>>;

/// A task of a backend. It stops when its future is dropped, with everything that it started.
#[async_trait]
pub trait Agent: Send {
    /// Works until it fails, and returns why.
    async fn run(self: Box<Self>, port: Port) -> anyhow::Error;
}

/// The channels of an agent.
pub struct Port {
    /// What it works for.
    pub setup: Setup,
    /// The peers to serve: complete, and changed at any time.
    pub peers: watch::Receiver<Peers>,
    /// Its own reports.
    pub progress: watch::Sender<Progress>,
}

/// The reports of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// It works, and kernel objects that depend on it (the routes through its device) can be created.
    pub up: bool,
    /// The peers whose last attempt failed, with the reason. A new value of `peers` is the request to try them again.
    pub failed: BTreeMap<Subnets, String>,
}

/// The parameters of an agent. If any of them changes, a new agent replaces it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The backend and its options.
    pub backend: Backend,
    /// The subnets of this node.
    pub subnets: Subnets,
    /// The interface to the other nodes.
    pub external: ExternalInterface,
}

/// Returns the agent of a backend, if it has one. Has no effects.
pub type Factory = Box<dyn Fn(&Backend) -> Option<Box<dyn Agent>> + Send + Sync>;

/// The agents of the built-in backends: so far the kernel does all that they need.
#[must_use]
pub fn built_in() -> Factory {
    Box::new(|_| None)
}

/// The state of the agent, desired or observed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentState {
    /// The parameters of the agent; `None` without one.
    pub setup: Option<Setup>,
    /// The peers that it serves.
    pub peers: Peers,
    /// Those of them whose last attempt failed; nobody desires that.
    pub failed: BTreeSet<Subnets>,
}

/// A change of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentOp {
    /// Starts the agent in place of the one that runs. Its peers are kept.
    Start(Box<Setup>),
    /// Stops the agent and forgets its peers.
    Stop,
    /// Serves a peer, with this lease.
    SetPeer(Arc<Lease>),
    /// Serves a peer no longer.
    RemovePeer(Subnets),
}

/// The operations that lead from `actual` to `desired`.
#[must_use]
pub fn plan(desired: &AgentState, actual: &AgentState) -> Vec<AgentOp> {
    let Some(setup) = &desired.setup else {
        return if *actual == AgentState::default() { Vec::new() } else { vec![AgentOp::Stop] };
    };
    let start = (actual.setup.as_ref() != Some(setup)).then(|| AgentOp::Start(Box::new(setup.clone())));
    let is_served = |lease: &Arc<Lease>| {
        actual.peers.get(&lease.subnets) == Some(lease) && !actual.failed.contains(&lease.subnets)
    };
    let set = desired.peers.values().filter(|lease| !is_served(lease));
    let removed = actual.peers.keys().filter(|key| !desired.peers.contains_key(*key));
    start
        .into_iter()
        .chain(removed.map(|key| AgentOp::RemovePeer(*key)))
        .chain(set.map(|lease| AgentOp::SetPeer(Arc::clone(lease))))
        .collect()
}

impl fmt::Display for AgentOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(setup) => write!(f, "agent start {}", setup.backend.name()),
            Self::Stop => f.write_str("agent stop"),
            Self::SetPeer(lease) => write!(f, "agent peer replace {}", lease.subnets),
            Self::RemovePeer(subnets) => write!(f, "agent peer delete {subnets}"),
        }
    }
}

impl Operation for AgentOp {
    fn class(&self) -> (Action, Kind) {
        let action = match self {
            Self::Start(_) | Self::SetPeer(_) => Action::Set,
            Self::Stop | Self::RemovePeer(_) => Action::Delete,
        };
        (action, Kind::Agent)
    }

    fn is_own(&self) -> bool {
        matches!(self, Self::Start(_) | Self::Stop)
    }
}

/// Why the agent does not work, or not for a peer.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// There is none.
    #[error("the backend {0} has no agent")]
    None(&'static str),
    /// It ended.
    #[error("the agent ended: {0}")]
    Ended(String),
    /// It is not up in time.
    #[error("the agent did not start within {} s", START_LIMIT.as_secs())]
    Slow,
    /// The last attempt to serve a peer failed.
    #[error("the agent could not serve the peer: {0}")]
    Peer(String),
}

/// How long a start may take. A round waits for it, since kernel objects depend on it.
const START_LIMIT: Duration = Duration::from_secs(5);
/// The delay before a restart.
const RESTARTS: BackoffPolicy =
    BackoffPolicy { first: Duration::from_millis(500), cap: Duration::from_secs(30) };
/// After this time of work an end is the first of a new series.
const STEADY: Duration = Duration::from_secs(60);

/// Runs the agent of the backend in use.
pub struct Supervisor {
    factory: Factory,
    peers: watch::Sender<Peers>,
    running: Option<Running>,
    restarts: Backoff,
    /// Why the last agent ended, and when the next one may start.
    ended: Option<(String, Instant)>,
}

struct Running {
    setup: Setup,
    since: Instant,
    progress: watch::Receiver<Progress>,
    /// One task: a set aborts it when dropped.
    task: JoinSet<anyhow::Error>,
}

impl Supervisor {
    /// A supervisor without an agent.
    #[must_use]
    pub fn new(factory: Factory, seed: u64) -> Self {
        let (peers, restarts) = (watch::Sender::default(), RESTARTS.delays(seed));
        Self { factory, peers, running: None, restarts, ended: None }
    }

    /// Whether the backend has an agent.
    #[must_use]
    pub fn serves(&self, backend: &Backend) -> bool {
        (self.factory)(backend).is_some()
    }

    /// Whether an agent runs, and so takes changes of its peers.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Why the agent that is needed does not run.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let (reason, _) = self.ended.as_ref().filter(|_| self.running.is_none())?;
        Some(format!("the agent of the backend ended and is restarted: {reason}"))
    }

    /// Waits for an end or a report of the agent. Cancel-safe.
    pub async fn changed(&mut self) {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        tokio::select! {
            Some(end) = running.task.join_next() => self.note_end(end),
            Ok(()) = running.progress.changed() => {}
        }
    }

    fn note_end(&mut self, end: Result<anyhow::Error, JoinError>) {
        if self.running.take().is_some_and(|running| running.since.elapsed() >= STEADY) {
            self.restarts.reset();
        }
        let reason = end.map_or_else(|error| error.to_string(), |error| format!("{error:#}"));
        self.ended = Some((reason, Instant::now() + self.restarts.delay()));
    }

    async fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.task.shutdown().await;
        }
    }

    async fn start(&mut self, setup: &Setup) -> Result<(), AgentError> {
        self.stop().await;
        if let Some((reason, not_before)) = &self.ended
            && Instant::now() < *not_before
        {
            return Err(AgentError::Ended(reason.clone()));
        }
        let agent = (self.factory)(&setup.backend).ok_or(AgentError::None(setup.backend.name()))?;
        let (sender, progress) = watch::channel(Progress::default());
        let port = Port { setup: setup.clone(), peers: self.peers.subscribe(), progress: sender };
        let mut task = JoinSet::new();
        task.spawn(agent.run(port));
        let mut up = progress.clone();
        self.running = Some(Running { setup: setup.clone(), since: Instant::now(), progress, task });
        let started = async {
            if up.wait_for(|progress| progress.up).await.is_err() {
                // It ended: its sender is dropped.
                self.changed().await;
            }
        };
        if timeout(START_LIMIT, started).await.is_err() {
            self.stop().await;
            self.ended = Some((AgentError::Slow.to_string(), Instant::now() + self.restarts.delay()));
            return Err(AgentError::Slow);
        }
        match (&mut self.running, &self.ended) {
            (None, Some((reason, _))) => Err(AgentError::Ended(reason.clone())),
            (running, _) => {
                // The loop knows that it is up: no reason for another round.
                running.iter_mut().for_each(|running| running.progress.mark_unchanged());
                Ok(())
            }
        }
    }

    /// Gives the agent a lease. If its last attempt with the same lease failed, it tries again, and that failure is the
    /// result: the success shows in the next observation.
    fn set_peer(&self, lease: &Arc<Lease>) -> Result<(), AgentError> {
        let known = self.peers.borrow().get(&lease.subnets) == Some(lease);
        let failure = self.running.as_ref().filter(|_| known).and_then(|running| {
            running
                .progress
                .borrow()
                .failed
                .get(&lease.subnets)
                .map(|reason| AgentError::Peer(reason.clone()))
        });
        self.peers.send_modify(|peers| drop(peers.insert(lease.subnets, Arc::clone(lease))));
        failure.map_or(Ok(()), Err)
    }
}

impl Effector for Supervisor {
    type Scope = ();
    type State = AgentState;
    type Op = AgentOp;
    type Error = AgentError;

    async fn observe(&mut self, (): &()) -> Result<AgentState, AgentError> {
        let end = self.running.as_mut().and_then(|running| running.task.try_join_next());
        if let Some(end) = end {
            self.note_end(end);
        }
        let mut state = AgentState { peers: self.peers.borrow().clone(), ..AgentState::default() };
        if let Some(running) = &mut self.running {
            state.setup = Some(running.setup.clone());
            state.failed = running.progress.borrow_and_update().failed.keys().copied().collect();
        }
        Ok(state)
    }

    async fn apply(&mut self, ops: &[AgentOp]) -> Vec<Result<(), AgentError>> {
        let mut results = Vec::with_capacity(ops.len());
        for op in ops {
            results.push(match op {
                AgentOp::Start(setup) => self.start(setup).await,
                AgentOp::Stop => {
                    self.stop().await;
                    self.ended = None;
                    self.peers.send_replace(Peers::new());
                    Ok(())
                }
                AgentOp::SetPeer(lease) => self.set_peer(lease),
                AgentOp::RemovePeer(subnets) => {
                    self.peers.send_modify(|peers| drop(peers.remove(subnets)));
                    Ok(())
                }
            });
        }
        results
    }
}
