//! The gateways of pods, which the CNI plugin gives to the bridge. It does so only when a pod is added; in between the
//! daemon restores them, because a program that manages networks may remove all addresses of an interface. With IPv6 the bridge also
//! needs its link-local address: the kernel sends neighbour solicitations for packets that it forwards from this address, and none
//! without one (`ndisc_send_ns` in `net/ipv6/ndisc.c`), so that no packet from outside reaches a pod.

use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cni::BRIDGE;
use crate::dataplane::{AddressKey, LinkChange, Op};
use crate::facts::{HostFacts, LinkFacts, is_link_local};
use crate::family::Family;
use crate::json::{Object, Value};
use crate::lease::Subnets;
use crate::link::{LinkName, Mac};

/// The gateways that attached pods use, with their prefix lengths, by bridge.
pub type Gateways = BTreeMap<LinkName, BTreeSet<IpNet>>;

/// Reads the gateways from configs that the CNI plugin has saved for its attachments. Only those count that are in the
/// subnet of this node and have one of the addresses `pods` in their range: another node may own any other subnet.
#[must_use]
pub fn of_configs<'a>(
    configs: impl IntoIterator<Item = &'a [u8]>,
    own: &Subnets,
    pods: &[IpAddr],
) -> Gateways {
    let is_used = |net: &IpNet| {
        own.get(Family::of_net(*net)).is_some_and(|own| own.contains(&net.trunc()))
            && pods.iter().any(|pod| net.contains(pod) && *pod != net.addr())
    };
    let mut gateways = Gateways::new();
    for (bridge, nets) in configs.into_iter().filter_map(of_config) {
        let used: BTreeSet<IpNet> = nets.into_iter().filter(is_used).collect();
        if !used.is_empty() {
            gateways.entry(bridge).or_default().extend(used);
        }
    }
    gateways
}

/// Returns the operations that restore the gateways on the bridges that exist.
#[must_use]
pub fn restore(gateways: &Gateways, facts: &HostFacts) -> Vec<Op> {
    let mut ops = Vec::new();
    for (bridge, nets) in gateways {
        let Some(link) = facts.links.iter().find(|link| link.name == *bridge) else { continue };
        let has = |net: &&IpNet| link.addresses.iter().any(|found| found.net == **net);
        let mut missing: Vec<IpNet> = nets.iter().filter(|net| !has(net)).copied().collect();
        if nets.iter().any(|net| Family::of_net(*net) == Family::V6) {
            missing.extend(missing_link_local(link));
        }
        // Setting the hardware address keeps it: a bridge otherwise adopts that of a port. The plugin does the same with an
        // address that it adds.
        let mac = link.mac.filter(|mac| mac.is_unicast() && !missing.is_empty());
        let change = LinkChange { up: (!link.up).then_some(true), mac, ..LinkChange::default() };
        if change != LinkChange::default() {
            ops.push(Op::SetLink(bridge.clone(), change.into()));
        }
        ops.extend(missing.into_iter().map(|net| Op::AddAddress(AddressKey { link: bridge.clone(), net })));
    }
    ops
}

/// Returns the link-local address that a link lacks. The kernel sets one by itself, but not again.
fn missing_link_local(link: &LinkFacts) -> Option<IpNet> {
    let mut addresses = link.addresses.iter().map(|found| found.net.addr());
    let has_one = addresses.any(|address| address.is_ipv6() && is_link_local(address));
    link.mac.filter(|mac| !has_one && mac.is_unicast()).map(link_local)
}

/// Returns the link-local address that the kernel derives from a hardware address (RFC 4291, appendix A).
fn link_local(mac: Mac) -> IpNet {
    let Mac([a, b, c, d, e, f]) = mac;
    let identifier = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    let address = Ipv6Addr::from(0xfe80 << 112 | u128::from(identifier));
    IpNet::new_assert(address.into(), 64)
}

/// Reads the bridge and the gateways of its ranges; `None` if the config gives the bridge none.
fn of_config(text: &[u8]) -> Option<(LinkName, Vec<IpNet>)> {
    let config = Value::parse(text).ok()?;
    let config = config.as_object()?;
    let is_gateway = config.is_true("isGateway") || config.is_true("isDefaultGateway");
    // In a VLAN, another interface has the gateway.
    let vlan = config.field("vlan").and_then(Value::as_integer::<u16>).unwrap_or(0);
    let ipam = config.object("ipam").filter(|ipam| ipam.text("type") == "host-local")?;
    if config.text("type") != "bridge" || !is_gateway || vlan != 0 {
        return None;
    }
    let bridge = Some(config.text("bridge")).filter(|name| !name.is_empty()).unwrap_or(BRIDGE);
    let sets = ipam.field("ranges").and_then(Value::as_array).unwrap_or_default();
    let ranges = sets.iter().filter_map(Value::as_array).flatten().filter_map(Value::as_object);
    Some((bridge.parse().ok()?, ranges.chain([ipam]).filter_map(of_range).collect()))
}

fn of_range(range: &Object) -> Option<IpNet> {
    let subnet: IpNet = range.text("subnet").parse().ok()?;
    let gateway = range.text("gateway").parse().unwrap_or_else(|_| first_host(subnet));
    IpNet::new(gateway, subnet.prefix_len()).ok().filter(|net| subnet.contains(&net.addr()))
}

/// Returns the first address after that of the network.
fn first_host(net: IpNet) -> IpAddr {
    match net {
        IpNet::V4(net) => Ipv4Addr::from(u32::from(net.network()) | 1).into(),
        IpNet::V6(net) => Ipv6Addr::from(u128::from(net.network()) | 1).into(),
    }
}

#[cfg(test)]
mod tests;
