//! UDP tunnels of other programs, of which only the port matters.

use std::fmt;

use super::{Kind, LinkKind, UdpPort};

/// A tunnel device that flannel does not make and that receives on a UDP port: a VXLAN device without a network
/// identifier (`external`), or one of another protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpTunnel {
    /// The kernel's name of the kind.
    pub name: String,
    /// Where it receives while it is up.
    pub port: UdpPort,
}

impl Kind for UdpTunnel {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_tunnel(&self) -> bool {
        false
    }

    fn udp_port(&self) -> Option<UdpPort> {
        Some(self.port)
    }

    fn mismatch(&self, found: &LinkKind) -> Option<&'static str> {
        (!matches!(found, LinkKind::Udp(found) if found == self)).then_some("kind")
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " dstport {}", self.port.number)
    }
}
