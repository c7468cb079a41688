//! Clusters with a real control plane of Kubernetes.

mod account;
mod ctl;
mod daemon_set;
mod doctor;
mod faults;
mod fixture;
mod identity;
mod nodes;
mod packages;
mod peers;
mod site;
mod store;
mod upgrade;
mod windows;
