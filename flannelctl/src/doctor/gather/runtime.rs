//! Container runtimes, with the CNI configs and plugins in their directories.

use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::Places;
use crate::doctor::facts::RuntimeFacts;
use crate::node::cni::{CniFile, names};
use crate::node::runtime::Runtime;

/// A runtime reads its files at its start, so a change within this time may have been before.
const READING: Duration = Duration::from_secs(1);

pub(super) async fn read(places: &Places) -> Vec<RuntimeFacts> {
    let runtimes = join_all(places.runtimes.iter().map(Runtime::read)).await;
    runtimes.into_iter().flatten().map(|runtime| with_files(runtime, places)).collect()
}

fn with_files(runtime: Runtime, places: &Places) -> RuntimeFacts {
    let settings = runtime.settings().cloned().unwrap_or_default();
    let directory = settings.configs.unwrap_or_else(|| places.cni_configs.clone());
    let written = runtime.written.iter().flat_map(|written| &written.settings.plugins);
    let others: BTreeSet<&PathBuf> = places.cni_plugins.iter().chain(written).collect();
    RuntimeFacts {
        is_checked: directory.components().eq(places.cni_configs.components()),
        files: CniFile::all(&directory),
        installed: settings.plugins.iter().flat_map(|directory| names(directory).into_keys()).collect(),
        elsewhere: others.into_iter().flat_map(|directory| names(directory).into_values()).collect(),
        changed: changed(&runtime),
        directory,
        runtime,
    }
}

/// The files of a runtime that changed since its start, and how long after.
fn changed(runtime: &Runtime) -> Vec<(PathBuf, Duration)> {
    let started = runtime.running.as_ref().ok().and_then(|running| running.started);
    let (Some(started), Ok(written)) = (started, &runtime.written) else { return Vec::new() };
    let files = written.files.iter().filter_map(|file| {
        let after = fs::metadata(file).ok()?.modified().ok()?.duration_since(started).ok()?;
        (after > READING).then(|| (file.clone(), after))
    });
    files.collect()
}
