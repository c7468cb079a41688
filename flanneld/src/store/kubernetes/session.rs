//! The state that all parts of the store share, and single requests.

use flannel_core::kubernetes::{self, ListEnd, Node};
use flannel_core::lease::Revision;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync;

use super::api::{Api, Call, Part, accept};
use super::config_file::ConfigFile;
use super::error::{RequestError, malformed, unsupported};
use super::nodes::Nodes;
use super::options::{KubernetesOptions, NodeName};
use crate::store::identity::KUBERNETES;
use crate::store::operation::Operation;
use crate::store::{ConfigRecord, Identity, StoreError};

/// The nodes of one cluster. Cloning shares the connection.
#[derive(Clone)]
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
}

/// The parts that all clones share.
pub(super) struct Shared {
    pub(super) options: KubernetesOptions,
    pub(super) identity: Identity,
    pub(super) api: Api,
    pub(super) config: ConfigFile,
    /// The name of this node.
    name: sync::OnceCell<String>,
    state: Mutex<State>,
    /// Counts events of this node that someone else caused.
    pub(super) own_events: sync::watch::Sender<u64>,
    /// A proxy damages protocol buffers.
    json_only: AtomicBool,
}

/// What is known of the cluster.
#[derive(Default)]
pub(super) struct State {
    pub(super) nodes: Nodes,
    /// This node, as it was read or written last.
    pub(super) own: Option<Node>,
    /// The network config that was delivered last.
    pub(super) config: Option<ConfigRecord>,
    /// The revision of the last listing, until a watch has begun there.
    pub(super) listed: Option<Revision>,
    /// While this node is written: the newest revision of it that the watch delivered meanwhile.
    writing: Option<Revision>,
    /// Nodes whose daemons use another prefix, and that prefix; according to the last listing.
    pub(super) others: Vec<(String, String)>,
    streams: Streams,
}

impl State {
    /// Whether an event of this node is that of someone else. While a write is under way, its answer tells.
    pub(super) fn is_news(&mut self, revision: Revision) -> bool {
        match &mut self.writing {
            Some(newest) => {
                *newest = revision;
                false
            }
            None => self.own.as_ref().is_none_or(|own| own.revision.is_before(revision)),
        }
    }
}

/// When a list may be streamed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Streams {
    /// The next one.
    #[default]
    Now,
    /// After one in pages.
    Later,
    /// The server does not offer it.
    Never,
}

impl Session {
    pub(super) fn new(options: KubernetesOptions) -> Self {
        let api = Api::new(options.clone());
        let identity = Identity {
            kind: KUBERNETES,
            location: format!("{}, annotations {}", api.location(), options.prefix),
            config_place: match options.reads_config_map {
                true => format!("the ConfigMap {}", options.config_map),
                false => format!("the file {}", options.net_config.display()),
            },
            scope: options.scope(),
        };
        let config = ConfigFile(options.path(&options.net_config));
        Self {
            shared: Arc::new(Shared {
                options,
                identity,
                api,
                config,
                name: sync::OnceCell::new(),
                state: Mutex::default(),
                own_events: sync::watch::Sender::default(),
                json_only: AtomicBool::new(false),
            }),
        }
    }

    /// Runs `change` on the state, which a panic cannot make inconsistent.
    pub(super) fn with_state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.shared.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the name of this node, which is read once.
    pub(super) async fn name(&self) -> Result<&str, StoreError> {
        let (namespace, pod) = match &self.shared.options.node {
            NodeName::Given(name) => return Ok(name),
            NodeName::Unknown => return Ok(""),
            NodeName::OfPod { namespace, name } => (namespace, name),
        };
        let name = self.shared.name.get_or_try_init(|| self.node_of_pod(namespace, pod)).await?;
        Ok(name)
    }

