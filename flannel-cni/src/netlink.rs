//! A blocking netlink socket. It belongs to the namespace in which it was opened, for ever.

use flannel_core::exchange::{Exchange, Fetch, FetchError, Numbers};
use flannel_core::message::{DecodeError, Get, Refusal};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::os::fd::AsFd as _;
use std::time::Instant;

use crate::error::errno_text;
use crate::fault;

/// Attempts to fetch objects that change meanwhile.
const FETCH_ATTEMPTS: u32 = 10;
/// Messages in sum beyond which the default send buffer of a socket can be too small.
const LARGE: usize = 100_000;
/// The kernel fills up to 32 KiB at a time (`NLMSG_GOODSIZE`).
const BUFFER_LEN: usize = 1 << 16;

/// A connection to the kernel.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    numbers: Numbers,
    buffer: Vec<u8>,
}

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetlinkError {
    // Not a source: its text is already in ours.
    #[error("netlink: {}", errno_text(.0))]
    Socket(#[from] io::Error),
    #[error("{}", refusal_text(.0))]
    Refused(Refusal),
    #[error("netlink")]
    Decode(#[from] DecodeError),
    #[error("{0} changed during each of {FETCH_ATTEMPTS} dumps")]
    Unsteady(String),
}

/// The error number in words, and the kernel's extended ACK.
pub(crate) fn refusal_text(refusal: &Refusal) -> String {
    let errno = errno_text(&io::Error::from_raw_os_error(refusal.errno));
    refusal.details().map_or_else(|| errno.clone(), |details| format!("{errno} ({details})"))
}

impl NetlinkError {
    /// The kernel refused the request with this error number.
    pub(crate) fn is(&self, errno: Errno) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.errno == errno as i32)
    }
}

impl Netlink {
    /// Opens a socket in the namespace of this thread.
    pub(crate) fn open(protocol: isize) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(protocol)?;
        let address = socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        if protocol == NETLINK_ROUTE {
            // Otherwise the kernel ignores filters of dumps.
            socket.set_netlink_get_strict_chk(true)?;
        }
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        let numbers = Numbers::new(address.port_number());
        Ok(Self { socket, numbers, buffer: Vec::with_capacity(BUFFER_LEN) })
    }

    /// Opens a socket that receives the notifications of a multicast group of rtnetlink.
    pub(crate) fn subscribe(group: u32) -> Result<Self, NetlinkError> {
        let netlink = Self::open(NETLINK_ROUTE)?;
        netlink.socket.add_membership(group)?;
        Ok(netlink)
    }

    /// Runs an exchange to its end.
    pub(crate) fn run<E: Exchange>(&mut self, exchange: &mut E) -> Result<E::Outcome, NetlinkError> {
        fault::step()?;
        let bytes = exchange.start(&mut self.numbers);
        if bytes.len() > LARGE {
            // Refused without privilege; then the send returns the error.
            let _ = setsockopt(&self.socket, sockopt::SndBufForce, &(2 * bytes.len()));
        }
        self.socket.send(&bytes, 0)?;
        loop {
            self.receive()?;
            if let Some(outcome) = exchange.take(&self.buffer)? {
                return Ok(outcome);
            }
        }
    }

    /// Fetches objects, again if they change meanwhile.
    pub(crate) fn fetch<T>(&mut self, get: &Get<T>) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..FETCH_ATTEMPTS {
            match self.run(&mut Fetch::new(get))? {
                Ok(fetched) => return Ok(fetched.all()?),
                Err(FetchError::Refused(refusal)) => return Err(NetlinkError::Refused(refusal)),
                Err(FetchError::Interrupted) => {}
            }
        }
        Err(NetlinkError::Unsteady(get.subject().to_owned()))
    }

    /// Waits for notifications; returns false at the deadline. It does not matter what they are, or whether some were
    /// lost: the caller reads the state again.
    pub(crate) fn wait(&mut self, deadline: Instant) -> Result<bool, NetlinkError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => break,
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
        match self.receive() {
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => Ok(true),
            other => Ok(other.map(|()| true)?),
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.reserve(BUFFER_LEN);
        loop {
            match self.socket.recv(&mut self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(drop),
            }
        }
    }
}
