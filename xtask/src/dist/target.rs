//! What packages can be built for, and whether this machine can.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

use crate::build::Profile;
use crate::process::text;

/// A kind of machine, under all its names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Rust's.
    pub(crate) triple: &'static str,
    /// Rust's for the plugin, see [`Target::plugin`].
    pub(crate) musl: &'static str,
    /// Debian's, which are those of Go and so of images, too.
    pub(crate) debian: &'static str,
    pub(crate) rpm: &'static str,
    /// The C compiler on other machines, and Debian's packages of it and of its library.
    compiler: &'static str,
    packages: [&'static str; 2],
}

/// glibc and not musl: its targets come with every toolchain, its allocator is faster, and a static glibc finds names by
/// itself since 2.34 (see `flanneld::sys`). The plugin is linked with musl.
pub(crate) const TARGETS: [Target; 2] = [
    Target {
        triple: "x86_64-unknown-linux-gnu",
        musl: "x86_64-unknown-linux-musl",
        debian: "amd64",
        rpm: "x86_64",
        compiler: "x86_64-linux-gnu-gcc",
        packages: ["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
    },
    Target {
        triple: "aarch64-unknown-linux-gnu",
        musl: "aarch64-unknown-linux-musl",
        debian: "arm64",
        rpm: "aarch64",
        compiler: "aarch64-linux-gnu-gcc",
        packages: ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
    },
];

/// What the tests make packages for and run under emulation.
pub(crate) const EMULATED: &Target = &TARGETS[1];

/// The targets of these names; without any, for a release all that can be built for here, else this machine. Says which
/// are left out, and why.
pub(crate) fn chosen(names: &[String], profile: Profile) -> Result<Vec<&'static Target>> {
    let host = host()?;
    if names.is_empty() && profile == Profile::Dev {
        return Ok(vec![named(&host)?]);
    }
    if names.is_empty() {
        let mut possible = Vec::new();
        for target in &TARGETS {
            match target.missing(&host)? {
                None => possible.push(target),
                Some(missing) => println!("left out: {}: {missing}", target.triple),
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
    pub(crate) fn missing(&self, host: &str) -> Result<Option<String>> {
        if !has_std(self.triple)? {
            return Ok(Some(format!(
                "the standard library for it is missing: `rustup target add {}`",
                self.triple
            )));
        }
        let compiler = self.compiler(host);
        // It answers with the mere name if there is no such file.
        let found = Command::new(compiler).arg("-print-file-name=libc.a").output();
        if found.is_ok_and(|found| found.stdout.starts_with(b"/")) {
            return Ok(None);
        }
        let packages = if self.triple == host { ["gcc", "libc6-dev"] } else { self.packages };
        Ok(Some(format!("{compiler} or its libc.a is missing: `apt-get install {}`", packages.join(" "))))
    }

    /// Rust's names of it that are wanted and that the toolchain has no standard library for.
    pub(crate) fn without_std(&self) -> Result<Vec<&'static str>> {
        let mut missing = Vec::new();
        for triple in [self.triple, self.musl] {
            if !has_std(triple)? {
                missing.push(triple);
            }
        }
        Ok(missing)
    }

    /// What the plugin is built for: a program that is started for every pod. musl's start takes half the time of glibc's, which asks
    /// the processor what it is, some sixty questions that each trap in a virtual machine. Where the toolchain lacks it, glibc does.
    pub(crate) fn plugin(&self) -> Result<&'static str> {
        Ok(if has_std(self.musl)? { self.musl } else { self.triple })
    }

    /// The C compiler for it on this machine.
    pub(crate) fn compiler(&self, host: &str) -> &'static str {
        if self.triple == host { "cc" } else { self.compiler }
    }
}

/// Whether the Rust toolchain has the standard library for a target.
fn has_std(triple: &str) -> Result<bool> {
    let library = rustc(&["--print", "target-libdir", "--target", triple])?;
    Ok(Path::new(library.trim()).read_dir().is_ok_and(|mut files| {
        files.any(|file| file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("libstd-")))
    }))
}

/// This machine, if it is one that there are packages for.
pub(crate) fn here() -> Result<Option<&'static Target>> {
    let host = host()?;
    Ok(TARGETS.iter().find(|target| target.triple == host))
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
