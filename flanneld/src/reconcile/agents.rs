//! What the agent of the backend is to do.

use flannel_core::desired::Assembly;
use flannel_core::lease::Subnets;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::Reconciler;
use crate::agent::{self, AgentOp, AgentState, Setup};
use crate::effector::Effector as _;
use crate::kernel::Kernel;

impl<K: Kernel> Reconciler<K> {
    /// The operations that the agent needs.
    pub(super) async fn plan_agent(&mut self, own: &Subnets, assembly: &Assembly) -> Vec<AgentOp> {
        let backend = &self.node.config().backend;
        let mut desired = AgentState::default();
        if self.agent.serves(backend) {
            let (backend, external) = (backend.clone(), self.node.external().clone());
            desired.setup = Some(Setup { backend, subnets: *own, external });
            let leases = assembly.leases().iter().filter(|(key, _)| !assembly.errors().contains_key(key));
            desired.peers = leases.map(|(key, lease)| (*key, Arc::clone(lease))).collect();
        }
        // An agent that cannot be observed does not work.
        let actual = self.agent.observe(&()).await.unwrap_or_default();
        agent::plan(&desired, &actual)
    }
}

/// The operations of the agent for leases that changed. Peers with a fault are not served.
pub(super) fn agent_ops(assembly: &Assembly, touched: &BTreeSet<Subnets>) -> impl Iterator<Item = AgentOp> {
    touched.iter().map(|key| match assembly.leases().get(key) {
        Some(lease) if !assembly.errors().contains_key(key) => AgentOp::SetPeer(Arc::clone(lease)),
        _ => AgentOp::RemovePeer(*key),
    })
}
