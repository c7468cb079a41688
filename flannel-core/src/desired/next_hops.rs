//! Whether routes to peers contain their next hops, or refer to nexthop objects.

use ipnet::IpNet;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::dataplane::{Dataplane, NexthopId, PROTOCOL};

/// Where the next hops of routes to peers are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NextHops {
    /// In the routes: the form that every kernel has and that Go flannel uses.
    #[default]
    InRoutes,
    /// In nexthop objects, the form for many peers.
    Objects {
        /// Numbers that unmanaged objects have: the routes of these subnets contain their next hops.
        taken: Arc<BTreeSet<NexthopId>>,
    },
}

/// The number of peers from which on nexthop objects are used; `None` for never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NexthopThreshold(pub Option<usize>);

impl NexthopThreshold {
    /// Whether objects are used for so many peers. A network that shrinks a little keeps them.
    #[must_use]
    pub fn is_reached(self, peers: usize, in_use: bool) -> bool {
        self.0.is_some_and(|from| peers >= if in_use { from - from / 4 } else { from })
    }

    /// Decides for so many peers on a kernel that supports nexthop objects and contains `observed`.
    #[must_use]
    pub fn choose(self, peers: usize, observed: &Dataplane, networks: &[IpNet]) -> NextHops {
        let all = observed.nexthops.iter().filter(|(id, _)| id.is_in(networks));
        let (owned, taken): (Vec<_>, Vec<_>) = all.partition(|(_, object)| object.protocol == PROTOCOL);
        if self.is_reached(peers, !owned.is_empty()) {
            NextHops::Objects { taken: Arc::new(taken.into_iter().map(|(id, _)| *id).collect()) }
        } else {
            NextHops::InRoutes
        }
    }
}

#[cfg(test)]
mod tests;
