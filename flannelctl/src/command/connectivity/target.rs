//! The plan of a test: nodes, and the addresses to send to.

use flannel_core::backend::Probe;
use flannel_core::family::Family;
use flanneld::kernel::Observation;

use super::report::Node;
use crate::failure::{Kind, fail};
use crate::node::view::View;

/// The plan of a test.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Key of the lease of this node.
    pub(super) own: String,
    /// All nodes, including this one.
    pub(super) nodes: Vec<Node>,
    pub(super) targets: Vec<Target>,
}

/// A path to a node.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Key of the lease of the node.
    pub(super) to: String,
    pub(super) family: Family,
    pub(super) probe: Probe,
}

pub(super) fn plan(view: &View, observation: &Observation) -> anyhow::Result<Plan> {
    let Some(own) = view.own.as_ref().filter(|own| own.published.is_some()) else {
        let message = format!("this host ({}) has no lease", view.node.external().public);
        let fix = "Start flanneld, or run the command on a node of `flannelctl lease list`.";
        return fail(Kind::NotFound, message, fix);
    };
    let leases = view.table.leases().iter();
    let nodes = leases.map(|(subnets, entry)| Node::new(subnets, &entry.lease.attrs)).collect();
    let (backend, external_mtu) = (&view.node.config().backend, view.node.external().mtu);
    let mut targets = Vec::new();
    for (subnets, attrs) in view.peers() {
        for family in view.node.families() {
            let Some(subnet) = subnets.get(family) else { continue };
            let probe = backend.probe(attrs, subnet.trunc(), external_mtu, &observation.dataplane.links);
            targets.extend(probe.map(|probe| Target { to: subnets.to_string(), family, probe }));
        }
    }
    Ok(Plan { own: own.subnets.to_string(), nodes, targets })
}
