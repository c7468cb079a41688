//! The listing: whole nodes, as a stream or page by page, of which only the records are kept.

use flannel_core::kubernetes::{self, FrameReader, ListEnd, Node, NodeListReader, WatchItem};
use flannel_core::store::{Listing, OwnNode, Ownership, Record};
use std::collections::BTreeMap;
use tokio::time::Instant;
use tracing::debug;

use super::api::{Answer, Call, LIST_LIMIT, Part, accept, piece};
use super::error::{RequestError, malformed};
use super::nodes::Nodes;
use super::session::{Session, Streams};
use crate::error::chain;
use crate::store::error::StoreError;
use crate::store::operation::Operation;
use flannel_core::config::NetworkConfig;
use flannel_core::family::Family;

/// Nodes in a page. As in Go flannel; a server that answers from its cache sends all of them in one page.
const PAGE: usize = 500;
/// How often a listing starts again because the token of its next page has expired.
const ATTEMPTS: usize = 3;
/// A page in JSON is read as a whole.
const PAGE_LIMIT: usize = 64 << 20;

/// Lists the nodes and reads the network config.
pub(super) async fn list(store: &Session) -> Result<Listing, StoreError> {
    let name = store.name().await?.to_owned();
    let config = store.read_config().await?;
    let families = match config
        .as_ref()
        .and_then(|config| NetworkConfig::parse_for(&config.text, Ownership::Assigned).ok())
    {
        Some(config) => (config.has(Family::V4), config.has(Family::V6)),
        None => (true, true),
    };
    // Built beside the present state, which a watch may use.
    let mut nodes = Nodes::default();
    store.with_state(|state| {
        nodes.own.held = state.nodes.own.held;
        nodes.own.published.clone_from(&state.nodes.own.published);
    });
    (nodes.own.name, nodes.own.families) = (name, families);
    let mut reading =
        Reading { store, nodes, records: BTreeMap::new(), own: OwnNode::default(), others: Vec::new() };
    let mut attempts = 0;
    let end = loop {
        attempts += 1;
        match reading.all().await {
            Ok(end) => break end,
            Err(RequestError::Gone) if attempts < ATTEMPTS => reading.restart(),
            Err(RequestError::Gone) => {
                let error = "the pages of a listing expired before they were read";
                return Err(super::error::unreachable(&store.shared.api.location(), Operation::List, error));
            }
            Err(error) => return Err(error.into()),
        }
    };
    let Reading { mut nodes, mut records, own, others, .. } = reading;
    nodes.settle(&mut records);
    let mut records: Vec<Record> = records.into_values().collect();
    records.sort_by(|one, other| one.key.cmp(&other.key));
    store.with_state(|state| {
        // What this node has published meanwhile.
        nodes.own.held = state.nodes.own.held;
        nodes.own.published = state.nodes.own.published.take();
        state.nodes = nodes;
        state.config.clone_from(&config);
        state.listed = Some(end.revision);
        state.others = others;
    });
    Ok(Listing { revision: end.revision, config, records, own })
}

/// A listing under way.
struct Reading<'a> {
    store: &'a Session,
    nodes: Nodes,
    /// By name of the node, which a stream may deliver more than once.
    records: BTreeMap<String, Record>,
    own: OwnNode,
    /// Nodes whose daemons use another prefix, and that prefix.
    others: Vec<(String, String)>,
}

