//! Links: `RTM_NEWLINK`, `RTM_DELLINK`, `RTM_GETLINK`.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use std::os::fd::RawFd;

use super::attribute::{self, Attribute};
use super::{DecodeError, EncodeError, Get, Request};
use crate::dataplane::{Link, LinkChange, LinkKind};
use crate::facts::LinkFacts;
use crate::link::{IfIndex, LinkName, Mac};

mod kind;

/// Settings of any kind of link, sent in one message; `None` leaves a setting unchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkSettings {
    /// New name; the link must be down on kernels before 6.2.
    pub name: Option<LinkName>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Hardware address.
    pub mac: Option<Mac>,
    /// Up or down.
    pub up: Option<bool>,
    /// `IFLA_IFALIAS`.
    pub alias: Option<String>,
    /// The bridge to attach the link to; `Some(None)` detaches it.
    pub master: Option<Option<IfIndex>>,
    /// File descriptor of the network namespace to move to.
    pub netns: Option<RawFd>,
    /// Frames may leave through the bridge port at which they arrive. The link must be attached already.
    pub hairpin: Option<bool>,
    /// The bridge port exchanges no frames with other isolated ports. The link must be attached already.
    pub isolated: Option<bool>,
    /// Receive frames for any hardware address.
    pub promiscuous: Option<bool>,
    /// VLAN filtering. The link must be a bridge.
    pub vlan_filtering: Option<bool>,
}

/// A pair of virtual Ethernet links to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewVeth {
    /// Name of the end in this namespace.
    pub name: LinkName,
    /// Hardware address of that end; `None` leaves the choice to the kernel.
    pub mac: Option<Mac>,
    /// Bridge that the link is attached to.
    pub master: Option<IfIndex>,
    /// Whether this end is set up.
    pub up: bool,
    /// MTU of both ends.
    pub mtu: Option<u32>,
    /// Length of the transmit queue of this end; `None` is the kernel's default.
    pub queue_length: Option<u32>,
    /// Name of the other end.
    pub peer: LinkName,
    /// Hardware address of the other end.
    pub peer_mac: Option<Mac>,
    /// File descriptor of the namespace of the other end; `None` is this namespace.
    pub peer_netns: Option<RawFd>,
}

/// A bridge to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBridge {
    /// Name.
    pub name: LinkName,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Hardware address; if set, the bridge does not adopt the address of a port.
    pub mac: Option<Mac>,
    /// VLAN filtering.
    pub vlan_filtering: bool,
}

/// Creates a link with all parameters of `link` but `up` and `alias`, which the kernel accepts from [`set`] only.
/// `underlay` is the index of the lower link.
///
/// # Errors
/// If `lower` is named and `underlay` is not given.
pub fn create(name: &LinkName, link: &Link, underlay: Option<IfIndex>) -> Result<Request, EncodeError> {
    let mut attributes = common(Some(name), Some(link.mtu).filter(|mtu| *mtu > 0), None);
    // Compatibility: Go flannel always sends 0, so `ip link` shows no qlen.
    attributes.push(LinkAttribute::TxQueueLen(0));
    attributes.extend(common(None, None, link.mac));
    attributes.push(LinkAttribute::LinkInfo(kind::creation(&link.kind, underlay)?));
    Ok(Request::create(RouteNetlinkMessage::NewLink(message(0, attributes))))
}

/// Tests whether the kernel supports a kind of link, without creating one: the name is invalid, so that the kernel refuses
/// the link after it has looked up the kind and loaded its module.
///
/// The answer is `EOPNOTSUPP` if the kind is not supported, and another error if it is.
#[must_use]
pub fn probe(kind: &str) -> Request {
    let attributes = vec![
        LinkAttribute::IfName("flannel/probe".to_owned()),
        // Too short for the kinds that check it; veth would otherwise create its other end first.
        LinkAttribute::Address(vec![0; 5]),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Other(kind.to_owned()))]),
    ];
    Request::create(RouteNetlinkMessage::NewLink(message(0, attributes)))
}

/// Creates a veth pair.
#[must_use]
pub fn create_veth(veth: &NewVeth) -> Request {
    let mut peer = common(Some(&veth.peer), veth.mtu, veth.peer_mac);
    peer.extend(veth.peer_netns.map(LinkAttribute::NetNsFd));
    let mut attributes = common(Some(&veth.name), veth.mtu, veth.mac);
    attributes.extend(veth.queue_length.map(LinkAttribute::TxQueueLen));
    attributes.extend(veth.master.map(|master| LinkAttribute::Controller(master.0)));
    attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(message(0, peer)))),
    ]));
    let mut message = message(0, attributes);
    set_flag(&mut message, LinkFlags::Up, veth.up.then_some(true));
    Request::create(RouteNetlinkMessage::NewLink(message))
}

