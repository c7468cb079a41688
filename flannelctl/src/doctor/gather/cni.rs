//! CNI configs, plugins, and allocated addresses.

use flannel_core::host_local::{DATA_DIRECTORY, Use};
use std::path::Path;

use super::Places;
use crate::doctor::facts::{CniFacts, Reservation};
use crate::node::cni::{CniFile, names};
use crate::node::host_local::Network;
use crate::node::view::View;

pub(super) fn read(places: &Places, view: Option<&View>) -> CniFacts {
    let files = CniFile::all(&places.cni_configs);
    let plugins = places.cni_plugins.iter().flat_map(|directory| names(directory).into_keys()).collect();
    let directory = files.iter().find_map(CniFile::data_directory).unwrap_or_else(|| DATA_DIRECTORY.into());
    CniFacts {
        directory: places.cni_configs.clone(),
        files,
        plugin_directories: places.cni_plugins.clone(),
        plugins,
        reservations: reservations(&directory, view),
    }
}

/// The allocated addresses of the own subnet, in all networks of host-local.
fn reservations(root: &Path, view: Option<&View>) -> Vec<Reservation> {
    let Some((view, own)) = view.and_then(|view| Some((view, view.own.as_ref()?))) else { return Vec::new() };
    let subnets: Vec<_> =
        view.node.families().into_iter().filter_map(|family| own.subnets.get(family)).collect();
    let mut found = Vec::new();
    for name in names(root).into_keys() {
        let Ok(network) = Network::read(root, &name) else { continue };
        for allocation in network.allocations {
            if subnets.iter().any(|subnet| subnet.trunc().contains(&allocation.address)) {
                let abandoned = (allocation.usage == Use::Abandoned).then(|| {
                    let netns =
                        allocation.owner.map(|owner| format!("namespace {} no longer exists", owner.netns));
                    netns.unwrap_or_else(|| "allocated before the last boot".to_owned())
                });
                found.push(Reservation { address: allocation.address, network: name.clone(), abandoned });
            }
        }
    }
    found.sort_by_key(|reservation| reservation.address);
    found
}
