//! Exchanges with the kernel over netlink, without sockets: the bytes to send, and the outcome from the datagrams
//! that come back.
//!
//! A socket half, asynchronous or blocking, sends what [`Exchange::start`] returns, then passes each datagram to
//! [`Exchange::take`] until there is an outcome. An error of `take` or of the socket leaves the exchange unfinished;
//! late answers have other sequence numbers and are ignored by the next one.

use crate::message::nftables::Command;
use crate::message::{self, DecodeError, Frame, Get, Refusal, Reply, Request};

/// Requests that are sent at once, until all of them are answered.
pub trait Exchange {
    /// What the kernel answered.
    type Outcome;

    /// What the exchange is about, for errors.
    fn subject(&self) -> String;

    /// Begins the exchange, anew if it was begun before, and returns the bytes to send.
    fn start(&mut self, numbers: &mut Numbers) -> Vec<u8>;

    /// Takes a datagram; returns the outcome once it is complete.
    ///
    /// # Errors
    /// If the datagram cannot be decoded.
    fn take(&mut self, datagram: &[u8]) -> Result<Option<Self::Outcome>, DecodeError>;
}

/// The sequence numbers of a socket.
#[derive(Debug)]
pub struct Numbers {
    port: u32,
    last: u32,
}

impl Numbers {
    /// The numbers of the socket that is bound to `port`.
    #[must_use]
    pub const fn new(port: u32) -> Self {
        Self { port, last: 0 }
    }

    /// Reserves consecutive numbers for `count` messages. 0 is never one: notifications have it.
    fn reserve(&mut self, count: usize) -> Window {
        let count = u32::try_from(count).expect("a datagram has far fewer messages");
        // The number behind the last one exists, too.
        if count >= u32::MAX - self.last {
            self.last = 0;
        }
        let first = self.last + 1;
        self.last += count;
        Window { port: self.port, first, count }
    }
}

/// The sequence numbers of one exchange.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    port: u32,
    first: u32,
    count: u32,
}

impl Window {
    /// Returns the answers in a datagram, each with the place of its request in the exchange. Messages of other
    /// exchanges and other sockets are left out.
    fn answers<'a>(
        self,
        datagram: &'a [u8],
    ) -> impl Iterator<Item = Result<(usize, Frame<'a>), DecodeError>> + use<'a> {
        let placed = move |frame: Frame<'a>| (frame.sequence.wrapping_sub(self.first) as usize, frame);
        message::frames(datagram).map(move |frame| frame.map(placed)).filter(move |answer| match answer {
            Ok((place, frame)) => frame.port == self.port && *place < self.count as usize,
            Err(_) => true,
        })
    }
}

/// Fetches objects: one, or a dump.
///
/// A dump counts only if it ends with DONE, without an error, and nothing changed meanwhile; anything else would show
/// objects as missing that exist.
#[derive(Debug)]
pub struct Fetch<'a, T> {
    get: &'a Get<T>,
    window: Window,
    fetched: Fetched<T>,
    interrupted: bool,
}

/// The objects of a complete answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched<T> {
    /// The objects in the kernel's order. A request for one object has at most one.
    pub objects: Vec<T>,
    /// Why the first of the objects that could not be decoded is missing.
    pub undecoded: Option<DecodeError>,
}

/// Why there are no objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchError {
    /// The state changed during the answer: ask again.
    Interrupted,
    /// The kernel refused the request.
    Refused(Refusal),
}

impl<'a, T> Fetch<'a, T> {
    /// Fetches what `get` asks for.
    #[must_use]
    pub fn new(get: &'a Get<T>) -> Self {
        Self { get, window: Window::default(), fetched: Fetched::default(), interrupted: false }
    }

    fn complete(&mut self) -> Result<Fetched<T>, FetchError> {
        let fetched = std::mem::take(&mut self.fetched);
        if self.interrupted { Err(FetchError::Interrupted) } else { Ok(fetched) }
    }
}

impl<T> Default for Fetched<T> {
    fn default() -> Self {
        Self { objects: Vec::new(), undecoded: None }
    }
}

impl<T> Fetched<T> {
    /// Returns the objects if all of them were decoded.
    ///
    /// # Errors
    /// If one of them could not be decoded.
    pub fn all(self) -> Result<Vec<T>, DecodeError> {
        self.undecoded.map_or(Ok(self.objects), Err)
    }
}