/// Creates a bridge, down.
#[must_use]
pub fn create_bridge(bridge: &NewBridge) -> Request {
    let mut attributes = common(Some(&bridge.name), bridge.mtu, bridge.mac);
    let mut info = vec![LinkInfo::Kind(InfoKind::Bridge)];
    if bridge.vlan_filtering {
        info.push(LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::VlanFiltering(true)])));
    }
    attributes.push(LinkAttribute::LinkInfo(info));
    Request::create(RouteNetlinkMessage::NewLink(message(0, attributes)))
}

/// Changes a link.
#[must_use]
pub fn set(index: IfIndex, settings: &LinkSettings) -> Request {
    let mut attributes = common(settings.name.as_ref(), settings.mtu, settings.mac);
    attributes.extend(settings.alias.clone().map(LinkAttribute::IfAlias));
    attributes
        .extend(settings.master.map(|master| LinkAttribute::Controller(master.map_or(0, |index| index.0))));
    attributes.extend(settings.netns.map(LinkAttribute::NetNsFd));
    let mut info = Vec::new();
    if let Some(filtering) = settings.vlan_filtering {
        info.push(LinkInfo::Kind(InfoKind::Bridge));
        info.push(LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::VlanFiltering(filtering)])));
    }
    let mut port: Vec<_> = settings.hairpin.map(InfoBridgePort::HairpinMode).into_iter().collect();
    port.extend(settings.isolated.map(InfoBridgePort::Isolated));
    if !port.is_empty() {
        info.push(LinkInfo::PortKind(InfoPortKind::Bridge));
        info.push(LinkInfo::PortData(InfoPortData::BridgePort(port)));
    }
    if !info.is_empty() {
        attributes.push(LinkAttribute::LinkInfo(info));
    }
    let mut message = message(index.0, attributes);
    set_flag(&mut message, LinkFlags::Up, settings.up);
    set_flag(&mut message, LinkFlags::Promisc, settings.promiscuous);
    Request::change(RouteNetlinkMessage::NewLink(message), 0)
}

/// Returns the messages for a planned change: one, or two because the VXLAN driver rejects an MTU together with its own
/// parameters.
#[must_use]
pub fn change(index: IfIndex, change: &LinkChange) -> Vec<Request> {
    let LinkChange { mtu, mac, up, alias, kind } = change.clone();
    let settings = LinkSettings { mtu, mac, up, alias, ..LinkSettings::default() };
    let mut requests = Vec::new();
    if settings != LinkSettings::default() {
        requests.push(set(index, &settings));
    }
    requests.extend(kind.map(|kind| {
        let message = message(index.0, vec![LinkAttribute::LinkInfo(kind::change(&kind))]);
        Request::change(RouteNetlinkMessage::NewLink(message), 0)
    }));
    requests
}

/// Deletes a link.
#[must_use]
pub fn delete(index: IfIndex) -> Request {
    Request::change(RouteNetlinkMessage::DelLink(message(index.0, Vec::new())), 0)
}

/// Requests a link by name.
#[must_use]
pub fn get(name: &LinkName) -> Get<LinkRecord> {
    let attributes = vec![LinkAttribute::IfName(name.to_string()), without_statistics()];
    get_one(message(0, attributes))
}

/// Requests a link by index.
#[must_use]
pub fn get_by_index(index: IfIndex) -> Get<LinkRecord> {
    get_one(message(index.0, vec![without_statistics()]))
}

/// Requests all links.
#[must_use]
pub fn dump() -> Get<LinkRecord> {
    let message = message(0, vec![without_statistics()]);
    Get::all("links", RouteNetlinkMessage::GetLink(message), |frame| decode(frame.payload))
}

fn get_one(message: LinkMessage) -> Get<LinkRecord> {
    Get::one("a link", RouteNetlinkMessage::GetLink(message), |frame| decode(frame.payload))
}

/// Makes the kernel omit the statistics of IPv6.
fn without_statistics() -> LinkAttribute {
    LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])
}

/// Attributes of all kinds of link.
fn common(name: Option<&LinkName>, mtu: Option<u32>, mac: Option<Mac>) -> Vec<LinkAttribute> {
    let name = name.map(|name| LinkAttribute::IfName(name.to_string()));
    let mac = mac.map(|mac| LinkAttribute::Address(mac.0.to_vec()));
    [name, mtu.map(LinkAttribute::Mtu), mac].into_iter().flatten().collect()
}

fn message(index: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = attributes;
    message
}

fn set_flag(message: &mut LinkMessage, flag: LinkFlags, value: Option<bool>) {
    if let Some(value) = value {
        message.header.change_mask |= flag;
        message.header.flags.set(flag, value);
    }
}

