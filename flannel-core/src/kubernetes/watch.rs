//! The stream of a watch: frames with a length before them, and the events in them.

use super::annotations::Prefix;
use super::node::{Node, node};
use super::wire::{Fields, MAGIC, WireError, unwrap};

/// More than one event can have: an object that etcd stores, and its envelope.
const FRAME_LIMIT: usize = 16 << 20;

/// An event of a watch of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// A node was added or changed, or was there before the watch began.
    Applied(Node),
    /// A node was deleted.
    Deleted(Node),
    /// Everything up to the revision of this node, which has nothing else, was delivered. `is_initial` ends the nodes that were
    /// there before the watch began.
    Bookmark {
        /// Only its revision counts.
        node: Node,
        /// All nodes of the beginning were delivered.
        is_initial: bool,
    },
    /// The server ends the watch.
    Failed(ApiStatus),
}

/// An error of the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiStatus {
    /// Its text for people.
    pub message: String,
    /// Its reason in one word.
    pub reason: String,
    /// The code of HTTP.
    pub code: u16,
}

/// Splits a stream into frames.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
}

impl FrameReader {
    /// Takes the next piece of the stream.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// Returns the next event; `None` if it is not complete yet.
    ///
    /// # Errors
    ///
    /// Fails if the stream is not a watch of the Kubernetes API.
    pub fn next(&mut self, prefix: &Prefix) -> Result<Option<WatchItem>, WireError> {
        let Some((len, rest)) = self.buffer.split_first_chunk::<4>() else { return Ok(None) };
        let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| WireError::Invalid)?;
        if len > FRAME_LIMIT {
            return Err(WireError::Invalid);
        }
        let Some(frame) = rest.get(..len) else { return Ok(None) };
        let item = event(frame, prefix)?;
        self.buffer.drain(..4 + len);
        Ok(Some(item))
    }
}

/// Decodes a `WatchEvent`. Its object has an envelope of its own.
fn event(frame: &[u8], prefix: &Prefix) -> Result<WatchItem, WireError> {
    let frame = if frame.starts_with(MAGIC) { unwrap(frame)? } else { frame };
    let (mut kind, mut object): (&[u8], &[u8]) = (&[], &[]);
    for field in Fields(frame) {
        match field? {
            (1, value) => kind = value.bytes(),
            (2, extension) => {
                for field in Fields(extension.bytes()) {
                    if let (1, raw) = field? {
                        object = raw.bytes();
                    }
                }
            }
            _ => {}
        }
    }
    if kind == b"ERROR" {
        return Ok(WatchItem::Failed(decode_status(object)?));
    }
    let message = unwrap(object)?;
    item(kind, node(message, prefix)?, || is_initial(message)).ok_or(WireError::Invalid)
}

/// Returns the event of a kind.
pub(super) fn item(kind: &[u8], node: Node, is_initial: impl FnOnce() -> bool) -> Option<WatchItem> {
    match kind {
        b"ADDED" | b"MODIFIED" => Some(WatchItem::Applied(node)),
        b"DELETED" => Some(WatchItem::Deleted(node)),
        b"BOOKMARK" => Some(WatchItem::Bookmark { node, is_initial: is_initial() }),
        _ => None,
    }
}

/// The annotation of the bookmark after the nodes that were there before a watch began.
pub(super) const INITIAL_END: &str = "k8s.io/initial-events-end";

fn is_initial(message: &[u8]) -> bool {
    let metadata = Fields(message).flatten().find(|(number, _)| *number == 1);
    let entries = metadata.into_iter().flat_map(|(_, value)| Fields(value.bytes()).flatten());
    let mut names =
        entries.filter(|(number, _)| *number == 12).flat_map(|(_, entry)| Fields(entry.bytes()).flatten());
    names.any(|(number, name)| number == 1 && name.bytes() == INITIAL_END.as_bytes())
}

/// Decodes the error in the body of a response, or in an event.
///
/// # Errors
///
/// Fails if the body is not an object of the Kubernetes API.
pub fn decode_status(body: &[u8]) -> Result<ApiStatus, WireError> {
    let mut status = ApiStatus::default();
    for field in Fields(unwrap(body)?) {
        match field? {
            (3, message) => status.message = message.text(),
            (4, reason) => status.reason = reason.text(),
            (6, code) => status.code = u16::try_from(code.number()).unwrap_or_default(),
            _ => {}
        }
    }
    Ok(status)
}
