//! The gates that need no privilege.

use anyhow::Result;

use crate::process::{cargo, succeeds};
use crate::tally::Tally;
use crate::tidy::{self, TidyOptions};

pub(crate) fn run() -> Result<bool> {
    let tally = gates()?;
    println!("\n{tally}");
    Ok(tally.good())
}

/// Format, lints and the rules of the code base.
pub(crate) fn gates() -> Result<Tally> {
    let mut tally = Tally::default();
    println!("format");
    tally.outcome("format: mend it with `cargo fmt --all`", succeeds(&mut cargo("fmt --all --check"))?);

    println!("lints");
    let mut clippy = cargo("clippy --quiet --workspace --all-targets -- -D warnings");
    tally.outcome("lints: see `cargo clippy --workspace --all-targets`", succeeds(&mut clippy)?);

    println!("rules of the code base");
    tally.outcome("rules of the code base: see `cargo xtask tidy`", tidy::run(&TidyOptions::default())?);
    Ok(tally)
}
