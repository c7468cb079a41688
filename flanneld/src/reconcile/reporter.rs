//! What the loop publishes for the other tasks.

use flannel_core::backend::PeerError;
use flannel_core::claim::{OwnRecord, Wanted};
use flannel_core::cluster::{Cluster, Source};
use flannel_core::config::{NetworkConfig, SubnetRange};
use flannel_core::desired::Assembly;
use flannel_core::lease::table::{LeaseTable, PeerChange};
use flannel_core::lease::{Lease, Subnets};
use flannel_core::link::{LinkName, Mac};
use flannel_core::status::{Allocation, PeerCounts, Round};
use flannel_core::store::Prescribed;
use flannel_core::subnet_env::SubnetEnv;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::apply::Applied;
use super::conditions::{BAD_RECORD, id, peer_condition};
use crate::error::chain;
use crate::firewall;
use crate::status::{History, Reason, Report, family_name, unix_secs};
use crate::store::{Change, ConfigRecord, Record};

/// The sending ends of what the loop publishes.
#[derive(Default)]
pub(crate) struct Outputs {
    /// What the claim publishes.
    pub(crate) attrs: watch::Sender<Option<Wanted>>,
    /// Our record as the store shows it.
    pub(crate) record: watch::Sender<Option<OwnRecord>>,
    /// Counts events that may end a wait of the claim.
    pub(crate) wakeups: watch::Sender<u64>,
    pub(crate) firewall: watch::Sender<Option<firewall::Desired>>,
    /// The input of the CNI plugin.
    pub(crate) subnet_env: watch::Sender<Option<SubnetEnv>>,
    pub(crate) report: watch::Sender<Report>,
    pub(crate) history: watch::Sender<History>,
    /// What is kept over a restart.
    pub(crate) memory: watch::Sender<Memory>,
}

/// What is kept over a restart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) config: Option<ConfigRecord>,
    /// The public addresses that the store prescribes, if it was read.
    pub(crate) prescribed: Option<Prescribed>,
    pub(crate) macs: BTreeMap<LinkName, Mac>,
    /// The hardware address of the external interface.
    pub(crate) hardware: Option<Mac>,
    /// The leases of the store, if they come from there.
    pub(crate) leases: Option<Arc<[Arc<Lease>]>>,
}

/// Changed leases are handed over at most this often: the list is as long as the cluster is large.
const REMEMBER_DELAY: Duration = Duration::from_secs(2);

/// Keeps the report, and publishes it and everything else when it changed.
pub(super) struct Reporter {
    pub(super) outputs: Outputs,
    pub(super) report: Report,
    /// When changed leases are handed over, if there are any.
    pub(super) remember_at: Option<Instant>,
}

impl Reporter {
    pub(super) fn new(outputs: Outputs) -> Self {
        Self { outputs, report: Report::default(), remember_at: None }
    }

    /// Sets or clears a condition, and logs the change.
    pub(super) fn set_condition(&mut self, id: &str, reason: Option<String>) {
        if self.report.conditions.get(id) == reason.as_ref() {
            return;
        }
        match &reason {
            Some(reason) => warn!(about = id, reason, "condition reported"),
            None => info!(about = id, "condition cleared"),
        }
        self.set_silently(id, reason);
    }

    /// Returns the value, or sets the condition; clears it if there is a value.
    pub(super) fn check<T, E: Error>(&mut self, id: &str, result: Result<T, E>) -> Option<T> {
        let (value, reason) = match result {
            Ok(value) => (Some(value), None),
            Err(error) => (None, Some(chain(&error))),
        };
        self.set_condition(id, reason);
        value
    }

    /// Sets or clears a condition whose changes another task logs.
    pub(super) fn set_silently(&mut self, id: &str, reason: Option<String>) {
        match reason {
            Some(reason) => drop(self.report.conditions.insert(id.to_owned(), reason)),
            None => drop(self.report.conditions.remove(id)),
        }
    }

    /// Updates the condition of one peer.
    pub(super) fn report_peer(&mut self, subnets: Subnets, assembly: &Assembly, table: &LeaseTable) {
        let id = subnets.to_string();
        let node = table.node(&subnets);
        let reason = assembly.errors().get(&subnets).and_then(|errors| peer_condition(errors, node));
        self.set_condition(&id, bad_record(table, &id).or(reason));
    }

    /// Reports records that have become unreadable: they change no lease, so no round follows.
    pub(super) fn report_records(&mut self, changes: &[Change], table: &LeaseTable) {
        for change in changes {
            let (Change::Put(Record { key, .. }) | Change::Delete { key }) = change else { continue };
            let old = self.report.conditions.get(key);
            let was_bad = old.is_some_and(|reason| reason.starts_with(BAD_RECORD));
            let reason = bad_record(table, key);
            if was_bad || reason.is_some() {
                self.set_condition(key, reason);
            }
        }
    }

