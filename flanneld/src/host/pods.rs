//! The pods of this host, according to the state that the CNI plugins keep.

use flannel_core::cni::SAVED_CONFIGS;
use flannel_core::gateway::{self, Gateways};
use flannel_core::host_local::DATA_DIRECTORY;
use flannel_core::lease::Subnets;
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

/// Returns the allocated addresses of all networks.
#[must_use]
pub fn addresses() -> Vec<IpAddr> {
    let networks = fs::read_dir(DATA_DIRECTORY).into_iter().flatten().flatten();
    let files = networks.filter_map(|network| fs::read_dir(network.path()).ok()).flatten().flatten();
    files.filter_map(|file| file.file_name().to_str()?.parse().ok()).collect()
}

/// Returns the gateways that pods with addresses of our subnet use.
#[must_use]
pub fn gateways(own: &Subnets) -> Gateways {
    let files = fs::read_dir(SAVED_CONFIGS).into_iter().flatten().flatten();
    // Two files for each interface, most of them with the same content.
    let configs: BTreeSet<Vec<u8>> = files.filter_map(|file| fs::read(file.path()).ok()).collect();
    if configs.is_empty() {
        return Gateways::new();
    }
    gateway::of_configs(configs.iter().map(Vec::as_slice), own, &addresses())
}
