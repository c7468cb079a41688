//! Route lookups on facts: the longest prefix that holds an address, then the lowest metric, then the kernel's
//! order. Policy rules and other tables than the main one are not seen.

use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::RouteFacts;
use crate::family::Family;

/// Routes arranged for lookups.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteLookup {
    best: BTreeMap<IpNet, RouteFacts>,
    lengths: BTreeSet<(Family, u8)>,
}

impl RouteLookup {
    /// Arranges `routes`, which are in the kernel's order.
    pub fn new<'a>(routes: impl IntoIterator<Item = &'a RouteFacts>) -> Self {
        let mut lookup = Self::default();
        for route in routes {
            let destination = route.destination.trunc();
            lookup.lengths.insert((Family::of_net(destination), destination.prefix_len()));
            let best = lookup.best.entry(destination).or_insert(*route);
            if route.metric < best.metric {
                *best = *route;
            }
        }
        lookup
    }

    /// The route that packets to `address` take.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<&RouteFacts> {
        let family = Family::of(address);
        self.lengths
            .range((family, 0)..=(family, u8::MAX))
            .rev()
            .find_map(|(_, length)| self.best.get(&IpNet::new(address, *length).ok()?.trunc()))
    }
}
