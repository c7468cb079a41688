//! Documented differences between our plugins and Go's.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;

use super::row::Table;

/// A reason why lines differ.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Deviation {
    /// What rows and the documentation call it.
    id: String,
    scope: Scope,
    /// Parts of the lines that it explains, after `+` those of ours and after `-` those of the peer.
    lines: Vec<String>,
}

/// Where it applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// To every row.
    All,
    /// To the rows that name it.
    Rows,
    /// To every row, if the peer does not support version 1.1.0 of the specification.
    OldAll,
    /// To the rows that name it, with such a peer.
    OldRows,
}

/// All deviations, with the version of the peer.
pub(super) struct Deviations {
    all: Vec<Deviation>,
    /// The peer does not support version 1.1.0 of the specification.
    is_old: bool,
}

impl Deviations {
    /// Reads lines of `id | scope | line / line`.
    pub(super) fn parse(text: &str, is_old: bool) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let all: Vec<Deviation> = lines
            .map(|line| Deviation::parse(line).with_context(|| format!("deviation `{line}`")))
            .collect::<Result<_>>()?;
        let ids: BTreeSet<&str> = all.iter().map(|one| one.id.as_str()).collect();
        ensure!(ids.len() == all.len(), "two deviations have the same id");
        Ok(Self { all, is_old })
    }

    /// Fails unless each deviation has a row `| id |` in this document and, if rows name it, such a row in a table.
    pub(super) fn expect_documented(&self, tables: &[Table], document: &str) -> Result<()> {
        let named: BTreeSet<&str> =
            tables.iter().flat_map(|table| &table.rows).flat_map(|row| row.deviations()).collect();
        for Deviation { id, scope, .. } in &self.all {
            ensure!(document.contains(&format!("\n| `{id}` | ")), "{id} is not documented");
            let is_used = !matches!(scope, Scope::Rows | Scope::OldRows) || named.contains(id.as_str());
            ensure!(is_used, "no row differs because of {id}");
        }
        let known: BTreeSet<&str> = self.all.iter().map(|one| one.id.as_str()).collect();
        let unknown: Vec<&&str> = named.difference(&known).collect();
        ensure!(unknown.is_empty(), "unknown deviations: {unknown:?}");
        Ok(())
    }

    /// Returns the id of the deviation that explains a line of the difference of a row that names these.
    pub(super) fn explain(&self, named: &[String], line: &str) -> Option<&str> {
        let mut applying = self.all.iter().filter(|one| match one.scope {
            Scope::All => true,
            Scope::OldAll => self.is_old,
            Scope::Rows | Scope::OldRows => self.is_effective(one) && named.contains(&one.id),
        });
        applying.find(|one| one.explains(line)).map(|one| one.id.as_str())
    }

    /// Whether a row that names this deviation must differ; an error if it is unknown.
    pub(super) fn must_differ(&self, id: &str) -> Result<bool> {
        let found = self.all.iter().find(|one| one.id == id);
        found.map(|one| self.is_effective(one)).with_context(|| format!("no deviation is called {id}"))
    }

    const fn is_effective(&self, one: &Deviation) -> bool {
        matches!(one.scope, Scope::Rows) || self.is_old && matches!(one.scope, Scope::OldRows)
    }
}

impl Deviation {
    fn parse(line: &str) -> Result<Self> {
        let columns: Vec<&str> = line.split(" | ").map(str::trim).collect();
        let [id, scope, lines] = columns.try_into().ok().context("a deviation has 3 columns")?;
        let scope = match scope {
            "all" => Scope::All,
            "rows" => Scope::Rows,
            "old" => Scope::OldAll,
            "old rows" => Scope::OldRows,
            _ => anyhow::bail!("no scope `{scope}`"),
        };
        let lines: Vec<String> = lines.split(" / ").map(|line| line.trim().to_owned()).collect();
        ensure!(lines.iter().all(|line| line.starts_with(['+', '-'])), "a line begins with + or -");
        Ok(Self { id: id.to_owned(), scope, lines })
    }

    /// Whether it explains a line of a difference.
    fn explains(&self, line: &str) -> bool {
        self.lines.iter().any(|one| line.starts_with(&one[..1]) && line.contains(&one[1..]))
    }
}
