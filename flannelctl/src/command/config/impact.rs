//! What a new config does to the nodes that run.

use flannel_core::config::NetworkConfig;
use flannel_core::store::ConfigRecord;
use serde_json::{Value, json};
use std::collections::BTreeSet;

use crate::node::cluster::Entry;

/// How many nodes are concerned in which way. What runs on each decides the rules of flanneld.
#[derive(Clone, Debug, Default)]
pub(super) struct Impact {
    /// Nodes that take it at once, with their pods.
    live: usize,
    /// Nodes that take it when flanneld restarts, with the same subnet.
    restart: usize,
    /// Nodes that get another subnet then.
    moved: Vec<String>,
    /// What cannot change while pods run.
    reasons: BTreeSet<String>,
}

impl Impact {
    pub(super) fn new(current: Option<&ConfigRecord>, new: &NetworkConfig, entries: &[Entry]) -> Self {
        let mut impact = Self::default();
        // Daemons that have none, or one that cannot be used, wait for a good one.
        let old = current.and_then(|record| NetworkConfig::parse(&record.text).ok());
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
            lines.push(format!("taken at once, without harm to pods: {}", nodes(self.live)));
        }
        if self.restart > 0 {
            lines.push(format!(
                "taken when flanneld restarts there, with the same subnet: {}",
                nodes(self.restart)
            ));
        }
        if !self.moved.is_empty() {
            lines.push(format!(
                "taken when flanneld restarts there, with another subnet, so that pods must be replaced: {}: {}",
                nodes(self.moved.len()),
                shortened(&self.moved)
            ));
        }
        if !self.reasons.is_empty() {
            let reasons: Vec<&str> = self.reasons.iter().map(String::as_str).collect();
            lines.push(format!("not while pods run: {}", reasons.join("; ")));
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

fn nodes(count: usize) -> String {
    if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") }
}

fn shortened(all: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = all[..all.len().min(SHOWN)].join(", ");
    if all.len() > SHOWN { format!("{shown} and {} more", all.len() - SHOWN) } else { shown }
}
