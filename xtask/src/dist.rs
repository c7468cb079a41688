//! Builds packages with the Rust toolchain and a C compiler, without packaging tools or container engine. Only the image with
//! iptables needs a network.
//!
//! Builds are reproducible: the result does not depend on time, machine, user or directory. Timestamps come from
//! `SOURCE_DATE_EPOCH` or from the commit.

mod archive;
mod compile;
mod crates;
mod deb;
pub(crate) mod debian;
mod image;
mod kubernetes;
mod layout;
mod pages;
mod rpm;
mod sbom;
pub(crate) mod target;
mod tree;

use anyhow::{Context, Result, ensure};
use clap::Args;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{empty_directory, root, stdout, target as target_directory};
use archive::Compression;
use target::{EMULATED, Profile, TARGETS, Target};

#[derive(Args)]
pub(crate) struct DistOptions {
    /// Output directory [default: `dist` in the target directory]
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
    /// Build for this target (repeatable) [default: all targets that this machine can build for]
    #[arg(long, value_name = "TRIPLE")]
    target: Vec<String>,
    /// `dev` packs the unoptimised programs of the tests; without --target, only for this machine
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    /// Package revision of this version
    #[arg(long, default_value_t = 1)]
    revision: u32,
    /// Name of the image, in manifest and chart, too: the repository that it will be pushed to
    #[arg(long, value_name = "REPOSITORY", default_value = kubernetes::IMAGE)]
    image: String,
}

/// Properties of all artefacts of a run.
struct Release {
    version: String,
    revision: u32,
    /// Timestamp of files and packages, in seconds since 1970.
    epoch: u64,
    compression: Compression,
    /// The name of the image without a tag.
    image: String,
}

pub(crate) fn run(options: &DistOptions) -> Result<bool> {
    let out = options.out.clone().unwrap_or_else(|| target_directory().join("dist"));
    for line in make(&out, options)? {
        println!("{line}");
    }
    Ok(true)
}

/// Builds the packages for the tests below a directory: two revisions in `first` and `second`, for upgrades, and programs for
/// another architecture in `other` if this machine can build them: all of them in the long form, otherwise only the plugin,
/// because all take minutes.
pub(crate) fn for_tests(directory: &Path, long: bool) -> Result<()> {
    let options = |revision, target: &[&Target]| DistOptions {
        out: None,
        target: target.iter().map(|target| target.triple.to_owned()).collect(),
        profile: Profile::Dev,
        revision,
        image: kubernetes::IMAGE.to_owned(),
    };
    for (name, revision) in [("first", 1), ("second", 2)] {
        make(&directory.join(name), &options(revision, &[]))?;
    }
    let other = directory.join("other");
    empty_directory(&other)?;
    if not_emulated()?.is_some() {
        return Ok(());
    }
    if long {
        make(&other, &options(1, &TARGETS.each_ref()))?;
    } else {
        let plugin = compile::plugin(EMULATED, Profile::Dev)?;
        fs::copy(&plugin, other.join("flannel"))
            .with_context(|| format!("could not copy {} to {}", plugin.display(), other.display()))?;
    }
    Ok(())
}

/// Returns the plugin of the packages in the `dev` profile, if packages are available for this machine.
pub(crate) fn plugin_for_tests() -> Result<Option<PathBuf>> {
    target::here()?.map(|target| compile::plugin(target, Profile::Dev)).transpose()
}

/// Returns the reason if this machine cannot build the programs that tests emulate.
pub(crate) fn not_emulated() -> Result<Option<String>> {
    EMULATED.missing(&target::host()?)
}

/// Builds all artefacts. Returns a line about each file.
fn make(out: &Path, options: &DistOptions) -> Result<Vec<String>> {
    let release = Release {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: options.revision,
        epoch: epoch()?,
        compression: Compression::of(options.profile),
        image: options.image.clone(),
    };
    let targets = target::chosen(&options.target, options.profile)?;
    let pages = pages::generate()?;
    let without = debian::missing();
    if let Some(reason) = without {
        println!("skipping the image with iptables: {reason}");
    }
    let mut made = Made::new(out)?;
    let manifests = kubernetes::files(&release)?;
    let mut images = Vec::new();
    for target in targets {
        let programs = compile::programs(target, options.profile)?;
        let crates = crates::linked(target)?;
        let contents =
            layout::Contents { programs: &programs, pages: &pages, notices: &crates::notices(&crates)? };

        let name = release.tarball_name(target);
        let tree = layout::tarball(&contents)?;
        made.add(
            &format!("{name}.tar.gz"),
            &release.compression.gzip(&archive::tar(&tree.below(&name), release.epoch)?)?,
        )?;
        let tree = layout::package(&contents, layout::DEBIAN)?;
        made.add(&deb::file_name(&release, target), &deb::build(&release, target, &tree)?)?;
        let tree = layout::package(&contents, layout::FEDORA)?;
        made.add(&rpm::file_name(&release, target), &rpm::build(&release, target, &tree)?)?;
        let image = Image::build(&release, target, &programs, options.profile, without.is_none())?;
        let parts = sbom::Parts { crates: &crates, packages: &image.packages, manifests: &manifests };
        made.add(&format!("{name}.cdx.json"), &sbom::build(&release, target, &parts)?)?;
        images.push(image);
    }
    for (name, content) in &manifests {
        made.add(name, content)?;
    }
    let name = format!("flannel-{}-image", release.version);
    if without.is_none() {
        let platforms: Vec<_> = images.iter().map(Image::with_iptables).collect();
        made.add(&format!("{name}.tar"), &image::build(&release, &release.version, &platforms)?)?;
    }
    let platforms: Vec<_> = images.iter().map(Image::slim).collect();
    let tag = format!("{}-slim", release.version);
    made.add(&format!("{name}-slim.tar"), &image::build(&release, &tag, &platforms)?)?;
    made.finish()
}

