//! The store: what the nodes of a cluster are to a daemon.

use async_trait::async_trait;
use flannel_core::kubernetes::Published;
use flannel_core::lease::{LeaseAttrs, Revision, Subnets};
use flannel_core::store::Assignment;
use std::time::Duration;
use tokio::sync;

use super::error::unsupported;
use super::examine::examine;
use super::facts::ClusterFacts;
use super::options::KubernetesOptions;
use super::session::Session;
use super::watch::NodeWatch;
use super::{condition, list};
use crate::store::operation::Operation;
use crate::store::stats::StoreStats;
use crate::store::{
    CreateGuard, Held, Identity, LeaseChange, LeaseStore, Life, Listing, Ownership, Record, Serving,
    StoreError, Watch,
};

/// The nodes of one cluster.
pub(super) struct KubernetesStore(Session);

/// What to do about a missing or unsuitable podCIDR.
const ASSIGN: &str = "Run kube-controller-manager with --allocate-node-cidrs=true, and with --cluster-cidr equal to Network \
                      and IPv6Network of the network config; a node keeps its podCIDR until it is deleted and created again.";

/// Why a change of a lease is not one of flannel, and what to do instead.
const fn refusal(change: LeaseChange) -> (&'static str, &'static str) {
    match change {
        LeaseChange::Release => (
            "the lease of a node exists as long as the node",
            "Delete a node that no longer exists: `kubectl delete node NAME`.",
        ),
        LeaseChange::Reserve => (
            "Kubernetes assigns the subnets: spec.podCIDRs of a node",
            "Create the node with the subnet before its kubelet does: a Node with spec.podCIDR and spec.podCIDRs, by \
             `kubectl create`. Otherwise kube-controller-manager assigns one from --cluster-cidr, of the length in \
             --node-cidr-mask-size.",
        ),
        LeaseChange::Unreserve => (
            "Kubernetes has no reservations: a subnet belongs to a node until the node is deleted",
            "Delete the node to return its subnet: `kubectl delete node NAME`.",
        ),
        LeaseChange::Move => (
            "Kubernetes assigns the subnets, and spec.podCIDRs of a node never changes",
            "Replace the node: `kubectl drain NAME`, `kubectl delete node NAME`, create it with another spec.podCIDR and \
             spec.podCIDRs by `kubectl create`, then restart its kubelet.",
        ),
    }
}

impl KubernetesStore {
    pub(super) fn new(options: KubernetesOptions) -> Self {
        Self(Session::new(options))
    }
}

#[async_trait]
impl LeaseStore for KubernetesStore {
    fn identity(&self) -> &Identity {
        &self.0.shared.identity
    }

    fn stats(&self) -> StoreStats {
        self.0.shared.api.stats()
    }

    fn ownership(&self) -> Ownership {
        Ownership::Assigned
    }

    async fn assignment(&self) -> Result<Assignment, StoreError> {
        let name = self.0.name().await?;
        let node = self.0.read(name).await?;
        let Some(node) = node else {
            return Ok(Assignment {
                subnets: Subnets { v4: None, v6: None },
                attrs: None,
                revision: Revision::default(),
                place: format!("node {name}, which is not in the cluster,"),
                advice: "Check that the kubelet of this node is registered under this name, and NODE_NAME.",
            });
        };
        let prefix = &self.0.shared.options.prefix;
        let subnets = node
            .pod_cidrs
            .subnets()
            .map_err(|reason| unsupported(&format!("node {name} has unusable podCIDRs: {reason}"), ASSIGN))?;
        let revision = node.revision;
        let attrs = self.0.with_state(|state| {
            let attrs = state.nodes.own.attrs(&node.annotations, prefix);
            state.own = Some(node);
            attrs
        });
        let place = format!("spec.podCIDRs of node {name}");
        Ok(Assignment { subnets, attrs, revision, place, advice: ASSIGN })
    }

    async fn list(&self) -> Result<Listing, StoreError> {
        list::list(&self.0).await
    }

    async fn watch(&self, after: Revision) -> Result<Watch, StoreError> {
        Ok(Box::new(NodeWatch::open(&self.0, after).await?))
    }

    async fn create(
        &self,
        _subnets: &Subnets,
        _attrs: &LeaseAttrs,
        _guard: CreateGuard,
        _lifetime: Option<Duration>,
    ) -> Result<Held, StoreError> {
        let (reason, advice) = refusal(LeaseChange::Reserve);
        Err(unsupported(reason, advice))
    }

    async fn update(&self, subnets: &Subnets, attrs: &LeaseAttrs, held: &Held) -> Result<Held, StoreError> {
        let name = self.0.name().await?;
        let prefix = &self.0.shared.options.prefix;
        let known = self.0.with_state(|state| state.own.clone()).filter(|own| own.revision == held.revision);
        let node = known.ok_or(StoreError::Raced)?;
        let published = Published::new(attrs, &node.annotations, prefix).map_err(|reason| {
            unsupported(&format!("node {name}: {reason}"), "Correct it with kubectl annotate node.")
        })?;
        let patch = published.patch(&node.annotations, node.revision, prefix);
        // Before the write: its event may be delivered before its answer.
        self.0.with_state(|state| {
            state.nodes.own.held = Some(*subnets);
            state.nodes.own.published = Some((attrs.clone(), published));
        });
        let node = match patch {
            Some(patch) => self.0.patch(Operation::Update, name, patch).await?,
            None => node,
        };
        let revision = node.revision;
        self.0.with_state(|state| state.own = Some(node));
        Ok(Held { revision, grant: None, remaining: None })
    }

    async fn renew(&self, _subnets: &Subnets, held: &Held) -> Result<Held, StoreError> {
        Ok(*held)
    }

    async fn delete(&self, key: &str, _revision: Revision) -> Result<(), StoreError> {
        let (reason, advice) = refusal(LeaseChange::Release);
        Err(unsupported(&format!("lease {key}: {reason}"), advice))
    }

    async fn put_config(&self, text: &str, current: Option<Revision>) -> Result<Revision, StoreError> {
        self.0.write_config(text, current).await
    }

    async fn life(&self, _record: &Record) -> Result<Option<Life>, StoreError> {
        Ok(None)
    }

    async fn set_lifetime(
        &self,
        record: &Record,
        _lifetime: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        let (reason, advice) = refusal(LeaseChange::Unreserve);
        Err(unsupported(&format!("lease {}: {reason}", record.key), advice))
    }

    async fn announce(&self, serving: &Serving) -> Result<(), StoreError> {
        condition::announce(&self.0, serving).await
    }

    fn own_key(&self) -> Option<String> {
        self.0.with_state(|state| state.nodes.own_key())
    }

    fn refusal(&self, change: LeaseChange) -> Option<(&'static str, &'static str)> {
        Some(refusal(change))
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.0.head().await.map(drop)
    }

    async fn examine(&self) -> Option<ClusterFacts> {
        Some(examine(&self.0).await)
    }

    fn own_events(&self) -> sync::watch::Receiver<u64> {
        self.0.shared.own_events.subscribe()
    }
}
