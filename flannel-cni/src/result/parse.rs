//! JSON → result.

use flannel_core::json::{Object, TypeError, Value};
use ipnet::IpNet;
use std::net::IpAddr;

use super::{CniResult, Dns, Interface, Ip, ResultError, Route};
use crate::address::{parse_cidr, parse_ip};
use crate::version::Shape;

pub(super) fn result(object: &Object, shape: Shape) -> Result<CniResult, ResultError> {
    let mut result = CniResult {
        dns: object.field("dns").map(|value| dns(value, "Result.dns")).transpose()?.unwrap_or_default(),
        ..CniResult::default()
    };
    if shape == Shape::Legacy {
        for name in ["ip4", "ip6"] {
            let Some(value) = object.field(name) else { continue };
            let path = format!("Result.{name}");
            let family = as_object(value, &path, "types020.IPConfig")?;
            let address = cidr(family, "ip", &path)?;
            result.ips.push(Ip { interface: None, address, gateway: ip(family, "gateway", &path)? });
            result.routes.extend(list(family, "routes", &path, route)?);
        }
    } else {
        result.interfaces = list(object, "interfaces", "Result", interface)?;
        result.ips = list(object, "ips", "Result", ip_config)?;
        result.routes = list(object, "routes", "Result", route)?;
    }
    Ok(result)
}

fn interface(value: &Value, path: &str) -> Result<Interface, ResultError> {
    let object = as_object(value, path, "types100.Interface")?;
    Ok(Interface {
        name: string(object, "name", path)?,
        mac: string(object, "mac", path)?,
        mtu: integer(object, "mtu", path)?.unwrap_or_default(),
        sandbox: string(object, "sandbox", path)?,
        socket_path: string(object, "socketPath", path)?,
        pci_id: string(object, "pciID", path)?,
    })
}

fn ip_config(value: &Value, path: &str) -> Result<Ip, ResultError> {
    let object = as_object(value, path, "types100.IPConfig")?;
    Ok(Ip {
        interface: integer(object, "interface", path)?,
        address: cidr(object, "address", path)?,
        gateway: ip(object, "gateway", path)?,
    })
}

pub(super) fn route(value: &Value, path: &str) -> Result<Route, ResultError> {
    let object = as_object(value, path, "types.Route")?;
    Ok(Route {
        dst: cidr(object, "dst", path)?,
        gw: ip(object, "gw", path)?,
        mtu: integer(object, "mtu", path)?.unwrap_or_default(),
        advmss: integer(object, "advmss", path)?.unwrap_or_default(),
        priority: integer(object, "priority", path)?.unwrap_or_default(),
        table: integer(object, "table", path)?,
        scope: integer(object, "scope", path)?,
    })
}

pub(super) fn dns(value: &Value, path: &str) -> Result<Dns, TypeError> {
    let object = as_object(value, path, "types.DNS")?;
    Ok(Dns {
        nameservers: strings(object, "nameservers", path)?,
        domain: string(object, "domain", path)?,
        search: strings(object, "search", path)?,
        options: strings(object, "options", path)?,
    })
}

fn as_object<'a>(value: &'a Value, path: &str, wanted: &'static str) -> Result<&'a Object, TypeError> {
    value.as_object().ok_or_else(|| value.type_error(path, wanted))
}

fn list<T>(
    object: &Object,
    name: &str,
    path: &str,
    read: impl Fn(&Value, &str) -> Result<T, ResultError>,
) -> Result<Vec<T>, ResultError> {
    let Some(value) = object.field(name) else { return Ok(Vec::new()) };
    let path = format!("{path}.{name}");
    let elements = value.as_array().ok_or_else(|| value.type_error(&path, "slice"))?;
    elements.iter().enumerate().map(|(at, element)| read(element, &format!("{path}[{at}]"))).collect()
}

fn string(object: &Object, name: &str, path: &str) -> Result<String, TypeError> {
    match object.field(name) {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(other.type_error(&format!("{path}.{name}"), "string")),
    }
}

fn strings(object: &Object, name: &str, path: &str) -> Result<Option<Vec<String>>, TypeError> {
    let Some(value) = object.field(name) else { return Ok(None) };
    let error = |value: &Value, wanted| value.type_error(&format!("{path}.{name}"), wanted);
    let elements = value.as_array().ok_or_else(|| error(value, "[]string"))?;
    let texts = elements.iter().map(|element| match element {
        Value::Null => Ok(String::new()),
        other => other.as_str().map(str::to_owned).ok_or_else(|| error(other, "string")),
    });
    texts.collect::<Result<_, _>>().map(Some)
}

/// An integer of Go: no fraction, no exponent. What went through a map was rewritten there, so `2.0` is 2.
fn integer(object: &Object, name: &str, path: &str) -> Result<Option<i64>, TypeError> {
    let Some(value) = object.field(name) else { return Ok(None) };
    let number = match value {
        Value::Number(number) => number.to_string().parse().ok(),
        _ => None,
    };
    number.map(Some).ok_or_else(|| value.type_error(&format!("{path}.{name}"), "int"))
}

fn ip(object: &Object, name: &str, path: &str) -> Result<Option<IpAddr>, ResultError> {
    let text = string(object, name, path)?;
    if text.is_empty() { Ok(None) } else { Ok(Some(parse_ip(&text)?)) }
}

fn cidr(object: &Object, name: &'static str, path: &str) -> Result<IpNet, ResultError> {
    if object.field(name).is_none() {
        return Err(ResultError::NoAddress(path.to_owned(), name));
    }
    Ok(parse_cidr(&string(object, name, path)?)?)
}