/// The layers of the image for a target.
struct Image {
    target: &'static Target,
    programs: Vec<u8>,
    iptables: Vec<u8>,
    packages: Vec<debian::Package>,
}

/// The largest size of the files of an image in MiB: without iptables, and with it.
const SLIM_MIB: usize = 18;
const WITH_IPTABLES_MIB: usize = 32;

impl Image {
    fn build(
        release: &Release,
        target: &'static Target,
        programs: &compile::Programs,
        profile: Profile,
        has_iptables: bool,
    ) -> Result<Self> {
        let programs = layout::image(programs)?;
        let (mut iptables, mut packages) = (tree::Tree::default(), Vec::new());
        if has_iptables {
            debian::Iptables { tree: iptables, packages } = debian::iptables(target, profile)?;
        }
        if profile == Profile::Release {
            let size = programs.size();
            expect_size("without iptables", size, SLIM_MIB)?;
            expect_size("with iptables", size + iptables.size(), WITH_IPTABLES_MIB)?;
        }
        let tar = |tree| archive::tar(tree, release.epoch);
        Ok(Self { target, programs: tar(&programs)?, iptables: tar(&iptables)?, packages })
    }

    fn with_iptables(&self) -> image::Platform<'_> {
        image::Platform { target: self.target, layers: vec![&self.programs, &self.iptables] }
    }

    fn slim(&self) -> image::Platform<'_> {
        image::Platform { target: self.target, layers: vec![&self.programs] }
    }
}

/// Fails if the files of an image are larger than a limit.
fn expect_size(what: &str, bytes: usize, limit_mib: usize) -> Result<()> {
    let size = bytes as f64 / f64::from(1 << 20);
    println!("the image {what} has {size:.1} MiB of files, of at most {limit_mib}");
    ensure!(bytes <= limit_mib << 20, "the image {what} is too large: {size:.1} MiB, more than {limit_mib}");
    Ok(())
}

impl Release {
    fn tarball_name(&self, target: &Target) -> String {
        format!("flannel-{}-linux-{}", self.version, target.debian)
    }

    /// Returns version and revision, which both package formats share.
    fn full_version(&self) -> String {
        format!("{}-{}", self.version, self.revision)
    }
}

/// Returns the time of the sources.
fn epoch() -> Result<u64> {
    let seconds = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(value) => value,
        Err(_) => stdout(Command::new("git").current_dir(root()).args(["log", "-1", "--format=%ct"]))
            .context("could not get the time of the sources. Set SOURCE_DATE_EPOCH to seconds since 1970.")?,
    };
    seconds.trim().parse().with_context(|| format!("the time of the sources is not a number: {seconds}"))
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The output files. Each replaces that of an earlier run. The checksums are written last, so an interrupted run has none.
struct Made {
    directory: PathBuf,
    sums: String,
    lines: Vec<String>,
}

const SUMS: &str = "SHA256SUMS";

impl Made {
    fn new(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("could not create {}", directory.display()))?;
        let sums = directory.join(SUMS);
        if sums.exists() {
            fs::remove_file(&sums).with_context(|| format!("could not remove {}", sums.display()))?;
        }
        Ok(Self { directory: directory.to_owned(), sums: String::new(), lines: Vec::new() })
    }

    fn add(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.write(name, content)?;
        self.sums.push_str(&format!("{}  {name}\n", sha256(content)));
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<String>> {
        let sums = std::mem::take(&mut self.sums);
        self.write(SUMS, sums.as_bytes())?;
        Ok(self.lines)
    }

    fn write(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.directory.join(name);
        fs::write(&path, content).with_context(|| format!("could not write {}", path.display()))?;
        self.lines.push(format!("{:>9} KiB  {}", content.len().div_ceil(1024), path.display()));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
