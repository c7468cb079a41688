//! The config of the bridge plugin. Unknown keys are ignored: configs contain comments and the keys of other versions.

use flannel_core::cni::BRIDGE;
use flannel_core::json::{GoStruct, Object, TypeError, Value};
use flannel_core::link::{LinkName, Mac};

use super::load;
use super::vlan::Vlans;
use crate::args;
use crate::error::{CniError, Context};
use crate::firewall::Backend;
use crate::native::ipam;
use crate::netconf;
use crate::request::Request;
use crate::result::Dns;
use crate::version::Version;

/// Go's name of the struct, in errors.
const STRUCT: &str = "NetConf";

/// The config of the bridge plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) bridge: LinkName,
    /// The bridge has the gateway's address. Implied by `default_gateway`, and only with addresses.
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
    pub(crate) masquerade: bool,
    pub(crate) masquerade_backend: Option<Backend>,
    /// The container has addresses.
    pub(crate) layer3: bool,
    /// Hardware address of the container's interface.
    pub(crate) mac: Option<Mac>,
    /// Replaces the name resolution of the address management.
    pub(crate) dns: Option<Dns>,
}

/// Whether the container has addresses, which DEL needs to know even if other keys are invalid.
pub(crate) fn is_layer3(config: &Object) -> bool {
    !ipam::plugin_of(config).is_empty()
}

impl Config {
    pub(crate) fn parse(request: &Request) -> Result<Self, CniError> {
        let config = &request.config;
        let keys = GoStruct::new(config, STRUCT);
        let flag = |name| keys.bool(name).map(Option::unwrap_or_default).context(load);
        let bridge = keys.string("bridge").context(load)?.unwrap_or(BRIDGE);
        netconf::check_base(config).context(load)?;
        let layer3 = is_layer3(config);
        let masquerade = flag("ipMasq")? && layer3;
        let default_gateway = flag("isDefaultGateway")?;
        Ok(Self {
            bridge: bridge.parse().context(|| format!("failed to create bridge {bridge:?}"))?,
            gateway: (flag("isGateway")? || default_gateway) && layer3,
            default_gateway,
            force_address: flag("forceAddress")?,
            mtu: keys.integer("mtu", "uint32").context(load)?.filter(|mtu| *mtu > 0),
            hairpin: flag("hairpinMode")?,
            promiscuous: flag("promiscMode")?,
            isolated: flag("portIsolation")?,
            vlans: Vlans::parse(config)?,
            spoof_check: flag("macspoofchk")?,
            duplicate_detection: flag("enabledad")?,
            container_down: flag("disableContainerInterface")?,
            masquerade,
            masquerade_backend: if masquerade { Backend::read(config, "ipMasqBackend")? } else { None },
            layer3,
            mac: mac(config, request.environment.args())?,
            dns: dns(config).context(load)?,
        })
    }

    /// Checks for settings that exclude each other, which are an error of an ADD only.
    pub(crate) fn check_conflicts(&self, version: Version) -> Result<(), CniError> {
        if !self.layer3 && version.is_legacy() {
            let msg = "cannot convert: no valid IP addresses";
            let advice = format!(
                "results of version {version} have addresses only: set cniVersion to \"0.3.0\" or later"
            );
            return Err(CniError::internal(msg).with_details(advice));
        }
        if self.container_down && self.layer3 {
            let msg = "cannot use IPAM when DisableContainerInterface flag is set";
            return Err(CniError::internal(msg));
        }
        if self.hairpin && self.promiscuous {
            let msg = "cannot set hairpin mode and promiscuous mode at the same time";
            return Err(CniError::internal(msg));
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
fn mac(config: &Object, args: &str) -> Result<Option<Mac>, CniError> {
    let in_args = args::value(args, "MAC")?;
    let text = |object: Option<&Object>, path: &str| {
        let text = object.map(|object| GoStruct::new(object, path).string("mac")).transpose()?.flatten();
        Ok::<_, TypeError>(text.map(str::to_owned))
    };
    let cni = config.object("args").and_then(|args| args.object("cni"));
    let texts = [
        text(config.object("runtimeConfig"), "NetConf.runtimeConfig").context(load)?,
        text(cni, "NetConf.args.cni").context(load)?,
        in_args.map(str::to_owned),
    ];
    let Some(text) = texts.into_iter().flatten().find(|text| !text.is_empty()) else { return Ok(None) };
    let invalid =
        || CniError::internal(format!("failed to make veth pair: address {text}: invalid MAC address"));
    text.parse().map(Some).map_err(|_| invalid())
}

#[cfg(test)]
mod tests;
