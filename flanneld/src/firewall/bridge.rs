//! Reads whether bridged traffic passes iptables; flannel-core evaluates it.

use flannel_core::family::Family;
use flannel_core::ruleset::Mode;
use flannel_core::ruleset::bridge::{self, BridgeFinding, BridgeNetfilter};
use std::io::ErrorKind;

use crate::host::sysctl::Sysctl;

/// Returns findings about the enabled `families`. After a fatal finding the daemon must not start.
#[must_use]
pub fn findings(sysctl: &Sysctl, mode: Mode, families: &[Family]) -> Vec<BridgeFinding> {
    let judge = |family: &Family| bridge::judge(mode, *family, read(sysctl, *family));
    families.iter().filter_map(judge).collect()
}

fn read(sysctl: &Sysctl, family: Family) -> BridgeNetfilter {
    match sysctl.read_path(bridge::sysctl(family)) {
        Ok(value) if value == "0" => BridgeNetfilter::Off,
        Err(error) if error.kind() == ErrorKind::NotFound => BridgeNetfilter::Absent,
        // Its existence is sufficient.
        Ok(_) | Err(_) => BridgeNetfilter::On,
    }
}
