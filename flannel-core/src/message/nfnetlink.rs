//! What the subsystems of netfilter's netlink share: the header and attributes, which are big-endian.

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// What is left of an attribute's type without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const TYPE_MASK: u16 = 0x3fff;

/// Bytes that are no message of netfilter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It ends too early, or a length in it points beyond its end.
    #[error("netlink message is cut off in {0}")]
    Truncated(&'static str),
    /// An attribute that must be there is not.
    #[error("netlink message lacks {0}")]
    Missing(&'static str),
}

/// One attribute.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attribute<'a> {
    pub(super) kind: u16,
    pub(super) value: &'a [u8],
}

impl Attribute<'_> {
    pub(super) fn be32(&self) -> Result<u32, DecodeError> {
        let bytes = self.value.first_chunk().ok_or(DecodeError::Truncated("number"))?;
        Ok(u32::from_be_bytes(*bytes))
    }

    pub(super) fn be64(&self) -> Result<u64, DecodeError> {
        let bytes = self.value.first_chunk().ok_or(DecodeError::Truncated("number"))?;
        Ok(u64::from_be_bytes(*bytes))
    }
}

/// Iterator over attributes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Attributes<'a> {
    pub(super) fn required(self, name: &'static str, kind: u16) -> Result<Attribute<'a>, DecodeError> {
        for attribute in self {
            let attribute = attribute?;
            if attribute.kind == kind {
                return Ok(attribute);
            }
        }
        Err(DecodeError::Missing(name))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.0);
        let (&[l0, l1, k0, k1], _) = match bytes.split_first_chunk() {
            Some(split) => split,
            None if bytes.is_empty() => return None,
            None => return Some(Err(DecodeError::Truncated("attribute"))),
        };
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let kind = u16::from_ne_bytes([k0, k1]) & TYPE_MASK;
        let Some(value) = bytes.get(4..length) else {
            return Some(Err(DecodeError::Truncated("attribute")));
        };
        self.0 = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Attribute { kind, value }))
    }
}

/// A string, which the kernel ends with a zero byte.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// The comment in user data: entries of type, length, value, of which nft gives comments the type 0. nft shows it up to
/// the first zero byte.
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

/// Messages under construction.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        family: u8,
        resource: u16,
        attributes: impl FnOnce(&mut Self),
    ) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(&flags.to_ne_bytes());
        self.0.extend_from_slice(&sequence.to_ne_bytes());
        self.0.extend_from_slice(&[0; 4]);
        // struct nfgenmsg: family, version 0, resource in network order.
        self.0.extend_from_slice(&[family, 0]);
        self.0.extend_from_slice(&resource.to_be_bytes());
        attributes(self);
        let length = u32::try_from(self.0.len() - start).expect("a message is far smaller than 4 GiB");
        self.0[start..start + 4].copy_from_slice(&length.to_ne_bytes());
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

    /// An attribute whose content is a list of attributes already.
    pub(super) fn nested_bytes(&mut self, kind: u16, value: &[u8]) {
        self.bytes(kind | NESTED, value);
    }

    pub(super) fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
        self.close(start, kind);
    }

    /// A comment as nft writes it. Longer ones than the 128 bytes that nft allows are cut.
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
