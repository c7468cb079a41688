//! The task that keeps the firewall rules in sync: verify, repair, wait for a trigger.
//!
//! If the kernel notifies about changes (nftables mode, and iptables on nf_tables), rules are repaired at once, and once a minute
//! an idle daemon only reads a generation number and checks for stale rules of the other mode. Legacy iptables sends no
//! notifications, so its rules are read every `--iptables-resync`.
//!
//! Rules that another program changes again and again, mostly a second flanneld, are contested: they are repaired with growing
//! pauses, until the other daemon ends or is quiet. Rules that are only removed are restored within seconds, however often.

use flannel_core::backoff::{Backoff, BackoffPolicy};
use flannel_core::ruleset::{Mode, Ruleset};
pub use flannel_core::status::Firewall as FirewallStatus;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::monitor::{Hint, Monitor};
use super::{Firewall, FirewallError};
use crate::contention::{CHECK, Contention, Turn};
use crate::error::chain;

/// The interval of checks for missed notifications.
const FULL_CHECK: Duration = Duration::from_secs(60);
/// Other programs write rules in several transactions (a flush, then new rules): wait for the last.
const SETTLE: Duration = Duration::from_millis(50);
/// Repairs in shorter succession indicate a conflict with another program.
const CONFLICT: Duration = Duration::from_secs(10);
/// The number of such repairs before the pause grows.
const PATIENCE: u32 = 5;
/// The number of such repairs after which rules are contested that were changed, not only removed.
const REPETITIONS: u32 = 8;
const RETRIES: BackoffPolicy =
    BackoffPolicy { first: Duration::from_millis(500), cap: Duration::from_secs(30) };

/// The desired firewall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The mode that contains the rules; the other mode contains none.
    pub mode: Mode,
    /// The rules.
    pub ruleset: Ruleset,
}

/// Keeps the firewall in sync with `desired` until `stop`. The rules are kept then, so that a restart has no effect on traffic.
/// `resync` is the interval of checks if the kernel does not notify about changes. Ends early only if the sender of `desired` is
/// dropped.
pub async fn run(
    desired: watch::Receiver<Option<Desired>>,
    resync: Duration,
    status: watch::Sender<FirewallStatus>,
    stop: CancellationToken,
) {
    let firewalls = [Mode::Nftables, Mode::Iptables].map(super::of);
    let hints = Hints::Netlink(None);
    Task::new(firewalls, hints, resync, status).run(desired, stop).await;
}

/// The source of hints.
pub(super) enum Hints {
    /// The kernel; opened on first use, and again after a failure.
    Netlink(Option<Monitor>),
    #[cfg(test)]
    Channel(tokio::sync::mpsc::Receiver<Hint>),
}

impl Hints {
    /// Subscribes unless subscribed. Call it before reading rules, so that no change is missed.
    fn subscribe(&mut self) {
        match self {
            Self::Netlink(monitor) => {
                if monitor.is_none() {
                    let opened = Monitor::open();
                    *monitor = opened
                        .inspect_err(|error| debug!(error = %chain(error), "no notifications of nf_tables"))
                        .ok();
                }
            }
            #[cfg(test)]
            Self::Channel(_) => {}
        }
    }

    fn are_live(&self) -> bool {
        match self {
            Self::Netlink(monitor) => monitor.is_some(),
            #[cfg(test)]
            Self::Channel(_) => true,
        }
    }

    /// Waits for a hint. Never returns without a subscription or desired rules. Cancel-safe.
    async fn next(&mut self, mode: Option<Mode>) -> Hint {
        let Some(mode) = mode else { return std::future::pending().await };
        match self {
            Self::Netlink(None) => std::future::pending().await,
            Self::Netlink(Some(monitor)) => match monitor.next(mode).await {
                Ok(hint) => hint,
                Err(error) => {
                    debug!(%error, "notifications of nf_tables ended");
                    *self = Self::Netlink(None);
                    Hint { generation: None }
                }
            },
            #[cfg(test)]
            Self::Channel(receiver) => match receiver.recv().await {
                Some(hint) => hint,
                None => std::future::pending().await,
            },
        }
    }
}

