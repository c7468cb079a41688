//! Messages to the kernel.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use std::borrow::Cow;

use super::frame::HEADER_LEN;
use super::{DecodeError, Frame, align};

/// A message to the kernel, without a sequence number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request(Vec<u8>);

impl Request {
    /// `bytes` is the whole message with its header.
    pub(super) const fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// A message of a type that `netlink-packet-route` does not have.
    pub(super) fn encoded(kind: u16, flags: u16, payload: &[u8]) -> Self {
        let length = u32::try_from(HEADER_LEN + payload.len()).unwrap_or(u32::MAX);
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.resize(HEADER_LEN, 0);
        bytes.extend(payload);
        Self(bytes)
    }

    fn new(message: RouteNetlinkMessage, flags: u16) -> Self {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        Self(bytes)
    }

    /// Changes something; the kernel answers with an ACK or an error.
    pub(super) fn change(message: RouteNetlinkMessage, flags: u16) -> Self {
        Self::new(message, NLM_F_ACK | flags)
    }

    /// Creates an object; fails if it exists.
    pub(super) fn create(message: RouteNetlinkMessage) -> Self {
        Self::change(message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Creates an object or replaces the one with the same key.
    pub(super) fn replace(message: RouteNetlinkMessage) -> Self {
        Self::change(message, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Appends the message, padded so that another one may follow.
    pub fn write(&self, sequence: u32, buffer: &mut Vec<u8>) {
        let start = buffer.len();
        buffer.extend_from_slice(&self.0);
        buffer.resize(start + align(self.0.len()), 0);
        // `nlmsg_seq` of `struct nlmsghdr`.
        buffer[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
    }

    /// Returns the bytes of the message alone.
    #[must_use]
    pub fn to_bytes(&self, sequence: u32) -> Vec<u8> {
        let mut buffer = Vec::new();
        self.write(sequence, &mut buffer);
        buffer
    }
}

/// A request for objects with the decoder of its answers: for one object or, as a dump, for all that match.
#[derive(Clone, Debug)]
pub struct Get<T> {
    pub(crate) request: Request,
    subject: Cow<'static, str>,
    /// Whether the answer is a series of messages up to [`super::Reply::Done`].
    pub(crate) dump: bool,
    /// Decodes an object of the answer; `None` if it is of no interest.
    pub(crate) decode: fn(&Frame<'_>) -> Result<Option<T>, DecodeError>,
}

impl<T> Get<T> {
    /// Requests one object. The answer is the object or an error.
    pub(super) fn one(
        subject: &'static str,
        message: RouteNetlinkMessage,
        decode: fn(&Frame<'_>) -> Result<Option<T>, DecodeError>,
    ) -> Self {
        Self { request: Request::new(message, 0), subject: Cow::Borrowed(subject), dump: false, decode }
    }

    /// Requests all objects that match.
    pub(super) fn all(
        subject: &'static str,
        message: RouteNetlinkMessage,
        decode: fn(&Frame<'_>) -> Result<Option<T>, DecodeError>,
    ) -> Self {
        let request = Request::new(message, NLM_F_DUMP);
        Self { request, subject: Cow::Borrowed(subject), dump: true, decode }
    }

    /// The same for a message that is encoded already.
    pub(super) const fn encoded(
        subject: Cow<'static, str>,
        request: Request,
        dump: bool,
        decode: fn(&Frame<'_>) -> Result<Option<T>, DecodeError>,
    ) -> Self {
        Self { request, subject, dump, decode }
    }

    /// The kind of object, for errors: `links`.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }
}
