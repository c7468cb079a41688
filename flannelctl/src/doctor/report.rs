//! What a run of the doctor found, and its forms for people.

use serde::Serialize;
use std::fmt::Write as _;

use super::catalog::{CHECKS, Check, Severity};

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) id: &'static str,
    pub(crate) severity: Severity,
    /// The object: a subnet, a device, a file, a setting.
    pub(crate) subject: String,
    /// What is wrong with it.
    pub(crate) problem: String,
    /// What was seen.
    pub(crate) evidence: Vec<String>,
    /// What mends it, as a command to type where there is one.
    pub(crate) mend: String,
}

/// A check that could not be made, which is no finding but not silence either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Skipped {
    pub(crate) id: &'static str,
    pub(crate) reason: String,
}

/// The outcome of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    pub(crate) findings: Vec<Finding>,
    pub(crate) skipped: Vec<Skipped>,
}

impl Report {
    /// Adds a finding of the usual severity of its check.
    pub(crate) fn find(
        &mut self,
        check: &Check,
        subject: impl Into<String>,
        problem: impl Into<String>,
        evidence: Vec<String>,
        mend: impl Into<String>,
    ) -> &mut Finding {
        let (id, severity) = (check.id, check.severity);
        let (subject, problem, mend) = (subject.into(), problem.into(), mend.into());
        self.findings.push(Finding { id, severity, subject, problem, evidence, mend });
        let last = self.findings.len() - 1;
        &mut self.findings[last]
    }

    /// Notes that a check could not be made.
    pub(crate) fn skip(&mut self, check: &Check, reason: impl Into<String>) {
        let reason = reason.into();
        if !self.skipped.iter().any(|skipped| skipped.id == check.id && skipped.reason == reason) {
            self.skipped.push(Skipped { id: check.id, reason });
        }
    }

    /// Keeps the checks of these ids, or all if none is given.
    pub(crate) fn only(&mut self, ids: &[String]) {
        let wanted = |id: &str| ids.is_empty() || ids.iter().any(|wanted| wanted == id);
        self.findings.retain(|finding| wanted(finding.id));
        self.skipped.retain(|skipped| wanted(skipped.id));
    }

    /// Puts it in the order of severity, then of the catalog.
    pub(crate) fn sort(&mut self) {
        let rank = |id: &str| CHECKS.iter().position(|check| check.id == id);
        self.findings.sort_by_key(|finding| (finding.severity, rank(finding.id)));
        self.skipped.sort_by_key(|skipped| rank(skipped.id));
    }

    /// Keeps the findings that `later` has, too: what a running daemon has mended meanwhile is no finding.
    pub(crate) fn confirmed_by(self, later: Self) -> Self {
        let before = self.findings;
        let confirmed = |finding: &Finding| {
            before.iter().any(|old| (old.id, &old.subject) == (finding.id, &finding.subject))
        };
        Self { findings: later.findings.into_iter().filter(confirmed).collect(), skipped: later.skipped }
    }

    /// Whether something has to be done.
    pub(crate) fn has_findings(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity != Severity::Info)
    }

    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// For people: a paragraph for each finding, within 80 columns where words allow it.
    pub(crate) fn paragraphs(&self, checked: usize) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let label = finding.severity.to_string().to_uppercase();
            let _ = writeln!(text, "{label:<8} {}  {}", finding.id, finding.subject);
            wrapped(&mut text, "", &finding.problem);
            for evidence in &finding.evidence {
                wrapped(&mut text, "seen: ", evidence);
            }
            wrapped(&mut text, "mend: ", &finding.mend);
            text.push('\n');
        }
        for Skipped { id, reason } in &self.skipped {
            wrapped_from(&mut text, &format!("not checked: {id}: "), reason, 0);
        }
        text.push_str(&self.summary(checked));
        text
    }

    /// One line about all.
    fn summary(&self, checked: usize) -> String {
        let of = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
        let skipped = match self.skipped.len() {
            0 => String::new(),
            count => format!(", {count} not possible here"),
        };
        let (errors, warnings) = (self.count(Severity::Error), self.count(Severity::Warning));
        if errors + warnings == 0 {
            return format!("nothing wrong: {}{skipped}", of(checked, "check"));
        }
        format!("{}, {} in {}{skipped}", of(errors, "error"), of(warnings, "warning"), of(checked, "check"))
    }
}

const WIDTH: usize = 80;
const INDENT: usize = 9;

fn wrapped(text: &mut String, label: &str, words: &str) {
    text.push_str(&" ".repeat(INDENT));
    wrapped_from(text, label, words, INDENT);
}

/// Writes words behind a label, and further lines below the words.
fn wrapped_from(text: &mut String, label: &str, words: &str, indent: usize) {
    text.push_str(label);
    let margin = indent + label.chars().count();
    let margin = if margin > WIDTH / 2 { indent + 2 } else { margin };
    let mut column = indent + label.chars().count();
    let mut first = true;
    for word in words.split_whitespace() {
        let length = word.chars().count();
        if !first && column + 1 + length > WIDTH {
            let _ = write!(text, "\n{}", " ".repeat(margin));
            column = margin;
        } else if !first {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
        first = false;
    }
    text.push('\n');
}

#[cfg(test)]
mod tests;
