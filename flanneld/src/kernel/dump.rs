//! Complete listings. A listing counts only if it ends with DONE, without an error, and nothing changed
//! while it was read; anything else would show objects as missing that are there.

use flannel_core::message::{DecodeError, Reply, Request, frames};
use nix::errno::Errno;
use std::time::Duration;
use tokio::time;
use tracing::debug;

use super::conn::Connection;
use super::error::{KernelError, Refused};

/// A host where pods start all the time changes its links during a listing now and then, not each time.
const ATTEMPTS: u32 = 6;

/// Pause before the second attempt; it doubles.
const PAUSE: Duration = Duration::from_millis(5);

/// Lists all objects of a request. `decode` gives `None` for those that are not wanted.
pub(super) async fn dump<T>(
    connection: &mut Connection,
    what: &'static str,
    request: &Request,
    decode: impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
) -> Result<Vec<T>, KernelError> {
    let mut pause = PAUSE;
    for attempt in 1..=ATTEMPTS {
        if let Some(objects) = attempt_dump(connection, what, request, &decode).await? {
            return Ok(objects);
        }
        debug!(what, attempt, "kernel objects changed during the listing");
        if attempt < ATTEMPTS {
            time::sleep(pause).await;
            pause *= 2;
        }
    }
    Err(KernelError::Unsteady { what, attempts: ATTEMPTS })
}

/// One attempt; `None` if it was interrupted by a change.
async fn attempt_dump<T>(
    connection: &mut Connection,
    what: &'static str,
    request: &Request,
    decode: impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
) -> Result<Option<Vec<T>>, KernelError> {
    let sequence = connection.next_sequence();
    connection.send(&request.to_bytes(sequence)).await?;
    let mut listing = Listing { sequence, objects: Vec::new(), interrupted: false };
    loop {
        let datagram = connection.answer().await?;
        match listing.take(datagram, &decode).map_err(|cause| KernelError::Unreadable { what, cause })? {
            None => {}
            Some(End::Done) => {
                return Ok(Some(listing.objects).filter(|_| !listing.interrupted));
            }
            Some(End::Refused(cause)) if cause.errno == Errno::EINTR => return Ok(None),
            Some(End::Refused(cause)) => return Err(KernelError::List { what, cause }),
        }
    }
}

/// A listing that is being read.
struct Listing<T> {
    sequence: u32,
    objects: Vec<T>,
    interrupted: bool,
}

/// How a listing ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Done,
    Refused(Refused),
}

impl<T> Listing<T> {
    fn take(
        &mut self,
        datagram: &[u8],
        decode: impl Fn(&[u8]) -> Result<Option<T>, DecodeError>,
    ) -> Result<Option<End>, DecodeError> {
        for frame in frames(datagram) {
            let frame = frame?;
            // What is left of an earlier request that was given up.
            if frame.sequence != self.sequence {
                continue;
            }
            self.interrupted |= frame.interrupted();
            match frame.reply()? {
                Reply::Object(payload) => match decode(payload) {
                    Ok(object) => self.objects.extend(object),
                    // One odd object of somebody else is no reason to be blind for all others.
                    Err(error) => debug!(%error, "skipped a kernel object that cannot be read"),
                },
                Reply::Done => return Ok(Some(End::Done)),
                Reply::Refused(refusal) => return Ok(Some(End::of(refusal.into()))),
                Reply::Ack(_) | Reply::Noop => {}
                // Belongs to notifications; a dump waits for its reader.
                Reply::Overrun => self.interrupted = true,
            }
        }
        Ok(None)
    }
}

impl End {
    /// A table that nobody has used yet has no routes: with policy routing, the kernel makes even the main
    /// table only when its first route is set, and says so with `ENOENT`. A link that has gone has nothing.
    fn of(refused: Refused) -> Self {
        match refused.errno {
            Errno::ENOENT | Errno::ENODEV => Self::Done,
            _ => Self::Refused(refused),
        }
    }
}

#[cfg(test)]
mod tests;