pub(super) struct Task {
    nftables: Box<dyn Firewall>,
    iptables: Box<dyn Firewall>,
    hints: Hints,
    resync: Duration,
    status: watch::Sender<FirewallStatus>,
    /// The rules that were in sync last.
    installed: Option<Desired>,
    /// The generation at which they were verified, if generations are supported.
    verified: Option<u32>,
    /// The mode whose counterpart was last verified to contain no stale rules.
    cleaned_for: Option<Mode>,
    retries: Backoff,
    /// The last round failed.
    failed: bool,
    last_repair: Option<Instant>,
    quick_repairs: u32,
    contention: Option<Contention>,
}

/// The rules before a repair.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    InSync,
    Removed,
    Changed,
}

/// The result of a wait.
enum Event {
    Stop,
    Desired,
    Hint,
    Timer,
}

impl Task {
    pub(super) fn new(
        [nftables, iptables]: [Box<dyn Firewall>; 2],
        hints: Hints,
        resync: Duration,
        status: watch::Sender<FirewallStatus>,
    ) -> Self {
        Self {
            nftables,
            iptables,
            hints,
            // The command line accepts nothing shorter; zero would spin.
            resync: resync.max(Duration::from_secs(1)),
            status,
            installed: None,
            verified: None,
            cleaned_for: None,
            retries: RETRIES.delays(RandomState::new().hash_one(())),
            failed: false,
            last_repair: None,
            quick_repairs: 0,
            contention: None,
        }
    }

