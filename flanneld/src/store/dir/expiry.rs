//! The text of an expiry file: when a record expires, and the time that a renewal adds.
//!
//! The form is `2026-11-24T04:42:00.250Z 86400`. Any RFC 3339 time and seconds since 1970, with or without a fraction, are also
//! accepted, and the second word can be missing.

use chrono::{DateTime, SecondsFormat};
use std::time::Duration;

/// The lease time of Go flannel, for files without another one.
pub(super) const DEFAULT_LIFETIME: Duration = Duration::from_secs(86_400);

/// Content of an expiry file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expiry {
    /// Milliseconds since 1970.
    pub(super) at_millis: i64,
    /// The time that a renewal adds.
    pub(super) lifetime: Duration,
}

impl Expiry {
    /// Returns the expiry of a lease that begins now.
    pub(super) fn after(now_millis: i64, lifetime: Duration) -> Self {
        let millis = i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX);
        Self { at_millis: now_millis.saturating_add(millis).min(MAX_MILLIS), lifetime }
    }

    /// Parses the text of a file.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let at = words.next()?;
        let rfc3339 = || Some(DateTime::parse_from_rfc3339(at).ok()?.timestamp_millis());
        let at_millis = parse_seconds(at).or_else(rfc3339)?;
        let lifetime = match words.next() {
            Some(word) => Duration::from_millis(u64::try_from(parse_seconds(word)?).ok()?),
            None => DEFAULT_LIFETIME,
        };
        words.next().is_none().then_some(Self { at_millis, lifetime })
    }

    /// Returns the text of the file.
    pub(super) fn text(self) -> String {
        let seconds = self.lifetime.as_millis() / 1000;
        let fraction = match self.lifetime.subsec_millis() {
            0 => String::new(),
            millis => format!(".{millis:03}"),
        };
        let at = DateTime::from_timestamp_millis(self.at_millis).unwrap_or_default();
        format!("{} {seconds}{fraction}\n", at.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

/// The last millisecond of the year 9999, and so of RFC 3339.
const MAX_MILLIS: i64 = 253_402_300_799_999;

/// Parses a decimal number of seconds as milliseconds.
fn parse_seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let millis: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let millis = whole.parse::<i64>().ok()?.checked_mul(1000)?.checked_add(millis)?;
    (millis <= MAX_MILLIS).then_some(millis)
}

#[cfg(test)]
mod tests;
