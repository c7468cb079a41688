//! Waiting for conditions: never a fixed time, always with a cap and the last status in the message.

use anyhow::{Context, Result};
use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

/// The cap where nothing says how long something may take: generous, since the machine may be busy.
pub const LONG: Duration = Duration::from_secs(30);

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Looks again and again until `look` succeeds; answers with what it found. Its error is the status,
/// which the message shows when the time is up.
pub fn until<T>(what: impl Display, cap: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(status) if started.elapsed() > cap => {
                return Err(status).with_context(|| format!("{what}: not within {cap:?}; last status"));
            }
            Err(_) => {}
        }
        thread::sleep(pause);
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// Checks that something holds, and goes on holding for a while.
pub fn holds_for(what: impl Display, span: Duration, mut look: impl FnMut() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < span {
        look().with_context(|| format!("{what}: no longer so after {:?}", started.elapsed()))?;
        thread::sleep(LONGEST_PAUSE / 4);
    }
    Ok(())
}
