//! bridge: connects a container to a bridge by a veth pair and gives the bridge the gateway's address.
//!
//! Names, addresses, routes and settings are those of Go's plugin. Improvements: the bridge has its hardware address from
//! the start, so that it never adopts a port's; IPv6 addresses are usable when ADD returns; nothing sleeps; an ADD
//! that fails undoes its steps; DEL accepts a path that is no longer a namespace.

use flannel_core::link::{LinkName, Mac};
use flannel_core::message::link::{self, LinkRecord, LinkSettings};
use nix::errno::Errno;
use std::time::Duration;

use super::ipam::{self, Ipam};
use super::masquerade::{self, Masquerade, Rules};
use crate::environment::Command;
use crate::error::{CniError, Context};
use crate::kernel::{Kernel, KernelError, is_kind};
use crate::netns::{HostLock, Netns};
use crate::plugin::Plugin;
use crate::request::{Request, valid_attachments};
use crate::result::{CniResult, Interface};
use crate::sysctl;
use crate::undo::Undo;
use crate::version::Version;

mod check;
mod config;
mod forwarding;
mod gateway;
mod pod;
mod spoof;
mod veth;
mod vlan;

use check::check;
pub(crate) use config::Config;
use gateway::Gateway;

/// The bridge plugin.
pub(crate) const PLUGIN: Plugin = Plugin {
    name: "bridge",
    oldest: Version::V0_1_0,
    add: |request| add(request)?.to_value(request.version),
    del,
    check,
    gc,
    status,
};

/// How long a port may take to come up, which is the kernel's own delay, because both ends are up.
const PORT_TIMEOUT: Duration = Duration::from_millis(2550);

/// Connects a container.
pub(crate) fn add(request: &Request) -> Result<CniResult, CniError> {
    let config = Config::parse(request)?;
    config.check_conflicts(request.version)?;
    let mut addition = Addition { request, config: &config, host: Kernel::open()?, undo: Undo::default() };
    let result = addition.run();
    if result.is_err() {
        addition.undo.run(&mut addition.host);
    }
    result
}

/// An ADD in progress.
struct Addition<'a> {
    request: &'a Request,
    config: &'a Config,
    host: Kernel,
    undo: Undo<'a>,
}

