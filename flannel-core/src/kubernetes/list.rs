//! A list of nodes that arrives in pieces: each node is decoded as soon as it is complete, and its bytes are dropped.

use super::annotations::Prefix;
use super::node::{Node, node, revision};
use super::wire::{Fields, MAGIC, RAW, WireError, field, varint};
use crate::lease::Revision;

/// More than etcd stores in one object.
const OBJECT_LIMIT: usize = 16 << 20;

/// Reads the body of a list of nodes.
#[derive(Debug, Default)]
pub struct NodeListReader {
    /// The begin of a field that is not complete yet.
    buffer: Vec<u8>,
    at: At,
    end: ListEnd,
}

/// The position of the reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Magic,
    /// Before the list.
    Envelope,
    /// In the list, of which this many bytes are left.
    List(usize),
    /// After the list.
    Rest,
}

/// The metadata of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListEnd {
    /// The revision of the list.
    pub revision: Revision,
    /// Requests the next page; empty after the last one.
    pub next_page: String,
}

impl NodeListReader {
    /// Takes the next piece of the body, and passes on each node that is complete.
    ///
    /// # Errors
    ///
    /// Fails if the body is not a list of nodes.
    pub fn push(
        &mut self,
        piece: &[u8],
        prefix: &Prefix,
        mut each: impl FnMut(Node),
    ) -> Result<(), WireError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.extend_from_slice(piece);
        let mut rest = buffer.as_slice();
        while let Some(after) = self.step(rest, prefix, &mut each)? {
            rest = after;
        }
        let used = buffer.len() - rest.len();
        buffer.drain(..used);
        self.buffer = buffer;
        Ok(())
    }

    /// Reads one part; returns the bytes after it, or `None` if more are needed.
    fn step<'a>(
        &mut self,
        bytes: &'a [u8],
        prefix: &Prefix,
        each: &mut impl FnMut(Node),
    ) -> Result<Option<&'a [u8]>, WireError> {
        match self.at {
            At::Magic if bytes.len() < MAGIC.len() => Ok(None),
            At::Magic => {
                self.at = At::Envelope;
                bytes.strip_prefix(MAGIC).map(Some).ok_or(WireError::NoEnvelope)
            }
            At::Rest => Ok(complete(bytes, usize::MAX)?.map(|(.., rest)| rest)),
            At::Envelope => match varint(bytes).and_then(|(tag, rest)| Ok((tag, varint(rest)?))) {
                Ok((tag, (len, rest))) if tag == RAW << 3 | 2 => {
                    self.at = At::List(usize::try_from(len).map_err(|_| WireError::Invalid)?);
                    Ok(Some(rest))
                }
                Ok(_) => Ok(complete(bytes, usize::MAX)?.map(|(.., rest)| rest)),
                Err(WireError::Truncated) => Ok(None),
                Err(error) => Err(error),
            },
            At::List(0) => {
                self.at = At::Rest;
                Ok(Some(bytes))
            }
            At::List(left) => {
                let Some((number, value, rest)) = complete(bytes, left)? else { return Ok(None) };
                match number {
                    1 => self.read_metadata(value)?,
                    2 => each(node(value, prefix)?),
                    _ => {}
                }
                let used = bytes.len() - rest.len();
                self.at = At::List(left - used);
                Ok(Some(rest))
            }
        }
    }

    fn read_metadata(&mut self, message: &[u8]) -> Result<(), WireError> {
        for field in Fields(message) {
            match field? {
                (2, version) => self.end.revision = revision(&version.text())?,
                (3, token) => self.end.next_page = token.text(),
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends the body, and returns the metadata of the list.
    ///
    /// # Errors
    ///
    /// Fails if the body is not complete.
    pub fn finish(self) -> Result<ListEnd, WireError> {
        let is_complete = self.buffer.is_empty() && self.at == At::Rest;
        is_complete.then_some(self.end).ok_or(WireError::Truncated)
    }
}

/// A field, its value, and the bytes after it.
type Complete<'a> = (u64, &'a [u8], &'a [u8]);

/// Reads a field of a message with `left` bytes from this position; `None` if it has not arrived completely.
fn complete(bytes: &[u8], left: usize) -> Result<Option<Complete<'_>>, WireError> {
    let (message, is_whole) = match bytes.split_at_checked(left) {
        Some((message, _)) => (message, true),
        None => (bytes, false),
    };
    match field(message) {
        Ok((number, value, rest)) => {
            let used = message.len() - rest.len();
            Ok(Some((number, value.bytes(), &bytes[used..])))
        }
        Err(WireError::Truncated) if !is_whole && bytes.len() < OBJECT_LIMIT => Ok(None),
        Err(WireError::Truncated) => Err(WireError::Invalid),
        Err(error) => Err(error),
    }
}
