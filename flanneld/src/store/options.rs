//! The choice of a store: its flags, and how to open it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::dir::DirStore;
use super::error::StoreOptionsError;
use super::etcd::{self, EtcdOptions, EtcdStore};
use super::identity::{DIRECTORY, ETCD, scope};
use super::kubernetes::{self, ConfigMap, KubernetesOptions};
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

/// The flag of flannelctl that names the ConfigMap with the network config.
pub const CONFIG_MAP: Flag = kubernetes::CONFIG_MAP;

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

    /// Converts the values of [`FLAGS`] and [`KUBERNETES_FLAGS`] for a client, which need not run on a node. A flag of Kubernetes
    /// selects it.
    ///
    /// # Errors
    /// Fails if they contradict each other, or if one is missing or invalid.
    pub fn client(
        value: impl Fn(&Flag) -> Option<String>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, StoreOptionsError> {
        let filled = |flag: &Flag| value(flag).filter(|text| !text.is_empty());
        let is_selected = |flag: &Flag| filled(flag).is_some_and(|text| text != "false");
        let Some(selected) = KUBERNETES_FLAGS.iter().find(|flag| is_selected(flag)) else {
            return Ok(Self::from_flags(value));
        };
        if filled(&LEASE_DIR).is_some() {
            let (one, other) = (selected.dashed(), LEASE_DIR.dashed());
            let error = format!("{one} and {other} are incompatible: only one store can be used");
            return Err(StoreOptionsError(error));
        }
        Ok(Self(Choice::Kubernetes(Box::new(KubernetesOptions::of_client(filled, env)?))))
    }

    /// Completes the options of a client by those of the daemon of its node.
    #[must_use]
    pub fn completed_by(mut self, daemon: &Self) -> Self {
        if let (Choice::Kubernetes(own), Choice::Kubernetes(daemon)) = (&mut self.0, &daemon.0) {
            own.complete(daemon);
        }
        self
    }

    /// Lets files be those of the process that has these options and this root directory.
    #[must_use]
    pub fn seen_from(mut self, root: PathBuf) -> Self {
        if let Choice::Kubernetes(options) = &mut self.0 {
            options.root = Some(root);
        }
        self
    }

    /// Reads the network config where [`super::LeaseStore::put_config`] writes it, instead of a copy.
    #[must_use]
    pub fn writable(mut self) -> Self {
        if let Choice::Kubernetes(options) = &mut self.0 {
            options.reads_config_map = true;
        }
        self
    }

    /// Names the ConfigMap with the network config, if that is not the default.
    #[must_use]
    pub fn with_config_map(mut self, name: Option<&ConfigMap>) -> Self {
        if let (Choice::Kubernetes(options), Some(name)) = (&mut self.0, name) {
            options.config_map = name.clone();
        }
        self
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
