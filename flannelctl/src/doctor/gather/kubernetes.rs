//! The cluster of Kubernetes, and kube-proxy on this node.

use flannel_core::config::NetworkConfig;
use flannel_core::family::Family;
use flannel_core::store::Ownership;
use flanneld::store::{ClusterFacts, Store};
use serde_json::Value;

use crate::doctor::facts::{Hidden, KubernetesFacts};
use crate::node::kube_proxy::KubeProxy;

/// Reads what only a cluster of Kubernetes has. `rules` are texts of the packet filters, or why they are unknown.
pub(super) async fn read(
    store: &Store,
    config: Option<&str>,
    rules: &Result<Vec<String>, String>,
    hidden: &Hidden,
) -> Option<KubernetesFacts> {
    let cluster = store.examine().await?;
    let proxy = proxy(&cluster, rules, hidden);
    let subnet_lens = config.map(subnet_lens).unwrap_or_default();
    Some(KubernetesFacts { cluster, proxy, subnet_lens })
}

/// kube-proxy according to its process, its ConfigMap or its rules.
fn proxy(
    cluster: &ClusterFacts,
    rules: &Result<Vec<String>, String>,
    hidden: &Hidden,
) -> Result<Option<KubeProxy>, String> {
    if let Some(running) = KubeProxy::running() {
        return running.map(Some);
    }
    if let Ok(Some(text)) = &cluster.proxy {
        return KubeProxy::of_config("ConfigMap kube-system/kube-proxy".to_owned(), text).map(Some);
    }
    match (rules, &hidden.processes, &cluster.proxy) {
        (Ok(texts), ..) => Ok(KubeProxy::of_rules(texts)),
        (Err(_), None, _) => Ok(None),
        (Err(rules), Some(processes), Err(config)) => Err(format!("{processes}; {rules}; {config}")),
        (Err(rules), Some(processes), Ok(_)) => Err(format!("{processes}; {rules}")),
    }
}

/// The lengths of subnets that a config contains. Names are case-insensitive.
fn subnet_lens(text: &str) -> Vec<(Family, u64)> {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let members = value.as_object().into_iter().flatten();
    let lens = members.filter_map(|(key, len)| {
        let family = match key.to_ascii_lowercase().as_str() {
            "subnetlen" => Family::V4,
            "ipv6subnetlen" => Family::V6,
            _ => return None,
        };
        Some((family, len.as_u64().filter(|len| *len > 0)?))
    });
    let enabled = NetworkConfig::parse_for(text, Ownership::Assigned).ok();
    lens.filter(|(family, _)| enabled.as_ref().is_some_and(|config| config.has(*family))).collect()
}
