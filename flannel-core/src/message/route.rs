//! Routes: `RTM_NEWROUTE`, `RTM_DELROUTE`, `RTM_GETROUTE`.

use ipnet::IpNet;
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteVia,
};
use std::net::IpAddr;
use std::time::Duration;

use super::attribute::{self, Attribute};
use super::{DecodeError, EncodeError, Get, Request, Scope};
use crate::dataplane::{NexthopId, Route, RouteKey, RouteTarget};
use crate::facts::RouteFacts;
use crate::family::Family;
use crate::link::{IfIndex, LinkName};

/// The main table (`RT_TABLE_MAIN`).
pub const MAIN_TABLE: u32 = 254;
/// All tables, in a dump (`RT_TABLE_UNSPEC`).
pub const ALL_TABLES: u32 = 0;

/// Forwards packets (`RTN_UNICAST`).
pub const UNICAST: u8 = 1;
/// Drops packets silently (`RTN_BLACKHOLE`).
pub const BLACKHOLE: u8 = 6;

/// "Any scope" in a deletion (`RT_SCOPE_NOWHERE`).
const ANY_SCOPE: u8 = 255;

/// A route to set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRoute {
    /// Destination.
    pub destination: IpNet,
    /// What happens to packets: [`UNICAST`], [`BLACKHOLE`] or another `RTN_*`.
    pub kind: u8,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Outgoing interface; without one the kernel finds it by the gateway.
    pub index: Option<IfIndex>,
    /// The gateway is assumed to be reachable on the link.
    pub onlink: bool,
    /// The nexthop object that contains gateway, interface and `onlink`, which the route must not have then.
    pub object: Option<NexthopId>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Metric; 0 leaves the choice to the kernel (0 for IPv4, 1024 for IPv6).
    pub metric: u32,
    /// The origin of the route (`RTPROT_*`).
    pub protocol: u8,
    /// Scope (IPv4).
    pub scope: Scope,
    /// Table.
    pub table: u32,
    /// Largest packet along this route.
    pub mtu: Option<u32>,
    /// Largest TCP segment to announce along this route.
    pub advmss: Option<u32>,
}

impl NewRoute {
    /// Creates a unicast route of the main table with nothing but a destination.
    #[must_use]
    pub fn new(destination: IpNet, protocol: u8) -> Self {
        Self {
            destination: destination.trunc(),
            kind: UNICAST,
            gateway: None,
            index: None,
            onlink: false,
            object: None,
            source: None,
            metric: 0,
            protocol,
            scope: Scope::GLOBAL,
            table: MAIN_TABLE,
            mtu: None,
            advmss: None,
        }
    }

    /// Creates the route of a plan. `index` is the index of its link, if it has one.
    ///
    /// # Errors
    /// If the form cannot be set, or the route has a link and no index is given.
    pub fn planned(key: &RouteKey, route: &Route, index: Option<IfIndex>) -> Result<Self, EncodeError> {
        let mut new = Self::new(key.destination, route.protocol);
        new.metric = key.metric;
        match &route.target {
            RouteTarget::Via { object: Some(object), .. } => new.object = Some(*object),
            RouteTarget::Via { gateway, link, onlink, object: None } => {
                new.gateway = Some(*gateway);
                new.index = Some(index.ok_or_else(|| EncodeError::Link(link.clone()))?);
                new.onlink = *onlink;
            }
            RouteTarget::Link(link) => {
                new.index = Some(index.ok_or_else(|| EncodeError::Link(link.clone()))?);
                // The kernel refuses an IPv4 device route with the scope "universe" as next hop of others.
                if Family::of_net(key.destination) == Family::V4 {
                    new.scope = Scope::LINK;
                }
            }
            RouteTarget::Blackhole => new.kind = BLACKHOLE,
            RouteTarget::Other(form) => return Err(EncodeError::RouteForm(form.clone())),
            RouteTarget::Several(routes) => {
                return Err(EncodeError::RouteForm(format!("{} routes", routes.len())));
            }
        }
        Ok(new)
    }

