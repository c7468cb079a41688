//! `cargo xtask demo`, which is what people see first.

use anyhow::{Context, Result, ensure};
use integration::{Feature, lab, program};
use nix::mount::{MsFlags, mount};
use std::path::Path;
use std::process::Command;

/// Where plugins are installed.
const DIRECTORIES: [&str; 2] = ["/usr/lib/cni", "/opt/cni"];

/// It shows pods on a machine where no plugin is installed.
#[test]
fn needs_no_plugin() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan])?;
        // The mounts are seen in this sandbox only.
        for directory in DIRECTORIES.iter().filter(|directory| Path::new(directory).exists()) {
            mount(Some("tmpfs"), *directory, Some("tmpfs"), MsFlags::empty(), None::<&str>)
                .with_context(|| format!("could not hide {directory}"))?;
        }
        let shown = demo()?;
        for part in ["POD", "Every pod to every other", "back after"] {
            ensure!(shown.contains(part), "no {part:?} in\n{shown}");
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
