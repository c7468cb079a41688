//! `install-conf` and `cp`, other names of this program: they install files of the image on a node, for the init containers of
//! manifests.
//!
//! Compatibility: names and arguments are those of Go flannel's manifests, whose images contain a shell's tools. Ours contains
//! nothing else, and unlike `cp`, a copy replaces a running plugin, and never leaves half a file.

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::failure::{Failure, Kind, fail};
use crate::node::cni::{PLUGIN, REFERENCE_PLUGINS, is_other_name};
use crate::output::{Form, Output};

const NAMES: [&str; 2] = ["install-conf", "cp"];

/// Replace a file on a node by a copy of another one, atomically. With the plugin, install the names of the reference plugins that
/// are missing on the node
#[derive(Debug, Parser)]
#[command(disable_version_flag = true, args_override_self = true)]
struct Arguments {
    /// Accepted for compatibility: a file that exists is always replaced
    #[arg(short = 'f')]
    _overwrite: bool,
    /// Replace reference plugins that another program installed
    #[arg(long)]
    force: bool,
    /// Path of the file
    source: PathBuf,
    /// Path of the copy, or of its directory
    destination: PathBuf,
}

/// Returns the name under which the program was started, if it is one of these.
pub(crate) fn requested() -> Option<&'static str> {
    let started = std::env::args_os().next()?;
    let started = Path::new(&started).file_name()?;
    NAMES.into_iter().find(|name| started == *name)
}

/// Runs the program. Every failure has exit code 1, as in Go flannel.
pub(crate) fn main(name: &'static str) -> ExitCode {
    let output = Output::new(Form::Table);
    let parsed = Arguments::command().name(name).bin_name(name).try_get_matches();
    let arguments = match parsed.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        Err(error) => {
            output.message(error.render().to_string().trim_end());
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match install(&arguments) {
        Ok(lines) => {
            lines.iter().for_each(|line| output.message(line));
            ExitCode::SUCCESS
        }
        Err(error) => {
            output.failure(&Failure::of(&error));
            ExitCode::FAILURE
        }
    }
}

/// Returns what was done, as lines for people.
fn install(arguments: &Arguments) -> anyhow::Result<Vec<String>> {
    let source = &arguments.source;
    let name = source.file_name().with_context(|| format!("{} is not a file", source.display()))?;
    let mut destination = arguments.destination.clone();
    if destination.is_dir() {
        destination.push(name);
    }
    let mut lines = vec![copy(source, &destination)?];
    if name == PLUGIN && destination.file_name() == Some(OsStr::new(PLUGIN)) {
        for name in REFERENCE_PLUGINS {
            lines.push(link(&destination.with_file_name(name), arguments.force)?);
        }
    }
    Ok(lines)
}

/// Replaces a file unless it has the same content and mode: a runtime reads a CNI configuration again that is replaced.
fn copy(source: &Path, destination: &Path) -> anyhow::Result<String> {
    let failed = || format!("could not copy {} to {}", source.display(), destination.display());
    let content = fs::read(source).with_context(|| format!("could not read {}", source.display()))?;
    let mode = fs::metadata(source).with_context(failed)?.permissions().mode() & 0o7777;
    let directory = parent(destination);
    if !directory.is_dir() {
        let message = format!("{}: {} is not a directory", failed(), directory.display());
        return fail(Kind::NotFound, message, "Mount the directory of the node there, as a hostPath volume.");
    }
    let same_mode = fs::symlink_metadata(destination)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o7777 == mode);
    if same_mode && fs::read(destination).is_ok_and(|existing| existing == content) {
        return Ok(format!("{} is up to date", destination.display()));
    }
    let prefix = format!(".{}.tmp", destination.file_name().unwrap_or_default().display());
    remove_unfinished(directory, &prefix);
    let mut file = tempfile::Builder::new().prefix(&prefix).tempfile_in(directory).with_context(failed)?;
    io::copy(&mut content.as_slice(), &mut file).with_context(failed)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode)).with_context(failed)?;
    file.as_file().sync_all().with_context(failed)?;
    file.persist(destination).with_context(failed)?;
    // So that a node that loses power has the old file or the new one.
    File::open(directory).and_then(|directory| directory.sync_all()).with_context(failed)?;
    Ok(format!("installed {}", destination.display()))
}

/// Removes what a run that was killed left.
fn remove_unfinished(directory: &Path, prefix: &str) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            // At worst it remains.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Makes a name of a reference plugin lead to the plugin, unless another program installed it.
fn link(path: &Path, force: bool) -> anyhow::Result<String> {
    let failed = || format!("could not install {}", path.display());
    let exists = match fs::symlink_metadata(path) {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error).with_context(failed),
    };
    if is_other_name(path) {
        return Ok(format!("{} is up to date", path.display()));
    }
    if exists && !force {
        return Ok(format!("kept {}, which another program installed", path.display()));
    }
    // A rename replaces a plugin without a moment in which it is missing.
    let directory = parent(path);
    let work = tempfile::Builder::new().prefix(".flannel.tmp").tempdir_in(directory).with_context(failed)?;
    let new = work.path().join(PLUGIN);
    symlink(PLUGIN, &new).with_context(failed)?;
    fs::rename(&new, path).with_context(failed)?;
    Ok(format!("installed {}", path.display()))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests;