    fn message(&self) -> RouteMessage {
        let mut message = header(self.destination, self.table, self.metric);
        message.header.protocol = self.protocol.into();
        message.header.scope = self.scope.0.into();
        message.header.kind = self.kind.into();
        if self.onlink {
            message.header.flags |= RouteFlags::Onlink;
        }
        self.next_hop(&mut message);
        message.attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(source.into())));
        let mut metrics = Vec::new();
        metrics.extend(self.mtu.map(RouteMetric::Mtu));
        metrics.extend(self.advmss.map(RouteMetric::Advmss));
        if !metrics.is_empty() {
            message.attributes.push(RouteAttribute::Metrics(metrics));
        }
        message
    }

    fn next_hop(&self, message: &mut RouteMessage) {
        match self.gateway {
            Some(IpAddr::V6(gateway)) if Family::of_net(self.destination) == Family::V4 => {
                message.attributes.push(RouteAttribute::Via(RouteVia::Inet6(gateway)));
            }
            Some(gateway) => message.attributes.push(RouteAttribute::Gateway(gateway.into())),
            None => {}
        }
        message.attributes.extend(self.index.map(|index| RouteAttribute::Oif(index.0)));
        message.attributes.extend(self.object.map(|object| RouteAttribute::NhId(object.get())));
    }
}

/// Adds a route; fails if one with the same destination and metric exists.
#[must_use]
pub fn add(route: &NewRoute) -> Request {
    Request::create(RouteNetlinkMessage::NewRoute(route.message()))
}

/// Adds a route; fails only if the same route exists. With the same destination and metric as another one, an IPv4 route
/// is inserted before it, and an IPv6 route becomes a part of a multipath route.
#[must_use]
pub fn add_beside(route: &NewRoute) -> Request {
    Request::change(RouteNetlinkMessage::NewRoute(route.message()), NLM_F_CREATE)
}

/// Replaces the first route with the same destination and metric atomically, or adds the route.
#[must_use]
pub fn replace(route: &NewRoute) -> Request {
    Request::replace(RouteNetlinkMessage::NewRoute(route.message()))
}

/// Deletes a route that matches in all but scope, source and MTU.
#[must_use]
pub fn delete(route: &NewRoute) -> Request {
    let mut message = header(route.destination, route.table, route.metric);
    message.header.protocol = route.protocol.into();
    message.header.scope = ANY_SCOPE.into();
    message.header.kind = route.kind.into();
    route.next_hop(&mut message);
    Request::change(RouteNetlinkMessage::DelRoute(message), 0)
}

/// Deletes the first route with this key and protocol, whatever its form.
#[must_use]
pub fn delete_first(key: &RouteKey, protocol: u8) -> Request {
    let mut message = header(key.destination, MAIN_TABLE, key.metric);
    message.header.protocol = protocol.into();
    message.header.scope = ANY_SCOPE.into();
    Request::change(RouteNetlinkMessage::DelRoute(message), 0)
}

/// Requests the routes of one family and table.
#[must_use]
pub fn dump(family: Family, table: u32) -> Get<RouteRecord> {
    let mut message = RouteMessage::default();
    message.header.address_family = attribute::family_number(family).into();
    set_table(&mut message, table);
    Get::all("routes", RouteNetlinkMessage::GetRoute(message), |frame| decode(frame.payload))
}

/// Requests the route of packets to an address.
#[must_use]
pub fn get(destination: IpAddr) -> Get<RouteRecord> {
    lookup(&Question { destination, source: None, input: None }, RouteFlags::empty())
}

/// A packet whose route is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Destination address.
    pub destination: IpAddr,
    /// Source address, for policy rules that depend on it.
    pub source: Option<IpAddr>,
    /// Incoming interface; `None` if this host sends the packet.
    pub input: Option<IfIndex>,
}

/// Requests the routing table entry that decides about a packet, policy rules included.
#[must_use]
pub fn decide(question: &Question) -> Get<RouteRecord> {
    // Request the entry itself with its table, not the route that the kernel derives from it for the packet.
    lookup(question, RouteFlags::FibMatch | RouteFlags::LookupTable)
}

fn lookup(question: &Question, flags: RouteFlags) -> Get<RouteRecord> {
    let mut message = RouteMessage::default();
    let family = Family::of(question.destination);
    message.header.address_family = attribute::family_number(family).into();
    message.header.destination_prefix_length = family.bits();
    message.header.flags = flags;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(question.destination)));
    if let Some(source) = question.source {
        message.header.source_prefix_length = family.bits();
        message.attributes.push(RouteAttribute::Source(RouteAddress::from(source)));
    }
    message.attributes.extend(question.input.map(|index| RouteAttribute::Iif(index.0)));
    Get::one("a route", RouteNetlinkMessage::GetRoute(message), |frame| decode(frame.payload))
}

fn header(destination: IpNet, table: u32, metric: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = attribute::family_number(Family::of_net(destination)).into();
    message.header.destination_prefix_length = destination.prefix_len();
    if destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(destination.network())));
    }
    set_table(&mut message, table);
    if metric > 0 {
        message.attributes.push(RouteAttribute::Priority(metric));
    }
    message
}

