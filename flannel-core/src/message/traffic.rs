//! Traffic control: queueing disciplines and filters (`RTM_NEWQDISC`, `RTM_NEWTFILTER`).
//!
//! Covers what the bandwidth plugin needs: a token bucket, and the redirection of incoming packets to another link.
//! Layouts: the kernel's include/uapi/linux/{pkt_sched,pkt_cls,tc_act/tc_mirred}.h.

use netlink_packet_core::DefaultNla;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::attribute::{self, u32_at};
use super::nfnetlink::Writer;
use super::{DecodeError, Get, Request};
use crate::link::IfIndex;

/// The kernel counts time in units of 64 ns (`PSCHED_SHIFT`) on every machine, as `/proc/net/psched` shows.
const TICK_NANOS: u64 = 64;
/// The longest time for which tokens can be saved, which the kernel stores as 32 bits of nanoseconds.
const BUFFER_TICKS_MAX: u64 = u32::MAX as u64 / TICK_NANOS;

/// `TC_H_ROOT`: parent of the discipline for outgoing packets.
const ROOT: u32 = u32::MAX;
/// `TC_H_INGRESS`: parent of the discipline for incoming packets.
const INGRESS: u32 = 0xffff_fff1;
/// The handle `1:`.
const BUCKET_HANDLE: u32 = 0x1_0000;
/// The handle `ffff:`.
const INGRESS_HANDLE: u32 = 0xffff_0000;
/// Parent of the filters for incoming packets, whether the discipline is `ingress` or `clsact` (`TC_H_MIN_INGRESS`).
const INGRESS_FILTERS: u32 = 0xffff_fff2;
/// `ETH_P_ALL` in network order, the protocol of a filter.
const ALL_PROTOCOLS: u32 = 3u16.to_be() as u32;
/// The priority of the only filter of an own ingress discipline, which is that of Go's plugin.
pub const SOLE_PRIORITY: u16 = 1;
/// The priority of the filter beside those of other programs: after them, so that they see each packet before it is redirected. The
/// kernel numbers filters without a priority from 49152 downwards.
pub const SHARED_PRIORITY: u16 = 0xf1a0;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_U32_CLASSID: u16 = 1;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
/// `TC_U32_TERMINAL`: a match ends the search.
const U32_TERMINAL: u8 = 1;
/// `TC_ACT_STOLEN`: the kernel stops processing the packet here.
const ACTION_STOLEN: u32 = 4;
/// `TCA_EGRESS_REDIR`.
const EGRESS_REDIRECT: u32 = 1;

/// A token bucket (`tbf`), which limits the rate at which a link sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    /// Bytes per second.
    pub rate: u64,
    /// Queue limit in bytes.
    pub limit: u32,
    /// Burst as the time that it takes at full rate, in the kernel's ticks of 64 ns.
    pub buffer: u32,
}

impl TokenBucket {
    /// Creates the bucket for a rate and a burst in bytes, in which no packet waits longer than `latency_micros`. Values are
    /// limited to what the kernel can store.
    ///
    /// Compatibility: whole microseconds first, then ticks, as Go's plugin computes it.
    #[must_use]
    pub fn new(rate: u64, burst: u64, latency_micros: u64) -> Self {
        let million = 1_000_000;
        let of_rate = u128::from(rate) * u128::from(latency_micros) / million;
        let limit = of_rate + u128::from(burst);
        let micros = u128::from(burst) * million / u128::from(rate.max(1));
        let ticks = micros.saturating_mul(1000) / u128::from(TICK_NANOS);
        Self {
            rate,
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            buffer: u32::try_from(ticks.min(BUFFER_TICKS_MAX.into())).unwrap_or(u32::MAX),
        }
    }
}

/// Sets the discipline for outgoing packets, in place of an existing one.
#[must_use]
pub fn set_bucket(index: IfIndex, bucket: &TokenBucket) -> Request {
    let mut parameters = [0; 36];
    // `struct tc_ratespec` of 12 bytes, whose last member is the rate; the peak rate likewise; then limit and buffer.
    let rate = u32::try_from(bucket.rate).unwrap_or(u32::MAX);
    parameters[8..12].copy_from_slice(&rate.to_ne_bytes());
    parameters[24..28].copy_from_slice(&bucket.limit.to_ne_bytes());
    parameters[28..32].copy_from_slice(&bucket.buffer.to_ne_bytes());
    let mut options = vec![(TCA_TBF_PARMS, parameters.to_vec())];
    if rate == u32::MAX {
        options.push((TCA_TBF_RATE64, bucket.rate.to_ne_bytes().to_vec()));
    }
    let message = message(index, BUCKET_HANDLE, ROOT, "tbf", options);
    Request::replace(RouteNetlinkMessage::NewQueueDiscipline(message))
}

