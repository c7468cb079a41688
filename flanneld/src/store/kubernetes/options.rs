//! How to reach the Kubernetes API, and who this node is, from flags and variables.

use flannel_core::kubernetes::Prefix;
use std::path::{Path, PathBuf};

use crate::flag::{Flag, Kind};
use crate::store::error::StoreOptionsError;
use crate::store::identity::{KUBERNETES, scope};
use crate::store::kubernetes::config_map::{CONFIG_MAP, ConfigMap};

/// The flag that selects this store.
pub(in crate::store) const KUBE_SUBNET_MGR: Flag = Flag::text(
    "kube-subnet-mgr",
    "",
    "false",
    "Use the annotations and podCIDRs of Kubernetes nodes as the store",
)
.with_kind(Kind::Switch);
const API_URL: Flag = Flag::text(
    "kube-api-url",
    "URL",
    "",
    "URL of the Kubernetes API server, instead of that of the kubeconfig or of the pod's environment",
);
const ANNOTATION_PREFIX: Flag = Flag::text(
    "kube-annotation-prefix",
    "PREFIX",
    "flannel.alpha.coreos.com",
    "Prefix of the annotations of Kubernetes nodes",
);
const KUBECONFIG: Flag = Flag::text(
    "kubeconfig-file",
    "FILE",
    "",
    "Kubeconfig for the Kubernetes API, instead of the service account of the pod",
);
const NET_CONFIG: Flag = Flag::text(
    "net-config-path",
    "FILE",
    "/etc/kube-flannel/net-conf.json",
    "File with the network config, with --kube-subnet-mgr",
);
const SET_AVAILABLE: Flag = Flag::text(
    "set-node-network-unavailable",
    "",
    "true",
    "Set NetworkUnavailable of the Kubernetes node to False when pods can start",
)
.with_kind(Kind::Switch);
const SET_UNAVAILABLE: Flag = Flag::text(
    "report-node-network-unavailable",
    "",
    "false",
    "Set NetworkUnavailable of the Kubernetes node to True while pods cannot start",
)
.with_kind(Kind::Switch)
.extension();

/// The flags of this store.
pub(in crate::store) const FLAGS: [Flag; 7] =
    [KUBE_SUBNET_MGR, API_URL, ANNOTATION_PREFIX, KUBECONFIG, NET_CONFIG, SET_AVAILABLE, SET_UNAVAILABLE];

/// How to reach the API, and who this node is.
#[derive(Clone, Debug)]
#[cfg_attr(
    not(feature = "kubernetes"),
    expect(dead_code, reason = "without the feature, the options are checked and shown, but not used")
)]
pub(in crate::store) struct KubernetesOptions {
    /// `--kubeconfig-file`.
    pub(super) kubeconfig: Option<PathBuf>,
    /// `--kube-api-url`.
    pub(super) api_url: Option<String>,
    /// `--kube-annotation-prefix`, as written and as it is used.
    prefix_text: String,
    pub(super) prefix: Prefix,
    /// Whether the prefix is the default.
    has_default_prefix: bool,
    /// `--net-config-path`.
    pub(super) net_config: PathBuf,
    /// The ConfigMap that the file comes from.
    pub(in crate::store) config_map: ConfigMap,
    /// Whether the network config is read from the ConfigMap instead of the file.
    pub(in crate::store) reads_config_map: bool,
    /// URL of the API server in the environment of a pod.
    pub(super) service: Option<String>,
    /// The root directory of the process that has these options, if it is not that of this one.
    pub(in crate::store) root: Option<PathBuf>,
    /// The pod of the process that has these options: its namespace and its name.
    pub(super) pod: Option<(String, String)>,
    /// Where the name of this node is.
    pub(super) node: NodeName,
    /// `--set-node-network-unavailable`.
    pub(super) sets_available: bool,
    /// `--report-node-network-unavailable`.
    pub(super) sets_unavailable: bool,
}

