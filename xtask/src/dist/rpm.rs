//! Builds an RPM package with a separate program, `src/bin/rpm.rs`.

use anyhow::{Context, Result, bail};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;

use super::target::Target;
use super::tree::Tree;
use super::{Release, archive};
use crate::build;
use crate::process::text;

pub(crate) fn file_name(release: &Release, target: &Target) -> String {
    format!("flannel-{}.{}.rpm", release.full_version(), target.rpm)
}

pub(crate) fn build(release: &Release, target: &Target, tree: &Tree) -> Result<Vec<u8>> {
    let files = archive::tar(tree, release.epoch)?;
    let mut command = Command::new(build::rpm()?);
    command
        .args(["--version", &release.version, "--release", &release.revision.to_string()])
        .args(["--architecture", target.rpm, "--date", &release.epoch.to_string()])
        .args(["--level", &release.compression.level().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("could not start `{}`", text(&command)))?;
    let mut stdin = child.stdin.take().context("stdin is a pipe")?;
    let output = thread::scope(|scope| {
        // If the program ends early, it prints the reason.
        scope.spawn(move || stdin.write_all(&files));
        child.wait_with_output().with_context(|| format!("could not wait for `{}`", text(&command)))
    })?;
    if !output.status.success() {
        bail!("`{}` failed", text(&command));
    }
    Ok(output.stdout)
}
