//! A Debian package: deb(5), an `ar` archive of a version, the control files and the files.
//!
//! tar and gzip are crates. `ar` is not: it is one line of text before each of three members, and the crate for it has had
//! no release for years.

use anyhow::Result;
use std::fmt::Write as _;

use super::target::Target;
use super::tree::{Node, Tree};
use super::{Release, archive};

const DESCRIPTION: &str = "network fabric for containers
 Every node of a cluster gets a subnet of one network, and every container
 reaches every other container, on whatever node it runs. flanneld takes the
 subnet from etcd or a directory and keeps routes, tunnels and firewall of the
 node right; flannel is the CNI plugin that connects containers; flannelctl
 shows and changes what flannel knows.
";

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

/// The files that dpkg reads. It makes the list of checksums itself.
pub(crate) fn control(release: &Release, target: &Target, tree: &Tree) -> Result<Tree> {
    let mut conffiles = String::new();
    for (path, entry) in tree.entries() {
        if path.starts_with("etc/") && matches!(entry.node, Node::File(_)) {
            // Writing to a String cannot fail.
            let _ = writeln!(conffiles, "/{path}");
        }
    }
    let version = release.full_version();
    let (architecture, size) = (target.debian, tree.size().div_ceil(1024));
    // The reference plugins of Debian 11 came with a flannel of their own. Nothing is depended on: the
    // programs are static, and init-system-helpers is essential.
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
Description: {DESCRIPTION}"
    );
    let mut control = Tree::default();
    control.file("control", text)?;
    control.file("conffiles", conffiles)?;
    control.program("postinst", include_bytes!("../../assets/package/deb/postinst"))?;
    control.program("prerm", include_bytes!("../../assets/package/deb/prerm"))?;
    control.program("postrm", include_bytes!("../../assets/package/deb/postrm"))?;
    Ok(control)
}
