//! containerd: its configuration files, and its response to a status request.

use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

use super::cri::{Network, Running};
use super::settings::{
    File, FileError, Settings, Written, at, directories, directory, header, ignored, matching, read,
};

const KEYS: [&str; 3] = ["bin_dir", "bin_dirs", "conf_dir"];
/// The names of its CRI plugin.
const CRI: [&str; 3] = ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"];
/// The tables of its socket; the second one since version 4.
const SOCKET: [&[&str]; 2] = [&["grpc"], &["plugins", "io.containerd.server.v1.grpc"]];

/// Reads its configuration with its imports, as far as they exist.
pub(super) fn files(file: &Path) -> Result<Written, FileError> {
    let mut files: Vec<File> = Vec::new();
    let mut pending = vec![file.to_owned()];
    let mut seen: BTreeSet<PathBuf> = BTreeSet::new();
    while !pending.is_empty() {
        let file = pending.remove(0);
        if !seen.insert(file.clone()) {
            continue;
        }
        let Some((_, table)) = read(&file)? else { continue };
        let imports = table.get("imports").and_then(Value::as_array).cloned().unwrap_or_default();
        let directory = file.parent().unwrap_or(Path::new("/"));
        pending.extend(
            imports.iter().filter_map(Value::as_str).flat_map(|import| matching(&directory.join(import))),
        );
        files.push((file, table));
    }
    Ok(written(&files))
}

/// The settings of parsed files, the first of which is the main one.
pub(super) fn written(files: &[File]) -> Written {
    let default = files.first().map_or(2, |(_, table)| version(table).unwrap_or(1));
    let mut written = Written { table: header(&right(default)), ..Written::default() };
    for file in files {
        let (path, table) = file;
        let right = right(version(table).unwrap_or(default));
        if let Some(section) = at(table, &right[..2]) {
            // An import replaces the complete section of a plugin.
            written.settings = section.get("cni").map_or_else(Settings::default, settings);
        }
        let socket = SOCKET.iter().find_map(|socket| at(table, socket)?.get("address"));
        if let Some(socket) = socket.and_then(directory) {
            written.socket = Some(socket);
        }
        written.ignored.extend(ignored(file, &KEYS, &right, |path| match path {
            ["plugins", plugin, ..] => CRI.contains(plugin),
            ["cni"] => true,
            _ => false,
        }));
        written.files.push(path.clone());
    }
    written
}

/// The table of the CNI settings.
const fn right(version: i64) -> [&'static str; 3] {
    let plugin = match version {
        ..=1 => CRI[0],
        2 => CRI[1],
        3.. => CRI[2],
    };
    ["plugins", plugin, "cni"]
}

fn settings(cni: &Value) -> Settings {
    let several = cni.get("bin_dirs").map(directories).filter(|several| !several.is_empty());
    Settings {
        configs: cni.get("conf_dir").and_then(directory),
        plugins: several.unwrap_or_else(|| cni.get("bin_dir").and_then(directory).into_iter().collect()),
        network: None,
        limit: cni.get("max_conf_num").and_then(Value::as_integer).map(|limit| limit.try_into().unwrap_or(0)),
    }
}

fn version(table: &Table) -> Option<i64> {
    table.get("version").and_then(Value::as_integer)
}

/// The CNI state in a status response (`cniconfig`): `ConfigResult` of go-cni.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CniState {
    #[serde(default)]
    plugin_dirs: Option<Vec<PathBuf>>,
    plugin_conf_dir: PathBuf,
    #[serde(default)]
    plugin_max_conf_num: i64,
    #[serde(default)]
    networks: Option<Vec<Attachment>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attachment {
    config: List,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    #[serde(default)]
    name: String,
    #[serde(default)]
    plugins: Option<Vec<Plugin>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Plugin {
    source: String,
}

/// The network that containerd itself adds for the loopback device.
const LOOPBACK: &str = "cni-loopback";

/// Adds the effective settings, the networks and the last load error from the verbose part of a status response.
pub(super) fn complete(running: &mut Running, info: &HashMap<String, String>) {
    let last = info.get("lastCNILoadStatus.default").or_else(|| info.get("lastCNILoadStatus"));
    running.words.extend(last.filter(|last| *last != "OK").cloned());
    let state = info.get("cniconfig").and_then(|text| serde_json::from_str::<CniState>(text).ok());
    let Some(CniState { plugin_dirs, plugin_conf_dir, plugin_max_conf_num, networks }) = state else {
        return;
    };
    running.settings = Some(Settings {
        configs: Some(plugin_conf_dir).filter(|directory| !directory.as_os_str().is_empty()),
        plugins: plugin_dirs.unwrap_or_default(),
        network: None,
        limit: Some(plugin_max_conf_num.try_into().unwrap_or(0)),
    });
    let networks = networks.unwrap_or_default().into_iter().map(|attachment| attachment.config);
    running.networks = networks
        .filter(|list| list.name != LOOPBACK)
        .map(|List { name, plugins }| {
            let plugins = plugins.unwrap_or_default().into_iter();
            let plugins = plugins.map(|plugin| serde_json::from_str(&plugin.source).unwrap_or_default());
            Network { name, plugins: plugins.collect() }
        })
        .collect();
}
