//! Backends: how packets get to other nodes.
//!
//! A backend is one file or folder below this module, and everything else asks [`Backend`], which holds the only
//! `match` over backends. A backend implements [`Behaviour`], whose default methods answer for a backend that has no
//! device and publishes nothing, so that each writes only what differs.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Deref;

use crate::dataplane::{Dataplane, Link};
use crate::external::ExternalInterface;
use crate::facts::HostFacts;
use crate::family::{DualStack, Family};
use crate::json::{FieldError, Fields};
use crate::lease::LeaseAttrs;
use crate::link::{LinkName, Mac};

use behaviour::Behaviour;
pub(crate) use behaviour::{Node, Peering, Prepared};
pub use error::{BackendError, OffLink, PeerError};
pub use probe::{Probe, Transport, Via};
pub use vxlan::vtep::Vtep;

mod alloc;
mod behaviour;
mod error;
mod host_gw;
mod ipip;
mod options;
mod probe;
mod tunnel;
mod unsupported;
mod vxlan;

#[cfg(test)]
mod tests;

/// A backend with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// VXLAN tunnels of the kernel.
    Vxlan(vxlan::Options),
    /// Routes through the other nodes, which must be on the same link.
    HostGw(host_gw::Options),
    /// IP in IP tunnels of the kernel.
    Ipip(ipip::Options),
    /// Subnets only: another program moves packets.
    Alloc(alloc::Options),
    /// A backend of Go flannel that this version cannot run.
    Unsupported(unsupported::Options),
}

/// The properties of a backend that do not depend on its options.
struct Entry {
    name: &'static str,
    read: Read,
    /// Whether this version can run it.
    is_supported: bool,
    devices: &'static [Device],
}

/// The backends, in the order in which messages list them.
const BACKENDS: [Entry; 9] = [
    vxlan::ENTRY,
    host_gw::ENTRY,
    unsupported::WIREGUARD,
    unsupported::UDP,
    ipip::ENTRY,
    unsupported::IPSEC,
    alloc::ENTRY,
    unsupported::EXTENSION,
    unsupported::TENCENT_VPC,
];

/// Reads the options of a backend. The flag is whether IPv6 is on.
type Read = fn(&Fields<'_>, bool) -> Result<Backend, FieldError>;

/// Devices that a backend creates.
struct Device {
    /// The name, or the part before its number.
    stem: &'static str,
    is_numbered: bool,
    /// Kinds of link that it may be.
    kinds: &'static [&'static str],
}

/// An option as it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The key in `Backend`.
    pub key: &'static str,
    /// The value; of a secret only whether there is one.
    pub value: String,
    /// The meaning of the key.
    pub meaning: &'static str,
}

/// One end of the tunnels of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The MAC that peers send to. It must be that of the device at all times.
    pub mac: Mac,
    /// UDP port of the device that was found at start; it counts only where the config names none.
    pub port: Option<u16>,
}

/// Where the endpoint of a node that was here before can be found.
#[derive(Clone, Copy, Debug)]
pub struct EndpointSources<'a> {
    /// The kernel at start.
    pub observed: &'a Dataplane,
    /// MACs in the state directory.
    pub remembered: &'a BTreeMap<LinkName, Mac>,
    /// Our record in the store.
    pub published: Option<&'a LeaseAttrs>,
    /// Bytes for a new MAC.
    pub random: [u8; 6],
}

impl Default for Backend {
    /// The backend of a config without `Backend`.
    fn default() -> Self {
        unsupported::default()
    }
}

/// What a backend answers without further rules.
impl Deref for Backend {
    type Target = dyn Behaviour;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Vxlan(options) => options,
            Self::HostGw(options) => options,
            Self::Ipip(options) => options,
            Self::Alloc(options) => options,
            Self::Unsupported(options) => options,
        }
    }
}

impl Setting {
    fn new(key: &'static str, value: impl ToString, meaning: &'static str) -> Self {
        Self { key, value: value.to_string(), meaning }
    }
}

