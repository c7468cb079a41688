//! bridge: connects a container to a bridge by a veth pair and gives the bridge the gateway's address.
//!
//! Names, addresses, routes and settings are those of Go's plugin. Mended against it: the bridge has its hardware address from
//! the start, so that it never takes over a port's; IPv6 addresses are usable when ADD returns; nothing sleeps; an ADD
//! that fails takes back the pair and the addresses; a path that is no namespace any more is no error for DEL.

use flannel_core::json::Object;
use flannel_core::link::{LinkName, Mac};
use flannel_core::message::link::{self, LinkSettings, NewVeth};
use nix::errno::Errno;
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::masquerade::{self, Masquerade, Prepared};
use super::{host_local, is_kind};
use crate::environment::Environment;
use crate::error::{CniError, chain, note};
use crate::firewall::Removed;
use crate::kernel::{Found, Kernel, KernelError};
use crate::netns::{HostLock, Netns};
use crate::plugin::{Plugin, Request};
use crate::result::{CniResult, Interface};
use crate::{sysctl, version};

mod check;
mod config;
mod gateway;
mod pod;
mod spoof;
mod vlan;

pub(crate) use config::{Config, check_supported};

/// The bridge plugin.
pub(crate) const PLUGIN: Plugin = Plugin {
    name: "bridge",
    add: |request| {
        supported(request)?;
        let result = add(&request.config, &request.environment)?;
        Ok(result.to_value(version::of_config(&request.config)?)?.to_pretty())
    },
    // Not refused: what can be undone is undone.
    del: |request| del(&request.config, &request.environment).map(|()| String::new()),
    check: |request| {
        supported(request)?;
        check(&request.config, &request.environment).map(|()| String::new())
    },
    gc: |request| gc(&request.config).map(|()| String::new()),
    status: |request| {
        supported(request)?;
        status(&request.config).map(|()| String::new())
    },
};

/// How often another random name is tried.
const NAME_ATTEMPTS: u32 = 10;
/// How long a port may take to come up; both ends are up by then, so this is the kernel's own delay.
const PORT_PATIENCE: Duration = Duration::from_millis(2550);

