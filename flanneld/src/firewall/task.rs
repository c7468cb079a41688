//! The task that keeps the rules right: look, put right, wait for a reason to look again.
//!
//! Where the kernel notifies of changes (nftables mode, and iptables working on nf_tables) a change of ours is put
//! back at once, and an idle daemon does nothing but ask for a number once a minute, and whether the other mode has
//! something of ours. The legacy variant of iptables tells nobody, so it is read every `--iptables-resync`.

use flannel_core::backoff::{Backoff, BackoffPolicy};
use flannel_core::ruleset::{Mode, Ruleset};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::monitor::{Hint, Monitor};
use super::{AnyFirewall, Firewall, FirewallError};

/// How often it is made sure that no notification was missed.
const FULL_CHECK: Duration = Duration::from_secs(60);
/// Others write their rules in several transactions (a flush, then the new ones): wait for the last.
const SETTLE: Duration = Duration::from_millis(50);
/// Repairs that follow each other faster than this look like a quarrel with another program.
const QUARREL: Duration = Duration::from_secs(10);
/// Quick repairs before the pause between them grows.
const PATIENCE: u32 = 5;
const RETRIES: BackoffPolicy =
    BackoffPolicy { first: Duration::from_millis(500), cap: Duration::from_secs(30) };

/// What the firewall must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Where the rules are; the other mode holds none.
    pub mode: Mode,
    /// The rules.
    pub ruleset: Ruleset,
}

/// How the firewall is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirewallStatus {
    /// The mode in use; `None` before the first round.
    pub mode: Option<Mode>,
    /// The rules that are wanted now were read back and are right.
    pub correct: bool,
    /// Why the last attempt failed, if it did.
    pub last_error: Option<String>,
    /// Why rules of the other mode could not be removed, if so.
    pub cleanup_error: Option<String>,
    /// Rules that were set because others were wanted.
    pub installs: u64,
    /// Rules that were set because somebody had changed them.
    pub repairs: u64,
    /// Rules that were read.
    pub checks: u64,
}

/// Keeps the firewall as `desired` says until `stop`; the rules stay then, so that a restart interrupts nothing.
/// `resync` is the period of checks where the kernel tells nothing of changes. Ends early only if the sender of
/// `desired` is gone.
pub async fn run(
    desired: watch::Receiver<Option<Desired>>,
    resync: Duration,
    status: watch::Sender<FirewallStatus>,
    stop: CancellationToken,
) {
    let [nftables, iptables] = [Mode::Nftables, Mode::Iptables].map(AnyFirewall::new);
    let hints = Hints::Netlink(None);
    Task::new(nftables, iptables, hints, resync, status).run(desired, stop).await;
}

/// Where hints come from.
pub(super) enum Hints {
    /// The kernel; opened when first needed, and again after it broke.
    Netlink(Option<Monitor>),
    #[cfg(test)]
    Channel(tokio::sync::mpsc::Receiver<Hint>),
}

impl Hints {
    /// Subscribes, if that is not done. Before the rules are read, so that no change falls in between.
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

    /// Waits for a hint, for ever if there is no subscription or nothing is wanted yet. Cancel-safe.
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

pub(super) struct Task<F> {
    nftables: F,
    iptables: F,
    hints: Hints,
    resync: Duration,
    status: watch::Sender<FirewallStatus>,
    /// What was last found or made right.
    installed: Option<Desired>,
    /// The generation at which that was seen, where generations tell.
    verified: Option<u32>,
    /// The mode whose counterpart was last seen without rules of ours.
    cleaned_for: Option<Mode>,
    retries: Backoff,
    /// The last round failed.
    failed: bool,
    last_repair: Option<Instant>,
    quick_repairs: u32,
}

/// What a wait ended with.
enum Event {
    Stop,
    Desired,
    Hint,
    Timer,
}

impl<F: Firewall> Task<F> {
    pub(super) fn new(
        nftables: F,
        iptables: F,
        hints: Hints,
        resync: Duration,
        status: watch::Sender<FirewallStatus>,
    ) -> Self {
        Self {
            nftables,
            iptables,
            hints,
            // The command line takes nothing shorter; zero would spin.
            resync: resync.max(Duration::from_secs(1)),
            status,
            installed: None,
            verified: None,
            cleaned_for: None,
            retries: RETRIES.delays(RandomState::new().hash_one(())),
            failed: false,
            last_repair: None,
            quick_repairs: 0,
        }
    }

