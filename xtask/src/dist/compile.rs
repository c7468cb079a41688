//! Builds the programs of the packages: static files that run on any distribution.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::target::{Profile, Target, host};
use crate::build::{self, STATIC, STRIPPED};
use crate::process::{cargo, must_succeed, root, stdout, target as target_directory};

/// The contents of the programs.
pub(crate) struct Programs {
    pub(crate) flanneld: Vec<u8>,
    pub(crate) flannelctl: Vec<u8>,
    /// The CNI plugin.
    pub(crate) flannel: Vec<u8>,
}

/// Crates and their programs, in the order of [`Programs`].
const PROGRAMS: [(&str, &str); 2] = [("flanneld", "flanneld"), ("flannelctl", "flannelctl")];
const PLUGIN: (&str, &str) = ("flannel-cni", "flannel");

pub(crate) fn programs(target: &Target, profile: Profile) -> Result<Programs> {
    let directory = match profile {
        Profile::Dev if target.triple == host()? => linked_again(None, &PROGRAMS)?,
        _ => built(target, target.triple, profile, &PROGRAMS)?,
    };
    let [flanneld, flannelctl] = PROGRAMS.map(|(_, name)| static_program(&directory.join(name)));
    let flannel = static_program(&plugin(target, profile)?);
    Ok(Programs { flanneld: flanneld?, flannelctl: flannelctl?, flannel: flannel? })
}

/// Builds only the plugin.
pub(crate) fn plugin(target: &Target, profile: Profile) -> Result<PathBuf> {
    let triple = target.plugin()?;
    if triple == target.triple {
        println!(
            "the plugin is linked with glibc and starts slower. Run `rustup target add {}` to link it with musl.",
            target.musl
        );
    }
    let directory = match profile {
        Profile::Dev if target.triple == host()? => {
            linked_again((triple != target.triple).then_some(triple), &[PLUGIN])?
        }
        _ => built(target, triple, profile, &[PLUGIN])?,
    };
    let file = directory.join(PLUGIN.1);
    static_program(&file)?;
    Ok(file)
}

/// Reads a program, and fails if it needs a dynamic linker.
pub(crate) fn static_program(path: &Path) -> Result<Vec<u8>> {
    let headers = stdout(Command::new("readelf").arg("--program-headers").arg(path))?;
    if headers.contains("INTERP") {
        bail!("{} is not statically linked", path.display());
    }
    fs::read(path).with_context(|| format!("could not read {}", path.display()))
}

/// Builds for a target. Removes file names of this machine from the programs, to make builds reproducible.
fn built(target: &Target, triple: &str, profile: Profile, programs: &[(&str, &str)]) -> Result<PathBuf> {
    let mut command = cargo(&format!("build --bins --target {triple}"));
    for (package, _) in programs {
        command.args(["--package", package]);
    }
    let directory = match profile {
        Profile::Release => {
            command.arg("--release");
            "release"
        }
        Profile::Dev => {
            command.arg("--quiet");
            "debug"
        }
    };
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let mut flags = vec![
        STATIC.to_owned(),
        STRIPPED.to_owned(),
        format!("--remap-path-prefix={}=flannel", root().display()),
    ];
    if let Some(home) = home {
        flags.push(format!("--remap-path-prefix={}=crates", home.join("registry/src").display()));
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    let host = host()?;
    if target.triple != host {
        let variable = format!("CARGO_TARGET_{}_LINKER", triple.to_uppercase().replace('-', "_"));
        if std::env::var_os(&variable).is_none() {
            command.env(variable, target.compiler(&host));
        }
    }
    must_succeed(&mut command)?;
    Ok(target_directory().join(triple).join(directory))
}

/// Links the test build again, statically.
fn linked_again(other: Option<&str>, programs: &[(&str, &str)]) -> Result<PathBuf> {
    let target = other.map(|triple| format!("--target {triple}")).unwrap_or_default();
    for (package, name) in programs {
        let features = match *package {
            "flanneld" => "--features test-features",
            "flannelctl" => build::TEST_FEATURES,
            // The plugin does without the daemon.
            _ => "",
        };
        build::program(package, name, &format!("{target} {features}"), &[STATIC, STRIPPED])?;
    }
    Ok(target_directory().join(other.unwrap_or_default()).join("debug"))
}
