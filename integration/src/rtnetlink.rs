//! The kernel's links, addresses and routes without a process of `ip`, which costs milliseconds each.

use anyhow::{Context, Result, bail};
use flannel_core::exchange::{Changes, Exchange, Fetch, FetchError, Numbers};
use flannel_core::link::{IfIndex, LinkName};
use flannel_core::message::{Request, link};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recv, send,
    socket,
};
use std::os::fd::{AsRawFd, OwnedFd};

/// Longer than the answer to any of these requests.
const ANSWER_LEN: usize = 1 << 14;

/// A route socket of the namespace in which it was opened.
#[derive(Debug)]
pub struct Rtnetlink {
    socket: OwnedFd,
    numbers: Numbers,
}

impl Rtnetlink {
    /// Opens a socket in the namespace of this thread.
    pub fn open() -> Result<Self> {
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
                .context("could not open a route socket")?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).context("could not bind a route socket")?;
        let address: NetlinkAddr = getsockname(socket.as_raw_fd()).context("could not read a port")?;
        Ok(Self { socket, numbers: Numbers::new(address.pid()) })
    }

    /// Makes changes in order, sent at once; returns the first error.
    pub fn change(&mut self, requests: &[Request]) -> Result<()> {
        for (place, result) in self.run(&mut Changes::new(requests))?.into_iter().enumerate() {
            if let Err(refusal) = result {
                let error = std::io::Error::from_raw_os_error(refusal.errno);
                bail!("request {place}: {error} {}", refusal.text);
            }
        }
        Ok(())
    }

    /// Returns the index of a link.
    pub fn index(&mut self, name: &LinkName) -> Result<IfIndex> {
        match self.run(&mut Fetch::new(&link::get(name)))? {
            Ok(fetched) => Ok(fetched.all()?.pop().with_context(|| format!("{name} is no link"))?.index),
            Err(FetchError::Refused(refusal)) => bail!("no link {name}: error {}", refusal.errno),
            Err(FetchError::Interrupted) => bail!("link {name} changed during the answer"),
        }
    }

    fn run<E: Exchange>(&mut self, exchange: &mut E) -> Result<E::Outcome> {
        let bytes = exchange.start(&mut self.numbers);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty()).context("could not send to the kernel")?;
        let mut buffer = [0; ANSWER_LEN];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())
                .context("could not receive from the kernel")?;
            if let Some(outcome) = exchange.take(&buffer[..length])? {
                return Ok(outcome);
            }
        }
    }
}
