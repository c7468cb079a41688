//! A Debian package: deb(5), an `ar` archive of a version, the control files and the files.
//!
//! tar and gzip are crates. `ar` needs only one line of text before each of three members, and its crate is unmaintained.

use anyhow::Result;
use std::fmt::Write as _;

use super::target::Target;
use super::tree::{Node, Tree};
use super::{Release, archive};

const SUMMARY: &str = "network fabric for containers";
const DESCRIPTION: &str = include_str!("../../assets/package/description");

pub(crate) fn file_name(release: &Release, target: &Target) -> String {
    format!("flannel_{}_{}.deb", release.full_version(), target.debian)
}

pub(crate) fn build(release: &Release, target: &Target, tree: &Tree) -> Result<Vec<u8>> {
    let gzip = |content: &[u8]| release.compression.gzip(content);
    let control = gzip(&archive::tar(&control(release, target, tree)?, release.epoch)?)?;
    let data = gzip(&archive::tar(tree, release.epoch)?)?;
    let mut package = b"!<arch>\n".to_vec();
    for (name, content) in
        [("debian-binary", b"2.0\n".as_slice()), ("control.tar.gz", &control), ("data.tar.gz", &data)]
    {
        // Name, time, owner, group, mode, size: ar(5).
        package.extend(
            format!("{name:<16}{:<12}0     0     100644  {:<10}`\n", release.epoch, content.len()).bytes(),
        );
        package.extend(content);
        if content.len() % 2 == 1 {
            package.push(b'\n');
        }
    }
    Ok(package)
}

/// Returns the control files. dpkg computes the list of checksums itself.
pub(crate) fn control(release: &Release, target: &Target, tree: &Tree) -> Result<Tree> {
    let mut conffiles = String::new();
    for (path, entry) in tree.entries() {
        if path.starts_with("etc/") && matches!(entry.node, Node::File(_)) {
            // Writing to a String cannot fail.
            let _ = writeln!(conffiles, "/{path}");
        }
    }
    let version = release.full_version();
    // Each line of a long description is indented: deb-control(5).
    let description: String = DESCRIPTION.lines().map(|line| format!("\n {line}")).collect();
    let (architecture, size) = (target.debian, tree.size().div_ceil(1024));
    // The reference plugins of Debian 11 include a program `flannel`. No dependencies: the programs are static, and
    // init-system-helpers is essential.
    let text = format!(
        "Package: flannel
Version: {version}
Architecture: {architecture}
Maintainer: The flannel maintainers <maintainers@flannel.invalid>
Installed-Size: {size}
Recommends: iptables
Suggests: containerd, etcd-server
Breaks: containernetworking-plugins (<< 1.0)
Replaces: containernetworking-plugins (<< 1.0)
Section: net
Priority: optional
Description: {SUMMARY}{description}
"
    );
    let mut control = Tree::default();
    control.file("control", text)?;
    control.file("conffiles", conffiles)?;
    control.program("postinst", include_bytes!("../../assets/package/deb/postinst"))?;
    control.program("prerm", include_bytes!("../../assets/package/deb/prerm"))?;
    control.program("postrm", include_bytes!("../../assets/package/deb/postrm"))?;
    Ok(control)
}
