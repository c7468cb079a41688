//! The kernel's links, addresses and routes over one blocking netlink socket. A socket belongs to the namespace in
//! which it was opened, for ever.

use flannel_core::family::Family;
use flannel_core::link::{IfIndex, LinkName};
use flannel_core::message::address::{self, AddressRecord};
use flannel_core::message::bridge::{self, Membership};
use flannel_core::message::link::{self, LinkRecord};
use flannel_core::message::route::{self, RouteRecord};
use flannel_core::message::traffic::{self, DisciplineRecord};
use flannel_core::message::{DecodeError, Frame, NEW_LINK, Refusal, Reply, Request, frames};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::fault;

/// Multicast group of link messages (`RTNLGRP_LINK`).
const LINK_GROUP: u32 = 1;
/// Multicast group of IPv6 addresses (`RTNLGRP_IPV6_IFADDR`).
const IPV6_ADDRESS_GROUP: u32 = 9;
/// `IFF_PROMISC`, as somebody has set it: sniffers do not show here.
const PROMISCUOUS: u32 = 0x100;
/// `IFF_RUNNING`: the operational state is up.
const RUNNING: u32 = 0x40;
/// Dumps that changed while they were read are read again, this often.
const DUMP_ATTEMPTS: u32 = 5;

/// A connection to the kernel.
pub(crate) struct Kernel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KernelError {
    // Not a source: its text is already in ours.
    #[error("netlink: {}", crate::error::errno_text(.0))]
    Socket(io::Error),
    #[error("{}", refusal_text(.0))]
    Refused(Refusal),
    #[error("netlink")]
    Decode(#[from] DecodeError),
    #[error("netlink: the kernel had messages for which there was no room")]
    Overrun,
}

impl From<io::Error> for KernelError {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

fn refusal_text(refusal: &Refusal) -> String {
    let errno = crate::error::errno_text(&io::Error::from_raw_os_error(refusal.errno));
    if refusal.text.is_empty() { errno } else { format!("{errno} ({})", refusal.text) }
}

impl KernelError {
    pub(crate) fn is(&self, errno: Errno) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.errno == errno as i32)
    }
}