impl Backend {
    /// Reads the `Backend` object of a config; `None` if it names no type.
    pub(crate) fn read(fields: &Fields<'_>, has_v6: bool) -> Result<Option<Self>, FieldError> {
        let Some(name) = fields.string("Type")?.filter(|name| !name.is_empty()) else { return Ok(None) };
        let entry = BACKENDS.iter().find(|entry| name.eq_ignore_ascii_case(entry.name));
        let rule = || format!("must be one of {}", Self::names());
        let entry = entry.ok_or_else(|| fields.error("Type", format!("{name:?}"), rule()))?;
        (entry.read)(fields, has_v6).map(Some)
    }

    /// The values that `Backend.Type` may have, for messages.
    pub(crate) fn names() -> String {
        BACKENDS.map(|entry| entry.name).join(", ")
    }

    /// Checks that this version can run the backend.
    ///
    /// # Errors
    /// If it cannot.
    pub fn supported(&self) -> Result<(), BackendError> {
        let is_supported = |entry: &Entry| entry.is_supported && entry.name == self.name();
        BACKENDS.iter().any(is_supported).then_some(()).ok_or(BackendError::Unsupported(self.name()))
    }

    /// The networks whose packets the backend carries.
    #[must_use]
    pub fn served(&self, networks: &DualStack<IpNet>) -> DualStack<IpNet> {
        let served = |network: &IpNet| self.serves(Family::of_net(*network));
        DualStack { v4: networks.v4.filter(served), v6: networks.v6.filter(served) }
    }

    /// What the config asks for that the backend does not carry.
    #[must_use]
    pub fn limitation(&self, networks: &DualStack<IpNet>) -> Option<BackendError> {
        let (family, _) = networks.iter().find(|(family, _)| !self.serves(*family))?;
        let backend = self.name();
        Some(BackendError::Other(format!(
            "the backend {backend} does not carry {family}, which the network config enables: pods of different nodes cannot reach each other over {family}. Set Enable{family} to false, or Backend.Type to vxlan"
        )))
    }

    /// Checks what shows before there is a lease, and no pod should wait for.
    ///
    /// # Errors
    /// If the backend cannot work on this host at all.
    pub fn check(
        &self,
        networks: &DualStack<IpNet>,
        external: &ExternalInterface,
        facts: &HostFacts,
    ) -> Result<(), BackendError> {
        let served = self.served(networks);
        if let Some(limitation) = self.limitation(networks).filter(|_| served == DualStack::default()) {
            return Err(limitation);
        }
        for (family, _) in served.iter() {
            self.deref().device(family)?;
        }
        self.deref().check(networks, external, facts)
    }

    /// The MTU of pods, which `subnet.env` has, on an external interface with `external_mtu`.
    ///
    /// Compatibility: in dual stack it is that of the IPv4 tunnel, as in Go flannel, so that all nodes of a cluster
    /// agree and IPv4 loses nothing. The IPv6 device may be smaller; a larger packet of a pod is answered with
    /// "packet too big" by the node itself, one hop away, where no firewall can lose the answer. With IPv6 alone,
    /// where Go's value has no use, it is what fits the tunnel.
    ///
    /// # Errors
    /// If the backend is unsupported or leaves too little of it.
    pub fn mtu(&self, networks: &DualStack<IpNet>, external_mtu: u32) -> Result<u32, BackendError> {
        self.supported()?;
        let served = self.served(networks);
        let mtus = served.iter().map(|(family, _)| tunnel::mtu(self.deref(), family, external_mtu));
        let mtus = mtus.collect::<Result<Vec<u32>, _>>()?;
        Ok(mtus.first().copied().unwrap_or(external_mtu))
    }

