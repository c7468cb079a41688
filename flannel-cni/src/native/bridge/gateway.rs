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

/// Gives the bridge the gateways' addresses and lets the host forward packets of their families.
pub(super) fn ensure(
    host: &mut Kernel,
    config: &Config,
    bridge: &Found,
    result: &CniResult,
    object: &Object,
) -> Result<(), CniError> {
    let index = bridge.record.index;
    let present = host.addresses(index)?;
    for (family, forwarding) in [(Family::V4, "ipv4/ip_forward"), (Family::V6, "ipv6/conf/all/forwarding")] {
        let of_family = result.ips.iter().filter(|ip| Family::of_net(ip.address) == family);
        let wanted: Vec<IpNet> = of_family
            .filter_map(|ip| Some(IpNet::new_assert(ip.gateway?, ip.address.prefix_len())))
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let of_family = present.iter().map(|record| record.facts.net);
        let present: Vec<IpNet> = of_family.filter(|net| Family::of_net(*net) == family).collect();
        let others: Vec<IpNet> = present.iter().filter(|net| !wanted.contains(net)).copied().collect();
        for net in &wanted {
            make_room(host, config, index, *net, &others, object)?;
            if present.contains(net) {
                continue;
            }
            match host.change_one(&address::add(&with_broadcast(index, *net))) {
                Err(error) if error.is(Errno::EEXIST) => {}
                Err(source) => return Err(GatewayError { verb: "add", net: *net, source }.into()),
                Ok(()) => pin_mac(host, bridge)?,
            }
        }
        sysctl::set(forwarding, "1")?;
    }
    Ok(())
}

/// From now on the bridge keeps its hardware address, which pods will have in their neighbour tables.
fn pin_mac(host: &mut Kernel, bridge: &Found) -> Result<(), CniError> {
    let settings = LinkSettings { mac: bridge.record.link.mac, ..LinkSettings::default() };
    Ok(host.change_one(&link::set(bridge.record.index, &settings))?)
}

/// Deals with addresses of the bridge that are in the way of `net`.
fn make_room(
    host: &mut Kernel,
    config: &Config,
    index: IfIndex,
    net: IpNet,
    present: &[IpNet],
    object: &Object,
) -> Result<(), CniError> {
    for other in present {
        let overlaps = other.contains(&net.network()) || net.contains(&other.network());
        let in_the_way = Family::of_net(net) == Family::V4 || overlaps;
        if !in_the_way {
            continue;
        }
        if !config.force_address {
            if !is_predecessor(*other, net, object) {
                let msg = format!(
                    "failed to set bridge addr: {:?} already has an IP address different from {net}",
                    config.bridge.as_str()
                );
                let details =
                    format!("it has {other}: remove it, or let \"forceAddress\": true in the config do it");
                return Err(CniError::new(Code::Internal, msg).with_details(details));
            }
            // Pods of the node's subnet of before still have it as their gateway.
            if host_local::is_in_use(object, *other) {
                continue;
            }
        }
        match host.change_one(&address::delete(index, *other)) {
            Err(error) if error.is(Errno::EADDRNOTAVAIL) => {}
            Err(source) => return Err(GatewayError { verb: "remove", net: *other, source }.into()),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// True if `other` was the gateway of another subnet that this node had before: a subnet of the same size in a
/// network that the config has a route to, and its first address.
fn is_predecessor(other: IpNet, net: IpNet, object: &Object) -> bool {
    let ipam = object.field("ipam").and_then(Value::as_object);
    let routes = ipam.and_then(|ipam| ipam.field("routes")).and_then(Value::as_array).unwrap_or_default();
    let networks = routes.iter().filter_map(|route| {
        parse_cidr(route.as_object()?.field("dst")?.as_str()?).ok().map(|network| network.trunc())
    });
    let in_one_network = networks
        .filter(|network| network.prefix_len() > 0)
        .any(|network| network.contains(&other.addr()) && network.contains(&net.addr()));
    in_one_network
        && other.prefix_len() == net.prefix_len()
        && other.network() != net.network()
        && other.addr() == first_host(other)
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
