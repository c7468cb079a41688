//! The config of portmap.

use flannel_core::family::{DualStack, Family};
use flannel_core::json::{GoStruct, Object, TypeError, Value};
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;

use crate::address::parse_ip;
use crate::environment::Environment;
use crate::error::{CniError, Context};
use crate::firewall::{self, Backend};
use crate::result::CniResult;

/// The bit of the packet mark that requests masquerading.
const MARK_BIT: i64 = 13;

/// The keys of further conditions, by the family of the packets.
const CONDITIONS: [(Family, &str); 2] = [(Family::V4, "conditionsV4"), (Family::V6, "conditionsV6")];

/// The config of portmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Config {
    backend: Option<Backend>,
    /// Translate the source address where replies would otherwise not return through the host.
    pub(super) snat: bool,
    /// Translate every source address.
    pub(super) masquerade_all: bool,
    pub(super) mark: Mark,
    conditions: DualStack<Vec<String>>,
    pub(super) mappings: Vec<Mapping>,
}

/// How packets are marked for masquerading, in iptables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// By the chain of portmap, with this mark.
    Bit(u32),
    /// By the chain of another program, which masquerades.
    External(String),
}

/// A port of the host that is mapped to the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) host_port: u16,
    pub(super) container_port: u16,
    /// `tcp`, `udp` or `sctp`.
    pub(super) protocol: String,
    /// The unspecified address means all addresses of its family.
    pub(super) host_ip: Option<IpAddr>,
}

impl Config {
    /// Reads a config. Unknown keys are ignored.
    pub(super) fn parse(config: &Object) -> Result<Self, CniError> {
        let keys = GoStruct::new(config, "PortMapConf");
        let mark = mark(keys)?;
        let mut parsed = Self {
            backend: Backend::read(config, "backend")?,
            snat: keys.bool("snat").context(parsing)?.unwrap_or(true),
            masquerade_all: keys.bool("masqAll").context(parsing)?.unwrap_or(false),
            mark,
            conditions: DualStack::default(),
            mappings: Vec::new(),
        };
        for (family, name) in CONDITIONS {
            let mut words = texts(keys, name).context(parsing)?;
            // Compatibility: an empty word is no condition.
            words = words.filter(|words| words.iter().any(|word| !word.is_empty()));
            *parsed.conditions.slot(family) = words;
        }
        parsed.mappings = mappings(keys)?;
        parsed.check_backend()?;
        Ok(parsed)
    }

    /// The options that only one backend has.
    fn options(&self) -> impl Iterator<Item = (&'static str, Backend)> {
        let external = matches!(self.mark, Mark::External(_));
        let external = external.then_some(("externalSetMarkChain", Backend::Iptables));
        let conditions = CONDITIONS
            .into_iter()
            .filter_map(|(family, name)| Some((name, backend_of(self.conditions(family))?)));
        external.into_iter().chain(conditions)
    }

    fn check_backend(&self) -> Result<(), CniError> {
        let Some(chosen) = self.chosen_backend() else { return Ok(()) };
        let others = self.options().filter(|(_, backend)| *backend != chosen);
        let others: Vec<&str> = others.map(|(name, _)| name).collect();
        let (chosen, other) = match chosen {
            Backend::Iptables => ("iptables", "nftables"),
            Backend::Nftables => ("nftables", "iptables"),
        };
        if others.is_empty() {
            return Ok(());
        }
        let others = others.join(" ");
        Err(CniError::internal(format!(
            "{chosen} backend was requested but configuration contains {other}-specific options [{others}]"
        )))
    }

    /// Returns the requested backend, or that of the options.
    fn chosen_backend(&self) -> Option<Backend> {
        self.backend.or_else(|| self.options().map(|(_, backend)| backend).min())
    }

    /// Returns the backend to use, which is that of the host if the config determines none.
    pub(super) fn backend(&self) -> Backend {
        self.chosen_backend().unwrap_or_else(Backend::of_host)
    }

    /// Returns further conditions on packets, in the syntax of the backend.
    pub(super) fn conditions(&self, family: Family) -> &[String] {
        self.conditions.get(family).map_or(&[], Vec::as_slice)
    }

    /// Returns the mappings of a family.
    pub(super) fn of(&self, family: Family) -> impl Iterator<Item = &Mapping> {
        self.mappings.iter().filter(move |mapping| mapping.is_of(family))
    }
}

/// Returns the backend of conditions. Compatibility: it is determined by the first word.
fn backend_of(words: &[String]) -> Option<Backend> {
    let first = words.first().filter(|word| !word.is_empty())?;
    Some(if first.starts_with(['-', '!']) { Backend::Iptables } else { Backend::Nftables })
}

