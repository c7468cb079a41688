//! The node that the README's section on containerd describes.

use anyhow::{Context, Result, ensure};

use crate::machine::Machine;
use crate::pages::{block, walk};
use crate::program;

/// The plugin list that packages install.
const CONFLIST: &str = include_str!("../../xtask/assets/10-flannel.conflist");

/// Returns the configuration for containerd 1 or 2.
pub fn containerd_config(series: u32) -> Result<String> {
    match series {
        1 => walk("readme::containerd_config", |readme| Ok(readme.next("version = 2\n")?.text().to_owned())),
        _ => Ok(block("README.md", &format!("version = {}\n", series + 1))?.text().to_owned()),
    }
}

/// Installs plugins and plugin list on a node with the commands of the README's section on containerd.
pub fn install_plugins(machine: &Machine) -> Result<()> {
    let (install, list) = walk("readme::install_plugins", |readme| {
        Ok((readme.next("install -D -m 755 target/release/flannel /opt")?, readme.next("{\"name\"")?))
    })?;
    let list = list.text();
    ensure!(list == CONFLIST, "the plugin list of the README differs from xtask/assets:\n{list}{CONFLIST}");
    let built = program("flannel");
    let directory = built.parent().context("the program has no directory")?;
    // The built programs, where the README expects them.
    let script = format!(
        "set -e; mkdir -p /opt/source/target; cd /opt/source; ln -sfn {} target/release\n{}",
        directory.display(),
        install.text()
    );
    machine.netns().feed(&["sh"], &script)?;
    machine.write("/etc/cni/net.d/10-flannel.conflist", list)
}
