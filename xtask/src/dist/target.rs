//! The targets of packages, and whether this machine can build for them.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

use crate::process::stdout;

/// How to compile what is packed.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Profile {
    Dev,
    Release,
}

/// An architecture, with all its names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The Rust target of the programs.
    pub(crate) triple: &'static str,
    /// The Rust target of the plugin, see [`Target::plugin`].
    pub(crate) musl: &'static str,
    /// The name in Debian, Go and images.
    pub(crate) debian: &'static str,
    pub(crate) rpm: &'static str,
    /// The cross compiler for C, and the Debian packages of compiler and C library.
    compiler: &'static str,
    packages: [&'static str; 2],
}

/// The programs use glibc: every toolchain includes its targets, its allocator is faster, and since 2.34 a static glibc
/// resolves names without plugins (see `flanneld::sys`). The plugin uses musl.
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

/// The target whose programs the tests emulate.
pub(crate) const EMULATED: &Target = &TARGETS[1];

/// Returns the targets with these names. Without names: all targets that this machine can build for a release, or the target of
/// this machine in other profiles. Prints skipped targets with the reason.
pub(crate) fn chosen(names: &[String], profile: Profile) -> Result<Vec<&'static Target>> {
    let host = host()?;
    let names = match names {
        [] if profile == Profile::Dev => std::slice::from_ref(&host),
        names => names,
    };
    let requested = names.iter().map(|name| named(name)).collect::<Result<Vec<_>>>()?;
    let mut targets = Vec::new();
    for target in TARGETS.iter().filter(|target| names.is_empty() || requested.contains(target)) {
        match target.missing(&host)? {
            None => targets.push(target),
            Some(missing) if names.is_empty() => println!("skipping {}: {missing}", target.triple),
            Some(missing) => bail!("could not build for {}: {missing}", target.triple),
        }
    }
    if targets.is_empty() {
        bail!("could not build for any target");
    }
    Ok(targets)
}

fn named(triple: &str) -> Result<&'static Target> {
    TARGETS.iter().find(|target| target.triple == triple).with_context(|| {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.triple).collect();
        format!("unsupported target {triple}, supported are {}", names.join(" and "))
    })
}

impl Target {
    /// Returns what this machine lacks to build for this target, with the fix.
    pub(crate) fn missing(&self, host: &str) -> Result<Option<String>> {
        if !has_std(self.triple)? {
            return Ok(Some(format!(
                "the standard library is missing. Run `rustup target add {}`.",
                self.triple
            )));
        }
        let compiler = self.compiler(host);
        // The compiler prints the bare name if the file is missing.
        let found = Command::new(compiler).arg("-print-file-name=libc.a").output();
        if found.is_ok_and(|found| found.stdout.starts_with(b"/")) {
            return Ok(None);
        }
        let packages = if self.triple == host { ["gcc", "libc6-dev"] } else { self.packages };
        Ok(Some(format!(
            "{compiler} or its libc.a is missing. Run `apt-get install {}`.",
            packages.join(" ")
        )))
    }

    /// Returns the Rust target of the plugin: musl, which starts in half the time of glibc because it does not query the CPU (each
    /// query traps in a virtual machine), or glibc if the toolchain lacks musl.
    pub(crate) fn plugin(&self) -> Result<&'static str> {
        Ok(if has_std(self.musl)? { self.musl } else { self.triple })
    }

    /// Returns the C compiler for this target on this machine.
    pub(crate) fn compiler(&self, host: &str) -> &'static str {
        if self.triple == host { "cc" } else { self.compiler }
    }
}

/// Returns whether the toolchain has the standard library of a target.
pub(crate) fn has_std(triple: &str) -> Result<bool> {
    let library = rustc(&["--print", "target-libdir", "--target", triple])?;
    Ok(Path::new(library.trim()).read_dir().is_ok_and(|mut files| {
        files.any(|file| file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("libstd-")))
    }))
}

/// Returns the target of this machine if packages support it.
pub(crate) fn here() -> Result<Option<&'static Target>> {
    let host = host()?;
    Ok(TARGETS.iter().find(|target| target.triple == host))
}

/// Returns the Rust target of this machine.
pub(crate) fn host() -> Result<String> {
    let version = rustc(&["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc did not report its host")
}

/// Returns the output of the compiler that cargo uses.
pub(crate) fn rustc(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    stdout(command.args(arguments))
}
