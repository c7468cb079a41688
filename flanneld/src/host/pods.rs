//! The pods of this host, according to the CNI plugin host-local.

use flannel_core::host_local::DATA_DIRECTORY;
use std::fs;
use std::net::IpAddr;

/// Returns the allocated addresses of all networks.
#[must_use]
pub fn addresses() -> Vec<IpAddr> {
    let networks = fs::read_dir(DATA_DIRECTORY).into_iter().flatten().flatten();
    let files = networks.filter_map(|network| fs::read_dir(network.path()).ok()).flatten().flatten();
    files.filter_map(|file| file.file_name().to_str()?.parse().ok()).collect()
}
