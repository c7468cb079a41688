//! The only place that writes: results to stdout, everything else to stderr.

use anyhow::Context as _;
use std::io::Write as _;

/// A result.
pub(crate) fn text(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("could not write the result")
}

/// Something for people.
pub(crate) fn message(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stderr(), "{text}").context("could not write a message")
}

/// Rows as columns as wide as they need to be, two spaces apart.
pub(crate) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
