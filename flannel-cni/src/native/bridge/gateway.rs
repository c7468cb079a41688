//! The gateway: its addresses, and the bridge or VLAN interface that has them.

use flannel_core::family::Family;
use flannel_core::message::address;
use flannel_core::message::link::{self, LinkRecord, LinkSettings};
use ipnet::IpNet;
use nix::errno::Errno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::config::Config;
use super::forwarding;
use super::pod::with_broadcast;
use crate::error::{CniError, Context};
use crate::kernel::Kernel;
use crate::native::host_local;
use crate::netns::HostLock;
use crate::result::{CniResult, Route};

/// Fills in the interface and the gateway of each address, and the default routes.
pub(super) fn complete(config: &Config, result: &mut CniResult) {
    for at in 0..result.ips.len() {
        let ip = &mut result.ips[at];
        // The index of the container's interface in the result.
        ip.interface = Some(2);
        let family = Family::of_net(ip.address);
        if ip.gateway.is_none() && config.gateway {
            ip.gateway = Some(first_host(ip.address));
        }
        let default = family.any();
        // A default route without a gateway gets this gateway when it is set.
        if config.default_gateway && !result.routes.iter().any(|route| route.dst == default) {
            result.routes.push(Route { gw: ip.gateway, ..Route::to(default) });
        }
    }
}

/// The gateways' addresses on a bridge, or on the interface of a VLAN.
pub(super) struct Gateway<'a> {
    pub(super) host: &'a mut Kernel,
    pub(super) config: &'a Config,
    pub(super) link: &'a LinkRecord,
    pub(super) result: &'a CniResult,
    /// The directory of the addresses in use, from host-local.
    pub(super) allocations: Option<&'a Path>,
}

impl Gateway<'_> {
    /// Sets the addresses and lets the host forward packets of their families.
    pub(super) fn ensure(mut self) -> Result<(), CniError> {
        let (index, result) = (self.link.index, self.result);
        let wanted: Vec<IpNet> = result
            .ips
            .iter()
            .filter_map(|ip| Some(IpNet::new_assert(ip.gateway?, ip.address.prefix_len())))
            .collect();
        let families: Vec<Family> = Family::ALL
            .into_iter()
            .filter(|family| wanted.iter().any(|net| Family::of_net(*net) == *family))
            .collect();
        let present = self.nets(&families)?;
        let settled = |net| present.contains(net) && self.others(&present, &wanted, *net).is_empty();
        if !wanted.iter().all(settled) {
            // Another ADD may change the addresses, of this subnet or of the node's former one.
            let _lock = HostLock::take()?;
            let present = self.nets(&families)?;
            for net in &wanted {
                let others = self.others(&present, &wanted, *net);
                self.make_room(*net, &others)?;
                if present.contains(net) {
                    continue;
                }
                match self.host.change_one(&address::add(&with_broadcast(index, *net))) {
                    Err(error) if error.is(Errno::EEXIST) => {}
                    added => {
                        added.context(|| format!("failed to set bridge addr: could not add {net}"))?;
                        pin_mac(self.host, self.link)?;
                    }
                }
            }
        }
        for family in families {
            forwarding::enable(self.host, family)?;
        }
        Ok(())
    }

    fn nets(&mut self, families: &[Family]) -> Result<Vec<IpNet>, CniError> {
        let addresses = self.host.addresses(self.link.index, families)?;
        Ok(addresses.iter().map(|record| record.facts.net).collect())
    }

    /// Returns the addresses that conflict with `net`: for IPv4 every other one, for IPv6 those that it overlaps with and that of the
    /// node's former subnet, which may belong to another node now.
    fn others(&self, present: &[IpNet], wanted: &[IpNet], net: IpNet) -> Vec<IpNet> {
        let conflicts = |other: &&IpNet| {
            Family::of_net(**other) == Family::of_net(net)
                && (Family::of_net(net) == Family::V4
                    || overlap(**other, net)
                    || self.is_predecessor(**other, net))
        };
        present.iter().filter(|other| !wanted.contains(other)).filter(conflicts).copied().collect()
    }

    /// Removes addresses that conflict with `net`, except those that pods still use.
    fn make_room(&mut self, net: IpNet, conflicting: &[IpNet]) -> Result<(), CniError> {
        let force = self.config.force_address;
        let is_in_use = |net| self.allocations.is_some_and(|directory| host_local::is_in_use(directory, net));
        for other in conflicting {
            if !force {
                // The gateway of running pods: of the node's former subnet, or of another range.
                if is_beside(*other, net) && is_in_use(*other) {
                    continue;
                }
                if !self.is_predecessor(*other, net) {
                    return Err(self.conflict(*other, net));
                }
            }
            match self.host.change_one(&address::delete(self.link.index, *other)) {
                Err(error) if error.is(Errno::EADDRNOTAVAIL) => {}
                removed => {
                    removed.context(|| format!("failed to set bridge addr: could not remove {other}"))?;
                }
            }
            // An ADD that began with the old subnet may have allocated an address of it meanwhile, and seen its gateway.
            if !force && is_in_use(*other) {
                // It may have restored the gateway as well, so ignore errors.
                let _ = self.host.change_one(&address::add(&with_broadcast(self.link.index, *other)));
            }
        }
        Ok(())
    }

    fn conflict(&self, other: IpNet, net: IpNet) -> CniError {
        let name = self.link.name.as_str();
        let what = if name == self.config.bridge.as_str() {
            "failed to set bridge addr"
        } else {
            "failed to set vlan interface for bridge with addr"
        };
        let msg = format!("{what}: {name:?} already has an IP address different from {net}");
        let details =
            format!("it has {other}: remove that address, or set \"forceAddress\": true in the config");
        CniError::internal(msg).with_details(details)
    }

    /// Whether `other` was the gateway of the node's former subnet: the first address of a subnet of the same size, in a network that the
    /// result has a route to. Only host-local shows which addresses are in use, so that the gateway of pods is not removed.
    fn is_predecessor(&self, other: IpNet, net: IpNet) -> bool {
        let alike = other.prefix_len() == net.prefix_len() && other.network() != net.network();
        let networks = self.result.routes.iter().map(|route| route.dst.trunc());
        alike
            && self.allocations.is_some()
            && other.addr() == first_host(other)
            && networks
                .filter(|network| network.prefix_len() > 0)
                .any(|network| network.contains(&other.addr()) && network.contains(&net.addr()))
    }
}

/// Makes the bridge keep its hardware address, which pods will have in their neighbour tables.
fn pin_mac(host: &mut Kernel, bridge: &LinkRecord) -> Result<(), CniError> {
    let settings = LinkSettings { mac: bridge.link.mac, ..LinkSettings::default() };
    Ok(host.change_one(&link::set(bridge.index, &settings))?)
}

/// Whether `other` may be the gateway of a range apart from that of `net`.
fn is_beside(other: IpNet, net: IpNet) -> bool {
    !overlap(other, net) && other.addr() == first_host(other)
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// Returns the first address after that of the network.
fn first_host(net: IpNet) -> IpAddr {
    match net {
        IpNet::V4(net) => Ipv4Addr::from(u32::from(net.network()) | 1).into(),
        IpNet::V6(net) => Ipv6Addr::from(u128::from(net.network()) | 1).into(),
    }
}
