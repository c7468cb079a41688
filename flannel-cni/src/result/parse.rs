//! Parses results.

use flannel_core::json::{GoStruct, Object, TypeError, Value};
use ipnet::IpNet;
use std::net::IpAddr;

use super::{CniResult, Dns, Interface, Ip, Route};
use crate::address::{parse_cidr, parse_ip};
use crate::error::CniError;
use crate::version::Version;

pub(super) fn result(object: &Object, version: Version) -> Result<CniResult, CniError> {
    let mut result = CniResult {
        dns: object
            .field("dns")
            .map(|value| Dns::parse(value, "Result.dns"))
            .transpose()?
            .unwrap_or_default(),
        ..CniResult::default()
    };
    if version.is_legacy() {
        for name in ["ip4", "ip6"] {
            let Some(value) = object.field(name) else { continue };
            let path = format!("Result.{name}");
            let family = GoStruct::of(value, &path, "types020.IPConfig")?;
            let address = cidr(family, "ip")?;
            result.ips.push(Ip { interface: None, address, gateway: ip(family, "gateway")? });
            result.routes.extend(list(family, "routes", Route::parse)?);
        }
    } else {
        let keys = GoStruct::new(object, "Result");
        result.interfaces = list(keys, "interfaces", interface)?;
        result.ips = list(keys, "ips", ip_config)?;
        result.routes = list(keys, "routes", Route::parse)?;
    }
    Ok(result)
}

fn interface(value: &Value, path: &str) -> Result<Interface, CniError> {
    let keys = GoStruct::of(value, path, "types100.Interface")?;
    Ok(Interface {
        name: string(keys, "name")?,
        mac: string(keys, "mac")?,
        mtu: integer(keys, "mtu")?.unwrap_or_default(),
        sandbox: string(keys, "sandbox")?,
        socket_path: string(keys, "socketPath")?,
        pci_id: string(keys, "pciID")?,
    })
}

fn ip_config(value: &Value, path: &str) -> Result<Ip, CniError> {
    let keys = GoStruct::of(value, path, "types100.IPConfig")?;
    Ok(Ip {
        interface: integer(keys, "interface")?,
        address: cidr(keys, "address")?,
        gateway: ip(keys, "gateway")?,
    })
}

impl Route {
    /// Reads one element of a list of routes; `path` names it in errors.
    pub(crate) fn parse(value: &Value, path: &str) -> Result<Self, CniError> {
        let keys = GoStruct::of(value, path, "types.Route")?;
        Ok(Self {
            dst: cidr(keys, "dst")?,
            gw: ip(keys, "gw")?,
            mtu: integer(keys, "mtu")?.unwrap_or_default(),
            advmss: integer(keys, "advmss")?.unwrap_or_default(),
            priority: integer(keys, "priority")?.unwrap_or_default(),
            table: integer(keys, "table")?,
            scope: integer(keys, "scope")?,
        })
    }
}

impl Dns {
    pub(crate) fn parse(value: &Value, path: &str) -> Result<Self, TypeError> {
        let keys = GoStruct::of(value, path, "types.DNS")?;
        let texts = |name: &'static str| -> Result<Option<Vec<String>>, TypeError> {
            let Some(elements) = keys.read(name, "[]string", Value::as_array)? else { return Ok(None) };
            let text = |element: &Value| match element {
                Value::Null => Ok(String::new()),
                Value::String(text) => Ok(text.clone()),
                other => Err(other.type_error(&format!("{path}.{name}"), "string")),
            };
            elements.iter().map(text).collect::<Result<_, _>>().map(Some)
        };
        Ok(Self {
            nameservers: texts("nameservers")?,
            domain: string(keys, "domain")?,
            search: texts("search")?,
            options: texts("options")?,
        })
    }
}

fn list<T>(
    keys: GoStruct<'_>,
    name: &str,
    read: impl Fn(&Value, &str) -> Result<T, CniError>,
) -> Result<Vec<T>, CniError> {
    let elements = keys.array(name, "slice")?.iter().enumerate();
    elements.map(|(at, element)| read(element, &format!("{}.{name}[{at}]", keys.path()))).collect()
}

fn string(keys: GoStruct<'_>, name: &str) -> Result<String, TypeError> {
    Ok(keys.string(name)?.unwrap_or_default().to_owned())
}

/// An integer without fraction or exponent. Go rewrites numbers that pass through a map, so `2.0` is 2.
fn integer(keys: GoStruct<'_>, name: &str) -> Result<Option<i64>, TypeError> {
    keys.read(name, "int", |value| match value {
        // A number may come from a map, where Go has written it as a float.
        Value::Number(_) => value.to_compact().parse().ok(),
        _ => None,
    })
}

fn ip(keys: GoStruct<'_>, name: &str) -> Result<Option<IpAddr>, CniError> {
    let text = keys.string(name)?.filter(|text| !text.is_empty());
    Ok(text.map(parse_ip).transpose()?)
}

fn cidr(keys: GoStruct<'_>, name: &str) -> Result<IpNet, CniError> {
    let text = keys.string(name)?.ok_or_else(|| {
        let rule = "must be an address with its prefix length, such as 10.244.1.2/24";
        CniError::internal(format!("{} has no {name}: {rule}", keys.path()))
    })?;
    Ok(parse_cidr(text)?)
}
