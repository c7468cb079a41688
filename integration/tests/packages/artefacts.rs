//! Where the packages are.

use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;

/// The guide whose commands the tests run.
pub(crate) const GUIDE: &str = include_str!("../../../docs/install.md");

/// Of two revisions of one version.
#[derive(Clone, Copy)]
pub(crate) enum Revision {
    First,
    Second,
}

/// The directory with both.
pub(crate) fn directory() -> Result<PathBuf> {
    std::env::var_os("FLANNEL_E2E_PACKAGES")
        .map(PathBuf::from)
        .context("packages are made by `cargo xtask e2e`")
}

/// The name of the file with this ending.
pub(crate) fn name(revision: Revision, ending: &str) -> Result<String> {
    let revision = match revision {
        Revision::First => "first",
        Revision::Second => "second",
    };
    let path = directory()?.join(revision);
    let entries = fs::read_dir(&path).with_context(|| format!("could not list {}", path.display()))?;
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .find(|name| name.ends_with(ending))
        .map(|name| format!("{revision}/{name}"))
        .with_context(|| format!("nothing in {} ends in {ending}", path.display()))
}

/// The file with this ending.
pub(crate) fn file(revision: Revision, ending: &str) -> Result<PathBuf> {
    Ok(directory()?.join(name(revision, ending)?))
}
