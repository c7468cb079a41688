//! ICMP echo requests to one host: latency, and the largest packet that passes without fragmentation.
//!
//! Uses a raw socket with CAP_NET_RAW, otherwise the kernel's ping socket, if `net.ipv4.ping_group_range` includes the
//! group of the process. Packets are never fragmented, and the path MTU in the cache of the kernel is ignored
//! (`IP_PMTUDISC_PROBE`), so that every size is sent.

use flannel_core::family::Family;
use rustix::io::Errno;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, ipproto, recv, send, socket_with,
};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout_at;

/// The smallest packet size that every link supports (RFC 791, RFC 8200).
const fn least(family: Family) -> u32 {
    match family {
        Family::V4 => 576,
        Family::V6 => 1280,
    }
}

/// Size of the IP and ICMP headers.
const fn headers(family: Family) -> u32 {
    match family {
        Family::V4 => 28,
        Family::V6 => 48,
    }
}

/// Requests to one host.
#[derive(Debug)]
pub(crate) struct Echo {
    socket: AsyncFd<OwnedFd>,
    family: Family,
    /// Of a ping socket, the kernel chooses the identifier, and filters replies by it.
    is_raw: bool,
    identifier: u16,
    sequence: u16,
}

/// Result of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Reply after this time.
    After(Duration),
    /// A link of the path rejected the size.
    TooLarge,
    /// No reply in time, or an error.
    Lost(Option<String>),
}

/// Requests are not possible.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EchoError {
    /// Missing permissions.
    #[error(
        "no permission to send ICMP echo requests: run flannelctl as root (or with CAP_NET_RAW), or allow ping sockets with \
         `sysctl -w net.ipv4.ping_group_range='0 2147483647'`"
    )]
    NotPermitted,
    /// No route, or another error.
    #[error("could not open a socket for echo requests to {to}")]
    Socket {
        /// The host.
        to: IpAddr,
        /// Why.
        source: io::Error,
    },
}

