//! vxlan: a tunnel device for each family. A peer's subnet is routed to the peer's zero address, a
//! permanent neighbour entry turns that into the peer's MAC, and an FDB entry that into its public address.

use ipnet::IpNet;
use serde_json::value::RawValue;
use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;

use super::options::{self, mtu_text};
use super::tunnel::{self, Underlay};
use super::{
    Backend, BackendError, Behaviour, Device, Endpoint, EndpointSources, Entry, Node, PeerError, Peering,
    Prepared, Setting, Transport,
};
use crate::dataplane::{
    Dataplane, FdbEntry, FdbKey, Link, LinkKind, Neighbour, NeighbourKey, Route, RouteKey, Vxlan,
};
use crate::family::{DualStack, Family};
use crate::json::{FieldError, Fields};
use crate::lease::LeaseAttrs;
use crate::link::{LinkName, Mac, Vni};

use vtep::Vtep;

pub(super) mod vtep;

#[cfg(test)]
mod tests;

pub(super) const ENTRY: Entry = Entry {
    name: "vxlan",
    read,
    is_supported: true,
    devices: &[
        Device { stem: "flannel.", is_numbered: true, kinds: KINDS },
        Device { stem: "flannel-v6.", is_numbered: true, kinds: KINDS },
    ],
};

const KINDS: &[&str] = &[Vxlan::NAME];

/// Options of the vxlan backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Network identifier, part of the device's name.
    vni: Vni,
    /// UDP port; `None` takes that of a device that is there already, otherwise [`Vxlan::DEFAULT_PORT`].
    port: Option<u16>,
    /// MTU of the underlay, instead of that of the external interface.
    mtu: Option<u32>,
    /// Group based policy extension.
    gbp: bool,
    /// The kernel learns addresses from received frames.
    learning: bool,
    /// Plain routes to nodes on the same link.
    direct_routing: bool,
}

fn read(fields: &Fields<'_>, has_v6: bool) -> Result<Backend, FieldError> {
    let vni = options::number(fields, "VNI", 1, (1 << 24) - 1)?;
    Ok(Backend::Vxlan(Options {
        vni: vni.and_then(|vni| Vni::new(vni as u32)).unwrap_or(Vni::DEFAULT),
        // 0 stands for the default.
        port: options::number(fields, "Port", 0, 65535)?.map(|port| port as u16).filter(|port| *port > 0),
        mtu: options::mtu(fields, Vxlan::overhead(Family::V6), has_v6)?,
        gbp: fields.bool("GBP")?.unwrap_or(false),
        learning: fields.bool("Learning")?.unwrap_or(false),
        direct_routing: fields.bool("DirectRouting")?.unwrap_or(false),
    }))
}

impl Options {
    fn device_name(&self, family: Family) -> Result<LinkName, BackendError> {
        let vni = self.vni;
        let (name, largest) = match family {
            Family::V4 => (format!("flannel.{vni}"), 9_999_999),
            Family::V6 => (format!("flannel-v6.{vni}"), 9_999),
        };
        name.parse().map_err(|_| {
            BackendError::NameTooLong(format!(
                "Backend.VNI is {vni}, but the device name {name} would be longer than 15 bytes: must be at most {largest}"
            ))
        })
    }

    /// The endpoint of a device that exists already, whoever made it. A start keeps its MAC, which peers know, and, as
    /// Go flannel does, its port if the config names none.
    fn existing(&self, link: Option<&Link>) -> Option<Endpoint> {
        let Some(Link { kind: LinkKind::Vxlan(vxlan), mac: Some(mac), .. }) = link else { return None };
        let port = Some(vxlan.port).filter(|port| *port > 0);
        // Any other device is replaced at start ([`LinkKind::mismatch`]), and its port with it.
        let is_kept = (vxlan.vni, vxlan.gbp, vxlan.group, vxlan.l2miss) == (self.vni, self.gbp, None, false);
        (is_kept && mac.is_unicast()).then_some(Endpoint { mac: *mac, port })
    }

    fn link(&self, family: Family, node: &Node<'_>) -> Result<Link, BackendError> {
        let endpoint = node.endpoints.get(family).ok_or(BackendError::NoEndpoint(family))?;
        let external = node.external;
        // The public address, as Go flannel has it, unless it is not on this host (translated on the way): the kernel
        // could send nothing from it.
        let public = external.public.get(family).filter(|address| node.facts.owner(**address).is_some());
        let local = public.or_else(|| external.address.get(family));
        let local = local.ok_or_else(|| BackendError::NoAddress { family, link: external.name.clone() })?;
        let vxlan = Vxlan {
            vni: self.vni,
            local: Some(*local),
            lower: Some(external.name.clone()),
            port: self.port.or(endpoint.port).unwrap_or(Vxlan::DEFAULT_PORT),
            learning: self.learning,
            gbp: self.gbp,
            group: None,
            l2miss: false,
        };
        Ok(Link {
            kind: LinkKind::Vxlan(vxlan),
            mtu: tunnel::mtu(self, family, external.mtu)?,
            mac: Some(endpoint.mac),
            up: true,
            alias: None,
        })
    }
}

impl Behaviour for Options {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn settings(&self) -> Vec<Setting> {
        vec![
            Setting::new("VNI", self.vni, "network identifier, and the number in the device's name"),
            Setting::new("Port", self.port.unwrap_or(Vxlan::DEFAULT_PORT), options::PORT),
            Setting::new("MTU", mtu_text(self.mtu), "MTU of the underlay; devices get 50 bytes less"),
            Setting::new("GBP", self.gbp, "group based policy"),
            Setting::new("Learning", self.learning, "the kernel learns addresses from received frames"),
            Setting::new("DirectRouting", self.direct_routing, options::DIRECT_ROUTING),
        ]
    }

