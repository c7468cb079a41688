//! The kernel's own news of links, addresses, routes, neighbours and forwarding entries, with the time of each.

use anyhow::{Context, Result, ensure};
use flannel_core::hint::{Hint, Object};
use flannel_core::link::IfIndex;
use flannel_core::message::neighbour::NeighbourRecord;
use flannel_core::message::notification;
use flannel_core::message::route::BLACKHOLE;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crate::netns::Netns;
use crate::wait;

/// Links, neighbours (with forwarding entries), addresses and routes of IPv4 and IPv6: `RTNLGRP_*` as bits.
const GROUPS: u32 = 1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 8 | 1 << 10;

/// Room for what comes while the reader does not get to run: some fifty thousand messages.
const ROOM: usize = 64 << 20;

/// A running reader of the kernel's news.
pub struct Monitor {
    events: Receiver<(Duration, Vec<u8>)>,
    /// News of a message that had several, and names of interfaces, also of those that are gone.
    decoded: RefCell<Decoder>,
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    overruns: AtomicUsize,
}

#[derive(Default)]
struct Decoder {
    waiting: std::collections::VecDeque<News>,
    names: BTreeMap<IfIndex, String>,
}

/// One change, worded like `ip monitor`.
#[derive(Clone, Debug)]
pub struct News {
    /// When it was read, as time since midnight UTC.
    pub at: Duration,
    /// What: `Deleted 10.42.2.0/24 via 10.42.2.0 dev flannel.1 …`; a forwarding entry looks like a neighbour
    /// with the outer address: `192.168.50.2 dev flannel.1 lladdr 0a:… PERMANENT`.
    pub text: String,
}

/// Time since midnight UTC.
#[must_use]
pub fn time_of_day() -> Duration {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::new(since.as_secs() % 86_400, since.subsec_nanos())
}

impl Monitor {
    /// Listens from now on.
    pub fn start(netns: &Netns) -> Result<Self> {
        Self::with_room(netns, ROOM)
    }

    /// With room for so many bytes of messages that were not read yet.
    pub fn with_room(netns: &Netns, room: usize) -> Result<Self> {
        let socket = netns.enter(|| open(room))?;
        let mut decoder = Decoder::default();
        let links: Value =
            serde_json::from_str(&netns.ip("-j link show")?).context("ip did not answer JSON")?;
        for link in links.as_array().into_iter().flatten() {
            let (index, name) = (link["ifindex"].as_u64(), link["ifname"].as_str());
            let (index, name) = index.zip(name).context("a link without number and name")?;
            decoder.names.insert(IfIndex(u32::try_from(index)?), name.to_owned());
        }
        let shared = Arc::<Shared>::default();
        let (send, events) = mpsc::channel();
        let of_reader = Arc::clone(&shared);
        let reader = thread::spawn(move || read(&socket, &of_reader, &send));
        Ok(Self { events, decoded: RefCell::new(decoder), shared, reader })
    }

    /// How often there was no room, so that news were lost.
    pub fn overruns(&self) -> usize {
        self.shared.overruns.load(Ordering::Relaxed)
    }

    /// The next change.
    pub fn next(&self, limit: Duration) -> Result<News> {
        let end = Instant::now() + limit;
        loop {
            if let Some(news) = self.decoded.borrow_mut().waiting.pop_front() {
                return Ok(news);
            }
            let rest = end.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(rest);
            let (at, bytes) = event
                .with_context(|| format!("no change came; {} overruns of the monitor", self.overruns()))?;
            self.decoded.borrow_mut().take(at, &bytes);
        }
    }

    /// The next change that fits.
    pub fn find(&self, fits: impl Fn(&str) -> bool) -> Result<News> {
        loop {
            let news = self.next(wait::LONG)?;
            if fits(&news.text) {
                return Ok(news);
            }
        }
    }

    /// Changes that have come in.
    pub fn so_far(&self) -> Vec<News> {
        let mut decoder = self.decoded.borrow_mut();
        for (at, bytes) in self.events.try_iter() {
            decoder.take(at, &bytes);
        }
        decoder.waiting.drain(..).collect()
    }

    /// Ends it.
    pub fn stop(self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        ensure!(self.reader.join().is_ok(), "the reader of a monitor has panicked");
        Ok(())
    }
}

fn open(room: usize) -> Result<OwnedFd> {
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
            .context("could not open a route socket")?;
    setsockopt(&socket, sockopt::RcvBufForce, &room).context("could not make room for news")?;
    // How long it may take until an end is noticed.
    let limit = TimeVal::milliseconds(50);
    setsockopt(&socket, sockopt::ReceiveTimeout, &limit).context("could not set a time limit")?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS)).context("could not listen for news")?;
    Ok(socket)
}

/// Does nothing but take things in, so that it keeps up.
fn read(socket: &OwnedFd, shared: &Shared, send: &Sender<(Duration, Vec<u8>)>) {
    let mut buffer = vec![0; 1 << 16];
    while !shared.stop.load(Ordering::Relaxed) {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => {
                if send.send((time_of_day(), buffer[..length].to_vec())).is_err() {
                    return;
                }
            }
            Err(Errno::ENOBUFS) => drop(shared.overruns.fetch_add(1, Ordering::Relaxed)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

impl Decoder {
    fn take(&mut self, at: Duration, bytes: &[u8]) {
        for hint in notification::hints(bytes, None) {
            if let Hint::Set(Object::Link(link)) = &hint {
                self.names.insert(link.index, link.name.to_string());
            }
            if let Some(text) = self.text(&hint) {
                self.waiting.push_back(News { at, text });
            }
        }
    }

    fn text(&self, hint: &Hint) -> Option<String> {
        let (object, deleted) = match hint {
            Hint::Set(object) => (object, ""),
            Hint::Removed(object) => (object, "Deleted "),
            Hint::Overrun => return None,
        };
        let on = |index: IfIndex| match self.names.get(&index) {
            Some(name) => format!("dev {name}"),
            None => format!("dev if{}", index.0),
        };
        let entry = |address: String, index, mac: String, permanent: bool| {
            let state = if permanent { "PERMANENT" } else { "REACHABLE" };
            format!("{deleted}{address} {} lladdr {mac} {state}", on(index))
        };
        Some(match object {
            Object::Route(route) => {
                let hop = route.hops.first().copied().unwrap_or_default();
                let mut text = deleted.to_owned();
                if route.kind == BLACKHOLE {
                    text += "blackhole ";
                }
                text += &route.destination.to_string();
                text += &hop.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
                text += &hop.index.map(|index| format!(" {}", on(index))).unwrap_or_default();
                text += &format!(" proto {}", route.protocol);
                text
            }
            Object::Neighbour(NeighbourRecord { index, address, neighbour }) => {
                let mac = neighbour.mac.map(|mac| mac.to_string()).unwrap_or_default();
                entry(address.to_string(), *index, mac, neighbour.permanent)
            }
            Object::Fdb(fdb) => {
                let to = fdb.destination.map(|address| address.to_string()).unwrap_or_default();
                entry(to, fdb.index, fdb.mac.to_string(), fdb.permanent)
            }
            Object::Address(address) => {
                format!("{deleted}address {} {}", address.facts.net, on(address.index))
            }
            Object::Link(link) => format!("{deleted}link {}", on(link.index)),
            Object::Nexthop(_) => return None,
        })
    }
}