impl<T> Exchange for Fetch<'_, T> {
    type Outcome = Result<Fetched<T>, FetchError>;

    fn subject(&self) -> String {
        self.get.subject().to_owned()
    }

    fn start(&mut self, numbers: &mut Numbers) -> Vec<u8> {
        *self = Self { window: numbers.reserve(1), ..Self::new(self.get) };
        self.get.request.to_bytes(self.window.first)
    }

    fn take(&mut self, datagram: &[u8]) -> Result<Option<Self::Outcome>, DecodeError> {
        let dump = self.get.dump;
        for answer in self.window.answers(datagram) {
            let (_, frame) = answer?;
            self.interrupted |= frame.interrupted();
            match frame.reply()? {
                Reply::Object(_) => {
                    match (self.get.decode)(&frame) {
                        Ok(object) => self.fetched.objects.extend(object),
                        Err(error) => drop(self.fetched.undecoded.get_or_insert(error)),
                    }
                    if !dump {
                        return Ok(Some(self.complete()));
                    }
                }
                Reply::Done => return Ok(Some(self.complete())),
                Reply::Ack(_) if !dump => return Ok(Some(self.complete())),
                Reply::Refused(refusal) if dump && refusal.means_absent() => {
                    return Ok(Some(self.complete()));
                }
                Reply::Refused(refusal) if refusal.means_interrupted() => {
                    return Ok(Some(Err(FetchError::Interrupted)));
                }
                Reply::Refused(refusal) => return Ok(Some(Err(FetchError::Refused(refusal)))),
                Reply::Overrun => self.interrupted = true,
                Reply::Ack(_) | Reply::Noop => {}
            }
        }
        Ok(None)
    }
}

/// Changes that are sent at once. The kernel applies them in order; a failed one does not stop those after it.
#[derive(Debug)]
pub struct Changes<'a> {
    requests: &'a [Request],
    window: Window,
    results: Vec<Option<ChangeResult>>,
    missing: usize,
}

/// The result of a change: the kernel's warning, if there is one, or its error.
pub type ChangeResult = Result<Option<String>, Refusal>;

impl<'a> Changes<'a> {
    /// Changes that ask for an ACK each. There must be at least one: the kernel does not answer an empty datagram.
    #[must_use]
    pub fn new(requests: &'a [Request]) -> Self {
        Self { requests, window: Window::default(), results: Vec::new(), missing: 0 }
    }
}

impl Exchange for Changes<'_> {
    /// One result for each request, in order.
    type Outcome = Vec<ChangeResult>;

    fn subject(&self) -> String {
        String::from("a change")
    }

    fn start(&mut self, numbers: &mut Numbers) -> Vec<u8> {
        self.missing = self.requests.len();
        self.window = numbers.reserve(self.missing);
        self.results = vec![None; self.missing];
        let mut bytes = Vec::new();
        for (sequence, request) in (self.window.first..).zip(self.requests) {
            request.write(sequence, &mut bytes);
        }
        bytes
    }

    fn take(&mut self, datagram: &[u8]) -> Result<Option<Self::Outcome>, DecodeError> {
        for answer in self.window.answers(datagram) {
            let (place, frame) = answer?;
            let result = match frame.reply()? {
                Reply::Ack(warning) => Ok(warning),
                Reply::Refused(refusal) => Err(refusal),
                Reply::Object(_) | Reply::Done | Reply::Noop | Reply::Overrun => continue,
            };
            if self.results[place].replace(result).is_none() {
                self.missing -= 1;
            }
        }
        let complete = self.missing == 0;
        Ok(complete.then(|| std::mem::take(&mut self.results).into_iter().flatten().collect()))
    }
}

/// A transaction of nf_tables: the kernel applies all commands or none.
#[derive(Debug)]
pub struct Transaction<'a> {
    commands: &'a [Command],
    window: Window,
    rejected: Option<Rejected>,
}

/// Why the kernel applied no command of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The place of the command that failed; `None` if the transaction failed as a whole.
    pub command: Option<usize>,
    /// The command, or the transaction.
    pub request: String,
    /// The error.
    pub refusal: Refusal,
}

impl<'a> Transaction<'a> {
    /// A transaction of `commands`, of which there must be at least one.
    #[must_use]
    pub fn new(commands: &'a [Command]) -> Self {
        Self { commands, window: Window::default(), rejected: None }
    }
}

impl Exchange for Transaction<'_> {
    type Outcome = Result<(), Rejected>;

    fn subject(&self) -> String {
        format!("transaction of {} commands", self.commands.len())
    }

    fn start(&mut self, numbers: &mut Numbers) -> Vec<u8> {
        self.rejected = None;
        // One number for the begin of the batch, for each command, and for the end.
        self.window = numbers.reserve(self.commands.len() + 2);
        Command::batch(self.commands, self.window.first)
    }

    fn take(&mut self, datagram: &[u8]) -> Result<Option<Self::Outcome>, DecodeError> {
        for answer in self.window.answers(datagram) {
            let (place, frame) = answer?;
            let command = place.checked_sub(1).filter(|command| *command < self.commands.len());
            match frame.reply()? {
                Reply::Refused(refusal) if self.rejected.is_none() => {
                    let request =
                        command.map_or_else(|| self.subject(), |command| self.commands[command].to_string());
                    self.rejected = Some(Rejected { command, request, refusal });
                }
                Reply::Refused(_) | Reply::Ack(_) => {}
                Reply::Object(_) | Reply::Done | Reply::Noop | Reply::Overrun => continue,
            }
            // An error of the whole comes before all others. In any other case the last command is answered: it is
            // the only one that asks for an ACK.
            if place == 0 || place == self.commands.len() {
                return Ok(Some(self.rejected.take().map_or(Ok(()), Err)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
