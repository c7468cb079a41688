//! Building what tests and demonstrations run.

use anyhow::{Context, Result};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Stdio;

use crate::dist::target::{self, Target};
use crate::process::{cargo, must_succeed, stdout, target as target_directory};

/// The flags of a program that runs on any distribution.
pub(crate) const STATIC: &str = "-Ctarget-feature=+crt-static";
pub(crate) const STRIPPED: &str = "-Cstrip=symbols";

/// Gives dependencies the same features as in tests, so that they are built once for both.
pub(crate) const TEST_FEATURES: &str = "--features flanneld/test-features";

/// Builds the programs of the project and `lab` for tests. Returns their directory.
pub(crate) fn programs() -> Result<PathBuf> {
    let packages = "--package flanneld --package flannel-cni --package flannelctl --package integration";
    must_succeed(&mut cargo(&format!("build --quiet --bins {packages} {TEST_FEATURES}")))?;
    Ok(target_directory().join("debug"))
}

/// Builds one program with these arguments, and links it with these flags.
pub(crate) fn program(package: &str, name: &str, arguments: &str, flags: &[&str]) -> Result<()> {
    let line = format!("rustc --quiet --package {package} --bin {name} {arguments} --");
    must_succeed(cargo(&line).args(flags))
}

/// Builds a program that the bench starts for every pod, in the way the plugin is released. Returns its directory.
pub(crate) fn pod_program(package: &str, name: &str) -> Result<PathBuf> {
    let triple = target::here()?.map(Target::plugin).transpose()?;
    let target = triple.map(|triple| format!("--target {triple}")).unwrap_or_default();
    program(package, name, &format!("--release {target}"), &[STATIC])?;
    Ok(target_directory().join(triple.unwrap_or_default()).join("release"))
}

/// Builds one program in the way it is released: optimised and static. Returns its file.
pub(crate) fn static_program(package: &str, name: &str) -> Result<PathBuf> {
    program(package, name, "--release", &[STATIC])?;
    Ok(target_directory().join("release").join(name))
}

/// Builds the program that runs in the containers of the tests. Their image contains nothing else.
pub(crate) fn pod() -> Result<()> {
    program("pod", "pod", "", &[STATIC, STRIPPED])
}

/// Builds the first process of guests. The file system that they begin with contains nothing else.
pub(crate) fn guest() -> Result<()> {
    program("guest", "guest", "", &[STATIC, STRIPPED])
}

/// Builds the program that makes RPM packages.
pub(crate) fn rpm() -> Result<PathBuf> {
    must_succeed(&mut cargo("build --quiet --package xtask --bin rpm --features rpm"))?;
    Ok(target_directory().join("debug/rpm"))
}

/// A compiled test program.
pub(crate) struct TestProgram {
    /// Of the library, binary or test file that it tests.
    pub(crate) name: String,
    pub(crate) package: String,
    pub(crate) file: PathBuf,
}

impl TestProgram {
    /// The names of its tests, or of its ignored tests only.
    pub(crate) fn tests(&self, ignored_only: bool) -> Result<Vec<String>> {
        let mut command = std::process::Command::new(&self.file);
        command.args(["--list", "--format", "terse"]);
        if ignored_only {
            command.arg("--ignored");
        }
        let names = stdout(&mut command)?;
        Ok(names.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }
}

/// Builds the tests that `cargo test` with these arguments would run. Always those of the whole workspace, or their
/// dependencies would be built again with other features.
pub(crate) fn test_programs(arguments: &[&str]) -> Result<Vec<TestProgram>> {
    let mut command = cargo("test --workspace --quiet --no-run --message-format json-render-diagnostics");
    let messages = stdout(command.args(arguments).stderr(Stdio::inherit()))?;
    messages.lines().filter_map(|line| program_of(line).transpose()).collect()
}

/// Returns the test program in a message of cargo, or `None` for other messages.
fn program_of(line: &str) -> Result<Option<TestProgram>> {
    let message: Value = serde_json::from_str(line).context("could not read a message of cargo")?;
    let (Some(file), Some(name)) = (message["executable"].as_str(), message["target"]["name"].as_str())
    else {
        return Ok(None);
    };
    if message["profile"]["test"] != Value::Bool(true) {
        return Ok(None);
    }
    let package = message["manifest_path"]
        .as_str()
        .and_then(|path| path.strip_suffix("/Cargo.toml"))
        .and_then(|path| path.rsplit('/').next())
        .unwrap_or_default();
    Ok(Some(TestProgram { name: name.to_owned(), package: package.to_owned(), file: file.into() }))
}
