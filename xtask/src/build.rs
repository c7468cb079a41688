//! Building what tests and demonstrations run.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Stdio;

use crate::dist::target::{self, Target};
use crate::process::{cargo, must_succeed, target as target_directory, text};

/// Builds the programs of the project and `lab` for tests; answers with the directory that holds them.
pub(crate) fn programs() -> Result<PathBuf> {
    let mut command = cargo(["build", "--quiet", "--bins"]);
    for package in ["flanneld", "flannel-cni", "flannelctl", "integration"] {
        command.args(["--package", package]);
    }
    must_succeed(&mut command)?;
    Ok(target_directory().join("debug"))
}

/// Builds a program that the bench starts for every pod, the way the plugin is released; answers with the directory that holds it.
pub(crate) fn pod_program(package: &str, name: &str) -> Result<PathBuf> {
    let triple = target::here()?.map(Target::plugin).transpose()?;
    let mut command = cargo(["rustc", "--quiet", "--release", "--package", package, "--bin", name]);
    if let Some(triple) = triple {
        command.args(["--target", triple]);
    }
    must_succeed(command.args(["--", "-Ctarget-feature=+crt-static"]))?;
    Ok(target_directory().join(triple.unwrap_or_default()).join("release"))
}

/// Builds one program the way it is released: optimised and static.
pub(crate) fn static_program(package: &str, name: &str) -> Result<PathBuf> {
    must_succeed(cargo(["rustc", "--quiet", "--release", "--package", package, "--bin", name]).args([
        "--",
        "-C",
        "target-feature=+crt-static",
    ]))?;
    Ok(target_directory().join("release").join(name))
}

/// Builds what runs in the containers of the tests, for the image that holds nothing else: a static program.
pub(crate) fn pod() -> Result<()> {
    must_succeed(&mut cargo([
        "rustc",
        "--quiet",
        "--package",
        "xtask",
        "--bin",
        "pod",
        "--features",
        "pod",
        "--",
        "-Ctarget-feature=+crt-static",
        "-Cstrip=symbols",
    ]))
}

/// Builds what makes RPM packages.
pub(crate) fn rpm() -> Result<PathBuf> {
    must_succeed(&mut cargo([
        "build",
        "--quiet",
        "--package",
        "xtask",
        "--bin",
        "rpm",
        "--features",
        "rpm",
    ]))?;
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
        let output = command.output().with_context(|| format!("could not start `{}`", text(&command)))?;
        if !output.status.success() {
            bail!("`{}` failed: {}", text(&command), String::from_utf8_lossy(&output.stderr).trim());
        }
        let names = String::from_utf8_lossy(&output.stdout);
        Ok(names.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }
}

/// Builds the tests that `cargo test` with these arguments would run. Always those of the whole workspace, or their
/// dependencies would be built again with other features.
pub(crate) fn test_programs(arguments: &[&str]) -> Result<Vec<TestProgram>> {
    let mut command = cargo(["test", "--workspace", "--quiet", "--no-run"]);
    command.args(["--message-format", "json-render-diagnostics"]).args(arguments).stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("could not start `{}`", text(&command)))?;
    if !output.status.success() {
        bail!("`{}` failed", text(&command));
    }
    String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| program_of(line).transpose()).collect()
}

/// The test program that one of cargo's messages tells of, if it does.
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
