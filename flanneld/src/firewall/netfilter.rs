//! The socket half of nf_tables: requests, dumps and transactions on `NETLINK_NETFILTER`.

use flannel_core::message::nftables::{Batch, Command, DecodeError, Message, Query};
use flannel_core::message::{self, Frame, Refusal, Reply};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use std::fmt;

use crate::kernel::KernelError;
use crate::kernel::conn::Connection;

/// Room for the answers to a transaction in which every command is refused, many times over.
const ROOM: usize = 1 << 20;

/// A dump that a change disturbed is read again, this often.
const DUMP_ATTEMPTS: usize = 10;

/// An open connection. After an error other than [`NetfilterError::Refused`] it must be replaced, because an answer
/// may be on its way still.
pub(super) struct Netfilter(Connection);

impl fmt::Debug for Netfilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Netfilter")
    }
}

/// Why the kernel did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetfilterError {
    /// There is no netlink for netfilter, or no answer.
    #[error("could not talk to nf_tables")]
    Socket(#[from] KernelError),
    /// The kernel refused.
    #[error("the kernel refused `{request}`: {}{}", describe(*errno, text), mend(*errno))]
    Refused {
        /// The request.
        request: String,
        /// The command of the transaction that it was refused for, by its place.
        command: Option<usize>,
        /// The error number.
        errno: Errno,
        /// What the kernel says about it.
        text: String,
    },
    /// Others change the rules faster than they can be read.
    #[error("the answer to `{request}` was disturbed by changes of others {DUMP_ATTEMPTS} times in a row")]
    Disturbed {
        /// The request.
        request: String,
    },
    /// An answer that makes no sense.
    #[error("could not read the kernel's answer to `{request}`")]
    Decode {
        /// The request.
        request: String,
        /// Why.
        #[source]
        source: DecodeError,
    },
    /// An answer that is cut off.
    #[error("could not read the kernel's answer to `{request}`")]
    Frame {
        /// The request.
        request: String,
        /// Why.
        #[source]
        source: message::DecodeError,
    },
}

fn describe(errno: Errno, text: &str) -> String {
    if text.is_empty() { errno.desc().to_owned() } else { format!("{} ({text})", errno.desc()) }
}

const fn mend(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM => "; give flanneld the capability CAP_NET_ADMIN",
        Errno::EOPNOTSUPP | Errno::ENOENT | Errno::EINVAL | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT => {
            "; the kernel may lack nf_tables, nft_chain_nat or nft_masq: run `modprobe -a nf_tables nft_chain_nat \
             nft_masq`, or set EnableNFTables to false in the network config"
        }
        _ => "",
    }
}

impl NetfilterError {
    /// The kernel has no nf_tables at all: there can be nothing of ours in it.
    pub(super) fn means_no_nftables(&self) -> bool {
        match self {
            Self::Socket(KernelError::Socket { cause, .. }) => {
                let errno = cause.raw_os_error().map(Errno::from_raw);
                matches!(errno, Some(Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT))
            }
            // nfnetlink_rcv_msg answers EINVAL for a subsystem that is not there.
            Self::Refused { command: None, errno, .. } => {
                matches!(errno, Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)
            }
            _ => false,
        }
    }
}

impl Netfilter {
    pub(super) fn open() -> Result<Self, NetfilterError> {
        Ok(Self(Connection::open_protocol(NETLINK_NETFILTER, &[], ROOM)?))
    }

    /// The answer to a query: all of a dump, or at most one message. What does not exist is no error.
    pub(super) async fn query(&mut self, query: &Query) -> Result<Vec<Message>, NetfilterError> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(messages) = self.query_once(query).await? {
                return Ok(messages);
            }
        }
        Err(NetfilterError::Disturbed { request: query.to_string() })
    }

    /// `None` if the content changed while it was read.
    async fn query_once(&mut self, query: &Query) -> Result<Option<Vec<Message>>, NetfilterError> {
        let request = || query.to_string();
        let sequence = self.0.next_sequence();
        self.0.send(&query.encode(sequence)).await?;
        let (mut messages, mut whole) = (Vec::new(), true);
        loop {
            for frame in message::frames(self.0.answer().await?) {
                let frame = frame.map_err(|source| NetfilterError::Frame { request: request(), source })?;
                if frame.sequence != sequence {
                    continue;
                }
                whole &= !frame.interrupted();
                match reply(&frame, &request)? {
                    Reply::Object(_) => {
                        let message = Message::decode(&frame);
                        messages.push(
                            message
                                .map_err(|source| NetfilterError::Decode { request: request(), source })?,
                        );
                        if !query.is_dump() {
                            return Ok(Some(messages));
                        }
                    }
                    Reply::Done => return Ok(whole.then_some(messages)),
                    Reply::Refused(refusal) => {
                        return match Errno::from_raw(refusal.errno) {
                            Errno::ENOENT => Ok(Some(Vec::new())),
                            Errno::EINTR | Errno::EAGAIN => Ok(None),
                            _ => Err(refused(request(), None, refusal)),
                        };
                    }
                    Reply::Ack(_) | Reply::Noop | Reply::Overrun => {}
                }
            }
        }
    }

    /// Carries out all commands or none.
    pub(super) async fn commit(&mut self, commands: &[Command]) -> Result<(), NetfilterError> {
        let request = || format!("transaction of {} commands", commands.len());
        let batch = Batch::new(commands, self.0.next_sequence(), true);
        // The batch has one number for each command, and one for its end.
        for _ in 0..=commands.len() {
            self.0.next_sequence();
        }
        self.0.send(&batch.bytes).await?;
        let mut first_refusal = None;
        loop {
            for frame in message::frames(self.0.answer().await?) {
                let frame = frame.map_err(|source| NetfilterError::Frame { request: request(), source })?;
                // Numbers before `begin` are late answers to something else.
                let place = frame.sequence.wrapping_sub(batch.begin);
                if place > batch.last.wrapping_sub(batch.begin) {
                    continue;
                }
                let of_whole = place == 0;
                match reply(&frame, &request)? {
                    Reply::Refused(refusal) => {
                        let command = usize::try_from(place).ok().and_then(|place| place.checked_sub(1));
                        let refused_command = command.and_then(|command| commands.get(command));
                        let what = refused_command.map_or_else(request, ToString::to_string);
                        first_refusal.get_or_insert(refused(what, command, refusal));
                    }
                    Reply::Ack(_) => {}
                    _ => continue,
                }
                // An error of the whole is sent first of all; the last command is answered in any other case.
                if of_whole || frame.sequence == batch.last {
                    return first_refusal.map_or(Ok(()), Err);
                }
            }
        }
    }
}

fn reply<'a>(frame: &Frame<'a>, request: &impl Fn() -> String) -> Result<Reply<'a>, NetfilterError> {
    frame.reply().map_err(|source| NetfilterError::Frame { request: request(), source })
}

fn refused(request: String, command: Option<usize>, refusal: Refusal) -> NetfilterError {
    let errno = Errno::from_raw(refusal.errno);
    NetfilterError::Refused { request, command, errno, text: refusal.text }
}
