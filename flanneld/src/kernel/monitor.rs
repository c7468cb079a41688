//! Notifications from the kernel, which trigger an observation. They are never taken as the state itself.

use flannel_core::hint::{Hint, Hints};
use flannel_core::message::notification;
use tokio::sync::watch;
use tracing::debug;

use super::conn::{Connection, is_loss};
use super::{KernelError, OwnPort};

/// Links, neighbours (FDB entries come with them), addresses and routes of both families:
/// `RTNLGRP_LINK`, `_NEIGH`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`.
const GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];
/// Nexthop objects, which not every kernel has: `RTNLGRP_NEXTHOP`.
const NEXTHOP_GROUP: u32 = 32;

/// Receive buffer for some ten thousand notifications while the reader is not scheduled. Further ones become one
/// overrun.
const CAPACITY: usize = 16 << 20;

/// A subscription to the notifications of the kernel.
pub struct Monitor {
    connection: Connection,
    own: OwnPort,
}

impl Monitor {
    /// Subscribes; what the socket `own` changes for peers gives no hints. Subscribe before the first observation, so that no change is
    /// missed.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub fn open(own: OwnPort) -> Result<Self, KernelError> {
        let mut connection = Connection::open(&GROUPS, CAPACITY)?;
        if let Err(error) = connection.join(NEXTHOP_GROUP) {
            debug!(%error, "no notifications of nexthop objects");
        }
        Ok(Self { connection, own })
    }

    /// Adds hints to `inbox` until the socket fails. Cancel-safe: every received hint is in the inbox.
    ///
    /// # Errors
    /// If the socket fails.
    pub async fn run(mut self, inbox: Inbox) -> Result<std::convert::Infallible, KernelError> {
        loop {
            let hints = self.next().await?;
            if !hints.is_empty() {
                inbox.push(hints);
            }
        }
    }

    /// Waits for notifications and returns their hints; none if they are about other kinds of object. Cancel-safe.
    ///
    /// # Errors
    /// If the socket fails.
    pub async fn next(&mut self) -> Result<Vec<Hint>, KernelError> {
        match self.connection.receive().await {
            Ok(datagram) => Ok(notification::hints(datagram, self.own.get())),
            Err(error) if is_loss(&error) => {
                debug!(%error, "netlink notifications lost");
                Ok(vec![Hint::Overrun])
            }
            Err(cause) => Err(KernelError::Socket { action: "read notifications from", cause }),
        }
    }
}

/// A queue of hints. It keeps only the last hint of each object and replaces too many of them by one overrun, so that it
/// is bounded and the monitor never waits. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Inbox {
    waiting: watch::Sender<Hints>,
}

impl Inbox {
    /// Adds hints.
    pub fn push(&self, hints: impl IntoIterator<Item = Hint>) {
        self.waiting.send_modify(|waiting| hints.into_iter().for_each(|hint| waiting.push(hint)));
    }

    /// Waits until the inbox is not empty. Cancel-safe.
    pub async fn filled(&self) {
        // The sender is ours, so the channel is open.
        let _ = self.waiting.subscribe().wait_for(|waiting| !waiting.is_empty()).await;
    }

    /// Removes and returns all hints.
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

#[cfg(test)]
mod tests;
