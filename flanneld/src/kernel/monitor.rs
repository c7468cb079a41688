//! Notifications of the kernel, as hints to look again. They are never the state itself.

use flannel_core::hint::{Hint, Hints};
use flannel_core::message::notification;
use tokio::sync::watch;
use tracing::debug;

use super::KernelError;
use super::conn::{Connection, is_loss};

/// Links, neighbours (FDB entries come with them), addresses and routes of both families:
/// `RTNLGRP_LINK`, `_NEIGH`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`.
const GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];

/// Room for some ten thousand notifications while the reader does not get to run. More are no
/// loss: they end as one overrun.
const ROOM: usize = 16 << 20;

/// A subscription to the notifications of the kernel, from the moment it is opened.
pub struct Monitor {
    connection: Connection,
}

impl Monitor {
    /// Subscribes. To miss nothing, open it before the first observation.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub fn open() -> Result<Self, KernelError> {
        Ok(Self { connection: Connection::open(&GROUPS, ROOM)? })
    }

    /// Puts hints into `inbox` for ever. Cancel-safe: what was read is in the inbox.
    ///
    /// # Errors
    /// Ends only if the socket fails for good.
    pub async fn run(mut self, inbox: Inbox) -> Result<std::convert::Infallible, KernelError> {
        loop {
            let hints = self.next().await?;
            if !hints.is_empty() {
                inbox.push(hints);
            }
        }
    }

    /// Waits for notifications and says what they hint at; nothing, if they are not about our kinds of object.
    /// Cancel-safe.
    ///
    /// # Errors
    /// If the socket fails for good.
    pub async fn next(&mut self) -> Result<Vec<Hint>, KernelError> {
        match self.connection.receive().await {
            Ok(datagram) => Ok(notification::hints(datagram)),
            Err(error) if is_loss(&error) => {
                debug!(%error, "lost netlink notifications");
                Ok(vec![Hint::Overrun])
            }
            Err(cause) => Err(KernelError::Socket { action: "read notifications from", cause }),
        }
    }
}

/// Where hints wait for the one who judges them. Only the last of each object is kept, and beyond a number of
/// objects they become one overrun, so it is bounded and never makes the monitor wait.
#[derive(Clone, Debug)]
pub struct Inbox {
    waiting: watch::Sender<Hints>,
}

impl Inbox {
    /// An empty inbox. Clones are the same inbox.
    #[must_use]
    pub fn new() -> Self {
        Self { waiting: watch::Sender::new(Hints::default()) }
    }

    /// Puts hints in.
    pub fn push(&self, hints: impl IntoIterator<Item = Hint>) {
        self.waiting.send_modify(|waiting| hints.into_iter().for_each(|hint| waiting.push(hint)));
    }

    /// Waits until there is something. Cancel-safe.
    pub async fn filled(&self) {
        // The sender is ours, so the channel is open.
        let _ = self.waiting.subscribe().wait_for(|waiting| !waiting.is_empty()).await;
    }

    /// Takes everything out.
    #[must_use]
    pub fn take(&self) -> Hints {
        let mut taken = Hints::default();
        self.waiting.send_if_modified(|waiting| {
            taken = std::mem::take(waiting);
            false
        });
        taken
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
