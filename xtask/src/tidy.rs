//! Rules of the code base that neither rustfmt nor clippy knows. Looks at the files that git tracks, or
//! would track.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process::root;
use clap::Args;

mod circles;
mod documents;
mod imports;

/// All that flannel-core may depend on: nothing that does input or output.
const CORE_DEPENDENCIES: [&str; 9] = [
    "ipnet",
    "netlink-packet-core",
    "netlink-packet-route",
    "regex",
    "serde",
    "serde_json",
    "thiserror",
    // In tests.
    "insta",
    "proptest",
];

/// Keys of `[package]` that are set once, for the whole workspace.
const INHERITED: [&str; 5] = ["version", "edition", "rust-version", "license", "publish"];

const LONG_FILE: usize = 600;
/// A comment with this text and a reason in the first lines keeps a long file from being reported.
const LONG_FILE_REASON: &str = "long file:";

/// Paths that only exist where the code was written. Split, so that this file passes.
const MACHINE_PATHS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/tmp/", "wt"), concat!("/tmp/", "target-"), concat!("/ro", "ot/")];

/// Crates whose files still import each other.
const CIRCULAR: [&str; 6] = ["flannel-core", "flannel-cni", "flanneld", "flannelctl", "xtask", "integration"];

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[derive(Default)]
struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
}

#[derive(Args, Default)]
pub(crate) struct TidyOptions {
    /// List the circles of imports of all crates
    #[arg(long)]
    circles: bool,
}

/// Prints the findings, or the circles only. Returns whether there are no errors.
pub(crate) fn run(options: &TidyOptions) -> Result<bool> {
    if options.circles {
        let circles = circles::all(&sources(&root())?)?;
        for circle in &circles {
            println!("{circle}");
        }
        return Ok(circles.is_empty());
    }
    let findings = findings(&root())?;
    for warning in &findings.warnings {
        println!("  warning: {warning}");
    }
    for error in &findings.errors {
        println!("  {error}");
    }
    Ok(findings.errors.is_empty())
}

fn findings(root: &Path) -> Result<Findings> {
    let mut findings = Findings::default();
    let sources = sources(root)?;
    for (name, text) in &sources {
        look_at(name, text, &mut findings);
        if name.ends_with(".md") {
            let read = |file: &Path| fs::read_to_string(root.join(file)).ok();
            documents::look_at(name, text, read, &mut findings);
        }
    }
    for circle in circles::all(&sources)? {
        if CIRCULAR.iter().any(|name| circle.is_in(name)) {
            findings.warnings.push(circle.to_string());
        } else {
            findings.errors.push(circle.to_string());
        }
    }
    Ok(findings)
}

/// The text files of the repository by name. A file that is deleted but not yet committed, or not text, is left out.
fn sources(root: &Path) -> Result<BTreeMap<String, String>> {
    let read = |name: String| fs::read_to_string(root.join(&name)).ok().map(|text| (name, text));
    Ok(tracked(root)?.into_iter().filter_map(read).collect())
}

fn tracked(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .output()
        .context("could not start git")?;
    anyhow::ensure!(
        output.status.success(),
        "`git ls-files` failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

fn look_at(name: &str, text: &str, findings: &mut Findings) {
    machine_paths(name, text, findings);
    match name.rsplit('/').next().unwrap_or(name) {
        "mod.rs" => findings.errors.push(format!("{name}: modules are foo.rs with children in foo/")),
        "Cargo.toml" if name != "Cargo.toml" && !name.contains("/fuzz/") => manifest(name, text, findings),
        "Cargo.lock" => registries(name, text, findings),
        _ if name.ends_with(".rs") => source(name, text, findings),
        _ => {}
    }
}

fn machine_paths(name: &str, text: &str, findings: &mut Findings) {
    for (number, line) in text.lines().enumerate() {
        if let Some(path) = MACHINE_PATHS.iter().find(|path| line.contains(**path)) {
            findings.errors.push(format!("{name}:{}: a path of one machine: {path}", number + 1));
        }
    }
}

fn registries(name: &str, text: &str, findings: &mut Findings) {
    for (number, line) in text.lines().enumerate() {
        if let Some(source) = line.strip_prefix("source = ")
            && source.trim_matches('"') != REGISTRY
        {
            findings.errors.push(format!("{name}:{}: crates come from crates.io, not {source}", number + 1));
        }
    }
}

fn source(name: &str, text: &str, findings: &mut Findings) {
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        let code = line.trim_start();
        if code.starts_with("#[ignore") && !code.starts_with("#[ignore = \"needs ") {
            findings
                .errors
                .push(format!("{name}:{number}: only `#[ignore = \"needs …\"]`: xtask runs those"));
        }
        if code.starts_with("#[should_panic") {
            findings.errors.push(format!("{name}:{number}: no #[should_panic]: check the error instead"));
        }
        if code.starts_with("#[allow(") || code.starts_with("#![allow(") {
            findings.errors.push(format!("{name}:{number}: `#[expect(lint, reason = …)]` instead of allow"));
        }
    }
    let root = name.ends_with("/src/lib.rs") || name.ends_with("/src/main.rs");
    if root && !name.starts_with("flanneld/") && !text.contains("#![forbid(unsafe_code)]") {
        findings.errors.push(format!("{name}: #![forbid(unsafe_code)] is missing"));
    }
    let lines = text.lines().count();
    let tests = name.ends_with("/tests.rs") || name.contains("/tests/");
    let explained = text.lines().take(40).any(|line| line.contains(LONG_FILE_REASON));
    if lines > LONG_FILE && !tests && !explained {
        findings.warnings.push(format!(
            "{name}: {lines} lines: split it, or say why not in a comment `{LONG_FILE_REASON} …`"
        ));
    }
}

/// A manifest of a member: what it inherits, and what flannel-core depends on.
fn manifest(name: &str, text: &str, findings: &mut Findings) {
    let mut section = "";
    let mut inherits_lints = false;
    let mut inherited = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let (key, value) = (key.trim(), value.trim());
        match section {
            "lints" => inherits_lints |= key == "workspace" && value == "true",
            "package" => inherited.extend(key.strip_suffix(".workspace").filter(|_| value == "true")),
            _ if section.ends_with("dependencies") => {
                let dependency = key.strip_suffix(".workspace").unwrap_or(key);
                if dependency == key && !value.contains("workspace = true") {
                    findings.errors.push(format!(
                        "{name}:{}: the version of {dependency} belongs in the root Cargo.toml",
                        number + 1
                    ));
                }
                if name.starts_with("flannel-core/") && !CORE_DEPENDENCIES.contains(&dependency) {
                    findings.errors.push(format!(
                        "{name}:{}: flannel-core may not depend on {dependency}; the list is in xtask/src/tidy.rs",
                        number + 1
                    ));
                }
            }
            _ => {}
        }
    }
    if !inherits_lints {
        findings.errors.push(format!("{name}: `[lints] workspace = true` is missing"));
    }
    for key in INHERITED.iter().filter(|key| !inherited.contains(*key)) {
        findings.errors.push(format!("{name}: `{key}.workspace = true` is missing"));
    }
}

#[cfg(test)]
mod tests;
