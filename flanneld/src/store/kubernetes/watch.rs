//! The watch: metadata of nodes, in protocol buffers or as lines of JSON, and the file with the network config.

use async_trait::async_trait;
use flannel_core::kubernetes::{self, FrameReader, Node, WatchItem};
use flannel_core::lease::Revision;
use flannel_core::store::Change;
use futures_util::future::try_join_all;
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::time::Duration;
use tokio::time::Instant;

use super::api::{Answer, Call, Part, accept, piece};
use super::config_file::ConfigFile;
use super::error::{RequestError, rejected, unreachable, unusable};
use super::nodes::Need;
use super::session::Session;
use crate::store::error::StoreError;
use crate::store::notices::Notices;
use crate::store::operation::Operation;
use crate::store::{LeaseWatch, WatchEvent};

/// The server sends a bookmark every minute. A connection that it no longer has is silent.
const SILENCE: Duration = Duration::from_secs(90);
/// The server ends a watch after this time, so that watches spread over the servers again.
const LIFETIME: Duration = Duration::from_secs(480);
/// Nodes that are read at a time.
const AT_ONCE: usize = 8;
/// A line of JSON is not longer.
const LINE_LIMIT: usize = 16 << 20;

/// A running watch.
pub(super) struct NodeWatch {
    store: Session,
    after: Revision,
    notices: Notices,
    /// The file may have changed since it was read.
    is_file_checked: bool,
    stream: Option<Stream>,
    /// Events that wait for a node to be read.
    pending: VecDeque<WatchItem>,
}

/// An open stream of events.
struct Stream {
    answer: Answer,
    frames: FrameReader,
    lines: Vec<u8>,
    opened: Instant,
}

impl NodeWatch {
    /// Opens a watch. After a break, checks first that the store is still the one that was listed.
    pub(super) async fn open(store: &Session, after: Revision) -> Result<Self, StoreError> {
        let notices = Notices::open().map_err(|error| notices_failed(&error))?;
        let is_listed = store.with_state(|state| state.listed.take()) == Some(after);
        let is_same = is_listed || is_same_store(store, after).await?;
        let stream = if is_same { connect(store, after).await? } else { None };
        let (store, pending) = (store.clone(), VecDeque::new());
        Ok(Self { store, after, notices, is_file_checked: false, stream, pending })
    }

    /// Returns a network config that was not delivered yet.
    async fn check_file(&mut self) -> Result<Option<WatchEvent>, StoreError> {
        // Before it is read, so that no change falls in between.
        self.store.shared.config.subscribe(&self.notices);
        let config = self.store.read_config().await?;
        self.is_file_checked = true;
        let is_news = self.store.with_state(|state| {
            let text = |config: &Option<crate::store::ConfigRecord>| {
                config.as_ref().map(|config| config.text.clone())
            };
            let is_news = text(&state.config) != text(&config);
            if is_news {
                state.config.clone_from(&config);
            }
            is_news
        });
        let changes = vec![Change::Config(config)];
        Ok(is_news.then_some(WatchEvent::Changes { revision: self.after, changes }))
    }

    /// Reads the nodes that the pending events need, and applies the events. Nothing is lost if this is dropped at an await.
    async fn take_pending(&mut self) -> Result<WatchEvent, StoreError> {
        let store = self.store.clone();
        loop {
            let names: BTreeSet<String> = store.with_state(|state| {
                let nodes = self.pending.iter().filter_map(|item| match item {
                    WatchItem::Applied(node) if state.nodes.need(node) == Need::Node => {
                        Some(node.name.clone())
                    }
                    _ => None,
                });
                nodes.take(AT_ONCE).collect()
            });
            if names.is_empty() {
                break;
            }
            let read = try_join_all(names.iter().map(|name| store.read(name))).await?;
            for (name, node) in names.iter().zip(read) {
                self.complete(name, node);
            }
        }
        self.apply()
    }

    /// Adds what was read to the pending events of a node. The state that was read may be newer than that of the events, which the next event repeats.
    fn complete(&mut self, name: &str, read: Option<Node>) {
        for item in &mut self.pending {
            let WatchItem::Applied(node) = item else { continue };
            if node.name != name {
                continue;
            }
            match &read {
                Some(read) if read.uid == node.uid && !read.pod_cidrs.0.is_empty() => {
                    node.pod_cidrs.clone_from(&read.pod_cidrs);
                }
                // It has no podCIDR yet, was deleted, or was created again: a later event tells.
                _ => *item = WatchItem::Bookmark { node: node.clone(), is_initial: false },
            }
        }
    }

