//! The socket half of netfilter's netlink: queries and transactions of nf_tables, and connection tracking. A socket
//! belongs to the namespace in which it was opened.

use flannel_core::family::Family;
use flannel_core::message::conntrack::{self, Entry};
use flannel_core::message::nftables::{self, Batch, Command, Message, Query, Rule, TableFamily};
use flannel_core::message::{self, Frame, Refusal, Reply, frames};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use crate::fault;

/// A dump that a change disturbed is read again, this often.
const DUMP_ATTEMPTS: u32 = 10;
/// A batch that is larger than a socket takes by default.
const LARGE: usize = 100_000;

/// A connection to netfilter.
pub(crate) struct Netfilter {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Why netfilter did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetfilterError {
    #[error("could not talk to netfilter: {}", crate::error::errno_text(.0))]
    Socket(#[from] io::Error),
    #[error("the kernel refused `{request}`: {}", describe(.refusal))]
    Refused { request: String, refusal: Refusal },
    #[error("the answer to `{0}` was disturbed by changes of others {DUMP_ATTEMPTS} times in a row")]
    Disturbed(String),
    #[error("could not read an answer of netfilter")]
    Frame(#[from] message::DecodeError),
    #[error("could not read an answer of netfilter")]
    Decode(#[from] nftables::DecodeError),
}

fn describe(refusal: &Refusal) -> String {
    let errno = crate::error::errno_text(&io::Error::from_raw_os_error(refusal.errno));
    let text = if refusal.text.is_empty() { String::new() } else { format!(" ({})", refusal.text) };
    let mend = match Errno::from_raw(refusal.errno) {
        Errno::EPERM => "; the plugin needs the capability CAP_NET_ADMIN",
        Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT => {
            "; the kernel may lack a module: run `modprobe -a nf_tables nft_chain_nat nft_masq nft_nat nft_fib_inet \
             nft_ct`"
        }
        _ => "",
    };
    format!("{errno}{text}{mend}")
}

impl NetfilterError {
    /// The kernel has no nf_tables, so that there can be no rules in it.
    pub(crate) fn means_absent(&self) -> bool {
        let errno = match self {
            Self::Socket(error) => error.raw_os_error().unwrap_or_default(),
            Self::Refused { refusal, .. } => refusal.errno,
            _ => return false,
        };
        // A subsystem that is not there is answered with EINVAL.
        matches!(
            Errno::from_raw(errno),
            Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP | Errno::EINVAL
        )
    }

    /// Something that the request names has gone or come meanwhile.
    pub(crate) fn means_outdated(&self) -> bool {
        matches!(self, Self::Refused { refusal, .. }
            if matches!(Errno::from_raw(refusal.errno), Errno::ENOENT | Errno::EBUSY | Errno::EEXIST))
    }
}

impl Netfilter {
    /// A socket in the namespace of this thread.
    pub(crate) fn open() -> Result<Self, NetfilterError> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(1 << 16) })
    }

    /// The answer to a query: all of a dump, or at most one message. What does not exist is no error.
    pub(crate) fn query(&mut self, query: &Query) -> Result<Vec<Message>, NetfilterError> {
        for _ in 0..DUMP_ATTEMPTS {
            self.sequence += 1;
            let answer =
                self.ask(&query.encode(self.sequence), query.is_dump(), &|| query.to_string(), |frame| {
                    Ok(Some(Message::decode(frame)?))
                })?;
            if let Some(messages) = answer {
                return Ok(messages);
            }
        }
        Err(NetfilterError::Disturbed(query.to_string()))
    }

    /// A chain is there.
    pub(crate) fn has_chain(
        &mut self,
        family: TableFamily,
        table: &str,
        chain: &str,
    ) -> Result<bool, NetfilterError> {
        Ok(!self.query(&Query::Chain(family, table.to_owned(), chain.to_owned()))?.is_empty())
    }

    /// The rules of a chain; none if it is not there.
    pub(crate) fn rules(
        &mut self,
        family: TableFamily,
        table: &str,
        chain: &str,
    ) -> Result<Vec<Rule>, NetfilterError> {
        let query = Query::ChainRules(family, table.to_owned(), chain.to_owned());
        let messages = self.query(&query)?.into_iter();
        Ok(messages
            .filter_map(|message| match message {
                // Kernels that know no filter by chain tell the rules of all.
                Message::Rule(rule) if rule.table == table && rule.chain == chain => Some(rule),
                _ => None,
            })
            .collect())
    }

