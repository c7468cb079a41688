//! Runs core's state machine of our lease against the store: performs each step and reports its outcome.

use flannel_core::claim::{Assigned, Claim, Failure, Outcome, OwnLease, OwnRecord, Step};
use flannel_core::lease::{LeaseAttrs, Subnets};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::error::chain;
use crate::store::{Ownership, Store, StoreError};

/// What the claim has reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClaimState {
    /// The lease that we hold.
    pub own: Option<Own>,
    /// A subnet that now belongs to another node while we have no new one yet.
    pub lost: Option<Subnets>,
    /// What is in the way, for people.
    pub problem: Option<String>,
}

/// The lease that we hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    /// What is held.
    pub subnets: Subnets,
    /// As published.
    pub attrs: LeaseAttrs,
    /// When it ends unless renewed.
    pub expires: Option<Instant>,
    /// The store has confirmed it since the start.
    pub confirmed: bool,
    /// It is known to be a reservation, which never ends.
    pub reservation: bool,
}

/// What the claim listens to and speaks to.
pub(crate) struct Ports {
    /// Where the leases are.
    pub store: Store,
    /// Life of a new lease.
    pub lease_time: Duration,
    /// How we want to be reached; `None` until it is known.
    pub attrs: watch::Receiver<Option<LeaseAttrs>>,
    /// Our record as the watch sees it: what is news by [`OwnRecord::is_news`].
    pub record: watch::Receiver<Option<OwnRecord>>,
    /// Counts what may end a wait: a new config, a freed subnet.
    pub stirs: watch::Receiver<u64>,
    /// Where it is told what has been reached.
    pub state: watch::Sender<ClaimState>,
}

/// Returns the state machine of our lease. `preferred` is the subnet of an earlier run and `remembered` its whole lease;
/// a lease that is claimed is renewed `renew_margin` before its end.
#[must_use]
pub(crate) fn own_lease(
    store: &Store,
    renew_margin: Duration,
    preferred: Option<Subnets>,
    remembered: Option<(Subnets, LeaseAttrs)>,
    seed: u64,
) -> OwnLease {
    match store.ownership() {
        Ownership::Claimed => OwnLease::Claimed(Claim::new(renew_margin, preferred, remembered, seed)),
        Ownership::Assigned => OwnLease::Assigned(Assigned::new(remembered, seed)),
    }
}

/// Gets a lease and keeps it until it is stopped. The lease stays in the store.
pub(crate) async fn run(mut lease: OwnLease, mut ports: Ports, stop: CancellationToken) {
    let start = Instant::now();
    loop {
        if let Some(attrs) = ports.attrs.borrow_and_update().clone() {
            lease.want(attrs);
        }
        publish(&lease, &ports.state, start);
        let step = lease.next(start.elapsed());
        if !matches!(step, Step::Wait(_)) {
            debug!(step = ?step, "claim step");
        }
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            outcome = perform(step, &mut ports, start) => outcome,
        };
        lease.report(outcome, start.elapsed());
        take_news(&mut lease, &mut ports, start.elapsed());
    }
}

async fn perform(step: Step, ports: &mut Ports, start: Instant) -> Outcome {
    let store = &ports.store;
    match step {
        Step::Wait(until) => {
            let sleep = async {
                match until {
                    Some(until) => tokio::time::sleep_until(start + until).await,
                    None => std::future::pending().await,
                }
            };
            // A sender that is gone means that the daemon stops: then only the token wakes us.
            // What has changed stays marked, so that it is heard like what changes during any other step.
            tokio::select! {
                () = sleep => {}
                Ok(()) = ports.attrs.changed() => ports.attrs.mark_changed(),
                Ok(()) = ports.record.changed() => ports.record.mark_changed(),
                Ok(()) = ports.stirs.changed() => ports.stirs.mark_changed(),
            }
            Outcome::Waited
        }
        Step::List => Outcome::Listed(store.list().await.map_err(|error| chain(&error))),
        Step::ReadAssignment => {
            Outcome::AssignmentRead(store.assignment().await.map_err(|error| chain(&error)))
        }
        Step::Create { subnets, attrs, guard } => {
            let outcome = store.create(&subnets, &attrs, guard, Some(ports.lease_time)).await;
            Outcome::Created(attrs, outcome.map_err(failure))
        }
        Step::Update { subnets, attrs, held } => {
            let outcome = store.update(&subnets, &attrs, &held).await;
            Outcome::Updated(attrs, outcome.map_err(failure))
        }
        Step::Renew { subnets, held } => {
            Outcome::Renewed(store.renew(&subnets, &held).await.map_err(failure))
        }
        Step::Delete { subnets, revision } => {
            Outcome::Deleted(store.delete(&subnets.to_string(), revision).await.map_err(failure))
        }
    }
}

/// Hands over what has arrived since the last time, also while a step was under way: once, since what was true then need not
/// be true any more.
fn take_news(lease: &mut OwnLease, ports: &mut Ports, now: Duration) {
    if let Some(view) = news(&mut ports.record).flatten() {
        lease.seen(&view, now);
    }
    if news(&mut ports.stirs).is_some() {
        lease.wake(now);
    }
}

fn news<T: Clone>(port: &mut watch::Receiver<T>) -> Option<T> {
    port.has_changed().unwrap_or(false).then(|| port.borrow_and_update().clone())
}

fn failure(error: StoreError) -> Failure {
    match error {
        StoreError::Raced => Failure::Raced,
        other => Failure::Unanswered(chain(&other)),
    }
}

/// Publishes what has changed, and logs it once.
fn publish(lease: &OwnLease, state: &watch::Sender<ClaimState>, start: Instant) {
    let own = lease.own().map(|own| Own {
        subnets: own.subnets,
        attrs: own.attrs.clone(),
        expires: own.expires.map(|expires| start + expires),
        confirmed: own.confirmed,
        reservation: own.confirmed && own.grant.is_none(),
    });
    state.send_if_modified(|old| {
        let lost = lease.lost();
        let new = ClaimState { own, lost, problem: lease.problem().map(ToString::to_string) };
        if *old == new {
            return false;
        }
        log_change(old, &new);
        *old = new;
        true
    });
}

fn log_change(old: &ClaimState, new: &ClaimState) {
    let subnets = |state: &ClaimState| state.own.as_ref().map(|own| (own.subnets, own.confirmed));
    if subnets(old) != subnets(new)
        && let Some(own) = &new.own
    {
        match &old.own {
            Some(before) if before.subnets != own.subnets => warn!(
                subnet = %own.subnets,
                before = %before.subnets,
                "node has moved to another subnet: pods with addresses of the old one must be replaced"
            ),
            _ if own.confirmed => info!(subnet = %own.subnets, "lease is held"),
            _ => {
                warn!(subnet = %own.subnets, "store does not answer, going on with the lease of the last run")
            }
        }
    }
    if let Some(lost) = new.lost.filter(|_| new.lost != old.lost) {
        warn!(subnet = %lost, "subnet is lost to another node: pods with its addresses must be replaced");
    }
    if old.problem != new.problem {
        match &new.problem {
            Some(problem) => warn!(reason = problem, "lease has a problem"),
            None => info!("lease has no problem any more"),
        }
    }
}

#[cfg(test)]
mod tests;
