//! The CNI configs of this node, and the data directories of those that use flannel.

use flannel_core::host_local::DATA_DIRECTORY;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// Default directory of CNI configs.
pub(crate) const CONFIGS: &str = "/etc/cni/net.d";

/// The name of the CNI config that the pods of flannel install.
const INSTALLED_CONFIG: &str = "10-flannel.conflist";

/// Default directory of CNI plugins.
const PLUGINS: &str = "/opt/cni/bin";
/// The name of the plugin.
pub(crate) const PLUGIN: &str = "flannel";
/// The reference plugins that the plugin replaces, by these names.
pub(crate) const REFERENCE_PLUGINS: [&str; 5] = ["bandwidth", "bridge", "host-local", "loopback", "portmap"];

/// Returns the files that the pods of flannel install on a node: the CNI config, the plugin and its other names.
pub(crate) fn installed() -> Vec<PathBuf> {
    let configs = Path::new(CONFIGS);
    let is_config = |file: &CniFile| file.name == INSTALLED_CONFIG && file.flannel().is_some();
    let config = CniFile::all(configs).iter().any(is_config).then(|| configs.join(INSTALLED_CONFIG));
    let plugins = Path::new(PLUGINS);
    let names = REFERENCE_PLUGINS.iter().map(|name| plugins.join(name)).filter(|path| is_other_name(path));
    // A package has a link there.
    let plugin = Some(plugins.join(PLUGIN)).filter(|path| !path.is_symlink());
    config.into_iter().chain(names).chain(plugin).collect()
}

/// Whether a reference plugin is another name of the plugin.
pub(crate) fn is_other_name(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| target.file_name() == Some(OsStr::new(PLUGIN)))
}

/// A file with a CNI config.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CniFile {
    pub(crate) name: String,
    /// The name of the network; empty if missing.
    pub(crate) network: String,
    /// The chained plugins, or why the config is invalid.
    pub(crate) plugins: Result<Vec<Value>, String>,
}

impl CniFile {
    /// Reads the files of a directory, in the order of the runtime.
    pub(crate) fn all(directory: &Path) -> Vec<Self> {
        names(directory)
            .into_iter()
            .filter(|(name, _)| {
                let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
                matches!(extension, Some("conf" | "conflist" | "json"))
            })
            .map(|(name, path)| match read(&path) {
                Ok((network, plugins)) => Self { name, network, plugins: Ok(plugins) },
                Err(reason) => Self { name, network: String::new(), plugins: Err(reason) },
            })
            .collect()
    }

    /// The flannel plugin in the chain.
    pub(crate) fn flannel(&self) -> Option<&Value> {
        self.plugins.as_ref().ok()?.iter().find(|plugin| plugin["type"] == "flannel")
    }

    /// The data directory of `host-local` under the flannel plugin.
    pub(crate) fn data_directory(&self) -> Option<PathBuf> {
        self.flannel().map(data_directory)
    }
}

/// The name and the plugins of a config: a list, or a single one.
fn read(path: &Path) -> Result<(String, Vec<Value>), String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let value: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let network = value["name"].as_str().unwrap_or_default().to_owned();
    match (&value["plugins"], value["type"].is_string()) {
        (Value::Array(plugins), _) if !plugins.is_empty() => Ok((network, plugins.clone())),
        (_, true) => Ok((network, vec![value])),
        _ => Err("neither plugins nor type".to_owned()),
    }
}

/// The data directory of addresses (`ipam.dataDir`) in the config of a plugin, or the default.
pub(crate) fn data_directory(plugin: &Value) -> PathBuf {
    directory(&plugin["ipam"]).unwrap_or_else(|| DATA_DIRECTORY.into())
}

/// The `dataDir` of a section.
pub(crate) fn directory(section: &Value) -> Option<PathBuf> {
    section["dataDir"].as_str().filter(|path| path.starts_with('/')).map(PathBuf::from)
}

/// The files of a directory by name; none if the directory does not exist.
pub(crate) fn names(directory: &Path) -> BTreeMap<String, PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
        .collect()
}
