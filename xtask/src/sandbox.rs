//! A place that leaves nothing behind: own network, mount and process namespaces, private `/run`, `/etc`
//! and `/var/lib`. When its first process ends, or we do, the kernel removes everything.

use anyhow::{Result, bail};
use std::ffi::OsStr;
use std::process::Command;

use crate::process::{find, is_root, root};

/// Says what is missing for a sandbox, with the mend.
pub(crate) fn possible(task: &str) -> Result<()> {
    if !is_root() {
        bail!("network namespaces need root: run `sudo -E env PATH=\"$PATH\" cargo xtask {task}`");
    }
    for (program, package) in [("unshare", "util-linux"), ("setpriv", "util-linux"), ("ip", "iproute2")] {
        if find(program).is_none() {
            bail!("`{program}` is missing: install the package {package}");
        }
    }
    Ok(())
}

/// A command that runs `program` in a new sandbox; a script prepares it.
///
/// `setpriv` makes the kernel kill `unshare` when the thread that started it dies, however that
/// happens, and `--kill-child` does the same to everything below.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "unshare"])
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child"])
        .args(["--", "sh"])
        .arg(root().join("xtask/assets/sandbox.sh"))
        .arg(program);
    command
}

#[cfg(test)]
mod tests;
