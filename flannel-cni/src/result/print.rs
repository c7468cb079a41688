//! Prints results.

use flannel_core::family::Family;
use flannel_core::json::{Object, Value};

use super::{CniResult, Dns, Interface, Ip, Route};
use crate::error::CniError;
use crate::version::Version;

impl CniResult {
    /// Returns the JSON object in the shape of a version, its members in Go's order.
    pub(crate) fn to_value(&self, version: Version) -> Result<Value, CniError> {
        let name = Value::from(version.as_str());
        let dns = dns(&self.dns);
        if version.is_legacy() {
            if self.ips.is_empty() && !self.interfaces.is_empty() {
                return Err(CniError::internal("cannot convert: no valid IP addresses"));
            }
            let ip = |family| self.first(family).map(|ip| legacy_ip(ip, &self.routes)).into();
            let (ip4, ip6) = (ip(Family::V4), ip(Family::V6));
            return Ok(
                members([("cniVersion", name), ("ip4", ip4), ("ip6", ip6), ("dns", dns.into())]).into()
            );
        }
        let dns = (!version.is_current() || !dns.is_empty()).then_some(dns);
        let printed = members([
            ("cniVersion", name),
            ("interfaces", list(&self.interfaces, |one| interface(one, version))),
            ("ips", list(&self.ips, |one| ip(one, version))),
            ("routes", list(&self.routes, route)),
            ("dns", dns.into()),
        ]);
        Ok(if version.is_current() { printed.sorted() } else { printed }.into())
    }
}

impl Route {
    /// Returns the route as JSON, without empty members, names sorted.
    pub(crate) fn to_value(&self) -> Value {
        route(self).sorted().into()
    }
}

fn legacy_ip(ip: &Ip, routes: &[Route]) -> Object {
    let family = Family::of_net(ip.address);
    let routes = routes.iter().filter(|route| Family::of_net(route.dst) == family);
    let routes: Vec<_> = routes.map(|full| Route { gw: full.gw, ..Route::to(full.dst) }).collect();
    members([
        ("ip", text(ip.address)),
        ("gateway", ip.gateway.map(text).into()),
        ("routes", list(&routes, route)),
    ])
}

fn interface(one: &Interface, version: Version) -> Object {
    let mut object = members([
        ("name", one.name.as_str().into()),
        ("mac", nonempty(&one.mac)),
        ("mtu", nonzero(one.mtu)),
        ("sandbox", nonempty(&one.sandbox)),
        ("socketPath", nonempty(&one.socket_path)),
        ("pciID", nonempty(&one.pci_id)),
    ]);
    if !version.is_current() {
        for name in ["mtu", "socketPath", "pciID"] {
            object.remove(name);
        }
    }
    object
}

fn ip(ip: &Ip, version: Version) -> Object {
    let family = if Family::of_net(ip.address) == Family::V4 { "4" } else { "6" };
    members([
        ("version", (!version.is_current()).then_some(family).into()),
        ("interface", ip.interface.into()),
        ("address", text(ip.address)),
        ("gateway", ip.gateway.map(text).into()),
    ])
}

fn route(route: &Route) -> Object {
    members([
        ("dst", text(route.dst)),
        ("gw", route.gw.map(text).into()),
        ("mtu", nonzero(route.mtu)),
        ("advmss", nonzero(route.advmss)),
        ("priority", nonzero(route.priority)),
        ("table", route.table.into()),
        ("scope", route.scope.into()),
    ])
}

fn dns(dns: &Dns) -> Object {
    let texts = |texts: &Option<Vec<String>>| list(texts.as_deref().unwrap_or_default(), String::clone);
    members([
        ("nameservers", texts(&dns.nameservers)),
        ("domain", nonempty(&dns.domain)),
        ("search", texts(&dns.search)),
        ("options", texts(&dns.options)),
    ])
}

/// Returns an object of the members that are not `null`.
fn members<const N: usize>(all: [(&str, Value); N]) -> Object {
    all.into_iter().filter(|(_, value)| *value != Value::Null).collect()
}

fn list<T, V: Into<Value>>(items: &[T], value: impl Fn(&T) -> V) -> Value {
    (!items.is_empty()).then(|| items.iter().map(value).collect::<Vec<V>>()).into()
}

fn text(value: impl ToString) -> Value {
    value.to_string().into()
}

fn nonempty(text: &str) -> Value {
    Some(text).filter(|text| !text.is_empty()).into()
}

fn nonzero(number: i64) -> Value {
    Some(number).filter(|number| *number != 0).into()
}
