//! Clusters with a real control plane of Kubernetes.

mod account;
mod nodes;
mod packages;
mod store;
