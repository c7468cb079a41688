//! Values as people read them.

use flannel_core::status::Round;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A time as people say it.
pub(crate) fn life_text(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, minutes) => format!("{hours}h{minutes:02}m"),
        (days, hours, _) => format!("{days}d{hours:02}h"),
    }
}

/// A round on one line.
pub(crate) fn round_text(round: &Round) -> String {
    let Round { reason, elapsed_milliseconds, kept, set, deleted, failed, .. } = round;
    format!("{reason}: {kept} kept, {set} set, {deleted} deleted, {failed} failed, {elapsed_milliseconds} ms")
}

/// A time of day as people read it without a calendar: how long ago.
pub(crate) fn ago(at_unix_seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format!("{} ago", life_text(Duration::from_secs(now.saturating_sub(at_unix_seconds))))
}
