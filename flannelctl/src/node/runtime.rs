//! The container runtimes of this node and their CNI settings: in effect, according to the running process, and as written
//! in their configuration files.

use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::timeout;

use crate::node::socket;

mod containerd;
mod cri;
mod crio;
mod settings;
#[cfg(test)]
mod tests;

pub(crate) use cri::{Network, Running, StatusError};
pub(crate) use crio::drop_ins;
pub(crate) use settings::{FileError, Ignored, Settings, Written};

/// A supported runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Containerd,
    Crio,
}

/// Where a runtime is expected.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    /// Its main configuration file.
    pub(crate) file: PathBuf,
    /// Its socket; `None` for the one in the file.
    pub(crate) socket: Option<PathBuf>,
}

/// A container runtime that has configuration files or a socket.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) place: Place,
    /// The content of its files.
    pub(crate) written: Result<Written, FileError>,
    /// Its socket.
    pub(crate) socket: PathBuf,
    /// Its status, or why that is unknown.
    pub(crate) running: Result<Running, StatusError>,
}

/// Time limit of a status, which takes milliseconds.
const LIMIT: Duration = Duration::from_secs(3);

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Crio => "CRI-O",
        }
    }

    /// Its unit of systemd.
    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::Containerd => "containerd.service",
            Self::Crio => "crio.service",
        }
    }

    /// Its default configuration file.
    pub(crate) const fn file(self) -> &'static str {
        match self {
            Self::Containerd => "/etc/containerd/config.toml",
            Self::Crio => "/etc/crio/crio.conf",
        }
    }

    /// Its default socket.
    pub(crate) const fn socket(self) -> &'static str {
        match self {
            Self::Containerd => "/run/containerd/containerd.sock",
            Self::Crio => "/var/run/crio/crio.sock",
        }
    }

    fn written(self, file: &Path) -> Result<Written, FileError> {
        match self {
            Self::Containerd => containerd::files(file),
            Self::Crio => crio::files(file),
        }
    }

    async fn running(self, path: &Path) -> Result<Running, StatusError> {
        let (mut running, info) = cri::status(path).await?;
        match self {
            Self::Containerd => containerd::complete(&mut running, &info),
            // Its status lacks the settings of the network.
            Self::Crio => {
                let text = socket::text(path, "/config").await;
                running.settings = text.ok().and_then(|text| crio::effective(&text).ok());
            }
        }
        Ok(running)
    }
}

impl Place {
    /// The default place of a runtime.
    pub(crate) fn of(kind: Kind) -> Self {
        Self { kind, file: kind.file().into(), socket: None }
    }
}

impl Runtime {
    /// Reads the files of a runtime and requests its status; `None` if it has neither files nor socket.
    pub(crate) async fn read(place: &Place) -> Option<Self> {
        let written = place.kind.written(&place.file);
        let configured = written.as_ref().ok().and_then(|written| written.socket.clone());
        let socket = place.socket.clone().or(configured).unwrap_or_else(|| place.kind.socket().into());
        if written.as_ref().is_ok_and(|written| written.files.is_empty()) && !socket.exists() {
            return None;
        }
        let running = timeout(LIMIT, place.kind.running(&socket)).await;
        let running = running.unwrap_or(Err(StatusError::TimedOut(LIMIT)));
        Some(Self { place: place.clone(), written, socket, running })
    }

    /// The CNI settings in effect, or those of the files if the runtime does not report them; `None` if both are unknown.
    pub(crate) fn settings(&self) -> Option<&Settings> {
        let reported = self.running.as_ref().ok().and_then(|running| running.settings.as_ref());
        reported.or(self.written.as_ref().ok().map(|written| &written.settings))
    }
}