    /// Carries out all commands or none.
    pub(crate) fn commit(&mut self, commands: &[Command]) -> Result<(), NetfilterError> {
        if commands.is_empty() {
            return Ok(());
        }
        let request = || format!("transaction of {} commands", commands.len());
        let batch = Batch::new(commands, self.sequence + 1, true);
        self.sequence = batch.last + 1;
        if batch.bytes.len() > LARGE {
            // Refused without privilege; then the send says so.
            let _ = setsockopt(&self.socket, sockopt::SndBufForce, &(2 * batch.bytes.len()));
        }
        fault::step()?;
        self.socket.send(&batch.bytes, 0)?;
        let mut first_refusal = None;
        loop {
            self.receive()?;
            for frame in frames(&self.buffer) {
                let frame = frame?;
                let place = frame.sequence.wrapping_sub(batch.begin);
                if place > batch.last.wrapping_sub(batch.begin) {
                    continue;
                }
                match frame.reply()? {
                    Reply::Refused(refusal) => {
                        let command = usize::try_from(place).ok().and_then(|place| place.checked_sub(1));
                        let command = command.and_then(|command| commands.get(command));
                        let request = command.map_or_else(request, ToString::to_string);
                        first_refusal.get_or_insert(NetfilterError::Refused { request, refusal });
                    }
                    Reply::Ack(_) => {}
                    _ => continue,
                }
                // An error of the whole is sent first of all; the last command is answered in any other case.
                if place == 0 || frame.sequence == batch.last {
                    return first_refusal.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Lets connections over UDP to ports of this host begin anew: they would go where the first packet went, for as long
    /// as packets come. With an address, only connections to it.
    pub(crate) fn forget_udp(
        &mut self,
        family: Family,
        ports: &BTreeSet<(u16, Option<IpAddr>)>,
    ) -> Result<(), NetfilterError> {
        let one = match ports.iter().map(|(port, _)| *port).collect::<BTreeSet<_>>() {
            numbers if numbers.len() == 1 => numbers.first().copied(),
            _ => None,
        };
        let request = || format!("list UDP connections of {family}");
        self.sequence += 1;
        let entries = self.ask(&conntrack::dump(family, one, self.sequence), true, &request, |frame| {
            Ok(conntrack::decode(frame)?)
        })?;
        let is_meant = |entry: &Entry| {
            let mut ports = ports.iter();
            ports.any(|(port, ip)| *port == entry.port && ip.is_none_or(|ip| ip == entry.destination))
        };
        for entry in entries.unwrap_or_default().iter().filter(|entry| is_meant(entry)) {
            self.sequence += 1;
            let request = || format!("forget the UDP connection to {}:{}", entry.destination, entry.port);
            self.ask(&conntrack::delete(entry, self.sequence), false, &request, |_| Ok(None::<()>))?;
        }
        Ok(())
    }

    /// Sends one request and reads its answer; `None` if it changed while it was read.
    fn ask<T>(
        &mut self,
        request: &[u8],
        dump: bool,
        text: &dyn Fn() -> String,
        decode: impl Fn(&Frame<'_>) -> Result<Option<T>, NetfilterError>,
    ) -> Result<Option<Vec<T>>, NetfilterError> {
        fault::step()?;
        self.socket.send(request, 0)?;
        let (mut answer, mut whole) = (Vec::new(), true);
        loop {
            self.receive()?;
            for frame in frames(&self.buffer) {
                let frame = frame?;
                if frame.sequence != self.sequence {
                    continue;
                }
                whole &= !frame.interrupted();
                match frame.reply()? {
                    Reply::Object(_) => {
                        answer.extend(decode(&frame)?);
                        if !dump {
                            return Ok(Some(answer));
                        }
                    }
                    Reply::Done => return Ok(whole.then_some(answer)),
                    Reply::Ack(_) if !dump => return Ok(Some(answer)),
                    Reply::Refused(refusal) => {
                        return match Errno::from_raw(refusal.errno) {
                            Errno::ENOENT => Ok(Some(Vec::new())),
                            Errno::EINTR | Errno::EAGAIN => Ok(None),
                            _ => Err(NetfilterError::Refused { request: text(), refusal }),
                        };
                    }
                    Reply::Ack(_) | Reply::Noop | Reply::Overrun => {}
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.reserve(1 << 16);
        loop {
            match self.socket.recv(&mut self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(drop),
            }
        }
    }
}
