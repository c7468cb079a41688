//! iptables for the image, from packages of Debian: both variants, with their extensions and libraries.
//!
//! apt-get downloads the packages for any architecture, without root, and verifies them by the signed index of the archive; the
//! sources are those of this machine. The result is kept in the target directory. Tests use what is there; a release first
//! asks for newer packages.

use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::sha256;
use super::target::{Profile, Target};
use super::tree::Tree;
use crate::process::{empty_directory, find, must_succeed, stdout, target as target_directory};

/// A package whose files are in the image.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The checksum of the archive.
    pub(crate) sha256: String,
    /// An SPDX expression.
    pub(crate) license: &'static str,
}

/// The files of the image, and the packages that they are from.
pub(crate) struct Iptables {
    pub(crate) tree: Tree,
    pub(crate) packages: Vec<Package>,
}

/// The licences of the packages according to their `copyright` files.
const LICENSES: [(&str, &str); 9] = [
    ("iptables", "GPL-2.0-only AND GPL-2.0-or-later AND Artistic-1.0-Perl"),
    ("libc6", "LGPL-2.1-or-later"),
    ("libip4tc2", "GPL-2.0-only AND GPL-2.0-or-later"),
    ("libip6tc2", "GPL-2.0-only AND GPL-2.0-or-later"),
    ("libmnl0", "LGPL-2.1-or-later"),
    ("libnetfilter-conntrack3", "GPL-2.0-or-later"),
    ("libnfnetlink0", "GPL-2.0-or-later"),
    ("libnftnl11", "GPL-2.0-only AND GPL-2.0-or-later"),
    ("libxtables12", "GPL-2.0-only AND GPL-2.0-or-later"),
];

/// How the names of extensions begin, those of arptables and ebtables excepted. To save a table, iptables needs the extensions of
/// all rules in it, and nobody knows what other programs use.
const EXTENSIONS: [&str; 3] = ["libxt_", "libipt_", "libip6t_"];

/// Describes a downloaded package: name, version and checksum.
const INDEX: &str = "index";

/// Returns the reason if this machine cannot download packages.
pub(crate) fn missing() -> Option<&'static str> {
    let needed = ["apt-get", "apt-cache", "dpkg-deb"];
    let missing = needed.into_iter().any(|program| find(program).is_none());
    missing.then_some("apt-get or dpkg-deb is missing, which download and unpack iptables")
}

/// Returns iptables for a target.
pub(crate) fn iptables(target: &Target, profile: Profile) -> Result<Iptables> {
    let directory = target_directory().join("debian").join(target.debian);
    let unpacked = directory.join("packages");
    if profile == Profile::Release || !unpacked.exists() {
        download(target, &directory)
            .with_context(|| format!("could not download iptables for {}", target.debian))?;
    }
    let files = Files::of(&unpacked)?;
    select(&unpacked, &files)
}

/// Downloads iptables and what it depends on, and unpacks each package in a directory of its own.
fn download(target: &Target, directory: &Path) -> Result<()> {
    let apt = Apt { directory, architecture: target.debian };
    apt.prepare()?;
    println!("downloading iptables for {} from Debian's archive", target.debian);
    must_succeed(apt.command("apt-get").args(["-qq", "update"]).stdout(Stdio::null()))?;
    must_succeed(
        apt.command("apt-get")
            .args(["-qq", "--yes", "--download-only", "install", "iptables"])
            .stdout(Stdio::null()),
    )?;
    let plan = stdout(apt.command("apt-get").args(["--simulate", "install", "iptables"]))?;
    let chosen = installed(&plan);
    ensure!(!chosen.is_empty(), "apt-get does not install iptables:\n{plan}");
    let exact: Vec<String> = chosen.iter().map(|(name, version)| format!("{name}={version}")).collect();
    let records = stdout(apt.command("apt-cache").arg("show").args(&exact))?;

    let work = directory.join("unpacking");
    empty_directory(&work)?;
    let mut index = String::new();
    for (name, version) in &chosen {
        let file = format!("{name}_{}_{}.deb", version.replace(':', "%3a"), target.debian);
        let all = file.replace(&format!("_{}.deb", target.debian), "_all.deb");
        let archives = directory.join("cache/archives");
        let file = [file, all].map(|file| archives.join(file)).into_iter().find(|file| file.exists());
        let file = file.with_context(|| format!("apt-get did not download {name} {version}"))?;
        let sum = sha256(&fs::read(&file).with_context(|| format!("could not read {}", file.display()))?);
        ensure!(
            records.lines().any(|line| line == format!("SHA256: {sum}")),
            "{} is not the file that the archive has signed",
            file.display()
        );
        must_succeed(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(work.join(name)))?;
        index += &format!("{name} {version} {sum}\n");
    }
    fs::write(work.join(INDEX), index).context("could not write the index of the packages")?;
    let unpacked = directory.join("packages");
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked).with_context(|| format!("could not remove {}", unpacked.display()))?;
    }
    fs::rename(&work, &unpacked).with_context(|| format!("could not create {}", unpacked.display()))
}