impl Echo {
    /// Opens a socket. `number` must differ from those of concurrent requests of this process.
    pub(crate) fn open(to: IpAddr, number: u16) -> Result<Self, EchoError> {
        let failed = |errno: Errno| EchoError::Socket { to, source: errno.into() };
        let raw = socket_of(to, SocketType::RAW);
        let is_raw = !matches!(raw, Err(Errno::PERM | Errno::ACCESS));
        let opened = if is_raw { raw } else { socket_of(to, SocketType::DGRAM) };
        let socket = opened.map_err(|errno| match errno {
            Errno::PERM | Errno::ACCESS => EchoError::NotPermitted,
            errno => failed(errno),
        })?;
        let unfragmented = match to {
            IpAddr::V4(_) => set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE),
            IpAddr::V6(_) => set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE),
        };
        unfragmented.and_then(|()| connect(&socket, &SocketAddr::new(to, 0))).map_err(failed)?;
        let socket = registered(socket).map_err(|source| EchoError::Socket { to, source })?;
        let identifier = (std::process::id() as u16).wrapping_add(number);
        Ok(Self { socket, family: Family::of(to), is_raw, identifier, sequence: 0 })
    }

    /// Sends a request in a packet of this size, including the IP header, and waits for the reply.
    pub(crate) async fn exchange(&mut self, packet_bytes: u32, limit: Duration) -> Answer {
        self.sequence = self.sequence.wrapping_add(1);
        let payload = packet_bytes.saturating_sub(headers(self.family)) as usize;
        let request = request(self.family, self.identifier, self.sequence, payload);
        let started = Instant::now();
        let deadline = tokio::time::Instant::now() + limit;
        for tries in 0.. {
            match send(self.socket.get_ref(), &request, SendFlags::empty()) {
                Ok(_) => break,
                // An error of an earlier packet.
                Err(Errno::HOSTUNREACH | Errno::CONNREFUSED | Errno::NETUNREACH) if tries == 0 => {}
                Err(Errno::NOBUFS | Errno::AGAIN) if tries < 3 => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(errno) => return Answer::failed(&errno.into()),
            }
        }
        match timeout_at(deadline, self.reply(packet_bytes)).await {
            Err(_) => Answer::Lost(None),
            Ok(Ok(())) => Answer::After(started.elapsed()),
            Ok(Err(error)) => Answer::failed(&error),
        }
    }

    /// Waits for the reply to the last request.
    async fn reply(&self, packet_bytes: u32) -> io::Result<()> {
        let mut buffer = vec![0; packet_bytes as usize + 256];
        loop {
            let receive = |socket: &OwnedFd| Ok(recv(socket, &mut buffer[..], RecvFlags::empty())?.0);
            let length = self.socket.async_io(Interest::READABLE, receive).await?;
            if self.is_reply(&buffer[..length]) {
                return Ok(());
            }
        }
    }

    fn is_reply(&self, packet: &[u8]) -> bool {
        // Only raw IPv4 sockets return the IP header.
        let skipped = match (self.is_raw, self.family, packet.first()) {
            (true, Family::V4, Some(first)) => usize::from(first & 0xf) * 4,
            _ => 0,
        };
        let Some([kind, code, _, _, identifier @ .., s0, s1]) = packet.get(skipped..skipped + 8) else {
            return false;
        };
        let expected = match self.family {
            Family::V4 => 0,
            Family::V6 => 129,
        };
        (*kind, *code) == (expected, 0)
            && [*s0, *s1] == self.sequence.to_be_bytes()
            && (!self.is_raw || identifier == self.identifier.to_be_bytes())
    }

    /// The largest packet with a reply, up to `most`; `None` without any reply. Sends up to `tries` packets per size.
    pub(crate) async fn largest(&mut self, most: u32, tries: u32, limit: Duration) -> Option<u32> {
        let least = least(self.family).min(most);
        if self.passes(most, tries, limit).await.is_some() {
            return Some(most);
        }
        let round_trip = self.passes(least, tries, limit).await?;
        // The round-trip time is known now.
        let limit = (round_trip * 20).clamp(SHORTEST.min(limit), limit);
        let (mut passing, mut failing) = (least, most);
        while failing - passing > 1 {
            let middle = passing + (failing - passing) / 2;
            if self.passes(middle, tries, limit).await.is_some() {
                passing = middle;
            } else {
                failing = middle;
            }
        }
        Some(passing)
    }

    /// Round-trip time of the first reply to several packets of a size.
    async fn passes(&mut self, packet_bytes: u32, tries: u32, limit: Duration) -> Option<Duration> {
        for _ in 0..tries.max(1) {
            match self.exchange(packet_bytes, limit).await {
                Answer::After(round_trip) => return Some(round_trip),
                Answer::TooLarge => return None,
                Answer::Lost(_) => {}
            }
        }
        None
    }
}

impl Answer {
    fn failed(error: &io::Error) -> Self {
        if Errno::from_io_error(error) == Some(Errno::MSGSIZE) {
            return Self::TooLarge;
        }
        let text = error.to_string();
        let words = text.split(" (os error").next().unwrap_or_default();
        Self::Lost(Some(words[..1].to_lowercase() + &words[1..]))
    }
}

/// Minimum timeout, because hosts may be busy.
const SHORTEST: Duration = Duration::from_millis(100);

#[expect(
    deprecated,
    reason = "its successor is unsafe to call, for types whose descriptor changes; this one is owned and fixed"
)]
fn registered(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(socket)
}

fn socket_of(to: IpAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, Some(protocol))
}

/// The message of an echo request (RFC 792, RFC 4443). The kernel fills in the checksum of IPv6.
fn request(family: Family, identifier: u16, sequence: u16, payload: usize) -> Vec<u8> {
    let kind = match family {
        Family::V4 => 8,
        Family::V6 => 128,
    };
    let mut message = vec![kind, 0, 0, 0];
    message.extend(identifier.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.extend((0..payload).map(|at| u8::try_from(at & 0xff).unwrap_or(0)));
    if family == Family::V4 {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests;
