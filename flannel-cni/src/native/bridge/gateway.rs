//! The gateway: which address it has, and the bridge as its holder.

use flannel_core::family::Family;
use flannel_core::json::{Object, Value};
use flannel_core::link::IfIndex;
use flannel_core::message::address;
use flannel_core::message::link::{self, LinkSettings};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::errno::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::config::Config;
use super::pod::with_broadcast;
use crate::address::parse_cidr;
use crate::error::{CniError, Code};
use crate::kernel::{Found, Kernel, KernelError};
use crate::native::host_local;
use crate::netns::HostLock;
use crate::result::{CniResult, Route};
use crate::sysctl;

/// An address that the bridge could not be given.
#[derive(Debug, thiserror::Error)]
#[error("failed to set bridge addr: could not {verb} {net}")]
struct GatewayError {
    verb: &'static str,
    net: IpNet,
    source: KernelError,
}

/// Fills in the interface and the gateway of each address, and the default routes.
pub(super) fn complete(config: &Config, result: &mut CniResult) {
    for at in 0..result.ips.len() {
        let ip = &mut result.ips[at];
        // The container's, in the list of interfaces.
        ip.interface = Some(2);
        let family = Family::of_net(ip.address);
        if ip.gateway.is_none() && config.gateway {
            ip.gateway = Some(first_host(ip.address));
        }
        let (gateway, default) = (ip.gateway, default_route(family));
        // A default route without a gateway gets this one when it is set.
        if config.default_gateway && !result.routes.iter().any(|route| route.dst == default) {
            result.routes.push(Route {
                dst: default,
                gw: gateway,
                mtu: 0,
                advmss: 0,
                priority: 0,
                table: None,
                scope: None,
            });
        }
    }
}

/// Gives the bridge, or the interface of a VLAN, the gateways' addresses and lets the host forward packets of their families.
pub(super) fn ensure(
    host: &mut Kernel,
    config: &Config,
    holder: &Found,
    result: &CniResult,
    object: &Object,
) -> Result<(), CniError> {
    let index = holder.record.index;
    let wanted: Vec<IpNet> = result
        .ips
        .iter()
        .filter_map(|ip| Some(IpNet::new_assert(ip.gateway?, ip.address.prefix_len())))
        .collect();
    let families: Vec<Family> = Family::ALL
        .into_iter()
        .filter(|family| wanted.iter().any(|net| Family::of_net(*net) == *family))
        .collect();
    if !settled(&nets(host, index, &families)?, &wanted, object) {
        // What is there may be changed by another ADD, of this subnet or of the one that the node had before.
        let _lock = HostLock::take()?;
        let present = nets(host, index, &families)?;
        for net in &wanted {
            make_room(host, config, holder, *net, &others(&present, &wanted, *net, object), object)?;
            if present.contains(net) {
                continue;
            }
            match host.change_one(&address::add(&with_broadcast(index, *net))) {
                Err(error) if error.is(Errno::EEXIST) => {}
                Err(source) => return Err(GatewayError { verb: "add", net: *net, source }.into()),
                Ok(()) => pin_mac(host, holder)?,
            }
        }
    }
    for family in families {
        let forwarding = match family {
            Family::V4 => "ipv4/ip_forward",
            Family::V6 => "ipv6/conf/all/forwarding",
        };
        sysctl::set(forwarding, "1")?;
    }
    Ok(())
}

fn nets(host: &mut Kernel, index: IfIndex, families: &[Family]) -> Result<Vec<IpNet>, CniError> {
    Ok(host.addresses(index, families)?.iter().map(|record| record.facts.net).collect())
}

/// All is there, and nothing else that could be in the way.
fn settled(present: &[IpNet], wanted: &[IpNet], object: &Object) -> bool {
    wanted.iter().all(|net| present.contains(net) && others(present, wanted, *net, object).is_empty())
}

