//! The route that drops packets to pods of this node that do not exist (`--ip-blackhole-route`), instead
//! of sending them along the default route and, with a router that knows the subnet, round in circles.

use ipnet::IpNet;

use crate::dataplane::{PROTOCOL, Route, RouteKey, RouteTarget};
use crate::family::Family;

/// The route for our own subnet. It must lose against the route that the kernel makes for the address of the pods'
/// bridge: that has metric 0 in IPv4 and 256 in IPv6.
///
/// Compatibility: Go asks for metric 0 in IPv4 as well, which the kernel refuses while the bridge is up and which
/// hides the bridge if it comes first. The largest metric stands beside it in any order.
pub(super) fn route(subnet: IpNet) -> (RouteKey, Route) {
    let metric = match Family::of_net(subnet) {
        Family::V4 => u32::MAX,
        Family::V6 => 1024,
    };
    let key = RouteKey { destination: subnet.trunc(), metric };
    (key, Route { target: RouteTarget::Blackhole, protocol: PROTOCOL })
}
