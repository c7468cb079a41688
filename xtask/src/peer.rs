//! The option for other CNI plugins to compare with.

use anyhow::{Context, Result, ensure};
use clap::Args;
use std::path::{Path, PathBuf};

/// Debian's plugins.
const DEBIAN: &str = "/usr/lib/cni";

#[derive(Args, Clone)]
pub(crate) struct PeerOption {
    /// Directory of other CNI plugins to compare with [default: /usr/lib/cni]
    #[arg(long, value_name = "DIRECTORY")]
    peer: Option<PathBuf>,
}

impl PeerOption {
    /// Returns the directory that was chosen, if one was. Fails if it contains no plugins.
    pub(crate) fn chosen(&self) -> Result<Option<PathBuf>> {
        self.peer.as_deref().map(checked).transpose()
    }

    /// Returns the directory. Fails if it contains no plugins.
    pub(crate) fn directory(&self) -> Result<PathBuf> {
        checked(self.peer.as_deref().unwrap_or_else(|| Path::new(DEBIAN)))
    }
}

fn checked(directory: &Path) -> Result<PathBuf> {
    ensure!(
        directory.join("bridge").is_file(),
        "--peer {}: no plugin `bridge` in it; Debian's are in the package containernetworking-plugins",
        directory.display()
    );
    std::path::absolute(directory).with_context(|| format!("could not resolve {}", directory.display()))
}
