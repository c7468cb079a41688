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
    AddressFamily, RecvFlags, SendFlags, SocketAddrV4, SocketAddrV6, SocketFlags, SocketType, connect,
    ipproto, recv, send, socket_with,
};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
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
    ip_header(family) + 8
}

const fn ip_header(family: Family) -> u32 {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// Requests to one host.
#[derive(Debug)]
pub(crate) struct Echo {
    socket: AsyncFd<OwnedFd>,
    family: Family,
    kind: Kind,
    identifier: u16,
    sequence: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Raw,
    /// The kernel chooses the identifier and filters replies by it.
    Ping,
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
    /// Opens a socket. `identifier` must differ from those of concurrent requests of this process.
    pub(crate) fn open(to: IpAddr, identifier: u16) -> Result<Self, EchoError> {
        let failed = |errno: Errno| EchoError::Socket { to, source: errno.into() };
        let (socket, kind) = match socket_of(to, SocketType::RAW) {
            Ok(socket) => (socket, Kind::Raw),
            Err(Errno::PERM | Errno::ACCESS) => match socket_of(to, SocketType::DGRAM) {
                Ok(socket) => (socket, Kind::Ping),
                Err(Errno::PERM | Errno::ACCESS) => return Err(EchoError::NotPermitted),
                Err(errno) => return Err(failed(errno)),
            },
            Err(errno) => return Err(failed(errno)),
        };
        match to {
            IpAddr::V4(to) => {
                set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE).map_err(failed)?;
                connect(&socket, &SocketAddrV4::new(to, 0)).map_err(failed)?;
            }
            IpAddr::V6(to) => {
                set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE).map_err(failed)?;
                connect(&socket, &SocketAddrV6::new(to, 0, 0, 0)).map_err(failed)?;
            }
        }
        let socket = registered(socket).map_err(|source| EchoError::Socket { to, source })?;
        Ok(Self { socket, family: Family::of(to), kind, identifier, sequence: 0 })
    }

    /// Sends a request in a packet of this size, including the IP header, and waits for the reply.
    pub(crate) async fn exchange(&mut self, packet_bytes: u32, limit: Duration) -> io::Result<Answer> {
        self.sequence = self.sequence.wrapping_add(1);
        let payload = packet_bytes.saturating_sub(headers(self.family)) as usize;
        let request = request(self.family, self.identifier, self.sequence, payload);
        let started = Instant::now();
        let deadline = tokio::time::Instant::now() + limit;
        let mut tries = 0;
        loop {
            match send(self.socket.get_ref(), &request, SendFlags::empty()) {
                Ok(_) => break,
                Err(Errno::MSGSIZE) => return Ok(Answer::TooLarge),
                // An error of an earlier packet.
                Err(Errno::HOSTUNREACH | Errno::CONNREFUSED | Errno::NETUNREACH) if tries == 0 => tries += 1,
                Err(Errno::NOBUFS | Errno::AGAIN) if tries < 3 => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(
                    errno @ (Errno::HOSTUNREACH | Errno::CONNREFUSED | Errno::NETUNREACH | Errno::NETDOWN),
                ) => {
                    return Ok(Answer::Lost(Some(text(errno))));
                }
                // Rejected by the local packet filter.
                Err(errno @ (Errno::PERM | Errno::ACCESS | Errno::INVAL)) => {
                    return Ok(Answer::Lost(Some(text(errno))));
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        match timeout_at(deadline, self.answer(packet_bytes)).await {
            Err(_) => Ok(Answer::Lost(None)),
            Ok(Ok(())) => Ok(Answer::After(started.elapsed())),
            Ok(Err(errno)) if errno == Errno::MSGSIZE => Ok(Answer::TooLarge),
            Ok(Err(errno)) => Ok(Answer::Lost(Some(text(errno)))),
        }
    }

    /// Waits for the reply to the last request.
    async fn answer(&self, packet_bytes: u32) -> Result<(), Errno> {
        let mut buffer = vec![0; packet_bytes as usize + 256];
        loop {
            let mut ready = self.socket.readable().await.map_err(|_| Errno::IO)?;
            match recv(self.socket.get_ref(), &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => {
                    if self.is_answer(&buffer[..length]) {
                        return Ok(());
                    }
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    fn is_answer(&self, packet: &[u8]) -> bool {
        // Only raw IPv4 sockets return the IP header.
        let skipped = match (self.kind, self.family, packet.first()) {
            (Kind::Raw, Family::V4, Some(first)) => usize::from(first & 0xf) * 4,
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
            && (self.kind == Kind::Ping || identifier == self.identifier.to_be_bytes())
    }

    /// The largest packet with a reply, up to `most`; `None` without any reply. Sends up to `tries` packets per size.
    pub(crate) async fn largest(
        &mut self,
        most: u32,
        tries: u32,
        limit: Duration,
    ) -> io::Result<Option<u32>> {
        let least = least(self.family).min(most);
        if self.passes(most, tries, limit).await?.is_some() {
            return Ok(Some(most));
        }
        let Some(round_trip) = self.passes(least, tries, limit).await? else { return Ok(None) };
        // The round-trip time is known now.
        let limit = (round_trip * 20).clamp(SHORTEST.min(limit), limit);
        let (mut passing, mut failing) = (least, most);
        while failing - passing > 1 {
            let middle = passing + (failing - passing) / 2;
            if self.passes(middle, tries, limit).await?.is_some() {
                passing = middle;
            } else {
                failing = middle;
            }
        }
        Ok(Some(passing))
    }

    /// Round-trip time of the first reply to several packets of a size.
    async fn passes(
        &mut self,
        packet_bytes: u32,
        tries: u32,
        limit: Duration,
    ) -> io::Result<Option<Duration>> {
        for _ in 0..tries.max(1) {
            match self.exchange(packet_bytes, limit).await? {
                Answer::After(round_trip) => return Ok(Some(round_trip)),
                Answer::TooLarge => return Ok(None),
                Answer::Lost(_) => {}
            }
        }
        Ok(None)
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

fn text(errno: Errno) -> String {
    let text = io::Error::from(errno).to_string();
    let words = text.split(" (os error").next().unwrap_or_default();
    words[..1].to_lowercase() + &words[1..]
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

/// The checksum of the Internet (RFC 1071).
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
