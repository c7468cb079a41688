//! The kernel's links, addresses and routes. A connection belongs to the namespace in which it was opened, for ever.

use flannel_core::exchange::Changes;
use flannel_core::family::Family;
use flannel_core::link::{IfIndex, LinkName};
use flannel_core::message::address::{self, AddressRecord};
use flannel_core::message::bridge::{self, Membership};
use flannel_core::message::link::{self, LinkRecord};
use flannel_core::message::route::{self, RouteRecord};
use flannel_core::message::traffic::{self, DisciplineRecord};
use flannel_core::message::{Get, Request};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::fault;
use crate::netlink::Netlink;
pub(crate) use crate::netlink::NetlinkError as KernelError;

/// Multicast group of link messages (`RTNLGRP_LINK`).
const LINK_GROUP: u32 = 1;
/// Multicast group of IPv6 addresses (`RTNLGRP_IPV6_IFADDR`).
const IPV6_ADDRESS_GROUP: u32 = 9;

/// A connection to the kernel.
#[derive(Debug)]
pub(crate) struct Kernel(Netlink);

impl Kernel {
    /// Opens a connection to the namespace of this thread.
    pub(crate) fn open() -> Result<Self, KernelError> {
        Netlink::open(NETLINK_ROUTE).map(Self)
    }

    /// Makes changes in order, sent at once; returns the result of each. A failed one does not stop the others.
    pub(crate) fn change(
        &mut self,
        requests: &[Request],
    ) -> Result<Vec<Result<(), KernelError>>, KernelError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let results = self.0.run(&mut Changes::new(requests))?;
        fault::answer()?;
        Ok(results.into_iter().map(|result| result.map(drop).map_err(KernelError::Refused)).collect())
    }

    /// Makes one change.
    pub(crate) fn change_one(&mut self, request: &Request) -> Result<(), KernelError> {
        // As many results as requests.
        self.change(std::slice::from_ref(request))?.pop().unwrap_or(Ok(()))
    }

    /// Returns the link with this name.
    pub(crate) fn link(&mut self, name: &LinkName) -> Result<Option<LinkRecord>, KernelError> {
        self.one(&link::get(name))
    }

    /// Fetches one object, which may not exist.
    fn one<T>(&mut self, get: &Get<T>) -> Result<Option<T>, KernelError> {
        match self.0.fetch(get) {
            Err(error) if error.is(Errno::ENODEV) => Ok(None),
            other => Ok(other?.pop()),
        }
    }

    /// Returns the link that packets to an address leave by; `None` without a route.
    pub(crate) fn route_to(&mut self, destination: IpAddr) -> Result<Option<IfIndex>, KernelError> {
        match self.one(&route::get(destination)) {
            Err(error) if error.is(Errno::ENETUNREACH) || error.is(Errno::EHOSTUNREACH) => Ok(None),
            other => Ok(other?.and_then(|route| route.hops.first()?.index)),
        }
    }

    /// Returns the name of a link.
    pub(crate) fn link_name(&mut self, index: IfIndex) -> Result<Option<LinkName>, KernelError> {
        Ok(self.one(&link::get_by_index(index))?.map(|record| record.name))
    }

    /// Lists all links.
    pub(crate) fn links(&mut self) -> Result<Vec<LinkRecord>, KernelError> {
        self.0.fetch(&link::dump())
    }

    /// Lists the addresses of a link, of some families in this order; none if the link does not exist.
    pub(crate) fn addresses(
        &mut self,
        index: IfIndex,
        families: &[Family],
    ) -> Result<Vec<AddressRecord>, KernelError> {
        let mut all = Vec::new();
        for family in families {
            all.extend(self.0.fetch(&address::dump_link(*family, index))?);
        }
        Ok(all)
    }

    /// Lists the routes of the main table.
    pub(crate) fn routes(&mut self) -> Result<Vec<RouteRecord>, KernelError> {
        let mut all = Vec::new();
        for family in Family::ALL {
            all.extend(self.0.fetch(&route::dump(family, route::MAIN_TABLE))?);
        }
        Ok(all)
    }

    /// Lists the VLANs of a bridge port.
    pub(crate) fn vlans(&mut self, port: IfIndex) -> Result<Vec<(u16, Membership)>, KernelError> {
        let ports = self.0.fetch(&bridge::dump_vlans())?;
        Ok(ports.into_iter().filter(|one| one.port == port).flat_map(|one| one.vlans).collect())
    }

    /// Lists the queueing disciplines of a link.
    pub(crate) fn disciplines(&mut self, index: IfIndex) -> Result<Vec<DisciplineRecord>, KernelError> {
        let mut all = self.0.fetch(&traffic::dump_disciplines())?;
        all.retain(|record| record.index == index);
        Ok(all)
    }

    /// Lists the links to which a link redirects what it receives.
    pub(crate) fn redirects(&mut self, index: IfIndex) -> Result<Vec<IfIndex>, KernelError> {
        match self.0.fetch(&traffic::dump_filters(index)) {
            // The link has nothing that could have filters.
            Err(error) if error.is(Errno::EINVAL) => Ok(Vec::new()),
            other => other,
        }
    }

    /// Waits until duplicate address detection of IPv6 is complete; returns the addresses of the link then, or at the
    /// time limit.
    pub(crate) fn wait_usable(
        &mut self,
        index: IfIndex,
        limit: Duration,
    ) -> Result<Vec<AddressRecord>, KernelError> {
        // Subscribing comes before the first look, so that no change is missed.
        let mut events = Netlink::subscribe(IPV6_ADDRESS_GROUP)?;
        let deadline = Instant::now() + limit;
        loop {
            let addresses = self.addresses(index, &Family::ALL)?;
            let pending = addresses.iter().any(|address| address.unusable && !address.duplicate);
            if !pending || !events.wait(deadline)? {
                return Ok(addresses);
            }
        }
    }

    /// Waits until the operational state of a link is up; returns false at the time limit.
    pub(crate) fn wait_running(&mut self, name: &LinkName, limit: Duration) -> Result<bool, KernelError> {
        if self.is_running(name)? {
            return Ok(true);
        }
        // Subscribing comes before the second look, so that no change is missed.
        let mut events = Netlink::subscribe(LINK_GROUP)?;
        let deadline = Instant::now() + limit;
        loop {
            if self.is_running(name)? {
                return Ok(true);
            }
            if !events.wait(deadline)? {
                return Ok(false);
            }
        }
    }

    fn is_running(&mut self, name: &LinkName) -> Result<bool, KernelError> {
        Ok(self.link(name)?.is_some_and(|link| link.running))
    }
}
