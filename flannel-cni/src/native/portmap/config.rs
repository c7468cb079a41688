//! The config of portmap.

use flannel_core::family::Family;
use flannel_core::json::{Object, TypeError, Value};
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;

use crate::address::parse_ip;
use crate::environment::Environment;
use crate::firewall::{self, Backend};
use crate::result::{CniResult, ResultError};
use crate::version::Version;

/// The bit of the packet mark that asks for masquerading.
const MARK_BIT: u8 = 13;

const KEYS: [&str; 18] = [
    "cniversion",
    "name",
    "type",
    "capabilities",
    "prevresult",
    "runtimeconfig",
    "args",
    "dns",
    "ipam",
    "cni.dev/attachments",
    "cni.dev/valid-attachments",
    "backend",
    "snat",
    "masqall",
    "markmasqbit",
    "externalsetmarkchain",
    "conditionsv4",
    "conditionsv6",
];

/// What portmap is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Config {
    pub(super) network: String,
    pub(super) backend: Option<Backend>,
    /// Where the answer would not come back by itself, the source address becomes one of the host.
    pub(super) snat: bool,
    /// That holds for every source.
    pub(super) masquerade_all: bool,
    pub(super) mark: Mark,
    conditions_v4: Vec<String>,
    conditions_v6: Vec<String>,
    pub(super) mappings: Vec<Mapping>,
}

/// How packets are marked for masquerading, in iptables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// By our chain, with this mark.
    Bit(u32),
    /// By a chain of somebody else, who masquerades.
    External(String),
}