/// Adds the ingress discipline, whose filters see incoming packets; fails if it exists.
#[must_use]
pub fn add_ingress(index: IfIndex) -> Request {
    let message = message(index, INGRESS_HANDLE, INGRESS, "ingress", Vec::new());
    Request::create(RouteNetlinkMessage::NewQueueDiscipline(message))
}

/// Deletes the ingress discipline with all its filters.
#[must_use]
pub fn delete_ingress(index: IfIndex) -> Request {
    let message = header(index, INGRESS_HANDLE, INGRESS);
    Request::change(RouteNetlinkMessage::DelQueueDiscipline(message), 0)
}

/// Deletes the discipline for outgoing packets.
#[must_use]
pub fn delete_bucket(index: IfIndex) -> Request {
    Request::change(RouteNetlinkMessage::DelQueueDiscipline(header(index, BUCKET_HANDLE, ROOT)), 0)
}

/// Redirects all incoming packets of a link to another one, which sends them.
#[must_use]
pub fn redirect(index: IfIndex, target: IfIndex, priority: u16) -> Request {
    // `struct tc_u32_sel` of 16 bytes with one key of 16, whose mask is 0: everything matches.
    let mut selector = vec![0; 32];
    selector[0] = U32_TERMINAL;
    selector[2] = 1;
    // `struct tc_mirred`: index, capabilities, action, two counters, operation, link.
    let mirred = [0, 0, ACTION_STOLEN, 0, 0, EGRESS_REDIRECT, target.0];
    let mirred: Vec<u8> = mirred.into_iter().flat_map(u32::to_ne_bytes).collect();
    let action = nest(vec![
        (TCA_ACT_KIND, b"mirred\0".to_vec()),
        (TCA_ACT_OPTIONS, nest(vec![(TCA_MIRRED_PARMS, mirred)])),
    ]);
    let options = vec![
        // Class 1:1, as in Go's plugin; an ingress discipline has no classes.
        (TCA_U32_CLASSID, (BUCKET_HANDLE | 1).to_ne_bytes().to_vec()),
        (TCA_U32_SEL, selector),
        // Actions are numbered from 1.
        (TCA_U32_ACT, nest(vec![(1, action)])),
    ];
    // Compatibility: the parent that `tc` shows for the filter of Go's plugin. `clsact` does not accept it.
    let parent = if priority == SOLE_PRIORITY { INGRESS_HANDLE } else { INGRESS_FILTERS };
    let mut message = message(index, 0, parent, "u32", options);
    message.header.info = u32::from(priority) << 16 | ALL_PROTOCOLS;
    Request::create(RouteNetlinkMessage::NewTrafficFilter(message))
}

/// Deletes a filter for incoming packets.
#[must_use]
pub fn delete_filter(index: IfIndex, filter: &FilterRecord) -> Request {
    let mut message = message(index, filter.handle, INGRESS_FILTERS, &filter.kind, Vec::new());
    message.header.info = u32::from(filter.priority) << 16 | u32::from(filter.protocol);
    Request::change(RouteNetlinkMessage::DelTrafficFilter(message), 0)
}

/// Requests the disciplines of all links.
#[must_use]
pub fn dump_disciplines() -> Get<DisciplineRecord> {
    let message = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    Get::all("queueing disciplines", message, |frame| decode_discipline(frame.payload))
}

/// Requests the filters for incoming packets.
#[must_use]
pub fn dump_filters(index: IfIndex) -> Get<FilterRecord> {
    let message = RouteNetlinkMessage::GetTrafficFilter(header(index, 0, INGRESS_FILTERS));
    Get::all("traffic filters", message, |frame| decode_filter(frame.payload))
}

fn header(index: IfIndex, handle: u32, parent: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = index.0.cast_signed();
    message.header.handle = TcHandle::from(handle);
    message.header.parent = TcHandle::from(parent);
    message
}

fn message(index: IfIndex, handle: u32, parent: u32, kind: &str, options: Vec<(u16, Vec<u8>)>) -> TcMessage {
    let mut message = header(index, handle, parent);
    message.attributes.push(TcAttribute::Kind(kind.to_owned()));
    if !options.is_empty() {
        message.attributes.push(TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, nest(options))));
    }
    message
}

/// Encodes attributes as the value of another one.
fn nest(attributes: Vec<(u16, Vec<u8>)>) -> Vec<u8> {
    let mut writer = Writer::default();
    for (kind, value) in attributes {
        writer.bytes(kind, &value);
    }
    writer.0
}

