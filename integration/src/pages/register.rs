//! Every block of every page, and who follows it.

use Fate::{By, Not};

/// Who follows a block.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// The end-to-end test of this name.
    By(&'static str),
    /// Nobody, for this reason.
    Not(&'static str),
}

/// A page, and its blocks in order, each by how it begins.
pub(super) struct Page {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
    pub(super) blocks: &'static [(&'static str, Fate)],
}

macro_rules! page {
    ($name:literal, $blocks:expr) => {
        Page { name: $name, text: include_str!(concat!("../../../", $name)), blocks: &$blocks }
    };
}

const BENCH: Fate = Not("measures for minutes, and means nothing on a machine that does other work as well");
const EXAMPLES: Fate = By("reference::examples_of_flannelctl_are_right");

/// All of them.
pub(super) const PAGES: &[Page] = &[
    page!(
        "README.md",
        [
            (
                "cargo xtask demo",
                Not("`test` is what runs this; what `demo` runs is run by the tests `demo::`")
            ),
            (
                "cargo build",
                Not("compiles for minutes; what tests run is made from the same sources, not optimised")
            ),
            ("install -D -m 755 -t /usr/local/bin", By("pages::first::cluster_of_the_readme")),
            ("echo '{", By("pages::first::cluster_of_the_readme")),
            ("curl ", By("pages::first::cluster_of_the_readme")),
            ("etcdctl ", By("pages::first::cluster_of_the_readme")),
            ("flannelctl --lease-dir", By("pages::first::cluster_of_the_readme")),
            ("install -D -m 755 target/release/flannel ", By("readme::install_plugins")),
            ("{\"name\":", By("readme::install_plugins")),
            ("version = 2\n", By("readme::containerd_config")),
            (
                "version = 3\n",
                Not("for containerd 2; where that is installed, the tests `containerd::` use it")
            ),
        ]
    ),
    page!("docs/architecture.md", [(" etcd or directory", Not("a drawing"))]),
    page!(
        "docs/backends.md",
        [
            ("{\"Network\"", By("reference::vxlan_is_seen_as_the_page_shows_it")),
            ("$ ip route show dev flannel.1", By("reference::vxlan_is_seen_as_the_page_shows_it")),
            ("{\"Network\"", By("reference::host_gw_is_seen_as_the_page_shows_it")),
            ("$ ip route show root", By("reference::host_gw_is_seen_as_the_page_shows_it")),
        ]
    ),
    page!(
        "docs/configuration.md",
        [
            ("{\n", By("reference::configuration")),
            ("flannelctl config validate", By("reference::configuration")),
            ("DIR/config", By("reference::configuration")),
            ("{\"name\":", By("reference::configuration")),
        ]
    ),
    page!(
        "docs/connectivity.md",
        [
            ("flannelctl connectivity test", By("reference::connectivity")),
            ("flannelctl connectivity test -o json", By("reference::connectivity")),
        ]
    ),
    page!(
        "docs/contributing.md",
        [("cargo build", Not("compiles for minutes; `cargo xtask test` runs both as part of its work"))]
    ),
    page!("docs/doctor.md", [("flannelctl doctor", By("pages::node::doctor_and_metrics"))]),
    page!(
        "docs/flannelctl.md",
        [
            ("$ flannelctl config validate", EXAMPLES),
            ("$ flannelctl lease reserve", EXAMPLES),
            ("$ flannelctl lease list --address", EXAMPLES),
            ("$ flannelctl lease get", EXAMPLES),
            ("$ flannelctl lease unreserve", EXAMPLES),
            ("$ flannelctl lease move", EXAMPLES),
            ("$ flannelctl lease release", EXAMPLES),
            ("$ flannelctl subnet plan", EXAMPLES),
            ("$ flannelctl ipam list", EXAMPLES),
            ("flannelctl node cleanup", EXAMPLES),
            ("flannelctl support bundle", EXAMPLES),
            ("$ flannelctl version", EXAMPLES),
        ]
    ),
    page!(
        "docs/install.md",
        [
            ("cargo xtask dist", Not("compiles for minutes; the tests `packages::` are about what it makes")),
            (
                "rustup target add",
                Not("tests for other processors install that by themselves: `xtask/src/packages.rs`")
            ),
            ("dpkg --install", By("packages::guide::packages_work_as_the_guide_tells")),
            ("dnf install", By("packages::rpm::dnf_installs_upgrades_and_removes")),
            ("echo net.ipv4", By("packages::guide::packages_work_as_the_guide_tells")),
            ("flannelctl ", By("packages::guide::packages_work_as_the_guide_tells")),
            ("echo FLANNELD_", By("packages::guide::packages_work_as_the_guide_tells")),
            ("install -D", By("packages::guide::packages_work_as_the_guide_tells")),
            ("version = 2", By("packages::guide::packages_work_as_the_guide_tells")),
            ("systemctl disable", By("packages::guide::packages_work_as_the_guide_tells")),
            ("mkdir -p /etc/systemd", By("packages::guide::packages_work_as_the_guide_tells")),
            ("tar --extract", By("packages::guide::static_programs_work_as_the_guide_tells")),
            ("ctr images import", By("packages::image::image_serves_a_node_by_containerd")),
            ("mkdir -p /run/flannel", By("packages::image::image_serves_a_node_by_containerd")),
            ("ctr tasks delete", By("packages::image::image_serves_a_node_by_containerd")),
            ("ctr images remove", By("packages::image::image_serves_a_node_by_containerd")),
        ]
    ),
    page!(
        "docs/metrics.md",
        [
            ("curl -s http", By("pages::node::doctor_and_metrics")),
            ("rule_files", By("pages::node::doctor_and_metrics")),
        ]
    ),
    page!(
        "docs/migration.md",
        [
            ("dpkg --install", By("pages::migration::from_go_and_back")),
            ("echo FLANNELD_", By("pages::migration::from_go_and_back")),
            ("systemctl stop", By("pages::migration::from_go_and_back")),
            ("flannelctl status", By("pages::migration::from_go_and_back")),
            ("systemctl disable", By("pages::migration::from_go_and_back")),
        ]
    ),
    page!(
        "docs/operations.md",
        [
            ("curl http", By("pages::node::operations")),
            ("set -a", By("pages::node::operations")),
            ("flannelctl status ", By("pages::node::operations")),
            ("curl -s --unix-socket", By("pages::node::operations")),
            ("flannelctl config", By("pages::node::operations")),
            ("systemctl restart", By("pages::node::operations")),
            ("systemctl disable", By("pages::node::operations")),
            ("flannelctl lease release", By("pages::node::operations")),
        ]
    ),
    page!("docs/performance.md", [("cargo xtask bench control", BENCH), ("cargo xtask bench cni", BENCH)]),
];
