//! Results in all protocol versions: one type, read from and printed in the shape of each version.

use flannel_core::family::Family;
use flannel_core::json::{GoStruct, Object, Value};
use flannel_core::message::link::LinkRecord;
use ipnet::IpNet;
use std::net::IpAddr;

use crate::error::{CniError, Context};
use crate::version::Version;

mod parse;
mod print;

/// The result of an ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CniResult {
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) ips: Vec<Ip>,
    pub(crate) routes: Vec<Route>,
    pub(crate) dns: Dns,
}

/// An interface that was created or used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) mac: String,
    pub(crate) mtu: i64,
    pub(crate) sandbox: String,
    pub(crate) socket_path: String,
    pub(crate) pci_id: String,
}

/// An address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ip {
    /// Index of its interface.
    pub(crate) interface: Option<i64>,
    /// Host address with its prefix length.
    pub(crate) address: IpNet,
    pub(crate) gateway: Option<IpAddr>,
}

/// A route; host bits of its destination are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) dst: IpNet,
    pub(crate) gw: Option<IpAddr>,
    pub(crate) mtu: i64,
    pub(crate) advmss: i64,
    pub(crate) priority: i64,
    pub(crate) table: Option<i64>,
    pub(crate) scope: Option<i64>,
}

/// Name resolution. An absent and an empty list are printed the same, but only the latter counts as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dns {
    pub(crate) nameservers: Option<Vec<String>>,
    pub(crate) domain: String,
    pub(crate) search: Option<Vec<String>>,
    pub(crate) options: Option<Vec<String>>,
}

impl CniResult {
    /// Reads the output of a delegate; without a version of its own it has that of the config.
    pub(crate) fn parse(text: &[u8], assumed: &str) -> Result<Self, CniError> {
        match Value::parse(text).context(|| "failed to unmarshal raw result".to_owned())? {
            Value::Object(object) => Self::from_object(&object, assumed),
            Value::Null => Self::from_object(&Object::new(), assumed),
            other => Err(other.type_error("Result", "map[string]interface {}").into()),
        }
    }

    fn from_object(object: &Object, assumed: &str) -> Result<Self, CniError> {
        let found = GoStruct::new(object, "Result").string("cniVersion")?;
        let found = found.filter(|text| !text.is_empty()).unwrap_or(assumed);
        let version = Version::parse(found)
            .ok_or_else(|| CniError::internal(format!("unsupported CNI result version {found:?}")))?;
        parse::result(object, version)
    }

    /// Reads `prevResult`, which must have a version of the same shape as the config.
    pub(crate) fn from_prev_result(object: &Object, config: Version) -> Result<Self, CniError> {
        let found = GoStruct::new(object, "Result").string("cniVersion")?.unwrap_or(config.as_str());
        let supported: Vec<_> = Version::ALL
            .iter()
            .filter(|version| version.has_shape_of(config))
            .map(|version| version.as_str())
            .collect();
        let legacy_default = found.is_empty() && config.is_legacy();
        if !supported.contains(&found) && !legacy_default {
            let supported = supported.join(" ");
            return Err(CniError::internal(format!(
                "could not parse prevResult: result type supports [{supported}] but unmarshalled CNIVersion is {found:?}"
            )));
        }
        parse::result(object, config)
    }

    /// Returns the first address of a family.
    fn first(&self, family: Family) -> Option<&Ip> {
        self.ips.iter().find(|ip| Family::of_net(ip.address) == family)
    }
}

impl Interface {
    /// A link in the namespace at the path `sandbox`, or on the host if that is empty.
    pub(crate) fn of(link: &LinkRecord, sandbox: String) -> Self {
        let mac = link.link.mac.map_or_else(String::new, |mac| mac.to_string());
        Self { name: link.name.to_string(), mac, sandbox, ..Self::default() }
    }
}

impl Route {
    /// A route without attributes.
    pub(crate) const fn to(dst: IpNet) -> Self {
        Self { dst, gw: None, mtu: 0, advmss: 0, priority: 0, table: None, scope: None }
    }
}

#[cfg(test)]
mod tests;
