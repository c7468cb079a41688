//! Notifications of nf_tables as hints to look again.

use flannel_core::message;
use flannel_core::message::nftables::{MULTICAST_GROUP, Message};
use flannel_core::ruleset::Mode;
use netlink_sys::protocols::NETLINK_NETFILTER;
use std::io;

use crate::kernel::KernelError;
use crate::kernel::conn::{Connection, is_loss};

/// Room for some ten thousand changes, as many as kube-proxy makes in one go on a large cluster. More are no loss:
/// they end as one hint.
const CAPACITY: usize = 16 << 20;

/// Something that may concern our rules has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hint {
    /// The generation that the change made; `None` if notifications were lost.
    pub(super) generation: Option<u32>,
}

/// A subscription to all changes of nf_tables.
pub(super) struct Monitor {
    connection: Connection,
    /// The transaction whose notifications are coming in has something that concerns us.
    concerned: bool,
}

impl Monitor {
    pub(super) fn open() -> Result<Self, KernelError> {
        let connection = Connection::open_protocol(NETLINK_NETFILTER, &[MULTICAST_GROUP], CAPACITY)?;
        Ok(Self { connection, concerned: false })
    }

    /// Waits for a change that concerns `mode`; an error ends the subscription. Cancel-safe.
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

/// A transaction ends with its generation, perhaps in a later datagram: `concerned` is what is known of it so far.
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
