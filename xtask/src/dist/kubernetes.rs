//! The files for Kubernetes: manifests and the Helm chart, with the names of the image of this release.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

use super::tree::Tree;
use super::{Release, archive};
use crate::process::root;

/// The name of the image in the sources, and its tag.
pub(crate) const IMAGE: &str = "localhost/flannel";
const TAG: &str = "0.1.0";

const ASSETS: &str = "xtask/assets/kubernetes";
const MANIFESTS: [&str; 2] = ["kube-flannel.yml", "flannel-cleanup.yml"];
/// The name of the chart, which is the directory in its archive.
const CHART: &str = "flannel";

/// Returns the files by name.
pub(crate) fn files(release: &Release) -> Result<Vec<(String, Vec<u8>)>> {
    let assets = root().join(ASSETS);
    let mut files = Vec::new();
    for name in MANIFESTS {
        let text = text(&assets.join(name))?;
        ensure!(text.contains(&format!("image: {IMAGE}:{TAG}\n")), "{name} has no image {IMAGE}:{TAG}");
        files.push((name.to_owned(), named(release, &text).into_bytes()));
    }
    let mut chart = Tree::default();
    for directory in ["", "templates/"] {
        let path = assets.join("chart").join(directory);
        for entry in fs::read_dir(&path).with_context(|| format!("could not list {}", path.display()))? {
            let path = entry.context("could not list the chart")?.path();
            if path.is_file() {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                chart.file(&format!("{directory}{name}"), named(release, &text(&path)?))?;
            }
        }
    }
    let chart = archive::tar(&chart.below(CHART), release.epoch)?;
    files.push((format!("{CHART}-{}.tgz", release.version), release.compression.gzip(&chart)?));
    Ok(files)
}

/// Replaces name and version of the image in a manifest or a file of the chart.
fn named(release: &Release, text: &str) -> String {
    let version = &release.version;
    text.replace(&format!("{IMAGE}:{TAG}"), &format!("{IMAGE}:{version}"))
        .replace(&format!("ersion: {TAG}\n"), &format!("ersion: {version}\n"))
        .replace(IMAGE, &release.image)
}

fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
}