    /// Replaces the conditions of all peers. `losers` are leases that overlap an older one.
    pub(super) fn report_peers(
        &mut self,
        errors: &BTreeMap<Subnets, Vec<PeerError>>,
        table: &LeaseTable,
        losers: &[(Subnets, Subnets)],
    ) {
        let faults = errors.iter().filter_map(|(subnets, errors)| {
            Some((subnets.to_string(), peer_condition(errors, table.node(subnets))?))
        });
        let rejected = table.rejected().keys().filter_map(|key| Some((key.clone(), bad_record(table, key)?)));
        let losers = losers.iter().map(|(loser, winner)| {
            let reason =
                format!("the lease overlaps the older lease {winner} and is ignored: release one of the two");
            (loser.to_string(), reason)
        });
        let conditions: BTreeMap<String, String> = faults.chain(rejected).chain(losers).collect();
        let is_stale = |id: &&String| !id::ALL.contains(&id.as_str()) && !conditions.contains_key(*id);
        let stale: Vec<String> = self.report.conditions.keys().filter(is_stale).cloned().collect();
        for id in stale {
            self.set_condition(&id, None);
        }
        for (id, reason) in conditions {
            self.set_condition(&id, Some(reason));
        }
    }

    /// Adds a round to the history.
    pub(super) fn note_round(
        &self,
        reason: Reason,
        applied: Applied,
        elapsed: Duration,
        failing: Vec<String>,
    ) {
        let round = Round {
            reason: reason.name().to_owned(),
            at_unix_seconds: unix_secs(SystemTime::now()),
            elapsed_milliseconds: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            kept: applied.kept,
            set: applied.set,
            deleted: applied.deleted,
            failed: applied.failed,
        };
        self.outputs.history.send_modify(|history| {
            history.failing = failing;
            history.note(reason, round, elapsed);
        });
    }

    /// Updates the allocation at the cost of the changes.
    pub(super) fn count_changes(&mut self, changes: &[PeerChange], config: &NetworkConfig) {
        for (range, allocation) in config.ranges().zip(&mut self.report.allocation) {
            for change in changes {
                let places = u64::try_from(places(range, &change.subnets)).unwrap_or(u64::MAX);
                match (&change.before, &change.after) {
                    (None, Some(_)) => allocation.used = allocation.used.saturating_add(places),
                    (Some(_), None) => allocation.used = allocation.used.saturating_sub(places),
                    _ => {}
                }
            }
        }
    }

    /// Counts the allocation anew.
    pub(super) fn count_all(&mut self, cluster: &Cluster, config: &NetworkConfig) {
        let count = |range: &SubnetRange| Allocation {
            family: family_name(range.family()).to_owned(),
            network: range.network(),
            capacity: range.count(),
            used: u64::try_from(cluster.leases().map(|lease| places(range, &lease.subnets)).sum::<u128>())
                .unwrap_or(u64::MAX),
        };
        self.report.allocation = config.ranges().map(count).collect();
    }

    /// Lets [`Reporter::remember`] be called soon, together with the changes until then.
    pub(super) fn remember_soon(&mut self) {
        self.remember_at.get_or_insert_with(|| Instant::now() + REMEMBER_DELAY);
    }

    /// Keeps the leases and the config for the next start.
    pub(super) fn remember(&mut self, cluster: &Cluster, in_force: Option<&ConfigRecord>) {
        self.remember_at = None;
        if cluster.source() != Source::Store {
            return;
        }
        let leases = cluster.leases().cloned().collect();
        self.outputs.memory.send_modify(|memory| {
            memory.leases = Some(leases);
            if let Some(config) = in_force {
                memory.config = Some(config.clone());
            }
        });
    }

    /// Publishes the report, with the counts that follow from the rest.
    pub(super) fn publish(&mut self, assembly: Option<&Assembly>, cluster: &Cluster) {
        let is_faulty = |errors: &&Vec<PeerError>| errors.iter().any(|error| !error.is_expected());
        let faulty = |assembly: &Assembly| assembly.errors().values().filter(is_faulty).count();
        self.report.peers = PeerCounts {
            total: assembly.map_or(0, |assembly| assembly.leases().len()) as u64,
            faulty: assembly.map_or(0, faulty) as u64,
            kept: cluster.lingering().len() as u64,
            unreadable: cluster.table().rejected().len() as u64,
        };
        if *self.outputs.report.borrow() != self.report {
            self.outputs.report.send_replace(self.report.clone());
        }
    }

    /// Hands the claim our record if that is news, and wakes it if asked to.
    pub(super) fn inform_claim(&self, record: Option<OwnRecord>, wake: bool) {
        if wake {
            self.outputs.wakeups.send_modify(|count| *count += 1);
        }
        let Some(record) = record else { return };
        self.outputs.record.send_if_modified(|old| {
            let is_news = record.is_news(old.as_ref());
            if is_news {
                *old = Some(record);
            }
            is_news
        });
    }
}

fn bad_record(table: &LeaseTable, key: &str) -> Option<String> {
    table.rejected().get(key).map(|reason| format!("{BAD_RECORD}: {reason}"))
}

/// How many subnets of the range a lease occupies.
fn places(range: &SubnetRange, subnets: &Subnets) -> u128 {
    let net = subnets.get(range.family());
    net.and_then(|net| range.places_of(net)).map_or(0, |(from, to)| to - from + 1)
}
