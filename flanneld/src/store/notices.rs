//! Notifications about files, by inotify.

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::path::Path;
use tokio::io::unix::AsyncFd;

/// Notifications about files.
pub(super) struct Notices(AsyncFd<Queue>);

struct Queue(Inotify);

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Notices {
    #[expect(
        deprecated,
        reason = "its successor is unsafe to call, for types whose descriptor changes; this one is owned and fixed"
    )]
    pub(super) fn open() -> io::Result<Self> {
        let queue = Queue(Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?);
        Ok(Self(AsyncFd::new(queue)?))
    }

    /// Subscribes to a file or directory. Repeating it has no effect.
    pub(super) fn subscribe(&self, path: &Path, changes: AddWatchFlags) -> io::Result<()> {
        self.0.get_ref().0.add_watch(path, changes)?;
        Ok(())
    }

    /// Waits for notifications and reads all of them: the names of the files. Cancel-safe.
    pub(super) async fn ready(&self) -> io::Result<Vec<Option<OsString>>> {
        let mut names = Vec::new();
        let mut ready = self.0.readable().await?;
        loop {
            match ready.get_inner().0.read_events() {
                Ok(events) => names.extend(events.into_iter().map(|event| event.name)),
                Err(Errno::EAGAIN) => {
                    ready.clear_ready();
                    return Ok(names);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