/// A queueing discipline from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisciplineRecord {
    /// Link.
    pub index: IfIndex,
    /// Number, as `major << 16`; 0 for the default of the kernel.
    pub handle: u32,
    /// The root discipline for outgoing packets.
    pub root: bool,
    /// The discipline with the filters for incoming packets.
    pub ingress: bool,
    /// Kind: `tbf`, `ingress`, `noqueue`.
    pub kind: String,
    /// The parameters of a token bucket.
    pub bucket: Option<TokenBucket>,
}

const OBJECT: &str = "queueing discipline";
/// Length of `struct tcmsg`.
const HEADER_LEN: usize = 20;

/// Decodes the payload of a message about a discipline.
///
/// # Errors
/// If the message is truncated or an attribute is malformed.
pub fn decode_discipline(payload: &[u8]) -> Result<Option<DisciplineRecord>, DecodeError> {
    let (index, attributes) = split(payload)?;
    let kind = attribute::find(attributes, TCA_KIND).map_or_else(String::new, attribute::text);
    let bucket = match attribute::find(attributes, TCA_OPTIONS) {
        Some(options) if kind == "tbf" => bucket(options)?,
        _ => None,
    };
    let number = |offset| u32_at(payload, offset).unwrap_or_default();
    let (handle, parent) = (number(8), number(12));
    Ok(Some(DisciplineRecord {
        index,
        handle,
        root: parent == ROOT,
        ingress: parent == INGRESS,
        kind,
        bucket,
    }))
}

fn bucket(options: &[u8]) -> Result<Option<TokenBucket>, DecodeError> {
    let Some(parameters) = attribute::find(options, TCA_TBF_PARMS) else { return Ok(None) };
    let number = |offset| {
        u32_at(parameters, offset).ok_or(DecodeError::Attribute {
            object: OBJECT,
            attribute: TCA_TBF_PARMS,
            length: parameters.len(),
        })
    };
    let rate64 = attribute::find(options, TCA_TBF_RATE64).and_then(|rate| rate.try_into().ok());
    let rate = rate64.map_or(number(8)?.into(), u64::from_ne_bytes);
    Ok(Some(TokenBucket { rate, limit: number(24)?, buffer: number(28)? }))
}

impl DisciplineRecord {
    /// Whether it is the token bucket of [`set_bucket`].
    #[must_use]
    pub fn is_own_bucket(&self) -> bool {
        self.kind == "tbf" && self.handle == BUCKET_HANDLE
    }
}

/// A filter from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRecord {
    /// Its place in the order of filters.
    pub priority: u16,
    /// The protocol that it matches, in network order.
    pub protocol: u16,
    /// Its number among those of its priority.
    pub handle: u32,
    /// Kind: `u32`, `bpf`, `matchall`.
    pub kind: String,
    /// The link that it redirects packets to; 0 if that no longer exists, `None` for other actions.
    pub target: Option<IfIndex>,
    /// It is not a filter, but the table in which the kernel keeps filters of kind `u32`.
    pub is_table: bool,
}

/// Decodes the payload of a message about a filter.
///
/// # Errors
/// If the message is truncated.
pub fn decode_filter(payload: &[u8]) -> Result<Option<FilterRecord>, DecodeError> {
    let (_, attributes) = split(payload)?;
    let number = |offset| u32_at(payload, offset).unwrap_or_default();
    let [high, low] =
        [number(16) >> 16, number(16) & 0xffff].map(|half| u16::try_from(half).unwrap_or_default());
    let kind = attribute::find(attributes, TCA_KIND).map_or_else(String::new, attribute::text);
    let options = attribute::find(attributes, TCA_OPTIONS).unwrap_or_default();
    let mirred = [TCA_U32_ACT, 1, TCA_ACT_OPTIONS, TCA_MIRRED_PARMS];
    let mirred = mirred.into_iter().try_fold(options, attribute::find);
    Ok(Some(FilterRecord {
        priority: high,
        protocol: low,
        handle: number(8),
        target: mirred.filter(|_| kind == "u32").and_then(|mirred| u32_at(mirred, 24)).map(IfIndex),
        is_table: kind == "u32" && attribute::find(options, TCA_U32_SEL).is_none(),
        kind,
    }))
}

/// Returns the link and the attributes of a message.
fn split(payload: &[u8]) -> Result<(IfIndex, &[u8]), DecodeError> {
    let cut = DecodeError::Header { object: OBJECT, length: payload.len() };
    let (Some(index), Some(rest)) = (u32_at(payload, 4), payload.get(HEADER_LEN..)) else { return Err(cut) };
    Ok((IfIndex(index), rest))
}

#[cfg(test)]
mod tests;
