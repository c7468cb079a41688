//! Network namespaces.

use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};
use rustix::fs::{FlockOperation, fstatfs};
use rustix::io::FdFlags;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::environment::Environment;
use crate::error::{CniError, Code, PathError, errno_text};
use crate::fault;

/// The namespace of this thread. `/proc/self` would be that of the main thread.
const OWN: &str = "/proc/thread-self/ns/net";
/// File systems whose files may be namespaces: nsfs, and procfs of kernels before 3.19.
const NSFS: i64 = 0x6e73_6673;
const PROCFS: i64 = 0x9fa0;

/// A namespace, held open.
#[derive(Debug)]
pub(crate) struct Netns(File);

/// A path that is not a namespace.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetnsError {
    #[error("failed to open netns {path:?}: {reason}")]
    Open { path: String, reason: PathError },
    #[error("unknown FS magic on {path:?}: {magic:x}")]
    NoNamespace { path: String, magic: i64 },
}

impl NetnsError {
    /// Whether the namespace no longer exists. The path may still exist as a stale mount point.
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Self::Open { reason, .. } => reason.means_absent(),
            Self::NoNamespace { .. } => true,
        }
    }
}

impl Netns {
    /// Opens the namespace at a path.
    pub(crate) fn open(path: &Path) -> Result<Self, NetnsError> {
        let text = || path.display().to_string();
        let file = open(path)?;
        let magic = fstatfs(&file).map_or(0, |statfs| statfs.f_type);
        if magic != NSFS && magic != PROCFS {
            return Err(NetnsError::NoNamespace { path: text(), magic });
        }
        Ok(Self(file))
    }

    /// Opens the namespace at a path; none if the path is empty or the namespace and its interfaces no longer exist.
    pub(crate) fn open_if_present(path: &Path) -> Result<Option<Self>, NetnsError> {
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        match Self::open(path) {
            Err(error) if error.is_gone() => Ok(None),
            other => other.map(Some),
        }
    }

    pub(crate) const fn file(&self) -> &File {
        &self.0
    }

    /// Blocks other operations on this container until this process and every program that it started have exited. A program
    /// continues when its parent is killed, and could set rules after a DEL has looked for them.
    pub(crate) fn hold(&self) -> Result<(), CniError> {
        let failed = |errno: rustix::io::Errno| failed("lock the container's netns", errno.into());
        rustix::fs::flock(&self.0, FlockOperation::LockExclusive).map_err(failed)?;
        // Programs inherit the file and thus the lock.
        rustix::io::fcntl_setfd(&self.0, FdFlags::empty()).map_err(failed)
    }

    /// Runs `work` in the namespace, on this thread.
    pub(crate) fn enter<T>(&self, work: impl FnOnce() -> T) -> Result<T, CniError> {
        let own = open(Path::new(OWN))?;
        let switch = |netns: &File| setns(netns, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
        fault::step().and_then(|()| switch(&self.0)).map_err(|error| failed("switch to netns", error))?;
        let result = work();
        switch(&own).map_err(|error| failed("switch back to the host's netns", error))?;
        Ok(result)
    }
}

fn failed(what: &str, error: io::Error) -> CniError {
    CniError::internal(format!("failed to {what}: {}", errno_text(&error)))
}

fn open(path: &Path) -> Result<File, NetnsError> {
    File::open(path).map_err(|error| NetnsError::Open {
        path: path.display().to_string(),
        reason: PathError::new("open", path, error),
    })
}

/// The lock on what all pods of a host share, such as the bridge: one per namespace, held for the namespace of this thread. The
/// kernel releases it when the process exits for whatever reason, and nothing is left on disk.
#[derive(Debug)]
pub(crate) struct HostLock {
    _lock: Flock<File>,
}

impl HostLock {
    /// Waits for the lock.
    pub(crate) fn take() -> Result<Self, CniError> {
        let own = Path::new(OWN);
        fault::step().map_err(|error| PathError::new("flock", own, error))?;
        let lock = Flock::lock(open(own)?, FlockArg::LockExclusive)
            .map_err(|(_, errno)| PathError::new("flock", own, errno.into()))?;
        Ok(Self { _lock: lock })
    }
}

/// Refuses to work in the namespace of the plugin itself, which would disconnect the host.
pub(crate) fn guard(environment: &Environment) -> Result<(), CniError> {
    if environment.netns_override || !is_same(&environment.netns, Path::new(OWN)) {
        return Ok(());
    }
    Err(CniError::new(Code::InvalidNetns, "plugin's netns and netns from CNI_NETNS should not be the same"))
}

/// Whether two paths lead to the same namespace.
fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
    identity(one).is_some_and(|one| Some(one) == identity(other))
}
