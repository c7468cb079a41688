//! Tables of CNI configurations, run with our plugin and compared with Go's: Debian's, or those that
//! `cargo xtask e2e --peer DIRECTORY` names.

use anyhow::{Context, Result};
use integration::{conformance, lab};
use std::fs;
use std::path::Path;

/// Reads a file of the tables, which are not compiled in.
fn read(name: &str) -> Result<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance").join(name);
    fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))
}

/// The tables in `conformance/`.
const TABLES: [&str; 10] = [
    "process.txt",
    "bridge.txt",
    "masquerade.txt",
    "host-local.txt",
    "portmap-iptables.txt",
    "portmap-nftables.txt",
    "bandwidth.txt",
    "loopback.txt",
    "flannel.txt",
    "chain.txt",
];

/// Every difference is documented with its reason, and every documented one occurs.
#[test]
fn deviations_are_documented() {
    lab(|_| {
        let documented =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/migration.md"))?;
        let tables = TABLES.map(read).into_iter().collect::<Result<Vec<_>>>()?;
        conformance::expect_documented(&read("deviations.txt")?, &tables, &documented)
    });
}

fn table(name: &str) {
    lab(|lab| conformance::run(lab, &read(name)?, &read("deviations.txt")?));
}

#[test]
fn process() {
    table("process.txt");
}

#[test]
fn bridge() {
    table("bridge.txt");
}

#[test]
fn masquerade() {
    table("masquerade.txt");
}

#[test]
fn host_local() {
    table("host-local.txt");
}

#[test]
fn portmap_with_iptables() {
    table("portmap-iptables.txt");
}

#[test]
fn portmap_with_nftables() {
    table("portmap-nftables.txt");
}

#[test]
fn bandwidth() {
    table("bandwidth.txt");
}

#[test]
fn loopback() {
    table("loopback.txt");
}

#[test]
fn flannel() {
    table("flannel.txt");
}

#[test]
fn chain() {
    table("chain.txt");
}
