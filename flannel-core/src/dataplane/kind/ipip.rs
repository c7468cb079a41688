//! IP in IP tunnels (RFC 2003).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

use super::{Kind, LinkKind};

/// The parameters of an IP in IP device that decide whether it is the wanted one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipip {
    /// Outer source address.
    pub local: Option<IpAddr>,
    /// The only other end; `None` where routes name the other ends, as with ours.
    pub remote: Option<IpAddr>,
}

impl Ipip {
    /// The kernel's name of the kind.
    pub const NAME: &str = "ipip";

    /// Number of the IP protocol of its packets.
    pub const PROTOCOL: u8 = 4;

    /// Bytes of the outer header.
    pub const OVERHEAD: u32 = 20;
}

impl Kind for Ipip {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn local(&self) -> Option<IpAddr> {
        self.local
    }

    fn overhead(&self) -> u32 {
        Self::OVERHEAD
    }

    fn mismatch(&self, found: &LinkKind) -> Option<&'static str> {
        let LinkKind::Ipip(found) = found else { return Some("kind") };
        if self.local != found.local {
            Some("local address")
        } else if self.remote != found.remote {
            Some("remote address")
        } else {
            None
        }
    }

    /// One device for each pair of addresses (`ip_tunnel_find` in the kernel). The pair without addresses is that of
    /// `tunl0`, which appears with the module and cannot be deleted.
    fn excludes(&self, other: &LinkKind) -> bool {
        matches!(other, LinkKind::Ipip(other) if other == self)
    }

    fn identity(&self) -> String {
        let text = |address: Option<IpAddr>| address.map_or_else(|| "any".to_owned(), |it| it.to_string());
        format!("the local address {} and the remote address {}", text(self.local), text(self.remote))
    }

    /// Compatibility: Go flannel leaves a device of another kind to the administrator.
    fn replaces(&self, found: &LinkKind) -> bool {
        matches!(found, LinkKind::Ipip(_))
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, address) in [(" remote", self.remote), (" local", self.local)] {
            match address {
                Some(address) => write!(f, "{key} {address}")?,
                None => write!(f, "{key} any")?,
            }
        }
        f.write_str(" nopmtudisc")
    }
}
