//! The one place that opens netlink sockets, with all options set, and moves bytes through them.

use flannel_core::exchange::{Exchange, Fetch, FetchError, Fetched, Numbers};
use flannel_core::message::{Get, Refusal};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, Socket, SocketAddr, TokioSocket};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use std::future::poll_fn;
use std::io;
use std::time::Duration;
use tokio::time;
use tracing::debug;

use super::KernelError;

/// The kernel executes requests while it receives them, so that answers are available at once. What takes time is the
/// wait for its lock (`rtnl_mutex`), which others hold for seconds at most.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The kernel fills up to 32 KiB at a time (`NLMSG_GOODSIZE`), and single messages are smaller.
const BUFFER_LEN: usize = 64 * 1024;

/// Attempts to fetch objects that change meanwhile. On a host where pods start all the time, links change during a
/// dump now and then, not each time.
const FETCH_ATTEMPTS: u32 = 6;

/// Pause before the second attempt; it doubles.
const FETCH_PAUSE: Duration = Duration::from_millis(5);

/// A connection to the kernel, in the namespace of the thread that opened it.
pub(crate) struct Connection {
    socket: TokioSocket,
    /// Names this socket in the notifications about what it changes.
    pub(super) port: u32,
    numbers: Numbers,
    buffer: Vec<u8>,
}

impl Connection {
    /// Opens a connection to rtnetlink with a receive buffer of `capacity` bytes.
    pub(super) fn open(groups: &[u32], capacity: usize) -> Result<Self, KernelError> {
        Self::open_protocol(NETLINK_ROUTE, groups, capacity)
    }

    /// Opens a connection to another netlink family (`NETLINK_*`).
    pub(crate) fn open_protocol(
        protocol: isize,
        groups: &[u32],
        capacity: usize,
    ) -> Result<Self, KernelError> {
        let failed = |action| move |cause| KernelError::Socket { action, cause };
        let mut asynchronous = TokioSocket::new(protocol).map_err(failed("open"))?;
        let socket = asynchronous.socket_mut();
        let address = socket.bind_auto().map_err(failed("bind"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect"))?;
        set_options(socket);
        set_buffers(socket, capacity);
        for group in groups {
            socket.add_membership(*group).map_err(failed("join the groups of"))?;
        }
        let port = address.port_number();
        Ok(Self { socket: asynchronous, port, numbers: Numbers::new(port), buffer: vec![0; BUFFER_LEN] })
    }

    /// Subscribes to the notifications of a group that the kernel may not have.
    pub(super) fn join(&mut self, group: u32) -> io::Result<()> {
        self.socket.socket_mut().add_membership(group)
    }

    /// Runs an exchange to its end.
    pub(crate) async fn run<E: Exchange>(&mut self, exchange: &mut E) -> Result<E::Outcome, KernelError> {
        let bytes = exchange.start(&mut self.numbers);
        in_time("write to", poll_fn(|context| self.socket.poll_send(context, &bytes))).await?;
        loop {
            let datagram = in_time("read from", self.receive()).await?;
            let outcome = exchange.take(datagram);
            let unreadable = |cause| KernelError::Unreadable { what: exchange.subject(), cause };
            if let Some(outcome) = outcome.map_err(unreadable)? {
                return Ok(outcome);
            }
        }
    }

    /// Fetches objects, again if they change meanwhile.
    pub(crate) async fn fetch<T>(&mut self, get: &Get<T>) -> Result<Result<Vec<T>, Refusal>, KernelError> {
        let fetched = self.fetch_decodable(get).await?;
        let unreadable = |cause| KernelError::Unreadable { what: get.subject().to_owned(), cause };
        match fetched {
            Ok(fetched) => fetched.all().map(Ok).map_err(unreadable),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// Fetches the objects that can be decoded.
    pub(super) async fn fetch_decodable<T>(
        &mut self,
        get: &Get<T>,
    ) -> Result<Result<Fetched<T>, Refusal>, KernelError> {
        let mut pause = FETCH_PAUSE;
        for attempt in 1..=FETCH_ATTEMPTS {
            match self.run(&mut Fetch::new(get)).await? {
                Ok(fetched) => return Ok(Ok(fetched)),
                Err(FetchError::Refused(refusal)) => return Ok(Err(refusal)),
                Err(FetchError::Interrupted) => {}
            }
            debug!(what = get.subject(), attempt, "kernel objects changed during the dump");
            if attempt < FETCH_ATTEMPTS {
                time::sleep(pause).await;
                pause *= 2;
            }
        }
        Err(KernelError::Unsteady { what: get.subject().to_owned(), attempts: FETCH_ATTEMPTS })
    }

    /// Waits for a datagram, for as long as it takes. Cancel-safe.
    pub(crate) async fn receive(&mut self) -> io::Result<&[u8]> {
        let Self { socket, buffer, .. } = self;
        loop {
            let capacity = buffer.len();
            let (length, sender) = poll_fn(|context| {
                let mut space = buffer.as_mut_slice();
                let read = socket.poll_recv_from(context, &mut space);
                read.map_ok(|sender| (capacity - space.len(), sender))
            })
            .await?;
            // Other processes can write to this socket, too.
            if sender.port_number() != 0 {
                continue;
            }
            // A full buffer means that the rest of the message is lost.
            if length == capacity {
                buffer.resize(2 * capacity, 0);
                return Err(io::Error::new(
                    io::ErrorKind::Interrupted,
                    "the message exceeds the receive buffer",
                ));
            }
            return Ok(&buffer[..length]);
        }
    }
}

/// Waits for a step of an exchange, which takes a limited time.
pub(super) async fn in_time<T>(
    action: &'static str,
    step: impl Future<Output = io::Result<T>>,
) -> Result<T, KernelError> {
    let result = time::timeout(ANSWER_LIMIT, step).await;
    result
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|cause| KernelError::Socket { action, cause })
}

/// Returns true if an error of [`Connection::receive`] means that notifications were lost: the receive buffer was full,
/// or a message was longer than ours. The socket remains usable.
pub(crate) fn is_loss(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted || error.raw_os_error() == Some(Errno::ENOBUFS as i32)
}

/// Sets the options of every socket. Old kernels lack them, ignore the filters of a dump and give less detail about
/// errors; answers are filtered again when they are decoded.
pub(super) fn set_options(socket: &Socket) {
    for (option, result) in [
        ("NETLINK_GET_STRICT_CHK", socket.set_netlink_get_strict_chk(true)),
        ("NETLINK_EXT_ACK", socket.set_ext_ack(true)),
        ("NETLINK_CAP_ACK", socket.set_cap_ack(true)),
    ] {
        if let Err(error) = result {
            debug!(option, %error, "netlink socket option is not available");
        }
    }
}

/// `SO_*BUFFORCE` exceeds the limits of the host but needs CAP_NET_ADMIN in the initial user namespace.
fn set_buffers(socket: &Socket, capacity: usize) {
    if setsockopt(socket, sockopt::RcvBufForce, &capacity).is_err()
        && let Err(error) = setsockopt(socket, sockopt::RcvBuf, &capacity)
    {
        debug!(capacity, %error, "netlink receive buffer keeps its size");
    }
    if setsockopt(socket, sockopt::SndBufForce, &capacity).is_err()
        && let Err(error) = setsockopt(socket, sockopt::SndBuf, &capacity)
    {
        debug!(capacity, %error, "netlink send buffer keeps its size");
    }
}

#[cfg(test)]
mod tests;
