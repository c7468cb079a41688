//! The container's side: settings, addresses, routes.

use flannel_core::dataplane::PROTOCOL_BOOT;
use flannel_core::family::Family;
use flannel_core::link::{IfIndex, LinkName};
use flannel_core::message::address::{self, AddressRecord, NewAddress};
use flannel_core::message::link::{self, LinkRecord, LinkSettings};
use flannel_core::message::route::{self, NewRoute};
use flannel_core::message::{Request, Scope};
use ipnet::IpNet;
use nix::errno::Errno;
use std::net::IpAddr;
use std::time::Duration;

use super::config::Config;
use super::vanished;
use crate::error::{CniError, Context};
use crate::kernel::Kernel;
use crate::netns::Netns;
use crate::result::{CniResult, Route};
use crate::sysctl;

/// How long duplicate address detection may take; the default in the kernel is between one and two seconds.
const DETECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Gives the interface its addresses and routes and sets it up, with all requests in one call.
pub(super) fn configure(
    netns: &Netns,
    ifname: &str,
    result: &CniResult,
    config: &Config,
) -> Result<LinkRecord, CniError> {
    let with_v6 = result.ips.iter().any(|ip| Family::of_net(ip.address) == Family::V6);
    let mut pod = netns.enter(|| -> Result<Kernel, CniError> {
        // Without addresses, their user sets them.
        if config.layer3 {
            settings(ifname, with_v6, config.duplicate_detection)?;
        }
        Ok(Kernel::open()?)
    })??;
    let name: LinkName = ifname.parse()?;
    let found = pod.link(&name)?.ok_or_else(|| vanished(&name))?;

    let index = found.index;
    let (requests, steps): (Vec<_>, Vec<_>) = plan(&found, result, config).into_iter().unzip();
    for (outcome, step) in pod.change(&requests)?.into_iter().zip(steps) {
        match outcome {
            Err(error) if step.may_exist && error.is(Errno::EEXIST) => {}
            other => other.context(|| format!("failed to {}", step.text))?,
        }
    }
    if with_v6 && config.duplicate_detection {
        let addresses = netns.enter(|| pod.wait_usable(index, DETECTION_TIMEOUT))??;
        let is_bad = |address: &&AddressRecord| address.duplicate || address.unusable;
        if let Some(AddressRecord { facts, duplicate, .. }) = addresses.iter().find(is_bad) {
            let problem = if *duplicate {
                "DADFAILED state: another interface of its network has it too".to_owned()
            } else {
                format!("tentative state after {DETECTION_TIMEOUT:?}")
            };
            let msg = format!("link {ifname} has address {} in {problem}", facts.net);
            return Err(CniError::internal(msg));
        }
    }
    Ok(found)
}

/// Writes settings that take effect when the interface comes up or that its addresses need.
fn settings(ifname: &str, with_v6: bool, duplicate_detection: bool) -> Result<(), CniError> {
    let v6 = sysctl::Directory::open("ipv6/conf");
    if duplicate_detection {
        v6.try_set(&format!("{ifname}/enhanced_dad"), "1");
    }
    let accept_dad = if duplicate_detection { "1" } else { "0" };
    v6.try_set(&format!("{ifname}/accept_dad"), accept_dad);
    // Notify neighbours at once that the address has a new owner.
    sysctl::net().try_set(&format!("ipv4/conf/{ifname}/arp_notify"), "1");
    v6.try_set(&format!("{ifname}/ndisc_notify"), "1");
    if with_v6 {
        for name in ["lo", ifname] {
            let disabled = format!("{name}/disable_ipv6");
            // On a kernel without IPv6, adding the address fails.
            if v6.get(&disabled).is_some_and(|value| value != "0") {
                v6.set(&disabled, "0")?;
            }
        }
        v6.set(&format!("{ifname}/keep_addr_on_down"), "1")?;
    }
    Ok(())
}

/// What a request does, for errors.
struct Step {
    text: String,
    may_exist: bool,
}

fn plan(link: &LinkRecord, result: &CniResult, config: &Config) -> Vec<(Request, Step)> {
    let (index, name) = (link.index, &link.name);
    let mut planned = Vec::new();
    for ip in &result.ips {
        let mut address = with_broadcast(index, ip.address);
        address.no_dad &= !config.duplicate_detection;
        let text = format!("add IP addr {} to {name}", ip.address);
        planned.push((address::add(&address), Step { text, may_exist: false }));
    }
    if !config.container_down {
        let up = LinkSettings { up: Some(true), ..LinkSettings::default() };
        planned.push((link::set(index, &up), Step { text: format!("set {name} UP"), may_exist: false }));
    }
    for route in &result.routes {
        let gateway = route.gw.or_else(|| gateway_of(result, Family::of_net(route.dst)));
        let via = gateway.map_or_else(String::new, |gateway| format!(" via {gateway}"));
        let step = Step { text: format!("add route '{}{via} dev {name}'", route.dst), may_exist: true };
        planned.push((route::add_beside(&new_route(index, route, gateway)), step));
    }
    planned
}

/// Returns the gateway of the first address of a family.
fn gateway_of(result: &CniResult, family: Family) -> Option<IpAddr> {
    let mut gateways = result.ips.iter().filter_map(|ip| ip.gateway);
    gateways.find(|gateway| Family::of(*gateway) == family)
}

fn new_route(index: IfIndex, route: &Route, gateway: Option<IpAddr>) -> NewRoute {
    let number = |number: i64| u32::try_from(number).ok().filter(|number| *number > 0);
    let mut new = NewRoute::new(route.dst, PROTOCOL_BOOT);
    new.index = Some(index);
    new.gateway = gateway;
    new.metric = number(route.priority).unwrap_or(0);
    new.mtu = number(route.mtu);
    new.advmss = number(route.advmss);
    if let Some(table) = route.table.and_then(number) {
        new.table = table;
    }
    if let Some(scope) = route.scope.and_then(|scope| u8::try_from(scope).ok()) {
        new.scope = Scope(scope);
    }
    new
}

/// Returns an address with the broadcast address that Go's library sets for IPv4.
pub(super) fn with_broadcast(index: IfIndex, net: IpNet) -> NewAddress {
    NewAddress::new(index, net).with_broadcast()
}