    fn apply(&mut self) -> Result<WatchEvent, StoreError> {
        let store = self.store.clone();
        let prefix = &store.shared.options.prefix;
        let mut changes = Vec::new();
        let mut is_own = false;
        while let Some(item) = self.pending.pop_front() {
            let node = match item {
                WatchItem::Applied(node) | WatchItem::Deleted(node) | WatchItem::Bookmark { node, .. }
                    if node.revision.is_before(self.after) =>
                {
                    // The server has lost what it had.
                    return Ok(WatchEvent::Outdated);
                }
                WatchItem::Failed(status) => {
                    return match rejected(&store.shared.api.location(), Operation::Watch, &status) {
                        RequestError::Gone => Ok(WatchEvent::Outdated),
                        error => Err(error.into()),
                    };
                }
                item => item,
            };
            let (revision, changed) = store.with_state(|state| match node {
                WatchItem::Applied(node) => {
                    is_own |= node.name == state.nodes.own.name && state.is_news(node.revision);
                    (node.revision, state.nodes.apply(node, prefix))
                }
                WatchItem::Deleted(node) => (node.revision, state.nodes.delete(&node.name)),
                WatchItem::Bookmark { node, .. } => (node.revision, Vec::new()),
                WatchItem::Failed(_) => (self.after, Vec::new()),
            });
            self.after = revision;
            let is_shared = |change: &Change| match change {
                Change::Delete { key } => store.with_state(|state| state.nodes.is_shared(key)),
                _ => false,
            };
            if changed.iter().any(is_shared) {
                return Ok(WatchEvent::Outdated);
            }
            changes.extend(changed);
        }
        if is_own {
            store.shared.own_events.send_modify(|count| *count += 1);
        }
        Ok(WatchEvent::Changes { revision: self.after, changes })
    }

    /// Takes a piece of the stream.
    fn push(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let (store, prefix) = (&self.store, &self.store.shared.options.prefix);
        let is_json = stream.answer.is_json;
        let failed = |error| store.garbled(Operation::Watch, is_json, &error);
        if !is_json {
            stream.frames.push(bytes);
            while let Some(item) = stream.frames.next(prefix).map_err(failed)? {
                self.pending.push_back(item);
            }
            return Ok(());
        }
        stream.lines.extend_from_slice(bytes);
        while let Some(end) = stream.lines.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = stream.lines.drain(..=end).collect();
            if !line.trim_ascii().is_empty() {
                self.pending.push_back(kubernetes::json::decode_event(&line, prefix).map_err(failed)?);
            }
        }
        if stream.lines.len() > LINE_LIMIT { Err(failed(kubernetes::WireError::Invalid)) } else { Ok(()) }
    }

    /// The server has ended the stream, which it does from time to time.
    async fn reopen(&mut self) -> Result<(), StoreError> {
        let Some(stream) = self.stream.take() else { return Ok(()) };
        if stream.opened.elapsed() < LIFETIME / 2 {
            let location = self.store.shared.api.location();
            return Err(unreachable(&location, Operation::Watch, "the server closed the watch"));
        }
        self.stream = connect(&self.store, self.after).await?;
        Ok(())
    }
}

/// Whether the server knows the revision: one that was restored from a backup does not.
async fn is_same_store(store: &Session, after: Revision) -> Result<bool, StoreError> {
    let end = store.head().await?;
    Ok(!end.revision.is_before(after))
}

/// Opens the stream; `None` if the revision is too old.
async fn connect(store: &Session, after: Revision) -> Result<Option<Stream>, StoreError> {
    let json_only = store.is_json_only();
    let call = Call {
        operation: Operation::Watch,
        path: format!(
            "/api/v1/nodes?watch=1&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={}",
            after,
            LIFETIME.as_secs()
        ),
        accept: accept(json_only, Part::Metadata, true),
        content: None,
    };
    let started = Instant::now();
    let answer = store.shared.api.send(&call).await;
    store.shared.api.count(Operation::Watch, started, &answer);
    match answer {
        Ok(answer) => {
            let (frames, lines) = (FrameReader::default(), Vec::new());
            Ok(Some(Stream { answer, frames, lines, opened: Instant::now() }))
        }
        Err(RequestError::Gone) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[async_trait]
impl LeaseWatch for NodeWatch {
    async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        loop {
            if !self.is_file_checked
                && let Some(event) = self.check_file().await?
            {
                return Ok(event);
            }
            if !self.pending.is_empty() {
                return self.take_pending().await;
            }
            let Some(stream) = &mut self.stream else { return Ok(WatchEvent::Outdated) };
            let read = tokio::select! {
                changed = ConfigFile::changed(&self.notices) => {
                    changed.map_err(|error| notices_failed(&error))?;
                    self.is_file_checked = false;
                    continue;
                }
                read = piece(&mut stream.answer, Operation::Watch, None) => read?,
            };
            match read {
                Some(bytes) => self.push(&bytes)?,
                None => self.reopen().await?,
            }
        }
    }

    fn silence_limit(&self) -> Option<Duration> {
        Some(SILENCE)
    }
}

fn notices_failed(error: &io::Error) -> StoreError {
    unusable(format!("could not watch the network config: {error}"))
}
