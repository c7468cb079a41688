//! The paths of the files in the packages.

use anyhow::Result;

use super::compile::Programs;
use super::pages::Pages;
use super::tree::Tree;

/// The contents of every package.
pub(crate) struct Contents<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) pages: &'a Pages,
    /// Licence notices of the crates in the programs.
    pub(crate) notices: &'a str,
}

/// Directories that differ between distributions.
#[derive(Clone, Copy)]
pub(crate) struct Distribution {
    /// Directory for CNI plugins.
    plugins: &'static str,
    /// Directory for zsh completions.
    zsh: &'static str,
}

pub(crate) const DEBIAN: Distribution =
    Distribution { plugins: "usr/lib/cni", zsh: "usr/share/zsh/vendor-completions" };
pub(crate) const FEDORA: Distribution =
    Distribution { plugins: "usr/libexec/cni", zsh: "usr/share/zsh/site-functions" };

/// The names of the reference plugins that the plugin replaces.
pub(crate) const PLUGINS: [&str; 5] = ["bandwidth", "bridge", "host-local", "loopback", "portmap"];

/// Another name of `flannelctl`: a script in Go flannel, which Fedora has in `/usr/libexec/flannel`.
const DOCKER_OPTIONS: &str = "mk-docker-opts.sh";

/// Other names of `flannelctl` in the image: the daemon, which shares most of its code, and for the init containers of manifests.
const OTHER_NAMES: [&str; 3] = ["flanneld", "cp", "install-conf"];

const UNIT: &str = include_str!("../../assets/package/flanneld.service");
const DEFAULTS: &str = include_str!("../../assets/package/flanneld.default");
const CONFLIST: &str = include_str!("../../assets/10-flannel.conflist");
const NETWORK: &str = include_str!("../../assets/package/network.json");
const DOCKER: &str = include_str!("../../assets/package/docker-flannel.conf");
const COPYRIGHT: &str = include_str!("../../assets/package/copyright");
const LICENSE: &str = include_str!("../../../LICENSE");

/// Returns the files of a package.
///
/// The plugin is in the distribution's directory, with a link from upstream's directory. The names of the reference plugins are in a
/// separate directory, because other packages own them in the usual one.
pub(crate) fn package(contents: &Contents<'_>, distribution: Distribution) -> Result<Tree> {
    let Distribution { plugins, zsh } = distribution;
    let mut tree = Tree::default();
    tree.program("usr/sbin/flanneld", &contents.programs.flanneld)?;
    tree.program("usr/bin/flannelctl", &contents.programs.flannelctl)?;
    for directory in ["usr/bin", "usr/libexec/flannel"] {
        tree.link(&format!("{directory}/{DOCKER_OPTIONS}"), "/usr/bin/flannelctl")?;
    }
    tree.program(&format!("{plugins}/flannel"), &contents.programs.flannel)?;
    tree.link("opt/cni/bin/flannel", &format!("/{plugins}/flannel"))?;
    for name in ["flannel"].iter().chain(&PLUGINS) {
        tree.link(&format!("usr/lib/flannel/cni/{name}"), &format!("/{plugins}/flannel"))?;
    }
    // A conffile: upgrades do not overwrite it.
    tree.secret("etc/default/flanneld", DEFAULTS)?;
    tree.file("usr/lib/systemd/system/flanneld.service", UNIT)?;
    documents(&mut tree, contents, "usr/share/doc/flannel")?;
    for (name, text) in &contents.pages.manual {
        let section = name.rsplit('.').next().unwrap_or_default();
        tree.file(&format!("usr/share/man/man{section}/{name}"), text.as_slice())?;
    }
    for (shell, path) in [
        ("bash", "usr/share/bash-completion/completions/flannelctl"),
        ("fish", "usr/share/fish/vendor_completions.d/flannelctl.fish"),
        ("zsh", &format!("{zsh}/_flannelctl")),
    ] {
        if let Some(script) = contents.pages.completions.get(shell) {
            tree.file(path, script.as_slice())?;
        }
    }
    Ok(tree)
}

/// Returns the files of the tar archive for manual installation.
pub(crate) fn tarball(contents: &Contents<'_>) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.program("flanneld", &contents.programs.flanneld)?;
    tree.program("flannelctl", &contents.programs.flannelctl)?;
    tree.link(DOCKER_OPTIONS, "flannelctl")?;
    tree.program("flannel", &contents.programs.flannel)?;
    tree.file("flanneld.service", UNIT)?;
    tree.file("flanneld.default", DEFAULTS)?;
    tree.file("LICENSE", LICENSE)?;
    documents(&mut tree, contents, "doc")?;
    for (name, text) in &contents.pages.manual {
        tree.file(&format!("man/{name}"), text.as_slice())?;
    }
    for (shell, script) in &contents.pages.completions {
        tree.file(&format!("completions/flannelctl.{shell}"), script.as_slice())?;
    }
    Ok(tree)
}

/// Returns the files of the image: only programs, at the paths that Go flannel's manifests use.
pub(crate) fn image(programs: &Programs) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.program("opt/bin/flannelctl", &programs.flannelctl)?;
    tree.link(&format!("opt/bin/{DOCKER_OPTIONS}"), "flannelctl")?;
    for name in OTHER_NAMES {
        tree.link(&format!("opt/bin/{name}"), "flannelctl")?;
    }
    // Where the image of Go flannel's plugin has it: a manifest mounts a directory of the node at `opt/cni/bin`.
    tree.program("flannel", &programs.flannel)?;
    tree.link("opt/cni/bin/flannel", "../../../flannel")?;
    Ok(tree)
}

fn documents(tree: &mut Tree, contents: &Contents<'_>, directory: &str) -> Result<()> {
    tree.file(&format!("{directory}/copyright"), format!("{COPYRIGHT}\n{}", contents.notices))?;
    tree.file(&format!("{directory}/examples/10-flannel.conflist"), CONFLIST)?;
    tree.file(&format!("{directory}/examples/docker-flannel.conf"), DOCKER)?;
    tree.file(&format!("{directory}/examples/network.json"), NETWORK)
}
