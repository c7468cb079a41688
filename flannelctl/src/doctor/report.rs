//! The findings of the doctor, and their form for people.

use serde::Serialize;
use std::fmt::Write as _;

use super::catalog::{CHECKS, Check, Severity};
use crate::output::text::count;
use crate::output::wrap;

/// A problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) id: &'static str,
    pub(crate) severity: Severity,
    /// The object: a subnet, a device, a file, a setting.
    pub(crate) subject: String,
    pub(crate) problem: String,
    /// The facts that show it.
    pub(crate) evidence: Vec<String>,
    /// How to fix it, as a command if possible.
    pub(crate) fix: String,
}

impl Finding {
    /// Adds evidence.
    pub(crate) fn seen(&mut self, evidence: impl Into<String>) -> &mut Self {
        self.evidence.push(evidence.into());
        self
    }

    /// Replaces the fix of the check by a more specific one.
    pub(crate) fn fix(&mut self, fix: impl Into<String>) -> &mut Self {
        self.fix = fix.into();
        self
    }

    /// Replaces the severity of the check.
    pub(crate) fn severity(&mut self, severity: Severity) -> &mut Self {
        self.severity = severity;
        self
    }
}

/// A check that was not possible, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Skipped {
    pub(crate) id: &'static str,
    pub(crate) reason: String,
}

/// The result of a diagnosis.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    pub(crate) findings: Vec<Finding>,
    pub(crate) skipped: Vec<Skipped>,
}

impl Report {
    /// Adds a finding with the severity and the fix of its check.
    pub(crate) fn find(
        &mut self,
        check: &Check,
        subject: impl ToString,
        problem: impl Into<String>,
    ) -> &mut Finding {
        self.findings.push(Finding {
            id: check.id,
            severity: check.severity,
            subject: subject.to_string(),
            problem: problem.into(),
            evidence: Vec::new(),
            fix: check.fix.to_owned(),
        });
        let last = self.findings.len() - 1;
        &mut self.findings[last]
    }

    /// Records that a check was not possible.
    pub(crate) fn skip(&mut self, check: &Check, reason: impl Into<String>) {
        let reason = reason.into();
        if !self.skipped.iter().any(|skipped| skipped.id == check.id && skipped.reason == reason) {
            self.skipped.push(Skipped { id: check.id, reason });
        }
    }

    /// Keeps the checks with these ids, or all if there are none.
    pub(crate) fn only(&mut self, ids: &[String]) {
        let is_selected = |id: &str| ids.is_empty() || ids.iter().any(|selected| selected == id);
        self.findings.retain(|finding| is_selected(finding.id));
        self.skipped.retain(|skipped| is_selected(skipped.id));
    }

    /// Sorts by severity, then by the order of the catalog.
    pub(crate) fn sort(&mut self) {
        let rank = |id: &str| CHECKS.iter().position(|check| check.id == id);
        self.findings.sort_by_key(|finding| (finding.severity, rank(finding.id)));
        self.skipped.sort_by_key(|skipped| rank(skipped.id));
    }

    /// Returns the findings of `later` that were found before, because a running daemon repairs others.
    pub(crate) fn confirmed_by(self, later: Self) -> Self {
        let before = self.findings;
        let confirmed = |finding: &Finding| {
            before.iter().any(|old| (old.id, &old.subject) == (finding.id, &finding.subject))
        };
        Self { findings: later.findings.into_iter().filter(confirmed).collect(), skipped: later.skipped }
    }

    fn number(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// The form for people: one paragraph per finding, at most 80 columns wide unless a word is longer.
    pub(crate) fn paragraphs(&self, checked: usize) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let label = finding.severity.name().to_uppercase();
            let _ = writeln!(text, "{label:<8} {}  {}", finding.id, finding.subject);
            let evidence = finding.evidence.iter().map(|evidence| ("seen: ", evidence));
            for (label, words) in
                [("", &finding.problem)].into_iter().chain(evidence).chain([("fix:  ", &finding.fix)])
            {
                paragraph(&mut text, &format!("{INDENT}{label}"), words);
            }
            text.push('\n');
        }
        for Skipped { id, reason } in &self.skipped {
            paragraph(&mut text, &format!("not checked: {id}: "), reason);
        }
        text.push_str(&self.summary(checked));
        text
    }

    fn summary(&self, checked: usize) -> String {
        let skipped = match self.skipped.len() {
            0 => String::new(),
            skipped => format!(", {skipped} not possible on this host"),
        };
        let (errors, warnings) = (self.number(Severity::Error), self.number(Severity::Warning));
        if errors + warnings == 0 {
            return format!("no problems found in {}{skipped}", count(checked, "check"));
        }
        let (errors, warnings) = (count(errors, "error"), count(warnings, "warning"));
        format!("{errors}, {warnings} in {}{skipped}", count(checked, "check"))
    }
}

const WIDTH: usize = 80;
const INDENT: &str = "         ";

/// Writes words after a label, and further lines below the words.
fn paragraph(text: &mut String, label: &str, words: &str) {
    let margin = label.chars().count();
    for (number, line) in wrap(words, WIDTH - margin).iter().enumerate() {
        let start = if number == 0 { label.to_owned() } else { " ".repeat(margin) };
        let _ = writeln!(text, "{start}{line}");
    }
}

#[cfg(test)]
mod tests;