    async fn node_of_pod(&self, namespace: &str, pod: &str) -> Result<String, StoreError> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}");
        let call = Call::get(Operation::FindNode, path).in_json();
        let missing = |what: &str| {
            unsupported(
                &format!("{what} pod {namespace}/{pod}, which POD_NAMESPACE and POD_NAME specify"),
                "Set NODE_NAME, or POD_NAME and POD_NAMESPACE of the pod of flanneld.",
            )
        };
        let (body, _) = match self.shared.api.call(&call).await {
            Err(RequestError::NotFound) => return Err(missing("the cluster has no")),
            other => other.map_err(StoreError::from)?,
        };
        match kubernetes::json::decode_pod_node(&body) {
            Ok(Some(name)) => Ok(name),
            Ok(None) => Err(missing("no node is assigned to the")),
            Err(error) => Err(malformed(&self.shared.api.location(), Operation::FindNode, &error)),
        }
    }

    /// Reads a node; `None` if it does not exist.
    pub(super) async fn read(&self, name: &str) -> Result<Option<Node>, StoreError> {
        let call = self.form(Call::get(Operation::Read, format!("/api/v1/nodes/{name}")));
        match self.shared.api.call(&call).await {
            Ok((body, is_json)) => self.decode(Operation::Read, &body, is_json).map(Some),
            Err(RequestError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads the metadata of one node, and the revision of the cluster.
    pub(super) async fn head(&self) -> Result<ListEnd, StoreError> {
        let call = Call {
            accept: accept(true, Part::Metadata, false),
            ..Call::get(Operation::Verify, "/api/v1/nodes?limit=1".to_owned())
        };
        let (body, _) = self.shared.api.call(&call).await?;
        let (_, end) = kubernetes::json::decode_list(&body, &self.shared.options.prefix)
            .map_err(|error| self.garbled(Operation::Verify, true, &error))?;
        Ok(end)
    }

    /// Reads the network config; `None` if there is none.
    pub(super) async fn read_config(&self) -> Result<Option<ConfigRecord>, StoreError> {
        if !self.shared.options.reads_config_map {
            return self.shared.config.read();
        }
        let Some((revision, text)) = self.read_config_map().await? else { return Ok(None) };
        Ok(text.map(|text| ConfigRecord { revision, text }))
    }

    /// Reads the ConfigMap: its revision and the network config in it; `None` if it does not exist.
    async fn read_config_map(&self) -> Result<Option<(Revision, Option<String>)>, StoreError> {
        let map = &self.shared.options.config_map;
        match self.shared.api.call(&Call::get(Operation::ReadConfig, map.path()).in_json()).await {
            Ok((body, _)) => self.decode_config_map(&body).map(Some),
            Err(RequestError::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the network config to the ConfigMap, if it is still the one with the revision `current`.
    pub(super) async fn write_config(
        &self,
        text: &str,
        current: Option<Revision>,
    ) -> Result<Revision, StoreError> {
        let map = &self.shared.options.config_map;
        let Some((revision, present)) = self.read_config_map().await? else {
            let error = format!(
                "the ConfigMap {map} does not exist: install flannel with its manifest, or specify --kube-config-map"
            );
            return Err(unsupported(
                &error,
                "Install flannel with its manifest, or specify --kube-config-map.",
            ));
        };
        if present.map(|_| revision) != current {
            return Err(StoreError::Raced);
        }
        let patch = serde_json::json!({
            "metadata": {"resourceVersion": revision.to_string()},
            "data": {map.key.as_str(): text},
        });
        let call = Call::patch(Operation::PutConfig, map.path(), patch.to_string()).in_json();
        let (body, _) = self.shared.api.call(&call).await?;
        Ok(self.decode_config_map(&body)?.0)
    }

    fn decode_config_map(&self, body: &[u8]) -> Result<(Revision, Option<String>), StoreError> {
        let Shared { options, api, .. } = &*self.shared;
        kubernetes::json::decode_config_map(body, &options.config_map.key)
            .map_err(|error| malformed(&api.location(), Operation::ReadConfig, &error))
    }

    /// Writes the status of this node; returns it as it is then.
    pub(super) async fn patch(
        &self,
        operation: Operation,
        name: &str,
        patch: String,
    ) -> Result<Node, StoreError> {
        let call = self.form(Call::patch(operation, format!("/api/v1/nodes/{name}/status"), patch));
        self.with_state(|state| state.writing = Some(Revision::default()));
        let node = match self.shared.api.call(&call).await {
            Ok((body, is_json)) => self.decode(operation, &body, is_json),
            // It was deleted meanwhile.
            Err(RequestError::NotFound) => Err(StoreError::Raced),
            Err(error) => Err(error.into()),
        };
        let written = node.as_ref().map_or_else(|_| Revision::default(), |node| node.revision);
        let seen = self.with_state(|state| state.writing.take()).unwrap_or_default();
        if written.is_before(seen) {
            self.shared.own_events.send_modify(|count| *count += 1);
        }
        node
    }

    /// Whether only JSON arrives undamaged.
    pub(super) fn is_json_only(&self) -> bool {
        self.shared.json_only.load(Ordering::Relaxed)
    }

    /// Whether the next list may be streamed.
    pub(super) fn may_stream(&self) -> bool {
        !self.is_json_only() && self.with_state(|state| state.streams == Streams::Now)
    }

    /// Notes when lists may be streamed. A server that does not offer it is not asked again.
    pub(super) fn set_streams(&self, streams: Streams) {
        self.with_state(|state| {
            if state.streams != Streams::Never {
                state.streams = streams;
            }
        });
    }

    fn form(&self, call: Call) -> Call {
        if self.is_json_only() { call.in_json() } else { call }
    }

    fn decode(&self, operation: Operation, body: &[u8], is_json: bool) -> Result<Node, StoreError> {
        let prefix = &self.shared.options.prefix;
        let node = if is_json {
            kubernetes::json::decode_node(body, prefix)
        } else {
            kubernetes::decode_node(body, prefix)
        };
        node.map_err(|error| self.garbled(operation, is_json, &error))
    }

    /// An answer that cannot be read. If it should be protocol buffers, a proxy damages them: JSON is requested from now on.
    pub(super) fn garbled(
        &self,
        operation: Operation,
        is_json: bool,
        error: &kubernetes::WireError,
    ) -> StoreError {
        if !is_json {
            self.shared.json_only.store(true, Ordering::Relaxed);
        }
        malformed(&self.shared.api.location(), operation, error)
    }
}

impl From<RequestError> for StoreError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Failed(error) | RequestError::NotAcceptable(error) => error,
            RequestError::NotFound | RequestError::Gone => Self::Raced,
        }
    }
}