/// One port of the host that leads to the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) host_port: u16,
    pub(super) container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub(super) protocol: String,
    /// An unspecified one stands for all addresses of its family.
    pub(super) host_ip: Option<IpAddr>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    #[error("failed to parse network configuration")]
    Type(#[from] TypeError),
    #[error("could not parse prevResult")]
    PrevResult(#[source] ResultError),
    #[error("Cannot specify externalSetMarkChain and markMasqBit")]
    TwoMarks,
    #[error("MasqMarkBit must be between 0 and 31")]
    MarkBit,
    #[error("{0} backend was requested but configuration contains {1}-specific options [{2}]")]
    OtherBackend(&'static str, &'static str, String),
    #[error("unrecognized backend {0}: iptables and nftables are known")]
    Backend(String),
    #[error("Invalid container port number: {0}")]
    ContainerPort(String),
    #[error("Invalid host port number: {0}")]
    HostPort(String),
    #[error("invalid protocol {0:?} of host port {1}: ports of tcp, udp and sctp can be mapped")]
    Protocol(String, u16),
    #[error("invalid host IP {0:?} of host port {1}")]
    HostIp(String, u16),
    #[error("{0} is mapped twice: to container port {1} and to {2}")]
    Twice(Mapping, u16, u16),
    #[error("the portmap plugin in flannel does not know the key {0:?}")]
    Unknown(String),
}

impl Config {
    /// Reads a config, to the last key.
    pub(super) fn parse(config: &Object) -> Result<Self, ConfigError> {
        if let Some((key, _)) = config.iter().find(|(key, _)| !KEYS.contains(&key.to_lowercase().as_str())) {
            return Err(ConfigError::Unknown(key.to_owned()));
        }
        let mark = mark(config)?;
        let parsed = Self {
            network: text(config, "name")?.unwrap_or_default(),
            backend: Backend::read(config, "backend").map_err(ConfigError::Backend)?,
            snat: flag(config, "snat")?.unwrap_or(true),
            masquerade_all: flag(config, "masqAll")?.unwrap_or(false),
            mark,
            conditions_v4: texts(config, "conditionsV4")?,
            conditions_v6: texts(config, "conditionsV6")?,
            mappings: mappings(config)?,
        };
        parsed.check_backend()?;
        Ok(parsed)
    }

    /// The name of the network, all that DEL needs to know of a config.
    pub(super) fn network_of(config: &Object) -> &str {
        config.field("name").and_then(Value::as_str).unwrap_or_default()
    }

    /// Options tell by themselves which backend they are for.
    fn check_backend(&self) -> Result<(), ConfigError> {
        let external = matches!(self.mark, Mark::External(_));
        let mut options = vec![("externalSetMarkChain", external.then_some(Backend::Iptables))];
        for (name, words) in [("conditionsV4", &self.conditions_v4), ("conditionsV6", &self.conditions_v6)] {
            options.push((name, backend_of(words)));
        }
        let of = |backend| -> Vec<&str> {
            options.iter().filter(|(_, of)| *of == Some(backend)).map(|(name, _)| *name).collect()
        };
        for (wanted, other, name, other_name) in [
            (Backend::Iptables, Backend::Nftables, "iptables", "nftables"),
            (Backend::Nftables, Backend::Iptables, "nftables", "iptables"),
        ] {
            let wanted_here =
                self.backend == Some(wanted) || self.backend.is_none() && !of(wanted).is_empty();
            if wanted_here && !of(other).is_empty() {
                return Err(ConfigError::OtherBackend(name, other_name, of(other).join(" ")));
            }
        }
        Ok(())
    }

    /// The backend to use: the one that is wished, or that options are for, or that is there.
    pub(super) fn backend(&self) -> Backend {
        let by_options = || {
            let external = matches!(self.mark, Mark::External(_)).then_some(Backend::Iptables);
            external.or_else(|| backend_of(&self.conditions_v4)).or_else(|| backend_of(&self.conditions_v6))
        };
        self.backend.or_else(by_options).unwrap_or_else(Backend::default_here)
    }

    /// Further conditions on packets, in the words of the backend.
    pub(super) fn conditions(&self, family: Family) -> &[String] {
        match family {
            Family::V4 => &self.conditions_v4,
            Family::V6 => &self.conditions_v6,
        }
    }

    /// The mappings of a family.
    pub(super) fn of(&self, family: Family) -> impl Iterator<Item = &Mapping> {
        self.mappings.iter().filter(move |mapping| mapping.is_of(family))
    }
}

/// Compatibility: the first word tells whose words they are.
fn backend_of(words: &[String]) -> Option<Backend> {
    let first = words.first().filter(|word| !word.is_empty())?;
    Some(if first.starts_with(['-', '!']) { Backend::Iptables } else { Backend::Nftables })
}

fn mark(config: &Object) -> Result<Mark, ConfigError> {
    let bit = match config.field("markMasqBit") {
        None => None,
        Some(Value::Number(number)) => {
            let bit = number.as_integer::<i64>();
            let bit = bit
                .ok_or_else(|| Value::Number(number.clone()).type_error("PortMapConf.markMasqBit", "int"))?;
            Some(u8::try_from(bit).ok().filter(|bit| *bit < 32).ok_or(ConfigError::MarkBit)?)
        }
        Some(other) => return Err(other.type_error("PortMapConf.markMasqBit", "int").into()),
    };
    match text(config, "externalSetMarkChain")? {
        Some(_) if bit.is_some() => Err(ConfigError::TwoMarks),
        Some(chain) if !chain.is_empty() => Ok(Mark::External(chain)),
        _ => Ok(Mark::Bit(1 << bit.unwrap_or(MARK_BIT))),
    }
}

impl Mapping {
    pub(super) fn is_of(&self, family: Family) -> bool {
        self.host_ip.is_none_or(|ip| Family::of(ip) == family)
    }

    /// The one address of the host that is meant.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }

    pub(super) fn protocol_number(&self) -> u8 {
        firewall::protocol_number(&self.protocol).unwrap_or_default()
    }

    /// A packet of the family could be meant by both this and a mapping with these properties.
    pub(super) fn collides(&self, family: Family, protocol: u8, port: u16, address: Option<IpAddr>) -> bool {
        self.is_of(family)
            && self.protocol_number() == protocol
            && self.host_port == port
            && match (self.address(), address) {
                (Some(one), Some(other)) => one == other,
                _ => true,
            }
    }
}

/// `192.0.2.1:8080/tcp`.
impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(IpAddr::V4(ip)) => write!(f, "host port {ip}:{}/{}", self.host_port, self.protocol),
            Some(IpAddr::V6(ip)) => write!(f, "host port [{ip}]:{}/{}", self.host_port, self.protocol),
            None => write!(f, "host port {}/{}", self.host_port, self.protocol),
        }
    }
}