/// Where the name of this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NodeName {
    /// `NODE_NAME`.
    Given(String),
    /// `spec.nodeName` of the pod `POD_NAME` in `POD_NAMESPACE`.
    OfPod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Nowhere: this host need not be a node.
    Unknown,
}

impl KubernetesOptions {
    /// Converts the values of [`FLAGS`], and the variables of the environment.
    ///
    /// # Errors
    ///
    /// Fails if they contradict each other, or if one is invalid or missing.
    pub(in crate::store) fn new(
        value: impl Fn(&Flag) -> Option<String>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, StoreOptionsError> {
        let node = NodeName::from_env(&filled(&env))?;
        Self::with_node(value, env, node)
    }

    fn with_node(
        value: impl Fn(&Flag) -> Option<String>,
        env: impl Fn(&str) -> Option<String>,
        node: NodeName,
    ) -> Result<Self, StoreOptionsError> {
        let or_default = |flag: &Flag| value(flag).unwrap_or_else(|| flag.default.to_owned());
        let text = |flag: &Flag| value(flag).filter(|text| !text.is_empty());
        let switch = |flag: &Flag| is_true(&or_default(flag));
        let env = filled(&env);
        let prefix_text = or_default(&ANNOTATION_PREFIX);
        let prefix = prefix_text.parse().map_err(|rule| {
            StoreOptionsError(format!(
                "{} is {prefix_text:?}, but must be {rule}; for example {0}={}",
                ANNOTATION_PREFIX.dashed(),
                ANNOTATION_PREFIX.default
            ))
        })?;
        check_queue_depth(env("EVENT_QUEUE_DEPTH"))?;
        let pod = env("POD_NAMESPACE").zip(env("POD_NAME"));
        let options = Self {
            kubeconfig: text(&KUBECONFIG).map(PathBuf::from),
            api_url: text(&API_URL),
            prefix_text,
            prefix,
            has_default_prefix: value(&ANNOTATION_PREFIX).is_none(),
            net_config: PathBuf::from(text(&NET_CONFIG).unwrap_or_else(|| NET_CONFIG.default.to_owned())),
            config_map: ConfigMap::of_namespace(env("POD_NAMESPACE")),
            reads_config_map: false,
            service: service(&env),
            root: None,
            pod,
            node,
            sets_available: switch(&SET_AVAILABLE),
            sets_unavailable: switch(&SET_UNAVAILABLE),
        };
        options.check_api()?;
        Ok(options)
    }

    /// The same for a client, which need not run on a node. Without a file, it reads the network config from the ConfigMap.
    ///
    /// # Errors
    ///
    /// Fails as [`KubernetesOptions::new`] does.
    pub(in crate::store) fn of_client(
        value: impl Fn(&Flag) -> Option<String>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, StoreOptionsError> {
        let reads_config_map = value(&NET_CONFIG).is_none();
        let node = NodeName::from_env(&filled(&env)).unwrap_or(NodeName::Unknown);
        let mut options = Self::with_node(value, env, node)?;
        options.reads_config_map = reads_config_map;
        Ok(options)
    }

    /// Takes what a client does not specify from the options of the daemon of its node.
    pub(in crate::store) fn complete(&mut self, daemon: &Self) {
        if self.has_default_prefix {
            self.prefix_text.clone_from(&daemon.prefix_text);
            self.prefix = daemon.prefix.clone();
        }
        if self.node == NodeName::Unknown {
            self.node = daemon.node.clone();
        }
        self.config_map = daemon.config_map.clone();
    }

    fn check_api(&self) -> Result<(), StoreOptionsError> {
        match &self.api_url {
            Some(url) if !is_url(url) => Err(StoreOptionsError(format!(
                "{} is {url:?}, but must be http://host:port or https://host:port; for example {0}=https://192.0.2.1:6443",
                API_URL.dashed()
            ))),
            None if self.kubeconfig.is_none() && self.service.is_none() => Err(StoreOptionsError(format!(
                "{} does not know the Kubernetes API server: KUBERNETES_SERVICE_HOST is not set, so this is not a pod; \
                 use {} or {}",
                KUBE_SUBNET_MGR.dashed(),
                KUBECONFIG.dashed(),
                API_URL.dashed()
            ))),
            _ => Ok(()),
        }
    }

    /// The scope of this store.
    pub(in crate::store) fn scope(&self) -> String {
        scope(KUBERNETES, &format!("/{}", self.prefix_text))
    }

    /// Where a file of the process that has these options is.
    pub(super) fn path(&self, file: &Path) -> PathBuf {
        match &self.root {
            Some(root) => root.join(file.strip_prefix("/").unwrap_or(file)),
            None => file.to_owned(),
        }
    }

    /// The flags that these options were made from; none where every node has an identity of its own.
    pub(in crate::store) fn public_flags(&self) -> Vec<String> {
        if self.kubeconfig.is_none() && self.api_url.is_none() {
            return Vec::new();
        }
        let mut flags = vec![KUBE_SUBNET_MGR.dashed()];
        let mut add = |flag: &Flag, text: String| flags.push(format!("{}={text}", flag.dashed()));
        add(&ANNOTATION_PREFIX, self.prefix_text.clone());
        if self.reads_config_map {
            add(&CONFIG_MAP, self.config_map.to_string());
        } else {
            add(&NET_CONFIG, self.net_config.display().to_string());
        }
        if let Some(path) = &self.kubeconfig {
            add(&KUBECONFIG, path.display().to_string());
        }
        if let Some(url) = &self.api_url {
            add(&API_URL, url.clone());
        }
        flags
    }
}

impl NodeName {
    fn from_env(env: &impl Fn(&str) -> Option<String>) -> Result<Self, StoreOptionsError> {
        if let Some(name) = env("NODE_NAME") {
            return Ok(Self::Given(name));
        }
        match (env("POD_NAMESPACE"), env("POD_NAME")) {
            (Some(namespace), Some(name)) => Ok(Self::OfPod { namespace, name }),
            (namespace, name) => {
                let missing = match (namespace, name) {
                    (None, Some(_)) => "POD_NAMESPACE",
                    (Some(_), None) => "POD_NAME",
                    _ => "NODE_NAME",
                };
                Err(StoreOptionsError(format!(
                    "{} needs the name of this node, but {missing} is not set: set NODE_NAME, or both POD_NAME and \
                     POD_NAMESPACE (in a pod by fieldRef: spec.nodeName, metadata.name, metadata.namespace)",
                    KUBE_SUBNET_MGR.dashed()
                )))
            }
        }
    }
}

/// Variables without those that are empty.
fn filled(env: &impl Fn(&str) -> Option<String>) -> impl Fn(&str) -> Option<String> {
    move |name| env(name).filter(|text| !text.is_empty())
}

/// The URL of the API server in the environment of a pod.
fn service(env: &impl Fn(&str) -> Option<String>) -> Option<String> {
    let host = env("KUBERNETES_SERVICE_HOST")?;
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let port = env("KUBERNETES_SERVICE_PORT").unwrap_or_else(|| "443".to_owned());
    Some(format!("https://{host}:{port}"))
}

/// Whether a switch is on. Its form was checked before.
pub(in crate::store) fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "TRUE" | "true" | "True")
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        text.parse::<hyper::Uri>().is_ok_and(|url| url.host().is_some()) && !rest.contains('@')
    })
}

/// Compatibility: Go flannel has a queue of events of this size, and does not start if it is not a number. Here it has no
/// effect: only the newest state of a node counts.
fn check_queue_depth(text: Option<String>) -> Result<(), StoreOptionsError> {
    match text {
        Some(text) if text.parse::<i64>().is_err() => Err(StoreOptionsError(format!(
            "EVENT_QUEUE_DEPTH is {text:?}, but must be a number; for example EVENT_QUEUE_DEPTH=5000"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
