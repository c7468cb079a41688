//! Clusters with a real control plane of Kubernetes.

mod account;
mod daemon_set;
mod nodes;
mod packages;
mod store;
