//! The option for other programs to compare with: CNI plugins, and Go's flanneld.

use anyhow::{Context, Result, ensure};
use clap::Args;
use std::path::{Path, PathBuf};

/// Debian's plugins.
const DEBIAN: &str = "/usr/lib/cni";

#[derive(Args, Clone)]
pub(crate) struct PeerOption {
    /// Directory of other CNI plugins to compare with [default: /usr/lib/cni]. In end-to-end tests, also the program flanneld of Go
    /// flannel, or a directory that contains it, to upgrade from
    #[arg(long, value_name = "PATH")]
    peer: Option<PathBuf>,
}

impl PeerOption {
    /// Returns the directory of plugins that was chosen, if one was. Fails if it contains neither plugins nor a daemon.
    pub(crate) fn chosen(&self) -> Result<Option<PathBuf>> {
        match &self.peer {
            Some(path) if has_plugins(path) || self.daemon()?.is_none() => checked(path).map(Some),
            _ => Ok(None),
        }
    }

    /// Returns the program flanneld that was chosen, if one was.
    pub(crate) fn daemon(&self) -> Result<Option<PathBuf>> {
        let Some(path) = &self.peer else { return Ok(None) };
        let program = if path.is_file() { path.clone() } else { path.join("flanneld") };
        program.is_file().then(|| absolute(&program)).transpose()
    }

    /// Returns the directory. Fails if it contains no plugins.
    pub(crate) fn directory(&self) -> Result<PathBuf> {
        checked(self.peer.as_deref().unwrap_or_else(|| Path::new(DEBIAN)))
    }
}

fn has_plugins(directory: &Path) -> bool {
    directory.join("bridge").is_file()
}

fn checked(directory: &Path) -> Result<PathBuf> {
    ensure!(
        has_plugins(directory),
        "--peer {}: no plugin `bridge` in it; Debian's are in the package containernetworking-plugins",
        directory.display()
    );
    absolute(directory)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("could not resolve {}", path.display()))
}
