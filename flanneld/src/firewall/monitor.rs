//! Notifications from nf_tables, which trigger a check of the rules.

use flannel_core::message;
use flannel_core::message::nftables::{MULTICAST_GROUP, Message};
use flannel_core::ruleset::Mode;
use netlink_sys::protocols::NETLINK_NETFILTER;
use std::io;

use crate::kernel::KernelError;
use crate::kernel::conn::{Connection, is_loss};

/// Receive buffer for some ten thousand changes, as many as kube-proxy makes at once on a large cluster. Further ones
/// become one hint.
const CAPACITY: usize = 16 << 20;

/// A change that may affect our rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hint {
    /// The generation after the change; `None` if notifications were lost.
    pub(super) generation: Option<u32>,
}

/// A subscription to all changes of nf_tables.
pub(super) struct Monitor {
    connection: Connection,
    /// The transaction whose notifications arrive affects our rules.
    concerned: bool,
}

impl Monitor {
    pub(super) fn open() -> Result<Self, KernelError> {
        let connection = Connection::open_protocol(NETLINK_NETFILTER, &[MULTICAST_GROUP], CAPACITY)?;
        Ok(Self { connection, concerned: false })
    }

    /// Waits for a change that affects `mode`. An error ends the subscription. Cancel-safe.
    pub(super) async fn next(&mut self, mode: Mode) -> io::Result<Hint> {
        let Self { connection, concerned } = self;
        loop {
            match connection.receive().await {
                Ok(datagram) => {
                    if let Some(hint) = read(mode, datagram, concerned) {
                        return Ok(hint);
                    }
                }
                Err(error) if is_loss(&error) => {
                    *concerned = false;
                    return Ok(Hint { generation: None });
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Decodes a datagram. A transaction ends with its generation, possibly in a later datagram; `concerned` carries over.
fn read(mode: Mode, datagram: &[u8], concerned: &mut bool) -> Option<Hint> {
    let mut hint = None;
    for frame in message::frames(datagram) {
        match frame.ok().and_then(|frame| Message::decode(&frame).ok()) {
            Some(Message::Generation(generation)) => {
                if std::mem::take(concerned) {
                    hint = Some(Hint { generation: Some(generation) });
                }
            }
            Some(message) => *concerned |= mode.concerns(&message),
            None => *concerned = true,
        }
    }
    hint
}
