//! VXLAN tunnel endpoints (RFC 7348).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

use super::{Kind, LinkKind, UdpPort};
use crate::family::Family;
use crate::link::{LinkName, Vni};

/// The parameters of a VXLAN device that decide whether it is the wanted one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vxlan {
    /// Network identifier.
    pub vni: Vni,
    /// Outer source address, which also chooses the family of the underlay.
    pub local: Option<IpAddr>,
    /// Underlay interface; `None` where it is unset or no longer exists.
    pub lower: Option<LinkName>,
    /// UDP destination port; 0 in a creation leaves it to the kernel.
    pub port: u16,
    /// The kernel learns addresses from received frames.
    pub learning: bool,
    /// Group based policy extension.
    pub gbp: bool,
    /// Multicast group or default remote; never set by us.
    #[serde(skip)]
    pub group: Option<IpAddr>,
    /// Notifications for unknown addresses; never set by us.
    #[serde(skip)]
    pub l2miss: bool,
}

impl Vxlan {
    /// The kernel's name of the kind.
    pub const NAME: &str = "vxlan";

    /// The port that the kernel takes where none is given (`udp_port` in its vxlan module), from before IANA gave 4789.
    pub const DEFAULT_PORT: u16 = 8472;

    /// Bytes that the headers take of the underlay's MTU: Ethernet 14, VXLAN 8, UDP 8, IP 20 or 40.
    #[must_use]
    pub const fn overhead(underlay: Family) -> u32 {
        match underlay {
            Family::V4 => 50,
            Family::V6 => 70,
        }
    }

    fn underlay(&self) -> Family {
        self.local.or(self.group).map_or(Family::V4, Family::of)
    }
}

impl Kind for Vxlan {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn has_fdb(&self) -> bool {
        true
    }

    fn local(&self) -> Option<IpAddr> {
        self.local
    }

    fn lower(&self) -> Option<&LinkName> {
        self.lower.as_ref()
    }

    fn set_lower(&mut self, lower: Option<LinkName>) {
        self.lower = lower;
    }

    fn overhead(&self) -> u32 {
        Self::overhead(self.underlay())
    }

    fn complete(&mut self) {
        if self.port == 0 {
            self.port = Self::DEFAULT_PORT;
        }
    }

    fn mismatch(&self, found: &LinkKind) -> Option<&'static str> {
        fn differ<T: PartialEq>(wanted: Option<T>, found: Option<T>) -> bool {
            wanted.zip(found).is_some_and(|(wanted, found)| wanted != found)
        }
        let LinkKind::Vxlan(found) = found else { return Some("kind") };
        let needs_local = self.underlay() == Family::V6 && found.local.is_none();
        if self.vni != found.vni {
            Some("VNI")
        } else if differ(self.lower.as_ref(), found.lower.as_ref()) {
            Some("underlay interface")
        } else if differ(self.local, found.local) || needs_local {
            Some("local address")
        } else if differ(self.group, found.group) {
            Some("group")
        } else if self.l2miss != found.l2miss {
            Some("l2miss")
        } else if self.port != 0 && self.port != found.port {
            Some("port")
        } else if self.gbp != found.gbp {
            Some("gbp")
        } else {
            None
        }
    }

    /// One device for each VNI, port and family of the underlay (`vxlan_config_validate` in the kernel).
    fn excludes(&self, other: &LinkKind) -> bool {
        let identity = |vxlan: &Self| (vxlan.vni, vxlan.port, vxlan.underlay());
        matches!(other, LinkKind::Vxlan(other) if identity(other) == identity(self))
    }

    fn identity(&self) -> String {
        format!("VNI {} and UDP port {}", self.vni, self.port)
    }

    fn udp_port(&self) -> Option<UdpPort> {
        Some(UdpPort { number: self.port, family: Some(self.underlay()) })
    }

    /// One socket serves all VNIs, but not frames with and without extensions (`vxlan_find_sock` in the kernel).
    fn shares_port(&self, other: &LinkKind) -> bool {
        matches!(other, LinkKind::Vxlan(other) if other.gbp == self.gbp)
    }

    fn differs_in_place(&self, found: &LinkKind) -> bool {
        matches!(found, LinkKind::Vxlan(found) if found.learning != self.learning)
    }

    fn change(&mut self, wanted: &LinkKind) {
        if let LinkKind::Vxlan(wanted) = wanted {
            self.learning = wanted.learning;
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " id {}", self.vni)?;
        if let Some(local) = self.local {
            write!(f, " local {local}")?;
        }
        if let Some(lower) = &self.lower {
            write!(f, " dev {lower}")?;
        }
        if let Some(group) = self.group {
            write!(f, " group {group}")?;
        }
        write!(f, " dstport {} {}", self.port, self.changeable())?;
        f.write_str(if self.l2miss { " l2miss" } else { "" })?;
        f.write_str(if self.gbp { " gbp" } else { "" })
    }

    fn changeable(&self) -> &'static str {
        if self.learning { "learning" } else { "nolearning" }
    }
}
