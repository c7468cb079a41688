//! The effect of a new config on running nodes.

use flannel_core::config::NetworkConfig;
use flannel_core::store::{ConfigRecord, Ownership};
use serde_json::{Value, json};
use std::collections::BTreeSet;

use crate::node::cluster::Entry;
use crate::output::text::{count, join};

/// Number of nodes by effect, according to the rules of flanneld.
#[derive(Clone, Debug, Default)]
pub(super) struct Impact {
    /// Nodes that apply it at once and keep their pods.
    live: usize,
    /// Nodes that apply it when flanneld restarts, and keep their subnet.
    restart: usize,
    /// Nodes that move to another subnet when flanneld restarts.
    moved: Vec<String>,
    /// Settings that cannot change while pods run.
    reasons: BTreeSet<String>,
    /// Whether the store assigns the subnets, so that no node can choose another one.
    is_assigned: bool,
}

impl Impact {
    pub(super) fn new(
        current: Option<&ConfigRecord>,
        new: &NetworkConfig,
        entries: &[Entry],
        ownership: Ownership,
    ) -> Self {
        let mut impact = Self { is_assigned: ownership == Ownership::Assigned, ..Self::default() };
        // Without a valid config, daemons wait for one.
        let old = current.and_then(|record| NetworkConfig::parse_for(&record.text, ownership).ok());
        for entry in entries.iter().filter(|entry| !entry.is_reservation() || !entry.attrs.is_unclaimed()) {
            let obstacles =
                old.as_ref().map_or_else(Vec::new, |old| old.obstacles(new, Some(&entry.subnets)));
            if !new.allows(&entry.subnets) {
                impact.moved.push(entry.title());
            } else if obstacles.is_empty() {
                impact.live += 1;
            } else {
                impact.restart += 1;
            }
            impact.reasons.extend(obstacles.into_iter().filter(|reason| !reason.starts_with("our subnet")));
        }
        impact
    }

    /// For people.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.live > 0 {
            lines.push(format!("applied at once, pods unaffected: {}", count(self.live, "node")));
        }
        if self.restart > 0 {
            lines.push(format!(
                "applied when flanneld restarts, subnet kept: {}",
                count(self.restart, "node")
            ));
        }
        if !self.moved.is_empty() {
            let effect = match self.is_assigned {
                true => "podCIDR outside of the network, no pods until the node is created again",
                false => "applied when flanneld restarts, new subnet, pods must be replaced",
            };
            lines.push(format!("{effect}: {}: {}", count(self.moved.len(), "node"), shortened(&self.moved)));
        }
        if !self.reasons.is_empty() {
            lines.push(format!("requires a restart: {}", join(&self.reasons, "; ")));
        }
        lines
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "live": self.live,
            "restart": self.restart,
            "newSubnet": self.moved.len(),
            "reasons": self.reasons,
        })
    }
}

fn shortened(all: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = all[..all.len().min(SHOWN)].join(", ");
    if all.len() > SHOWN { format!("{shown} and {} more", all.len() - SHOWN) } else { shown }
}
