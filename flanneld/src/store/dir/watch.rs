//! A watch of a lease directory: woken by inotify and by the next expiry, otherwise idle.

use async_trait::async_trait;
use flannel_core::lease::Revision;
use nix::sys::inotify::AddWatchFlags;
use std::ffi::OsString;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::sleep;

use super::DirStore;
use super::tree::Tree;
use crate::files::FileError;
use crate::store::error::StoreError;
use crate::store::notices::Notices;
use crate::store::operation::Operation;
use crate::store::{LeaseWatch, WatchEvent};

/// A running watch of a [`DirStore`].
pub(super) struct DirWatch {
    store: DirStore,
    after: Revision,
    notices: Notices,
    /// Something may have changed since the last check.
    pending: bool,
    next_expiry_millis: Option<i64>,
}

/// The longest sleep until an expiry, in case the clock is set meanwhile.
const EXPIRY_CHECK: Duration = Duration::from_secs(3600);

impl DirWatch {
    pub(super) fn new(store: DirStore, after: Revision) -> Result<Self, StoreError> {
        let failed = FileError::during("watch", &store.shared.tree.root);
        let notices = Notices::open().map_err(failed)?;
        Ok(Self { store, after, notices, pending: true, next_expiry_millis: None })
    }

    /// Returns the changes since the last event.
    async fn check(&mut self) -> Result<Option<WatchEvent>, StoreError> {
        let after = self.after;
        let work = move |tree: &Tree| {
            let locked = tree.lock()?;
            Ok((locked.changes(after), Revision::new(locked.index.revision), locked.index.next_expiry()))
        };
        let (changes, revision, next_expiry) = self.store.run(Operation::Watch, work).await?;
        self.pending = false;
        self.next_expiry_millis = next_expiry;
        Ok(match changes {
            None => Some(WatchEvent::Outdated),
            Some(changes) if changes.is_empty() && revision == after => None,
            Some(changes) => {
                self.after = revision;
                Some(WatchEvent::Changes { revision, changes })
            }
        })
    }
}

#[async_trait]
impl LeaseWatch for DirWatch {
    async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        loop {
            let tree = &self.store.shared.tree;
            let failed = FileError::during("watch", &tree.root);
            if self.pending {
                // Subscribed before the check, so that no change is missed.
                tree.prepare()?;
                subscribe(&self.notices, tree).map_err(failed)?;
                if let Some(event) = self.check().await? {
                    return Ok(event);
                }
                continue;
            }
            let expiry = sleep(self.next_expiry_millis.map_or(EXPIRY_CHECK, until).min(EXPIRY_CHECK));
            let names = tokio::select! {
                names = self.notices.ready() => names.map_err(failed)?,
                () = expiry, if self.next_expiry_millis.is_some() => {
                    self.pending = true;
                    continue;
                }
            };
            let is_hidden = |name: &OsString| name.as_encoded_bytes().starts_with(b".");
            self.pending = names.iter().any(|name| !name.as_ref().is_some_and(is_hidden));
        }
    }
}

fn until(millis: i64) -> Duration {
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0));
    // One millisecond more, so that it has passed at the check.
    at.duration_since(SystemTime::now()).unwrap_or_default() + Duration::from_millis(1)
}

/// Subscribes to the directories, which may be new ones. Repeating it has no effect.
fn subscribe(notices: &Notices, tree: &Tree) -> io::Result<()> {
    let changes = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    for directory in [&tree.root, &tree.subnets, &tree.leases] {
        notices.subscribe(directory, changes)?;
    }
    Ok(())
}
