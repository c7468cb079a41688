//! host-gw: a route to each subnet through the node that holds it, which must be on the same link.

use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{DesiredError, Node, PeerError, route_key, via};
use crate::dataplane::Dataplane;
use crate::external::ExternalInterface;
use crate::facts::{HostFacts, RouteLookup};
use crate::family::{DualStack, Family};
use crate::link::LinkName;

/// What is needed to reach peers.
#[derive(Clone, Debug)]
pub(super) struct Gateways {
    link: LinkName,
    /// Routes through the external interface: the kernel looks for next hops in these alone (`fib_check_nh` in
    /// net/ipv4/fib_semantics.c).
    routes: RouteLookup,
    /// Destination and next hop of the routes that stand.
    standing: BTreeSet<(IpNet, IpAddr)>,
}

/// A node that is reached through translation is on no link with its peers.
pub(super) fn check(external: &ExternalInterface, facts: &HostFacts) -> Result<(), DesiredError> {
    if let (Some(public), Some(own)) = (external.public.v4, external.address.v4)
        && public != own
        && !facts.link(external.index).is_some_and(|link| link.has(public))
    {
        return Err(DesiredError::PublicAddressElsewhere { public, own, link: external.name.clone() });
    }
    Ok(())
}

impl Gateways {
    pub(super) fn new(
        networks: DualStack<IpNet>,
        node: &Node,
        facts: &HostFacts,
    ) -> Result<Self, DesiredError> {
        let external = &node.external;
        if networks.v4.is_some() {
            check(external, facts)?;
        }
        let through: Vec<_> =
            facts.routes.iter().filter(|route| route.link == Some(external.index)).collect();
        let standing = through.iter().filter_map(|route| Some((route.destination, route.gateway?))).collect();
        Ok(Self { link: external.name.clone(), routes: RouteLookup::new(through), standing })
    }

    pub(super) fn peer(&self, subnet: IpNet, gateway: IpAddr) -> Result<Dataplane, PeerError> {
        // A route that stands may have lost what the kernel asks for only when it is set; it still works.
        if !self.is_on_link(gateway) && !self.standing.contains(&(subnet, gateway)) {
            return Err(PeerError::NotOnLink { gateway, link: self.link.clone() });
        }
        let mut peer = Dataplane::default();
        peer.routes.insert(route_key(subnet), via(gateway, &self.link, false));
        Ok(peer)
    }

    fn is_on_link(&self, gateway: IpAddr) -> bool {
        match gateway {
            IpAddr::V6(address) if address.is_unicast_link_local() => true,
            _ => self.routes.find(gateway).is_some_and(|route| {
                route.gateway.is_none() && Family::of_net(route.destination) == Family::of(gateway)
            }),
        }
    }
}
