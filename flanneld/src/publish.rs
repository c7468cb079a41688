//! Turns what the other tasks have reached into what others rely on: `subnet.env`, readiness, messages to the
//! service manager, and what is kept for the next start.

use flannel_core::family::Family;
use flannel_core::lease::Subnets;
use flannel_core::link::Mac;
use flannel_core::subnet_env::{PreviousEnv, SubnetEnv};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::claim::ClaimState;
use crate::error::chain;
use crate::firewall::FirewallStatus;
use crate::host::subnet_file::{self, Written};
use crate::host::sysctl::Sysctl;
use crate::notify::Notifier;
use crate::pulse::Asker;
use crate::reconcile::Memory;
use crate::state::{RememberedLease, StateDir};
use crate::status::{Readiness, Report, set};

/// A failed write of `subnet.env` is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// Settings of the host that nothing notifies of are looked at this often.
const HOST_CHECK: Duration = Duration::from_secs(60);

/// What the publisher listens to.
pub(crate) struct Inputs {
    pub(crate) claim: watch::Receiver<ClaimState>,
    pub(crate) report: watch::Receiver<Report>,
    pub(crate) firewall: watch::Receiver<FirewallStatus>,
    pub(crate) subnet_env: watch::Receiver<Option<SubnetEnv>>,
}

/// Where the publisher publishes.
pub(crate) struct Outputs {
    pub(crate) subnet_file: PathBuf,
    pub(crate) readiness: watch::Sender<Readiness>,
    /// Problems with settings of the host.
    pub(crate) host: watch::Sender<Vec<String>>,
    pub(crate) notifier: Notifier,
    /// The loop that the watchdog watches.
    pub(crate) pulse: Asker,
}

/// Publishes until it is stopped. `subnet.env` is kept then, so that pods can start while no daemon runs.
pub(crate) struct Publisher {
    inputs: Inputs,
    outputs: Outputs,
    families: Vec<Family>,
    /// The content of `subnet.env` is up to date.
    written: bool,
    /// The subnets that `subnet.env` was last compared with.
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
                // The service manager hears that we are alive only if the loop that matters says so.
                () = asking => self.outputs.pulse.ask(),
                () = self.outputs.pulse.answered() => self.outputs.notifier.ping(),
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        self.outputs.notifier.stopping();
    }

    /// Brings everything up to date; answers with when to try again what failed.
    fn publish(&mut self) -> Option<Instant> {
        let claim = self.inputs.claim.borrow_and_update().clone();
        let env = *self.inputs.subnet_env.borrow_and_update();
        let own = claim.own.as_ref().map(|own| own.subnets);
        let retry = match (own, env) {
            (None, _) => {
                if let Some(lost) = claim.lost {
                    self.withdraw(|subnets| subnets.overlap(&lost));
                    self.checked = None;
                }
                None
            }
            (Some(own), Some(env)) if env.is_for(&own) => self.write(&env),
            (Some(own), _) => {
                // What is there is of the last run, or of a lease that we hold no more.
                if self.checked != Some(own) {
                    self.withdraw(|subnets| *subnets != own);
                    self.checked = Some(own);
                }
                None
            }
        };
        let report = self.inputs.report.borrow_and_update().clone();
        self.converged |= report.converged && report.peers_known;
        let firewall = self.inputs.firewall.borrow_and_update().clone();
        self.tell(&claim, &report, &firewall);
        retry
    }

    fn write(&mut self, env: &SubnetEnv) -> Option<Instant> {
        match subnet_file::write(&self.outputs.subnet_file, &env.to_string()) {
            Ok(written) => {
                if written == Written::Changed {
                    info!(path = %self.outputs.subnet_file.display(), "subnet file written");
                }
                self.written = true;
                None
            }
            Err(error) => {
                if self.written || self.outputs.readiness.borrow().clone() == Readiness::Ready {
                    warn!(error = %chain(&error), "could not write the subnet file, will retry");
                }
                self.written = false;
                Some(Instant::now() + RETRY)
            }
        }
    }

    /// Takes back a subnet that may be another node's now: a pod that started with it would get that node's traffic.
    fn withdraw(&mut self, is_foreign: impl Fn(&Subnets) -> bool) {
        self.written = false;
        let Ok(Some(text)) = subnet_file::read(&self.outputs.subnet_file) else { return };
        let subnets = PreviousEnv::parse(&text).subnets;
        if subnets.is_empty() || !is_foreign(&subnets) {
            return;
        }
        match std::fs::remove_file(&self.outputs.subnet_file) {
            Ok(()) => {
                warn!(subnet = %subnets, "subnet file withdrawn: no pod can start until it is written anew");
            }
            Err(error) => {
                warn!(%error, path = %self.outputs.subnet_file.display(), "could not withdraw the subnet file");
            }
        }
    }

    fn tell(&mut self, claim: &ClaimState, report: &Report, firewall: &FirewallStatus) {
        let mut reasons = Vec::new();
        if claim.own.is_none() {
            reasons.push(claim.problem.clone().unwrap_or_else(|| "no lease yet".to_owned()));
        }
        if !self.converged {
            reasons.push("routes are not in place yet".to_owned());
        }
        if !firewall.correct {
            reasons.push(
                firewall
                    .last_error
                    .clone()
                    .unwrap_or_else(|| "firewall rules are not in place yet".to_owned()),
            );
        }
        if !self.written {
            reasons.push(format!("{} is not written", self.outputs.subnet_file.display()));
        }
        let text = match &claim.own {
            Some(own) if report.conditions.is_empty() => {
                format!("subnet {}, {} peers", own.subnets, report.peers)
            }
            Some(own) => {
                let wrong: Vec<&str> = report.conditions.keys().map(String::as_str).take(5).collect();
                format!("subnet {}, {} peers; wrong: {}", own.subnets, report.peers, wrong.join(", "))
            }
            None => "waiting for a lease".to_owned(),
        };
        self.outputs.notifier.status(&text);
        let readiness = if reasons.is_empty() { Readiness::Ready } else { Readiness::NotReady { reasons } };
        let was = self.outputs.readiness.send_replace(readiness.clone());
        match (was, readiness) {
            (Readiness::Ready, Readiness::NotReady { reasons }) => {
                warn!(reason = reasons.join("; "), "not ready any more");
            }
            (Readiness::NotReady { .. }, Readiness::Ready) => {
                info!(peers = report.peers, "ready");
                self.outputs.notifier.ready();
            }
            (Readiness::NotReady { reasons: before }, Readiness::NotReady { reasons })
                if before != reasons =>
            {
                debug!(reason = reasons.join("; "), "not ready yet");
            }
            _ => {}
        }
    }
}

