//! CHECK: compares the kernel with the result of ADD.

use flannel_core::family::Family;
use flannel_core::link::LinkName;
use flannel_core::message::link::LinkRecord;
use flannel_core::message::route::RouteRecord;

use super::config::{Config, is_layer3};
use super::spoof;
use crate::error::CniError;
use crate::kernel::Kernel;
use crate::links::is_kind;
use crate::native::host_local;
use crate::native::masquerade::Masquerade;
use crate::netns::Netns;
use crate::request::Request;
use crate::result::{CniResult, Interface, Route};

/// A difference between the result of ADD and the kernel.
#[derive(Debug, thiserror::Error)]
enum Difference {
    #[error("Required prevResult missing")]
    NoResult,
    #[error("prevResult has no interface {0:?}")]
    NotListed(String),
    #[error("interface {0:?} is missing")]
    Missing(String),
    #[error("interface {name:?} is a {found}, not a {expected}")]
    Kind { name: String, found: String, expected: &'static str },
    #[error("interface {name:?} has the MAC {found}, not {expected}")]
    Mac { name: String, found: String, expected: String },
    #[error("no interface of prevResult is the peer of {0:?} and a port of {1:?}")]
    NoPeer(String, String),
    #[error("bridge {0:?} is not promiscuous")]
    NotPromiscuous(String),
    #[error("port {0:?} is not in its VLANs")]
    Vlans(String),
    #[error("address {0} is missing on {1:?}")]
    Address(String, String),
    #[error("route {0} is missing")]
    Route(String),
}

/// Compares the container's connection with the result of ADD.
pub(crate) fn check(request: &Request) -> Result<(), CniError> {
    if is_layer3(&request.config) {
        host_local::check(request)?;
    }
    let config = Config::parse(request)?;
    let result = request.prev_result()?.ok_or(Difference::NoResult)?;
    let netns = Netns::open(&request.environment.netns)?;
    let mut host = Kernel::open()?;
    let mut pod = netns.enter(Kernel::open)??;
    let container = check_interfaces(request, &config, &result, &mut host, &mut pod)?;

    let addresses = pod.addresses(container.index, &Family::ALL)?;
    for ip in &result.ips {
        if !addresses.iter().any(|record| record.facts.net == ip.address) {
            return Err(Difference::Address(ip.address.to_string(), container.name.to_string()).into());
        }
    }
    let routes = pod.routes()?;
    for route in &result.routes {
        if !routes.iter().any(|record| exists(route, record)) {
            return Err(Difference::Route(route.dst.to_string()).into());
        }
    }
    if config.masquerade.is_some() {
        let nets: Vec<_> = result.ips.iter().map(|ip| ip.address).collect();
        Masquerade::new(request).check(&nets)?;
    }
    Ok(())
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
        result.interfaces.iter().find(wanted).ok_or_else(|| Difference::NotListed(name.to_owned()))
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
    if config.promiscuous && !bridge.promiscuous {
        return Err(Difference::NotPromiscuous(bridge_name.to_owned()).into());
    }

    let links = host.links()?;
    let port = |link: &&LinkRecord| {
        let listed = result.interfaces.iter().any(|one| {
            one.sandbox.is_empty() && one.name == link.name.as_str() && check_mac(one, link).is_ok()
        });
        listed
            && link.peer == Some(container.index)
            && container.peer == Some(link.index)
            && link.master == Some(bridge.index)
    };
    let Some(port) = links.iter().find(port) else {
        return Err(Difference::NoPeer(ifname.to_owned(), bridge_name.to_owned()).into());
    };
    if let Some(vlans) = &config.vlans
        && !(bridge.vlan_filtering && vlans.are_of(&host.vlans(port.index)?))
    {
        return Err(Difference::Vlans(port.name.to_string()).into());
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
    let found = kernel.link(&name)?.ok_or_else(|| Difference::Missing(interface.name.clone()))?;
    if !is_kind(&found, kind) {
        let text = format!("{:?}", found.link.kind);
        return Err(Difference::Kind { name: interface.name.clone(), found: text, expected: kind }.into());
    }
    check_mac(interface, &found)?;
    Ok(found)
}

fn check_mac(interface: &Interface, found: &LinkRecord) -> Result<(), Difference> {
    let mac = found.link.mac.map_or_else(String::new, |mac| mac.to_string());
    if interface.mac.is_empty() || interface.mac == mac {
        return Ok(());
    }
    Err(Difference::Mac { name: interface.name.clone(), found: mac, expected: interface.mac.clone() })
}
