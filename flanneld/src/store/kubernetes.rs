//! Leases as annotations of Kubernetes nodes. The cluster assigns the subnets: `spec.podCIDRs` of a node.
//!
//! ```text
//! --net-config-path                         the network config, usually from a ConfigMap
//! node  spec.podCIDRs                       the subnet
//!       metadata.annotations[<prefix>…]     how the node is reached; written by a PATCH of nodes/status
//!       status.conditions[NetworkUnavailable]   whether pods can start
//! ```
//!
//! Needs no right beyond those of `kube-flannel.yml`: get, list and watch nodes, patch nodes/status, and get pods where `NODE_NAME`
//! is not set. A listing reads whole nodes, page by page, and keeps only what flannel needs; the watch delivers metadata.
//! Source: <https://kubernetes.io/docs/reference/using-api/api-concepts/>.

#[cfg(feature = "kubernetes")]
mod api;
#[cfg(feature = "kubernetes")]
mod condition;
#[cfg(feature = "kubernetes")]
mod config_file;
mod config_map;
#[cfg(feature = "kubernetes")]
mod error;
#[cfg(feature = "kubernetes")]
mod examine;
mod facts;
#[cfg(feature = "kubernetes")]
mod list;
#[cfg(feature = "kubernetes")]
mod nodes;
mod options;
#[cfg(feature = "kubernetes")]
mod session;
#[cfg(feature = "kubernetes")]
mod store;
#[cfg(feature = "kubernetes")]
mod watch;

use super::Store;
use super::error::StoreOptionsError;
pub(super) use config_map::CONFIG_MAP;
pub use config_map::ConfigMap;
pub use facts::{ClusterFacts, Rule};
pub(super) use options::{FLAGS, KUBE_SUBNET_MGR, KubernetesOptions, is_true};

/// Opens the store. Nothing is connected or read yet.
#[cfg(feature = "kubernetes")]
pub(super) fn open(options: &KubernetesOptions) -> Result<Store, StoreOptionsError> {
    Ok(std::sync::Arc::new(store::KubernetesStore::new(options.clone())))
}

/// Fails: this build is without the feature.
#[cfg(not(feature = "kubernetes"))]
pub(super) fn open(_options: &KubernetesOptions) -> Result<Store, StoreOptionsError> {
    let flag = KUBE_SUBNET_MGR.dashed();
    Err(StoreOptionsError(format!(
        "{flag}: this flanneld was built without Kubernetes. Use etcd (--etcd-endpoints) or a directory (--lease-dir)."
    )))
}

#[cfg(feature = "kubernetes")]
#[cfg(test)]
mod tests;
