//! Routes from router advertisements (RFC 4861, RFC 4191). The kernel ignores advertisements on an interface that forwards, unless its
//! setting `accept_ra` is 2 (`ip-sysctl.rst`): when forwarding is enabled it removes their default routes at once
//! (`rt6_purge_dflt_routers` in `net/ipv6/route.c`), and the others expire. So the CNI plugin sets `accept_ra` of such interfaces to 2 before
//! it enables forwarding.

use ipnet::IpNet;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::link::{IfIndex, LinkName};
use crate::message::route::{RouteRecord, UNICAST};

/// File with the interfaces whose `accept_ra` the plugin changed from 1 to 2 before it enabled forwarding, for
/// `flannelctl node cleanup`. Below `/run`, because a reboot resets settings, too.
pub const CHANGED: &str = "/run/flannel/accept_ra";

/// Name of the setting.
pub const ACCEPT: &str = "accept_ra";
/// The value of `accept_ra` that the kernel starts with: only while the interface does not forward.
pub const UNLESS_FORWARDING: &str = "1";
/// The value of `accept_ra` for an interface that forwards and accepts advertisements.
pub const ALWAYS: &str = "2";

/// Set by the kernel (`RTPROT_KERNEL`), such as the route of a prefix.
const PROTOCOL_KERNEL: u8 = 2;
/// From a router advertisement (`RTPROT_RA`), set by the kernel or by a program.
const PROTOCOL_RA: u8 = 9;

/// A route from a router advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// Interface.
    pub index: IfIndex,
    /// Destination: everything, a more specific route, or a prefix of the link.
    pub destination: IpNet,
    /// Time until it expires; `None` if it does not.
    pub expires: Option<Duration>,
}

/// Returns the routes that are from router advertisements. The kernel marks those of prefixes as its own; only addresses and prefixes
/// with a lifetime expire, and a single address is none of a router.
#[must_use]
pub fn routes(all: &[RouteRecord]) -> Vec<Advertised> {
    let is_prefix = |route: &RouteRecord| {
        route.protocol == PROTOCOL_KERNEL && route.expires.is_some() && route.destination.prefix_len() < 128
    };
    let is_advertised = |route: &&RouteRecord| {
        let IpNet::V6(_) = route.destination else { return false };
        route.kind == UNICAST && !route.cloned && (route.protocol == PROTOCOL_RA || is_prefix(route))
    };
    let each = |route: &RouteRecord| {
        let (destination, expires) = (route.destination, route.expires);
        let links: BTreeSet<IfIndex> = route.hops.iter().filter_map(|hop| hop.index).collect();
        links.into_iter().map(move |index| Advertised { index, destination, expires })
    };
    all.iter().filter(is_advertised).flat_map(each).collect()
}

/// Returns the text of the file [`CHANGED`].
#[must_use]
pub fn to_text(links: &BTreeSet<LinkName>) -> String {
    links.iter().map(|link| format!("{link}\n")).collect()
}

/// Reads the text of the file [`CHANGED`]; a malformed line is skipped.
#[must_use]
pub fn from_text(text: &str) -> BTreeSet<LinkName> {
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

#[cfg(test)]
mod tests;
