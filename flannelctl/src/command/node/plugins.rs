//! What flannel's CNI plugin and its delegates keep on this node.

use flannel_core::cni::SAVED_CONFIGS;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::node::cni::{self, CONFIGS, CniFile};

/// Files and directories, by the CNI configs that are installed and by what was saved under earlier ones.
#[derive(Debug, Default)]
pub(super) struct PluginState {
    /// A file for each container.
    pub(super) saved: Vec<PathBuf>,
    /// Where those are.
    pub(super) directories: BTreeSet<PathBuf>,
    /// The networks that pods were made in: the `dataDir` of `host-local`, and the name.
    pub(super) networks: BTreeSet<(PathBuf, String)>,
    /// The bridges that pods were put on, as far as they are named.
    pub(super) bridges: BTreeSet<String>,
}

impl PluginState {
    pub(super) fn look() -> Self {
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
                // A directory of the administrator's choice may hold files of others. In ours, a file that cannot be read
                // is of a plugin that was killed.
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
