//! Whether a container exists whose network is unknown: Go's portmap only notes the container in its nftables rules.

use flannel_core::host_local::{DATA_DIRECTORY, Holder, RESULTS};
use std::ffi::OsString;
use std::fs;
use std::path::Path;

/// Whether another network may have the container. Runtimes keep the result of each attachment, `<network>-<container>-<interface>`; an
/// ADD in progress has only allocated an address. Where no results are kept, nothing is known to be stale.
pub(super) fn is_known(container_id: &str, network: &str) -> bool {
    let Some(results) = names(Path::new(RESULTS)) else { return true };
    let part = format!("-{container_id}-");
    let own = format!("{network}{part}");
    let mut results = results.iter().filter_map(|name| name.to_str());
    results.any(|name| name.contains(&part) && !name.starts_with(&own)) || has_address(container_id)
}

/// Whether an address is allocated to the container in any network.
fn has_address(container_id: &str) -> bool {
    let networks = names(Path::new(DATA_DIRECTORY)).unwrap_or_default();
    networks.iter().map(|network| Path::new(DATA_DIRECTORY).join(network)).any(|directory| {
        let files = names(&directory).unwrap_or_default();
        files.iter().filter_map(|file| fs::read_to_string(directory.join(file)).ok()).any(|text| {
            matches!(Holder::parse(&text), Holder::Attachment(holder) if holder.container_id == container_id)
                || matches!(Holder::parse(&text), Holder::Container(id) if id == container_id)
        })
    })
}

fn names(directory: &Path) -> Option<Vec<OsString>> {
    Some(fs::read_dir(directory).ok()?.flatten().map(|file| file.file_name()).collect())
}
