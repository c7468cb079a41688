//! The state of flannel's CNI plugin and its delegates on this node.

use flannel_core::cni::SAVED_CONFIGS;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::node::cni::{self, CONFIGS, CniFile};

/// Files and directories, according to the installed CNI configs and the saved delegate configs.
#[derive(Debug, Default)]
pub(super) struct PluginState {
    /// Saved delegate configs, one per container.
    pub(super) saved: Vec<PathBuf>,
    /// Their directories.
    pub(super) directories: BTreeSet<PathBuf>,
    /// The networks of pods: the `dataDir` of `host-local`, and the name.
    pub(super) networks: BTreeSet<(PathBuf, String)>,
    /// The bridges of pods, if specified.
    pub(super) bridges: BTreeSet<String>,
}

impl PluginState {
    pub(super) fn read() -> Self {
        let mut state = Self { directories: BTreeSet::from([SAVED_CONFIGS.into()]), ..Self::default() };
        for file in CniFile::all(Path::new(CONFIGS)) {
            if let Some(plugin) = file.flannel() {
                state.directories.extend(cni::directory(plugin));
                state.network(plugin, &file.network);
                state.bridges.extend(plugin["delegate"]["bridge"].as_str().map(str::to_owned));
            }
        }
        for directory in state.directories.clone() {
            for path in cni::names(&directory).into_values().filter(|path| path.is_file()) {
                let saved: Option<Value> =
                    fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
                let saved = saved.filter(|saved| saved["type"].is_string());
                // A configured directory may contain unmanaged files. In the default directory, a malformed file was left
                // by a plugin that was killed.
                if saved.is_some() || directory == Path::new(SAVED_CONFIGS) {
                    state.saved.push(path);
                }
                if let Some(saved) = saved {
                    state.network(&saved, saved["name"].as_str().unwrap_or_default());
                    state.bridges.extend(saved["bridge"].as_str().map(str::to_owned));
                }
            }
        }
        state
    }

    fn network(&mut self, plugin: &Value, name: &str) {
        if !name.is_empty() && !name.contains('/') && !name.starts_with('.') {
            self.networks.insert((cni::data_directory(plugin), name.to_owned()));
        }
    }
}
