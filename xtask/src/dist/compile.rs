//! The programs of the packages: each one static file that runs on any distribution.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;

use super::target::{Target, host};
use crate::build::Profile;
use crate::process::{cargo, must_succeed, root, target as target_directory};

/// Their contents.
pub(crate) struct Programs {
    pub(crate) flanneld: Vec<u8>,
    pub(crate) flannelctl: Vec<u8>,
    /// The CNI plugin.
    pub(crate) flannel: Vec<u8>,
}

/// Packages and their programs, in the order of [`Programs`].
const PROGRAMS: [(&str, &str); 3] =
    [("flanneld", "flanneld"), ("flannelctl", "flannelctl"), ("flannel-cni", "flannel")];

const STATIC: &str = "-Ctarget-feature=+crt-static";

pub(crate) fn programs(target: &Target, profile: Profile) -> Result<Programs> {
    let directory = match profile {
        Profile::Release => release(target)?,
        Profile::Dev => dev()?,
    };
    let read = |(_, name): (&str, &str)| -> Result<Vec<u8>> {
        let path = directory.join(name);
        let program = fs::read(&path).with_context(|| format!("could not read {}", path.display()))?;
        if has_interpreter(&program) != Some(false) {
            bail!("{} is not statically linked", path.display());
        }
        Ok(program)
    };
    let [flanneld, flannelctl, flannel] = PROGRAMS;
    Ok(Programs { flanneld: read(flanneld)?, flannelctl: read(flannelctl)?, flannel: read(flannel)? })
}

/// Builds for any target. No file name of this machine stays in the programs, or they would differ from one
/// directory to another.
fn release(target: &Target) -> Result<PathBuf> {
    let mut command = cargo(["build", "--release", "--bins", "--target", target.triple]);
    for (package, _) in PROGRAMS {
        command.args(["--package", package]);
    }
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let mut flags = vec![STATIC.to_owned(), format!("--remap-path-prefix={}=flannel", root().display())];
    if let Some(home) = home {
        flags.push(format!("--remap-path-prefix={}=crates", home.join("registry/src").display()));
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    if target.triple != host()? {
        let variable = format!("CARGO_TARGET_{}_LINKER", target.triple.to_uppercase().replace('-', "_"));
        if std::env::var_os(&variable).is_none() {
            command.env(variable, target.compiler);
        }
    }
    must_succeed(&mut command)?;
    Ok(target_directory().join(target.triple).join("release"))
}

/// Links what is built for tests anyway once more, in another manner: that takes seconds.
fn dev() -> Result<PathBuf> {
    for (package, name) in PROGRAMS {
        let mut command = cargo(["rustc", "--quiet", "--package", package, "--bin", name]);
        command.args(["--", STATIC, "-Cstrip=symbols"]);
        must_succeed(&mut command)?;
    }
    Ok(target_directory().join("debug"))
}

/// Whether a program for 64-bit machines needs a dynamic linker; `None` if it is no such program.
pub(crate) fn has_interpreter(program: &[u8]) -> Option<bool> {
    const ELF64_LITTLE_ENDIAN: &[u8] = b"\x7fELF\x02\x01";
    const PT_INTERP: u64 = 3;
    let number = |at: usize, size: usize| {
        let bytes = program.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    if !program.starts_with(ELF64_LITTLE_ENDIAN) {
        return None;
    }
    // e_phoff, e_phentsize and e_phnum; each program header begins with its type.
    let (headers, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let at = usize::try_from(headers + index * size).ok()?;
        if number(at, 4)? == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}
