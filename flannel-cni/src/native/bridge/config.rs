//! The config of the bridge plugin, and which configs are supported in this process.

use flannel_core::cni::BRIDGE;
use flannel_core::json::{GoStruct, Object, TypeError, Value};
use flannel_core::link::{LinkName, Mac, ParseLinkNameError};

use super::vlan::{VlanError, Vlans};
use crate::args::{self, ArgsError};
use crate::error::{CniError, Code};
use crate::firewall::BackendChoice;
use crate::netconf::COMMON_KEYS;
use crate::request::Request;
use crate::result::Dns;

/// The config of the bridge plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) bridge: LinkName,
    /// The bridge has the gateway's address. Implied by `default_gateway`.
    pub(crate) gateway: bool,
    pub(crate) default_gateway: bool,
    /// Remove conflicting addresses of the bridge.
    pub(crate) force_address: bool,
    pub(crate) mtu: Option<u32>,
    pub(crate) hairpin: bool,
    /// The bridge is promiscuous.
    pub(crate) promiscuous: bool,
    /// The port does not exchange frames with other isolated ports.
    pub(crate) isolated: bool,
    /// The bridge filters by VLAN, and the port is in these VLANs.
    pub(crate) vlans: Option<Vlans>,
    /// Drop frames whose source is not the container's hardware address.
    pub(crate) spoof_check: bool,
    /// Run duplicate address detection for IPv6 addresses.
    pub(crate) duplicate_detection: bool,
    /// The container's interface is kept down.
    pub(crate) container_down: bool,
    pub(crate) masquerade: Option<BackendChoice>,
    /// The container has addresses, from host-local.
    pub(crate) layer3: bool,
    /// Hardware address of the container's interface.
    pub(crate) mac: Option<Mac>,
    /// Replaces the name resolution of the address management.
    pub(crate) dns: Option<Dns>,
}

