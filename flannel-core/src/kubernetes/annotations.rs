//! The annotations of a node, under a prefix that the administrator chooses.

use std::fmt;
use std::str::FromStr;

use crate::family::Family;
use crate::json;
use crate::lease::{LeaseAttrs, Revision};
use serde_json::value::RawValue;

/// An annotation of flannel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// JSON of the backend for IPv4, or `null`.
    BackendData,
    /// The backend.
    BackendType,
    /// JSON of the backend for IPv6, or `null`.
    BackendV6Data,
    /// `true` where a daemon of flannel publishes.
    Manager,
    /// Set by an administrator: acts as `--public-ip`.
    NodePublicIp,
    /// Set by an administrator: acts as `--public-ipv6`.
    NodePublicIpv6,
    /// The IPv4 address that other nodes send to.
    PublicIp,
    /// Set by an administrator: the value of [`Key::PublicIp`].
    PublicIpOverwrite,
    /// The IPv6 address that other nodes send to.
    PublicIpv6,
    /// Set by an administrator: the value of [`Key::PublicIpv6`].
    PublicIpv6Overwrite,
}

/// All keys in the order of their names, and the names.
const NAMES: [(Key, &str); 10] = [
    (Key::BackendData, "backend-data"),
    (Key::BackendType, "backend-type"),
    (Key::BackendV6Data, "backend-v6-data"),
    (Key::Manager, "kube-subnet-manager"),
    (Key::NodePublicIp, "node-public-ip"),
    (Key::NodePublicIpv6, "node-public-ipv6"),
    (Key::PublicIp, "public-ip"),
    (Key::PublicIpOverwrite, "public-ip-overwrite"),
    (Key::PublicIpv6, "public-ipv6"),
    (Key::PublicIpv6Overwrite, "public-ipv6-overwrite"),
];

impl Key {
    /// The annotations that a daemon writes.
    const WRITTEN: [Self; 6] = [
        Self::BackendData,
        Self::BackendType,
        Self::BackendV6Data,
        Self::Manager,
        Self::PublicIp,
        Self::PublicIpv6,
    ];
}

/// The prefix of the annotations, such as `flannel.alpha.coreos.com/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

/// A prefix that the API server would reject.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParsePrefixError(&'static str);

impl Prefix {
    /// Returns the full name of an annotation.
    #[must_use]
    pub fn name(&self, key: Key) -> String {
        format!("{}{}", self.0, NAMES[key as usize].1)
    }

    /// Returns the key of a full name.
    pub(super) fn key(&self, name: &[u8]) -> Option<Key> {
        let name = name.strip_prefix(self.0.as_bytes())?;
        NAMES.iter().find(|(_, text)| text.as_bytes() == name).map(|(key, _)| *key)
    }
}

/// Returns the prefix of an annotation that shows a daemon of flannel, whatever its prefix is.
pub(super) fn manager_prefix<'a>(name: &'a [u8], value: &[u8]) -> Option<&'a str> {
    let prefix = name.strip_suffix(NAMES[Key::Manager as usize].1.as_bytes())?;
    std::str::from_utf8(prefix).ok().filter(|_| value == b"true")
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    /// Reads a prefix as Go flannel does: `/` or `-` is appended where it is missing. Different on purpose: what the API server
    /// rejects is an error here, not at the first write.
    fn from_str(text: &str) -> Result<Self, ParsePrefixError> {
        let (domain, name) = text.split_once('/').unwrap_or((text, ""));
        let is_label = |label: &str| {
            let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
        };
        if domain.len() > 253 || !domain.contains('.') || !domain.split('.').all(is_label) {
            return Err(ParsePrefixError(
                "a DNS name of two or more labels in small letters, optionally with / and the start of a name",
            ));
        }
        let is_name =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        // The longest name behind it has 21 characters, and the API server accepts 63.
        if !name.bytes().all(is_name) || name.starts_with(['-', '_']) || name.len() > 41 {
            return Err(ParsePrefixError(
                "a DNS name, optionally with one / and at most 41 small letters, digits, - and _ that start with a letter or digit",
            ));
        }
        let separator = if name.is_empty() || name.ends_with('-') { "" } else { "-" };
        Ok(Self(format!("{domain}/{name}{separator}")))
    }
}

/// The annotations of flannel on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Annotations([Option<Box<str>>; NAMES.len()]);

impl Annotations {
    /// Returns a value.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&str> {
        self.0[key as usize].as_deref()
    }

    /// Returns a value that is not empty.
    pub(super) fn filled(&self, key: Key) -> Option<&str> {
        self.get(key).filter(|text| !text.is_empty())
    }

    pub(super) fn set(&mut self, key: Key, value: String) {
        self.0[key as usize] = Some(value.into_boxed_str());
    }

    /// Returns those that a daemon writes.
    #[must_use]
    pub fn published(&self) -> Published {
        Published(Key::WRITTEN.map(|key| self.get(key).map(str::to_owned)))
    }
}

/// What a daemon writes: a value, or nothing, for each of its annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published([Option<String>; Key::WRITTEN.len()]);

impl Published {
    /// The annotations of a node that is reached by `attrs`. Those of a family without a public address do not exist.
    ///
    /// # Errors
    ///
    /// Fails if the administrator overwrites an address by something else, with the annotation.
    pub fn new(attrs: &LeaseAttrs, node: &Annotations, prefix: &Prefix) -> Result<Self, String> {
        let address = |family: Family, key: Key| {
            let Some(own) = attrs.public_address(family) else { return Ok(None) };
            let Some(text) = node.filled(key) else { return Ok(Some(own.to_string())) };
            match text.parse() {
                Ok(address) if Family::of(address) == family => Ok(Some(text.to_owned())),
                _ => Err(format!(
                    "annotation {} is {text:?}, but must be an {family} address",
                    prefix.name(key)
                )),
            }
        };
        let v4 = address(Family::V4, Key::PublicIpOverwrite)?;
        let v6 = address(Family::V6, Key::PublicIpv6Overwrite)?;
        let data = |is_published: bool, family: Family| {
            is_published.then(|| attrs.backend_data(family).map_or("null", RawValue::get).to_owned())
        };
        Ok(Self([
            data(v4.is_some(), Family::V4),
            Some(attrs.backend_type.clone()),
            data(v6.is_some(), Family::V6),
            Some("true".to_owned()),
            v4,
            v6,
        ]))
    }

    /// Whether these are the others, or what is left of them after some were removed.
    #[must_use]
    pub fn is_part_of(&self, others: &Self) -> bool {
        self.0.iter().zip(&others.0).all(|(own, other)| own.is_none() || own == other)
    }

    /// Returns the strategic merge patch that turns the present annotations into these: only what differs, and only at the
    /// revision of the node that was read. `None` if nothing differs.
    #[must_use]
    pub fn patch(&self, node: &Annotations, revision: Revision, prefix: &Prefix) -> Option<String> {
        let mut entries = String::new();
        for (key, value) in Key::WRITTEN.into_iter().zip(&self.0) {
            if node.get(key) == value.as_deref() {
                continue;
            }
            if !entries.is_empty() {
                entries.push(',');
            }
            json::write_string(&mut entries, &prefix.name(key));
            entries.push(':');
            match value {
                Some(value) => json::write_string(&mut entries, value),
                None => entries.push_str("null"),
            }
        }
        (!entries.is_empty()).then(|| {
            format!("{{\"metadata\":{{\"annotations\":{{{entries}}},\"resourceVersion\":\"{revision}\"}}}}")
        })
    }
}
