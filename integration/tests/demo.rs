//! `cargo xtask demo`.

use anyhow::{Context, Result, ensure};
use integration::{Feature, lab, program};
use nix::mount::{MsFlags, mount};
use std::path::Path;
use std::process::Command;

/// Directories of installed plugins.
const DIRECTORIES: [&str; 2] = ["/usr/lib/cni", "/opt/cni"];

/// The demonstration works without installed plugins.
#[test]
fn needs_no_plugin() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        // The mounts are private to this sandbox.
        for directory in DIRECTORIES.iter().filter(|directory| Path::new(directory).exists()) {
            mount(Some("tmpfs"), *directory, Some("tmpfs"), MsFlags::empty(), None::<&str>)
                .with_context(|| format!("could not hide {directory}"))?;
        }
        let shown = demo()?;
        for part in ["POD", "from every pod to every other", "restored after"] {
            ensure!(shown.contains(part), "output lacks {part:?}:\n{shown}");
        }
        Ok(())
    });
}

fn demo() -> Result<String> {
    let output = Command::new(program("lab"))
        .args(["demo", "--store", "dir", "--backend", "vxlan", "--nodes", "2"])
        .output()
        .context("could not start the demonstration")?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "the demonstration failed: {stdout}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(stdout)
}