    pub(super) async fn run(
        mut self,
        mut desired: watch::Receiver<Option<Desired>>,
        stop: CancellationToken,
    ) {
        loop {
            let target = desired.borrow_and_update().clone();
            // A round can be cancelled at any point: each change of kernel or iptables is atomic.
            let pause = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                pause = self.round(target.as_ref()) => pause,
            };
            let mode = target.map(|target| target.mode);
            match self.wait(mode, pause, &mut desired, &stop).await {
                Event::Stop => return,
                Event::Desired | Event::Timer => {}
                Event::Hint => tokio::select! {
                    () = stop.cancelled() => return,
                    _ = desired.changed() => {}
                    () = time::sleep(self.settle_time()) => {}
                },
            }
        }
    }

    /// Waits for a trigger, `pause` at most.
    async fn wait(
        &mut self,
        mode: Option<Mode>,
        pause: Duration,
        desired: &mut watch::Receiver<Option<Desired>>,
        stop: &CancellationToken,
    ) -> Event {
        let deadline = Instant::now() + pause;
        loop {
            let check = self.contention.as_ref().map(|contention| contention.next_check(Instant::now()));
            let hint = tokio::select! {
                biased;
                () = stop.cancelled() => return Event::Stop,
                changed = desired.changed() => return changed.map_or(Event::Stop, |()| Event::Desired),
                () = time::sleep_until(check.map_or(deadline, |check| check.min(deadline))) => None,
                hint = self.hints.next(mode) => Some(hint),
            };
            match hint {
                Some(hint) if self.is_stale(hint) => {}
                Some(_) => return Event::Hint,
                None if self.is_turn() || Instant::now() >= deadline => return Event::Timer,
                None => {}
            }
        }
    }

    /// Returns whether the hint is about a change before the last verification, mostly flannel's own.
    fn is_stale(&self, hint: Hint) -> bool {
        match (hint.generation, self.verified) {
            // Generations wrap around.
            (Some(hint), Some(verified)) => hint.wrapping_sub(verified).cast_signed() <= 0,
            _ => false,
        }
    }

    /// Returns whether contested rules may be repaired now.
    fn is_turn(&mut self) -> bool {
        let turn = self.contention.as_mut().and_then(|contention| contention.check(Instant::now()));
        if turn == Some(Turn::Over) {
            (self.contention, self.quick_repairs) = (None, 0);
        }
        turn.is_some()
    }

    /// Returns whether `target` is contested, and not repaired at present.
    fn is_pausing(&self, target: &Desired) -> bool {
        let is_pausing = |contention: &Contention| contention.is_pausing(Instant::now());
        self.installed.as_ref() == Some(target) && self.contention.as_ref().is_some_and(is_pausing)
    }

    fn settle_time(&self) -> Duration {
        if self.contention.is_some() {
            return CHECK;
        }
        SETTLE * 2_u32.pow(self.quick_repairs.saturating_sub(PATIENCE).min(6))
    }

    /// Verifies and repairs. Returns how long to wait without a trigger.
    async fn round(&mut self, target: Option<&Desired>) -> Duration {
        self.hints.subscribe();
        let Some(target) = target else { return FULL_CHECK };
        if self.is_pausing(target) {
            return self.observe(target).await;
        }
        let mut result = Ok(());
        if !self.is_unchanged(target).await {
            let kept = self.installed.as_ref() == Some(target);
            let covered = !kept && self.is_covered(target).await;
            if !kept && !covered {
                self.installed = None;
                self.set_correct(false);
            }
            let repaired = self.repair(target, covered).await;
            result = repaired.map(|before| self.note_success(target, before, kept));
        }
        // Only after the rules are in place.
        let cleaned = if result.is_ok() { self.clean(target.mode).await } else { Ok(()) };
        self.publish(target.mode, result.as_ref().err(), cleaned.as_ref().err());
        self.failed = result.is_err() || cleaned.is_err();
        if self.failed {
            return self.retries.delay();
        }
        self.retries.reset();
        self.pause()
    }

    /// Only reports whether contested rules are in effect.
    async fn observe(&mut self, target: &Desired) -> Duration {
        if !self.is_unchanged(target).await
            && let Ok(in_sync) = self.is_in_sync(target.mode, &target.ruleset).await
        {
            self.set_correct(in_sync);
        }
        self.pause()
    }

    /// Returns whether a change of mode left the same rules in effect in the previous mode, so that pods miss nothing until they
    /// are in effect in the new one.
    async fn is_covered(&mut self, target: &Desired) -> bool {
        let other = target.mode.other();
        let installed = self.installed.as_ref();
        let is_switch = installed.is_some_and(|it| it.mode == other && it.ruleset == target.ruleset);
        is_switch && self.active(other).verify(&target.ruleset).await.unwrap_or(false)
    }

    fn set_correct(&self, correct: bool) {
        self.status.send_if_modified(|status| std::mem::replace(&mut status.correct, correct) != correct);
    }

    fn pause(&self) -> Duration {
        if self.verified.is_some() && self.hints.are_live() { FULL_CHECK } else { self.resync }
    }

    /// Returns whether everything was in sync and nf_tables has not changed since.
    async fn is_unchanged(&mut self, target: &Desired) -> bool {
        let in_sync = self.installed.as_ref() == Some(target) && !self.failed;
        match self.verified {
            Some(verified) if in_sync => self.active(target.mode).generation().await == Some(verified),
            _ => false,
        }
    }

    fn active(&mut self, mode: Mode) -> &mut dyn Firewall {
        match mode {
            Mode::Nftables => &mut *self.nftables,
            Mode::Iptables => &mut *self.iptables,
        }
    }

    /// Sets the rules if they are out of sync. Returns how they were. They do not count as missing if the previous mode still
    /// contains them (`covered`).
    async fn repair(&mut self, target: &Desired, covered: bool) -> Result<Before, FirewallError> {
        let Desired { mode, ruleset } = target;
        if self.is_in_sync(*mode, ruleset).await? {
            return Ok(Before::InSync);
        }
        // Who removes rules is not in conflict about their content. Asked only when it matters.
        let may_be_contested = self.contention.is_some() || self.quick_repairs + 1 >= REPETITIONS;
        let before = if may_be_contested && self.active(*mode).verify(&Ruleset::default()).await? {
            Before::Removed
        } else {
            Before::Changed
        };
        if !covered {
            self.set_correct(false);
        }
        self.active(*mode).replace(ruleset).await?;
        if self.is_in_sync(*mode, ruleset).await? {
            return Ok(before);
        }
        Err(FirewallError::NotInForce { mode: *mode })
    }

    async fn is_in_sync(&mut self, mode: Mode, ruleset: &Ruleset) -> Result<bool, FirewallError> {
        // Before reading, so that concurrent changes have a later generation.
        self.verified = None;
        let generation = self.active(mode).generation().await;
        let in_sync = self.active(mode).verify(ruleset).await?;
        self.status.send_modify(|status| status.checks += 1);
        self.verified = generation.filter(|_| in_sync);
        Ok(in_sync)
    }

    fn note_success(&mut self, target: &Desired, before: Before, kept: bool) {
        let mode = target.mode;
        self.installed = Some(target.clone());
        match (before, kept) {
            (Before::InSync, false) => info!(%mode, "firewall rules are up to date"),
            (Before::InSync, true) => {}
            (_, false) => {
                self.status.send_modify(|status| status.installs += 1);
                info!(%mode, "firewall rules installed");
            }
            (_, true) => {
                self.status.send_modify(|status| status.repairs += 1);
                let what = "firewall rules changed by another program, restored";
                self.note_repair(mode, what, before == Before::Changed);
            }
        }
    }

    /// Logs a repair, and during a conflict only its beginning.
    fn note_repair(&mut self, mode: Mode, what: &str, changed: bool) {
        let now = Instant::now();
        let quick = self.last_repair.is_some_and(|last| now - last < CONFLICT);
        self.quick_repairs = if quick { self.quick_repairs.saturating_add(1) } else { 0 };
        self.last_repair = Some(now);
        match &mut self.contention {
            Some(contention) if changed => contention.repaired(now),
            None if changed && self.quick_repairs >= REPETITIONS => {
                self.contention = Some(Contention::new(now));
            }
            _ => {}
        }
        match self.quick_repairs {
            ..PATIENCE => warn!(%mode, "{what}"),
            PATIENCE => {
                warn!(%mode, "another program changes the firewall rules repeatedly; repairing less often")
            }
            _ => debug!(%mode, "{what}"),
        }
    }

    /// The other program that changes contested rules, and what to do.
    fn conflict(&self, mode: Mode) -> Option<String> {
        let who = self.contention.as_ref()?.suspect("another flanneld in this network namespace");
        Some(format!(
            "another program repeatedly changes flannel's {mode} rules, {who}: stop it, or run it in a network namespace of its \
             own; until then the rules are repaired with growing pauses"
        ))
    }

    /// Removes stale rules of the other mode.
    async fn clean(&mut self, mode: Mode) -> Result<(), FirewallError> {
        let other = mode.other();
        let nothing = Ruleset::default();
        if !self.active(other).verify(&nothing).await? {
            self.active(other).replace(&nothing).await?;
            if self.cleaned_for == Some(mode) {
                let what = "another program created firewall rules of the unused mode, removed";
                self.note_repair(other, what, true);
            } else {
                info!(mode = %other, "stale firewall rules of the unused mode removed");
            }
        }
        self.cleaned_for = Some(mode);
        Ok(())
    }

    fn publish(&self, mode: Mode, error: Option<&FirewallError>, cleanup_error: Option<&FirewallError>) {
        let failure = error.map(|error| chain(error));
        let conflict = self.conflict(mode);
        let cleanup_error = cleanup_error.map(|error| chain(error));
        let before = self.status.borrow().clone();
        let correct = failure.is_none() || before.correct;
        let error = failure.clone().or_else(|| conflict.clone());
        // Log changes of state, not each attempt.
        if before.error != error {
            match (&failure, &conflict) {
                (Some(error), _) => warn!(%mode, error, "could not set the firewall rules, retrying"),
                (None, Some(reason)) => warn!(about = "firewall", reason, "condition reported"),
                (None, None) => info!(%mode, "firewall rules restored"),
            }
        }
        if let Some(error) = &cleanup_error
            && before.cleanup_error != cleanup_error
        {
            warn!(mode = %mode.other(), error, "could not remove stale firewall rules of the unused mode, retrying");
        }
        let mode = Some(mode.to_string());
        let after = FirewallStatus { mode, correct, error, cleanup_error, ..before.clone() };
        if after != before {
            self.status.send_replace(after);
        }
    }
}

#[cfg(test)]
mod tests;
