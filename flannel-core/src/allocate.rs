//! The choice of a free subnet.
//!
//! Every free subnet of the range is as likely as any other, so that nodes that start together with different seeds
//! rarely meet. The cost is that of sorting the leases.

use ipnet::IpNet;
use std::net::IpAddr;

use crate::config::{NetworkConfig, SubnetRange};
use crate::family::Family;
use crate::lease::Subnets;
use crate::seed::Seed;

#[cfg(test)]
mod tests;

/// Why no subnet can be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// The config has no family on.
    #[error("the network config turns both families off: set EnableIPv4 or EnableIPv6 to true in it")]
    NoFamily,
    /// The config has the ends of the range the wrong way round.
    #[error(
        "the network config offers no {family} subnet: its first one, {min}, is above its last one, {max}; \
         swap SubnetMin and SubnetMax"
    )]
    EmptyRange {
        /// Family of the range.
        family: Family,
        /// First subnet.
        min: IpAddr,
        /// Last subnet.
        max: IpAddr,
    },
    /// Every subnet of the range overlaps a lease.
    #[error(
        "no free {} subnet: all {} of length {} from {} to {} in {} are taken by {leases} leases; \
         give the network config a wider range or delete the leases of nodes that are gone",
        range.family(), range.count(), range.subnet_len(), range.min(), range.max(), range.network()
    )]
    Full {
        /// The range.
        range: SubnetRange,
        /// How many leases are in it.
        leases: usize,
    },
}

/// Chooses a subnet of each family that is on. The free subnets of `preferred` are kept, the rest are random.
///
/// `taken` has the subnets of all keys in the store, whatever their lengths, also of those whose records cannot be read:
/// no key can be created twice.
pub fn choose(
    config: &NetworkConfig,
    taken: &[Subnets],
    preferred: Option<&Subnets>,
    seed: u64,
) -> Result<Subnets, AllocateError> {
    let mut seed = Seed::new(seed);
    let mut chosen = Subnets { v4: None, v6: None };
    for range in config.ranges() {
        let family = range.family();
        let blocked = Blocked::new(range, taken.iter().filter_map(|subnets| subnets.get(family)));
        let preferred = preferred
            .and_then(|preferred| preferred.get(family))
            .filter(|preferred| blocked.is_free(range, *preferred));
        match preferred.map_or_else(|| blocked.choose(range, &mut seed), Ok)? {
            IpNet::V4(net) => chosen.v4 = Some(net),
            IpNet::V6(net) => chosen.v6 = Some(net),
        }
    }
    if chosen.is_empty() { Err(AllocateError::NoFamily) } else { Ok(chosen) }
}

/// The places of a range that leases overlap: disjoint, in order, both ends included.
struct Blocked {
    intervals: Vec<(u128, u128)>,
    leases: usize,
}

impl Blocked {
    fn new(range: &SubnetRange, taken: impl Iterator<Item = IpNet>) -> Self {
        let mut places: Vec<(u128, u128)> = taken.filter_map(|net| range.places_of(net)).collect();
        places.sort_unstable();
        let leases = places.len();
        let mut intervals: Vec<(u128, u128)> = Vec::with_capacity(leases);
        for (from, to) in places {
            match intervals.last_mut() {
                Some((_, end)) if from <= *end => *end = to.max(*end),
                _ => intervals.push((from, to)),
            }
        }
        Self { intervals, leases }
    }

    fn is_free(&self, range: &SubnetRange, subnet: IpNet) -> bool {
        let Some((place, _)) = range.places_of(subnet).filter(|_| range.allows(subnet)) else { return false };
        let after = self.intervals.partition_point(|(_, to)| *to < place);
        self.intervals.get(after).is_none_or(|(from, _)| place < *from)
    }

    fn choose(&self, range: &SubnetRange, seed: &mut Seed) -> Result<IpNet, AllocateError> {
        let (family, min, max) = (range.family(), range.min(), range.max());
        if range.count() == 0 {
            return Err(AllocateError::EmptyRange { family, min, max });
        }
        let full = AllocateError::Full { range: *range, leases: self.leases };
        let taken: u128 = self.intervals.iter().map(|(from, to)| to - from + 1).sum();
        let free = range.count() - taken;
        if free == 0 {
            return Err(full);
        }
        // The place among the free ones; every interval before it moves it on.
        let mut place = seed.below(free);
        for (from, to) in &self.intervals {
            if place < *from {
                break;
            }
            place += to - from + 1;
        }
        range.nth(place).ok_or(full)
    }
}
