//! Why a lease directory cannot be used, with what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::store::error::{Detail, StoreError};

/// Why a lease directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum DirError {
    /// A file of the lease directory cannot be used.
    #[error("could not {action} {path}; {}", Advice(.source))]
    File {
        /// What was tried: `read`, `write`, `create`, …
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The answer of the system.
        source: io::Error,
    },

    /// Another process does not give the lock of the lease directory back.
    #[error("{path} has been locked by another process for {} s; `fuser {path}` names it", .limit.as_secs_f32())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
}

impl DirError {
    /// The error of an action on a file.
    pub(super) fn file(action: &'static str, path: &Path, source: io::Error) -> StoreError {
        Self::File { action, path: path.to_owned(), source }.into()
    }
}

impl From<DirError> for StoreError {
    fn from(error: DirError) -> Self {
        match error {
            DirError::Locked { .. } => Self::TimedOut(Detail::new(error, "")),
            DirError::File { .. } => {
                Self::Unusable(Detail::new(error, "Check --lease-dir and the permissions below it."))
            }
        }
    }
}

/// The advice for a file that cannot be used.
struct Advice<'a>(&'a io::Error);

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.kind() {
            io::ErrorKind::NotFound => "create it, or check --lease-dir",
            io::ErrorKind::PermissionDenied => "let the user of this process read and write it",
            io::ErrorKind::ReadOnlyFilesystem => {
                "the file system is mounted read-only: mount it writable, or check --lease-dir"
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on its file system",
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                "a file is in the way where a directory is wanted: move it, or check --lease-dir"
            }
            io::ErrorKind::IsADirectory => "a directory is in the way where a file is wanted: move it",
            _ => "check the file system and --lease-dir",
        })
    }
}