fn mark(keys: GoStruct<'_>) -> Result<Mark, CniError> {
    let bit = keys.integer::<i64>("markMasqBit", "int").context(parsing)?;
    let chain = keys.string("externalSetMarkChain").context(parsing)?;
    if bit.is_some() && chain.is_some() {
        return Err(CniError::internal("Cannot specify externalSetMarkChain and markMasqBit"));
    }
    if let Some(chain) = chain.filter(|chain| !chain.is_empty()) {
        return Ok(Mark::External(chain.to_owned()));
    }
    let bit = bit.unwrap_or(MARK_BIT);
    if !(0..32).contains(&bit) {
        return Err(CniError::internal("MasqMarkBit must be between 0 and 31"));
    }
    Ok(Mark::Bit(1 << bit))
}

impl Mapping {
    pub(super) fn is_of(&self, family: Family) -> bool {
        self.host_ip.is_none_or(|ip| Family::of(ip) == family)
    }

    /// The address of the host, if it is a specific one.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }

    pub(super) fn protocol_number(&self) -> u8 {
        firewall::protocol_number(&self.protocol).unwrap_or_default()
    }

    /// Whether a packet of the family could match both this and a mapping with these properties.
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

fn mappings(keys: GoStruct<'_>) -> Result<Vec<Mapping>, CniError> {
    const PATH: &str = "PortMapConf.runtimeConfig.portMappings";
    let Some(runtime) = keys.object("runtimeConfig", "struct").context(parsing)? else {
        return Ok(Vec::new());
    };
    let runtime = GoStruct::new(runtime, "PortMapConf.runtimeConfig");
    let mut mappings: Vec<Mapping> = Vec::new();
    for entry in runtime.array("portMappings", "[]main.PortMapEntry").context(parsing)? {
        let mapping = mapping(GoStruct::of(entry, PATH, "main.PortMapEntry").context(parsing)?)?;
        for other in &mappings {
            let both = |family| {
                other.is_of(family)
                    && mapping.collides(family, other.protocol_number(), other.host_port, other.address())
            };
            if Family::ALL.into_iter().any(both) && mapping != *other {
                let (one, two) = (other.container_port, mapping.container_port);
                let msg = format!("{mapping} is mapped twice: to container port {one} and to {two}");
                return Err(CniError::internal(msg));
            }
        }
        // An identical mapping is not an error.
        if !mappings.contains(&mapping) {
            mappings.push(mapping);
        }
    }
    Ok(mappings)
}

fn mapping(keys: GoStruct<'_>) -> Result<Mapping, CniError> {
    let container_port = port(keys, "containerPort", "container")?;
    let host_port = port(keys, "hostPort", "host")?;
    let text = |name| keys.string(name).context(parsing).map(|text| text.filter(|text| !text.is_empty()));
    // Runtimes write it in any case; the default is TCP.
    let protocol = text("protocol")?.unwrap_or("tcp").to_lowercase();
    if firewall::protocol_number(&protocol).is_none() {
        let rule = "ports of tcp, udp and sctp can be mapped";
        return Err(CniError::internal(format!(
            "invalid protocol {protocol:?} of host port {host_port}: {rule}"
        )));
    }
    let address = |ip: &str| {
        parse_ip(ip)
            .map_err(|_| CniError::internal(format!("invalid host IP {ip:?} of host port {host_port}")))
    };
    let host_ip = text("hostIP")?.map(address).transpose()?;
    Ok(Mapping { host_port, container_port, protocol, host_ip })
}

fn port(keys: GoStruct<'_>, name: &str, side: &str) -> Result<u16, CniError> {
    let number = keys.read(name, "int", |value| match value {
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    });
    let number = number.context(parsing)?.unwrap_or_else(|| "0".to_owned());
    number.parse().ok().filter(|port| *port > 0).ok_or_else(|| {
        CniError::internal(format!("Invalid {side} port number: {number}"))
            .with_details("a port is a number from 1 to 65535")
    })
}

/// Go's text before a type error.
fn parsing() -> String {
    "failed to parse network configuration".to_owned()
}

fn texts(keys: GoStruct<'_>, name: &str) -> Result<Option<Vec<String>>, TypeError> {
    const WANTED: &str = "[]string";
    let Some(list) = keys.read(name, WANTED, Value::as_array)? else { return Ok(None) };
    let error = |word: &Value| word.type_error(&format!("{}.{name}", keys.path()), WANTED);
    let text = |word: &Value| word.as_str().map(str::to_owned).ok_or_else(|| error(word));
    list.iter().map(text).collect::<Result<_, _>>().map(Some)
}

/// Returns the container's first address of each family: that of its interface, or one without an interface.
pub(super) fn targets(result: &CniResult, environment: &Environment) -> Vec<IpNet> {
    let is_own = |interface: Option<i64>| {
        let interface = interface.and_then(|at| result.interfaces.get(usize::try_from(at).ok()?));
        interface.is_none_or(|one| one.name == environment.attachment.ifname && !one.sandbox.is_empty())
    };
    let first = |family| {
        let mut ips = result.ips.iter().filter(|ip| is_own(ip.interface));
        ips.find(|ip| Family::of_net(ip.address) == family).map(|ip| ip.address)
    };
    Family::ALL.into_iter().filter_map(first).collect()
}

#[cfg(test)]
mod tests;
