//! Where the packages are that `cargo xtask e2e` makes for tests.

use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;

/// Of two revisions of one version, and of what is for another processor.
#[derive(Clone, Copy)]
pub enum Revision {
    /// The older one.
    First,
    /// The newer one.
    Second,
    /// For another processor.
    Other,
}

impl Revision {
    const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
            Self::Other => "other",
        }
    }

    /// The directory with its files.
    pub fn directory(self) -> Result<PathBuf> {
        Ok(directory()?.join(self.name()))
    }
}

/// The directory with all.
pub fn directory() -> Result<PathBuf> {
    std::env::var_os("FLANNEL_E2E_PACKAGES")
        .map(PathBuf::from)
        .context("packages are made by `cargo xtask e2e`")
}

/// The name of the file with this ending.
pub fn name(revision: Revision, ending: &str) -> Result<String> {
    let path = revision.directory()?;
    let entries = fs::read_dir(&path).with_context(|| format!("could not list {}", path.display()))?;
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .find(|name| name.ends_with(ending))
        .map(|name| format!("{}/{name}", revision.name()))
        .with_context(|| format!("nothing in {} ends in {ending}", path.display()))
}

/// The file with this ending.
pub fn file(revision: Revision, ending: &str) -> Result<PathBuf> {
    Ok(directory()?.join(name(revision, ending)?))
}
