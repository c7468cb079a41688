//! A watch of a lease directory: woken by inotify and by the next expiry, otherwise idle.

use async_trait::async_trait;
use flannel_core::lease::Revision;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use super::DirStore;
use super::error::DirError;
use super::tree::Tree;
use crate::store::error::StoreError;
use crate::store::operation::Operation;
use crate::store::{LeaseWatch, WatchEvent};

/// A running watch of a [`DirStore`].
pub(super) struct DirWatch {
    store: DirStore,
    after: Revision,
    notices: Option<AsyncFd<Notices>>,
    /// Something may have changed since the last look.
    pending: bool,
    next_expiry_millis: Option<i64>,
}

/// Longest sleep until an expiry, in case the clock is set meanwhile.
const EXPIRY_LOOK: Duration = Duration::from_secs(3600);

impl DirWatch {
    pub(super) fn new(store: DirStore, after: Revision) -> Self {
        Self { store, after, notices: None, pending: true, next_expiry_millis: None }
    }

    /// Compares the files with what was delivered.
    async fn look(&mut self) -> Result<Option<WatchEvent>, StoreError> {
        let after = self.after;
        let work = move |tree: &Tree| {
            let locked = tree.lock()?;
            Ok((locked.changes(after)?, Revision::new(locked.index.revision), locked.index.next_expiry()))
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
            let notices = match &mut self.notices {
                Some(notices) => notices,
                empty => {
                    // Listening starts before the look, so that nothing falls in between.
                    tree.prepare()?;
                    self.pending = true;
                    let failed = |error| DirError::file("watch", &tree.root, error);
                    empty.insert(Notices::new(tree).and_then(Notices::registered).map_err(failed)?)
                }
            };
            if self.pending {
                if let Some(event) = self.look().await? {
                    return Ok(event);
                }
                continue;
            }
            let expiry = sleep(self.next_expiry_millis.map_or(EXPIRY_LOOK, until).min(EXPIRY_LOOK));
            let ready = tokio::select! {
                ready = notices.readable() => Some(ready),
                () = expiry, if self.next_expiry_millis.is_some() => None,
            };
            let failed = |error| DirError::file("watch", &tree.root, error);
            let notice = match ready {
                Some(Ok(mut ready)) => {
                    let notice = ready.get_inner().drain();
                    ready.clear_ready();
                    notice.map_err(failed)?
                }
                Some(Err(error)) => return Err(failed(error)),
                None => Notice::Changed,
            };
            match notice {
                Notice::Nothing => {}
                Notice::Changed => self.pending = true,
                Notice::Moved => self.notices = None,
            }
        }
    }
}

fn until(millis: i64) -> Duration {
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0));
    // A millisecond more, so that it is over when we look.
    at.duration_since(SystemTime::now()).unwrap_or_default() + Duration::from_millis(1)
}

/// What the kernel reported.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Notice {
    /// Only files that are not ours to look at.
    Nothing,
    /// Files changed.
    Changed,
    /// A directory was deleted, moved or made, or notices were lost: listen anew.
    Moved,
}

struct Notices(Inotify);

impl Notices {
    fn new(tree: &Tree) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let changes = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        for directory in [&tree.root, &tree.subnets, &tree.leases] {
            inotify.add_watch(directory, changes)?;
        }
        Ok(Self(inotify))
    }

    #[expect(
        deprecated,
        reason = "its successor is unsafe to call, for types whose descriptor changes; this one is owned and fixed"
    )]
    fn registered(self) -> io::Result<AsyncFd<Self>> {
        AsyncFd::new(self)
    }

    /// Reads all that waits.
    fn drain(&self) -> io::Result<Notice> {
        let anew = AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_IGNORED
            | AddWatchFlags::IN_UNMOUNT
            | AddWatchFlags::IN_Q_OVERFLOW
            | AddWatchFlags::IN_ISDIR;
        let mut notice = Notice::Nothing;
        loop {
            let events = match self.0.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => return Ok(notice),
                Err(error) => return Err(error.into()),
            };
            for event in events {
                let hidden = event.name.is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                let one = match event.mask {
                    mask if mask.intersects(anew) => Notice::Moved,
                    _ if hidden => Notice::Nothing,
                    _ => Notice::Changed,
                };
                notice = notice.max(one);
            }
        }
    }
}

impl AsRawFd for Notices {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
