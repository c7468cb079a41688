//! CHECK: the kernel still has what ADD made.

use flannel_core::family::Family;
use flannel_core::json::{Object, Value};
use flannel_core::link::LinkName;
use flannel_core::message::link::LinkRecord;
use flannel_core::message::route::RouteRecord;

use super::config::Config;
use super::spoof;
use crate::environment::Environment;
use crate::error::CniError;
use crate::kernel::{Found, Kernel};
use crate::native::is_kind;
use crate::native::masquerade::Masquerade;
use crate::netns::Netns;
use crate::result::{CniResult, Interface, Route};
use crate::version;

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

pub(super) fn check(object: &Object, environment: &Environment) -> Result<(), CniError> {
    let config = Config::parse(object, &environment.args)?;
    let prev_result = object.field("prevResult").and_then(Value::as_object).ok_or(Difference::NoResult)?;
    let result = CniResult::from_prev_result(prev_result, version::of_config(object)?)?;
    let netns = Netns::open(&environment.netns)?;
    let mut host = Kernel::open()?;
    let mut pod = netns.enter(Kernel::open)??;

    let listed = |wanted: &dyn Fn(&&Interface) -> bool, name: &str| {
        result.interfaces.iter().find(wanted).ok_or_else(|| Difference::NotListed(name.to_owned()))
    };
    let bridge_name = config.bridge.as_str();
    let bridge = listed(&|one| one.name == bridge_name && one.sandbox.is_empty(), bridge_name)?;
    // Without an address, a bridge has the hardware address of whatever port it has just then.
    let mac = if config.gateway { bridge.mac.clone() } else { String::new() };
    let bridge = find(&mut host, &Interface { mac, ..bridge.clone() }, "bridge")?;
    let sandbox = environment.netns.display().to_string();
    let ifname = environment.ifname.as_str();
    let container = listed(&|one| one.name == ifname && one.sandbox == sandbox, ifname)?;
    let container = find(&mut pod, container, "veth")?.record;
    // Only what the config asks for: others may sniff.
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
            && link.master == Some(bridge.record.index)
    };
    let Some(port) = links.iter().find(port) else {
        return Err(Difference::NoPeer(ifname.to_owned(), bridge_name.to_owned()).into());
    };
    if let Some(vlans) = &config.vlans
        && !(bridge.record.vlan_filtering && vlans.are_of(&host.vlans(port.index)?))
    {
        return Err(Difference::Vlans(port.name.to_string()).into());
    }

    if let (true, Some(mac)) = (config.spoof_check, container.link.mac) {
        spoof::Filter::of(environment).check(&port.name, mac)?;
    }

    let addresses = pod.addresses(container.index, &Family::ALL)?;
    for ip in &result.ips {
        if !addresses.iter().any(|record| record.facts.net == ip.address) {
            return Err(Difference::Address(ip.address.to_string(), ifname.to_owned()).into());
        }
    }
    let routes = pod.routes()?;
    for route in &result.routes {
        if !routes.iter().any(|record| is_there(route, record)) {
            return Err(Difference::Route(route.dst.to_string()).into());
        }
    }
    if config.masquerade.is_some() {
        let nets: Vec<_> = result.ips.iter().map(|ip| ip.address).collect();
        Masquerade::new(object, environment).check(&nets)?;
    }
    Ok(())
}

/// By destination, and by gateway where the result names one. A route of another table is not looked for.
fn is_there(route: &Route, record: &RouteRecord) -> bool {
    route.table.is_some_and(|table| table != 0)
        || record.destination == route.dst.trunc()
            && route.gw.is_none_or(|gw| record.hops.iter().any(|hop| hop.gateway == Some(gw)))
}

fn find(kernel: &mut Kernel, interface: &Interface, kind: &'static str) -> Result<Found, CniError> {
    let name: LinkName = interface.name.parse()?;
    let found = kernel.link(&name)?.ok_or_else(|| Difference::Missing(interface.name.clone()))?;
    if !is_kind(&found.record, kind) {
        let text = format!("{:?}", found.record.link.kind);
        return Err(Difference::Kind { name: interface.name.clone(), found: text, expected: kind }.into());
    }
    check_mac(interface, &found.record)?;
    Ok(found)
}

fn check_mac(interface: &Interface, found: &LinkRecord) -> Result<(), Difference> {
    let mac = found.link.mac.map_or_else(String::new, |mac| mac.to_string());
    if interface.mac.is_empty() || interface.mac == mac {
        return Ok(());
    }
    Err(Difference::Mac { name: interface.name.clone(), found: mac, expected: interface.mac.clone() })
}
