//! The text of an expiry file: when a record ends, and how long a renewal lasts.
//!
//! We write `2026-11-24T04:42:00.250Z 86400`. Read is also a plain number of seconds since 1970, with or without a
//! fraction, any RFC 3339 time, and the time alone.

use std::time::Duration;

/// What Go's flannel grants; used where the file names no other.
pub(super) const DEFAULT_LIFETIME: Duration = Duration::from_secs(86_400);

/// Content of an expiry file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expiry {
    /// Milliseconds since 1970.
    pub(super) at_millis: i64,
    /// What a renewal adds to the present time.
    pub(super) lifetime: Duration,
}

impl Expiry {
    /// The end of something that starts now.
    pub(super) fn after(now_millis: i64, lifetime: Duration) -> Self {
        let millis = i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX);
        Self { at_millis: now_millis.saturating_add(millis).min(MAX_MILLIS), lifetime }
    }

    /// Reads a file; `None` if it holds something else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let at = words.next()?;
        let at_millis = parse_seconds(at).or_else(|| parse_rfc3339(at))?;
        let lifetime = match words.next() {
            Some(word) => Duration::from_millis(u64::try_from(parse_seconds(word)?).ok()?),
            None => DEFAULT_LIFETIME,
        };
        words.next().is_none().then_some(Self { at_millis, lifetime })
    }

    /// The text of the file.
    pub(super) fn text(self) -> String {
        let seconds = self.lifetime.as_millis() / 1000;
        let fraction = match self.lifetime.subsec_millis() {
            0 => String::new(),
            millis => format!(".{millis:03}"),
        };
        format!("{} {seconds}{fraction}\n", rfc3339(self.at_millis))
    }
}

/// 31 December 9999, the last day that RFC 3339 can write.
const MAX_MILLIS: i64 = 253_402_300_799_999;
const DAY_MILLIS: i64 = 86_400_000;

/// A decimal number of seconds as milliseconds.
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

fn parse_rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !separators.iter().all(|&(at, byte)| bytes.get(at).is_some_and(|b| b.to_ascii_uppercase() == byte)) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let in_range = (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !in_range {
        return None;
    }
    let rest = text.get(19..)?;
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let (fraction, zone) = rest.split_at(zone_at);
    let millis = match fraction {
        "" => 0,
        fraction => parse_seconds(&format!("0{fraction}"))?,
    };
    let offset_minutes = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let at = 19 + zone_at;
            let minutes = number(at + 1, at + 3)? * 60 + number(at + 4, at + 6)?;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return None,
    };
    let seconds = hour * 3600 + minute * 60 + second - offset_minutes * 60;
    Some(days_from_civil(year, month, day) * DAY_MILLIS + seconds * 1000 + millis)
}

fn rfc3339(millis: i64) -> String {
    let (days, rest) = (millis.div_euclid(DAY_MILLIS), millis.rem_euclid(DAY_MILLIS));
    let (year, month, day) = civil_from_days(days);
    let (seconds, millis) = (rest / 1000, rest % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1 January of year 0 to 1 January of `year`, which is not negative.
fn days_before_year(year: i64) -> i64 {
    // Year 0 is a leap year of the proleptic calendar, so one more leap day has passed in every later year.
    let past = year - 1;
    if year == 0 { 0 } else { 365 * year + past / 4 - past / 100 + past / 400 + 1 }
}

const DAYS_BEFORE_1970: i64 = 719_528;

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let months: i64 = (1..month).map(|month| days_in(year, month)).sum();
    days_before_year(year) + months + day - 1 - DAYS_BEFORE_1970
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + DAYS_BEFORE_1970;
    // 400 years have 146,097 days; the guess is at most one year off.
    let mut year = days * 400 / 146_097;
    while days_before_year(year + 1) <= days {
        year += 1;
    }
    while days_before_year(year) > days {
        year -= 1;
    }
    let mut rest = days - days_before_year(year);
    let mut month = 1;
    while rest >= days_in(year, month) {
        rest -= days_in(year, month);
        month += 1;
    }
    (year, month, rest + 1)
}

#[cfg(test)]
mod tests;