    /// What our lease publishes.
    ///
    /// # Errors
    /// If the backend is unsupported, or an address or endpoint of this node is missing.
    pub fn attrs(
        &self,
        networks: &DualStack<IpNet>,
        external: &ExternalInterface,
        endpoints: &DualStack<Endpoint>,
    ) -> Result<LeaseAttrs, BackendError> {
        self.supported()?;
        let mut attrs =
            LeaseAttrs { backend_type: self.published_type().to_owned(), ..LeaseAttrs::default() };
        for (family, _) in self.served(networks).iter() {
            let data = self.data(family, endpoints.get(family))?;
            match external.public.get(family) {
                Some(IpAddr::V4(address)) => (attrs.public_ip, attrs.backend_data) = (Some(*address), data),
                Some(IpAddr::V6(address)) => {
                    (attrs.public_ipv6, attrs.backend_v6_data) = (Some(*address), data);
                }
                None => return Err(BackendError::NoAddress { family, link: external.name.clone() }),
            }
        }
        Ok(attrs)
    }

    /// Returns the end of the tunnel for `family`, and its device. To be asked once, at start: later on this is what a
    /// device is restored to.
    #[must_use]
    pub fn endpoint(&self, family: Family, sources: &EndpointSources<'_>) -> Option<(LinkName, Endpoint)> {
        Some((self.device(family)?, self.deref().endpoint(family, sources)?))
    }

    /// The devices and the means to reach peers.
    pub(crate) fn prepare(&self, node: &Node<'_>) -> Result<Prepared, BackendError> {
        self.supported()?;
        let networks = self.served(&node.networks);
        self.deref().prepare(&Node { networks, ..*node })
    }

    /// The device that packets of `family` to other nodes leave through, if the backend makes one.
    #[must_use]
    pub fn device(&self, family: Family) -> Option<LinkName> {
        self.deref().device(family).ok().flatten()
    }

    /// The devices of both families.
    pub fn devices(&self) -> impl Iterator<Item = LinkName> {
        Family::ALL.into_iter().filter_map(|family| self.device(family))
    }

    /// The interface that packets of pods to other nodes leave through; `None` if another program moves them.
    #[must_use]
    pub fn carrier(&self, family: Family, external: &ExternalInterface) -> Option<LinkName> {
        let carrier = self.device(family).unwrap_or_else(|| external.name.clone());
        (self.connects_pods() && self.serves(family)).then_some(carrier)
    }

    /// The packets that a node must accept from its peers, on a kernel with `links`.
    #[must_use]
    pub fn transport(&self, family: Family, links: &BTreeMap<LinkName, Link>) -> Option<Transport> {
        let device = self.device(family).and_then(|name| links.get(&name));
        self.deref().transport(device).filter(|_| self.serves(family))
    }

    /// Where an answer shows that the peer with `attrs` and `subnet` is reachable. `None` if it has no address.
    #[must_use]
    pub fn probe(
        &self,
        attrs: &LeaseAttrs,
        subnet: IpNet,
        external_mtu: u32,
        links: &BTreeMap<LinkName, Link>,
    ) -> Option<Probe> {
        let family = Family::of_net(subnet);
        let (public, device) = (attrs.public_address(family), self.device(family));
        // Without a device nothing passes, whatever its size.
        let mtu = device.as_ref().and_then(|name| links.get(name)).map_or(external_mtu, |link| link.mtu);
        Some(match self.deref().probe(subnet, device.as_ref()) {
            Some((address, via @ Via::Bridge)) => Probe { address, via, fallback: public, mtu },
            Some((address, via)) => Probe { address, via, fallback: None, mtu },
            None => Probe { address: public?, via: Via::Underlay, fallback: None, mtu },
        })
    }

    /// What keeps `new` from replacing this backend while pods run.
    #[must_use]
    pub fn obstacle(&self, new: &Self) -> Option<String> {
        if self.name() != new.name() {
            return Some(format!("backend {} -> {}", self.name(), new.name()));
        }
        let options = self.fixed_options(new)?;
        Some(format!("{options} of the {} backend", self.name()))
    }
}

/// Whether a backend makes links of this name, and of this kind where one is given.
#[must_use]
pub fn is_device(name: &LinkName, kind: Option<&str>) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    BACKENDS.iter().flat_map(|entry| entry.devices).any(|device| {
        let rest = name.as_str().strip_prefix(device.stem);
        let is_named =
            rest.is_some_and(|rest| if device.is_numbered { number(rest) } else { rest.is_empty() });
        is_named && kind.is_none_or(|kind| device.kinds.contains(&kind))
    })
}
