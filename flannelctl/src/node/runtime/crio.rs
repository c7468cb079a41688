//! CRI-O: its configuration files, and the configuration that it serves while it runs.

use std::path::{Path, PathBuf};
use toml::Value;

use super::settings::{
    File, FileError, Settings, Written, at, directories, directory, header, ignored, matching, parse, read,
};

const KEYS: [&str; 4] = ["cni_default_network", "network_dir", "plugin_dir", "plugin_dirs"];
/// The table of the CNI settings.
const RIGHT: [&str; 2] = ["crio", "network"];

/// Reads its configuration with the files in `FILE.d`, as far as they exist.
pub(super) fn files(file: &Path) -> Result<Written, FileError> {
    let mut files = Vec::new();
    for file in std::iter::once(file.to_owned()).chain(matching(&drop_ins(file).join("*"))) {
        files.extend(read(&file)?);
    }
    Ok(written(&files))
}

/// The directory of further files.
pub(crate) fn drop_ins(file: &Path) -> PathBuf {
    let mut directory = file.as_os_str().to_owned();
    directory.push(".d");
    directory.into()
}

/// The settings of parsed files in order.
pub(super) fn written(files: &[File]) -> Written {
    let mut written = Written { table: header(&RIGHT), ..Written::default() };
    // A deprecated key, which adds a directory.
    let mut additional = None;
    for file in files {
        let (path, table) = file;
        let setting = |key: &str| at(table, &RIGHT)?.get(key);
        let Settings { configs, plugins, network, .. } = &mut written.settings;
        if let Some(found) = setting("network_dir").and_then(directory) {
            *configs = Some(found);
        }
        if let Some(found) = setting("plugin_dirs") {
            *plugins = directories(found);
        }
        if let Some(found) = setting("plugin_dir") {
            additional = directory(found);
        }
        if let Some(found) = setting("cni_default_network").and_then(Value::as_str) {
            *network = Some(found.to_owned()).filter(|network| !network.is_empty());
        }
        if let Some(socket) = at(table, &["crio", "api", "listen"]).and_then(directory) {
            written.socket = Some(socket);
        }
        written.ignored.extend(ignored(file, &KEYS, &RIGHT, |_| true));
        written.files.push(path.clone());
    }
    if !written.settings.plugins.is_empty() {
        written.settings.plugins.extend(additional);
    }
    written
}

/// The effective settings, from the configuration that CRI-O serves at `/config` of its socket.
pub(super) fn effective(text: &str) -> Result<Settings, FileError> {
    Ok(written(&[parse(Path::new("/config"), text.as_bytes())?]).settings)
}
