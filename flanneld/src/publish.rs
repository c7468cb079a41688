//! Publishes the results of the other tasks: `subnet.env`, readiness, messages to the service manager, and the state directory.

use flannel_core::family::Family;
use flannel_core::lease::Subnets;
use flannel_core::link::Mac;
use flannel_core::subnet_env::{PreviousEnv, SubnetEnv};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::claim::ClaimState;
use crate::error::chain;
use crate::files::FileError;
use crate::firewall::FirewallStatus;
use crate::host::subnet_file;
use crate::host::sysctl::Sysctl;
use crate::notify::Notifier;
use crate::pulse::Pulse;
use crate::reconcile::{Memory, id};
use crate::state::{RememberedLease, StateDir};
use crate::status::{Readiness, Report, set};

/// The delay after a failed write of `subnet.env`.
const RETRY: Duration = Duration::from_secs(1);

/// The interval of checks of host settings, which send no notification.
const HOST_CHECK: Duration = Duration::from_secs(60);

/// The inputs of the publisher.
pub(crate) struct Inputs {
    pub(crate) claim: watch::Receiver<ClaimState>,
    pub(crate) report: watch::Receiver<Report>,
    pub(crate) firewall: watch::Receiver<FirewallStatus>,
    pub(crate) subnet_env: watch::Receiver<Option<SubnetEnv>>,
}

/// The outputs of the publisher.
pub(crate) struct Outputs {
    pub(crate) subnet_file: PathBuf,
    pub(crate) readiness: watch::Sender<Readiness>,
    /// Problems with settings of the host.
    pub(crate) host: watch::Sender<Vec<String>>,
    pub(crate) notifier: Notifier,
    /// The loop that the watchdog supervises.
    pub(crate) pulse: Arc<Pulse>,
}

/// Publishes until `stop`. `subnet.env` is kept then, so that pods can start while no daemon runs.
pub(crate) struct Publisher {
    inputs: Inputs,
    outputs: Outputs,
    families: Vec<Family>,
    /// The content of `subnet.env` is up to date.
    written: bool,
    /// The own subnets for which an older `subnet.env` was already removed.
    checked: Option<Subnets>,
    /// The kernel was in sync with the leases once.
    converged: bool,
}