/// Returns names and versions of the packages that a simulation installs: lines of `Inst NAME (VERSION …)`.
fn installed(plan: &str) -> Vec<(String, String)> {
    let of = |line: &str| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
        let name = name.split(':').next().unwrap_or(name);
        Some((name.to_owned(), rest.split_whitespace().next()?.to_owned()))
    };
    plan.lines().filter_map(of).collect()
}

/// apt for a machine of some architecture on which nothing is installed, with its files below a directory.
struct Apt<'a> {
    directory: &'a Path,
    architecture: &'static str,
}

impl Apt<'_> {
    fn prepare(&self) -> Result<()> {
        for name in ["state/lists/partial", "cache/archives/partial"] {
            let path = self.directory.join(name);
            fs::create_dir_all(&path).with_context(|| format!("could not create {}", path.display()))?;
        }
        fs::write(self.directory.join("status"), "").context("could not write an empty list of packages")
    }

    fn command(&self, program: &str) -> Command {
        let Self { directory, architecture } = self;
        let directory = directory.display();
        let mut command = Command::new(program);
        for option in [
            format!("Dir::State={directory}/state"),
            format!("Dir::State::status={directory}/status"),
            format!("Dir::Cache={directory}/cache"),
            format!("APT::Architecture={architecture}"),
            format!("APT::Architectures={architecture}"),
            "APT::Install-Recommends=false".to_owned(),
            "Acquire::Languages=none".to_owned(),
            // Its own user could not write below the directory.
            "APT::Sandbox::User=root".to_owned(),
            "Debug::NoLocking=true".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command.env("LC_ALL", "C").stdin(Stdio::null());
        command
    }
}

/// The files of all unpacked packages.
struct Files {
    packages: BTreeMap<String, (String, String)>,
    /// Package of each path.
    owners: BTreeMap<String, String>,
}

impl Files {
    fn of(unpacked: &Path) -> Result<Self> {
        let index = unpacked.join(INDEX);
        let index =
            fs::read_to_string(&index).with_context(|| format!("could not read {}", index.display()))?;
        let mut files = Self { packages: BTreeMap::new(), owners: BTreeMap::new() };
        for line in index.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [name, version, sum] = words[..] else { bail!("malformed index of packages: {line}") };
            files.packages.insert(name.to_owned(), (version.to_owned(), sum.to_owned()));
            let mut paths = BTreeSet::new();
            list(&unpacked.join(name), "", &mut paths)?;
            files.owners.extend(paths.into_iter().map(|path| (path, name.to_owned())));
        }
        Ok(files)
    }

    fn owner(&self, path: &str) -> Result<&str> {
        let owner = self.owners.get(path).with_context(|| format!("no package contains {path}"))?;
        Ok(owner)
    }

    /// Returns the path of a library by its name.
    fn library(&self, name: &str) -> Result<&str> {
        let found = self.owners.keys().find(|path| path.rsplit('/').next() == Some(name));
        Ok(found.with_context(|| format!("no package contains the library {name}"))?)
    }
}

/// Adds the paths of all files and links below a directory.
fn list(root: &Path, below: &str, paths: &mut BTreeSet<String>) -> Result<()> {
    let directory = root.join(below);
    let failed = || format!("could not list {}", directory.display());
    for entry in fs::read_dir(&directory).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let name = entry.file_name().into_string().ok().with_context(failed)?;
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if entry.file_type().with_context(failed)?.is_dir() {
            list(root, &path, paths)?;
        } else {
            paths.insert(path);
        }
    }
    Ok(())
}

