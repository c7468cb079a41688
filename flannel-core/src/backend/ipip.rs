//! ipip: an IP in IP tunnel device for IPv4. A peer's subnet is routed through it to the peer's public address.

use ipnet::IpNet;
use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;

use super::options;
use super::tunnel::{self, Underlay};
use super::{
    Backend, BackendError, Behaviour, Device, Entry, Node, PeerError, Peering, Prepared, Setting, Transport,
};
use crate::dataplane::{Dataplane, Ipip, Link, LinkKind, Route, RouteKey};
use crate::family::Family;
use crate::json::{FieldError, Fields};
use crate::lease::LeaseAttrs;
use crate::link::LinkName;

#[cfg(test)]
mod tests;

pub(super) const ENTRY: Entry = Entry {
    name: "ipip",
    read,
    is_supported: true,
    devices: &[Device { stem: DEVICE, is_numbered: false, kinds: &[Ipip::NAME] }],
};

const DEVICE: &str = "flannel.ipip";

/// Options of the ipip backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Plain routes to nodes on the same link.
    direct_routing: bool,
}

fn read(fields: &Fields<'_>, _has_v6: bool) -> Result<Backend, FieldError> {
    Ok(Backend::Ipip(Options { direct_routing: fields.bool("DirectRouting")?.unwrap_or(false) }))
}

impl Behaviour for Options {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn settings(&self) -> Vec<Setting> {
        vec![Setting::new("DirectRouting", self.direct_routing, options::DIRECT_ROUTING)]
    }

    fn serves(&self, family: Family) -> bool {
        family == Family::V4
    }

    fn overhead(&self, _family: Family) -> u32 {
        Ipip::OVERHEAD
    }

    fn link_kind(&self) -> Option<&'static str> {
        Some(Ipip::NAME)
    }

    fn device(&self, family: Family) -> Result<Option<LinkName>, BackendError> {
        Ok(self.serves(family).then(|| DEVICE.parse().expect("the name is short and plain")))
    }

    fn prepare(&self, node: &Node<'_>) -> Result<Prepared, BackendError> {
        let (mut base, external) = (Dataplane::default(), node.external);
        let Some(device) = self.device(Family::V4)? else { return Ok(Prepared::default()) };
        // Compatibility: the interface's own address, even if the public one is on this host. It also keeps packets of
        // peers from `tunl0`, the kernel's own device without an address.
        let missing = || BackendError::NoAddress { family: Family::V4, link: external.name.clone() };
        let local = external.address.v4.ok_or_else(missing)?;
        let mtu = tunnel::mtu(self, Family::V4, external.mtu)?;
        let kind = LinkKind::Ipip(Ipip { local: Some(local), remote: None });
        let link = Link { kind, mtu, mac: None, up: true, alias: None };
        tunnel::add_device(&mut base, node, Family::V4, &device, link)?;
        let direct = self.direct_routing.then(|| Underlay::new(node.facts, &base));
        Ok(Prepared { base, peering: Some(Arc::new(Tunnel { device, direct })) })
    }

    fn uses_underlay_routes(&self) -> bool {
        self.direct_routing
    }

    fn transport(&self, _device: Option<&Link>) -> Option<Transport> {
        Some(Transport { protocol: Ipip::PROTOCOL, port: None })
    }
}

/// What is needed to reach peers.
#[derive(Debug, PartialEq)]
struct Tunnel {
    device: LinkName,
    /// With direct routing, the routes of the underlay.
    direct: Option<Underlay>,
}

impl Peering for Tunnel {
    /// Compatibility: direct routes are onlink too, as those of Go flannel.
    fn peer(&self, _attrs: &LeaseAttrs, subnet: IpNet, address: IpAddr) -> Result<Dataplane, PeerError> {
        let direct = self.direct.as_ref().and_then(|underlay| underlay.link_to(address));
        let link = direct.unwrap_or(&self.device);
        let mut peer = Dataplane::default();
        peer.routes.insert(RouteKey::owned(subnet), Route::via(address, link, true));
        Ok(peer)
    }

    fn is_same(&self, other: &dyn Peering) -> bool {
        (other as &dyn Any).downcast_ref() == Some(self)
    }
}