impl Publisher {
    pub(crate) const fn new(inputs: Inputs, outputs: Outputs, families: Vec<Family>) -> Self {
        Self { inputs, outputs, families, written: false, checked: None, converged: false }
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let sysctl = Sysctl::default();
        let mut host_check = Instant::now();
        let mut ask = self.outputs.notifier.ping_interval().map(tokio::time::interval);
        loop {
            if host_check <= Instant::now() {
                let found = check_host(&sysctl, &self.families, &self.outputs.host.borrow());
                set(&self.outputs.host, found);
                host_check = Instant::now() + HOST_CHECK;
            }
            let retry = self.publish();
            let wake = retry.map_or(host_check, |retry| retry.min(host_check));
            let asking = async {
                match &mut ask {
                    Some(ask) => drop(ask.tick().await),
                    None => std::future::pending().await,
                }
            };
            let inputs = &mut self.inputs;
            tokio::select! {
                () = stop.cancelled() => break,
                Ok(()) = inputs.claim.changed() => {}
                Ok(()) = inputs.report.changed() => {}
                Ok(()) = inputs.firewall.changed() => {}
                Ok(()) = inputs.subnet_env.changed() => {}
                // The watchdog is notified only if the reconcile loop responds.
                () = asking => self.outputs.pulse.request.notify_one(),
                () = self.outputs.pulse.response.notified() => self.outputs.notifier.ping(),
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        self.outputs.notifier.stopping();
    }

    /// Updates everything; returns when to retry after a failure.
    fn publish(&mut self) -> Option<Instant> {
        let claim = self.inputs.claim.borrow_and_update().clone();
        let env = *self.inputs.subnet_env.borrow_and_update();
        let own = claim.own.as_ref().map(|own| own.subnets);
        let retry = match (own, env) {
            (None, _) => {
                if let Some(lost) = claim.lost {
                    self.remove_lost(|subnets| subnets.overlap(&lost));
                    self.checked = None;
                }
                None
            }
            (Some(own), Some(env)) if env.is_for(&own) => self.write(&env),
            (Some(own), _) => {
                // The existing file is from the last run, or from a lease that was lost.
                if self.checked != Some(own) {
                    self.remove_lost(|subnets| *subnets != own);
                    self.checked = Some(own);
                }
                None
            }
        };
        let report = self.inputs.report.borrow_and_update().clone();
        self.converged |= report.converged && report.peers_known;
        let firewall = self.inputs.firewall.borrow_and_update().clone();
        self.report(&claim, &report, &firewall);
        retry
    }

    fn write(&mut self, env: &SubnetEnv) -> Option<Instant> {
        match subnet_file::write(&self.outputs.subnet_file, &env.to_string()) {
            Ok(written) => {
                if written {
                    info!(path = %self.outputs.subnet_file.display(), "subnet file written");
                }
                self.written = true;
                None
            }
            Err(error) => {
                if self.written || self.outputs.readiness.borrow().is_ready() {
                    warn!(error = %chain(&error), "could not write the subnet file, retrying");
                }
                self.written = false;
                Some(Instant::now() + RETRY)
            }
        }
    }

    /// Removes `subnet.env` with a subnet that may belong to another node: a pod with it would receive the traffic of that node.
    fn remove_lost(&mut self, is_lost: impl Fn(&Subnets) -> bool) {
        self.written = false;
        let Ok(Some(text)) = subnet_file::read(&self.outputs.subnet_file) else { return };
        let subnets = PreviousEnv::parse(&text).subnets;
        if subnets.is_empty() || !is_lost(&subnets) {
            return;
        }
        match std::fs::remove_file(&self.outputs.subnet_file) {
            Ok(()) => {
                warn!(subnet = %subnets, "subnet file removed, pods cannot start until it is written again");
            }
            Err(error) => {
                warn!(%error, path = %self.outputs.subnet_file.display(), "could not remove the subnet file");
            }
        }
    }

    fn report(&mut self, claim: &ClaimState, report: &Report, firewall: &FirewallStatus) {
        let mut reasons = Vec::new();
        if claim.own.is_none() {
            reasons.push(claim.problem.clone().unwrap_or_else(|| "no lease yet".to_owned()));
        }
        if !self.converged {
            let obstacle = report.conditions.get(id::OBSTACLE).cloned();
            reasons.push(obstacle.unwrap_or_else(|| "routes are not in place yet".to_owned()));
        }
        if !firewall.correct {
            reasons.push(
                firewall.error.clone().unwrap_or_else(|| "firewall rules are not in place yet".to_owned()),
            );
        }
        if !self.written {
            reasons.push(format!("{} is not written", self.outputs.subnet_file.display()));
        }
        let text = match &claim.own {
            Some(own) if report.conditions.is_empty() => {
                format!("subnet {}, {} peers", own.subnets, report.peers.total)
            }
            Some(own) => {
                let problems: Vec<&str> = report.conditions.keys().map(String::as_str).take(5).collect();
                format!(
                    "subnet {}, {} peers; problems: {}",
                    own.subnets,
                    report.peers.total,
                    problems.join(", ")
                )
            }
            None => "waiting for a lease".to_owned(),
        };
        self.outputs.notifier.status(&text);
        let (text, is_ready) = (reasons.join("; "), reasons.is_empty());
        let before = self.outputs.readiness.send_replace(Readiness(reasons));
        match (before.is_ready(), is_ready) {
            (true, false) => warn!(reason = text, "not ready any more"),
            (false, true) => {
                info!(peers = report.peers.total, "ready");
                self.outputs.notifier.ready();
            }
            (false, false) if before.0.join("; ") != text => debug!(reason = text, "not ready yet"),
            _ => {}
        }
    }
}

/// Checks host settings that pods need and that flanneld does not change; logs new problems.
fn check_host(sysctl: &Sysctl, families: &[Family], known: &[String]) -> Vec<String> {
    let problems = sysctl.forwarding(families);
    for problem in problems.iter().filter(|problem| !known.contains(problem)) {
        warn!(reason = %problem, "host setting prevents traffic of pods");
    }
    problems
}

/// The minimum time between two writes of the leases: 5,000 leases are a megabyte.
const SAVE_PAUSE: Duration = Duration::from_secs(2);

/// Keeps the state directory up to date until `stop`, and writes it a last time then.
pub(crate) async fn remember(
    state: StateDir,
    mut memory: watch::Receiver<Memory>,
    mut claim: watch::Receiver<ClaimState>,
    stop: CancellationToken,
) {
    let mut failed = false;
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            Ok(()) = memory.changed() => false,
            Ok(()) = claim.changed() => false,
        };
        if stopping {
            // The reconcile loop hands over its last changes, then drops the channel.
            while memory.changed().await.is_ok() {}
        }
        let now = memory.borrow_and_update().clone();
        let lease = lease_to_remember(&claim.borrow_and_update(), now.hardware);
        let state = state.clone();
        let saved = tokio::task::spawn_blocking(move || save(&state, &now, lease.as_ref()));
        match saved.await {
            Ok(Ok(())) => failed = false,
            Ok(Err(error)) => {
                if !failed {
                    warn!(
                        error = %chain(&error),
                        "could not write the state directory: a start while the store is unreachable will find nothing"
                    );
                }
                failed = true;
            }
            Err(_) => return,
        }
        if stopping {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(SAVE_PAUSE) => {}
        }
    }
}

/// The lease for the next start: `Some(None)` removes the stored one, `None` keeps it.
fn lease_to_remember(claim: &ClaimState, hardware: Option<Mac>) -> Option<Option<RememberedLease>> {
    match &claim.own {
        Some(own) if own.confirmed => {
            Some(Some(RememberedLease { key: own.subnets.to_string(), value: own.attrs.to_json(), hardware }))
        }
        Some(_) => None,
        // A start while the store is unreachable must not use the subnet of another node.
        None => claim.lost.map(|_| None),
    }
}

fn save(state: &StateDir, memory: &Memory, lease: Option<&Option<RememberedLease>>) -> Result<(), FileError> {
    // The address of a tunnel device first: peers send to it as soon as it is published.
    for (link, mac) in &memory.macs {
        state.save_vtep_mac(link, *mac)?;
    }
    if let Some(lease) = lease {
        state.save_lease(lease.as_ref())?;
    }
    if let Some(prescribed) = memory.prescribed {
        state.save_prescribed(prescribed)?;
    }
    if memory.config.is_some() {
        state.save_config(memory.config.as_ref())?;
    }
    if let Some(leases) = &memory.leases {
        let records = leases.iter().map(|lease| (lease.subnets.to_string(), lease.attrs.to_json()));
        state.save_records(records)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
