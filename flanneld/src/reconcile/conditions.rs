//! What is wrong at the moment, by what it is about: kept for the status, and logged when it changes.

use flannel_core::backend::PeerError;
use flannel_core::lease::Subnets;
use std::collections::BTreeMap;
use tracing::{info, warn};

use super::Reconciler;
use crate::error::chain;
use crate::kernel::Kernel;
use crate::store::Change;

/// Conditions that are not about one lease or object.
pub(super) mod id {
    pub(in crate::reconcile) const CONFIG: &str = "config";
    pub(in crate::reconcile) const INTERFACE: &str = "interface";
    pub(in crate::reconcile) const KERNEL: &str = "kernel";
    pub(in crate::reconcile) const NODE: &str = "node";
    pub(in crate::reconcile) const ATTRS: &str = "public address";
    pub(in crate::reconcile) const SUBNET_ENV: &str = "subnet.env";
    pub(in crate::reconcile) const STORE: &str = "store";
    pub(in crate::reconcile) const RIVAL: &str = "rival";
    pub(in crate::reconcile) const ALL: [&str; 8] =
        [CONFIG, INTERFACE, KERNEL, NODE, ATTRS, SUBNET_ENV, STORE, RIVAL];
}

/// How the condition of a record begins that cannot be read.
const BAD_RECORD: &str = "the record cannot be used";

impl<K: Kernel> Reconciler<K> {
    /// Brings the condition of one peer up to date.
    pub(super) fn report_peer(&mut self, subnets: Subnets) {
        let id = subnets.to_string();
        let errors = self.assembly.as_ref().and_then(|assembly| assembly.errors().get(&subnets));
        let reason = errors.and_then(|errors| peer_condition(errors));
        self.set_condition(&id, self.bad_record(&id).or(reason));
    }

    /// Names records that have become unreadable: they change no lease, so no round follows.
    pub(super) fn report_records(&mut self, changes: &[Change]) {
        for change in changes {
            let key = match change {
                Change::Put(record) => &record.key,
                Change::Delete { key } => key,
                Change::Config(_) => continue,
            };
            let was_bad =
                self.report.conditions.get(key).is_some_and(|reason| reason.starts_with(BAD_RECORD));
            let reason = self.bad_record(key);
            if was_bad || reason.is_some() {
                self.set_condition(key, reason);
            }
        }
    }

    fn bad_record(&self, key: &str) -> Option<String> {
        self.cluster.table().rejected().get(key).map(|reason| format!("{BAD_RECORD}: {reason}"))
    }

    pub(super) fn set_peer_conditions(
        &mut self,
        errors: &BTreeMap<Subnets, Vec<PeerError>>,
        losers: &[(Subnets, Subnets)],
    ) {
        let mut conditions: BTreeMap<String, String> = errors
            .iter()
            .filter_map(|(subnets, errors)| Some((subnets.to_string(), peer_condition(errors)?)))
            .collect();
        for (key, reason) in self.cluster.table().rejected() {
            conditions.insert(key.clone(), format!("{BAD_RECORD}: {reason}"));
        }
        for (loser, winner) in losers {
            conditions.insert(
                loser.to_string(),
                format!("the lease overlaps the older lease {winner} and is ignored: release one of the two"),
            );
        }
        let stale: Vec<String> = self
            .report
            .conditions
            .keys()
            .filter(|id| !id::ALL.contains(&id.as_str()) && !conditions.contains_key(*id))
            .cloned()
            .collect();
        for id in stale {
            self.set_condition(&id, None);
        }
        for (id, reason) in conditions {
            self.set_condition(&id, Some(reason));
        }
    }

    /// The store is away or back; who follows it has logged that.
    pub(super) fn set_store_condition(&mut self, reason: Option<String>) {
        match reason {
            Some(reason) => drop(self.report.conditions.insert(id::STORE.to_owned(), reason)),
            None => drop(self.report.conditions.remove(id::STORE)),
        }
    }

    /// Sets or clears what is wrong with something, and logs it when it changes.
    pub(super) fn set_condition(&mut self, id: &str, reason: Option<String>) {
        let old = self.report.conditions.get(id);
        if old == reason.as_ref() {
            return;
        }
        match reason {
            Some(reason) => {
                warn!(about = id, reason = %reason, "something is wrong");
                self.report.conditions.insert(id.to_owned(), reason);
            }
            None => {
                info!(about = id, "all right again");
                self.report.conditions.remove(id);
            }
        }
    }
}

/// What is wrong with a peer, if anything is: another backend is as somebody wished.
fn peer_condition(errors: &[PeerError]) -> Option<String> {
    let wrong: Vec<String> = errors.iter().filter(|error| !error.is_expected()).map(|e| chain(e)).collect();
    (!wrong.is_empty()).then(|| wrong.join("; "))
}
