//! The names of a store.

use std::path::Path;

/// The names of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The kind of store, in one word.
    pub kind: &'static str,
    /// Where the store is, for messages.
    pub location: String,
    /// Where the network config is, for messages.
    pub config_place: String,
    /// A file name that is unique among the stores of the daemons on a host.
    pub scope: String,
}

/// Kinds of stores in scopes.
pub(super) const ETCD: &str = "etcd";
pub(super) const DIRECTORY: &str = "dir";
pub(super) const KUBERNETES: &str = "kubernetes";

/// Returns the scope of a store of a kind at a place. Several daemons may run on one host, each with an etcd prefix,
/// a directory or a prefix of annotations of its own.
pub(super) fn scope(kind: &str, place: &str) -> String {
    let mut scope = kind.to_owned();
    for byte in place.trim_end_matches('/').bytes() {
        match byte {
            b'/' => scope.push('-'),
            b'.' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => scope.push(char::from(byte)),
            _ => scope.push_str(&format!("%{byte:02X}")),
        }
    }
    scope
}

/// Whether the name of a file is the scope of a store.
#[must_use]
pub fn is_scope(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    [ETCD, DIRECTORY, KUBERNETES].iter().any(|kind| name.starts_with(kind))
}