    pub(super) async fn run(
        mut self,
        mut desired: watch::Receiver<Option<Desired>>,
        stop: CancellationToken,
    ) {
        loop {
            let target = desired.borrow_and_update().clone();
            // A round may be given up at any point: what the kernel or iptables does is done in full or not at all.
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

    /// Waits for a reason to look again, `pause` at most.
    async fn wait(
        &mut self,
        mode: Option<Mode>,
        pause: Duration,
        desired: &mut watch::Receiver<Option<Desired>>,
        stop: &CancellationToken,
    ) -> Event {
        let deadline = Instant::now() + pause;
        loop {
            let hint = tokio::select! {
                biased;
                () = stop.cancelled() => return Event::Stop,
                changed = desired.changed() => return changed.map_or(Event::Stop, |()| Event::Desired),
                () = time::sleep_until(deadline) => return Event::Timer,
                hint = self.hints.next(mode) => hint,
            };
            if !self.is_stale(hint) {
                return Event::Hint;
            }
        }
    }

    /// The hint is about a change that was made before the rules were last seen right: mostly our own.
    fn is_stale(&self, hint: Hint) -> bool {
        match (hint.generation, self.verified) {
            // Generations wrap round.
            (Some(hint), Some(verified)) => hint.wrapping_sub(verified).cast_signed() <= 0,
            _ => false,
        }
    }

    fn settle_time(&self) -> Duration {
        SETTLE * 2_u32.pow(self.quick_repairs.saturating_sub(PATIENCE).min(6))
    }

    /// Looks and puts right. The result is how long to wait without a reason to look again.
    async fn round(&mut self, target: Option<&Desired>) -> Duration {
        self.hints.subscribe();
        let Some(target) = target else { return FULL_CHECK };
        let mut result = Ok(());
        if !self.nothing_happened(target).await {
            let kept = self.installed.as_ref() == Some(target);
            if !kept {
                self.installed = None;
                self.no_longer_correct();
            }
            let replaced = self.put_right(target).await;
            result = replaced.map(|replaced| self.note_success(target, replaced, kept));
        }
        // Not before the rules are in place.
        let cleaned = if result.is_ok() { self.clean(target.mode).await } else { Ok(()) };
        self.publish(target.mode, result.as_ref().err(), cleaned.as_ref().err());
        self.failed = result.is_err() || cleaned.is_err();
        if self.failed {
            return self.retries.delay();
        }
        self.retries.reset();
        self.pause()
    }

    fn no_longer_correct(&self) {
        self.status.send_if_modified(|status| std::mem::replace(&mut status.correct, false));
    }

    fn pause(&self) -> Duration {
        if self.verified.is_some() && self.hints.are_live() { FULL_CHECK } else { self.resync }
    }

    /// Everything was right, and nothing at all has changed in nf_tables since.
    async fn nothing_happened(&mut self, target: &Desired) -> bool {
        let right = self.installed.as_ref() == Some(target) && !self.failed;
        match self.verified {
            Some(verified) if right => self.active(target.mode).generation().await == Some(verified),
            _ => false,
        }
    }

    fn active(&mut self, mode: Mode) -> &mut F {
        match mode {
            Mode::Nftables => &mut self.nftables,
            Mode::Iptables => &mut self.iptables,
        }
    }

    /// Whether the rules had to be set.
    async fn put_right(&mut self, target: &Desired) -> Result<bool, FirewallError> {
        let Desired { mode, ruleset } = target;
        if self.is_right(*mode, ruleset).await? {
            return Ok(false);
        }
        self.no_longer_correct();
        self.active(*mode).replace(ruleset).await?;
        if self.is_right(*mode, ruleset).await? {
            return Ok(true);
        }
        Err(FirewallError::NotInForce { mode: *mode })
    }

    async fn is_right(&mut self, mode: Mode, ruleset: &Ruleset) -> Result<bool, FirewallError> {
        // Before reading: what changes meanwhile has a later number.
        self.verified = None;
        let generation = self.active(mode).generation().await;
        let right = self.active(mode).verify(ruleset).await?;
        self.status.send_modify(|status| status.checks += 1);
        self.verified = generation.filter(|_| right);
        Ok(right)
    }

    fn note_success(&mut self, target: &Desired, replaced: bool, kept: bool) {
        let mode = target.mode;
        self.installed = Some(target.clone());
        match (replaced, kept) {
            (true, false) => {
                self.status.send_modify(|status| status.installs += 1);
                info!(%mode, "firewall rules installed");
            }
            (true, true) => {
                self.status.send_modify(|status| status.repairs += 1);
                self.note_repair(mode, "firewall rules had been changed by another program, put back");
            }
            (false, false) => info!(%mode, "firewall rules are in place already"),
            (false, true) => {}
        }
    }

    /// Says what was repaired, and in a quarrel only that it is one.
    fn note_repair(&mut self, mode: Mode, what: &str) {
        let quick = self.last_repair.is_some_and(|last| last.elapsed() < QUARREL);
        self.quick_repairs = if quick { self.quick_repairs.saturating_add(1) } else { 0 };
        self.last_repair = Some(Instant::now());
        match self.quick_repairs {
            ..PATIENCE => warn!(%mode, "{what}"),
            PATIENCE => warn!(
                %mode,
                "another program changes the firewall rules again and again, perhaps another flanneld: slowing down"
            ),
            _ => debug!(%mode, "{what}"),
        }
    }

    /// Removes what the other mode has of ours.
    async fn clean(&mut self, mode: Mode) -> Result<(), FirewallError> {
        let other = mode.other();
        let nothing = Ruleset::default();
        if !self.active(other).verify(&nothing).await? {
            self.active(other).replace(&nothing).await?;
            if self.cleaned_for == Some(mode) {
                let what = "another program had made firewall rules of the mode not in use, removed";
                self.note_repair(other, what);
            } else {
                info!(mode = %other, "firewall rules of the mode not in use removed");
            }
        }
        self.cleaned_for = Some(mode);
        Ok(())
    }

    fn publish(&self, mode: Mode, error: Option<&FirewallError>, cleanup_error: Option<&FirewallError>) {
        let last_error = error.map(|error| chain(error));
        let cleanup_error = cleanup_error.map(|error| chain(error));
        let before = self.status.borrow().clone();
        // On change of state, not for each attempt.
        if let Some(error) = &last_error
            && before.last_error != last_error
        {
            warn!(%mode, error, "could not put the firewall rules right, will retry");
        }
        if let Some(error) = &cleanup_error
            && before.cleanup_error != cleanup_error
        {
            warn!(mode = %mode.other(), error, "could not remove rules of the mode not in use, will retry");
        }
        if last_error.is_none() && before.last_error.is_some() {
            info!(%mode, "firewall rules are right again");
        }
        let correct = error.is_none() || before.correct;
        let after = FirewallStatus { mode: Some(mode), correct, last_error, cleanup_error, ..before.clone() };
        if after != before {
            self.status.send_replace(after);
        }
    }
}

/// The error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests;
