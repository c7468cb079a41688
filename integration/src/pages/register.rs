//! Every code block of the documentation, and its test.

use Coverage::{Test, Untested};

/// How a block is tested.
#[derive(Clone, Copy, Debug)]
pub(super) enum Coverage {
    /// By the end-to-end test of this name.
    Test(&'static str),
    /// Not at all, for this reason.
    Untested(&'static str),
}

/// A document, and its blocks in order, each by its first characters.
pub(super) struct Page {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
    pub(super) blocks: &'static [(&'static str, Coverage)],
}

macro_rules! page {
    ($name:literal, $blocks:expr) => {
        Page { name: $name, text: include_str!(concat!("../../../", $name)), blocks: &$blocks }
    };
}

const BENCH: Coverage = Untested("takes minutes, and its results are meaningless under other load");
const GUIDE: Coverage = Test("kubernetes::daemon_set::life_by_the_guide");
const EXAMPLES: Coverage = Test("reference::examples_of_flannelctl_are_up_to_date");

/// All documents.
pub(super) const PAGES: &[Page] = &[
    page!(
        "README.md",
        [
            ("cargo xtask demo", Untested("runs the tests; the tests `demo::` cover `demo`")),
            (
                "cargo build",
                Untested("compiles for minutes; tests run an unoptimised build of the same sources")
            ),
            ("install -D -m 755 -t /usr/local/bin", Test("pages::first::cluster_of_the_readme")),
            ("echo '{", Test("pages::first::cluster_of_the_readme")),
            ("curl ", Test("pages::first::cluster_of_the_readme")),
            ("etcdctl ", Test("pages::first::cluster_of_the_readme")),
            ("flannelctl --lease-dir", Test("pages::first::cluster_of_the_readme")),
            ("kubectl apply", GUIDE),
            ("install -D -m 755 target/release/flannel ", Test("readme::install_plugins")),
            ("{\"name\":", Test("readme::install_plugins")),
            ("version = 2\n", Test("readme::containerd_config")),
            (
                "version = 3\n",
                Untested("for containerd 2; the tests `containerd::` use it where that is installed")
            ),
        ]
    ),
    page!("docs/architecture.md", [(" etcd, directory or Kubernetes", Untested("a diagram"))]),
    page!(
        "docs/backends.md",
        [
            ("{\"Network\"", Test("reference::vxlan_state_matches_the_document")),
            ("$ ip route show dev flannel.1", Test("reference::vxlan_state_matches_the_document")),
            ("{\"Network\"", Test("reference::host_gw_state_matches_the_document")),
            ("$ ip route show root", Test("reference::host_gw_state_matches_the_document")),
            ("{\"Network\"", Untested("needs the kernel module ipip; `backend::ipip` tests the plan")),
            ("$ ip route show root", Untested("needs the kernel module ipip")),
        ]
    ),
    page!(
        "docs/configuration.md",
        [
            ("{\n", Test("reference::configuration")),
            ("flannelctl config validate", Test("reference::configuration")),
            ("DIR/config", Test("reference::configuration")),
            ("{\"name\":", Test("reference::configuration")),
        ]
    ),
    page!(
        "docs/connectivity.md",
        [
            ("flannelctl connectivity test", Test("reference::connectivity")),
            ("flannelctl connectivity test -o json", Test("reference::connectivity")),
        ]
    ),
    page!(
        "docs/contributing.md",
        [("cargo build", Untested("compiles for minutes; part of `cargo xtask test`"))]
    ),
    page!("docs/doctor.md", [("flannelctl doctor", Test("pages::node::doctor_and_metrics"))]),
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
            ("kubectl --namespace", GUIDE),
            ("flannelctl --kubeconfig", Test("kubernetes::ctl::commands_on_a_cluster")),
            ("$ flannelctl version", EXAMPLES),
        ]
    ),
    page!(
        "docs/install.md",
        [
            ("cargo xtask dist", Untested("compiles for minutes; the tests `packages::` check its results")),
            (
                "rustup target add",
                Untested("tests for other architectures install it themselves: `xtask/src/packages.rs`")
            ),
            ("dpkg --install", Test("packages::guide::packages_work_as_documented")),
            ("dnf install", Test("packages::rpm::dnf_installs_upgrades_and_removes")),
            ("echo net.ipv4", Test("packages::guide::packages_work_as_documented")),
            ("flannelctl ", Test("packages::guide::packages_work_as_documented")),
            ("echo FLANNELD_", Test("packages::guide::packages_work_as_documented")),
            ("install -D", Test("packages::guide::packages_work_as_documented")),
            ("version = 2", Test("packages::guide::packages_work_as_documented")),
            ("install -D", Test("packages::guide::docker_uses_the_subnet_as_documented")),
            ("systemctl disable", Test("packages::guide::packages_work_as_documented")),
            ("mkdir -p /etc/systemd", Test("packages::guide::packages_work_as_documented")),
            ("tar --extract", Test("packages::guide::static_programs_work_as_documented")),
            ("ctr images import", Test("packages::image::image_runs_with_containerd")),
            ("mkdir -p /run/flannel", Test("packages::image::image_runs_with_containerd")),
            ("ctr tasks delete", Test("packages::image::image_runs_with_containerd")),
            ("ctr images remove", Test("packages::image::image_runs_with_containerd")),
        ]
    ),
    page!(
        "docs/kubernetes.md",
        [
            ("sed -i", GUIDE),
            ("kubectl apply", GUIDE),
            ("podCidr: ", GUIDE),
            ("kubectl create namespace", GUIDE),
            ("kubectl --namespace kube-flannel rollout restart", GUIDE),
            ("kubectl --namespace kube-flannel set image", Test("kubernetes::upgrade::from_go_and_back")),
            ("kubectl --namespace kube-flannel rollout undo", Test("kubernetes::upgrade::from_go_and_back")),
            ("kubeadm init", Untested("needs kubeadm; the controller manager of the tests has this setting")),
            ("k3s server", Untested("needs k3s; its directories are in its source")),
            ("\"Network\"", GUIDE),
            ("\"Backend\"", Test("kubernetes::windows::nodes_are_used_or_named")),
            ("kubectl --namespace kube-flannel delete daemonset", GUIDE),
            ("for node in", GUIDE),
            ("kubectl delete", GUIDE),
            ("helm uninstall", GUIDE),
        ]
    ),
    page!(
        "docs/metrics.md",
        [
            ("curl -s http", Test("pages::node::doctor_and_metrics")),
            ("rule_files", Test("pages::node::doctor_and_metrics")),
        ]
    ),
    page!(
        "docs/migration.md",
        [
            ("dpkg --install", Test("pages::migration::from_go_and_back")),
            ("echo FLANNELD_", Test("pages::migration::from_go_and_back")),
            ("systemctl stop", Test("pages::migration::from_go_and_back")),
            ("flannelctl status", Test("pages::migration::from_go_and_back")),
            ("systemctl disable", Test("pages::migration::from_go_and_back")),
            (
                "echo FLANNELD_NEXTHOP",
                Untested("for thousands of nodes; `nexthop::` restarts the daemon with this setting")
            ),
        ]
    ),
    page!(
        "docs/operations.md",
        [
            ("curl http", Test("pages::node::operations")),
            ("set -a", Test("pages::node::operations")),
            ("flannelctl status ", Test("pages::node::operations")),
            ("curl -s --unix-socket", Test("pages::node::operations")),
            ("flannelctl config", Test("pages::node::operations")),
            ("systemctl restart", Test("pages::node::operations")),
            ("systemctl disable", Test("pages::node::operations")),
            ("flannelctl lease release", Test("pages::node::operations")),
            ("sysctl -w net/ipv6", Test("advertisement::doctor_finds_routes_that_are_not_renewed")),
        ]
    ),
    page!(
        "docs/performance.md",
        [
            ("cargo xtask bench control", BENCH),
            ("cargo xtask bench control", BENCH),
            ("$ ip route show", Untested("an example of thousands of nodes; `nexthop::` checks the form")),
            ("cargo xtask bench cni", BENCH),
        ]
    ),
];
