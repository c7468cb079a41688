//! The CNI settings of the container runtimes of this node, from their configuration files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Default configuration files.
pub(crate) const CONTAINERD: &str = "/etc/containerd/config.toml";
pub(crate) const CRIO: &str = "/etc/crio/crio.conf";

/// A container runtime that has a configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runtime {
    pub(crate) name: &'static str,
    /// Its unit of systemd.
    pub(crate) unit: &'static str,
    pub(crate) file: PathBuf,
    /// The table of the settings below.
    pub(crate) table: String,
    /// Directory of CNI configs; `None` if it is the default of the build.
    pub(crate) configs: Option<PathBuf>,
    /// Directories of CNI plugins; empty if they are the default of the build.
    pub(crate) plugins: Vec<PathBuf>,
    /// Name of the network, if it is not that of the first CNI config.
    pub(crate) network: Option<String>,
    /// Settings that have no effect.
    pub(crate) ignored: Vec<Ignored>,
}

/// A CNI setting in a table that the runtime does not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ignored {
    pub(crate) file: PathBuf,
    pub(crate) table: String,
    pub(crate) key: String,
}

/// A parsed file.
type File = (PathBuf, Table);

impl Runtime {
    /// Reads the configuration of containerd with its imports; `None` if the file does not exist.
    pub(crate) fn containerd(file: &Path) -> Result<Option<Self>, String> {
        let mut files: Vec<File> = Vec::new();
        let mut pending = vec![file.to_owned()];
        let mut read: BTreeSet<PathBuf> = BTreeSet::new();
        while !pending.is_empty() {
            let file = pending.remove(0);
            if !read.insert(file.clone()) {
                continue;
            }
            let Some(table) = parse(&file)? else { continue };
            let imports = table.get("imports").and_then(Value::as_array).cloned().unwrap_or_default();
            let directory = file.parent().unwrap_or(Path::new("/"));
            pending.extend(
                imports.iter().filter_map(Value::as_str).flat_map(|import| matching(&directory.join(import))),
            );
            files.push((file, table));
        }
        Ok((!files.is_empty()).then(|| containerd(&files)))
    }

    /// Reads the configuration of CRI-O with the files in `FILE.d`; `None` if there is none.
    pub(crate) fn crio(file: &Path) -> Result<Option<Self>, String> {
        let mut files = Vec::new();
        let mut directory = file.as_os_str().to_owned();
        directory.push(".d");
        for file in std::iter::once(file.to_owned()).chain(matching(&Path::new(&directory).join("*"))) {
            if let Some(table) = parse(&file)? {
                files.push((file, table));
            }
        }
        Ok((!files.is_empty()).then(|| crio(&files)))
    }
}

fn parse(file: &Path) -> Result<Option<Table>, String> {
    let failed = |reason: String| format!("could not read {}: {}", file.display(), reason.trim());
    match fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error.to_string())),
        Ok(text) => {
            text.parse().map(Some).map_err(|error: toml::de::Error| failed(error.message().to_owned()))
        }
    }
}

/// The files of a pattern in order. Only the last component may contain `*`.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let Some(name) = pattern.file_name().and_then(|name| name.to_str()) else { return Vec::new() };
    let Some((before, after)) = name.split_once('*') else { return vec![pattern.to_owned()] };
    let directory = pattern.parent().unwrap_or(Path::new("/"));
    let names = super::cni::names(directory).into_iter();
    let matching = names.filter(|(name, path)| {
        path.is_file()
            && name.len() >= before.len() + after.len()
            && name.starts_with(before)
            && name.ends_with(after)
    });
    matching.map(|(_, path)| path).collect()
}

const CONTAINERD_KEYS: [&str; 3] = ["bin_dir", "bin_dirs", "conf_dir"];
/// The names of containerd's CRI plugin.
const CRI: [&str; 3] = ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"];

fn containerd(files: &[File]) -> Runtime {
    let (main, first) = &files[0];
    let default = version(first).unwrap_or(1);
    let mut runtime =
        Runtime { name: "containerd", unit: "containerd.service", file: main.clone(), ..Runtime::default() };
    for (file, table) in files {
        let plugin = match version(table).unwrap_or(default) {
            ..=1 => CRI[0],
            2 => CRI[1],
            3.. => CRI[2],
        };
        let right = ["plugins", plugin, "cni"];
        if file == main {
            runtime.table = shown(&right);
        }
        let section = table.get("plugins").and_then(|plugins| plugins.get(plugin));
        if let Some(section) = section {
            // An import replaces the complete section of a plugin.
            let cni = section.get("cni");
            let setting = |key: &str| cni.and_then(|cni| cni.get(key));
            runtime.configs = setting("conf_dir").and_then(directory);
            runtime.plugins = match setting("bin_dirs").map(directories) {
                Some(directories) if !directories.is_empty() => directories,
                _ => setting("bin_dir").and_then(directory).into_iter().collect(),
            };
        }
        each_key(table, &mut Vec::new(), &mut |path, key| {
            let is_cri = match path {
                ["plugins", plugin, ..] => CRI.contains(plugin),
                ["cni"] => true,
                _ => false,
            };
            if CONTAINERD_KEYS.contains(&key) && is_cri && path != right {
                runtime.ignored.push(Ignored { file: file.clone(), table: shown(path), key: key.to_owned() });
            }
        });
    }
    runtime
}

fn version(table: &Table) -> Option<i64> {
    table.get("version").and_then(Value::as_integer)
}

const CRIO_KEYS: [&str; 4] = ["cni_default_network", "network_dir", "plugin_dir", "plugin_dirs"];

fn crio(files: &[File]) -> Runtime {
    let right = ["crio", "network"];
    let mut runtime = Runtime {
        name: "CRI-O",
        unit: "crio.service",
        file: files[0].0.clone(),
        table: shown(&right),
        ..Runtime::default()
    };
    for (file, table) in files {
        let setting = |key: &str| table.get("crio")?.get("network")?.get(key);
        if let Some(configs) = setting("network_dir").and_then(directory) {
            runtime.configs = Some(configs);
        }
        if let Some(plugins) = setting("plugin_dirs") {
            runtime.plugins = directories(plugins);
        }
        if let Some(network) = setting("cni_default_network").and_then(Value::as_str) {
            runtime.network = Some(network.to_owned()).filter(|network| !network.is_empty());
        }
        each_key(table, &mut Vec::new(), &mut |path, key| {
            if CRIO_KEYS.contains(&key) && path != right {
                runtime.ignored.push(Ignored { file: file.clone(), table: shown(path), key: key.to_owned() });
            }
        });
    }
    runtime
}

/// Calls a function with every key that is not a table, and with the path of its table.
fn each_key<'a>(table: &'a Table, path: &mut Vec<&'a str>, found: &mut impl FnMut(&[&str], &str)) {
    for (key, value) in table {
        match value {
            Value::Table(table) => {
                path.push(key);
                each_key(table, path, found);
                path.pop();
            }
            _ => found(path, key),
        }
    }
}

fn directory(value: &Value) -> Option<PathBuf> {
    value.as_str().filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn directories(value: &Value) -> Vec<PathBuf> {
    value.as_array().into_iter().flatten().filter_map(directory).collect()
}

/// The header of a table.
fn shown(path: &[&str]) -> String {
    let quoted = |name: &&str| match name.contains('.') {
        true => format!("\"{name}\""),
        false => (*name).to_owned(),
    };
    format!("[{}]", path.iter().map(quoted).collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests;
