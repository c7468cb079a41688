//! Runs the state machine of the own lease: executes each step on the store and reports its outcome.

use flannel_core::claim::{Assigned, Claim, Failure, Outcome, OwnLease, OwnRecord, Step, Wanted};
use flannel_core::lease::{LeaseAttrs, Subnets};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::error::chain;
use crate::store::{Ownership, Store, StoreError};

/// The state of the claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClaimState {
    /// The lease that we hold.
    pub own: Option<Own>,
    /// A former subnet that belongs to another node now, until this node has a new one.
    pub lost: Option<Subnets>,
    /// The present problem, for people.
    pub problem: Option<String>,
}

/// The own lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    /// Its subnets.
    pub subnets: Subnets,
    /// Its published attributes.
    pub attrs: LeaseAttrs,
    /// When it expires unless renewed.
    pub expires: Option<Instant>,
    /// The store has confirmed it since the start.
    pub confirmed: bool,
    /// It is known to be a reservation, which does not expire.
    pub reservation: bool,
}

/// The store and the channels of the claim.
pub(crate) struct Channels {
    /// The store of the leases.
    pub store: Store,
    /// Lifetime of a new lease.
    pub lease_time: Duration,
    /// What to publish; `None` until it is known.
    pub attrs: watch::Receiver<Option<Wanted>>,
    /// The own record according to the watch: changes according to [`OwnRecord::is_news`].
    pub record: watch::Receiver<Option<OwnRecord>>,
    /// Counts events that may end a wait: a new config, a released subnet.
    pub wakeups: watch::Receiver<u64>,
    /// The state of the claim, for the other tasks.
    pub state: watch::Sender<ClaimState>,
}

/// Returns the state machine of the own lease. `preferred` is the subnet of an earlier run and `remembered` its complete lease; a
/// claimed lease is renewed `renew_margin` before it expires.
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

/// Acquires a lease and keeps it until `stop`. The lease is kept in the store then.
pub(crate) async fn run(mut lease: OwnLease, mut channels: Channels, stop: CancellationToken) {
    let start = Instant::now();
    loop {
        if let Some(wanted) = channels.attrs.borrow_and_update().clone() {
            lease.want(wanted);
        }
        publish(&lease, &channels.state, start);
        let step = lease.next(start.elapsed());
        if !matches!(step, Step::Wait(_)) {
            debug!(step = ?step, "claim step");
        }
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            outcome = perform(step, &mut channels, start) => outcome,
        };
        lease.report(outcome, start.elapsed());
        take_changes(&mut lease, &mut channels, start.elapsed());
    }
}

async fn perform(step: Step, channels: &mut Channels, start: Instant) -> Outcome {
    let store = &channels.store;
    match step {
        Step::Wait(until) => {
            let sleep = async {
                match until {
                    Some(until) => tokio::time::sleep_until(start + until).await,
                    None => std::future::pending().await,
                }
            };
            // Without a sender the daemon stops, which the token reports. A change remains marked, so that it is handled like one
            // during any other step.
            tokio::select! {
                () = sleep => {}
                Ok(()) = channels.attrs.changed() => channels.attrs.mark_changed(),
                Ok(()) = channels.record.changed() => channels.record.mark_changed(),
                Ok(()) = channels.wakeups.changed() => channels.wakeups.mark_changed(),
            }
            Outcome::Waited
        }
        Step::List => Outcome::Listed(store.list().await.map_err(|error| chain(&error))),
        Step::ReadAssignment => {
            Outcome::AssignmentRead(store.assignment().await.map_err(|error| chain(&error)))
        }
        Step::Create { subnets, attrs, guard } => {
            let outcome = store.create(&subnets, &attrs, guard, Some(channels.lease_time)).await;
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

/// Passes on changes since the last call, also those during a step, and each only once, because it may be outdated later.
fn take_changes(lease: &mut OwnLease, channels: &mut Channels, now: Duration) {
    if let Some(view) = change_of(&mut channels.record).flatten() {
        lease.seen(&view, now);
    }
    if change_of(&mut channels.wakeups).is_some() {
        lease.wake(now);
    }
}

fn change_of<T: Clone>(channel: &mut watch::Receiver<T>) -> Option<T> {
    channel.has_changed().unwrap_or(false).then(|| channel.borrow_and_update().clone())
}

fn failure(error: StoreError) -> Failure {
    match error {
        StoreError::Raced => Failure::Raced,
        other => Failure::Unanswered(chain(&other)),
    }
}

/// Publishes changes, and logs each once.
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
                "node has another subnet now: pods with addresses of the old one must be replaced"
            ),
            _ if own.confirmed => info!(subnet = %own.subnets, "lease acquired"),
            _ => {
                warn!(subnet = %own.subnets, "store unreachable, using the lease of the last run")
            }
        }
    }
    if let Some(lost) = new.lost.filter(|_| new.lost != old.lost) {
        warn!(subnet = %lost, "lease lost: pods with its addresses must be replaced");
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