/// Addresses that are in the way of `net`: of IPv4 every other one, of IPv6 those that it overlaps with, and that of a subnet that
/// the node had before, whose packets now belong to another node.
fn others(present: &[IpNet], wanted: &[IpNet], net: IpNet, object: &Object) -> Vec<IpNet> {
    let in_the_way = |other: &&IpNet| {
        let overlaps = other.contains(&net.network()) || net.contains(&other.network());
        Family::of_net(**other) == Family::of_net(net)
            && (Family::of_net(net) == Family::V4 || overlaps || is_predecessor(**other, net, object))
    };
    present.iter().filter(|other| !wanted.contains(other)).filter(in_the_way).copied().collect()
}

/// From now on the bridge keeps its hardware address, which pods will have in their neighbour tables.
fn pin_mac(host: &mut Kernel, bridge: &Found) -> Result<(), CniError> {
    let settings = LinkSettings { mac: bridge.record.link.mac, ..LinkSettings::default() };
    Ok(host.change_one(&link::set(bridge.record.index, &settings))?)
}

/// Deals with addresses that are in the way of `net`.
fn make_room(
    host: &mut Kernel,
    config: &Config,
    holder: &Found,
    net: IpNet,
    in_the_way: &[IpNet],
    object: &Object,
) -> Result<(), CniError> {
    for other in in_the_way {
        if !config.force_address {
            // The gateway of pods that run: of the node's subnet of before, or of another range.
            if is_beside(*other, net) && host_local::is_in_use(object, *other) {
                continue;
            }
            if !is_predecessor(*other, net, object) {
                return Err(conflict(config, holder, *other, net));
            }
        }
        match host.change_one(&address::delete(holder.record.index, *other)) {
            Err(error) if error.is(Errno::EADDRNOTAVAIL) => {}
            Err(source) => return Err(GatewayError { verb: "remove", net: *other, source }.into()),
            Ok(()) => {}
        }
        // An ADD that began under the old subnet may have taken an address of it and seen its gateway in between.
        if !config.force_address && host_local::is_in_use(object, *other) {
            // It may also have put it back itself.
            let _ = host.change_one(&address::add(&with_broadcast(holder.record.index, *other)));
        }
    }
    Ok(())
}

fn conflict(config: &Config, holder: &Found, other: IpNet, net: IpNet) -> CniError {
    let name = holder.record.name.as_str();
    let what = if name == config.bridge.as_str() {
        "failed to set bridge addr"
    } else {
        "failed to set vlan interface for bridge with addr"
    };
    let msg = format!("{what}: {name:?} already has an IP address different from {net}");
    let details = format!("it has {other}: remove it, or let \"forceAddress\": true in the config do it");
    CniError::new(Code::Internal, msg).with_details(details)
}

/// True if `other` may be the gateway of a range apart from that of `net`.
fn is_beside(other: IpNet, net: IpNet) -> bool {
    let overlaps = other.contains(&net.network()) || net.contains(&other.network());
    !overlaps && other.addr() == first_host(other)
}

/// True if `other` was the gateway of another subnet that this node had before: a subnet of the same size in a
/// network that the config has a route to, and its first address.
fn is_predecessor(other: IpNet, net: IpNet, object: &Object) -> bool {
    let alike = other.prefix_len() == net.prefix_len() && other.network() != net.network();
    if !alike || other.addr() != first_host(other) {
        return false;
    }
    let ipam = object.field("ipam").and_then(Value::as_object);
    let routes = ipam.and_then(|ipam| ipam.field("routes")).and_then(Value::as_array).unwrap_or_default();
    let networks = routes.iter().filter_map(|route| {
        parse_cidr(route.as_object()?.field("dst")?.as_str()?).ok().map(|network| network.trunc())
    });
    networks
        .filter(|network| network.prefix_len() > 0)
        .any(|network| network.contains(&other.addr()) && network.contains(&net.addr()))
}

/// The address behind that of the network.
fn first_host(net: IpNet) -> IpAddr {
    match net {
        IpNet::V4(net) => Ipv4Addr::from(u32::from(net.network()) | 1).into(),
        IpNet::V6(net) => Ipv6Addr::from(u128::from(net.network()) | 1).into(),
    }
}

fn default_route(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(Ipv4Net::default()),
        Family::V6 => IpNet::V6(Ipv6Net::default()),
    }
}
