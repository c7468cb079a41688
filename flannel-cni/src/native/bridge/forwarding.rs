//! Forwarding of packets by the host, without losing what the host itself has from router advertisements.

use flannel_core::advertisement::{self, ACCEPT, ALWAYS, CHANGED, UNLESS_FORWARDING};
use flannel_core::family::Family;
use flannel_core::link::{IfIndex, LinkName};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::error::{CniError, PathError, note};
use crate::files;
use crate::kernel::Kernel;
use crate::netns::HostLock;
use crate::sysctl;

const FORWARDING: &str = "ipv6/conf/all/forwarding";

/// Lets the host forward packets of a family. Where it does so already, this only reads one setting.
pub(super) fn enable(host: &mut Kernel, family: Family) -> Result<(), CniError> {
    let net = sysctl::net();
    if family == Family::V4 {
        return Ok(net.set("ipv4/ip_forward", "1")?);
    }
    let is_enabled = || net.get(FORWARDING).is_some_and(|value| value != "0");
    if is_enabled() {
        return Ok(());
    }
    // Another ADD may do the same.
    let _lock = HostLock::take()?;
    if is_enabled() {
        return Ok(());
    }
    keep_advertised(host).map_err(|error| {
        let msg = "IPv6 forwarding stays disabled, because this host would lose its routes from router advertisements";
        CniError { msg: format!("{msg}: {}", error.msg), ..error }.with_details(
            "set accept_ra of their interfaces to 2, or enable net.ipv6.conf.all.forwarding, on the host",
        )
    })?;
    net.set(FORWARDING, "1")?;
    // An advertisement may have arrived in between. Its default route returns with the next one.
    if let Err(error) = keep_advertised(host) {
        note!("routes from router advertisements may expire on this host: {}", error.msg);
    }
    Ok(())
}

/// Lets interfaces with routes from router advertisements accept these while the host forwards, too.
fn keep_advertised(host: &mut Kernel) -> Result<(), CniError> {
    let routes = advertisement::routes(&host.routes_of_all_tables(Family::V6)?);
    let indices: BTreeSet<IfIndex> = routes.iter().map(|route| route.index).collect();
    let net = sysctl::net();
    let mut links = BTreeSet::new();
    for index in indices {
        let is_affected =
            |link: &LinkName| net.get(&setting(link)).is_some_and(|value| value == UNLESS_FORWARDING);
        links.extend(host.link_name(index)?.filter(is_affected));
    }
    if links.is_empty() {
        return Ok(());
    }
    // First, so that no change is without its record.
    if let Err(error) = record(&links) {
        note!("{error}: `flannelctl node cleanup` will not undo what follows");
    }
    for link in links {
        match net.set(&setting(&link), ALWAYS) {
            Err(error) if error.means_absent() => continue,
            other => other?,
        }
        note!(
            "{ACCEPT} of {link} changed from {UNLESS_FORWARDING} to {ALWAYS}: {link} has routes from router \
             advertisements, which it would lose with IPv6 forwarding"
        );
    }
    Ok(())
}

fn setting(link: &LinkName) -> String {
    format!("ipv6/conf/{link}/{ACCEPT}")
}

/// Adds interfaces to those whose setting was changed. The caller holds the lock of the host.
fn record(links: &BTreeSet<LinkName>) -> Result<(), PathError> {
    let path = Path::new(CHANGED);
    let known = files::read(path)?.unwrap_or_default();
    let mut all = advertisement::from_text(&String::from_utf8_lossy(&known));
    all.extend(links.iter().cloned());
    let temporary = path.with_extension("tmp");
    let write = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(&temporary, advertisement::to_text(&all))
    };
    files::create(&temporary, write, || fs::rename(&temporary, path))
        .map_err(|error| PathError::new("open", path, error))
}
