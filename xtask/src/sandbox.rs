//! Sandboxes: own network, mount and process namespaces, private `/run`, `/etc` and `/var/lib`. When the first process of a
//! sandbox or this process ends, the kernel removes everything.

use anyhow::{Result, bail};
use std::ffi::OsStr;
use std::process::Command;

use crate::process::{find, is_root, root};

/// Fails if this machine cannot create a sandbox, with the fix.
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

/// Returns a command that runs `program` in a new sandbox, which a script prepares.
///
/// `setpriv` makes the kernel kill `unshare` when the thread that started it ends for any reason; `--kill-child` does the
/// same for its children.
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
