//! The Debian packages whose programs the tests start, and their installation.

use anyhow::{Context, Result};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::dist::target::{self, EMULATED, TARGETS};
use crate::process::{find, is_root, succeeds, text};

/// A package, a program or file by which its presence shows, and what cannot run without it.
struct Package {
    name: &'static str,
    shows: &'static str,
    serves: &'static str,
}

const fn package(name: &'static str, shows: &'static str, serves: &'static str) -> Package {
    Package { name, shows, serves }
}

const TESTS: &[Package] = &[
    package("util-linux", "unshare", "every end-to-end and contract test"),
    package("iproute2", "ip", "every end-to-end and contract test"),
    package("iputils-ping", "ping", "every end-to-end test"),
    package("etcd-server", "etcd", "tests on etcd"),
    package("etcd-client", "etcdctl", "tests on etcd"),
    package(
        "containernetworking-plugins",
        "/usr/lib/cni/bridge",
        "comparison with the plugins of the CNI project",
    ),
    package("containerd", "containerd", "tests with pods of containerd"),
    package("runc", "runc", "tests with pods of containerd"),
    package("crun", "crun", "tests with containers of podman"),
    package("podman", "podman", "tests with containers of podman"),
    package("iptables", "iptables", "tests of the iptables firewall"),
    package("nftables", "nft", "tests of the nftables firewall"),
    package("openssl", "openssl", "tests of etcd with TLS"),
    package("conntrack", "conntrack", "tests of masquerade"),
    package("curl", "curl", "tests of the pages for administrators"),
    package("ethtool", "ethtool", "tests of device features"),
    package("faketime", "faketime", "tests with a clock that is wrong"),
    package("tcpdump", "tcpdump", "tests that look at packets on the wire"),
    package("systemd", "/lib/systemd/systemd", "tests of packages and units"),
    package("rpm", "rpm", "tests of RPM packages"),
    package("dnf", "dnf", "tests of RPM packages by dnf"),
    package("createrepo-c", "createrepo_c", "tests of RPM packages by dnf"),
    package("gcc-aarch64-linux-gnu", "aarch64-linux-gnu-gcc", "tests of what is built for another processor"),
    package(
        "libc6-dev-arm64-cross",
        "/usr/aarch64-linux-gnu/lib/libc.a",
        "tests of what is built for another processor",
    ),
    package("qemu-user-static", "qemu-aarch64-static", "tests of what is built for another processor"),
    package("strace", "strace", "tests that count system calls"),
    package("prometheus", "promtool", "checks of metrics and alert rules"),
    package("procps", "ps", "reports of failed tests"),
];

/// What the demonstration needs.
const DEMO: [&str; 5] = ["util-linux", "iproute2", "iputils-ping", "etcd-server", "etcd-client"];

impl Package {
    fn present(&self) -> bool {
        if self.shows.starts_with('/') { Path::new(self.shows).exists() } else { find(self.shows).is_some() }
    }
}

/// Installs what the tests need and is missing, where that is possible; says what it does and, in the
/// end, what stays missing.
pub(crate) fn install_for_tests() -> Result<()> {
    install(&TESTS.iter().collect::<Vec<_>>())?;
    add_targets()
}

/// Adds the standard libraries that are linked into the plugin, and those of the processor that some tests emulate, to the Rust
/// toolchain.
fn add_targets() -> Result<()> {
    let host = target::host()?;
    let mut missing = Vec::new();
    for target in TARGETS.iter().filter(|target| target.triple == host || *target == EMULATED) {
        missing.extend(target.without_std()?);
    }
    if missing.is_empty() {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add"]).args(missing).stdin(Stdio::null());
    println!("adding to the Rust toolchain: `{}`", text(&rustup));
    // Toolchains of distributions come without it, and there may be no network: the tests that need it say so.
    let _ = succeeds(&mut rustup);
    Ok(())
}

/// Installs what the demonstration needs.
pub(crate) fn install_for_demo(etcd: bool) -> Result<()> {
    let needed =
        |package: &&Package| DEMO.contains(&package.name) && (etcd || !package.name.starts_with("etcd"));
    install(&TESTS.iter().filter(needed).collect::<Vec<_>>())
}

fn install(packages: &[&Package]) -> Result<()> {
    let missing = || packages.iter().filter(|package| !package.present()).collect::<Vec<_>>();
    let names: Vec<&str> = missing().iter().map(|package| package.name).collect();
    if names.is_empty() {
        return Ok(());
    }
    if !is_root() {
        println!("missing packages (not root, so they are not installed): {}", names.join(" "));
    } else if find("apt-get").is_none() {
        println!("missing packages (no apt-get here; install them your way): {}", names.join(" "));
    } else {
        println!("installing Debian packages: {}", names.join(" "));
        // Fresh machines have no package lists yet; update them only if the first try fails.
        if !apt_get(&["install"], &names)? {
            apt_get(&["update"], &[])?;
            apt_get(&["install"], &names)?;
        }
    }
    for package in missing() {
        println!("without {}: no {}", package.name, package.serves);
    }
    Ok(())
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
