//! CHECK: compares the kernel with the result of ADD.

use flannel_core::family::Family;
use flannel_core::link::LinkName;
use flannel_core::message::link::LinkRecord;
use flannel_core::message::route::RouteRecord;

use super::config::{Config, is_layer3};
use super::spoof;
use crate::environment::Command;
use crate::error::CniError;
use crate::kernel::{Kernel, is_kind};
use crate::native::ipam;
use crate::native::masquerade::Masquerade;
use crate::netns::Netns;
use crate::request::Request;
use crate::result::{CniResult, Interface, Route};

/// Compares the container's connection with the result of ADD.
pub(super) fn check(request: &Request) -> Result<(), CniError> {
    if is_layer3(&request.config) {
        ipam::call(request, Command::Check)?;
    }
    let config = Config::parse(request)?;
    let missing = || CniError::internal("Required prevResult missing");
    let result = request.prev_result()?.ok_or_else(missing)?;
    let netns = Netns::open(&request.environment.netns)?;
    let mut host = Kernel::open()?;
    let mut pod = netns.enter(Kernel::open)??;
    let container = check_interfaces(request, &config, &result, &mut host, &mut pod)?;

    let addresses = pod.addresses(container.index, &Family::ALL)?;
    for ip in &result.ips {
        let there = addresses.iter().any(|record| record.facts.net == ip.address);
        ensure(there, || format!("address {} is missing on {}", ip.address, container.name))?;
    }
    let routes = pod.routes()?;
    for route in &result.routes {
        let there = routes.iter().any(|record| exists(route, record));
        ensure(there, || format!("route {} is missing", route.dst))?;
    }
    if config.masquerade {
        let nets: Vec<_> = result.ips.iter().map(|ip| ip.address).collect();
        Masquerade::new(request).check(&nets)?;
    }
    Ok(())
}

fn ensure(condition: bool, difference: impl FnOnce() -> String) -> Result<(), CniError> {
    if condition { Ok(()) } else { Err(CniError::internal(difference())) }
}

/// Returns the container's interface.
fn check_interfaces(
    request: &Request,
    config: &Config,
    result: &CniResult,
    host: &mut Kernel,
    pod: &mut Kernel,
) -> Result<LinkRecord, CniError> {
    let listed = |wanted: &dyn Fn(&&Interface) -> bool, name: &str| {
        let missing = || CniError::internal(format!("prevResult has no interface {name:?}"));
        result.interfaces.iter().find(wanted).ok_or_else(missing)
    };
    let bridge_name = config.bridge.as_str();
    let bridge = listed(&|one| one.name == bridge_name && one.sandbox.is_empty(), bridge_name)?;
    // Without an address, a bridge has the hardware address of one of its ports, which may change.
    let mac = if config.gateway { bridge.mac.clone() } else { String::new() };
    let bridge = find(host, &Interface { mac, ..bridge.clone() }, "bridge")?;
    let sandbox = request.environment.netns.display().to_string();
    let ifname = request.environment.attachment.ifname.as_str();
    let container = listed(&|one| one.name == ifname && one.sandbox == sandbox, ifname)?;
    let container = find(pod, container, "veth")?;
    // Only what the config requests: sniffers may set it as well.
    let promiscuous = bridge.promiscuous || !config.promiscuous;
    ensure(promiscuous, || format!("bridge {bridge_name:?} is not promiscuous"))?;

    let links = host.links()?;
    let port = |link: &&LinkRecord| {
        let listed = result
            .interfaces
            .iter()
            .any(|one| one.sandbox.is_empty() && one.name == link.name.as_str() && has_mac(one, link));
        listed
            && link.peer == Some(container.index)
            && container.peer == Some(link.index)
            && link.master == Some(bridge.index)
    };
    let port = links.iter().find(port).ok_or_else(|| {
        let what = format!("the peer of {ifname:?} and a port of {bridge_name:?}");
        CniError::internal(format!("no interface of prevResult is {what}"))
    })?;
    if let Some(vlans) = &config.vlans {
        let there = bridge.vlan_filtering && vlans.are_of(&host.vlans(port.index)?);
        ensure(there, || format!("port {} is not in its VLANs", port.name))?;
    }
    if let (true, Some(mac)) = (config.spoof_check, container.link.mac) {
        spoof::Filter::of(&request.environment).check(&port.name, mac)?;
    }
    Ok(container)
}

/// Whether a route exists: compares the destination and, if the result has one, the gateway. Routes of other tables are not checked.
fn exists(route: &Route, record: &RouteRecord) -> bool {
    route.table.is_some_and(|table| table != 0)
        || record.destination == route.dst.trunc()
            && route.gw.is_none_or(|gw| record.hops.iter().any(|hop| hop.gateway == Some(gw)))
}

fn find(kernel: &mut Kernel, interface: &Interface, kind: &'static str) -> Result<LinkRecord, CniError> {
    let name: LinkName = interface.name.parse()?;
    let missing = || CniError::internal(format!("interface {:?} is missing", interface.name));
    let found = kernel.link(&name)?.ok_or_else(missing)?;
    ensure(is_kind(&found, kind), || format!("interface {name} is a {:?}, not a {kind}", found.link.kind))?;
    let (mac, listed) = (Interface::of(&found, String::new()).mac, &interface.mac);
    ensure(has_mac(interface, &found), || format!("interface {name} has the MAC {mac}, not {listed}"))?;
    Ok(found)
}

fn has_mac(interface: &Interface, found: &LinkRecord) -> bool {
    interface.mac.is_empty() || interface.mac == Interface::of(found, String::new()).mac
}
