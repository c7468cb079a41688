//! What packages can be built for, and whether this machine can.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

use crate::build::Profile;
use crate::process::{find, text};

/// A kind of machine, under all its names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Rust's.
    pub(crate) triple: &'static str,
    /// Debian's, which are those of Go and so of images, too.
    pub(crate) debian: &'static str,
    pub(crate) rpm: &'static str,
    /// The C compiler on other machines, and Debian's package of it.
    pub(crate) compiler: &'static str,
    package: &'static str,
}

/// glibc and not musl: its targets come with every toolchain, its allocator is faster, and a static glibc finds names by
/// itself since 2.34 (see `flanneld::sys`).
pub(crate) const TARGETS: [Target; 2] = [
    Target {
        triple: "x86_64-unknown-linux-gnu",
        debian: "amd64",
        rpm: "x86_64",
        compiler: "x86_64-linux-gnu-gcc",
        package: "gcc-x86-64-linux-gnu",
    },
    Target {
        triple: "aarch64-unknown-linux-gnu",
        debian: "arm64",
        rpm: "aarch64",
        compiler: "aarch64-linux-gnu-gcc",
        package: "gcc-aarch64-linux-gnu",
    },
];

/// The targets of these names; without any, all that can be built for here. Says which are left out, and why.
pub(crate) fn chosen(names: &[String], profile: Profile) -> Result<Vec<&'static Target>> {
    let host = host()?;
    if profile == Profile::Dev {
        let target = named(&host)?;
        if let Some(other) = names.iter().find(|name| **name != host) {
            bail!("--profile dev packs what is built for this machine ({host}), not for {other}");
        }
        return Ok(vec![target]);
    }
    if names.is_empty() {
        let mut possible = Vec::new();
        for target in &TARGETS {
            match target.missing(&host)? {
                None => possible.push(target),
                Some(missing) => println!("not for {}: {missing}", target.triple),
            }
        }
        if possible.is_empty() {
            bail!("this machine can build for none of the targets");
        }
        return Ok(possible);
    }
    let mut targets: Vec<&'static Target> = Vec::new();
    for name in names {
        let target = named(name)?;
        if let Some(missing) = target.missing(&host)? {
            bail!("cannot build for {name}: {missing}");
        }
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    Ok(targets)
}

fn named(triple: &str) -> Result<&'static Target> {
    TARGETS.iter().find(|target| target.triple == triple).with_context(|| {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.triple).collect();
        format!("there are no packages for {triple}, only for {}", names.join(" and "))
    })
}

impl Target {
    /// What this machine lacks to build for it, with the mend.
    fn missing(&self, host: &str) -> Result<Option<String>> {
        let library = rustc(&["--print", "target-libdir", "--target", self.triple])?;
        let has_std = Path::new(library.trim()).read_dir().is_ok_and(|mut files| {
            files.any(|file| file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("libstd-")))
        });
        if !has_std {
            return Ok(Some(format!("its standard library is missing: `rustup target add {}`", self.triple)));
        }
        if self.triple != host && find(self.compiler).is_none() {
            return Ok(Some(format!("{} is missing: install {}", self.compiler, self.package)));
        }
        Ok(None)
    }
}

/// The target of this machine.
pub(crate) fn host() -> Result<String> {
    let version = rustc(&["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not tell what it builds for")
}

/// What the compiler says; the one that cargo will call.
pub(crate) fn rustc(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.args(arguments);
    let output = command.output().with_context(|| format!("could not start `{}`", text(&command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", text(&command), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
