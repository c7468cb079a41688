//! Rules of the code base that neither rustfmt nor clippy knows, for the files that git tracks or would track.

use anyhow::Result;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::process::{root, stdout};

mod circles;
mod documents;
mod imports;

/// The dependencies that flannel-core may have: nothing that does input or output.
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

const LONG_FILE: usize = 500;

/// Names of backends and kinds of links, which only their own files use.
const BACKEND_NAMES: [&str; 7] = [
    "BackendConfig::",
    "Backend::Vxlan",
    "Backend::HostGw",
    "Backend::Alloc",
    "Backend::Ipip",
    "LinkKind::Vxlan",
    "LinkKind::Ipip",
];
/// The beginnings of the names of those files.
const BACKEND_FILES: [&str; 3] =
    ["flannel-core/src/backend", "flannel-core/src/dataplane/kind", "flannel-core/src/message/link"];

/// The crates whose lines are counted: all but `integration`, which holds tests.
const COUNTED: [&str; 5] = ["flannel-core", "flannel-cni", "flanneld", "flannelctl", "xtask"];

/// Paths that only exist where the code was written. Split, so that this file passes.
const MACHINE_PATHS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/tmp/", "wt"), concat!("/tmp/", "target-"), concat!("/ro", "ot/")];

/// Words of an older vocabulary; the glossary in docs/contributing.md has their replacements. In two parts, so that this
/// file passes.
const OLD_WORDS: [&str; 6] = [
    concat!("me", "nd"),
    concat!("me", "nds"),
    concat!("me", "nded"),
    concat!("quar", "rel"),
    concat!("quar", "rels"),
    concat!("tor", "ture"),
];
const GLOSSARY: &str = "docs/contributing.md";

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Prints the findings. Returns whether there are none.
pub(crate) fn run() -> Result<bool> {
    let sources = sources(&root())?;
    let errors = findings(&root(), &sources)?;
    for error in &errors {
        println!("  {error}");
    }
    println!("  production lines: {}", production_lines(&sources));
    Ok(errors.is_empty())
}

fn findings(root: &Path, sources: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let mut errors = Vec::new();
    for (name, text) in sources {
        check(name, text, &mut errors);
        if name.ends_with(".md") {
            let read = |file: &Path| fs::read_to_string(root.join(file)).ok();
            let is_directory = |path: &Path| root.join(path).is_dir();
            documents::check(name, text, read, is_directory, &mut errors);
        }
    }
    errors.extend(circles::all(sources)?.iter().map(ToString::to_string));
    Ok(errors)
}

/// The text files of the repository by name. A file that is deleted but not yet committed, or not text, is left out.
fn sources(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let names = stdout(&mut git)?;
    let read = |name: &str| Some((name.to_owned(), fs::read_to_string(root.join(name)).ok()?));
    Ok(names.lines().filter_map(read).collect())
}

fn check(name: &str, text: &str, errors: &mut Vec<String>) {
    for (line, number) in text.lines().zip(1..) {
        let rules = [
            conflict(line),
            machine_path(line),
            old_word(name, line),
            registry(name, line),
            attribute(name, line),
        ];
        errors.extend(rules.into_iter().flatten().map(|error| format!("{name}:{number}: {error}")));
    }
    match name.rsplit('/').next().unwrap_or(name) {
        "mod.rs" => errors.push(format!("{name}: modules are foo.rs with children in foo/")),
        "Cargo.toml" if name != "Cargo.toml" && !name.contains("/fuzz/") => manifest(name, text, errors),
        _ if name.ends_with(".rs") => source(name, text, errors),
        _ => {}
    }
}

fn conflict(line: &str) -> Option<String> {
    let is_marker = ["<<<<<<< ", ">>>>>>> "].iter().any(|marker| line.starts_with(marker));
    is_marker.then(|| "a merge conflict that was not resolved".to_owned())
}

fn machine_path(line: &str) -> Option<String> {
    let path = MACHINE_PATHS.iter().find(|path| line.contains(**path))?;
    Some(format!("a path of one machine: {path}"))
}

fn old_word(name: &str, line: &str) -> Option<String> {
    if name == GLOSSARY || ![".rs", ".md", ".toml", ".yaml", ".sh"].iter().any(|end| name.ends_with(end)) {
        return None;
    }
    let mut words = line.split(|c: char| !c.is_alphabetic()).map(str::to_lowercase);
    let word = words.find(|word| OLD_WORDS.contains(&word.as_str()))?;
    Some(format!("`{word}`: see the glossary in {GLOSSARY}"))
}