/// What could not be set up on the host.
#[derive(Debug, thiserror::Error)]
enum BridgeError {
    #[error("failed to create bridge {0:?}: could not add {0:?}")]
    Create(String, #[source] KernelError),
    #[error("failed to create bridge {0:?}: {0:?} already exists but is not a bridge")]
    NoBridge(String),
    #[error("failed to create bridge {0:?}: it went away while it was set up")]
    Vanished(String),
    #[error("failed to create bridge {0:?} with VLANs: the kernel has no CONFIG_BRIDGE_VLAN_FILTERING")]
    NoVlans(String, #[source] KernelError),
    #[error("failed to make veth pair")]
    Veth(#[source] KernelError),
    #[error("container veth name ({0:?}) peer provided ({1:?}) already exists")]
    Exists(String, String),
    #[error("failed to set up {0:?}")]
    Link(String, #[source] KernelError),
    #[error("bridge port {0:?} did not come up within {1:?}")]
    Port(String, Duration),
    #[error("IPAM plugin returned missing IP config")]
    NoAddress,
    #[error("no randomness: {0}")]
    Random(rustix::io::Errno),
}

fn supported(request: &Request) -> Result<(), CniError> {
    check_supported(&request.config).map_err(|error| error.as_cni_error())
}

/// Connects a container.
pub(crate) fn add(object: &Object, environment: &Environment) -> Result<CniResult, CniError> {
    let config = Config::parse(object, &environment.args)?;
    config.check_conflicts()?;
    let mut host = Kernel::open()?;
    let netns = Netns::open(&environment.netns)?;
    let rules = match config.masquerade {
        Some(backend) => {
            netns.hold()?;
            let families = host_local::families(object, environment);
            Some(Masquerade::new(object, environment).prepare(backend, &families)?)
        }
        None => None,
    };
    let bridge = ensure_bridge(&mut host, &config)?;
    let container_mac = match config.mac {
        // The filter is set before the kernel could be asked.
        None if config.spoof_check => Some(Mac::from_seed(random()?)),
        mac => mac,
    };
    let veth = create_veth(&mut host, &config, &bridge, &netns, &environment.ifname, container_mac)?;
    let host = &mut host;
    let config = &config;
    let mut steps = Steps { object, environment, config, host, bridge, veth, netns, container_mac, rules };
    steps.run().inspect_err(|_| steps.undo())
}

/// Disconnects a container: its interface with its pair, its rules and its addresses.
pub(crate) fn del(object: &Object, environment: &Environment) -> Result<(), CniError> {
    let layer3 = config::is_layer3(object);
    let netns = open_netns(environment)?;
    if let Some(netns) = &netns {
        netns.hold()?;
    }
    // Rules are found without the interface: what failed can be repeated.
    let rules = layer3.then(|| Masquerade::new(object, environment).remove()).transpose();
    let interface = netns.map_or(Ok(()), |netns| delete_link(&netns, &environment.ifname));
    if let Some(rules) = rules? {
        rules.finish()?;
    }
    interface?;
    if spoof::is_wanted(object) {
        spoof::Filter::of(environment).remove()?;
    }
    // Last: nobody gets an address that has rules.
    if layer3 { host_local::del(object, environment) } else { Ok(()) }
}

/// The container's namespace, if it is still there. Its interface went with it.
fn open_netns(environment: &Environment) -> Result<Option<Netns>, CniError> {
    if environment.netns.as_os_str().is_empty() {
        return Ok(None);
    }
    match Netns::open(&environment.netns) {
        Err(error) if error.is_gone() => Ok(None),
        other => Ok(Some(other?)),
    }
}

/// Compares the container's connection with the result of ADD.
pub(crate) fn check(object: &Object, environment: &Environment) -> Result<(), CniError> {
    if config::is_layer3(object) {
        host_local::check(object, environment)?;
    }
    check::check(object, environment)
}

/// Collects the rules and addresses of containers that are gone; all else went with their namespaces.
pub(crate) fn gc(object: &Object) -> Result<(), CniError> {
    if spoof::is_wanted(object) {
        spoof::gc(object)?;
    }
    if !config::is_layer3(object) {
        return Ok(());
    }
    masquerade::gc(object)?;
    host_local::gc(object)
}

/// The config is one that an ADD could work with.
pub(crate) fn status(object: &Object) -> Result<(), CniError> {
    Config::parse(object, "")?;
    if config::is_layer3(object) { host_local::status(object) } else { Ok(()) }
}

/// The bridge, up; made if it is not there.
fn ensure_bridge(host: &mut Kernel, config: &Config) -> Result<Found, CniError> {
    if let Some(bridge) = host.link(&config.bridge)?
        && settings_to_mend(config, &bridge).is_none()
    {
        return checked(config, bridge);
    }
    // Only the first one makes it: a bridge that is half made is seen by nobody.
    let _lock = HostLock::take()?;
    let name = || config.bridge.to_string();
    let mut bridge = host.link(&config.bridge)?;
    if bridge.is_none() {
        let new = link::NewBridge {
            name: config.bridge.clone(),
            mtu: config.mtu,
            // A bridge with an address keeps its hardware address, whatever ports come and go.
            mac: if config.gateway { Some(Mac::from_seed(random()?)) } else { None },
            vlan_filtering: config.vlans.is_some(),
        };
        match host.change_one(&link::create_bridge(&new)) {
            // Another plugin was faster.
            Err(error) if error.is(Errno::EEXIST) => {}
            Err(error) if config.vlans.is_some() && error.is(Errno::EOPNOTSUPP) => {
                return Err(BridgeError::NoVlans(name(), error).into());
            }
            other => other.map_err(|error| BridgeError::Create(name(), error))?,
        }
        bridge = host.link(&config.bridge)?;
    }
    let mut bridge = checked(config, bridge.ok_or_else(|| BridgeError::Vanished(name()))?)?;
    sysctl::try_set(&format!("ipv6/conf/{}/accept_ra", config.bridge), "0");
    if let Some(mut settings) = settings_to_mend(config, &bridge) {
        if has_no_mac(config, &bridge) {
            settings.mac = Some(Mac::from_seed(random()?));
            bridge.record.link.mac = settings.mac;
        }
        host.change_one(&link::set(bridge.record.index, &settings)).map_err(|error| {
            if settings.vlan_filtering.is_some() && error.is(Errno::EOPNOTSUPP) {
                BridgeError::NoVlans(name(), error)
            } else {
                BridgeError::Link(name(), error)
            }
        })?;
    }
    Ok(bridge)
}

fn checked(config: &Config, bridge: Found) -> Result<Found, CniError> {
    if is_kind(&bridge.record, "bridge") {
        return Ok(bridge);
    }
    Err(BridgeError::NoBridge(config.bridge.to_string()).into())
}

/// What a bridge lacks of what the config asks for; its MTU depends on its ports and has its turn later.
fn settings_to_mend(config: &Config, bridge: &Found) -> Option<LinkSettings> {
    let wanted = LinkSettings {
        up: (!bridge.record.link.up || has_no_mac(config, bridge)).then_some(true),
        promiscuous: (config.promiscuous && !bridge.promiscuous).then_some(true),
        vlan_filtering: (config.vlans.is_some() && !bridge.record.vlan_filtering).then_some(true),
        ..LinkSettings::default()
    };
    (wanted != LinkSettings::default()).then_some(wanted)
}

/// A bridge that somebody else has made and that has lost all its ports has the address zero until it gets a port; it will be
/// a gateway, so it needs one of its own.
fn has_no_mac(config: &Config, bridge: &Found) -> bool {
    config.gateway && !bridge.record.link.mac.is_some_and(Mac::is_unicast)
}

/// Gives a bridge the largest MTU that all its ports have. The kernel does so by itself until somebody sets one by hand.
fn mend_mtu(host: &mut Kernel, config: &Config, bridge: &mut Found) -> Result<(), CniError> {
    let Some(mtu) = config.mtu.filter(|mtu| bridge.record.link.mtu != *mtu) else { return Ok(()) };
    let index = bridge.record.index;
    let links = host.links()?;
    let ports = links.iter().filter(|link| link.master == Some(index)).map(|link| link.link.mtu);
    let wanted = ports.min().unwrap_or(mtu).min(mtu);
    let Some(now) = links.iter().find(|link| link.index == index) else { return Ok(()) };
    bridge.record.link.mtu = wanted;
    if now.link.mtu == wanted {
        return Ok(());
    }
    let settings = LinkSettings { mtu: Some(wanted), ..LinkSettings::default() };
    let name = || config.bridge.to_string();
    Ok(host.change_one(&link::set(index, &settings)).map_err(|error| BridgeError::Link(name(), error))?)
}

/// The pair: one end in the container, the other a port of the bridge and up.
fn create_veth(
    host: &mut Kernel,
    config: &Config,
    bridge: &Found,
    netns: &Netns,
    ifname: &str,
    mac: Option<Mac>,
) -> Result<Found, CniError> {
    let peer: LinkName = ifname.parse()?;
    let mut attempt = 1;
    let name = loop {
        let name: LinkName = format!("veth{:08x}", u32::from_ne_bytes(random()?)).parse()?;
        let veth = NewVeth {
            name: name.clone(),
            mac: None,
            master: Some(bridge.record.index),
            up: true,
            mtu: config.mtu,
            // Compatibility: that is what the Go plugin's library sends for this end.
            queue_length: Some(0),
            peer: peer.clone(),
            peer_mac: mac,
            peer_netns: Some(netns.file().as_raw_fd()),
        };
        match host.change_one(&link::create_veth(&veth)) {
            Ok(()) => break name,
            Err(error) if error.is(Errno::EEXIST) => {
                if attempt == NAME_ATTEMPTS || host.link(&name)?.is_none() {
                    return Err(BridgeError::Exists(ifname.to_owned(), name.to_string()).into());
                }
                attempt += 1;
            }
            // Whatever happened: no other link has this name.
            Err(error) => {
                delete_by_name(host, &name);
                return Err(BridgeError::Veth(error).into());
            }
        }
    };
    match host.link(&name) {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(BridgeError::Vanished(name.to_string()).into()),
        Err(error) => {
            delete_by_name(host, &name);
            Err(error.into())
        }
    }
}

/// Takes back a link of a name that only this process uses. The error of the ADD is what is told.
fn delete_by_name(host: &mut Kernel, name: &LinkName) {
    if let Ok(Some(found)) = host.link(name)
        && let Err(error) = host.change_one(&link::delete(found.record.index))
    {
        note!("could not take back {name}: {error}");
    }
}

/// An ADD from where the pair stands, so that all before it has nothing to undo.
struct Steps<'a> {
    object: &'a Object,
    environment: &'a Environment,
    config: &'a Config,
    host: &'a mut Kernel,
    bridge: Found,
    veth: Found,
    netns: Netns,
    /// What waits for the addresses.
    rules: Option<Prepared<'a>>,
    /// The container's hardware address, if it was chosen here.
    container_mac: Option<Mac>,
}

impl<'a> Steps<'a> {
    fn run(&mut self) -> Result<CniResult, CniError> {
        self.configure_port()?;
        let mut result = CniResult::default();
        if self.config.layer3 {
            result = host_local::add(self.object, self.environment)?;
            if result.ips.is_empty() {
                return Err(BridgeError::NoAddress.into());
            }
            gateway::complete(self.config, &mut result);
        }
        let nets: Vec<_> = result.ips.iter().map(|ip| ip.address).collect();
        let rules = self.rules.take().map(|rules| rules.start(&nets)).transpose()?;
        let container = pod::configure(&self.netns, &self.environment.ifname, &result, self.config)?;
        let mut vlan_gateway = None;
        if self.config.layer3 && self.config.gateway {
            let vlan = self.config.vlans.as_ref().and_then(|vlans| vlans.access);
            vlan_gateway =
                vlan.map(|vlan| vlan::ensure_gateway(self.host, &self.bridge, vlan)).transpose()?;
            let holder = vlan_gateway.as_ref().unwrap_or(&self.bridge);
            gateway::ensure(self.host, self.config, holder, &result, self.object)?;
        }
        if let Some(rules) = rules {
            rules.finish()?;
        }
        let veth = &self.veth.record.name;
        if !self.config.container_down && !self.host.wait_running(veth, PORT_PATIENCE)? {
            return Err(BridgeError::Port(veth.to_string(), PORT_PATIENCE).into());
        }
        // A bridge without an address has that of a port, which may be the new one.
        if !self.config.gateway
            && let Some(bridge) = self.host.link(&self.config.bridge)?
        {
            self.bridge = bridge;
        }
        let interface = |found: &Found, sandbox: String| Interface {
            name: found.record.name.to_string(),
            mac: found.record.link.mac.map_or_else(String::new, |mac| mac.to_string()),
            sandbox,
            ..Interface::default()
        };
        let hosts = |found: &Found| interface(found, String::new());
        let sandbox = self.environment.netns.display().to_string();
        result.interfaces = vec![hosts(&self.bridge), hosts(&self.veth), interface(&container, sandbox)];
        result.interfaces.extend(vlan_gateway.iter().map(hosts));
        if let Some(dns) = &self.config.dns {
            result.dns = dns.clone();
        }
        Ok(result)
    }

    /// What the port is beside a port. Nothing can come in at it yet: its other end is down.
    fn configure_port(&mut self) -> Result<(), CniError> {
        let veth = &self.veth.record.name;
        sysctl::try_set(&format!("ipv6/conf/{veth}/accept_ra"), "0");
        let settings = LinkSettings {
            hairpin: self.config.hairpin.then_some(true),
            isolated: self.config.isolated.then_some(true),
            ..LinkSettings::default()
        };
        if settings != LinkSettings::default() {
            self.host
                .change_one(&link::set(self.veth.record.index, &settings))
                .map_err(|error| BridgeError::Link(veth.to_string(), error))?;
        }
        if let (true, Some(mac)) = (self.config.spoof_check, self.container_mac) {
            spoof::Filter::of(self.environment).set(veth, mac)?;
        }
        mend_mtu(self.host, self.config, &mut self.bridge)?;
        match &self.config.vlans {
            Some(vlans) => vlans.apply(self.host, &self.veth),
            None => Ok(()),
        }
    }

    fn masquerade(&self) -> Masquerade<'a> {
        Masquerade::new(self.object, self.environment)
    }

    /// Takes back what is of this container alone. The error of the ADD is what is told.
    fn undo(&mut self) {
        if self.config.masquerade.is_some()
            && let Err(error) = self.masquerade().remove().and_then(Removed::finish)
        {
            note!("could not take back the masquerade rules: {}", chain(&error));
        }
        if self.config.spoof_check
            && let Err(error) = spoof::Filter::of(self.environment).remove()
        {
            note!("could not take back the filter: {}", chain(&error));
        }
        if let Err(error) = self.host.change_one(&link::delete(self.veth.record.index)) {
            note!("could not take back {}: {error}", self.veth.record.name);
        }
        if self.config.layer3
            && let Err(error) = host_local::del(self.object, self.environment)
        {
            note!("could not take back the addresses: {}", error.msg);
        }
    }
}

fn delete_link(netns: &Netns, ifname: &str) -> Result<(), CniError> {
    let name: LinkName = ifname.parse()?;
    let mut pod = netns.enter(Kernel::open)??;
    let Some(found) = pod.link(&name)? else { return Ok(()) };
    match pod.change_one(&link::delete(found.record.index)) {
        // Its other end was deleted meanwhile.
        Err(error) if error.is(Errno::ENODEV) => Ok(()),
        other => Ok(other.map_err(|error| BridgeError::Link(name.to_string(), error))?),
    }
}

fn random<const N: usize>() -> Result<[u8; N], BridgeError> {
    let mut bytes = [0; N];
    // The kernel gives up to 256 bytes at once.
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(BridgeError::Random)?;
    Ok(bytes)
}
