//! A router that sends advertisements (RFC 4861 section 4.2), as routers of real networks do, with lifetimes short enough for a test.

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::netns::Netns;
use crate::rtnetlink::Rtnetlink;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const INTERVAL: Duration = Duration::from_millis(200);

/// What a router advertises.
#[derive(Clone, Copy, Debug)]
pub struct Advertisement {
    /// A network of 64 bits from which hosts form addresses.
    pub prefix: Ipv6Addr,
    /// Lifetime of the prefix.
    pub prefix_secs: u32,
    /// Lifetime of the default route.
    pub router_secs: u16,
}

impl Advertisement {
    fn message(&self) -> Vec<u8> {
        // Type, code, checksum (set by the kernel), hop limit, flags.
        let mut message = vec![134, 0, 0, 0, 64, 0];
        message.extend(self.router_secs.to_be_bytes());
        // Reachable time and retransmission timer: unspecified.
        message.extend([0; 8]);
        // Prefix information of 4 × 8 bytes: 64 bits, on the link, for autonomous configuration.
        message.extend([3, 4, 64, 0xc0]);
        message.extend(self.prefix_secs.to_be_bytes());
        message.extend(self.prefix_secs.to_be_bytes());
        message.extend([0; 4]);
        message.extend(self.prefix.octets());
        message
    }
}

/// A router that advertises until it is stopped.
pub struct Router {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<()>,
}

impl Router {
    /// Starts to advertise several times a second on an interface of a namespace.
    pub fn start(netns: &Netns, link: &str, advertisement: Advertisement) -> Result<Self> {
        let (socket, index) = netns.enter(|| {
            let socket =
                socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6)
                    .context("could not open a raw socket")?;
            // Hosts ignore advertisements with fewer hops, because a router might have forwarded them.
            setsockopt(&socket, sockopt::Ipv6MulticastHops, &255).context("could not set the hop limit")?;
            Ok((UdpSocket::from(socket), Rtnetlink::open()?.index(&link.parse()?)?))
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let stop_there = Arc::clone(&stop);
        let (to, message) = (SocketAddrV6::new(ALL_NODES, 0, 0, index.0), advertisement.message());
        let sender = thread::spawn(move || {
            while !stop_there.load(Ordering::Relaxed) {
                // Fails until the interface has a link-local address; what arrives is what a test looks at.
                let _ = socket.send_to(&message, to);
                thread::sleep(INTERVAL);
            }
        });
        Ok(Self { stop, sender })
    }

    /// Sends no more.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Err(panic) = self.sender.join() {
            std::panic::resume_unwind(panic);
        }
    }
}