fn registry(name: &str, line: &str) -> Option<String> {
    let source = line.strip_prefix("source = ").filter(|_| name.ends_with("Cargo.lock"))?;
    (source.trim_matches('"') != REGISTRY).then(|| format!("crates come from crates.io, not {source}"))
}

fn attribute(name: &str, line: &str) -> Option<String> {
    let code = line.trim_start();
    let error = if !name.ends_with(".rs") {
        return None;
    } else if code.starts_with("#[ignore") && !code.starts_with("#[ignore = \"needs ") {
        "only `#[ignore = \"needs …\"]`: xtask runs those"
    } else if code.starts_with("#[should_panic") {
        "no #[should_panic]: check the error instead"
    } else if code.starts_with("#[allow(") || code.starts_with("#![allow(") {
        "`#[expect(lint, reason = …)]` instead of allow"
    } else {
        return None;
    };
    Some(error.to_owned())
}

fn source(name: &str, text: &str, errors: &mut Vec<String>) {
    let root = name.ends_with("/src/lib.rs") || name.ends_with("/src/main.rs");
    if root && !name.starts_with("flanneld/") && !text.contains("#![forbid(unsafe_code)]") {
        errors.push(format!("{name}: #![forbid(unsafe_code)] is missing"));
    }
    if !is_test(name) {
        production(name, text, errors);
    }
}

/// Rules of source files that are no tests.
fn production(name: &str, text: &str, errors: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > LONG_FILE {
        errors.push(format!("{name}: {lines} lines, more than {LONG_FILE}: split it"));
    }
    if BACKEND_FILES.iter().any(|file| name.starts_with(file)) || name.starts_with("xtask/") {
        return;
    }
    let naming: Vec<String> = text
        .lines()
        .zip(1..)
        .filter(|(line, _)| BACKEND_NAMES.iter().any(|backend| line.contains(backend)))
        .map(|(_, number)| number.to_string())
        .collect();
    if !naming.is_empty() {
        errors.push(format!("{name}: names a backend or kind of link in lines {}", naming.join(", ")));
    }
}

/// Whether a source file is a test, a double or fixture of tests, or a benchmark.
fn is_test(name: &str) -> bool {
    ["/tests/", "tests.rs", "/testing/", "/fake", "fixture", "contract.rs", "/benches/"]
        .iter()
        .any(|part| name.contains(part))
}

/// Counts the lines of production code of each crate, without comments and blank lines.
fn production_lines(sources: &BTreeMap<String, String>) -> String {
    let mut counts = BTreeMap::new();
    for (name, text) in sources.iter().filter(|(name, _)| name.ends_with(".rs") && !is_test(name)) {
        let code = |line: &&str| !line.trim_start().starts_with("//") && !line.trim().is_empty();
        let of = name.split('/').next().unwrap_or_default();
        if COUNTED.contains(&of) {
            *counts.entry(of).or_default() += text.lines().filter(code).count();
        }
    }
    let each: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    format!("{} in all: {}", counts.values().sum::<usize>(), each.join(", "))
}

/// A manifest of a member: what it inherits, and what flannel-core depends on.
fn manifest(name: &str, text: &str, errors: &mut Vec<String>) {
    let mut section = "";
    let mut inherits_lints = false;
    let mut inherited = Vec::new();
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
        }
        let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('[')) else { continue };
        let (key, value) = (key.trim(), value.trim());
        match section {
            "lints" => inherits_lints |= key == "workspace" && value == "true",
            "package" => inherited.extend(key.strip_suffix(".workspace").filter(|_| value == "true")),
            _ if section.ends_with("dependencies") => {
                let (dependency, place) =
                    (key.strip_suffix(".workspace").unwrap_or(key), format!("{name}:{number}"));
                if dependency == key && !value.contains("workspace = true") {
                    errors
                        .push(format!("{place}: the version of {dependency} belongs in the root Cargo.toml"));
                }
                if name.starts_with("flannel-core/") && !CORE_DEPENDENCIES.contains(&dependency) {
                    errors.push(format!(
                        "{place}: flannel-core may not depend on {dependency}, see CORE_DEPENDENCIES"
                    ));
                }
            }
            _ => {}
        }
    }
    if !inherits_lints {
        errors.push(format!("{name}: `[lints] workspace = true` is missing"));
    }
    for key in INHERITED.iter().filter(|key| !inherited.contains(*key)) {
        errors.push(format!("{name}: `{key}.workspace = true` is missing"));
    }
}

#[cfg(test)]
mod tests;