fn mappings(config: &Object) -> Result<Vec<Mapping>, ConfigError> {
    const PATH: &str = "PortMapConf.runtimeConfig.portMappings";
    let Some(runtime) = config.field("runtimeConfig") else { return Ok(Vec::new()) };
    let runtime =
        runtime.as_object().ok_or_else(|| runtime.type_error("PortMapConf.runtimeConfig", "struct"))?;
    let Some(list) = runtime.field("portMappings") else { return Ok(Vec::new()) };
    let list = list.as_array().ok_or_else(|| list.type_error(PATH, "[]main.PortMapEntry"))?;
    let mut mappings: Vec<Mapping> = Vec::new();
    for entry in list {
        let entry = entry.as_object().ok_or_else(|| entry.type_error(PATH, "main.PortMapEntry"))?;
        let container_port = port(entry, "containerPort", ConfigError::ContainerPort)?;
        let host_port = port(entry, "hostPort", ConfigError::HostPort)?;
        // Runtimes write it as they like; without one it is what most ports are.
        let protocol = match text(entry, "protocol")? {
            Some(protocol) if !protocol.is_empty() => protocol.to_lowercase(),
            _ => "tcp".to_owned(),
        };
        if firewall::protocol_number(&protocol).is_none() {
            return Err(ConfigError::Protocol(protocol, host_port));
        }
        let host_ip = match text(entry, "hostIP")? {
            Some(ip) if !ip.is_empty() => {
                Some(parse_ip(&ip).map_err(|_| ConfigError::HostIp(ip, host_port))?)
            }
            _ => None,
        };
        let mapping = Mapping { host_port, container_port, protocol, host_ip };
        for other in &mappings {
            let both = |family| {
                other.is_of(family)
                    && mapping.collides(family, other.protocol_number(), other.host_port, other.address())
            };
            if Family::ALL.into_iter().any(both) && mapping != *other {
                return Err(ConfigError::Twice(mapping, other.container_port, container_port));
            }
        }
        // The same once more is the same.
        if !mappings.contains(&mapping) {
            mappings.push(mapping);
        }
    }
    Ok(mappings)
}

fn port(entry: &Object, name: &str, error: impl FnOnce(String) -> ConfigError) -> Result<u16, ConfigError> {
    match entry.field(name) {
        None => Err(error("0".to_owned())),
        Some(Value::Number(number)) => number
            .as_integer::<u16>()
            .filter(|port| *port > 0)
            .ok_or_else(|| error(number.literal().to_owned())),
        Some(other) => {
            let path = format!("PortMapConf.runtimeConfig.portMappings.{name}");
            Err(other.type_error(&path, "int").into())
        }
    }
}

fn text(object: &Object, name: &str) -> Result<Option<String>, TypeError> {
    match object.field(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(other.type_error(&format!("PortMapConf.{name}"), "string")),
    }
}

fn flag(object: &Object, name: &str) -> Result<Option<bool>, TypeError> {
    match object.field(name) {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(other) => Err(other.type_error(&format!("PortMapConf.{name}"), "bool")),
    }
}

fn texts(object: &Object, name: &str) -> Result<Vec<String>, TypeError> {
    let Some(value) = object.field(name) else { return Ok(Vec::new()) };
    let error = |value: &Value| value.type_error(&format!("PortMapConf.{name}"), "[]string");
    let list = value.as_array().ok_or_else(|| error(value))?;
    list.iter().map(|word| word.as_str().map(str::to_owned).ok_or_else(|| error(word))).collect()
}

/// The result of the plugins before, if there is one.
pub(super) fn prev_result(config: &Object, version: Version) -> Result<Option<CniResult>, ConfigError> {
    let Some(result) = config.field("prevResult") else { return Ok(None) };
    let object = result
        .as_object()
        .ok_or_else(|| result.type_error("PortMapConf.prevResult", "map[string]interface {}"))?;
    CniResult::from_prev_result(object, version).map(Some).map_err(ConfigError::PrevResult)
}

/// The container's first address of each family: of the interface that is named, in a sandbox, or of none.
pub(super) fn targets(result: &CniResult, environment: &Environment) -> Vec<IpNet> {
    let is_ours = |interface: Option<i64>| {
        let interface = interface.and_then(|at| result.interfaces.get(usize::try_from(at).ok()?));
        interface.is_none_or(|one| one.name == environment.ifname && !one.sandbox.is_empty())
    };
    let first = |family| {
        let mut ips = result.ips.iter().filter(|ip| is_ours(ip.interface));
        ips.find(|ip| Family::of_net(ip.address) == family).map(|ip| ip.address)
    };
    Family::ALL.into_iter().filter_map(first).collect()
}

#[cfg(test)]
mod tests;