impl Kernel {
    /// A socket in the namespace of this thread.
    pub(crate) fn open() -> Result<Self, KernelError> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Without strict checking, filters of dumps are ignored.
        socket.set_netlink_get_strict_chk(true)?;
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(1 << 16) })
    }

    /// Carries out changes in order, sent at once. Answers with the result of each; a failed one does not stop the others.
    pub(crate) fn change(
        &mut self,
        requests: &[Request],
    ) -> Result<Vec<Result<(), KernelError>>, KernelError> {
        let mut results = Vec::new();
        // The kernel takes an empty message for an error.
        if requests.is_empty() {
            return Ok(results);
        }
        let first = self.send(requests)?;
        while results.len() < requests.len() {
            self.receive()?;
            for frame in frames(&self.buffer) {
                let frame = frame?;
                if frame.sequence.wrapping_sub(first) as usize != results.len() {
                    continue;
                }
                match frame.reply()? {
                    Reply::Ack(_) => results.push(Ok(())),
                    Reply::Refused(refusal) => results.push(Err(KernelError::Refused(refusal))),
                    Reply::Overrun => return Err(KernelError::Overrun),
                    _ => {}
                }
            }
        }
        fault::answer()?;
        Ok(results)
    }

    /// Carries out one change.
    pub(crate) fn change_one(&mut self, request: &Request) -> Result<(), KernelError> {
        // As many results as requests.
        self.change(std::slice::from_ref(request))?.pop().unwrap_or(Ok(()))
    }

    /// The link of a name, with its operational state.
    pub(crate) fn link(&mut self, name: &LinkName) -> Result<Option<Found>, KernelError> {
        match self.get(&link::get(name), found) {
            Err(error) if error.is(Errno::ENODEV) => Ok(None),
            other => other,
        }
    }

    /// The answer to a request for one object.
    fn get<T>(
        &mut self,
        request: &Request,
        decode: impl Fn(&[u8]) -> Result<Option<T>, KernelError>,
    ) -> Result<Option<T>, KernelError> {
        let first = self.send(std::slice::from_ref(request))?;
        self.receive()?;
        for frame in frames(&self.buffer) {
            let frame = frame?;
            if frame.sequence != first {
                continue;
            }
            return match frame.reply()? {
                Reply::Object(payload) => decode(payload),
                Reply::Refused(refusal) => Err(KernelError::Refused(refusal)),
                _ => continue,
            };
        }
        Ok(None)
    }

    /// The link that packets to an address leave by; none if there is no route.
    pub(crate) fn route_to(&mut self, destination: IpAddr) -> Result<Option<IfIndex>, KernelError> {
        let answer = self.get(&route::get(destination), |payload| Ok(route::decode(payload)?));
        match answer {
            Err(error) if error.is(Errno::ENETUNREACH) || error.is(Errno::EHOSTUNREACH) => Ok(None),
            other => Ok(other?.and_then(|route| route.hops.first()?.index)),
        }
    }

    /// The name of a link.
    pub(crate) fn link_name(&mut self, index: IfIndex) -> Result<Option<LinkName>, KernelError> {
        match self.get(&link::get_by_index(index), found) {
            Err(error) if error.is(Errno::ENODEV) => Ok(None),
            other => Ok(other?.map(|found| found.record.name)),
        }
    }

    /// All links.
    pub(crate) fn links(&mut self) -> Result<Vec<LinkRecord>, KernelError> {
        self.dump(&link::dump(), |payload| Ok(link::decode(payload)?))
    }

    /// The addresses of a link, of some families in this order.
    pub(crate) fn addresses(
        &mut self,
        index: IfIndex,
        families: &[Family],
    ) -> Result<Vec<AddressRecord>, KernelError> {
        let mut all = Vec::new();
        for family in families {
            let request = address::dump_link(*family, index);
            match self.dump(&request, |payload| Ok(address::decode(payload)?)) {
                // It went away.
                Err(error) if error.is(Errno::ENODEV) => {}
                addresses => all.extend(addresses?),
            }
        }
        Ok(all)
    }

    /// The routes of the main table.
    pub(crate) fn routes(&mut self) -> Result<Vec<RouteRecord>, KernelError> {
        let mut all = Vec::new();
        for family in Family::ALL {
            let request = route::dump(family, route::MAIN_TABLE);
            match self.dump(&request, |payload| Ok(route::decode(payload)?)) {
                // A namespace that has never had a route has no table.
                Err(error) if error.is(Errno::ENOENT) => {}
                routes => all.extend(routes?),
            }
        }
        Ok(all)
    }

    /// The VLANs of a bridge port.
    pub(crate) fn vlans(&mut self, port: IfIndex) -> Result<Vec<(u16, Membership)>, KernelError> {
        let ports = self.dump(&bridge::dump_vlans(), |payload| Ok(bridge::decode_vlans(payload)?))?;
        Ok(ports.into_iter().filter(|one| one.port == port).flat_map(|one| one.vlans).collect())
    }

    /// The queueing disciplines of a link.
    pub(crate) fn disciplines(&mut self, index: IfIndex) -> Result<Vec<DisciplineRecord>, KernelError> {
        let mut all =
            self.dump(&traffic::dump_disciplines(), |payload| Ok(traffic::decode_discipline(payload)?))?;
        all.retain(|record| record.index == index);
        Ok(all)
    }

    /// The links that what a link receives is redirected to.
    pub(crate) fn redirects(&mut self, index: IfIndex) -> Result<Vec<IfIndex>, KernelError> {
        match self.dump(&traffic::dump_filters(index), |payload| Ok(traffic::decode_redirect(payload)?)) {
            // There is nothing that could have filters.
            Err(error) if error.is(Errno::EINVAL) || error.is(Errno::ENOENT) => Ok(Vec::new()),
            other => other,
        }
    }

    /// Waits until duplicate detection of IPv6 addresses is over; answers with the addresses of the link as they are then, or
    /// at the deadline.
    pub(crate) fn wait_usable(
        &mut self,
        index: IfIndex,
        limit: Duration,
    ) -> Result<Vec<AddressRecord>, KernelError> {
        // Listening starts before the first look, so that no change is missed.
        let mut events = Self::open()?;
        events.socket.add_membership(IPV6_ADDRESS_GROUP)?;
        let deadline = Instant::now() + limit;
        loop {
            let addresses = self.addresses(index, &Family::ALL)?;
            let pending = addresses.iter().any(|address| address.unusable && !address.duplicate);
            if !pending || !events.wait(deadline)? {
                return Ok(addresses);
            }
            match events.receive() {
                // Events were lost: what counts is the next look.
                Err(KernelError::Socket(error)) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                other => other?,
            }
        }
    }

    /// Waits until the operational state of a link is up; answers false when the deadline comes first.
    pub(crate) fn wait_running(&mut self, name: &LinkName, limit: Duration) -> Result<bool, KernelError> {
        if self.link(name)?.is_some_and(|found| found.running) {
            return Ok(true);
        }
        // Listening starts before the second look, so that no change is missed.
        let mut events = Self::open()?;
        events.socket.add_membership(LINK_GROUP)?;
        let deadline = Instant::now() + limit;
        if self.link(name)?.is_some_and(|found| found.running) {
            return Ok(true);
        }
        while events.wait(deadline)? {
            match events.receive() {
                Ok(()) => {}
                // Events were lost: look again.
                Err(KernelError::Socket(error)) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    if self.link(name)?.is_some_and(|found| found.running) {
                        return Ok(true);
                    }
                }
                Err(error) => return Err(error),
            }
            for frame in frames(&events.buffer) {
                let frame = frame?;
                if frame.kind == NEW_LINK
                    && found(frame.payload)?.is_some_and(|found| found.record.name == *name && found.running)
                {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Something can be read, before the deadline.
    fn wait(&self, deadline: Instant) -> Result<bool, KernelError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(errno) => return Err(KernelError::Socket(errno.into())),
            }
        }
    }

    /// A whole dump. One that changed while it was read may miss objects and is read again.
    fn dump<T>(
        &mut self,
        request: &Request,
        decode: impl Fn(&[u8]) -> Result<Option<T>, KernelError>,
    ) -> Result<Vec<T>, KernelError> {
        let mut attempt = 1;
        loop {
            let first = self.send(std::slice::from_ref(request))?;
            let (mut objects, mut interrupted, mut done) = (Vec::new(), false, false);
            while !done {
                self.receive()?;
                for frame in frames(&self.buffer) {
                    let frame: Frame<'_> = frame?;
                    if frame.sequence != first {
                        continue;
                    }
                    interrupted |= frame.interrupted();
                    match frame.reply()? {
                        Reply::Object(payload) => objects.extend(decode(payload)?),
                        Reply::Done => done = true,
                        Reply::Refused(refusal) => return Err(KernelError::Refused(refusal)),
                        Reply::Overrun => return Err(KernelError::Overrun),
                        Reply::Ack(_) | Reply::Noop => {}
                    }
                }
            }
            if !interrupted || attempt == DUMP_ATTEMPTS {
                return Ok(objects);
            }
            attempt += 1;
        }
    }

    /// Sends requests in one call; answers with the number of the first one.
    fn send(&mut self, requests: &[Request]) -> Result<u32, KernelError> {
        fault::step()?;
        let first = self.sequence + 1;
        self.buffer.clear();
        for request in requests {
            self.sequence += 1;
            request.write(self.sequence, &mut self.buffer);
        }
        self.socket.send(&self.buffer, 0)?;
        Ok(first)
    }

    fn receive(&mut self) -> Result<(), KernelError> {
        self.buffer.clear();
        self.buffer.reserve(1 << 16);
        loop {
            match self.socket.recv(&mut self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return Ok(other.map(drop)?),
            }
        }
    }
}

impl AsFd for Kernel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("socket", &self.socket.as_raw_fd()).finish_non_exhaustive()
    }
}

/// A link with what its flags say beside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) record: LinkRecord,
    /// Its operational state is up.
    pub(crate) running: bool,
    /// It was told to take in frames for any hardware address.
    pub(crate) promiscuous: bool,
}

fn found(payload: &[u8]) -> Result<Option<Found>, KernelError> {
    // `ifi_flags` of `struct ifinfomsg`.
    let flags = payload.get(8..12).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
    Ok(link::decode(payload)?.map(|record| Found {
        record,
        running: flags & RUNNING != 0,
        promiscuous: flags & PROMISCUOUS != 0,
    }))
}
