//! Times of this system and of its processes.

use std::fs;
use std::time::{Duration, SystemTime};

/// The time since the system booted.
pub(crate) fn uptime() -> Option<Duration> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    Duration::try_from_secs_f64(text.split(' ').next()?.parse().ok()?).ok()
}

/// The start of a process, with the precision of a clock tick.
pub(crate) fn started(process: i32) -> Option<SystemTime> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name of the program, in parentheses, may contain anything; the rest begins with field 3 of proc(5).
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    // USER_HZ is 100 on every architecture that flannel is built for.
    let age = uptime()?.checked_sub(Duration::from_millis(ticks.checked_mul(10)?))?;
    SystemTime::now().checked_sub(age)
}
