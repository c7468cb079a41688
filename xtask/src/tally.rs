//! Counts of passed, failed and skipped tests, and the summary of a task.

use std::collections::BTreeMap;
use std::fmt;

/// The results of a task.
#[derive(Default, Debug)]
pub(crate) struct Tally {
    passed: u64,
    failures: Vec<String>,
    /// Number of skipped tests by reason.
    skipped: BTreeMap<String, u64>,
}

impl Tally {
    pub(crate) fn pass(&mut self, count: u64) {
        self.passed += count;
    }

    pub(crate) fn fail(&mut self, what: impl Into<String>) {
        self.failures.push(what.into());
    }

    pub(crate) fn skip(&mut self, count: u64, reason: impl Into<String>) {
        if count > 0 {
            *self.skipped.entry(reason.into()).or_default() += count;
        }
    }

    /// Adds one result.
    pub(crate) fn outcome(&mut self, what: &str, good: bool) {
        if good {
            self.pass(1);
        } else {
            self.fail(what);
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failures.extend(other.failures);
        for (reason, count) in other.skipped {
            self.skip(count, reason);
        }
    }

    /// Adds the results in a line of a test program: `test a::b ... ok` or the summary.
    ///
    /// Does not count ignored tests.
    pub(crate) fn libtest_line(&mut self, of: &str, line: &str) {
        if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.fail(format!("{of}: {name}"));
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            let count = |word: &str| {
                rest.split(['.', ';'])
                    .find_map(|part| part.trim().strip_suffix(word))
                    .and_then(|number| number.trim().parse::<u64>().ok())
                    .unwrap_or(0)
            };
            self.pass(count(" passed"));
        }
    }

    /// Returns whether nothing failed.
    pub(crate) const fn good(&self) -> bool {
        self.failures.is_empty()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for failure in &self.failures {
            writeln!(f, "failed: {failure}")?;
        }
        for (reason, count) in &self.skipped {
            writeln!(f, "skipped {count}: {reason}")?;
        }
        let (failed, skipped) = (self.failures.len(), self.skipped.values().sum::<u64>());
        write!(f, "{} passed, {failed} failed, {skipped} skipped", self.passed)
    }
}

#[cfg(test)]
mod tests;
