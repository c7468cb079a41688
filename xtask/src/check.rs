//! The gates that need no privilege.

use anyhow::Result;

use crate::process::{cargo, succeeds};
use crate::tally::Tally;
use crate::tidy;

pub(crate) fn run() -> Result<bool> {
    let tally = gates()?;
    println!("\n{tally}");
    Ok(tally.good())
}

/// Format, lints and the rules of the code base.
pub(crate) fn gates() -> Result<Tally> {
    let mut tally = Tally::default();
    println!("format");
    tally.outcome("format: run `cargo fmt --all`", succeeds(&mut cargo("fmt --all --check"))?);

    println!("lints");
    // The end-to-end tests are not among the targets that cargo tests, nor, therefore, among all.
    for targets in ["--all-targets", "--test e2e"] {
        let line = format!("clippy --workspace {targets}");
        let good = succeeds(&mut cargo(&format!("{line} --quiet -- -D warnings")))?;
        tally.outcome(&format!("lints: see `cargo {line}`"), good);
    }

    println!("rules of the code base");
    tally.outcome("rules of the code base: see `cargo xtask tidy`", tidy::run()?);
    Ok(tally)
}
