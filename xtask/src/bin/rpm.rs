//! Converts a tar archive of files on stdin to an RPM package on stdout.
//!
//! A separate program, because the crate `rpm` has twenty dependencies that only this program needs. `cargo xtask dist` builds
//! it on demand.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use rpm::{BuildConfig, CompressionWithLevel, Dependency, FileOptions, PackageBuilder};
use std::io::{self, Read as _};
use std::process::ExitCode;
use tar::{Archive, EntryType};

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    version: String,
    #[arg(long)]
    release: String,
    /// Name of the architecture in rpm
    #[arg(long)]
    architecture: String,
    /// Timestamp of all files, in seconds since 1970
    #[arg(long)]
    date: u32,
    /// Compression level, up to 9
    #[arg(long)]
    level: u32,
}

const SUMMARY: &str = "Network fabric for containers";
const DESCRIPTION: &str = include_str!("../../assets/package/description");

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { version, release, architecture, date, level } = arguments;
    let mut package = PackageBuilder::new("flannel", version, "Apache-2.0", architecture, SUMMARY);
    package
        // Packages are not signed, so reserve no space for a signature.
        .using_config(
            BuildConfig::v4()
                .source_date(*date)
                .compression(CompressionWithLevel::Gzip(*level))
                .reserved_space(None),
        )
        .release(release)
        .description(DESCRIPTION.trim_end())
        .build_host("localhost")
        .post_install_script(include_str!("../../assets/package/rpm/post"))
        .pre_uninstall_script(include_str!("../../assets/package/rpm/preun"))
        .post_uninstall_script(include_str!("../../assets/package/rpm/postun"))
        .recommends(Dependency::any("iptables"));
    let mut archive = Archive::new(io::stdin().lock());
    for entry in archive.entries().context("could not read an archive")? {
        add(&mut package, entry.context("could not read an archive")?)?;
    }
    let package = package.build().context("could not build the package")?;
    package.write(&mut io::stdout().lock()).context("could not write the package")
}

fn add(package: &mut PackageBuilder, mut entry: tar::Entry<'_, impl io::Read>) -> Result<()> {
    let path = entry.path().context("an entry of the archive has no name")?.to_string_lossy().into_owned();
    let failed = || format!("could not pack {path}");
    let to = format!("/{}", path.trim_end_matches('/'));
    let mode = entry.header().mode().with_context(failed)? as u16 & 0o7777;
    match entry.header().entry_type() {
        // Other directories belong to several packages.
        EntryType::Directory if path.contains("flannel") => {
            package.with_dir_entry(FileOptions::dir(to).permissions(mode))
        }
        EntryType::Directory => return Ok(()),
        EntryType::Symlink => {
            let target = entry.link_name().with_context(failed)?.with_context(failed)?;
            package.with_symlink(FileOptions::symlink(to, target.to_string_lossy()))
        }
        _ => {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).with_context(failed)?;
            let mut options = FileOptions::new(to).permissions(mode);
            if path.starts_with("etc/") {
                options = options.config().noreplace();
            }
            if ["usr/share/doc/", "usr/share/man/"].iter().any(|parent| path.starts_with(parent)) {
                options = options.doc();
            }
            package.with_file_contents(content, options)
        }
    }
    .with_context(failed)?;
    Ok(())
}
