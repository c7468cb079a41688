//! Which file goes where.

use anyhow::Result;

use super::compile::Programs;
use super::pages::Pages;
use super::tree::Tree;

/// What every package is made of.
pub(crate) struct Contents<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) pages: &'a Pages,
    /// Licences of the crates that the programs contain.
    pub(crate) notices: &'a str,
}

/// Where distributions differ.
#[derive(Clone, Copy)]
pub(crate) struct Distribution {
    /// Directory of CNI plugins.
    plugins: &'static str,
    /// Directory of completions for zsh.
    zsh: &'static str,
}

pub(crate) const DEBIAN: Distribution =
    Distribution { plugins: "usr/lib/cni", zsh: "usr/share/zsh/vendor-completions" };
pub(crate) const FEDORA: Distribution =
    Distribution { plugins: "usr/libexec/cni", zsh: "usr/share/zsh/site-functions" };

/// Names under which the plugin does the work of a reference plugin.
pub(crate) const PLUGINS: [&str; 5] = ["bandwidth", "bridge", "host-local", "loopback", "portmap"];

const UNIT: &str = include_str!("../../assets/package/flanneld.service");
const DEFAULTS: &str = include_str!("../../assets/package/flanneld.default");
const CONFLIST: &str = include_str!("../../assets/10-flannel.conflist");
const NETWORK: &str = include_str!("../../assets/package/network.json");
const COPYRIGHT: &str = include_str!("../../assets/package/copyright");
const LICENSE: &str = include_str!("../../../LICENSE");

/// The files of a package.
///
/// The plugin is where the runtimes of the distribution look, and by a link where upstream's look. Under the names of
/// the reference plugins it is in a directory of its own, since the others belong to the packages of those plugins.
pub(crate) fn package(contents: &Contents<'_>, distribution: Distribution) -> Result<Tree> {
    let Distribution { plugins, zsh } = distribution;
    let mut tree = Tree::default();
    tree.program("usr/sbin/flanneld", &contents.programs.flanneld)?;
    tree.program("usr/bin/flannelctl", &contents.programs.flannelctl)?;
    tree.program(&format!("{plugins}/flannel"), &contents.programs.flannel)?;
    tree.link("opt/cni/bin/flannel", &format!("/{plugins}/flannel"))?;
    for name in ["flannel"].iter().chain(&PLUGINS) {
        tree.link(&format!("usr/lib/flannel/cni/{name}"), &format!("/{plugins}/flannel"))?;
    }
    // What is below /etc is the administrator's: no upgrade replaces it.
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

/// The files for those who install by hand.
pub(crate) fn tarball(contents: &Contents<'_>) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.program("flanneld", &contents.programs.flanneld)?;
    tree.program("flannelctl", &contents.programs.flannelctl)?;
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

/// The files of the image: nothing but programs, where the manifests of Go flannel look for them.
pub(crate) fn image(programs: &Programs) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.program("opt/bin/flanneld", &programs.flanneld)?;
    tree.program("opt/bin/flannelctl", &programs.flannelctl)?;
    tree.program("opt/cni/bin/flannel", &programs.flannel)?;
    Ok(tree)
}

fn documents(tree: &mut Tree, contents: &Contents<'_>, directory: &str) -> Result<()> {
    tree.file(&format!("{directory}/copyright"), format!("{COPYRIGHT}\n{}", contents.notices))?;
    tree.file(&format!("{directory}/examples/10-flannel.conflist"), CONFLIST)?;
    tree.file(&format!("{directory}/examples/network.json"), NETWORK)
}
