//! Settings, counters and directories of the host.

use flannel_core::advertisement::{self, Advertised, UNLESS_FORWARDING};
use flannel_core::error::chain;
use flannel_core::link::{IfIndex, LinkName};
use flanneld::cli::Options;
use flanneld::exec::{ExecError, Program};
use flanneld::host::sysctl::Sysctl;
use flanneld::kernel::{NetlinkKernel, Observation};
use rustix::fs::{Access, access};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::doctor::facts::AdvertisedFacts;
use crate::node::view::View;

/// The interfaces whose settings matter: tunnel devices and the external interface, if they exist.
pub(super) fn links(observation: &Observation, view: Option<&View>) -> BTreeSet<LinkName> {
    let Some(view) = view else { return BTreeSet::new() };
    let mut links = view.node.tunnels();
    links.insert(view.node.external().name.clone());
    links.retain(|name| observation.dataplane.links.contains_key(name));
    links
}

/// Settings by path below `/proc/sys`, if they exist.
pub(super) fn sysctls(links: &BTreeSet<LinkName>) -> BTreeMap<String, String> {
    let mut paths = vec!["net/ipv4/ip_forward".to_owned(), "net/ipv6/conf/all/forwarding".to_owned()];
    for conf in links.iter().map(LinkName::as_str).chain(["all"]) {
        paths.push(format!("net/ipv4/conf/{conf}/rp_filter"));
        paths.push(format!("net/ipv6/conf/{conf}/disable_ipv6"));
    }
    let sysctl = Sysctl::default();
    paths.into_iter().filter_map(|path| Some((path.clone(), sysctl.read_path(&path).ok()?))).collect()
}

/// Interfaces with routes from router advertisements.
pub(super) async fn advertised(
    kernel: &mut NetlinkKernel,
    observation: &Observation,
) -> Result<Vec<AdvertisedFacts>, String> {
    let mut by_link: BTreeMap<IfIndex, Vec<Advertised>> = BTreeMap::new();
    for route in kernel.advertised().await.map_err(|error| chain(&error))? {
        by_link.entry(route.index).or_default().push(route);
    }
    let sysctl = Sysctl::default();
    let facts = |(index, routes)| {
        let link = observation.facts.links.iter().find(|link| link.index == index)?.name.clone();
        let setting = |name| sysctl.read_path(&format!("net/ipv6/conf/{link}/{name}")).ok();
        let is_affected = setting(advertisement::ACCEPT)? == UNLESS_FORWARDING;
        let forwards = setting("forwarding")? != "0";
        Some(AdvertisedFacts { link, is_affected, forwards, routes })
    };
    Ok(by_link.into_iter().filter_map(facts).collect())
}

/// Features of `ethtool -k` that affect the throughput of tunnels.
const OFFLOADS: [&str; 2] = ["tx-checksum-ip-generic", "rx-checksumming"];

pub(super) async fn offload(view: Option<&View>) -> Result<Vec<(String, String)>, String> {
    let Some(view) = view else { return Ok(Vec::new()) };
    let mut off = Vec::new();
    for device in view.node.tunnels() {
        let program = Program::new("ethtool", Duration::from_secs(5));
        let answer = match program.argument("-k").argument(device.as_str()).run().await {
            Ok(answer) => answer,
            Err(ExecError::NotFound { .. }) => return Err("ethtool is not installed".to_owned()),
            // Other checks report a missing device.
            Err(_) => continue,
        };
        for name in OFFLOADS {
            let line =
                answer.lines().map(str::trim).find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            // "off [fixed]" means that the device does not support it.
            if line == Some("off") {
                off.push((device.to_string(), name.to_owned()));
            }
        }
    }
    Ok(off)
}

/// Number of received UDP packets with invalid and with valid checksums.
pub(super) fn checksum_errors() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/net/snmp").ok()?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let value = |field: &str| {
        let at = names.split(' ').position(|name| name == field)?;
        values.split(' ').nth(at)?.parse().ok()
    };
    Some((value("InCsumErrors")?, value("InDatagrams")?))
}

/// Directories of the daemon that are not writable, with the reason.
pub(super) fn unwritable(options: &Options) -> Vec<(PathBuf, String)> {
    let directories = [Some(options.state_dir.as_path()), options.subnet_file.parent()];
    let mut found = Vec::new();
    for directory in directories.into_iter().flatten() {
        // Missing directories are created, so the closest existing one matters.
        let Some(existing) = directory.ancestors().find(|path| path.exists()) else { continue };
        let reason = if existing.is_dir() {
            access(existing, Access::WRITE_OK).err().map(|errno| std::io::Error::from(errno).to_string())
        } else {
            Some(format!("{} is not a directory", existing.display()))
        };
        found.extend(reason.map(|reason| (Path::to_path_buf(directory), reason)));
    }
    found
}
