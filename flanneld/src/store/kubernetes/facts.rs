//! What a diagnosis needs to know of a cluster of Kubernetes, as plain values.

use flannel_core::kubernetes::Node;
use std::fmt;

/// A cluster of Kubernetes as a daemon on one of its nodes sees it.
#[derive(Clone, Debug)]
pub struct ClusterFacts {
    /// This node: `None` if the cluster has none of this name; or why it is unknown.
    pub node: Result<Option<Node>, String>,
    /// The name of this node, as far as it is known.
    pub name: String,
    /// The pod of the daemon, if it runs in one: its namespace and its name.
    pub pod: Option<(String, String)>,
    /// The prefix of the annotations of this node.
    pub prefix: String,
    /// Nodes whose daemons use another prefix, with that prefix.
    pub others: Vec<(String, String)>,
    /// The rules that the identity of the daemon lacks, or why they are unknown.
    pub missing: Result<Vec<Rule>, String>,
    /// Whether the daemon sets the condition `NetworkUnavailable` when pods can start.
    pub sets_available: bool,
    /// The configuration of kube-proxy, if there is one; or why it is unknown.
    pub proxy: Result<Option<String>, String>,
    /// The ConfigMap with the network config: its namespace and its name.
    pub config_map: String,
}

/// A rule of the ClusterRole of flannel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The resource of the core group.
    pub resource: &'static str,
    /// What is done with it.
    pub verbs: &'static [&'static str],
}

impl Rule {
    /// Lists and watches of peers.
    pub const NODES: Self = Self { resource: "nodes", verbs: &["get", "list", "watch"] };
    /// Annotations and the condition of this node.
    pub const STATUS: Self = Self { resource: "nodes/status", verbs: &["patch"] };
    /// The node of the own pod, without `NODE_NAME`.
    pub const PODS: Self = Self { resource: "pods", verbs: &["get"] };
    /// The network config: for flannelctl only.
    pub const CONFIG_MAPS: Self = Self { resource: "configmaps", verbs: &["get", "patch"] };

    /// Returns the rule as JSON, for `kubectl patch`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let Self { resource, verbs } = self;
        serde_json::json!({"apiGroups": [""], "resources": [resource], "verbs": verbs}).to_string()
    }
}

/// As in a manifest.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resource, verbs } = self;
        write!(f, "apiGroups: [\"\"], resources: [{resource}], verbs: [{}]", verbs.join(", "))
    }
}
