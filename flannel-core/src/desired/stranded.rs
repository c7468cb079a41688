//! Pods that run on with addresses of a subnet that this node has lost. It belongs to another node, and the route to that
//! one stands where the kernel had made one for the bridge of the pods: the two have one key. A route for each address
//! keeps them in reach of this host and of what it answers for them, until they are replaced; whoever has the
//! same address on the other node is not reached from here meanwhile.

use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::dataplane::{PROTOCOL, Route, RouteKey, RouteTarget};
use crate::facts::HostFacts;
use crate::family::Family;
use crate::lease::Subnets;
use crate::link::LinkName;

/// Addresses and the bridges behind which they are. `pods` gives the addresses of all pods of this host; it is asked only
/// if there is a bridge of another subnet than ours.
pub fn find(
    facts: &HostFacts,
    own: &Subnets,
    networks: &[IpNet],
    tunnels: &BTreeSet<LinkName>,
    pods: impl FnOnce() -> Vec<IpAddr>,
) -> BTreeMap<IpAddr, LinkName> {
    let is_former = |net: IpNet| {
        net.prefix_len() < net.max_prefix_len()
            && networks.iter().any(|network| network.contains(&net))
            && !own.get(Family::of_net(net)).is_some_and(|own| own.contains(&net) || net.contains(&own))
    };
    let links = facts.links.iter().filter(|link| !tunnels.contains(&link.name));
    let addresses = links.flat_map(|link| link.addresses.iter().map(|address| (&link.name, address.net)));
    let bridges: Vec<(&LinkName, IpNet)> = addresses.filter(|(_, net)| is_former(*net)).collect();
    if bridges.is_empty() {
        return BTreeMap::new();
    }
    let behind = |pod: IpAddr| {
        let (link, _) = bridges.iter().find(|(_, net)| net.contains(&pod) && net.addr() != pod)?;
        Some((pod, (*link).clone()))
    };
    pods().into_iter().filter_map(behind).collect()
}

pub(super) fn route((pod, bridge): (&IpAddr, &LinkName)) -> (RouteKey, Route) {
    let route = Route { target: RouteTarget::Link(bridge.clone()), protocol: PROTOCOL };
    (RouteKey::owned(IpNet::from(*pod)), route)
}
