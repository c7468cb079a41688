//! What a backend answers. A new backend implements [`Behaviour`] and writes only what differs from the defaults.

use ipnet::IpNet;
use serde_json::value::RawValue;
use std::any::Any;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::error::{BackendError, PeerError};
use super::probe::{Transport, Via};
use super::{Backend, Endpoint, EndpointSources, Setting};
use crate::dataplane::{Dataplane, Link};
use crate::external::ExternalInterface;
use crate::facts::HostFacts;
use crate::family::{DualStack, Family};
use crate::lease::{LeaseAttrs, Subnets};
use crate::link::{LinkName, Mac};

/// This node, as the input of the desired state.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// Networks of the cluster whose packets the backend carries.
    pub networks: DualStack<IpNet>,
    /// Subnets of this node.
    pub subnets: Subnets,
    /// The external interface.
    pub external: &'a ExternalInterface,
    /// This node's ends of the tunnels.
    pub endpoints: DualStack<Endpoint>,
    /// The host.
    pub facts: &'a HostFacts,
}

/// The part of the desired state that is the backend's.
#[derive(Default)]
pub struct Prepared {
    /// What does not depend on peers: the devices and their addresses.
    pub base: Dataplane,
    /// How to reach peers; `None` if the backend leaves that to another program.
    pub peering: Option<Arc<dyn Peering>>,
}

/// The state for one peer.
pub trait Peering: Any + fmt::Debug + Send + Sync {
    /// The objects by which `subnet` of a peer at `address` is reached.
    fn peer(&self, attrs: &LeaseAttrs, subnet: IpNet, address: IpAddr) -> Result<Dataplane, PeerError>;

    /// Whether `other` reaches every peer in the same way.
    fn is_same(&self, other: &dyn Peering) -> bool;
}

/// What a backend is. The defaults are those of a backend without devices, whose routes lead through the external
/// interface.
pub trait Behaviour {
    /// The name in `Backend.Type`.
    fn name(&self) -> &'static str;

    /// The name in lease records. Compatibility: some backends publish none.
    fn published_type(&self) -> &'static str {
        self.name()
    }

    /// The options in force.
    fn settings(&self) -> Vec<Setting> {
        Vec::new()
    }

    /// Whether the backend carries `family`.
    fn serves(&self, _family: Family) -> bool {
        true
    }

    /// Bytes that headers take from each packet between nodes.
    fn overhead(&self, _family: Family) -> u32 {
        0
    }

    /// The largest packet that may be sent to other nodes.
    fn underlay_mtu(&self, external_mtu: u32) -> u32 {
        external_mtu
    }

    /// The kind of link that the kernel must support.
    fn link_kind(&self) -> Option<&'static str> {
        None
    }

    /// Whether a userspace implementation can replace this kind of link.
    fn is_link_kind_replaceable(&self) -> bool {
        false
    }

    /// The device for `family`.
    fn device(&self, _family: Family) -> Result<Option<LinkName>, BackendError> {
        Ok(None)
    }

    /// Whether it can work on this host, as far as the names of devices do not tell.
    fn check(
        &self,
        _networks: &DualStack<IpNet>,
        _external: &ExternalInterface,
        _facts: &HostFacts,
    ) -> Result<(), BackendError> {
        Ok(())
    }

    /// The end of the tunnel for `family`, chosen at start; see [`Backend::endpoint`].
    fn endpoint(&self, _family: Family, _sources: &EndpointSources<'_>) -> Option<Endpoint> {
        None
    }

    /// Returns the tunnel device of this node for `family` and its address, from a record that this node published.
    fn published_endpoint(&self, _family: Family, _attrs: &LeaseAttrs) -> Option<(LinkName, Mac)> {
        None
    }

    /// What the lease publishes for `family` beside the public address.
    fn data(&self, _family: Family, _end: Option<&Endpoint>) -> Result<Option<Box<RawValue>>, BackendError> {
        Ok(None)
    }

    /// The devices and the means to reach peers.
    fn prepare(&self, _node: &Node<'_>) -> Result<Prepared, BackendError> {
        Ok(Prepared::default())
    }

    /// Whether routes of the underlay decide how peers are reached.
    fn uses_underlay_routes(&self) -> bool {
        false
    }

    /// Whether it moves packets of pods.
    fn connects_pods(&self) -> bool {
        true
    }

    /// Packets that the firewall of a node must accept from peers.
    fn transport(&self, _device: Option<&Link>) -> Option<Transport> {
        None
    }

    /// Where an answer shows that a peer is reachable; `None` for the public address alone.
    fn probe(&self, subnet: IpNet, device: Option<&LinkName>) -> Option<(IpAddr, Via)> {
        device.map(|_| (subnet.network(), Via::Vtep))
    }

    /// Options that cannot change while pods run, if they differ in `new`, which is of the same backend.
    fn fixed_options(&self, _new: &Backend) -> Option<&'static str> {
        None
    }
}
