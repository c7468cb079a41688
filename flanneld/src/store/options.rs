//! The choice of a store: its flags, and how to open it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::dir::DirStore;
use super::error::StoreOptionsError;
use super::etcd::{self, EtcdOptions, EtcdStore};
use super::identity::{DIRECTORY, ETCD, scope};
use super::kubernetes::{self, KubernetesOptions};
use super::{Ownership, Store};
use crate::flag::Flag;

/// The flag that selects a directory.
pub const LEASE_DIR: Flag =
    Flag::text("lease-dir", "DIR", "", "Directory for config and leases, instead of etcd").extension();

/// The flags that select a store. flanneld and flannelctl have the same.
pub const FLAGS: [Flag; 8] = {
    let [endpoints, prefix, keyfile, certfile, cafile, username, password] = etcd::FLAGS;
    [endpoints, prefix, keyfile, certfile, cafile, username, password, LEASE_DIR]
};

/// The flag that selects Kubernetes, and the flags that have an effect only with it.
pub const KUBERNETES_FLAGS: [Flag; 7] = kubernetes::FLAGS;

/// Flags that have an effect only together, and the reason.
pub const PAIRS: [(Flag, Flag, &str); 2] = etcd::PAIRS;

/// A choice of store.
#[derive(Clone, Debug)]
pub struct StoreOptions(Choice);

#[derive(Clone, Debug)]
enum Choice {
    Etcd(EtcdOptions),
    Directory(PathBuf),
    Kubernetes(Box<KubernetesOptions>),
}

impl StoreOptions {
    /// Converts the values of [`FLAGS`]; a flag without a value has its default.
    pub fn from_flags(value: impl Fn(&Flag) -> Option<String>) -> Self {
        match value(&LEASE_DIR).filter(|path| !path.is_empty()) {
            Some(path) => Self::directory(path),
            None => Self(Choice::Etcd(EtcdOptions::from_flags(value))),
        }
    }

    /// Whether the flags select Kubernetes.
    pub fn is_kubernetes(value: impl Fn(&Flag) -> Option<String>) -> bool {
        value(&kubernetes::KUBE_SUBNET_MGR).is_some_and(|text| kubernetes::is_true(&text))
    }

    /// Converts the values of [`KUBERNETES_FLAGS`] and the variables that name this node.
    ///
    /// # Errors
    /// Fails if one is missing or invalid.
    pub fn kubernetes(
        value: impl Fn(&Flag) -> Option<String>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, StoreOptionsError> {
        Ok(Self(Choice::Kubernetes(Box::new(KubernetesOptions::new(value, env)?))))
    }

    /// A store in a directory.
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self(Choice::Directory(path.into()))
    }

    /// Checks the options without opening the store.
    ///
    /// # Errors
    /// Fails if the options are invalid.
    pub fn check(&self) -> Result<(), StoreOptionsError> {
        self.open().map(drop)
    }

    /// Opens the store. Nothing is connected or read yet.
    ///
    /// # Errors
    /// Fails if the options are invalid.
    pub fn open(&self) -> Result<Store, StoreOptionsError> {
        Ok(match &self.0 {
            Choice::Etcd(options) => Arc::new(EtcdStore::new(options.clone())?),
            Choice::Directory(path) => Arc::new(DirStore::new(path)),
            Choice::Kubernetes(options) => kubernetes::open(options)?,
        })
    }

    /// Returns who chooses the subnet of a node.
    #[must_use]
    pub const fn ownership(&self) -> Ownership {
        match &self.0 {
            Choice::Etcd(_) | Choice::Directory(_) => Ownership::Claimed,
            Choice::Kubernetes(_) => Ownership::Assigned,
        }
    }

    /// Returns why the store does not exist yet, if the first write would create it.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        match &self.0 {
            Choice::Directory(path) if !path.is_dir() => {
                Some(format!("the lease directory {} does not exist", path.display()))
            }
            _ => None,
        }
    }

    /// Returns [`super::Identity::scope`] of the store.
    #[must_use]
    pub fn scope(&self) -> String {
        match &self.0 {
            Choice::Etcd(options) => scope(ETCD, &options.prefix),
            Choice::Directory(path) => scope(DIRECTORY, path.to_str().unwrap_or_default()),
            Choice::Kubernetes(options) => options.scope(),
        }
    }

    /// Returns the flags that select this store, without the password.
    #[must_use]
    pub fn public_flags(&self) -> Vec<String> {
        match &self.0 {
            Choice::Etcd(options) => options.public_flags(),
            Choice::Directory(path) => vec![format!("{}={}", LEASE_DIR.dashed(), path.display())],
            Choice::Kubernetes(options) => options.public_flags(),
        }
    }

    /// Returns the texts that no report may contain: the password and the lines of the private key.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        let Choice::Etcd(options) = &self.0 else { return Vec::new() };
        let key = options.keyfile.as_ref().and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        // Line by line, because a quoted key can have other line breaks.
        let lines = key.lines().filter(|line| !line.starts_with("-----")).map(str::to_owned);
        options.password.iter().cloned().chain(lines).collect()
    }

    #[cfg(test)]
    pub(crate) fn etcd(&self) -> &EtcdOptions {
        match &self.0 {
            Choice::Etcd(options) => options,
            other => panic!("{other:?}"),
        }
    }
}
