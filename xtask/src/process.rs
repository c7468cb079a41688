//! Starts programs.

use anyhow::{Context, Result, bail};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The directory of the workspace.
pub(crate) fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_owned)
}

/// The target directory of cargo.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |path| root().join(path))
}

/// Creates an empty directory, in place of an existing one.
pub(crate) fn empty_directory(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("could not remove {}", directory.display()))?;
    }
    fs::create_dir_all(directory).with_context(|| format!("could not create {}", directory.display()))
}

/// Returns a cargo command in the workspace, with the cargo that started this program.
pub(crate) fn cargo(line: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(line.split_whitespace());
    // These describe this crate; build scripts that depend on them would run again.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR") {
            command.env_remove(name);
        }
    }
    command
}

/// Returns a command as it is typed in a shell, for messages.
pub(crate) fn text(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command that writes to the terminal. Returns whether it succeeded.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| format!("could not start `{}`", text(command)))?;
    Ok(status.success())
}

/// Runs a command and fails if it fails.
pub(crate) fn must_succeed(command: &mut Command) -> Result<()> {
    if succeeds(command)? {
        return Ok(());
    }
    bail!("`{}` failed", text(command))
}

/// Runs a command that must succeed, and returns its stdout. Its stderr becomes part of the error unless it is set.
pub(crate) fn stdout(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("could not start `{}`", text(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", text(command), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a test program and calls `look` with each line of its stdout. Returns whether it succeeded. Prints only the lines of
/// tests that did not pass.
pub(crate) fn watched(command: &mut Command, mut look: impl FnMut(&str)) -> Result<bool> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start `{}`", text(command)))?;
    let stdout = child.stdout.take().expect("stdout is a pipe");
    for line in BufReader::new(stdout).lines() {
        let line = line.context("could not read the output of the command")?;
        let passed =
            line.starts_with("test ") && (line.ends_with(" ... ok") || line.contains(" ... ignored"));
        if !passed && !line.is_empty() && !line.starts_with("running ") {
            println!("{line}");
        }
        look(&line);
    }
    Ok(child.wait().context("could not wait for the command")?.success())
}

/// Returns the file of a program: a path as it is, or a name from `PATH` or the directories of system programs, which are
/// missing in the `PATH` of ordinary users.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
}

/// Returns whether the effective user of this process is root.
pub(crate) fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|ids| ids.split_whitespace().nth(1))
        .is_some_and(|id| id == "0")
}
