//! What commands read: this node, its daemon, and the cluster in the store.

pub(crate) mod cluster;
pub(crate) mod cni;
pub(crate) mod daemon;
pub(crate) mod follow;
pub(crate) mod host_local;
pub(crate) mod icmp;
pub(crate) mod kube_proxy;
pub(crate) mod mounts;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod runtime;
pub(crate) mod socket;
pub(crate) mod view;
