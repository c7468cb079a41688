//! Whether a row did what is expected, and how it differs from the peer.

use std::collections::BTreeSet;

use super::deviation::Deviations;
use super::row::{Failure, Row};
use super::side::{Outcome, Record};

/// The outcome of a row.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) failures: Vec<String>,
    pub(super) compared: bool,
    /// Lines that differ with the ids of their reasons.
    pub(super) differences: Vec<(String, String)>,
}

impl Verdict {
    pub(super) fn of(row: &Row, ours: &Record, theirs: Option<&Record>, deviations: &Deviations) -> Self {
        let mut verdict = Self { compared: theirs.is_some(), ..Self::default() };
        verdict.expect(row, ours);
        if let Some(theirs) = theirs {
            verdict.compare(row, ours, theirs, deviations);
        }
        verdict
    }

    fn fail(&mut self, text: impl Into<String>) {
        self.failures.push(text.into());
    }

    fn expect(&mut self, row: &Row, ours: &Record) {
        let expected = &row.expected;
        self.expect_outcome("ADD", &ours.add, expected.add.as_ref());
        let no_check = Failure { code: 1, text: "does not allow CHECK".to_owned() };
        let default = (row.version().as_str() < "0.4.0").then_some(no_check);
        match &expected.check {
            Some(check) => self.expect_outcome("CHECK", &ours.check, check.as_ref()),
            None if expected.add.is_none() => self.expect_outcome("CHECK", &ours.check, default.as_ref()),
            // What could not be added cannot be in order.
            None if matches!(ours.check, Outcome::Done(_)) => self.fail("CHECK succeeds after a failed ADD"),
            None => {}
        }
        self.expect_outcome("DEL", &ours.del, expected.del.as_ref());
        self.expect_outcome("DEL again", &ours.again, expected.del.as_ref());
        for part in &expected.present {
            if !ours.added.lines.iter().any(|line| line.contains(part.as_str())) {
                let lines: String = ours.added.lines.iter().map(|line| format!("\n      {line}")).collect();
                self.fail(format!("no line has `{part}`:{lines}"));
            }
        }
        for part in &expected.absent {
            if let Some(line) = ours.added.lines.iter().find(|line| line.contains(part.as_str())) {
                self.fail(format!("a line has `{part}`: {line}"));
            }
        }
        let mut ends = vec![("DEL", &ours.deleted, &["file /var/lib/cni/flannel/cid1"][..])];
        if expected.add.is_some() {
            ends.push(("a failed ADD", &ours.added, &[]));
        }
        for (what, state, more) in ends {
            for line in state.lines.difference(&ours.before.lines).filter(|line| is_of_pod(line, more)) {
                if !expected.left.iter().any(|part| line.contains(part.as_str())) {
                    self.fail(format!("{what} left {line}"));
                }
            }
        }
    }

    fn expect_outcome(&mut self, command: &str, outcome: &Outcome, expected: Option<&Failure>) {
        match (outcome, expected) {
            (Outcome::Done(_), None) => {}
            (Outcome::Done(_), Some(Failure { code, text })) => {
                self.fail(format!("{command} succeeds instead of failing with {code} {text}"));
            }
            (Outcome::Failed { code, text }, None) => {
                self.fail(format!("{command} fails: {code:?} {text}"));
            }
            (Outcome::Failed { code, text }, Some(expected)) => {
                if *code != Some(expected.code) || !text.contains(&expected.text) {
                    self.fail(format!(
                        "{command} fails with {code:?} {text}, not {} {}",
                        expected.code, expected.text
                    ));
                }
            }
        }
    }

    fn compare(&mut self, row: &Row, ours: &Record, theirs: &Record, deviations: &Deviations) {
        let both_added = ours.add.is_done() && theirs.add.is_done();
        let (own, other) = (lines(ours, both_added), lines(theirs, both_added));
        let named = &row.expected.deviations;
        let mut used = BTreeSet::new();
        let only = |sign: &str, one: &BTreeSet<String>, other: &BTreeSet<String>| -> Vec<String> {
            one.difference(other).map(|line| format!("{sign}{line}")).collect()
        };
        for line in only("-", &other, &own).into_iter().chain(only("+", &own, &other)) {
            let text = format!("{line}{}", cause(&line, ours, theirs));
            match deviations.explain(named, &line) {
                Some(id) => {
                    used.insert(id);
                    self.differences.push((text, id.to_owned()));
                }
                None => self.fail(text),
            }
        }
        for id in named {
            match deviations.must_differ(id) {
                Ok(true) if !used.contains(id.as_str()) => {
                    self.fail(format!("the row does not differ because of {id}"));
                }
                Ok(_) => {}
                Err(error) => self.fail(error.to_string()),
            }
        }
    }
}

impl Outcome {
    pub(super) const fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }

    /// Texts of errors are not compared.
    fn describe(&self) -> String {
        match self {
            Self::Done(_) => "ok".to_owned(),
            Self::Failed { code: Some(code), .. } => format!("error {code}"),
            Self::Failed { code: None, .. } => "no error object".to_owned(),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Done(_) => "",
            Self::Failed { text, .. } => text,
        }
    }
}

/// What is compared: states only after both were added, because an ADD that fails may have got to any step.
fn lines(record: &Record, both_added: bool) -> BTreeSet<String> {
    let commands =
        [("ADD", &record.add), ("CHECK", &record.check), ("DEL", &record.del), ("DEL again", &record.again)];
    let commands = commands.map(|(name, outcome)| format!("{name}: {}", outcome.describe()));
    let added = record.added.lines.iter().filter(|_| both_added).cloned();
    let deleted = record.deleted.lines.iter().filter(|_| both_added);
    let deleted = deleted.map(|line| format!("after DEL: {line}"));
    commands.into_iter().chain(added).chain(deleted).collect()
}

/// The text of the error that a line is about.
fn cause(line: &str, ours: &Record, theirs: &Record) -> String {
    let record = if line.starts_with('+') { ours } else { theirs };
    let outcome = match line[1..].split(": ").next() {
        Some("ADD") => &record.add,
        Some("CHECK") => &record.check,
        Some("DEL") => &record.del,
        Some("DEL again") => &record.again,
        _ => return String::new(),
    };
    format!("    {}", outcome.text())
}

/// Whether a line describes something of a single pod, or begins with one of `more`.
fn is_of_pod(line: &str, more: &[&str]) -> bool {
    let is_address = |rest: &str| {
        let name = rest.split(' ').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        name.parse::<std::net::IpAddr>().is_ok()
    };
    let is_link = ["host link vethP", "host link vethX", "host link bwp", "pod link eth0"];
    let is_chain = line.contains(" chain CNI-") && !line.contains("HOSTPORT");
    let is_rule = line.starts_with("iptables ") || line.starts_with("ip6tables ") || line.starts_with("nft ");
    is_link.iter().any(|start| line.starts_with(start))
        || line.strip_prefix("file /var/lib/cni/networks/").is_some_and(is_address)
        || is_chain
        || is_rule && line.contains("cid1")
        || more.iter().any(|start| line.starts_with(start))
}
