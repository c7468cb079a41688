//! The file with the network config, usually in a volume of a ConfigMap. The kubelet changes such a volume by moving a
//! symbolic link beside the file, so the directory is watched.

use flannel_core::lease::Revision;
use flannel_core::store::ConfigRecord;
use nix::sys::inotify::AddWatchFlags;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};
use tokio::time::sleep;

use crate::files::{self, FileError};
use crate::store::error::{Detail, StoreError};
use crate::store::notices::Notices;

/// The interval of checks without a notification: the directory may not exist, or may be of another kind.
const CHECK: Duration = Duration::from_secs(10);

/// The file.
#[derive(Clone, Debug)]
pub(super) struct ConfigFile(pub(super) PathBuf);

impl ConfigFile {
    /// Waits until a file may have changed. Cancel-safe.
    pub(super) async fn changed(notices: &Notices) -> io::Result<()> {
        tokio::select! {
            ready = notices.ready() => ready.map(drop),
            () = sleep(CHECK) => Ok(()),
        }
    }

    /// Reads the file; `None` if it does not exist. Its revision is the time of its last change.
    pub(super) fn read(&self) -> Result<Option<ConfigRecord>, StoreError> {
        let Self(path) = self;
        let failed = |error: FileError| {
            StoreError::Unusable(Detail::new(error, "Check --net-config-path and its permissions."))
        };
        let Some(bytes) = files::read(path).map_err(failed)? else { return Ok(None) };
        let changed = path.metadata().and_then(|metadata| metadata.modified()).unwrap_or(UNIX_EPOCH);
        let millis = changed.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let revision = Revision::new(i64::try_from(millis).unwrap_or(i64::MAX));
        Ok(Some(ConfigRecord { revision, text: String::from_utf8_lossy(&bytes).into_owned() }))
    }

    /// Starts to deliver notifications; repeating it has no effect.
    pub(super) fn subscribe(&self, notices: &Notices) {
        let Self(path) = self;
        let directory =
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_ONLYDIR;
        // A directory that does not exist yet is checked for from time to time.
        let _ = notices.subscribe(directory, changes);
    }
}
