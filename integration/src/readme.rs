//! A node as the README's section on containerd has it.

use anyhow::{Context, Result, ensure};

use crate::machine::Machine;
use crate::pages::{block, walk};
use crate::program;

/// The list of plugins that packages install.
const CONFLIST: &str = include_str!("../../xtask/assets/10-flannel.conflist");

/// The configuration of containerd, for its series 1 or 2.
pub fn containerd_config(series: u32) -> Result<String> {
    match series {
        1 => walk("readme::containerd_config", |readme| Ok(readme.next("version = 2\n")?.text().to_owned())),
        _ => Ok(block("README.md", &format!("version = {}\n", series + 1))?.text().to_owned()),
    }
}

/// Installs the plugins on a node as the README's section on containerd tells, and the list of plugins.
pub fn install_plugins(machine: &Machine) -> Result<()> {
    let (install, list) = walk("readme::install_plugins", |readme| {
        Ok((readme.next("install -D -m 755 target/release/flannel /opt")?, readme.next("{\"name\"")?))
    })?;
    let list = list.text();
    ensure!(list == CONFLIST, "the README's list of plugins is not that of xtask/assets:\n{list}{CONFLIST}");
    let built = program("flannel");
    let directory = built.parent().context("a program without a directory")?;
    // What was built, where the README has it.
    let script = format!(
        "set -e; mkdir -p /opt/source/target; cd /opt/source; ln -sfn {} target/release\n{}",
        directory.display(),
        install.text()
    );
    machine.netns().feed(&["sh"], &script)?;
    machine.write("/etc/cni/net.d/10-flannel.conflist", list)
}
