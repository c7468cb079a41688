//! Where packets are sent to, by backend.
//!
//! | backend | target | why |
//! |---|---|---|
//! | vxlan | the first address of the subnet, which the tunnel device has (`vtep`) | there from the start, and on nodes of Go flannel too |
//! | host-gw | the second, which the bridge of the pods has (`bridge`); where nothing answers there, the public address (`underlay`) | a node has a bridge once it had a pod |
//! | others | the public address (`underlay`) | nothing else is known |

use flannel_core::backend::{Probe, Via};
use flannel_core::family::Family;
use flannel_core::lease::{LeaseAttrs, Subnets};
use flanneld::kernel::Observation;
use std::net::IpAddr;

use super::report::Node;
use crate::failure::{Failure, Kind};
use crate::node::view::View;

/// What is to be measured.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// This node.
    pub(super) own: Node,
    /// All nodes, this one among them.
    pub(super) nodes: Vec<Node>,
    pub(super) targets: Vec<Target>,
}

/// One way to one node.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Key of the lease of the node.
    pub(super) to: String,
    pub(super) family: Family,
    /// The address, what it is, and what is tried if nobody answers there.
    pub(super) address: IpAddr,
    pub(super) via: Via,
    pub(super) otherwise: Option<IpAddr>,
    /// The size of packets that must pass.
    pub(super) expected: u32,
}

pub(super) fn plan(view: &View, observation: &Observation) -> anyhow::Result<Plan> {
    let Some(own) = view.own.as_ref().filter(|own| own.published.is_some()) else {
        return Err(Failure::new(
            Kind::NotFound,
            format!(
                "this host ({}) has no lease, so it is no node of the network",
                view.node.external().public
            ),
            "start flanneld here, or run this on a node; flannelctl lease list shows which they are",
        )
        .into());
    };
    let node = |subnets: &Subnets, attrs: &LeaseAttrs| Node {
        key: subnets.to_string(),
        public: Family::ALL.into_iter().filter_map(|family| attrs.public_address(family)).collect(),
        backend: attrs.backend_type.clone(),
        error: None,
    };
    let nodes: Vec<Node> =
        view.table.leases().iter().map(|(subnets, entry)| node(subnets, &entry.lease.attrs)).collect();
    let mut targets = Vec::new();
    for (subnets, entry) in view.table.leases().iter().filter(|(subnets, _)| **subnets != own.subnets) {
        for family in Family::ALL.into_iter().filter(|family| view.node.config().has(*family)) {
            targets.extend(target(view, observation, subnets, &entry.lease.attrs, family));
        }
    }
    let own = own.subnets.to_string();
    let own = nodes.iter().find(|node| node.key == own).cloned();
    Ok(Plan { own: own.unwrap_or_default(), nodes, targets })
}

fn target(
    view: &View,
    observation: &Observation,
    subnets: &Subnets,
    attrs: &LeaseAttrs,
    family: Family,
) -> Option<Target> {
    let subnet = subnets.get(family)?.trunc();
    let (backend, external) = (&view.node.config().backend, view.node.external().mtu);
    let Probe { address, via, fallback, mtu } =
        backend.probe(attrs, subnet, external, &observation.dataplane.links)?;
    let to = subnets.to_string();
    Some(Target { to, family, address, via, otherwise: fallback, expected: mtu })
}
