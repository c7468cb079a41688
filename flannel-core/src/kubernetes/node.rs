//! A node as flannel sees it, and the lease that it stands for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::annotations::{Annotations, Key, Prefix, manager_prefix};
use super::wire::{Fields, Value, WireError, unwrap};
use crate::family::{Family, parse_net};
use crate::lease::{LeaseAttrs, Revision, Subnets, compacted};
use crate::store::Prescribed;
use ipnet::IpNet;
use serde_json::value::RawValue;

/// The fields of a node that flannel needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Differs from that of an earlier node of this name.
    pub uid: String,
    /// The revision of its last change, whatever changed.
    pub revision: Revision,
    /// The time of its creation, in seconds since 1970.
    pub created: i64,
    /// The annotations of flannel.
    pub annotations: Annotations,
    /// The assigned subnets. Empty in a node without, and in metadata alone.
    pub pod_cidrs: PodCidrs,
    /// The condition `NetworkUnavailable`, if the node has it. Not part of metadata alone.
    pub network_unavailable: Option<Condition>,
    /// Another prefix under which a daemon of flannel publishes, or has published, its lease.
    pub other_prefix: Option<String>,
}

/// A condition of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The reason in one word.
    pub reason: String,
    /// The reason for people.
    pub message: String,
}

/// `spec.podCIDRs`, or `spec.podCIDR` where there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodCidrs(pub Vec<String>);

impl PodCidrs {
    /// Returns the first subnet of each family.
    ///
    /// # Errors
    ///
    /// Fails if one is not a network, or if the node has more than two, with the reason.
    pub fn subnets(&self) -> Result<Subnets, String> {
        let Self(texts) = self;
        if texts.len() > 2 {
            return Err(format!(
                "spec.podCIDRs has {} entries ({}), but must have one of each family",
                texts.len(),
                texts.join(", ")
            ));
        }
        let mut subnets = Subnets { v4: None, v6: None };
        for text in texts {
            match parse_net(text) {
                Some(IpNet::V4(net)) => drop(subnets.v4.get_or_insert(net.trunc())),
                Some(IpNet::V6(net)) => drop(subnets.v6.get_or_insert(net.trunc())),
                None => return Err(format!("spec.podCIDRs contains {text:?}, which is not a network")),
            }
        }
        Ok(subnets)
    }
}

impl Annotations {
    /// Whether a daemon of flannel publishes its lease here. Compatibility: exactly this text counts.
    #[must_use]
    pub fn is_managed(&self) -> bool {
        self.get(Key::Manager) == Some("true")
    }

    /// Returns the published attributes.
    ///
    /// # Errors
    ///
    /// Fails if a value cannot be read, with the annotation and the reason.
    pub fn attrs(&self, prefix: &Prefix) -> Result<LeaseAttrs, String> {
        let rule = |key: Key, rule: &str| {
            let value = self.get(key).unwrap_or_default();
            format!("annotation {} is {value:?}, but must be {rule}", prefix.name(key))
        };
        let v4 = match self.get(Key::PublicIp).map(parse_v4) {
            Some(None) => return Err(rule(Key::PublicIp, "an IPv4 address")),
            address => address.flatten().filter(|address| !address.is_unspecified()),
        };
        let v6 = match self.get(Key::PublicIpv6).map(parse_v6) {
            Some(None) => return Err(rule(Key::PublicIpv6, "an IPv6 address")),
            address => address.flatten().filter(|address| !address.is_unspecified()),
        };
        let data = |key: Key| match self.get(key) {
            None | Some("" | "null") => Ok(None),
            Some(text) => match compact_text(text) {
                Some(data) => Ok(Some(data)),
                None => Err(rule(key, "JSON")),
            },
        };
        Ok(LeaseAttrs {
            public_ip: v4,
            public_ipv6: v6,
            backend_type: self.get(Key::BackendType).unwrap_or_default().to_owned(),
            backend_data: data(Key::BackendData)?,
            backend_v6_data: data(Key::BackendV6Data)?,
        })
    }

    /// Returns the lease of a node with these subnets: those of the families with a public address.
    ///
    /// # Errors
    ///
    /// Fails if the node cannot be reached, with the reason.
    pub fn lease(&self, assigned: &Subnets, prefix: &Prefix) -> Result<(Subnets, LeaseAttrs), String> {
        let attrs = self.attrs(prefix)?;
        let subnets = Subnets {
            v4: assigned.v4.filter(|_| attrs.public_ip.is_some()),
            v6: assigned.v6.filter(|_| attrs.public_ipv6.is_some()),
        };
        if !subnets.is_empty() {
            return Ok((subnets, attrs));
        }
        let families: Vec<String> = assigned.iter().map(|net| Family::of_net(net).to_string()).collect();
        Err(match families.as_slice() {
            [] => "the node has no podCIDR".to_owned(),
            families => format!(
                "the node has no public address of the family of its podCIDR ({}): annotation {}",
                families.join(", "),
                if assigned.v4.is_some() { prefix.name(Key::PublicIp) } else { prefix.name(Key::PublicIpv6) }
            ),
        })
    }

