//! What passes between nodes: packets that a firewall must accept, and targets of a connectivity test.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

/// The packets of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Number of the IP protocol.
    pub protocol: u8,
    /// Destination port, if the protocol has ports.
    pub port: Option<u16>,
}

impl Transport {
    /// UDP to `port`.
    #[must_use]
    pub const fn udp(port: u16) -> Self {
        Self { protocol: 17, port: Some(port) }
    }

    /// The match of an iptables rule.
    #[must_use]
    pub fn iptables_match(&self) -> String {
        match self.port {
            Some(port) => format!("-p udp --dport {port}"),
            None => format!("-p {}", self.protocol),
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "udp/{port}"),
            None => write!(f, "protocol/{}", self.protocol),
        }
    }
}

/// A target of a connectivity test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Where to send.
    pub address: IpAddr,
    /// What has the address.
    pub via: Via,
    /// Where to send if nothing answers there.
    pub fallback: Option<IpAddr>,
    /// The size of packets that must pass.
    pub mtu: u32,
}

/// What has the address of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// The tunnel device of the node.
    Vtep,
    /// The bridge of the node's pods.
    Bridge,
    /// The node itself, outside the overlay.
    Underlay,
}