impl Reading<'_> {
    fn restart(&mut self) {
        self.nodes.clear();
        self.records.clear();
        self.others.clear();
    }

    /// Reads all nodes: as a stream where the server offers it, which costs it least, otherwise in pages. A stream that fails is
    /// followed by pages, in case a proxy holds streams back.
    async fn all(&mut self) -> Result<ListEnd, RequestError> {
        if self.store.may_stream() {
            match self.streamed().await {
                Err(RequestError::NotAcceptable(error)) => {
                    debug!(error = %chain(&error), "server does not stream lists, using pages");
                    self.store.set_streams(Streams::Never);
                    self.restart();
                }
                Err(error) => {
                    self.store.set_streams(Streams::Later);
                    return Err(error);
                }
                Ok(end) => return Ok(end),
            }
        }
        let end = self.pages().await?;
        self.store.set_streams(Streams::Now);
        Ok(end)
    }

    /// Reads a streaming list: a watch that begins with all nodes and a bookmark.
    /// Source: <https://kubernetes.io/docs/reference/using-api/api-concepts/#streaming-lists>.
    async fn streamed(&mut self) -> Result<ListEnd, RequestError> {
        let call = Call {
            operation: Operation::List,
            path: "/api/v1/nodes?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                   &allowWatchBookmarks=true&timeoutSeconds=120"
                .to_owned(),
            accept: accept(false, Part::Whole, true),
            content: None,
        };
        let started = Instant::now();
        let list = self.stream(&call).await;
        self.store.shared.api.count(Operation::List, started, &list);
        list
    }

    async fn stream(&mut self, call: &Call) -> Result<ListEnd, RequestError> {
        let store = self.store;
        let location = store.shared.api.location();
        let ended = |why: &str| super::error::unreachable(&location, Operation::List, why);
        let mut answer = store.shared.api.send(call).await?;
        if answer.is_json {
            return Err(RequestError::NotAcceptable(ended("the stream is JSON")));
        }
        let mut frames = FrameReader::default();
        while let Some(bytes) =
            piece(&mut answer, Operation::List, Some(LIST_LIMIT)).await.map_err(RequestError::Failed)?
        {
            frames.push(&bytes);
            let failed = |error| RequestError::Failed(store.garbled(Operation::List, false, &error));
            while let Some(item) = frames.next(&store.shared.options.prefix).map_err(failed)? {
                match item {
                    WatchItem::Applied(node) => self.take(node),
                    WatchItem::Bookmark { node, is_initial: true } => {
                        return Ok(ListEnd { revision: node.revision, next_page: String::new() });
                    }
                    WatchItem::Deleted(node) => {
                        self.nodes.delete(&node.name);
                        self.records.remove(&node.name);
                    }
                    WatchItem::Bookmark { .. } => {}
                    // An etcd before 3.5 cannot tell how far it is.
                    WatchItem::Failed(status) => {
                        return Err(RequestError::NotAcceptable(ended(&status.message)));
                    }
                }
            }
        }
        Err(RequestError::Failed(ended("the server closed the stream")))
    }

    async fn pages(&mut self) -> Result<ListEnd, RequestError> {
        let json_only = self.store.is_json_only();
        // From the cache of the server, which is cheap for it; as JSON, a page at a time must suffice.
        let source = if json_only { "" } else { "&resourceVersion=0" };
        let mut query = format!("limit={PAGE}{source}");
        loop {
            let call = Call {
                operation: Operation::List,
                path: format!("/api/v1/nodes?{query}"),
                accept: accept(json_only, Part::Whole, false),
                content: None,
            };
            let started = Instant::now();
            let page = self.page(&call).await;
            self.store.shared.api.count(Operation::List, started, &page);
            let end = page?;
            if end.next_page.is_empty() {
                return Ok(end);
            }
            query = format!("limit={PAGE}&continue={}", escape(&end.next_page));
        }
    }

    async fn page(&mut self, call: &Call) -> Result<ListEnd, RequestError> {
        let mut answer = self.store.shared.api.send(call).await?;
        if answer.is_json {
            return self.json_page(&mut answer).await;
        }
        let store = self.store;
        let failed = |error| RequestError::Failed(store.garbled(Operation::List, false, &error));
        let mut reader = NodeListReader::default();
        while let Some(bytes) =
            piece(&mut answer, Operation::List, Some(LIST_LIMIT)).await.map_err(RequestError::Failed)?
        {
            let prefix = &store.shared.options.prefix;
            reader.push(&bytes, prefix, |node| self.take(node)).map_err(failed)?;
        }
        reader.finish().map_err(failed)
    }

    async fn json_page(&mut self, answer: &mut Answer) -> Result<ListEnd, RequestError> {
        let store = self.store;
        let failed =
            |error| RequestError::Failed(malformed(&store.shared.api.location(), Operation::List, &error));
        let mut body = Vec::new();
        while let Some(bytes) =
            piece(answer, Operation::List, Some(LIST_LIMIT)).await.map_err(RequestError::Failed)?
        {
            body.extend_from_slice(&bytes);
            if body.len() > PAGE_LIMIT {
                return Err(failed(kubernetes::WireError::Invalid));
            }
        }
        let (nodes, end) =
            kubernetes::json::decode_list(&body, &store.shared.options.prefix).map_err(failed)?;
        nodes.into_iter().for_each(|node| self.take(node));
        Ok(end)
    }

    fn take(&mut self, node: Node) {
        let prefix = &self.store.shared.options.prefix;
        if node.name == self.nodes.own.name {
            self.own = self.nodes.take_own(&node, prefix);
        }
        if let Some(other) = node.other_prefix.as_ref().filter(|_| !node.annotations.is_managed()) {
            self.others.push((node.name.clone(), other.clone()));
        }
        let name = node.name.clone();
        match self.nodes.list(node, prefix) {
            Some(record) => drop(self.records.insert(name, record)),
            None => drop(self.records.remove(&name)),
        }
    }
}

/// Escapes a value of a query.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
