//! The first file system of a guest: its first process, and the modules that mount its root file system.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::stdout;

/// Modules for file systems of the host, by virtio on the PCI bus.
const MODULES: [&str; 2] = ["virtio_pci", "virtiofs"];

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;

pub(super) struct Contents<'a> {
    /// `integration/guest`.
    pub(super) program: Vec<u8>,
    /// The root directory of the unpacked packages.
    pub(super) packages: &'a Path,
    /// Of the kernel.
    pub(super) version: &'a str,
    /// The directory that the guest can write to.
    pub(super) results: &'a Path,
}

impl Contents<'_> {
    /// An archive in the format of cpio that the kernel reads (`Documentation/driver-api/early-userspace/buffer-format.rst`).
    pub(super) fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = Vec::new();
        for name in ["root", "proc", "dev"] {
            add(&mut archive, name, DIRECTORY, b"");
        }
        add(&mut archive, "init", PROGRAM, &self.program);
        add(&mut archive, "results", FILE, self.results.display().to_string().as_bytes());
        let modprobe = format!("#!/bin/sh\nexec modprobe -d '{}' \"$@\"\n", self.packages.display());
        add(&mut archive, "modprobe", PROGRAM, modprobe.as_bytes());
        let mut list = String::new();
        for (number, file) in self.modules()?.iter().enumerate() {
            let name = format!("module{number}");
            let module = fs::read(file).with_context(|| format!("could not read {}", file.display()))?;
            add(&mut archive, &name, FILE, &module);
            list += &format!("/{name}\n");
        }
        add(&mut archive, "modules", FILE, list.as_bytes());
        add(&mut archive, "TRAILER!!!", 0, b"");
        Ok(archive)
    }

    /// Files of modules, each after those that it needs.
    fn modules(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for module in MODULES {
            let mut command = Command::new("modprobe");
            command.arg("-d").arg(self.packages).args(["-S", self.version, "--show-depends", module]);
            for line in stdout(&mut command)?.lines() {
                let file = line.strip_prefix("insmod ").map(|file| PathBuf::from(file.trim()));
                files.extend(file.filter(|file| !files.contains(file)));
            }
        }
        Ok(files)
    }
}

/// Adds an entry: a header of hexadecimal numbers, the name, the contents, the last two padded to four bytes.
fn add(archive: &mut Vec<u8>, name: &str, mode: u32, contents: &[u8]) {
    let pad = |archive: &mut Vec<u8>| archive.resize(archive.len().next_multiple_of(4), 0);
    let number = u32::try_from(archive.len()).unwrap_or(u32::MAX);
    let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    // Inode, mode, user, group, links, time, size, four numbers of devices, length of the name with its end, checksum.
    let fields = [number, mode, 0, 0, 1, 0, size(contents.len()), 0, 0, 0, 0, size(name.len() + 1), 0];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(contents);
    pad(archive);
}

#[cfg(test)]
mod tests;
