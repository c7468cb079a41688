//! Values in the form that people read.

use flannel_core::config::SubnetRange;
use flannel_core::status::Round;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Joins values with a separator.
pub(crate) fn join<T: ToString>(values: impl IntoIterator<Item = T>, separator: &str) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(separator)
}

/// A number with its noun: `1 node`, `3 nodes`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    match (number, noun.strip_suffix("ss")) {
        (1, _) => format!("1 {noun}"),
        (number, Some(_)) => format!("{number} {noun}es"),
        (number, None) => format!("{number} {noun}s"),
    }
}

/// A duration in its two largest units: `45s`, `5m`, `2h05m`, `3d01h`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, minutes) => format!("{hours}h{minutes:02}m"),
        (days, hours, _) => format!("{days}d{hours:02}h"),
    }
}

/// The present time in Unix seconds.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// How long ago a time was.
pub(crate) fn ago(at_unix_seconds: u64) -> String {
    format!("{} ago", duration(Duration::from_secs(unix_now().saturating_sub(at_unix_seconds))))
}

/// A range of subnets as JSON.
pub(crate) fn range(range: &SubnetRange) -> Value {
    json!({
        "family": range.family(),
        "network": range.network(),
        "subnetLen": range.subnet_len(),
        // Most readers parse JSON numbers as doubles, which cannot represent all subnets of a /64 network.
        "subnets": range.count().to_string(),
        "subnetMin": range.min(),
        "subnetMax": range.max(),
    })
}

/// A round of the daemon on one line.
pub(crate) fn round(round: &Round) -> String {
    let Round { reason, elapsed_milliseconds, kept, set, deleted, failed, .. } = round;
    format!("{reason}: {kept} kept, {set} set, {deleted} deleted, {failed} failed, {elapsed_milliseconds} ms")
}