    fn overhead(&self, family: Family) -> u32 {
        Vxlan::overhead(family)
    }

    /// The kernel does not make a device larger than the interface under it allows, so an option beyond that has no
    /// effect, for the device as for pods.
    fn underlay_mtu(&self, external_mtu: u32) -> u32 {
        self.mtu.unwrap_or(external_mtu).min(external_mtu)
    }

    fn link_kind(&self) -> Option<&'static str> {
        Some(Vxlan::NAME)
    }

    fn device(&self, family: Family) -> Result<Option<LinkName>, BackendError> {
        self.device_name(family).map(Some)
    }

    /// In order of preference: the MAC that the device has and the store knows, that of the state directory, that of
    /// the store, that of the device, a new one.
    ///
    /// Where there is neither a device nor a memory, the MAC in the store may be that of another node, which has our
    /// public address: with a MAC of its own the two records differ, so that the conflict can be named.
    fn endpoint(&self, family: Family, sources: &EndpointSources<'_>) -> Option<Endpoint> {
        let name = self.device_name(family).ok()?;
        let device = self.existing(sources.observed.links.get(&name));
        let found = device.map(|device| device.mac);
        let stored = sources.published.and_then(|attrs| Vtep::of(attrs, family)).map(|vtep| vtep.mac);
        let mac = found
            .filter(|mac| Some(*mac) == stored)
            .or_else(|| sources.remembered.get(&name).copied())
            .or(stored.filter(|_| found.is_some()))
            .or(found)
            .unwrap_or_else(|| Mac::from_seed(sources.random));
        Some(Endpoint { mac, port: device.and_then(|device| device.port) })
    }

    fn published_endpoint(&self, family: Family, attrs: &LeaseAttrs) -> Option<(LinkName, Mac)> {
        let is_own = attrs.backend_type == self.name();
        let vtep = Vtep::of(attrs, family).filter(|vtep| is_own && vtep.mac.is_unicast())?;
        Some((self.device_name(family).ok()?, vtep.mac))
    }

    fn data(&self, family: Family, end: Option<&Endpoint>) -> Result<Option<Box<RawValue>>, BackendError> {
        let Endpoint { mac, .. } = end.ok_or(BackendError::NoEndpoint(family))?;
        Ok(Some(Vtep { vni: Some(self.vni), mac: *mac }.to_raw()))
    }

    fn prepare(&self, node: &Node<'_>) -> Result<Prepared, BackendError> {
        let (mut devices, mut base) = (DualStack::default(), Dataplane::default());
        for (family, _) in node.networks.iter() {
            let name = self.device_name(family)?;
            tunnel::add_device(&mut base, node, family, &name, self.link(family, node)?)?;
            *devices.slot(family) = Some(name);
        }
        let direct = self.direct_routing.then(|| Underlay::new(node.facts, &base));
        Ok(Prepared { base, peering: Some(Arc::new(Tunnels { devices, vni: self.vni, direct })) })
    }

    fn uses_underlay_routes(&self) -> bool {
        self.direct_routing
    }

    fn transport(&self, device: Option<&Link>) -> Option<Transport> {
        let found = self.existing(device).and_then(|endpoint| endpoint.port);
        Some(Transport::udp(self.port.or(found).unwrap_or(Vxlan::DEFAULT_PORT)))
    }

    fn fixed_options(&self, new: &Backend) -> Option<&'static str> {
        let Backend::Vxlan(new) = new else { return None };
        let is_same = (self.vni, self.port, self.gbp) == (new.vni, new.port, new.gbp);
        (!is_same).then_some("VNI, Port or GBP")
    }
}

/// What is needed to reach peers.
#[derive(Debug, PartialEq)]
struct Tunnels {
    devices: DualStack<LinkName>,
    vni: Vni,
    /// With direct routing, the routes of the underlay.
    direct: Option<Underlay>,
}

impl Peering for Tunnels {
    fn peer(&self, attrs: &LeaseAttrs, subnet: IpNet, address: IpAddr) -> Result<Dataplane, PeerError> {
        let mut peer = Dataplane::default();
        if let Some(link) = self.direct.as_ref().and_then(|underlay| underlay.link_to(address)) {
            peer.routes.insert(RouteKey::owned(subnet), Route::via(address, link, false));
            return Ok(peer);
        }
        let family = Family::of_net(subnet);
        let Some(device) = self.devices.get(family) else { return Ok(peer) };
        let data = attrs.backend_data(family).ok_or(PeerError::NoData(family))?;
        let Vtep { vni, mac } = Vtep::parse(data).map_err(|source| PeerError::BadData { family, source })?;
        if let Some(vni) = vni.filter(|vni| *vni != self.vni) {
            let own = self.vni;
            return Err(PeerError::Other(format!(
                "the node uses VNI {vni}, this one {own}: neither accepts packets of the other. Set the same Backend.VNI for all \
                 nodes and restart flanneld on them"
            )));
        }
        if !mac.is_unicast() {
            return Err(PeerError::Other(format!(
                "the lease has the {family} VTEP MAC {mac}, which is not the address of one interface"
            )));
        }
        let gateway = subnet.network();
        peer.neighbours.insert(
            NeighbourKey { link: device.clone(), address: gateway },
            Neighbour { mac: Some(mac), permanent: true },
        );
        let entry = FdbEntry { destinations: vec![address], permanent: true };
        peer.fdb.insert(FdbKey { link: device.clone(), mac }, entry);
        peer.routes.insert(RouteKey::owned(subnet), Route::via(gateway, device, true));
        Ok(peer)
    }

    fn is_same(&self, other: &dyn Peering) -> bool {
        (other as &dyn Any).downcast_ref() == Some(self)
    }
}
