//! Messages from the kernel: splitting a datagram, and the meaning of one message.

use netlink_packet_core::{NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP_INTR};

use super::{DecodeError, align, attribute};

const NOOP: u16 = 1;
pub(super) const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;
const OVERRUN: u16 = 4;

/// Attributes of an extended ACK (`NLMSGERR_ATTR_*`).
const ATTR_MSG: u16 = 1;
const ATTR_OFFS: u16 = 2;

/// Length of `struct nlmsghdr`.
pub(super) const HEADER_LEN: usize = 16;

/// Splits a datagram into messages.
pub fn frames(mut rest: &[u8]) -> impl Iterator<Item = Result<Frame<'_>, DecodeError>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let available = rest.len();
        let length = attribute::u32_at(rest, 0).map_or(0, |length| length as usize);
        if length < HEADER_LEN || length > available {
            rest = &[];
            return Some(Err(DecodeError::Cut { length, available }));
        }
        let (bytes, _) = rest.split_at(length);
        rest = rest.get(align(length)..).unwrap_or_default();
        Some(Ok(Frame {
            kind: u16::from_ne_bytes([bytes[4], bytes[5]]),
            flags: u16::from_ne_bytes([bytes[6], bytes[7]]),
            sequence: u32::from_ne_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
            port: u32::from_ne_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]),
            payload: &bytes[HEADER_LEN..],
        }))
    })
}

/// One message from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// Sequence number of the request that this answers; of a notification, of the request that caused it, or 0.
    pub sequence: u32,
    /// Port of the requesting socket; of a notification, of the socket that caused it, or 0.
    pub port: u32,
    /// Everything after the header.
    pub payload: &'a [u8],
}

/// The meaning of a message from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The request succeeded. The text is the kernel's warning, if there is one.
    Ack(Option<String>),
    /// The request was refused, or the dump ended early.
    Refused(Refusal),
    /// The dump is complete.
    Done,
    /// The socket's receive buffer was full and messages were lost.
    Overrun,
    /// Nothing.
    Noop,
    /// An object, of the type `kind` of the frame.
    Object(&'a [u8]),
}

/// An error from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Error number, positive (`ENOENT` is 2).
    pub errno: i32,
    /// Text of the extended ACK; empty if the kernel sends none.
    pub text: String,
    /// Offset in the request of the attribute that the kernel rejects, from the extended ACK.
    pub offset: Option<u32>,
}

impl Refusal {
    const ENOENT: i32 = 2;
    const EINTR: i32 = 4;
    const EAGAIN: i32 = 11;
    const ENODEV: i32 = 19;

    /// Returns the extended ACK: its text and the place of the attribute that the kernel rejects, if there is either.
    #[must_use]
    pub fn details(&self) -> Option<String> {
        let place = self.offset.map(|offset| format!("attribute at byte {offset}"));
        let text = Some(self.text.clone()).filter(|text| !text.is_empty());
        match (text, place) {
            (Some(text), Some(place)) => Some(format!("{text}, {place}")),
            (text, place) => text.or(place),
        }
    }

    /// Returns true if the object, or the link or table that would hold it, does not exist. With policy routing, the
    /// kernel creates even the main table with its first route only, and refuses a dump of it until then.
    #[must_use]
    pub const fn means_absent(&self) -> bool {
        matches!(self.errno, Self::ENOENT | Self::ENODEV)
    }

    /// Returns true if the state changed while the kernel answered, so that asking again can succeed.
    #[must_use]
    pub const fn means_interrupted(&self) -> bool {
        matches!(self.errno, Self::EINTR | Self::EAGAIN)
    }
}

impl<'a> Frame<'a> {
    /// Returns true if the state changed during the dump that this message belongs to: objects may be missing.
    #[must_use]
    pub const fn interrupted(&self) -> bool {
        self.flags & NLM_F_DUMP_INTR != 0
    }

    /// Returns the meaning of the message.
    ///
    /// # Errors
    /// If an answer is cut off.
    pub fn reply(&self) -> Result<Reply<'a>, DecodeError> {
        match self.kind {
            NOOP => Ok(Reply::Noop),
            OVERRUN => Ok(Reply::Overrun),
            ERROR => self.error(),
            DONE => {
                // The kernel also sends a DONE without a code.
                let code = attribute::u32_at(self.payload, 0).map_or(0, u32::cast_signed);
                match code {
                    0 => Ok(Reply::Done),
                    _ => Ok(Reply::Refused(self.refusal(code, 4))),
                }
            }
            _ => Ok(Reply::Object(self.payload)),
        }
    }

    /// `struct nlmsgerr`: the code, the header of the request, its payload unless capped, then attributes.
    fn error(&self) -> Result<Reply<'a>, DecodeError> {
        let cut = || DecodeError::Header { object: "error", length: self.payload.len() };
        let code = attribute::u32_at(self.payload, 0).ok_or_else(cut)?.cast_signed();
        let request = attribute::u32_at(self.payload, 4).ok_or_else(cut)? as usize;
        let capped = self.flags & NLM_F_CAPPED != 0;
        let attributes = 4 + if capped { HEADER_LEN } else { align(request) };
        let refusal = self.refusal(code, attributes);
        if code == 0 {
            Ok(Reply::Ack(Some(refusal.text).filter(|text| !text.is_empty())))
        } else {
            Ok(Reply::Refused(refusal))
        }
    }

    fn refusal(&self, code: i32, attributes: usize) -> Refusal {
        let errno = code.checked_neg().unwrap_or(i32::MAX);
        let mut refusal = Refusal { errno, text: String::new(), offset: None };
        if self.flags & NLM_F_ACK_TLVS != 0 {
            for (kind, value) in attribute::attributes(self.payload.get(attributes..).unwrap_or_default()) {
                match kind {
                    ATTR_MSG => refusal.text = attribute::text(value),
                    ATTR_OFFS => refusal.offset = attribute::u32_at(value, 0),
                    _ => {}
                }
            }
        }
        refusal
    }
}
