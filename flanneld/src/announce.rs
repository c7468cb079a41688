//! Reports to the store whether pods can start on this node: at once that they can, later that they cannot, and again whenever
//! someone else has changed the report.

use flannel_core::backoff::BackoffPolicy;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error::chain;
use crate::status::Readiness;
use crate::store::{Serving, Store, StoreError};

/// A node that is not ready for a shorter time, as after a start of the daemon, still counts as ready.
const PATIENCE: Duration = Duration::from_secs(10);
/// The minimum time between two reports: of two writers that disagree, none writes more often.
const PAUSE: Duration = Duration::from_secs(1);
const RETRY: BackoffPolicy = BackoffPolicy { first: Duration::from_secs(1), cap: Duration::from_secs(30) };

/// Reports until `stop`. The last report is kept then, because pods can start while no daemon runs.
pub(crate) async fn run(
    store: Store,
    mut readiness: watch::Receiver<Readiness>,
    problem: watch::Sender<Option<String>>,
    seed: u64,
    stop: CancellationToken,
) {
    let mut events = store.own_events();
    let mut backoff = RETRY.delays(seed);
    let mut not_ready_since = Some(Instant::now());
    // The last report, unless it failed or someone may have changed it since.
    let mut reported = None;
    let mut not_before = Instant::now();
    loop {
        let state = readiness.borrow_and_update().clone();
        not_ready_since = (!state.is_ready()).then(|| not_ready_since.unwrap_or_else(Instant::now));
        let patience_ends = not_ready_since.map(|since| since + PATIENCE);
        let serving = match patience_ends {
            None => Some(Serving::Ready),
            Some(at) if at <= Instant::now() => Some(Serving::NotReady(state.0.join("; "))),
            Some(_) => None,
        };
        let wanted = serving.filter(|serving| reported.as_ref() != Some(serving));
        let wake = if wanted.is_some() { Some(not_before) } else { patience_ends };
        if let Some(serving) = wanted.filter(|_| not_before <= Instant::now()) {
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = store.announce(&serving) => outcome,
            };
            publish(&outcome, &problem);
            let pause = if outcome.is_err() { backoff.delay() } else { PAUSE };
            not_before = Instant::now() + pause;
            if outcome.is_ok() {
                backoff.reset();
                reported = Some(serving);
            }
            continue;
        }
        let timer = async {
            match wake.filter(|at| *at > Instant::now()) {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = readiness.changed() => {}
            Ok(()) = events.changed() => reported = None,
            () = timer => {}
        }
    }
}

/// Publishes a failure until the next success, and logs the change.
fn publish(outcome: &Result<(), StoreError>, problem: &watch::Sender<Option<String>>) {
    let reason = outcome.as_ref().err().map(|error| chain(error));
    problem.send_if_modified(|old| {
        let changed = *old != reason;
        match &reason {
            Some(reason) if changed => {
                warn!(error = reason, "could not report readiness to the store, retrying");
            }
            None if changed => info!("readiness reported to the store"),
            _ => {}
        }
        old.clone_from(&reason);
        changed
    });
}

#[cfg(test)]
mod tests;
