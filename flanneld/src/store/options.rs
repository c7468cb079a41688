//! Which store to use, and how to open it.

use std::path::PathBuf;
use std::sync::Arc;

use super::Store;
use super::dir::DirStore;
use super::etcd::{EtcdOptions, EtcdOptionsError, EtcdStore};

/// Where leases are kept.
#[derive(Clone, Debug)]
pub enum StoreOptions {
    /// In etcd.
    Etcd(EtcdOptions),
    /// In a directory.
    Directory(PathBuf),
}

impl StoreOptions {
    /// Opens the store. Nothing is connected or read yet.
    ///
    /// # Errors
    /// Fails if the options cannot work.
    pub fn open(self) -> Result<Store, EtcdOptionsError> {
        Ok(match self {
            Self::Etcd(options) => Arc::new(EtcdStore::new(options)?),
            Self::Directory(path) => Arc::new(DirStore::new(path)),
        })
    }

    /// A file name that tells this store from others of the same host: several daemons may run
    /// side by side with prefixes of their own.
    #[must_use]
    pub fn scope(&self) -> String {
        match self {
            Self::Etcd(etcd) => scope("etcd", &etcd.prefix),
            Self::Directory(path) => scope("dir", path.to_str().unwrap_or_default()),
        }
    }
}

/// The scope of a store at a place.
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
