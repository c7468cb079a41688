//! Prints results.

use flannel_core::family::Family;
use flannel_core::json::{Object, Value};

use super::{CniResult, ConvertError, Dns, Interface, Ip, Route};
use crate::version::{Shape, Version};

/// Returns the members in Go's order.
pub(super) fn value(result: &CniResult, version: Version) -> Result<Value, ConvertError> {
    let mut object = Object::new();
    object.insert("cniVersion", version.as_str());
    match version.shape() {
        Shape::Legacy => {
            if result.ips.is_empty() && !result.interfaces.is_empty() {
                return Err(ConvertError);
            }
            for (family, name) in [(Family::V4, "ip4"), (Family::V6, "ip6")] {
                if let Some(ip) = result.first(family) {
                    object.insert(name, legacy_ip(ip, &result.routes));
                }
            }
            object.insert("dns", dns(&result.dns));
        }
        Shape::Listed => {
            insert_list(&mut object, "interfaces", &result.interfaces, listed_interface);
            insert_list(&mut object, "ips", &result.ips, listed_ip);
            insert_list(&mut object, "routes", &result.routes, route);
            object.insert("dns", dns(&result.dns));
        }
        Shape::Current => {
            insert_list(&mut object, "interfaces", &result.interfaces, current_interface);
            insert_list(&mut object, "ips", &result.ips, |item| ip(item, Object::new()));
            insert_list(&mut object, "routes", &result.routes, route);
            let dns = dns(&result.dns);
            if !dns.is_empty() {
                object.insert("dns", dns);
            }
            return Ok(Value::Object(object).sorted());
        }
    }
    Ok(Value::Object(object))
}

fn legacy_ip(ip: &Ip, routes: &[Route]) -> Object {
    let mut object = Object::new();
    object.insert("ip", ip.address.to_string());
    insert_text(&mut object, "gateway", ip.gateway);
    let family = Family::of_net(ip.address);
    let routes: Vec<Route> =
        routes.iter().filter(|route| Family::of_net(route.dst) == family).cloned().collect();
    insert_list(&mut object, "routes", &routes, |full| route(&Route { gw: full.gw, ..Route::to(full.dst) }));
    object
}

fn listed_interface(interface: &Interface) -> Object {
    let mut object = Object::new();
    object.insert("name", interface.name.as_str());
    insert_text(&mut object, "mac", given(&interface.mac));
    insert_text(&mut object, "sandbox", given(&interface.sandbox));
    object
}

fn current_interface(interface: &Interface) -> Object {
    let mut object = listed_interface(interface);
    if interface.mtu != 0 {
        object.insert("mtu", interface.mtu);
    }
    insert_text(&mut object, "socketPath", given(&interface.socket_path));
    insert_text(&mut object, "pciID", given(&interface.pci_id));
    object
}

fn listed_ip(item: &Ip) -> Object {
    let version = if Family::of_net(item.address) == Family::V4 { "4" } else { "6" };
    ip(item, [("version", version)].into_iter().collect())
}

fn ip(ip: &Ip, mut object: Object) -> Object {
    if let Some(interface) = ip.interface {
        object.insert("interface", interface);
    }
    object.insert("address", ip.address.to_string());
    insert_text(&mut object, "gateway", ip.gateway);
    object
}

pub(super) fn route(route: &Route) -> Object {
    let mut object = Object::new();
    object.insert("dst", route.dst.to_string());
    insert_text(&mut object, "gw", route.gw);
    let nonzero = |number: i64| Some(number).filter(|number| *number != 0);
    for (name, number) in [
        ("mtu", nonzero(route.mtu)),
        ("advmss", nonzero(route.advmss)),
        ("priority", nonzero(route.priority)),
        ("table", route.table),
        ("scope", route.scope),
    ] {
        if let Some(number) = number {
            object.insert(name, number);
        }
    }
    object
}

fn dns(dns: &Dns) -> Object {
    let mut object = Object::new();
    let insert_texts = |object: &mut Object, name, texts: &Option<Vec<String>>| {
        insert_list(object, name, texts.as_deref().unwrap_or_default(), String::clone);
    };
    insert_texts(&mut object, "nameservers", &dns.nameservers);
    insert_text(&mut object, "domain", given(&dns.domain));
    insert_texts(&mut object, "search", &dns.search);
    insert_texts(&mut object, "options", &dns.options);
    object
}

fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn insert_text(object: &mut Object, name: &str, value: Option<impl ToString>) {
    if let Some(value) = value {
        object.insert(name, value.to_string());
    }
}

fn insert_list<T, V: Into<Value>>(object: &mut Object, name: &str, items: &[T], value: impl Fn(&T) -> V) {
    if !items.is_empty() {
        object.insert(name, items.iter().map(value).collect::<Vec<V>>());
    }
}