    /// Returns the addresses that the administrator prescribes for this node. Compatibility: unlike an overwrite, they take
    /// part in the choice of the external interface.
    ///
    /// # Errors
    ///
    /// Fails if one is not an address of its family, with the annotation.
    pub fn prescribed(&self, prefix: &Prefix) -> Result<Prescribed, String> {
        let rule = |key: Key, rule: &str| {
            let value = self.get(key).unwrap_or_default();
            format!("annotation {} is {value:?}, but must be {rule}", prefix.name(key))
        };
        let public_ip = match self.filled(Key::NodePublicIp).map(parse_v4) {
            Some(None) => return Err(rule(Key::NodePublicIp, "an IPv4 address")),
            address => address.flatten(),
        };
        let public_ipv6 = match self.filled(Key::NodePublicIpv6).map(parse_v6) {
            Some(None) => return Err(rule(Key::NodePublicIpv6, "an IPv6 address")),
            address => address.flatten(),
        };
        Ok(Prescribed { public_ip, public_ipv6 })
    }
}

fn compact_text(text: &str) -> Option<Box<RawValue>> {
    compacted(serde_json::from_str(text).ok()?)
}

fn parse_v4(text: &str) -> Option<Ipv4Addr> {
    match text.parse::<IpAddr>().ok()?.to_canonical() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// Compatibility: Go takes an IPv4 address for a mapped one.
fn parse_v6(text: &str) -> Option<Ipv6Addr> {
    match text.parse::<IpAddr>().ok()? {
        IpAddr::V4(address) => Some(address.to_ipv6_mapped()),
        IpAddr::V6(address) => Some(address),
    }
}

/// Decodes a node, or the metadata of one, from the body of a response.
///
/// # Errors
///
/// Fails if the body is not an object of the Kubernetes API.
pub fn decode_node(body: &[u8], prefix: &Prefix) -> Result<Node, WireError> {
    node(unwrap(body)?, prefix)
}

/// Decodes a node outside of an envelope. Source: `k8s.io/api/core/v1/generated.proto`.
pub(super) fn node(message: &[u8], prefix: &Prefix) -> Result<Node, WireError> {
    let mut node = Node::default();
    let mut single = String::new();
    for field in Fields(message) {
        match field? {
            (1, metadata) => read_metadata(metadata.bytes(), prefix, &mut node)?,
            (2, spec) => {
                for field in Fields(spec.bytes()) {
                    match field? {
                        (1, cidr) => single = cidr.text(),
                        (7, cidr) => node.pod_cidrs.0.push(cidr.text()),
                        _ => {}
                    }
                }
            }
            (3, status) => {
                for field in Fields(status.bytes()) {
                    if let (4, condition) = field? {
                        read_condition(condition, &mut node)?;
                    }
                }
            }
            _ => {}
        }
    }
    if node.pod_cidrs.0.is_empty() && !single.is_empty() {
        node.pod_cidrs.0.push(single);
    }
    Ok(node)
}

/// Source: `k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto`.
fn read_metadata(message: &[u8], prefix: &Prefix, node: &mut Node) -> Result<(), WireError> {
    for field in Fields(message) {
        match field? {
            (1, name) => node.name = name.text(),
            (5, uid) => node.uid = uid.text(),
            (6, version) => node.revision = revision(&version.text())?,
            (8, created) => {
                for field in Fields(created.bytes()) {
                    if let (1, seconds) = field? {
                        node.created = seconds.number().cast_signed();
                    }
                }
            }
            (12, entry) => {
                let (mut name, mut value) = (Value::Fixed, Value::Fixed);
                for field in Fields(entry.bytes()) {
                    match field? {
                        (1, text) => name = text,
                        (2, text) => value = text,
                        _ => {}
                    }
                }
                match prefix.key(name.bytes()) {
                    Some(key) => node.annotations.set(key, value.text()),
                    None => note_other(node, name.bytes(), value.bytes()),
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Notes the prefix of an annotation of a daemon with another one.
pub(super) fn note_other(node: &mut Node, name: &[u8], value: &[u8]) {
    if let Some(other) = manager_prefix(name, value) {
        node.other_prefix = Some(other.to_owned());
    }
}

/// Only the condition `NetworkUnavailable` is kept.
fn read_condition(message: Value<'_>, node: &mut Node) -> Result<(), WireError> {
    let mut condition = Condition::default();
    let mut is_wanted = false;
    for field in Fields(message.bytes()) {
        match field? {
            (1, kind) => is_wanted = kind.bytes() == b"NetworkUnavailable",
            (2, status) => condition.status = status.text(),
            (5, reason) => condition.reason = reason.text(),
            (6, text) => condition.message = text.text(),
            _ => {}
        }
        if !is_wanted {
            return Ok(());
        }
    }
    if is_wanted {
        node.network_unavailable = Some(condition);
    }
    Ok(())
}

/// Reads a `resourceVersion`. It is opaque in principle; every API server that keeps its objects in etcd sends a number, and
/// Kubernetes promises since 1.35 that larger is later.
pub(super) fn revision(text: &str) -> Result<Revision, WireError> {
    text.parse().map(Revision::new).map_err(|_| WireError::Version(text.to_owned()))
}
