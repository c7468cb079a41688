//! Contention with another program about owned objects: who it most likely is, and when to repair them meanwhile.
//!
//! Pauses grow from repair to repair. When the other daemon ends, as far as this process can see that, or is quiet, the objects
//! are repaired at once again.

use std::time::Duration;
use tokio::time::Instant;

use crate::host::daemons;

/// First and longest pause between two repairs.
pub(crate) const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Contention is over after this time without a repair. Longer than the longest pause of a daemon like this one.
pub(crate) const QUIET: Duration = Duration::from_secs(90);
/// How often this process checks whether the other daemon still runs, and the delay after a notification: the other daemon may be
/// half way through its changes.
pub(crate) const CHECK: Duration = Duration::from_secs(1);

/// Paces the repairs of contested objects.
#[derive(Debug)]
pub(crate) struct Contention {
    /// Other daemons of this host at its begin.
    pub(crate) others: Vec<u32>,
    pause: Duration,
    /// Contested objects are not repaired before.
    until: Instant,
    /// When they were last repaired.
    last: Instant,
    /// The pause has not ended yet.
    waiting: bool,
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The pause is over.
    Repair,
    /// The contention is over: the other daemon ended, or is quiet.
    Over,
}

impl Contention {
    /// Begins with a repair at `now`.
    pub(crate) fn new(now: Instant) -> Self {
        let own = std::process::id();
        let others = daemons::processes().into_iter().map(|other| other.pid).filter(|pid| *pid != own);
        let pause = PAUSE.0;
        Self { others: others.collect(), pause, until: now + pause, last: now, waiting: true }
    }

    /// Lengthens the pause after another repair.
    pub(crate) fn repaired(&mut self, now: Instant) {
        self.pause = (self.pause * 2).min(PAUSE.1);
        (self.until, self.last, self.waiting) = (now + self.pause, now, true);
    }

    /// Whether contested objects are not repaired at present.
    pub(crate) fn is_pausing(&self, now: Instant) -> bool {
        now < self.until
    }

    /// When [`Contention::check`] is due.
    pub(crate) fn next_check(&self, now: Instant) -> Instant {
        let soon = now + CHECK;
        if self.waiting { self.until.min(soon) } else { soon }
    }

    /// Returns what to do now, if anything.
    pub(crate) fn check(&mut self, now: Instant) -> Option<Turn> {
        self.check_with(daemons::is_running, now)
    }

    pub(crate) fn check_with(&mut self, is_running: impl Fn(u32) -> bool, now: Instant) -> Option<Turn> {
        let gone = !self.others.is_empty() && !self.others.iter().any(|pid| is_running(*pid));
        if gone || now >= self.last + QUIET {
            return Some(Turn::Over);
        }
        if self.waiting && now >= self.until {
            self.waiting = false;
            return Some(Turn::Repair);
        }
        None
    }

    /// The other program, for people. `flanneld` describes another daemon that would cause this.
    pub(crate) fn suspect(&self, flanneld: &str) -> String {
        let pids: Vec<String> = self.others.iter().map(ToString::to_string).collect();
        if pids.is_empty() {
            format!("perhaps {flanneld} in a container of its own")
        } else {
            format!("most likely {flanneld} (process {})", pids.join(", "))
        }
    }
}
