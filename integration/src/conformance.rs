//! Runs tables of CNI configurations: every row with our plugins and, where others are at hand, with those too, each time in
//! fresh namespaces. What they print, the state of host and pod, and files are compared.
//!
//! A row states what is expected of ours; the peer is the oracle for everything else. Where the two differ, a documented
//! deviation must explain every line of the difference. Without a peer, or where it lacks a key or a plugin, only
//! the row's own expectation counts.

use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::feature::Feature;
use crate::netns::Netns;
use crate::peer::{Peer, own_plugins};
use crate::topology::Lab;
use crate::{collect, program};

mod deviation;
mod row;
mod side;
mod state;
mod verdict;

use deviation::Deviations;
use row::{Row, Table};
use side::Side;
use verdict::Verdict;

/// Runs the rows of a table, and reports how many differ from the peer.
pub fn run(lab: &Lab, table: &str, deviations: &str) -> Result<()> {
    let table = Table::parse(table)?;
    let peer = Peer::of_environment()?;
    let is_old = peer.as_ref().is_some_and(|peer| !peer.supports("1.1.0"));
    let deviations = Deviations::parse(deviations, is_old)?;
    let own = own_plugins(lab, &program("flannel"))?;
    let other = peer.as_ref().map(|peer| peer.directory().display().to_string());
    let path = [own.display().to_string()].into_iter().chain(other).collect::<Vec<_>>().join(":");
    let sides = (Side::new(&own, &path), peer.as_ref().map(Side::of_peer));
    let lacking = lacking(&table)?;
    let mut summary = Summary::default();
    for row in &table.rows {
        let row = row.without(&lacking);
        let verdict = judge(&row, &sides, peer.as_ref(), &deviations)
            .with_context(|| format!("row `{}` could not run", row.name))?;
        summary.add(&row, verdict);
    }
    summary.report(peer.as_ref(), &lacking)
}

/// Fails unless a document has every deviation and rows differ because of it.
pub fn expect_documented(deviations: &str, tables: &[String], document: &str) -> Result<()> {
    let tables = tables.iter().map(|text| Table::parse(text)).collect::<Result<Vec<_>>>()?;
    Deviations::parse(deviations, false)?.expect_documented(&tables, document)
}

/// The features that rows need and this kernel lacks.
fn lacking(table: &Table) -> Result<Vec<Feature>> {
    let scratch = Netns::create("probe")?;
    let mut needed: Vec<Feature> = table.rows.iter().filter_map(|row| row.kernel).collect();
    needed.dedup();
    needed.retain(|feature| feature.probe(&scratch).is_err());
    scratch.delete()?;
    Ok(needed)
}

fn judge(
    row: &Row,
    (own, other): &(Side, Option<Side>),
    peer: Option<&Peer>,
    deviations: &Deviations,
) -> Result<Verdict> {
    let ours = own.run(row, None)?;
    let comparable = peer.map(|peer| row.is_comparable(peer)).transpose()?.unwrap_or_default();
    let theirs = other.as_ref().filter(|_| comparable).map(|side| side.run(row, Some(&ours))).transpose()?;
    Ok(Verdict::of(row, &ours, theirs.as_ref(), deviations))
}

/// The outcome of a table.
#[derive(Default)]
struct Summary {
    rows: usize,
    equal: usize,
    not_compared: usize,
    /// Rows with differences that deviations of theirs explain, as text.
    different: Vec<String>,
    /// Differences of many rows.
    common: BTreeSet<String>,
    failed: Vec<String>,
}

impl Summary {
    fn add(&mut self, row: &Row, verdict: Verdict) {
        self.rows += 1;
        let is_named = |(_, id): &&(String, String)| row.expected.deviations.contains(id);
        let (named, common): (Vec<_>, Vec<_>) = verdict.differences.iter().partition(is_named);
        self.common.extend(common.into_iter().map(|(_, id)| id.clone()));
        let differences: String = named.iter().map(|(line, id)| format!("\n    {line}    ({id})")).collect();
        if !verdict.failures.is_empty() {
            let failures: String = verdict.failures.iter().map(|line| format!("\n    {line}")).collect();
            self.failed.push(format!("{}{failures}{differences}", row.name));
        } else if !verdict.compared {
            self.not_compared += 1;
        } else if named.is_empty() {
            self.equal += 1;
        } else {
            self.different.push(format!("{}{differences}", row.name));
        }
    }

    fn report(&self, peer: Option<&Peer>, lacking: &[Feature]) -> Result<()> {
        let Self { rows, equal, not_compared, different, common, failed } = self;
        let with = peer.map_or("no other plugins".to_owned(), |peer| peer.directory().display().to_string());
        let mut text = format!(
            "{rows} rows, {equal} equal to {with}, {} differ for documented reasons, {not_compared} not compared",
            different.len()
        );
        if !common.is_empty() {
            let common: Vec<&str> = common.iter().map(String::as_str).collect();
            text += &format!("; in many rows: {}", common.join(", "));
        }
        for feature in lacking {
            // Writing to a string does not fail.
            let _ = write!(text, "; this kernel lacks {feature}: only refusals were seen");
        }
        if peer.is_some_and(Peer::is_chosen) {
            for row in different {
                text += &format!("\n  {row}");
            }
        }
        eprintln!("{text}");
        collect::report(&text)?;
        if !failed.is_empty() {
            bail!("{} of {rows} rows failed:\n  {}", failed.len(), failed.join("\n  "));
        }
        Ok(())
    }
}
