//! The kernel's links, addresses and routes. A connection belongs to the namespace in which it was opened, for ever.

use flannel_core::dataplane::LinkKind;
use flannel_core::exchange::Changes;
use flannel_core::family::Family;
use flannel_core::link::{IfIndex, LinkName};
use flannel_core::message::address::{self, AddressRecord};
use flannel_core::message::bridge::{self, Membership};
use flannel_core::message::link::{self, LinkRecord, LinkSettings};
use flannel_core::message::route::{self, RouteRecord};
use flannel_core::message::traffic::{self, DisciplineRecord, FilterRecord};
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
            all.extend(self.0.fetch(&address::dump(*family, Some(index)))?);
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

    /// Lists the routes of a family in all tables.
    pub(crate) fn routes_of_all_tables(&mut self, family: Family) -> Result<Vec<RouteRecord>, KernelError> {
        self.0.fetch(&route::dump(family, route::ALL_TABLES))
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

    /// Lists the filters for what a link receives.
    pub(crate) fn filters(&mut self, index: IfIndex) -> Result<Vec<FilterRecord>, KernelError> {
        match self.0.fetch(&traffic::dump_filters(index)) {
            // The link has nothing that could have filters.
            Err(error) if error.is(Errno::EINVAL) => Ok(Vec::new()),
            other => other,
        }
    }

    /// Whether a link redirects what it receives to another one.
    pub(crate) fn redirects(&mut self, index: IfIndex, target: IfIndex) -> Result<bool, KernelError> {
        Ok(self.filters(index)?.iter().any(|filter| filter.target == Some(target)))
    }

    /// Waits until duplicate address detection of IPv6 is complete; returns the addresses of the link then, or at the
    /// time limit.
    pub(crate) fn wait_usable(
        &mut self,
        index: IfIndex,
        limit: Duration,
    ) -> Result<Vec<AddressRecord>, KernelError> {
        self.wait(IPV6_ADDRESS_GROUP, limit, |kernel| {
            let addresses = kernel.addresses(index, &Family::ALL)?;
            let pending = addresses.iter().any(|address| address.unusable && !address.duplicate);
            Ok((addresses, !pending))
        })
    }

    /// Waits until the operational state of a link is up; returns false at the time limit.
    pub(crate) fn wait_running(&mut self, name: &LinkName, limit: Duration) -> Result<bool, KernelError> {
        let is_running =
            |kernel: &mut Self| Ok(kernel.link(name)?.is_some_and(|link| link.running)).map(|up| (up, up));
        // Nearly always true, and subscribing takes time.
        if is_running(self)?.0 {
            return Ok(true);
        }
        self.wait(LINK_GROUP, limit, is_running)
    }

    /// Observes a state after each notification of a group, until it is complete; returns the last one.
    fn wait<T>(
        &mut self,
        group: u32,
        limit: Duration,
        observe: impl Fn(&mut Self) -> Result<(T, bool), KernelError>,
    ) -> Result<T, KernelError> {
        // Before the first observation, so that no change is missed.
        let mut events = Netlink::subscribe(group)?;
        let deadline = Instant::now() + limit;
        loop {
            let (state, complete) = observe(self)?;
            if complete || !events.wait(deadline)? {
                return Ok(state);
            }
        }
    }

    /// Sets a link up or down.
    pub(crate) fn set_up(&mut self, index: IfIndex, up: bool) -> Result<(), KernelError> {
        self.change_one(&link::set(index, &LinkSettings { up: Some(up), ..LinkSettings::default() }))
    }

    /// Deletes a link; one that no longer exists is no error.
    pub(crate) fn delete(&mut self, index: IfIndex) -> Result<(), KernelError> {
        match self.change_one(&link::delete(index)) {
            Err(error) if error.is(Errno::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Deletes a link by its name, if it exists.
    pub(crate) fn delete_by_name(&mut self, name: &LinkName) -> Result<(), KernelError> {
        self.link(name)?.map_or(Ok(()), |found| self.delete(found.index))
    }
}

/// Whether a link is of the kind with this name in the kernel.
pub(crate) fn is_kind(record: &LinkRecord, kind: &str) -> bool {
    matches!(&record.link.kind, LinkKind::Other(other) if other == kind)
}