/// An invalid config.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("failed to load netconf")]
    Type(#[from] TypeError),
    #[error(transparent)]
    Args(#[from] ArgsError),
    #[error("failed to make veth pair: address {0}: invalid MAC address")]
    Mac(String),
    #[error("unknown ipmasq backend {0}: must be iptables or nftables")]
    Backend(String),
    #[error("failed to create bridge {0:?}")]
    Bridge(String, #[source] ParseLinkNameError),
    #[error(transparent)]
    Vlan(#[from] VlanError),
}

/// A valid config with settings that exclude each other, which is an error of an ADD only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConflictError {
    #[error("cannot use IPAM when DisableContainerInterface flag is set")]
    AddressesWhileDown,
    #[error("cannot set hairpin mode and promiscuous mode at the same time")]
    HairpinAndPromiscuous,
}

/// A key, or a value of one, that is not supported in this process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bridge plugin in flannel does not support {key:?} with the value {value}: {rule}")]
pub(crate) struct UnsupportedError {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) rule: &'static str,
}

impl UnsupportedError {
    /// The error if this process is called as the bridge plugin, so that it cannot call another one.
    pub(crate) fn as_cni_error(&self) -> CniError {
        CniError::new(Code::UnsupportedField, self.to_string())
            .with_details("install the bridge plugin of containernetworking-plugins to use it")
    }
}

/// Whether a value has the type of its key, and what it must be.
type Rule = (fn(&Value) -> bool, &'static str);

const ANY: Rule = (|_| true, "");
const TEXT: Rule = (|value| value.as_str().is_some(), "it must be a string");
const FLAG: Rule = (|value| value.as_bool().is_some(), "it must be true or false");
const MTU: Rule = (|value| value.as_integer::<u32>().is_some(), "it must be a number of bytes");
const INTEGER: Rule = (|value| value.as_integer::<i64>().is_some(), "it must be a whole number");
const LIST: Rule = (|value| value.as_array().is_some(), "it must be a list");

/// Its own keys, in lower case.
const KEYS: [(&str, Rule); 16] = [
    ("bridge", TEXT),
    ("isgateway", FLAG),
    ("isdefaultgateway", FLAG),
    ("forceaddress", FLAG),
    ("hairpinmode", FLAG),
    ("mtu", MTU),
    ("ipmasq", FLAG),
    ("ipmasqbackend", TEXT),
    ("promiscmode", FLAG),
    ("preservedefaultvlan", FLAG),
    ("vlan", INTEGER),
    ("vlantrunk", LIST),
    ("macspoofchk", FLAG),
    ("enabledad", FLAG),
    ("disablecontainerinterface", FLAG),
    ("portisolation", FLAG),
];

const IPAM_KEYS: [&str; 9] =
    ["type", "ranges", "subnet", "rangestart", "rangeend", "gateway", "routes", "datadir", "resolvconf"];

/// Returns the rule of a key, if it is known.
fn rule(key: &str) -> Option<Rule> {
    match key {
        "cniversion" | "name" | "type" => Some(TEXT),
        _ if COMMON_KEYS.contains(&key) => Some(ANY),
        _ => KEYS.iter().find(|(known, _)| *known == key).map(|(_, rule)| *rule),
    }
}

/// Fails unless every key of a config is supported. Nothing is ignored.
pub(crate) fn check_supported(config: &Object) -> Result<(), UnsupportedError> {
    let refuse = |key: &str, value: &Value, rule| {
        Err(UnsupportedError { key: key.to_owned(), value: value.to_compact(), rule })
    };
    for (key, value) in config.iter() {
        let rule = rule(&key.to_lowercase());
        let Some((allows, rule)) = rule else { return refuse(key, value, "unknown key") };
        if *value != Value::Null && !allows(value) {
            return refuse(key, value, rule);
        }
    }
    let Some(ipam) = config.field("ipam") else { return Ok(()) };
    let Some(ipam) = ipam.as_object() else { return refuse("ipam", ipam, "it must be an object") };
    let kind = ipam.field("type");
    if let Some(kind) = kind.filter(|kind| !matches!(kind.as_str(), Some("host-local" | ""))) {
        return refuse("ipam.type", kind, "only host-local is supported");
    }
    if kind.is_none_or(|kind| kind.as_str() == Some("")) {
        return Ok(());
    }
    for (key, value) in ipam.iter() {
        if !IPAM_KEYS.contains(&key.to_lowercase().as_str()) {
            return refuse(&format!("ipam.{key}"), value, "unknown key");
        }
    }
    Ok(())
}

/// Whether the container has addresses, which DEL needs to know even if other keys are invalid.
pub(crate) fn is_layer3(config: &Object) -> bool {
    config.object("ipam").is_some_and(|ipam| !ipam.text("type").is_empty())
}

impl Config {
    /// Reads a config that is supported.
    pub(crate) fn parse(request: &Request) -> Result<Self, ConfigError> {
        let config = &request.config;
        let flag = |name| config.is_true(name);
        let bridge = config.field("bridge").and_then(Value::as_str).unwrap_or(BRIDGE);
        let layer3 = is_layer3(config);
        let masquerade = (layer3 && flag("ipMasq")).then(|| BackendChoice::read(config, "ipMasqBackend"));
        Ok(Self {
            bridge: bridge.parse().map_err(|error| ConfigError::Bridge(bridge.to_owned(), error))?,
            gateway: flag("isGateway") || flag("isDefaultGateway"),
            default_gateway: flag("isDefaultGateway"),
            force_address: flag("forceAddress"),
            mtu: config.field("mtu").and_then(Value::as_integer).filter(|mtu| *mtu > 0),
            hairpin: flag("hairpinMode"),
            promiscuous: flag("promiscMode"),
            isolated: flag("portIsolation"),
            vlans: Vlans::parse(config)?,
            spoof_check: flag("macspoofchk"),
            duplicate_detection: flag("enabledad"),
            container_down: flag("disableContainerInterface"),
            masquerade: masquerade.transpose().map_err(ConfigError::Backend)?,
            layer3,
            mac: mac(config, request.environment.args())?,
            dns: dns(config)?,
        })
    }

    /// Checks for settings that exclude each other.
    pub(crate) fn check_conflicts(&self) -> Result<(), ConflictError> {
        if self.container_down && self.layer3 {
            return Err(ConflictError::AddressesWhileDown);
        }
        if self.hairpin && self.promiscuous {
            return Err(ConflictError::HairpinAndPromiscuous);
        }
        Ok(())
    }
}

/// Reads the name resolution from the runtime (`runtimeConfig.dns`, with the names of the CNI conventions), else from the config.
fn dns(config: &Object) -> Result<Option<Dns>, TypeError> {
    let given = |dns: &Dns| {
        let lists = [&dns.nameservers, &dns.search, &dns.options];
        !dns.domain.is_empty() || lists.into_iter().any(Option::is_some)
    };
    if let Some(runtime) = config.object("runtimeConfig").and_then(|runtime| runtime.field("dns")) {
        let renamed = runtime.as_object().map(|object| {
            let name = |name: &str| match name.to_lowercase().as_str() {
                "servers" => "nameservers".to_owned(),
                "searches" => "search".to_owned(),
                _ => name.to_owned(),
            };
            Value::Object(object.iter().map(|(key, value)| (name(key), value.clone())).collect())
        });
        let dns = Dns::parse(renamed.as_ref().unwrap_or(runtime), "NetConf.runtimeConfig.dns")?;
        if given(&dns) {
            return Ok(Some(dns));
        }
    }
    let dns = config.field("dns").map(|dns| Dns::parse(dns, "NetConf.dns")).transpose()?;
    Ok(dns.filter(given))
}

/// Reads the hardware address from `runtimeConfig.mac`, `args.cni.mac` or `CNI_ARGS`, in this order.
fn mac(config: &Object, args: &str) -> Result<Option<Mac>, ConfigError> {
    let in_args = args::value(args, "MAC")?;
    let text = |object: Option<&Object>, path: &str| {
        let text = object.map(|object| GoStruct::new(object, path).string("mac")).transpose()?.flatten();
        Ok::<_, TypeError>(text.map(str::to_owned))
    };
    let cni = config.object("args").and_then(|args| args.object("cni"));
    let texts = [
        text(config.object("runtimeConfig"), "NetConf.runtimeConfig")?,
        text(cni, "NetConf.args.cni")?,
        in_args.map(str::to_owned),
    ];
    let Some(text) = texts.into_iter().flatten().find(|text| !text.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| ConfigError::Mac(text))
}

#[cfg(test)]
mod tests;