/// Selects the programs, their extensions, the libraries of both, and the licences of the packages that these are from.
fn select(unpacked: &Path, files: &Files) -> Result<Iptables> {
    let mut selected: BTreeSet<String> = BTreeSet::new();
    let mut new: Vec<String> = files.owners.keys().filter(|path| is_wanted(path)).cloned().collect();
    while !new.is_empty() {
        selected.extend(new.iter().cloned());
        let on_disk: Vec<PathBuf> =
            new.iter().map(|path| Ok(unpacked.join(files.owner(path)?).join(path))).collect::<Result<_>>()?;
        let mut next = Vec::new();
        for (path, file) in new.iter().zip(&on_disk) {
            // A link leads to a file of the same package.
            if let Ok(to) = fs::read_link(file) {
                next.push(resolve(path, &to.to_string_lossy()));
            }
        }
        for name in needed(&on_disk)? {
            let path = name.strip_prefix('/').map_or_else(|| files.library(&name), Ok)?;
            next.push(path.to_owned());
        }
        next.retain(|path| !selected.contains(path));
        next.sort();
        next.dedup();
        new = next;
    }
    let owners: BTreeSet<&str> = selected.iter().map(|path| files.owner(path)).collect::<Result<_>>()?;
    let mut tree = Tree::default();
    for path in &selected {
        add(&mut tree, path, &unpacked.join(files.owner(path)?).join(path))?;
    }
    let mut packages = Vec::new();
    for name in owners {
        let path = format!("usr/share/doc/{name}/copyright");
        tree.file(&path, fs::read(unpacked.join(name).join(&path)).with_context(|| format!("no {path}"))?)?;
        let license = LICENSES.iter().find(|(package, _)| *package == name);
        let (_, license) = license.with_context(|| {
            format!("the licence of the package {name} is unknown: add it to xtask/src/dist/debian.rs")
        })?;
        let (version, sha256) = files.packages.get(name).cloned().unwrap_or_default();
        packages.push(Package { name: name.to_owned(), version, sha256, license });
    }
    Ok(Iptables { tree, packages })
}

/// Whether a file is a program of iptables or an extension.
fn is_wanted(path: &str) -> bool {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    if directory == "usr/sbin" {
        let stem = name.strip_prefix("ip6").or_else(|| name.strip_prefix("ip"));
        let variant = stem.and_then(|stem| stem.strip_prefix("tables-"));
        return variant.is_some_and(|variant| {
            let end = variant.strip_prefix("legacy").or_else(|| variant.strip_prefix("nft"));
            end.is_some_and(|end| ["", "-save", "-restore"].contains(&end))
        });
    }
    directory.ends_with("/xtables") && EXTENSIONS.iter().any(|beginning| name.starts_with(beginning))
}

/// Returns the path that a link leads to.
fn resolve(link: &str, to: &str) -> String {
    if let Some(absolute) = to.strip_prefix('/') {
        return absolute.to_owned();
    }
    let mut parts: Vec<&str> = link.split('/').collect();
    parts.pop();
    for part in to.split('/') {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Returns the names of the libraries that programs and libraries need, and the path of the dynamic linker.
fn needed(files: &[PathBuf]) -> Result<BTreeSet<String>> {
    let text =
        stdout(Command::new("readelf").args(["--wide", "--dynamic", "--program-headers"]).args(files))?;
    let name = |line: &str| {
        let line = line.trim();
        if line.contains("(NEEDED)") {
            return Some(line.rsplit_once('[')?.1.trim_end_matches(']').to_owned());
        }
        let interpreter = line.strip_prefix("[Requesting program interpreter: ")?;
        Some(interpreter.trim_end_matches(']').to_owned())
    };
    Ok(text.lines().filter_map(name).collect())
}

fn add(tree: &mut Tree, path: &str, file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    let failed = || format!("could not read {}", file.display());
    if let Ok(to) = fs::read_link(file) {
        return tree.link(path, &to.to_string_lossy());
    }
    let content = fs::read(file).with_context(failed)?;
    let is_program = fs::metadata(file).with_context(failed)?.permissions().mode() & 0o111 != 0;
    if is_program { tree.program(path, &content) } else { tree.file(path, content) }
}

#[cfg(test)]
mod tests;
