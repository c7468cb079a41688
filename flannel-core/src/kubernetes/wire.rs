//! Protocol buffers, read in place: fields of a message in order, and the envelope that Kubernetes puts around objects.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/>; `k8s.io/apimachinery/pkg/runtime/generated.proto`.

/// A body that is not what the Kubernetes API sends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The body ends inside a field.
    #[error("the response ends inside a field")]
    Truncated,
    /// A field that protocol buffers do not have, or that is larger than an object can be.
    #[error("the response is not a protocol buffer")]
    Invalid,
    /// The envelope of Kubernetes is missing.
    #[error("the response is not an object of the Kubernetes API")]
    NoEnvelope,
    /// JSON that does not have the form of the object.
    #[error("the response is not the expected JSON: {0}")]
    Json(String),
    /// `metadata.resourceVersion` is not a number.
    #[error("the resourceVersion {0:?} is not a number")]
    Version(String),
}

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// A number of fixed size, which none of our fields is.
    Fixed,
}

impl<'a> Value<'a> {
    pub(super) const fn bytes(self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(_) | Self::Fixed => &[],
        }
    }

    pub(super) fn text(self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    pub(super) const fn number(self) -> u64 {
        match self {
            Self::Number(number) => number,
            Self::Bytes(_) | Self::Fixed => 0,
        }
    }
}

/// The fields of a message: number and value.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        Some(match field(self.0) {
            Ok((number, value, rest)) => {
                self.0 = rest;
                Ok((number, value))
            }
            Err(error) => {
                self.0 = &[];
                Err(error)
            }
        })
    }
}

/// Reads one field: its number, its value, and the bytes after it.
pub(super) fn field(bytes: &[u8]) -> Result<(u64, Value<'_>, &[u8]), WireError> {
    let (tag, rest) = varint(bytes)?;
    let (value, rest) = match tag & 7 {
        0 => {
            let (number, rest) = varint(rest)?;
            (Value::Number(number), rest)
        }
        1 => (Value::Fixed, split(rest, 8)?.1),
        2 => {
            let (len, rest) = varint(rest)?;
            let len = usize::try_from(len).map_err(|_| WireError::Invalid)?;
            let (bytes, rest) = split(rest, len)?;
            (Value::Bytes(bytes), rest)
        }
        5 => (Value::Fixed, split(rest, 4)?.1),
        _ => return Err(WireError::Invalid),
    };
    Ok((tag >> 3, value, rest))
}

fn split(bytes: &[u8], at: usize) -> Result<(&[u8], &[u8]), WireError> {
    bytes.split_at_checked(at).ok_or(WireError::Truncated)
}

/// Reads a number of variable length, and returns the bytes after it.
pub(super) fn varint(bytes: &[u8]) -> Result<(u64, &[u8]), WireError> {
    let mut number = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((number, &bytes[index + 1..]));
        }
    }
    Err(if bytes.len() < 10 { WireError::Truncated } else { WireError::Invalid })
}

/// The first bytes of an object.
pub(super) const MAGIC: &[u8] = b"k8s\0";
/// The field of the envelope (`runtime.Unknown`) with the object itself.
pub(super) const RAW: u64 = 2;

/// Takes an object out of its envelope.
pub(super) fn unwrap(body: &[u8]) -> Result<&[u8], WireError> {
    let envelope = body.strip_prefix(MAGIC).ok_or(WireError::NoEnvelope)?;
    let mut object: &[u8] = &[];
    for field in Fields(envelope) {
        if let (RAW, value) = field? {
            object = value.bytes();
        }
    }
    Ok(object)
}
