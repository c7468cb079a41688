//! What happens once, before the tasks of the daemon have all that they need: the state of the last run is read, and the
//! first network config is awaited.

use anyhow::{Context as _, bail};
use flannel_core::backend::BackendError;
use flannel_core::family::Family;
use flannel_core::lease::{LeaseAttrs, Subnets};
use flannel_core::ruleset::Mode;
use flannel_core::store::Change;
use flannel_core::subnet_env::PreviousEnv;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::cli::{NodeOptions, Options};
use crate::error::chain;
use crate::firewall;
use crate::host::subnet_file;
use crate::host::sysctl::Sysctl;
use crate::kernel::{Effector as _, NetlinkKernel};
use crate::node::{Node, NodeError};
use crate::state::{Remembered, StateDir};
use crate::status::Readiness;
use crate::store::OwnNode;
use crate::store::watch::Update;

/// How long a start waits for the store before it continues with the state directory.
const STORE_PATIENCE: Duration = Duration::from_secs(3);

/// The state of the last run.
pub(crate) struct Past {
    pub(crate) state: Option<StateDir>,
    pub(crate) remembered: Remembered,
    /// The content of `subnet.env`.
    pub(crate) previous: Option<PreviousEnv>,
}

impl Past {
    pub(crate) fn load(options: &Options) -> Self {
        let (state, remembered) = match StateDir::open(&options.state_dir, &options.store.scope()) {
            Ok(state) => {
                let remembered = state.load();
                (Some(state), remembered)
            }
            Err(error) => {
                warn!(
                    error = %chain(&error),
                    "state directory is unusable: a start while the store is unreachable will find nothing"
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
    pub(crate) fn lease(&self) -> Option<(Subnets, LeaseAttrs)> {
        let lease = self.remembered.lease.as_ref()?;
        Some((Subnets::parse_key(&lease.key).ok()?, LeaseAttrs::parse(lease.value.as_bytes()).ok()?))
    }

    /// Returns what was prescribed in the last run, until the store answers.
    pub(crate) fn own_node(&self) -> OwnNode {
        OwnNode { prescribed: self.remembered.prescribed, ..OwnNode::default() }
    }

    /// Restores the addresses of tunnel devices from what an earlier run published, where the state directory was not kept.
    pub(crate) fn restore(&mut self, node: &Node, own: &OwnNode) {
        for (device, mac) in own.published.iter().flat_map(|attrs| node.published_macs(attrs)) {
            self.remembered.vtep_macs.entry(device).or_insert(mac);
        }
    }

    /// Drops the state of another node, if the disk of this one is a copy: then both address and interface differ. A
    /// node whose address changed keeps its interface, and one with a new interface keeps its address.
    pub(crate) fn forget_if_cloned(&mut self, node: &Node) {
        let Some((subnets, attrs)) = self.lease() else { return };
        let before = self.remembered.lease.as_ref().and_then(|lease| lease.hardware);
        let public = node.external().public;
        let moved = Family::ALL
            .into_iter()
            .find_map(|family| Some((attrs.public_address(family)?, public.get(family)?)))
            .is_some_and(|(before, now)| before != *now);
        if moved && before.is_some() && node.hardware().is_some() && before != node.hardware() {
            warn!(subnet = %subnets, "state directory belongs to another node: its lease and tunnel address are not used");
            self.remembered.lease = None;
            self.remembered.vtep_macs.clear();
        }
    }
}

/// Waits for a usable network config.
pub(crate) struct FirstConfig<'a> {
    pub(crate) options: NodeOptions,
    /// The config of the last run, for a start while the store is unreachable.
    pub(crate) remembered: Option<String>,
    /// Where the config is in the store, for messages.
    pub(crate) place: &'a str,
    pub(crate) readiness: &'a watch::Sender<Readiness>,
    /// The problem that was logged last.
    pub(crate) problem: Option<String>,
    /// What the store knows of this node.
    pub(crate) own: OwnNode,
}

/// The node with its first network config.
pub(crate) struct First {
    pub(crate) node: Node,
    /// The updates of the store that arrived meanwhile.
    pub(crate) seen: Vec<Update>,
    /// What the store knows of this node.
    pub(crate) own: OwnNode,
}

impl FirstConfig<'_> {
    /// Waits for a usable config.
    pub(crate) async fn wait(
        mut self,
        kernel: &mut NetlinkKernel,
        updates: &mut mpsc::Receiver<Update>,
    ) -> anyhow::Result<First> {
        let patience = tokio::time::sleep(STORE_PATIENCE);
        tokio::pin!(patience);
        let mut seen = Vec::new();
        loop {
            let update = tokio::select! {
                update = updates.recv() => Some(update.context("the task that follows the store ended")?),
                () = &mut patience, if self.remembered.is_some() => None,
            };
            if let Some(update) = &update {
                if matches!(update, Update::Listing { .. }) {
                    seen.clear();
                }
                self.learn(update);
            }
            let offered = self.offered(update.as_ref());
            seen.extend(update);
            let problem = match offered {
                None => continue,
                Some(None) => format!("the store has no network config: write one to {}", self.place),
                Some(Some(text)) => match self.try_config(&text, kernel).await? {
                    Ok(node) => return Ok(First { node, seen, own: self.own }),
                    Err(problem) => problem,
                },
            };
            self.report(problem);
            // A store that lost its config, or got a broken one, does not stop a node that had a good one.
            if let Some(text) = self.remembered.take()
                && let Ok(node) = self.try_config(&text, kernel).await?
            {
                warn!("network config of the last run is used");
                return Ok(First { node, seen, own: self.own });
            }
        }
    }

    /// Takes what an update contains about this node. Unreadable addresses leave those of the last run in effect.
    fn learn(&mut self, update: &Update) {
        let own = match update {
            Update::Listing { listing, .. } => Some(&listing.own),
            Update::Changes { changes, .. } => changes.iter().rev().find_map(|change| match change {
                Change::Own(own) => Some(own),
                _ => None,
            }),
            Update::Up | Update::Down(_) => None,
        };
        let Some(own) = own.cloned() else { return };
        let prescribed = if own.fault.is_none() { own.prescribed } else { self.own.prescribed };
        self.own = OwnNode { prescribed, ..own };
    }

    /// The config that an update offers: `Some(None)` is a store without one. Without an update, or while the
    /// store is unreachable, it is that of the last run.
    fn offered(&mut self, update: Option<&Update>) -> Option<Option<String>> {
        match update {
            Some(Update::Listing { listing, .. }) => {
                Some(listing.config.as_ref().map(|config| config.text.clone()))
            }
            Some(Update::Changes { changes, .. }) => changes.iter().rev().find_map(|change| match change {
                Change::Config(config) => Some(config.as_ref().map(|config| config.text.clone())),
                _ => None,
            }),
            Some(Update::Down(error)) => {
                let reason = format!("the store does not answer: {}", chain(error));
                self.readiness.send_replace(Readiness::waiting(reason));
                self.remembered.take().map(Some)
            }
            None => self.remembered.take().map(Some),
            Some(Update::Up) => None,
        }
    }

    /// Logs a problem once: the store delivers every change.
    fn report(&mut self, problem: String) {
        if self.problem.as_ref() != Some(&problem) {
            warn!(reason = %problem, "waiting for a network config");
            self.readiness.send_replace(Readiness::waiting(&problem));
            self.problem = Some(problem);
        }
    }

    /// Returns a node with this config, or what is wrong with the config. Any other error ends the start.
    async fn try_config(
        &self,
        text: &str,
        kernel: &mut NetlinkKernel,
    ) -> anyhow::Result<Result<Node, String>> {
        let facts = kernel.observe(&BTreeSet::new()).await?.facts;
        match Node::new(self.options.clone(), self.own.prescribed, text, &facts) {
            Ok(node) => Ok(Ok(node)),
            Err(
                error @ (NodeError::Config(_)
                | NodeError::NoFamily
                | NodeError::Host(BackendError::NameTooLong(_))),
            ) => Ok(Err(chain(&error))),
            Err(error) => Err(error.into()),
        }
    }
}

/// Refuses to start if iptables rules would not apply to bridged pod traffic.
pub(crate) fn check_bridge(node: &Node) -> anyhow::Result<()> {
    let mode = if node.config().enable_nftables { Mode::Nftables } else { Mode::Iptables };
    for finding in firewall::bridge::findings(&Sysctl::default(), mode, &node.families()) {
        if finding.fatal {
            bail!("{finding}");
        }
        warn!(reason = %finding, "bridged pod traffic does not pass the firewall");
    }
    Ok(())
}