/// Table numbers above 255 need an attribute.
fn set_table(message: &mut RouteMessage, table: u32) {
    match u8::try_from(table) {
        Ok(table) => message.header.table = table,
        Err(_) => message.attributes.push(RouteAttribute::Table(table)),
    }
}

/// One next hop of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// Gateway, if the destination is not directly connected.
    pub gateway: Option<IpAddr>,
    /// Outgoing interface.
    pub index: Option<IfIndex>,
    /// The gateway is assumed to be reachable on the link.
    pub onlink: bool,
}

/// A route from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRecord {
    /// Destination with host bits cleared.
    pub destination: IpNet,
    /// Metric; 0 if the message has none.
    pub metric: u32,
    /// Table.
    pub table: u32,
    /// The origin of the route (`RTPROT_*`).
    pub protocol: u8,
    /// `RTN_*`.
    pub kind: u8,
    /// Type of service; 0 is any.
    pub tos: u8,
    /// A cached copy of another route.
    pub cloned: bool,
    /// Next hops: one, or several of a multipath route. That of a nexthop object is missing with `net.ipv4.nexthop_compat_mode`
    /// 0 (`RouteRecord::resolve`).
    pub hops: Vec<Hop>,
    /// The nexthop object that the next hop comes from.
    pub object: Option<NexthopId>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Has an encapsulation or metrics such as an MTU.
    pub special: bool,
    /// Time until the kernel removes it; `None` if it does not expire.
    pub expires: Option<Duration>,
}

impl RouteRecord {
    /// Returns true for routes of the main table that forward or drop packets.
    #[must_use]
    pub const fn is_main(&self) -> bool {
        self.table == MAIN_TABLE && !self.cloned && self.tos == 0 && matches!(self.kind, UNICAST | 6..=9)
    }

    /// Returns the route as a fact about the host if it is a unicast route of the main table.
    #[must_use]
    pub fn facts(&self) -> Option<RouteFacts> {
        let hop = self.hops.first().copied().unwrap_or_default();
        (self.is_main() && self.kind == UNICAST).then_some(RouteFacts {
            destination: self.destination,
            gateway: hop.gateway,
            link: hop.index,
            source: self.source,
            metric: self.metric,
        })
    }

    /// Returns the key of the route as an object.
    pub(crate) const fn key(&self) -> RouteKey {
        RouteKey { destination: self.destination, metric: self.metric }
    }

    /// Returns the route as an object, whatever its table. `name` returns the names of links.
    pub(crate) fn entry(&self, name: impl Fn(IfIndex) -> Option<LinkName>) -> (RouteKey, Route) {
        (self.key(), Route { target: self.target(&name), protocol: self.protocol })
    }

    fn target(&self, name: &dyn Fn(IfIndex) -> Option<LinkName>) -> RouteTarget {
        if self.kind == BLACKHOLE {
            return RouteTarget::Blackhole;
        }
        if self.kind == UNICAST
            && self.is_plain()
            && let &[Hop { gateway, index: Some(index), onlink }] = self.hops.as_slice()
            && let Some(link) = name(index)
        {
            return match gateway {
                Some(gateway) => RouteTarget::Via { gateway, link, onlink, object: self.object },
                None => RouteTarget::Link(link),
            };
        }
        RouteTarget::Other(self.describe(name))
    }

    /// Returns true for a route with one next hop and nothing special. Routes of addresses, without a gateway, have a source.
    fn is_plain(&self) -> bool {
        let [hop] = self.hops.as_slice() else { return false };
        !self.special && (self.source.is_none() || hop.gateway.is_none())
    }

    /// Returns the route in the format of iproute2.
    fn describe(&self, name: &dyn Fn(IfIndex) -> Option<LinkName>) -> String {
        let mut text = match self.kind {
            UNICAST => String::from("unicast"),
            7 => String::from("unreachable"),
            8 => String::from("prohibit"),
            9 => String::from("throw"),
            other => format!("type {other}"),
        };
        for hop in &self.hops {
            text.extend(hop.gateway.map(|gateway| format!(" via {gateway}")));
            text.extend(hop.index.map(|index| match name(index) {
                Some(name) => format!(" dev {name}"),
                None => format!(" dev #{}", index.0),
            }));
            if hop.onlink {
                text.push_str(" onlink");
            }
        }
        text.extend(self.object.map(|object| format!(" nhid {object}")));
        text.extend(self.source.map(|source| format!(" src {source}")));
        if self.special {
            text.push_str(" with encapsulation or metrics");
        }
        text
    }
}

