//! The README and other documents as sources of commands and files: what they tell people to do is what the tests do.

use anyhow::{Context, Result, ensure};

use crate::machine::Machine;
use crate::program;

const README: &str = include_str!("../../README.md");
/// The list of plugins that packages install.
const CONFLIST: &str = include_str!("../../xtask/assets/10-flannel.conflist");

/// What a document says under a heading, as far as it is to be typed: its indented blocks, in order.
#[must_use]
pub fn blocks(document: &str, heading: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut open = false;
    for line in document.lines().skip_while(|line| *line != heading).skip(1) {
        if line.starts_with("## ") {
            break;
        }
        let code = line.strip_prefix("    ");
        match (code, open, blocks.last_mut()) {
            (Some(code), true, Some(block)) => block.extend([code, "\n"]),
            (Some(code), ..) => blocks.push(format!("{code}\n")),
            _ => {}
        }
        open = code.is_some();
    }
    blocks
}

/// The block under the heading "containerd" that begins with this.
fn containerd_block(start: &str) -> Result<String> {
    blocks(README, "## containerd").into_iter().find(|block| block.starts_with(start)).with_context(|| {
        format!("the README's section on containerd has no block that begins with {start:?}")
    })
}

/// The configuration of containerd, for its series 1 or 2.
pub fn containerd_config(series: u32) -> Result<String> {
    containerd_block(&format!("version = {}\n", series + 1))
}

/// Installs the plugins on a node as the README's section on containerd tells, and the list of plugins.
pub fn install_plugins(machine: &Machine) -> Result<()> {
    let install = containerd_block("install ")?;
    let list = containerd_block("{")?;
    ensure!(list == CONFLIST, "the README's list of plugins is not that of xtask/assets:\n{list}{CONFLIST}");
    let built = program("flannel");
    let directory = built.parent().context("a program without a directory")?;
    // What was built, where the README has it.
    let script = format!(
        "set -e; mkdir -p /opt/source/target; cd /opt/source; ln -sfn {} target/release\n{install}",
        directory.display()
    );
    machine.netns().feed(&["sh"], &script)?;
    machine.write("/etc/cni/net.d/10-flannel.conflist", &list)
}
