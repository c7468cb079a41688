//! host-gw: a route to each subnet through the node that holds it, which must be on the same link.

use ipnet::IpNet;
use std::any::Any;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Backend, BackendError, Behaviour, Entry, Node, OffLink, PeerError, Peering, Prepared, Via};
use crate::dataplane::{Dataplane, Route, RouteKey};
use crate::external::ExternalInterface;
use crate::facts::{HostFacts, RouteLookup};
use crate::family::{DualStack, Family, following};
use crate::json::{FieldError, Fields};
use crate::lease::LeaseAttrs;
use crate::link::LinkName;

pub(super) const ENTRY: Entry = Entry { name: "host-gw", read, is_supported: true, devices: &[] };

/// The host-gw backend has no options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options;

const fn read(_fields: &Fields<'_>, _has_v6: bool) -> Result<Backend, FieldError> {
    Ok(Backend::HostGw(Options))
}

impl Behaviour for Options {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    /// A node that is reached through translation is on no link with its peers.
    fn check(
        &self,
        networks: &DualStack<IpNet>,
        external: &ExternalInterface,
        facts: &HostFacts,
    ) -> Result<(), BackendError> {
        match (networks.v4, external.public.v4, external.address.v4) {
            (Some(_), Some(public), Some(own))
                if public != own && !facts.link(external.index).is_some_and(|link| link.has(public)) =>
            {
                let link = &external.name;
                Err(BackendError::Other(format!(
                    "the public address {public} is not on {link} (which has {own}), so host-gw cannot route through it: leave --public-ip out, or use vxlan"
                )))
            }
            _ => Ok(()),
        }
    }

    fn prepare(&self, node: &Node<'_>) -> Result<Prepared, BackendError> {
        let external = node.external;
        self.check(&node.networks, external, node.facts)?;
        let through: Vec<_> =
            node.facts.routes.iter().filter(|route| route.link == Some(external.index)).collect();
        let standing = through.iter().filter_map(|route| Some((route.destination, route.gateway?))).collect();
        let addresses = node.facts.link(external.index).map(|link| link.addresses.as_slice());
        let networks = addresses.unwrap_or_default().iter().map(|address| address.net.trunc()).collect();
        let (link, routes) = (external.name.clone(), RouteLookup::new(through));
        let peering = Gateways { link, routes, networks, standing };
        Ok(Prepared { base: Dataplane::default(), peering: Some(Arc::new(peering)) })
    }

    fn uses_underlay_routes(&self) -> bool {
        true
    }

    /// The second address, which the bridge of the pods has.
    fn probe(&self, subnet: IpNet, _device: Option<&LinkName>) -> Option<(IpAddr, Via)> {
        Some((following(subnet.network()), Via::Bridge))
    }
}

/// What is needed to reach peers.
#[derive(Debug, PartialEq)]
struct Gateways {
    link: LinkName,
    /// Routes through the external interface: the kernel looks for next hops in these alone (`fib_check_nh` in
    /// net/ipv4/fib_semantics.c).
    routes: RouteLookup,
    /// The networks of its addresses.
    networks: Vec<IpNet>,
    /// Destination and next hop of the routes that stand.
    standing: BTreeSet<(IpNet, IpAddr)>,
}

impl Gateways {
    fn is_on_link(&self, gateway: IpAddr) -> bool {
        match gateway {
            IpAddr::V6(address) if address.is_unicast_link_local() => true,
            _ => self.routes.find(gateway).is_some_and(|route| {
                route.gateway.is_none() && Family::of_net(route.destination) == Family::of(gateway)
            }),
        }
    }

    /// What keeps an address from being on the link.
    fn cause(&self, address: IpAddr) -> OffLink {
        let Some(network) = self.networks.iter().find(|network| network.contains(&address)) else {
            return OffLink::Elsewhere;
        };
        match self.routes.find(address).and_then(|route| Some((route.destination, route.gateway?))) {
            Some((destination, router)) if network.contains(&destination) => {
                OffLink::Router(destination, router)
            }
            _ => OffLink::NoRoute(*network),
        }
    }
}

impl Peering for Gateways {
    fn peer(&self, _attrs: &LeaseAttrs, subnet: IpNet, gateway: IpAddr) -> Result<Dataplane, PeerError> {
        // A route that stands may have lost what the kernel asks for only when it is set; it still works.
        if !self.is_on_link(gateway) && !self.standing.contains(&(subnet, gateway)) {
            let (link, cause) = (self.link.clone(), self.cause(gateway));
            return Err(PeerError::OffLink { address: gateway, link, cause });
        }
        let mut peer = Dataplane::default();
        peer.routes.insert(RouteKey::owned(subnet), Route::via(gateway, &self.link, false));
        Ok(peer)
    }

    fn is_same(&self, other: &dyn Peering) -> bool {
        (other as &dyn Any).downcast_ref() == Some(self)
    }
}
