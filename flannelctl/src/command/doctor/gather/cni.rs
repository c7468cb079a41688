//! CNI configs, plugins, and the addresses that host-local keeps.

use flannel_core::host_local::{DATA_DIRECTORY, Use};
use serde_json::Value;
use std::fs;
use std::path::Path;

use super::{Places, host, names};
use crate::command::doctor::facts::{CniFacts, CniFile, Reservation, View};
use crate::command::ipam::network::Network;

pub(super) fn look(places: &Places, view: Option<&View>) -> CniFacts {
    let files: Vec<CniFile> = names(&places.cni_configs)
        .into_iter()
        .filter(|(name, _)| {
            let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
            matches!(extension, Some("conf" | "conflist" | "json"))
        })
        .map(|(name, path)| CniFile { name, plugins: read(&path) })
        .collect();
    let plugins = places.cni_plugins.iter().flat_map(|directory| names(directory).into_keys()).collect();
    let directory = files
        .iter()
        .find_map(|file| file.flannel()?["delegate"]["ipam"]["dataDir"].as_str())
        .unwrap_or(DATA_DIRECTORY)
        .to_owned();
    CniFacts {
        directory: places.cni_configs.clone(),
        files,
        plugin_directories: places.cni_plugins.clone(),
        plugins,
        reservations: reservations(Path::new(&directory), view),
    }
}

/// The plugins of a config, a list or a single one.
fn read(path: &Path) -> Result<Vec<Value>, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let value: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    match (&value["plugins"], value["type"].is_string()) {
        (Value::Array(plugins), _) if !plugins.is_empty() => Ok(plugins.clone()),
        (_, true) => Ok(vec![value]),
        _ => Err("it has neither plugins nor a type".to_owned()),
    }
}

/// The addresses of our subnet that are in use, in whatever network of host-local.
fn reservations(root: &Path, view: Option<&View>) -> Vec<Reservation> {
    let Some((view, own)) = view.and_then(|view| Some((view, view.own.as_ref()?))) else { return Vec::new() };
    let subnets: Vec<_> = host::families(view).filter_map(|family| own.subnets.get(family)).collect();
    let mut found = Vec::new();
    for name in names(root).into_keys() {
        let Ok(network) = Network::read(root, &name) else { continue };
        for given in network.given {
            if subnets.iter().any(|subnet| subnet.trunc().contains(&given.address)) {
                let abandoned = (given.usage == Use::Abandoned).then(|| {
                    let netns = given.owner.map(|owner| format!("the namespace {} is gone", owner.netns));
                    netns.unwrap_or_else(|| "given out before the last boot".to_owned())
                });
                found.push(Reservation { address: given.address, network: name.clone(), abandoned });
            }
        }
    }
    found.sort_by_key(|reservation| reservation.address);
    found
}