impl Addition<'_> {
    fn run(&mut self) -> Result<CniResult, CniError> {
        let (config, environment) = (self.config, &self.request.environment);
        let netns = Netns::open(&environment.netns)?;
        let ipam = Ipam::find(self.request)?;
        let rules = match &ipam {
            Some(ipam) if config.masquerade => {
                let families = ipam.families();
                // Not while another plugin allocates addresses: a process that it leaves behind would keep the lock.
                if !families.is_empty() {
                    netns.hold()?;
                }
                let masquerade = Masquerade::new(self.request);
                Some(masquerade.prepare(config.masquerade_backend, &families)?)
            }
            _ => None,
        };
        let mut bridge = ensure_bridge(&mut self.host, config)?;
        let port = self.create_port(&mut bridge, &netns)?;
        let mut result = CniResult::default();
        if let Some(ipam) = &ipam {
            result = ipam.add(self.request)?;
            gateway::complete(config, &mut result);
        }
        if rules.is_some() {
            netns.hold()?;
        }
        let rules = rules.map(|rules| self.start_rules(rules, &result)).transpose()?;
        let container = pod::configure(&netns, &environment.attachment.ifname, &result, config)?;
        let vlan_gateway = match &ipam {
            Some(ipam) if config.gateway => self.ensure_gateway(&bridge, ipam, &result)?,
            _ => None,
        };
        rules.map_or(Ok(()), Rules::finish)?;
        if !config.container_down && !self.host.wait_running(&port.name, PORT_TIMEOUT)? {
            let msg = format!("bridge port {} did not come up within {PORT_TIMEOUT:?}", port.name);
            return Err(CniError::internal(msg));
        }
        // A bridge whose hardware address was not set has that of a port, which may be the new one.
        if let Some(found) = self.host.link(&config.bridge)? {
            bridge = found;
        }
        let on_host = |found: &LinkRecord| Interface::of(found, String::new());
        let sandbox = environment.netns.display().to_string();
        result.interfaces = vec![on_host(&bridge), on_host(&port), Interface::of(&container, sandbox)];
        result.interfaces.extend(vlan_gateway.iter().map(on_host));
        result.dns = config.dns.clone().unwrap_or(result.dns);
        Ok(result)
    }

    /// Creates the pair and configures the port, which cannot receive anything yet, because its other end is down.
    fn create_port(&mut self, bridge: &mut LinkRecord, netns: &Netns) -> Result<LinkRecord, CniError> {
        let (request, config, host) = (self.request, self.config, &mut self.host);
        let mac = match config.mac {
            // The filter is set before the kernel has chosen an address.
            None if config.spoof_check => Some(veth::random_mac()?),
            mac => mac,
        };
        let peer = request.environment.attachment.ifname.parse()?;
        let port = veth::create(host, veth::new(bridge, config.mtu, peer)?, netns, mac)?;
        if config.layer3 {
            // Registered first, so that it runs last: no other container gets an address while this interface has it.
            self.undo.push("the addresses", |_| ipam::call(request, Command::Del));
        }
        let (name, index) = (&port.name, port.index);
        self.undo.push(name.as_str(), move |host| Ok(host.change_one(&link::delete(index))?));
        if let (true, Some(mac)) = (config.spoof_check, mac) {
            let filter = || spoof::Filter::of(&request.environment);
            self.undo.push("the filter", move |_| filter().remove());
            filter().set(name, mac)?;
        }
        sysctl::net().try_set(&format!("ipv6/conf/{name}/accept_ra"), "0");
        let settings = LinkSettings {
            hairpin: config.hairpin.then_some(true),
            isolated: config.isolated.then_some(true),
            ..LinkSettings::default()
        };
        if settings != LinkSettings::default() {
            host.change_one(&link::set(index, &settings)).context(|| format!("failed to set up {name}"))?;
        }
        set_mtu(host, config, bridge)?;
        if let Some(vlans) = &config.vlans {
            vlans.apply(host, &port)?;
        }
        Ok(port)
    }

    fn start_rules<'r>(&mut self, rules: Rules<'r>, result: &CniResult) -> Result<Rules<'r>, CniError> {
        let request = self.request;
        self.undo.push("the masquerade rules", |_| {
            Masquerade::new(request).remove()?.finish()?;
            Ok(())
        });
        let nets: Vec<_> = result.ips.iter().map(|ip| ip.address).collect();
        rules.start(&nets)
    }

    /// Returns the interface of the VLAN, if the gateway is in one.
    fn ensure_gateway(
        &mut self,
        bridge: &LinkRecord,
        ipam: &Ipam,
        result: &CniResult,
    ) -> Result<Option<LinkRecord>, CniError> {
        let (config, host) = (self.config, &mut self.host);
        let vlan = config.vlans.as_ref().and_then(|vlans| vlans.access);
        let vlan_gateway = vlan.map(|vlan| vlan::ensure_gateway(host, bridge, vlan)).transpose()?;
        let link = vlan_gateway.as_ref().unwrap_or(bridge);
        Gateway { host, config, link, result, allocations: ipam.directory() }.ensure()?;
        Ok(vlan_gateway)
    }
}

/// Disconnects a container: removes its veth pair, its rules and its addresses.
fn del(request: &Request) -> Result<(), CniError> {
    let environment = &request.environment;
    let layer3 = config::is_layer3(&request.config);
    let netns = Netns::open_if_present(&environment.netns)?;
    if let Some(netns) = &netns {
        netns.hold()?;
    }
    // Rules are found without the interface, so that a failed DEL can be repeated.
    let rules = layer3.then(|| Masquerade::new(request).remove()).transpose();
    let interface = netns.map_or(Ok(()), |netns| delete_link(&netns, &environment.attachment.ifname));
    if let Some(rules) = rules? {
        rules.finish()?;
    }
    interface?;
    if spoof::is_wanted(&request.config) {
        spoof::Filter::of(environment).remove()?;
    }
    // Last: no other container gets an address that still has rules.
    if layer3 { ipam::call(request, Command::Del) } else { Ok(()) }
}

/// Removes rules and addresses of containers that no longer exist; everything else was removed with their namespaces.
fn gc(request: &Request) -> Result<(), CniError> {
    let Some(valid) = valid_attachments(&request.config)? else { return Ok(()) };
    if spoof::is_wanted(&request.config) {
        spoof::gc(&valid)?;
    }
    if !config::is_layer3(&request.config) {
        return Ok(());
    }
    // Addresses are released even if rules are in the way.
    let rules = masquerade::gc(request, &valid);
    ipam::call(request, Command::Gc)?;
    rules
}

/// Succeeds if an ADD could run with the config.
fn status(request: &Request) -> Result<(), CniError> {
    let config = Config::parse(request)?;
    if config.layer3 { ipam::call(request, Command::Status) } else { Ok(()) }
}

