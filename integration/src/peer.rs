//! CNI plugins of others to compare with, and ours under all their names.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::topology::Lab;

/// Debian's plugins, which the tests install.
const DEBIAN: &str = "/usr/lib/cni";
/// The directory that `cargo xtask e2e --peer` names.
const VARIABLE: &str = "FLANNEL_E2E_PEER";

/// Names of our plugin, as they are installed.
pub const NAMES: [&str; 6] = ["flannel", "bridge", "host-local", "portmap", "loopback", "bandwidth"];

/// A directory of plugins.
#[derive(Clone, Debug)]
pub struct Peer {
    directory: PathBuf,
    /// The versions of the CNI specification that its `bridge` supports.
    versions: Vec<String>,
    is_chosen: bool,
}

impl Peer {
    /// The plugins in a directory. Fails without a `bridge` in it.
    pub fn open(directory: &Path) -> Result<Self> {
        let file = directory.join("bridge");
        let mut command = Command::new(&file);
        command.env("CNI_COMMAND", "VERSION").stdin(Stdio::null());
        let output = command.output().with_context(|| format!("could not start {}", file.display()))?;
        ensure!(output.status.success(), "VERSION of {}: {}", file.display(), output.status);
        let answer: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("VERSION of {} is not JSON", file.display()))?;
        let versions = answer["supportedVersions"].as_array().into_iter().flatten();
        let versions = versions.filter_map(Value::as_str).map(str::to_owned).collect();
        Ok(Self { directory: directory.to_owned(), versions, is_chosen: false })
    }

    /// The plugins that the runner was asked to compare with, otherwise Debian's where they are installed.
    pub fn of_environment() -> Result<Option<Self>> {
        match std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
            Some(path) => Ok(Some(Self { is_chosen: true, ..Self::open(Path::new(&path))? })),
            None if Path::new(DEBIAN).join("bridge").is_file() => Self::open(Path::new(DEBIAN)).map(Some),
            None => Ok(None),
        }
    }

    /// Where they are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the caller of the tests has named them.
    #[must_use]
    pub const fn is_chosen(&self) -> bool {
        self.is_chosen
    }

    /// Whether there is such a plugin.
    #[must_use]
    pub fn has(&self, plugin: &str) -> bool {
        self.directory.join(plugin).is_file()
    }

    /// Whether its `bridge` supports this version of the CNI specification.
    #[must_use]
    pub fn supports(&self, version: &str) -> bool {
        self.versions.iter().any(|one| one == version)
    }

    /// Whether a plugin knows a key. Plugins ignore keys of later versions, so the name of the key in the program counts.
    pub fn knows(&self, plugin: &str, key: &str) -> Result<bool> {
        let file = self.directory.join(plugin);
        let program = fs::read(&file).with_context(|| format!("could not read {}", file.display()))?;
        Ok(program.windows(key.len()).any(|window| window == key.as_bytes()))
    }
}

/// Makes a directory of our plugin under all its names.
pub fn own_plugins(lab: &Lab, program: &Path) -> Result<PathBuf> {
    let directory = lab.directory("plugins")?;
    for name in NAMES {
        symlink(program, directory.join(name)).with_context(|| format!("could not link {name}"))?;
    }
    Ok(directory)
}
