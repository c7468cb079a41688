//! Nexthop objects (`ip nexthop`), which routes refer to by a number.
//!
//! The kernel searches the next hops of all routes through one device whenever it adds another one, which takes a time in the
//! square of their number. Routes that refer to nexthop objects are not searched.

use ipnet::IpNet;
use std::fmt;
use std::num::NonZeroU32;

use super::{Dataplane, PROTOCOL, RouteKey, RouteTarget};

/// The number of a nexthop object (`NHA_ID`).
///
/// The numbers of flannel are those of the subnets that the objects serve: 10.42.2.0/24 has 0x0a2a0200. So they are the same
/// after a restart, differ from subnet to subnet, show which cluster they belong to, and are none that the kernel or a routing
/// daemon chooses, which count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NexthopId(NonZeroU32);

/// A nexthop object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nexthop {
    /// What happens to packets: [`RouteTarget::Via`] without an object for ours.
    pub target: RouteTarget,
    /// Who set it: [`PROTOCOL`] for ours.
    pub protocol: u8,
}

impl NexthopId {
    /// The number, unless it is 0.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// The number of the object for routes to `destination`; `None` for IPv6, where plain routes cost the same.
    #[must_use]
    pub fn of(destination: IpNet) -> Option<Self> {
        match destination {
            IpNet::V4(net) => Self::new(net.network().into()),
            IpNet::V6(_) => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Whether it is the number of a subnet of one of `networks`.
    #[must_use]
    pub fn is_in(self, networks: &[IpNet]) -> bool {
        let address = std::net::IpAddr::from(std::net::Ipv4Addr::from(self.get()));
        networks.iter().any(|network| network.contains(&address))
    }
}

impl fmt::Display for NexthopId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Dataplane {
    /// Moves the next hops of routes to peers into nexthop objects. A route is kept as it is where `is_taken` says that its
    /// object has the number of an unmanaged one.
    pub(crate) fn use_nexthops(&mut self, is_taken: impl Fn(NexthopId) -> bool) {
        for (RouteKey { destination, .. }, route) in &mut self.routes {
            let plain = route.target.clone();
            if let RouteTarget::Via { object, .. } = &mut route.target
                && let Some(id) = NexthopId::of(*destination).filter(|id| !is_taken(*id))
            {
                *object = Some(id);
                self.nexthops.insert(id, Nexthop { target: plain, protocol: PROTOCOL });
            }
        }
    }
}
