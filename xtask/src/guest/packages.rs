//! The packages of Debian that a guest needs, unpacked. Nothing is installed, since QEMU would replace packages of this machine.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::packages::update_lists;
use crate::process::{empty_directory, must_succeed, stdout};

const PACKAGES: [&str; 2] = ["qemu-system-x86", "linux-image-cloud-amd64"];

/// Fetches and unpacks the packages, and those below them that this machine lacks, unless it was done before. Returns their
/// root directory.
pub(super) fn unpacked(parent: &Path) -> Result<PathBuf> {
    let directory = parent.join("packages");
    if directory.exists() {
        return Ok(directory);
    }
    println!("fetching the guest kernel and QEMU (42 MB)");
    let archives = parent.join("archives");
    empty_directory(&archives)?;
    let unfinished = parent.join("unfinished");
    empty_directory(&unfinished)?;
    let needed = needed().or_else(|_| update_lists().and_then(|()| needed()))?;
    let mut download = Command::new("apt-get");
    // Otherwise it warns that its own user cannot write to the directory.
    download.args(["-qq", "-o", "APT::Sandbox::User=root", "download"]).args(needed).current_dir(&archives);
    must_succeed(&mut download)?;
    for entry in fs::read_dir(&archives).context("could not list the packages")? {
        let archive = entry.context("could not list the packages")?.path();
        must_succeed(Command::new("dpkg").arg("-x").arg(archive).arg(&unfinished))?;
    }
    let kernel = kernel(&unfinished)?;
    must_succeed(Command::new("depmod").arg("-b").arg(&unfinished).arg(&kernel.version))?;
    fs::remove_dir_all(&archives).context("could not remove the archives of the packages")?;
    fs::rename(&unfinished, &directory).context("could not rename the directory of the packages")?;
    Ok(directory)
}

/// Names of the packages that an installation would add.
fn needed() -> Result<Vec<String>> {
    let mut simulation = Command::new("apt-get");
    simulation.args(["install", "--simulate", "--no-install-recommends"]).args(PACKAGES).env("LC_ALL", "C");
    let names: Vec<String> = stdout(&mut simulation)?
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        bail!("apt-get would install nothing for {}", PACKAGES.join(" "));
    }
    Ok(names)
}

pub(super) struct Kernel {
    pub(super) version: String,
    pub(super) file: PathBuf,
}

/// Returns the kernel among the packages.
pub(super) fn kernel(packages: &Path) -> Result<Kernel> {
    let boot = packages.join("boot");
    let entries = fs::read_dir(&boot).with_context(|| format!("could not list {}", boot.display()))?;
    for entry in entries {
        let file = entry.context("could not list the kernels")?.path();
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(version) = name.strip_prefix("vmlinuz-") {
            return Ok(Kernel { version: version.to_owned(), file });
        }
    }
    bail!("{} contains no kernel", boot.display())
}
