//! The one place that opens netlink sockets, with all options set.

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, Socket, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};
use std::future::poll_fn;
use std::io;
use std::time::Duration;
use tokio::time;
use tracing::debug;

use super::KernelError;

/// The kernel carries requests out while it takes them, so that answers are there at once; what takes
/// time is the wait for its lock (`rtnl_mutex`), which others hold for seconds at most.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The kernel fills up to 32 KiB at a time (`NLMSG_GOODSIZE`), and single messages are smaller.
const BUFFER_LEN: usize = 64 * 1024;

/// A connection to the kernel, in the namespace of the thread that opened it.
pub(crate) struct Connection {
    socket: TokioSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Connection {
    /// Opens a connection to the rtnetlink part with room for `room` bytes of messages that were not read yet.
    pub(super) fn open(groups: &[u32], room: usize) -> Result<Self, KernelError> {
        Self::open_protocol(NETLINK_ROUTE, groups, room)
    }

    /// The same to another part (`NETLINK_*`).
    pub(crate) fn open_protocol(protocol: isize, groups: &[u32], room: usize) -> Result<Self, KernelError> {
        let failed = |action| move |cause| KernelError::Socket { action, cause };
        let mut asynchronous = TokioSocket::new(protocol).map_err(failed("open"))?;
        let socket = asynchronous.socket_mut();
        socket.bind_auto().map_err(failed("bind"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect"))?;
        // Without them an old kernel ignores the filters of a dump and says less about errors; what it sends
        // is filtered again when it is read.
        for (option, result) in [
            ("NETLINK_GET_STRICT_CHK", socket.set_netlink_get_strict_chk(true)),
            ("NETLINK_EXT_ACK", socket.set_ext_ack(true)),
            ("NETLINK_CAP_ACK", socket.set_cap_ack(true)),
        ] {
            if let Err(error) = result {
                debug!(option, %error, "netlink socket option is not available");
            }
        }
        set_buffers(socket, room);
        for group in groups {
            socket.add_membership(*group).map_err(failed("join the groups of"))?;
        }
        Ok(Self { socket: asynchronous, sequence: 0, buffer: vec![0; BUFFER_LEN] })
    }

    /// The number for the next request. Never 0, which notifications have.
    pub(crate) const fn next_sequence(&mut self) -> u32 {
        self.sequence = match self.sequence.checked_add(1) {
            Some(next) => next,
            None => 1,
        };
        self.sequence
    }

    /// Sends messages to the kernel.
    pub(crate) async fn send(&self, bytes: &[u8]) -> Result<(), KernelError> {
        let send = poll_fn(|context| self.socket.poll_send(context, bytes));
        match time::timeout(ANSWER_LIMIT, send).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(cause)) => Err(KernelError::Socket { action: "write to", cause }),
            Err(_) => Err(KernelError::Socket { action: "write to", cause: io::ErrorKind::TimedOut.into() }),
        }
    }

    /// Waits for what answers a request.
    pub(crate) async fn answer(&mut self) -> Result<&[u8], KernelError> {
        match time::timeout(ANSWER_LIMIT, self.receive()).await {
            Ok(Ok(length)) => Ok(&self.buffer[..length]),
            Ok(Err(cause)) => Err(KernelError::Socket { action: "read from", cause }),
            Err(_) => Err(KernelError::Socket { action: "read from", cause: io::ErrorKind::TimedOut.into() }),
        }
    }

    /// Waits for a notification, however long. Cancel-safe.
    pub(crate) async fn notification(&mut self) -> io::Result<&[u8]> {
        let length = self.receive().await?;
        Ok(&self.buffer[..length])
    }

    /// Reads what the kernel sent at one time.
    async fn receive(&mut self) -> io::Result<usize> {
        let Self { socket, buffer, .. } = self;
        loop {
            let room = buffer.len();
            let (length, sender) = poll_fn(|context| {
                let mut space = buffer.as_mut_slice();
                let read = socket.poll_recv_from(context, &mut space);
                read.map_ok(|sender| (room - space.len(), sender))
            })
            .await?;
            // Other processes can write to this socket as well.
            if sender.port_number() != 0 {
                continue;
            }
            // Full to the last byte: there was more, and it is lost.
            if length == room {
                buffer.resize(2 * room, 0);
                return Err(io::Error::new(
                    io::ErrorKind::Interrupted,
                    "a message was longer than the buffer",
                ));
            }
            return Ok(length);
        }
    }
}

/// `SO_*BUFFORCE` goes beyond the limits of the host but needs CAP_NET_ADMIN in the initial user namespace.
fn set_buffers(socket: &Socket, room: usize) {
    if setsockopt(socket, sockopt::RcvBufForce, &room).is_err()
        && let Err(error) = setsockopt(socket, sockopt::RcvBuf, &room)
    {
        debug!(room, %error, "netlink receive buffer keeps its size");
    }
    if setsockopt(socket, sockopt::SndBufForce, &room).is_err()
        && let Err(error) = setsockopt(socket, sockopt::SndBuf, &room)
    {
        debug!(room, %error, "netlink send buffer keeps its size");
    }
}

#[cfg(test)]
mod tests;
