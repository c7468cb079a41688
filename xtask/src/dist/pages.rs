//! Manual pages and completions, as `flannelctl` knows them.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::build::programs;
use crate::process::{target, text};

pub(crate) struct Pages {
    /// By file name, such as `flanneld.8`.
    pub(crate) manual: BTreeMap<String, Vec<u8>>,
    /// By shell.
    pub(crate) completions: BTreeMap<&'static str, Vec<u8>>,
}

const SHELLS: [&str; 3] = ["bash", "fish", "zsh"];

/// Asks the program that is built for tests: those of the packages may be for another machine.
pub(crate) fn generate() -> Result<Pages> {
    let flannelctl = programs()?.join("flannelctl");
    let mut completions = BTreeMap::new();
    for shell in SHELLS {
        completions.insert(shell, said(Command::new(&flannelctl).args(["completion", shell]))?);
    }
    let directory = target().join("tmp/manual");
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("could not remove {}", directory.display()))?;
    }
    said(Command::new(&flannelctl).args(["man", "--dir"]).arg(&directory))?;
    Ok(Pages { manual: files(&directory)?, completions })
}

fn said(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("could not start `{}`", text(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", text(command), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

fn files(directory: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let failed = || format!("could not read {}", directory.display());
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let content = fs::read(entry.path()).with_context(failed)?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), content);
    }
    Ok(files)
}
