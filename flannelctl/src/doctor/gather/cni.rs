//! CNI configs, plugins, and allocated addresses.

use flannel_core::host_local::DATA_DIRECTORY;
use flannel_core::lease::Subnets;
use flanneld::host::pods;

use super::{Places, runtime};
use crate::doctor::facts::CniFacts;
use crate::node::cni::{CniFile, names};
use crate::node::host_local::Network;
use crate::node::ports::Port;

pub(super) async fn read(places: &Places, own: Option<&Subnets>) -> CniFacts {
    let files = CniFile::all(&places.cni_configs);
    let plugins = places.cni_plugins.iter().flat_map(|directory| names(directory).into_keys()).collect();
    let root = files.iter().find_map(CniFile::data_directory).unwrap_or_else(|| DATA_DIRECTORY.into());
    let networks = names(&root).into_keys().filter_map(|name| Network::read(&root, &name).ok()).collect();
    CniFacts {
        runtimes: runtime::read(places).await,
        directory: places.cni_configs.clone(),
        files,
        plugin_directories: places.cni_plugins.clone(),
        plugins,
        networks,
        gateways: own.map(pods::gateways).unwrap_or_default(),
        ports: Port::all(),
    }
}
