//! Whether the kernel shows traffic between the ports of a bridge to iptables (module `br_netfilter`).
//!
//! Without it a service address is not translated back for a client on the same bridge as the pod that
//! answers. Kubernetes asks for it; the masquerade rules of flannel do not need it.

use std::fmt;

use super::Mode;
use crate::family::Family;

/// The content of the sysctl of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgeNetfilter {
    /// The file does not exist: the module is not loaded.
    Absent,
    /// 0.
    Off,
    /// 1.
    On,
}

/// A problem with the filtering of bridge traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeFinding {
    /// The family that it concerns.
    pub family: Family,
    /// What was found; never [`BridgeNetfilter::On`].
    pub found: BridgeNetfilter,
    /// The daemon must not start: Go's flanneld refuses as well.
    pub fatal: bool,
}

/// The sysctl of `family`, below `/proc/sys`.
#[must_use]
pub const fn sysctl(family: Family) -> &'static str {
    match family {
        Family::V4 => "net/bridge/bridge-nf-call-iptables",
        Family::V6 => "net/bridge/bridge-nf-call-ip6tables",
    }
}

/// What is to be said about `found` in an enabled family.
#[must_use]
pub fn judge(mode: Mode, family: Family, found: BridgeNetfilter) -> Option<BridgeFinding> {
    let fatal = match found {
        BridgeNetfilter::On => return None,
        BridgeNetfilter::Off => false,
        BridgeNetfilter::Absent => mode == Mode::Iptables,
    };
    Some(BridgeFinding { family, found, fatal })
}

impl fmt::Display for BridgeFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sysctl = sysctl(self.family);
        if self.found == BridgeNetfilter::Absent {
            write!(
                f,
                "/proc/sys/{sysctl} does not exist, so {} traffic between pods of this node bypasses the \
                 firewall and service addresses may fail: run `modprobe br_netfilter` (and list br_netfilter \
                 in /etc/modules-load.d)",
                self.family
            )
        } else {
            write!(
                f,
                "/proc/sys/{sysctl} is 0, so {} traffic between pods of this node bypasses the firewall and \
                 service addresses may fail: run `sysctl -w {}=1`",
                self.family,
                sysctl.replace('/', ".")
            )
        }
    }
}
