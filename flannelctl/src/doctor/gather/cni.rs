//! CNI configs, plugins, and allocated addresses.

use flannel_core::host_local::DATA_DIRECTORY;
use flannel_core::lease::Subnets;
use flanneld::host::pods;

use super::Places;
use crate::doctor::facts::{CniFacts, RuntimeFacts};
use crate::node::cni::{CniFile, names};
use crate::node::host_local::Network;
use crate::node::ports::Port;
use crate::node::runtime::Runtime;

pub(super) fn read(places: &Places, own: Option<&Subnets>) -> CniFacts {
    let files = CniFile::all(&places.cni_configs);
    let plugins = places.cni_plugins.iter().flat_map(|directory| names(directory).into_keys()).collect();
    let root = files.iter().find_map(CniFile::data_directory).unwrap_or_else(|| DATA_DIRECTORY.into());
    let networks = names(&root).into_keys().filter_map(|name| Network::read(&root, &name).ok()).collect();
    let found = [Runtime::containerd(&places.containerd), Runtime::crio(&places.crio)];
    CniFacts {
        runtimes: found
            .into_iter()
            .filter_map(Result::transpose)
            .map(|runtime| runtime.map(|runtime| with_files(runtime, places)))
            .collect(),
        directory: places.cni_configs.clone(),
        files,
        plugin_directories: places.cni_plugins.clone(),
        plugins,
        networks,
        gateways: own.map(pods::gateways).unwrap_or_default(),
        ports: Port::all(),
    }
}

fn with_files(runtime: Runtime, places: &Places) -> RuntimeFacts {
    let directory = runtime.configs.clone().unwrap_or_else(|| places.cni_configs.clone());
    RuntimeFacts {
        is_checked: directory.components().eq(places.cni_configs.components()),
        files: CniFile::all(&directory),
        installed: runtime.plugins.iter().flat_map(|directory| names(directory).into_keys()).collect(),
        elsewhere: places.cni_plugins.iter().flat_map(|directory| names(directory).into_values()).collect(),
        directory,
        runtime,
    }
}
