//! Which observed objects are ours to change. Everything else is invisible to a plan.
//!
//! | object | ours |
//! |---|---|
//! | link | by the name of a device that we want, of a kind that it may replace; another tunnel device with our alias |
//! | address | on our devices: in the cluster network (IPv4), any but link-local and multicast (IPv6) |
//! | neighbour, FDB entry | permanent ones on our devices; any under a key that we want |
//! | nexthop object | with our protocol number and the number of a subnet of the cluster network |
//! | route | through our devices, unless the kernel made it; with our protocol number and in the cluster network; any under a key that we want |
//!
//! So what a Go flanneld left on its tunnel device is ours, and its other routes are as far as they stand where
//! one of ours belongs. A route of Go's to a node that is gone, which leads over the underlay and not a tunnel
//! device, cannot be distinguished from a route of the administrator and is kept until another node gets the subnet.

use ipnet::IpNet;
use std::collections::BTreeSet;

use crate::dataplane::mark::marks_one_of;
use crate::dataplane::{
    AddressKey, Dataplane, Link, PROTOCOL, PROTOCOL_BOOT, PROTOCOL_KERNEL, Route, RouteKey, RouteTarget,
};
use crate::facts::is_local_scope;
use crate::family::Family;
use crate::link::LinkName;

/// What ownership depends on.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// What we want.
    pub desired: &'a Dataplane,
    /// Networks of the cluster: those of the config, and former ones as long as objects of theirs may be left.
    pub networks: &'a [IpNet],
}

/// The part of `observed` that is ours.
#[must_use]
pub fn owned(mut observed: Dataplane, scope: &Scope<'_>) -> Dataplane {
    let devices = scope.devices(&observed);
    let on_device = |name: &LinkName| devices.contains(name);
    let Dataplane { links, addresses, neighbours, fdb, nexthops, routes } = &mut observed;
    links.retain(|name, link| on_device(name) || scope.is_stale(link));
    addresses.retain(|key, _| on_device(&key.link) && scope.owns_address(key));
    neighbours.retain(|key, neighbour| {
        on_device(&key.link) && (neighbour.permanent || scope.desired.neighbours.contains_key(key))
    });
    fdb.retain(|key, entry| on_device(&key.link) && (entry.permanent || scope.desired.fdb.contains_key(key)));
    nexthops.retain(|id, nexthop| nexthop.protocol == PROTOCOL && id.is_in(scope.networks));
    routes.retain(|key, route| scope.retain_routes(*key, route, &on_device));
    observed
}

impl Scope<'_> {
    fn in_networks(&self, net: IpNet) -> bool {
        self.networks.iter().any(|network| network.contains(&net))
    }

    /// A tunnel device that we made under another VNI, for a family that is off now, or that was renamed. Go's
    /// devices bear no alias until we adopted them, so a device of another flanneld on this host is safe.
    pub(crate) fn is_stale(&self, link: &Link) -> bool {
        link.kind.is_tunnel() && link.alias.as_deref().is_some_and(|alias| marks_one_of(alias, self.networks))
    }

    fn owns_address(&self, key: &AddressKey) -> bool {
        self.desired.addresses.contains_key(key)
            || match Family::of_net(key.net) {
                Family::V4 => self.in_networks(IpNet::from(key.net.addr())),
                Family::V6 => !is_local_scope(key.net.addr()),
            }
    }

    /// The names of our devices, unless the device that is there is one of others.
    fn devices(&self, observed: &Dataplane) -> BTreeSet<LinkName> {
        let is_ours = |(name, wanted): &(&LinkName, &Link)| {
            observed.links.get(*name).is_none_or(|found| wanted.kind.replaces(&found.kind))
        };
        self.desired.links.iter().filter(is_ours).map(|(name, _)| name.clone()).collect()
    }

    /// Drops the routes that are not ours from those with one key; returns whether some are left.
    fn retain_routes(
        &self,
        key: RouteKey,
        routes: &mut Route,
        on_device: &impl Fn(&LinkName) -> bool,
    ) -> bool {
        if self.desired.routes.contains_key(&key) {
            return true;
        }
        let owned = routes.each().filter(|route| self.owns_route(key, route, on_device)).cloned().collect();
        Route::several(owned).map(|owned| *routes = owned).is_some()
    }

    /// Whether a route is ours though its key is not wanted.
    fn owns_route(&self, key: RouteKey, route: &Route, on_device: &impl Fn(&LinkName) -> bool) -> bool {
        if route.target.link().is_some_and(on_device) {
            return route.protocol != PROTOCOL_KERNEL && !is_local_scope(key.destination.addr());
        }
        (route.protocol == PROTOCOL && self.in_networks(key.destination)) || self.is_go_blackhole(key, route)
    }

    /// The blackhole that Go flannel sets with metric 0, where it keeps the pods' bridge from its route to
    /// the same subnet. Ours has another metric and takes its place.
    fn is_go_blackhole(&self, key: RouteKey, route: &Route) -> bool {
        (key.metric, route.protocol, &route.target) == (0, PROTOCOL_BOOT, &RouteTarget::Blackhole)
            && self.desired.routes.iter().any(|(wanted, route)| {
                wanted.destination == key.destination && route.target == RouteTarget::Blackhole
            })
    }
}

#[cfg(test)]
mod tests;
