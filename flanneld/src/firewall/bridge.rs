//! Reads whether the kernel shows bridged traffic to iptables; core judges it.

use flannel_core::family::Family;
use flannel_core::ruleset::Mode;
use flannel_core::ruleset::bridge::{self, BridgeFinding, BridgeNetfilter};
use std::io::ErrorKind;

use crate::host::sysctl::Sysctl;

/// What is to be said about the enabled `families`. With a fatal finding the daemon must not start.
#[must_use]
pub fn findings(sysctl: &Sysctl, mode: Mode, families: &[Family]) -> Vec<BridgeFinding> {
    let judge = |family: &Family| bridge::judge(mode, *family, read(sysctl, *family));
    families.iter().filter_map(judge).collect()
}

fn read(sysctl: &Sysctl, family: Family) -> BridgeNetfilter {
    match sysctl.read_path(bridge::sysctl(family)) {
        Ok(value) if value == "0" => BridgeNetfilter::Off,
        Err(error) if error.kind() == ErrorKind::NotFound => BridgeNetfilter::Absent,
        // It exists: that is all that must hold.
        Ok(_) | Err(_) => BridgeNetfilter::On,
    }
}
