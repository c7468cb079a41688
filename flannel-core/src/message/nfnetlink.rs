//! Encoding of netfilter messages, which all subsystems share: the header, and attributes, which are big-endian.

use super::{DecodeError, Frame, Request};

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// Returns the family in `struct nfgenmsg`, and the attributes behind it.
pub(super) fn split<'a>(frame: &Frame<'a>) -> Result<(u8, &'a [u8]), DecodeError> {
    match frame.payload {
        [family, _version, _, _, attributes @ ..] => Ok((*family, attributes)),
        payload => Err(DecodeError::Header { object: "netfilter", length: payload.len() }),
    }
}

/// Decodes the comment in user data, whose entries are type, length and value; nft uses the type 0 for comments.
pub(super) fn comment(mut bytes: &[u8]) -> Option<String> {
    while let &[kind, length, ref rest @ ..] = bytes {
        let value = rest.get(..usize::from(length))?;
        if kind == 0 {
            return Some(String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned());
        }
        bytes = &rest[value.len()..];
    }
    None
}

/// A message under construction.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    /// Builds a request. `resource` is `res_id` of `struct nfgenmsg`.
    pub(super) fn request(
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        attributes: impl FnOnce(&mut Self),
    ) -> Request {
        let mut writer = Self(vec![0; 4]);
        writer.0.extend_from_slice(&kind.to_ne_bytes());
        writer.0.extend_from_slice(&flags.to_ne_bytes());
        // Sequence number and port.
        writer.0.extend_from_slice(&[0; 8]);
        writer.0.extend_from_slice(&[family, 0]);
        writer.0.extend_from_slice(&resource.to_be_bytes());
        attributes(&mut writer);
        let length = u32::try_from(writer.0.len()).expect("a message is far smaller than 4 GiB");
        writer.0[..4].copy_from_slice(&length.to_ne_bytes());
        Request::from_bytes(writer.0)
    }

    pub(super) fn nested(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        content(self);
        self.close(start, kind | NESTED);
    }

    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        self.0.extend_from_slice(value);
        self.close(start, kind);
    }

    /// Appends an attribute whose value is an encoded list of attributes.
    pub(super) fn nested_bytes(&mut self, kind: u16, value: &[u8]) {
        self.bytes(kind | NESTED, value);
    }

    pub(super) fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Appends attributes with the numbers 1, 2, and so on.
    pub(super) fn be32s(&mut self, values: &[u32]) {
        for (kind, value) in (1..).zip(values) {
            self.be32(kind, *value);
        }
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat());
    }

    /// Appends several texts.
    pub(super) fn texts(&mut self, values: &[(u16, &str)]) {
        for (kind, value) in values {
            self.text(*kind, value);
        }
    }

    /// Appends a comment in the format of nft, truncated to the 128 bytes that nft allows.
    pub(super) fn comment(&mut self, kind: u16, comment: Option<&str>) {
        if let Some(comment) = comment {
            let comment = &comment[..comment.floor_char_boundary(127)];
            let length = u8::try_from(comment.len() + 1).expect("127 bytes at most");
            let value: Vec<u8> = [&[0, length], comment.as_bytes(), &[0]].concat();
            self.bytes(kind, &value);
        }
    }

    fn close(&mut self, start: usize, kind: u16) {
        let length = u16::try_from(self.0.len() - start).expect("rules are far smaller than 64 KiB");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}
