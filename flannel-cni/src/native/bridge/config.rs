//! The config of the bridge plugin. Unknown keys are ignored: configs contain comments and the keys of other versions.

use flannel_core::cni::BRIDGE;
use flannel_core::json::{GoStruct, Object, TypeError, Value};
use flannel_core::link::{LinkName, Mac, ParseLinkNameError};

use super::vlan::{VlanError, Vlans};
use crate::args::{self, ArgsError};
use crate::firewall::BackendChoice;
use crate::request::Request;
use crate::result::Dns;

/// Go's name of the struct, in errors.
const STRUCT: &str = "NetConf";

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
    #[error("the bridge plugin in flannel does not support ipam.type {0:?}: only host-local is supported")]
    Ipam(String),
    #[error("cannot use IPAM when DisableContainerInterface flag is set")]
    AddressesWhileDown,
    #[error("cannot set hairpin mode and promiscuous mode at the same time")]
    HairpinAndPromiscuous,
}

/// Whether the container has addresses, which DEL needs to know even if other keys are invalid.
pub(crate) fn is_layer3(config: &Object) -> bool {
    !ipam_type(config).is_empty()
}

/// Whether the addresses are allocated in this process.
pub(crate) fn is_native(config: &Object) -> bool {
    matches!(ipam_type(config), "" | "host-local")
}

fn ipam_type(config: &Object) -> &str {
    config.object("ipam").map_or("", |ipam| ipam.text("type"))
}

impl Config {
    pub(crate) fn parse(request: &Request) -> Result<Self, ConfigError> {
        let config = &request.config;
        let keys = GoStruct::new(config, STRUCT);
        let flag = |name| keys.bool(name).map(Option::unwrap_or_default);
        let bridge = keys.string("bridge")?.unwrap_or(BRIDGE);
        if let Some(ipam) = keys.object("ipam", "object")? {
            GoStruct::new(ipam, "NetConf.ipam").string("type")?;
        }
        if !is_native(config) {
            return Err(ConfigError::Ipam(ipam_type(config).to_owned()));
        }
        let layer3 = is_layer3(config);
        let masquerade = (layer3 && flag("ipMasq")?).then(|| BackendChoice::read(config, "ipMasqBackend"));
        Ok(Self {
            bridge: bridge.parse().map_err(|error| ConfigError::Bridge(bridge.to_owned(), error))?,
            gateway: flag("isGateway")? || flag("isDefaultGateway")?,
            default_gateway: flag("isDefaultGateway")?,
            force_address: flag("forceAddress")?,
            mtu: keys.integer("mtu", "uint32")?.filter(|mtu| *mtu > 0),
            hairpin: flag("hairpinMode")?,
            promiscuous: flag("promiscMode")?,
            isolated: flag("portIsolation")?,
            vlans: Vlans::parse(config)?,
            spoof_check: flag("macspoofchk")?,
            duplicate_detection: flag("enabledad")?,
            container_down: flag("disableContainerInterface")?,
            masquerade: masquerade.transpose().map_err(ConfigError::Backend)?,
            layer3,
            mac: mac(config, request.environment.args())?,
            dns: dns(config)?,
        })
    }

    /// Checks for settings that exclude each other, which are an error of an ADD only.
    pub(crate) fn check_conflicts(&self) -> Result<(), ConfigError> {
        if self.container_down && self.layer3 {
            return Err(ConfigError::AddressesWhileDown);
        }
        if self.hairpin && self.promiscuous {
            return Err(ConfigError::HairpinAndPromiscuous);
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
