//! The kernel's links, addresses and routes without a process of `ip`, which costs milliseconds each.

use anyhow::{Context, Result, bail, ensure};
use flannel_core::link::{IfIndex, LinkName};
use flannel_core::message::{Reply, Request, frames, link};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::os::fd::{AsRawFd, OwnedFd};

/// Longer than the answer to anything that is asked here.
const ANSWER_LEN: usize = 1 << 14;

/// A route socket of the namespace in which it was opened.
#[derive(Debug)]
pub struct Rtnetlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Rtnetlink {
    /// A socket in the namespace of this thread.
    pub fn open() -> Result<Self> {
        let socket =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
                .context("could not open a route socket")?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Carries out changes in order, sent at once; the first error is that of all.
    pub fn change(&mut self, requests: &[Request]) -> Result<()> {
        let first = self.send(requests)?;
        let mut answered = 0;
        while answered < requests.len() {
            let mut buffer = [0; ANSWER_LEN];
            for frame in frames(self.receive(&mut buffer)?) {
                let frame = frame?;
                ensure!(frame.sequence.wrapping_sub(first) as usize == answered, "an answer out of order");
                match frame.reply()? {
                    Reply::Ack(_) => answered += 1,
                    Reply::Refused(refusal) => bail!(
                        "request {answered}: {} {}",
                        std::io::Error::from_raw_os_error(refusal.errno),
                        refusal.text
                    ),
                    other => bail!("not an answer to a change: {other:?}"),
                }
            }
        }
        Ok(())
    }

    /// The number of a link.
    pub fn index(&mut self, name: &LinkName) -> Result<IfIndex> {
        self.send(&[link::get(name)])?;
        let mut buffer = [0; ANSWER_LEN];
        for frame in frames(self.receive(&mut buffer)?) {
            if let Reply::Object(payload) = frame?.reply()? {
                return Ok(link::decode(payload)?.with_context(|| format!("{name} is no link"))?.index);
            }
        }
        bail!("there is no link {name}")
    }

    fn send(&mut self, requests: &[Request]) -> Result<u32> {
        let first = self.sequence + 1;
        let mut bytes = Vec::new();
        for request in requests {
            self.sequence += 1;
            request.write(self.sequence, &mut bytes);
        }
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty()).context("could not send to the kernel")?;
        Ok(first)
    }

    fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
        let length = recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty())
            .context("could not hear from the kernel")?;
        Ok(&buffer[..length])
    }
}
