//! An agent that notes what it is given, and fails on order.

use anyhow::anyhow;
use async_trait::async_trait;
use flannel_core::lease::Subnets;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::agent::{Agent, Factory, Port, Progress};
use crate::status::set;

/// The agents of one node, one at a time. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct FakeAgents {
    state: Arc<Mutex<State>>,
    crash: Arc<Notify>,
}

#[derive(Default)]
pub(crate) struct State {
    /// When agents were started.
    pub(crate) starts: Vec<Instant>,
    pub(crate) is_running: bool,
    /// The peers that are served.
    pub(crate) peers: BTreeSet<String>,
    /// So many starts fail from now on.
    pub(crate) fail_starts: u32,
    /// Peers that cannot be served.
    pub(crate) refused: BTreeSet<String>,
}

impl FakeAgents {
    /// Only the vxlan backend has an agent.
    pub(crate) fn factory(&self) -> Factory {
        let agents = self.clone();
        Box::new(move |backend| {
            (backend.name() == "vxlan").then(|| Box::new(FakeAgent(agents.clone())) as Box<dyn Agent>)
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Ends the running agent with an error.
    pub(crate) fn crash(&self) {
        self.crash.notify_one();
    }
}

struct FakeAgent(FakeAgents);

/// What the agent holds while it runs, such as a device.
struct Device(FakeAgents);

impl Drop for Device {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_running = false;
        state.peers.clear();
    }
}

#[async_trait]
impl Agent for FakeAgent {
    async fn run(self: Box<Self>, mut port: Port) -> anyhow::Error {
        let agents = self.0;
        {
            let mut state = agents.state();
            assert!(!state.is_running, "two agents at a time");
            state.starts.push(Instant::now());
            if let Some(left) = state.fail_starts.checked_sub(1) {
                state.fail_starts = left;
                return anyhow!("no device");
            }
            state.is_running = true;
        }
        let _device = Device(agents.clone());
        loop {
            let keys: BTreeSet<String> =
                port.peers.borrow_and_update().keys().map(ToString::to_string).collect();
            let failed = {
                let mut state = agents.state();
                state.peers = &keys - &state.refused;
                let failed = keys.intersection(&state.refused);
                failed.map(|key| (Subnets::parse_key(key).unwrap(), "refused".to_owned())).collect()
            };
            set(&port.progress, Progress { up: true, failed });
            tokio::select! {
                Ok(()) = port.peers.changed() => {}
                () = agents.crash.notified() => return anyhow!("crashed"),
            }
        }
    }
}