/// Looks at the settings that pods need and that are not ours to change; logs what is new.
fn check_host(sysctl: &Sysctl, families: &[Family], known: &[String]) -> Vec<String> {
    let problems: Vec<String> = sysctl
        .forwarding(families)
        .into_iter()
        .map(|condition| format!("{}: {}", condition.problem, condition.fix))
        .collect();
    for problem in problems.iter().filter(|problem| !known.contains(problem)) {
        warn!(reason = %problem, "host setting keeps pods from each other");
    }
    problems
}

/// Changes of the cluster are written down at most this often: 5,000 leases are a megabyte.
const SAVE_PAUSE: Duration = Duration::from_secs(2);

/// Keeps the state directory up to date until told to stop, and once more then.
pub(crate) async fn remember(
    mut state: StateDir,
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
        let now = memory.borrow_and_update().clone();
        let lease = lease_to_remember(&claim.borrow_and_update(), now.hardware);
        let saved = tokio::task::spawn_blocking(move || {
            let outcome = save(&mut state, &now, lease.as_ref());
            (state, outcome)
        })
        .await;
        let Ok((back, outcome)) = saved else { return };
        state = back;
        match outcome {
            Ok(()) => failed = false,
            Err(error) => {
                if !failed {
                    warn!(
                        %error,
                        "could not write the state directory: a start while the store is away would find nothing"
                    );
                }
                failed = true;
            }
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

/// What the next start may work with: `Some(None)` is that there is nothing, `None` that nothing is known yet.
fn lease_to_remember(claim: &ClaimState, hardware: Option<Mac>) -> Option<Option<RememberedLease>> {
    match &claim.own {
        Some(own) if own.confirmed => Some(Some(RememberedLease {
            key: own.subnets.to_string(),
            value: own.attrs.to_json().into_bytes(),
            hardware,
        })),
        Some(_) => None,
        // A start while the store is away must not serve what another node owns.
        None => claim.lost.map(|_| None),
    }
}

fn save(
    state: &mut StateDir,
    memory: &Memory,
    lease: Option<&Option<RememberedLease>>,
) -> Result<(), String> {
    let text = |error: crate::replace_file::ReplaceFileError| chain(&error);
    // The address of a tunnel device first: peers send to it as soon as it is published.
    for (link, mac) in &memory.macs {
        state.save_vtep_mac(link, *mac).map_err(text)?;
    }
    if let Some(lease) = lease {
        state.save_lease(lease.as_ref()).map_err(text)?;
    }
    if memory.config.is_some() {
        state.save_config(memory.config.as_ref()).map_err(text)?;
    }
    if let Some(leases) = &memory.leases {
        let records: Vec<(String, String)> =
            leases.iter().map(|lease| (lease.subnets.to_string(), lease.attrs.to_json())).collect();
        let records = records.iter().map(|(key, value)| (key.as_str(), value.as_bytes()));
        state.save_records(records).map_err(text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
