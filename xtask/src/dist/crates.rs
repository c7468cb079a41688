//! The crates that the programs of a package contain.

use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::target::Target;
use crate::process::{cargo, root, stdout};

/// A crate in a program.
pub(crate) struct Crate {
    pub(crate) name: String,
    pub(crate) version: String,
    /// An SPDX expression.
    pub(crate) license: String,
    /// Checksum of its archive; `None` for the crates of this workspace.
    pub(crate) checksum: Option<String>,
    directory: PathBuf,
    /// Ids of the crates that it depends on.
    pub(crate) dependencies: Vec<String>,
}

/// Returns all crates by cargo's id, without those used only by tests, build scripts and macros.
pub(crate) fn linked(target: &Target) -> Result<BTreeMap<String, Crate>> {
    let metadata = metadata(target)?;
    let checksums = checksums()?;
    let packages: BTreeMap<&str, &Value> =
        items(&metadata["packages"]).filter_map(|p| Some((p["id"].as_str()?, p))).collect();
    let nodes: BTreeMap<&str, &Value> =
        items(&metadata["resolve"]["nodes"]).filter_map(|node| Some((node["id"].as_str()?, node))).collect();
    let mut waiting: Vec<&str> = packages
        .iter()
        .filter(|(_, package)| {
            ["flanneld", "flannelctl", "flannel-cni"].map(Some).contains(&package["name"].as_str())
        })
        .map(|(id, _)| *id)
        .collect();
    let mut seen: BTreeSet<&str> = waiting.iter().copied().collect();
    let mut crates = BTreeMap::new();
    while let Some(id) = waiting.pop() {
        let (package, node) = (packages.get(id), nodes.get(id));
        let (package, node) = package.zip(node).with_context(|| format!("cargo metadata lacks {id}"))?;
        let dependencies: Vec<&str> = items(&node["deps"])
            .filter(|dependency| items(&dependency["dep_kinds"]).any(|kind| kind["kind"].is_null()))
            .filter_map(|dependency| dependency["pkg"].as_str())
            .filter(|id| packages.get(id).is_some_and(|package| !is_macro(package)))
            .collect();
        waiting.extend(dependencies.iter().filter(|id| seen.insert(id)));
        let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
        let (name, version) = (text("name"), text("version"));
        let manifest = PathBuf::from(text("manifest_path"));
        crates.insert(
            id.to_owned(),
            Crate {
                checksum: checksums.get(&(name.clone(), version.clone())).cloned(),
                // Old notation for "OR".
                license: text("license").replace('/', " OR "),
                directory: manifest.parent().map(Path::to_owned).unwrap_or_default(),
                dependencies: dependencies.into_iter().map(str::to_owned).collect(),
                name,
                version,
            },
        );
    }
    Ok(crates)
}

fn metadata(target: &Target) -> Result<Value> {
    let (triple, plugin) = (target.triple, target.plugin()?);
    let filter = format!("--filter-platform {triple} --filter-platform {plugin}");
    let mut command = cargo(&format!("metadata --format-version 1 --locked {filter}"));
    serde_json::from_str(&stdout(command.stderr(Stdio::inherit()))?)
        .context("could not parse the output of cargo metadata")
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn is_macro(package: &Value) -> bool {
    items(&package["targets"]).any(|target| items(&target["kind"]).any(|kind| kind == "proc-macro"))
}

/// Returns the checksums in `Cargo.lock` by name and version.
fn checksums() -> Result<BTreeMap<(String, String), String>> {
    let lock = fs::read_to_string(root().join("Cargo.lock")).context("could not read Cargo.lock")?;
    let of = |block: &str| {
        let value = |key: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))?;
            Some(line.trim_matches('"').to_owned())
        };
        Some(((value("name")?, value("version")?), value("checksum")?))
    };
    Ok(lock.split("[[package]]").filter_map(of).collect())
}

/// Returns the copyright notices and licence texts of the crates, each text once.
pub(crate) fn notices(crates: &BTreeMap<String, Crate>) -> Result<String> {
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Crate { name, version, license, directory, checksum, .. } in crates.values() {
        if checksum.is_none() {
            continue;
        }
        let who = format!("{name} {version} ({license})");
        for text in license_files(directory)? {
            texts.entry(text).or_default().insert(who.clone());
        }
    }
    let mut notices = String::from("The programs contain the crates below, under these terms.\n");
    for (text, crates) in texts {
        let crates: Vec<String> = crates.into_iter().collect();
        notices.push_str(&format!("\n{}\n{}\n\n{}\n", "-".repeat(72), crates.join(", "), text.trim_end()));
    }
    Ok(notices)
}

fn license_files(directory: &Path) -> Result<Vec<String>> {
    let failed = || format!("could not read {}", directory.display());
    let mut texts = Vec::new();
    for entry in fs::read_dir(directory).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let name = entry.file_name().to_string_lossy().to_uppercase();
        let is_license = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"]
            .iter()
            .any(|word| name.starts_with(word));
        if is_license && entry.path().is_file() {
            let text = fs::read(entry.path()).with_context(failed)?;
            texts.push(String::from_utf8_lossy(&text).replace("\r\n", "\n"));
        }
    }
    Ok(texts)
}
