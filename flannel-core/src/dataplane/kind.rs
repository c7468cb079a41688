//! Kinds of link, each in a file of its own: when an existing device is the wanted one, what excludes what, what can
//! change in place.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};

use crate::family::Family;
use crate::link::LinkName;

pub use ipip::Ipip;
pub use udp::UdpTunnel;
pub use vxlan::Vxlan;

mod ipip;
mod other;
mod udp;
mod vxlan;

/// The kind of a link and its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// A VXLAN tunnel endpoint (RFC 7348).
    Vxlan(Vxlan),
    /// An IP in IP tunnel (RFC 2003).
    Ipip(Ipip),
    /// A UDP tunnel of another program.
    #[serde(skip)]
    Udp(UdpTunnel),
    /// Any other kind, by the kernel's name of it (`veth`, `bridge`; empty for a NIC).
    #[serde(skip)]
    Other(String),
}

/// A UDP port on which a tunnel device receives while it is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpPort {
    /// Number of the port.
    pub number: u16,
    /// Family of its addresses; `None` for both.
    pub family: Option<Family>,
}

impl UdpPort {
    /// Whether the kernel allows only one socket for both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let families = self.family.zip(other.family);
        self.number == other.number && families.is_none_or(|(one, other)| one == other)
    }
}

/// What a kind of link is. The defaults are those of a tunnel whose device has no lower link and no parameter that can
/// change in place.
pub trait Kind {
    /// The kernel's name of the kind.
    fn name(&self) -> &str;

    /// Whether it is a kind of tunnel that flannel creates.
    fn is_tunnel(&self) -> bool {
        true
    }

    /// Whether forwarding entries, instead of next hops of routes, name the other ends of the tunnel.
    fn has_fdb(&self) -> bool {
        false
    }

    /// The outer source address of a tunnel.
    fn local(&self) -> Option<IpAddr> {
        None
    }

    /// The link that packets of a tunnel leave through.
    fn lower(&self) -> Option<&LinkName> {
        None
    }

    /// Sets the link that packets of a tunnel leave through.
    fn set_lower(&mut self, _lower: Option<LinkName>) {}

    /// Bytes that the headers take of the MTU of the lower link.
    fn overhead(&self) -> u32 {
        0
    }

    /// Fills in what the kernel chooses where a creation leaves it out.
    fn complete(&mut self) {}

    /// Returns the parameter by which an existing link cannot become the desired one, or `None` if it can be kept.
    ///
    /// Compatibility: the rules by which Go flannel keeps a device, so that an upgrade in place or a return to it keeps
    /// the device. Beyond them: an IPv6 tunnel needs its local address, without which it is an IPv4 one.
    fn mismatch(&self, found: &LinkKind) -> Option<&'static str>;

    /// Whether the kernel refuses to create this link while `other` exists under another name.
    fn excludes(&self, _other: &LinkKind) -> bool {
        false
    }

    /// What only one link can have, in words: the reason of [`Kind::excludes`].
    fn identity(&self) -> String {
        String::new()
    }

    /// The UDP port on which a link of this kind receives while it is up.
    fn udp_port(&self) -> Option<UdpPort> {
        None
    }

    /// Whether links of both kinds receive through one socket if their ports overlap. Otherwise the kernel refuses to
    /// set up the second one.
    fn shares_port(&self, _other: &LinkKind) -> bool {
        false
    }

    /// Whether a link of the kind `found` may be deleted because this one needs its name.
    ///
    /// Compatibility: Go flannel deletes a device of any kind that has the name of its own.
    fn replaces(&self, _found: &LinkKind) -> bool {
        true
    }

    /// Whether a parameter differs that the kernel can change in place.
    fn differs_in_place(&self, _found: &LinkKind) -> bool {
        false
    }

    /// Copies from `wanted` the parameters that can change in place.
    fn change(&mut self, _wanted: &LinkKind) {}

    /// Writes the parameters of a creation in the format of iproute2.
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// The parameters that can change in place, in the format of iproute2.
    fn changeable(&self) -> &'static str {
        ""
    }
}

/// What its kind answers.
impl Deref for LinkKind {
    type Target = dyn Kind;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Vxlan(vxlan) => vxlan,
            Self::Ipip(ipip) => ipip,
            Self::Udp(tunnel) => tunnel,
            Self::Other(name) => name,
        }
    }
}

impl DerefMut for LinkKind {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::Vxlan(vxlan) => vxlan,
            Self::Ipip(ipip) => ipip,
            Self::Udp(tunnel) => tunnel,
            Self::Other(name) => name,
        }
    }
}

/// `type`, kind and parameters, in the manner of iproute2.
impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "type {}", self.name())?;
        self.write(f)
    }
}
