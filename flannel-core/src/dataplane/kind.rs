//! Kinds of link, each in a file of its own: when an existing device is the wanted one, what excludes what, what can
//! change in place.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;

use crate::link::LinkName;

pub use ipip::Ipip;
pub use vxlan::Vxlan;

mod ipip;
mod other;
mod vxlan;

/// The kind of a link and its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// A VXLAN tunnel endpoint (RFC 7348).
    Vxlan(Vxlan),
    /// An IP in IP tunnel (RFC 2003).
    Ipip(Ipip),
    /// Any other kind, by the kernel's name of it (`veth`, `bridge`; empty for a NIC).
    #[serde(skip)]
    Other(String),
}

/// What a kind of link is. The defaults are those of a tunnel whose device has no lower link and no parameter that can
/// change in place.
trait Kind {
    /// The kernel's name of the kind.
    fn name(&self) -> &str;

    fn is_tunnel(&self) -> bool {
        true
    }

    /// Whether forwarding entries, instead of next hops of routes, name the other ends of the tunnel.
    fn has_fdb(&self) -> bool {
        false
    }

    fn local(&self) -> Option<IpAddr> {
        None
    }

    fn lower(&self) -> Option<&LinkName> {
        None
    }

    fn set_lower(&mut self, _lower: Option<LinkName>) {}

    /// Bytes that the headers take of the MTU of the lower link.
    fn overhead(&self) -> u32 {
        0
    }

    /// Fills in what the kernel chooses where a creation leaves it out.
    fn complete(&mut self) {}

    fn mismatch(&self, found: &LinkKind) -> Option<&'static str>;

    fn excludes(&self, _other: &LinkKind) -> bool {
        false
    }

    /// Compatibility: Go flannel deletes a device of any kind that has the name of its own.
    fn replaces(&self, _found: &LinkKind) -> bool {
        true
    }

    fn differs_in_place(&self, _found: &LinkKind) -> bool {
        false
    }

    /// Takes over from `wanted` what can change in place.
    fn change(&mut self, _wanted: &LinkKind) {}

    /// The parameters of a creation, in the manner of iproute2.
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// The parameters that can change in place.
    fn changeable(&self) -> &'static str {
        ""
    }
}

impl LinkKind {
    fn kind(&self) -> &dyn Kind {
        match self {
            Self::Vxlan(vxlan) => vxlan,
            Self::Ipip(ipip) => ipip,
            Self::Other(name) => name,
        }
    }

    fn kind_mut(&mut self) -> &mut dyn Kind {
        match self {
            Self::Vxlan(vxlan) => vxlan,
            Self::Ipip(ipip) => ipip,
            Self::Other(name) => name,
        }
    }

    /// The kernel's name of the kind.
    #[must_use]
    pub fn name(&self) -> &str {
        self.kind().name()
    }

    /// Whether it is a kind of tunnel that flannel makes.
    #[must_use]
    pub fn is_tunnel(&self) -> bool {
        self.kind().is_tunnel()
    }

    /// Whether forwarding entries name the other ends of the tunnel.
    #[must_use]
    pub fn has_fdb(&self) -> bool {
        self.kind().has_fdb()
    }

    /// The outer source address of a tunnel.
    #[must_use]
    pub fn local(&self) -> Option<IpAddr> {
        self.kind().local()
    }

    /// The link that packets of a tunnel leave through.
    #[must_use]
    pub fn lower(&self) -> Option<&LinkName> {
        self.kind().lower()
    }

    /// Sets the link that packets of a tunnel leave through.
    pub fn set_lower(&mut self, lower: Option<LinkName>) {
        self.kind_mut().set_lower(lower);
    }

    /// Bytes that the headers of a tunnel take of the MTU of the lower link.
    #[must_use]
    pub fn overhead(&self) -> u32 {
        self.kind().overhead()
    }

    /// Fills in what the kernel chooses where a creation leaves it out.
    pub fn complete(&mut self) {
        self.kind_mut().complete();
    }

    /// Returns the parameter by which an existing link cannot become the wanted one, or `None` if it can be kept.
    ///
    /// Compatibility: the rules by which Go flannel keeps a device, so that an upgrade in place or a return to it keeps
    /// the device. Beyond them: an IPv6 tunnel needs its local address, without which it is an IPv4 one.
    #[must_use]
    pub fn mismatch(&self, found: &Self) -> Option<&'static str> {
        self.kind().mismatch(found)
    }

    /// Whether the kernel refuses to create this link while `other` exists under another name.
    #[must_use]
    pub fn excludes(&self, other: &Self) -> bool {
        self.kind().excludes(other)
    }

    /// Whether a link of the kind `found` may be deleted to make room for this one under its name.
    #[must_use]
    pub fn replaces(&self, found: &Self) -> bool {
        self.kind().replaces(found)
    }

    /// Whether a parameter differs that the kernel can change in place.
    #[must_use]
    pub fn differs_in_place(&self, found: &Self) -> bool {
        self.kind().differs_in_place(found)
    }

    /// Takes over from `wanted` what can change in place.
    pub fn change(&mut self, wanted: &Self) {
        self.kind_mut().change(wanted);
    }

    /// The parameters that can change in place, in the manner of iproute2.
    #[must_use]
    pub fn changeable(&self) -> &'static str {
        self.kind().changeable()
    }
}

/// `type`, kind and parameters, in the manner of iproute2.
impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "type {}", self.name())?;
        self.kind().write(f)
    }
}