/// Returns the bridge, up; creates it if it does not exist.
fn ensure_bridge(host: &mut Kernel, config: &Config) -> Result<LinkRecord, CniError> {
    if let Some(bridge) = host.link(&config.bridge)?
        && missing_settings(config, &bridge).is_none()
    {
        return checked(config, bridge);
    }
    // Only the first process creates it, and no other one sees an incomplete bridge.
    let _lock = HostLock::take()?;
    let name = config.bridge.as_str();
    let failed = |error: KernelError| {
        let lacks_vlans = config.vlans.is_some() && error.is(Errno::EOPNOTSUPP);
        let hint = if lacks_vlans { ": the kernel has no CONFIG_BRIDGE_VLAN_FILTERING" } else { "" };
        CniError::internal(format!("failed to create bridge {name:?}: {error}{hint}"))
    };
    let mut bridge = host.link(&config.bridge)?;
    if bridge.is_none() {
        let new = link::NewBridge {
            name: config.bridge.clone(),
            mtu: config.mtu,
            // A bridge with its own hardware address keeps it when ports are added and removed.
            mac: if config.gateway { Some(veth::random_mac()?) } else { None },
            vlan_filtering: config.vlans.is_some(),
        };
        match host.change_one(&link::create_bridge(&new)) {
            // Another plugin has created it.
            Err(error) if error.is(Errno::EEXIST) => {}
            other => other.map_err(failed)?,
        }
        bridge = host.link(&config.bridge)?;
    }
    let mut bridge = checked(config, bridge.ok_or_else(|| vanished(&config.bridge))?)?;
    sysctl::net().try_set(&format!("ipv6/conf/{name}/accept_ra"), "0");
    if let Some(mut settings) = missing_settings(config, &bridge) {
        if has_no_mac(config, &bridge) {
            settings.mac = Some(veth::random_mac()?);
            bridge.link.mac = settings.mac;
        }
        host.change_one(&link::set(bridge.index, &settings)).map_err(failed)?;
    }
    Ok(bridge)
}

/// Go's text before a type error.
fn load() -> String {
    "failed to load netconf".to_owned()
}

fn vanished(link: &LinkName) -> CniError {
    CniError::internal(format!("{link} was removed while it was set up"))
}

fn checked(config: &Config, bridge: LinkRecord) -> Result<LinkRecord, CniError> {
    if is_kind(&bridge, "bridge") {
        return Ok(bridge);
    }
    let name = config.bridge.as_str();
    Err(CniError::internal(format!(
        "failed to create bridge {name:?}: {name:?} already exists but is not a bridge"
    )))
}

/// Returns the settings of the config that a bridge lacks; its MTU depends on its ports and is set later.
fn missing_settings(config: &Config, bridge: &LinkRecord) -> Option<LinkSettings> {
    let wanted = LinkSettings {
        up: (!bridge.link.up || has_no_mac(config, bridge)).then_some(true),
        promiscuous: (config.promiscuous && !bridge.promiscuous).then_some(true),
        vlan_filtering: (config.vlans.is_some() && !bridge.vlan_filtering).then_some(true),
        ..LinkSettings::default()
    };
    (wanted != LinkSettings::default()).then_some(wanted)
}

/// Whether a bridge lacks a hardware address. A bridge that another program created has none while it has no ports; as a gateway it
/// needs one of its own.
fn has_no_mac(config: &Config, bridge: &LinkRecord) -> bool {
    config.gateway && !bridge.link.mac.is_some_and(Mac::is_unicast)
}

/// Gives a bridge the largest MTU that all its ports support. The kernel does so by itself until the MTU is set explicitly.
fn set_mtu(host: &mut Kernel, config: &Config, bridge: &mut LinkRecord) -> Result<(), CniError> {
    let Some(mtu) = config.mtu.filter(|mtu| bridge.link.mtu != *mtu) else { return Ok(()) };
    let index = bridge.index;
    let links = host.links()?;
    let ports = links.iter().filter(|link| link.master == Some(index)).map(|link| link.link.mtu);
    let wanted = ports.min().unwrap_or(mtu).min(mtu);
    let Some(now) = links.iter().find(|link| link.index == index) else { return Ok(()) };
    bridge.link.mtu = wanted;
    if now.link.mtu == wanted {
        return Ok(());
    }
    let settings = LinkSettings { mtu: Some(wanted), ..LinkSettings::default() };
    host.change_one(&link::set(index, &settings))
        .context(|| format!("failed to set the MTU of {} to {wanted}", config.bridge))
}

fn delete_link(netns: &Netns, ifname: &str) -> Result<(), CniError> {
    let name: LinkName = ifname.parse()?;
    let mut pod = netns.enter(Kernel::open)??;
    let Some(found) = pod.link(&name)? else { return Ok(()) };
    pod.delete(found.index).context(|| format!("failed to delete {ifname}"))
}
