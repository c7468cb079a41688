//! Debian packages that the tests need, and their installation.

use anyhow::{Context, Result};
use std::process::{Command, Stdio};

use crate::dist::target::{self, EMULATED, TARGETS};
use crate::process::{find, is_root, succeeds, text};

/// The name of a package, a program or file that proves its presence, and what needs it.
type Package = (&'static str, &'static str, &'static str);

const TESTS: &[Package] = &[
    ("util-linux", "unshare", "every end-to-end and contract test"),
    ("iproute2", "ip", "every end-to-end and contract test"),
    ("iputils-ping", "ping", "every end-to-end test"),
    ("etcd-server", "etcd", "tests on etcd"),
    ("etcd-client", "etcdctl", "tests on etcd"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge", "comparison with Go's plugins"),
    ("containerd", "containerd", "tests with pods of containerd"),
    ("runc", "runc", "tests with pods of containerd"),
    ("crun", "crun", "tests with containers of podman"),
    ("podman", "podman", "tests with containers of podman"),
    ("iptables", "iptables", "tests of the iptables firewall"),
    ("nftables", "nft", "tests of the nftables firewall"),
    ("openssl", "openssl", "tests of etcd with TLS"),
    ("conntrack", "conntrack", "tests of masquerade"),
    ("curl", "curl", "tests of the documentation"),
    ("ethtool", "ethtool", "tests of device features"),
    ("faketime", "faketime", "tests with an incorrect clock"),
    ("tcpdump", "tcpdump", "tests that capture packets"),
    ("systemd", "/lib/systemd/systemd", "tests of packages and units"),
    ("rpm", "rpm", "tests of RPM packages"),
    ("dnf", "dnf", "tests of RPM packages by dnf"),
    ("createrepo-c", "createrepo_c", "tests of RPM packages by dnf"),
    ("gcc-aarch64-linux-gnu", "aarch64-linux-gnu-gcc", "tests for another architecture"),
    ("libc6-dev-arm64-cross", "/usr/aarch64-linux-gnu/lib/libc.a", "tests for another architecture"),
    ("qemu-user-static", "qemu-aarch64-static", "tests for another architecture"),
    ("strace", "strace", "tests that count system calls"),
    ("prometheus", "promtool", "checks of metrics and alert rules"),
    ("kubernetes-client", "kubectl", "tests on Kubernetes"),
    ("kmod", "depmod", "tests on a guest kernel"),
    ("procps", "ps", "reports of failed tests"),
];

/// Packages that only explicit options install, because they are large.
const BROWSER: &[Package] = &[
    ("chromium-headless-shell", "chromium-headless-shell", "tests of pages in a browser"),
    ("fonts-dejavu-core", "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf", "tests of pages in a browser"),
];

/// Packages for the demonstration.
const DEMO: [&str; 5] = ["util-linux", "iproute2", "iputils-ping", "etcd-server", "etcd-client"];

/// Installs missing packages if possible, and prints what remains missing.
pub(crate) fn install_for_tests() -> Result<()> {
    install(&TESTS.iter().collect::<Vec<_>>())?;
    add_targets()
}

/// Installs a browser.
pub(crate) fn install_browser() -> Result<()> {
    install(&BROWSER.iter().collect::<Vec<_>>())
}

/// Adds targets to the Rust toolchain: that of the plugin, and those of the architecture that some tests emulate.
fn add_targets() -> Result<()> {
    let host = target::host()?;
    let targets = TARGETS.iter().filter(|target| target.triple == host || *target == EMULATED);
    let mut missing = Vec::new();
    for triple in targets.flat_map(|target| [target.triple, target.musl]) {
        if !target::has_std(triple)? {
            missing.push(triple);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add"]).args(missing).stdin(Stdio::null());
    println!("adding to the Rust toolchain: `{}`", text(&rustup));
    // May fail: toolchains of distributions lack rustup, and the network may be missing. Tests that need it are skipped.
    let _ = succeeds(&mut rustup);
    Ok(())
}

/// Installs missing packages for the demonstration.
pub(crate) fn install_for_demo(etcd: bool) -> Result<()> {
    let needed = |(name, ..): &&Package| DEMO.contains(name) && (etcd || !name.starts_with("etcd"));
    install(&TESTS.iter().filter(needed).collect::<Vec<_>>())
}

fn install(packages: &[&Package]) -> Result<()> {
    let missing = || packages.iter().filter(|(_, provides, _)| find(provides).is_none());
    let names: Vec<&str> = missing().map(|(name, ..)| *name).collect();
    if names.is_empty() {
        return Ok(());
    }
    if !is_root() {
        println!("missing packages, not installed because that needs root: {}", names.join(" "));
    } else if find("apt-get").is_none() {
        println!("missing packages, not installed because apt-get is missing: {}", names.join(" "));
    } else {
        println!("installing Debian packages: {}", names.join(" "));
        // A new machine may lack package lists; update them only if the first attempt fails.
        if !apt_get(&["install"], &names)? {
            update_lists()?;
            apt_get(&["install"], &names)?;
        }
    }
    for (name, _, needed_by) in missing() {
        println!("{name} is missing: no {needed_by}");
    }
    Ok(())
}

/// Updates the lists of packages.
pub(crate) fn update_lists() -> Result<()> {
    apt_get(&["update"], &[]).map(drop)
}

fn apt_get(task: &[&str], names: &[&str]) -> Result<bool> {
    let status = Command::new("apt-get")
        .args(["-qq", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120"])
        .args(task)
        .args(names)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("could not start apt-get")?;
    Ok(status.success())
}