/// A link from the kernel, which refers to other links by index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkRecord {
    /// Index.
    pub index: IfIndex,
    /// Name.
    pub name: LinkName,
    /// Parameters, without the name of the lower link.
    pub link: Link,
    /// Index of the lower link, if it is in this namespace.
    pub underlay: Option<IfIndex>,
    /// Bridge that the link is attached to.
    pub master: Option<IfIndex>,
    /// `IFLA_LINK`: the index of the other end of a veth pair, in its own namespace.
    pub peer: Option<IfIndex>,
    /// Whether the link is a bridge port in hairpin mode.
    pub hairpin: bool,
    /// Whether the link is a bridge with VLAN filtering.
    pub vlan_filtering: bool,
    /// The operational state is up (`IFF_RUNNING`).
    pub running: bool,
    /// The link was set to receive frames for any hardware address (`IFF_PROMISC`); packet captures do not count.
    pub promiscuous: bool,
}

impl LinkRecord {
    /// Returns the link as a fact about the host, without addresses.
    #[must_use]
    pub fn facts(&self) -> LinkFacts {
        LinkFacts {
            index: self.index,
            name: self.name.clone(),
            mtu: self.link.mtu,
            up: self.link.up,
            mac: self.link.mac,
            master: self.master,
            addresses: Vec::new(),
        }
    }
}

const OBJECT: &str = "link";
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFF_UP: u32 = 1;
const IFF_RUNNING: u32 = 1 << 6;
const IFF_PROMISC: u32 = 1 << 8;

/// Decodes the payload of a link message; `None` for messages of a bridge about its ports (family `AF_BRIDGE`).
///
/// # Errors
/// If the message is truncated or an attribute is malformed.
pub fn decode(payload: &[u8]) -> Result<Option<LinkRecord>, DecodeError> {
    let cut = DecodeError::Header { object: OBJECT, length: payload.len() };
    let (Some(index), Some(flags)) = (attribute::u32_at(payload, 4), attribute::u32_at(payload, 8)) else {
        return Err(cut);
    };
    if payload[0] != 0 {
        return Ok(None);
    }
    let mut name = None;
    let mut link = Link {
        kind: LinkKind::Other(String::new()),
        mtu: 0,
        mac: None,
        up: flags & IFF_UP != 0,
        alias: None,
    };
    let (mut info, mut master, mut peer, mut elsewhere) = (&[][..], None, None, false);
    for attribute in attribute::of(OBJECT, payload, 16)? {
        match attribute.kind {
            IFLA_ADDRESS => link.mac = attribute.value.try_into().ok().map(Mac),
            IFLA_IFNAME => name = Some(attribute::text(attribute.value).parse()?),
            IFLA_MTU => link.mtu = attribute.u32()?,
            IFLA_LINK => peer = index_of(attribute)?,
            IFLA_MASTER => master = index_of(attribute)?,
            IFLA_IFALIAS => link.alias = Some(attribute::text(attribute.value)),
            IFLA_LINK_NETNSID => elsewhere = true,
            IFLA_LINKINFO => info = attribute.value,
            _ => {}
        }
    }
    let name = name.ok_or(DecodeError::Missing { object: OBJECT, attribute: IFLA_IFNAME })?;
    let Info { kind, underlay, hairpin, vlan_filtering } = Info::decode(info)?;
    // An index in another namespace has no meaning here.
    let underlay = underlay.filter(|_| !elsewhere);
    let link = Link { kind, ..link };
    Ok(Some(LinkRecord {
        index: IfIndex(index),
        name,
        link,
        underlay,
        master,
        peer,
        hairpin,
        vlan_filtering,
        running: flags & IFF_RUNNING != 0,
        promiscuous: flags & IFF_PROMISC != 0,
    }))
}

fn index_of(attribute: Attribute<'_>) -> Result<Option<IfIndex>, DecodeError> {
    Ok(Some(attribute.u32()?).filter(|index| *index != 0).map(IfIndex))
}

/// The content of `IFLA_LINKINFO`.
struct Info {
    kind: LinkKind,
    underlay: Option<IfIndex>,
    hairpin: bool,
    vlan_filtering: bool,
}

impl Info {
    fn decode(info: &[u8]) -> Result<Self, DecodeError> {
        let name_of = |kind| attribute::find(info, kind).map_or_else(String::new, attribute::text);
        let value = |kind| attribute::find(info, kind).unwrap_or_default();
        let is_set =
            |data, kind| attribute::find(data, kind).and_then(<[u8]>::first).is_some_and(|byte| *byte != 0);
        let (name, data) = (name_of(IFLA_INFO_KIND), value(IFLA_INFO_DATA));
        let is_bridge_port = name_of(IFLA_INFO_SLAVE_KIND) == "bridge";
        let vlan_filtering = name == "bridge" && is_set(data, IFLA_BR_VLAN_FILTERING);
        let hairpin = is_bridge_port && is_set(value(IFLA_INFO_SLAVE_DATA), IFLA_BRPORT_MODE);
        let (kind, underlay) = kind::decode(name, data)?;
        Ok(Self { kind, underlay, hairpin, vlan_filtering })
    }
}