const OBJECT: &str = "route";
const HEADER_LEN: usize = 12;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_CACHEINFO: u16 = 12;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_ENCAP: u16 = 22;
const RTA_NH_ID: u16 = 30;
const RTNH_F_ONLINK: u8 = 4;
const RTM_F_CLONED: u32 = 0x200;

/// Decodes the payload of a route message; `None` for a family other than IPv4 and IPv6.
///
/// # Errors
/// If the message is truncated or an attribute is malformed.
pub fn decode(payload: &[u8]) -> Result<Option<RouteRecord>, DecodeError> {
    let header: &[u8; HEADER_LEN] =
        payload.first_chunk().ok_or(DecodeError::Header { object: OBJECT, length: payload.len() })?;
    let Some(family) = attribute::family(header[0]) else {
        return Ok(None);
    };
    let length = header[1];
    let flags = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
    let mut destination = family.any().addr();
    let mut record = RouteRecord {
        destination: family.any(),
        metric: 0,
        table: header[4].into(),
        protocol: header[5],
        kind: header[7],
        tos: header[3],
        cloned: flags & RTM_F_CLONED != 0,
        hops: Vec::new(),
        object: None,
        source: None,
        special: false,
        expires: None,
    };
    let mut hop = Hop { onlink: flags & u32::from(RTNH_F_ONLINK) != 0, ..Hop::default() };
    for attribute in attribute::of(OBJECT, payload, HEADER_LEN)? {
        match attribute.kind {
            RTA_DST => destination = attribute.ip()?,
            RTA_PRIORITY => record.metric = attribute.u32()?,
            RTA_PREFSRC => record.source = Some(attribute.ip()?),
            RTA_TABLE => record.table = attribute.u32()?,
            RTA_METRICS | RTA_ENCAP => record.special = true,
            RTA_NH_ID => record.object = NexthopId::new(attribute.u32()?),
            RTA_MULTIPATH => record.hops.extend(multipath(attribute)?),
            RTA_CACHEINFO => record.expires = expires(attribute.value),
            _ => hop.read(attribute)?,
        }
    }
    if record.hops.is_empty() {
        record.hops.push(hop);
    }
    record.destination = IpNet::new(destination, length)
        .map_err(|_| DecodeError::PrefixLength { object: OBJECT, length })?
        .trunc();
    Ok(Some(record))
}

/// Reads `rta_expires` of `struct rta_cacheinfo`: hundredths of a second (`USER_HZ`), 0 for never, negative until the kernel has removed
/// an expired route.
fn expires(cache_info: &[u8]) -> Option<Duration> {
    let ticks = attribute::u32_at(cache_info, 8)?.cast_signed();
    (ticks != 0).then(|| Duration::from_millis(10 * u64::from(ticks.max(0).unsigned_abs())))
}

impl Hop {
    fn read(&mut self, attribute: Attribute<'_>) -> Result<(), DecodeError> {
        match attribute.kind {
            RTA_OIF => self.index = Some(attribute.u32()?).filter(|index| *index != 0).map(IfIndex),
            RTA_GATEWAY => self.gateway = Some(attribute.ip()?),
            RTA_VIA => {
                // `struct rtvia`: two bytes of family, then the address.
                let value = attribute.value.get(2..).unwrap_or_default();
                self.gateway = Some(Attribute { value, ..attribute }.ip()?);
            }
            _ => {}
        }
        Ok(())
    }
}

/// A sequence of `struct rtnexthop`: length, flags, weight, interface, then attributes.
fn multipath(attribute: Attribute<'_>) -> Result<Vec<Hop>, DecodeError> {
    let mut hops = Vec::new();
    let mut rest = attribute.value;
    while let Some(&[low, high, flags, _, a, b, c, d]) = rest.first_chunk::<8>() {
        let length = usize::from(u16::from_ne_bytes([low, high]));
        let bytes = rest.get(8..length).ok_or(DecodeError::Attribute {
            object: OBJECT,
            attribute: RTA_MULTIPATH,
            length: attribute.value.len(),
        })?;
        let index = u32::from_ne_bytes([a, b, c, d]);
        let mut hop = Hop {
            gateway: None,
            index: Some(index).filter(|index| *index != 0).map(IfIndex),
            onlink: flags & RTNH_F_ONLINK != 0,
        };
        for attribute in attribute::of(OBJECT, bytes, 0)? {
            hop.read(attribute)?;
        }
        hops.push(hop);
        rest = rest.get(super::align(length)..).unwrap_or_default();
    }
    Ok(hops)
}
