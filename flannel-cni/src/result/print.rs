//! Result → JSON.

use flannel_core::family::Family;
use flannel_core::json::{Object, Value};

use super::{CniResult, ConvertError, Dns, Interface, Ip, Route};
use crate::version::{Shape, Version};

/// The members in the order that Go prints them in.
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
            insert_list(&mut object, "interfaces", &result.interfaces, |interface| {
                listed_interface(interface).into()
            });
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
    let mut object: Object = [("ip", ip.address.to_string())].into_iter().collect();
    if let Some(gateway) = ip.gateway {
        object.insert("gateway", gateway.to_string());
    }
    let family = Family::of_net(ip.address);
    let routes: Vec<Route> =
        routes.iter().filter(|route| Family::of_net(route.dst) == family).cloned().collect();
    insert_list(&mut object, "routes", &routes, |full| {
        let mut object: Object = [("dst", full.dst.to_string())].into_iter().collect();
        if let Some(gw) = full.gw {
            object.insert("gw", gw.to_string());
        }
        object.into()
    });
    object
}

fn listed_interface(interface: &Interface) -> Object {
    let mut object: Object = [("name", interface.name.as_str())].into_iter().collect();
    insert_text(&mut object, "mac", &interface.mac);
    insert_text(&mut object, "sandbox", &interface.sandbox);
    object
}

fn current_interface(interface: &Interface) -> Value {
    let mut object = listed_interface(interface);
    if interface.mtu != 0 {
        object.insert("mtu", interface.mtu);
    }
    insert_text(&mut object, "socketPath", &interface.socket_path);
    insert_text(&mut object, "pciID", &interface.pci_id);
    object.into()
}

fn listed_ip(item: &Ip) -> Value {
    let version = if Family::of_net(item.address) == Family::V4 { "4" } else { "6" };
    ip(item, [("version", version)].into_iter().collect())
}

fn ip(ip: &Ip, mut object: Object) -> Value {
    if let Some(interface) = ip.interface {
        object.insert("interface", interface);
    }
    object.insert("address", ip.address.to_string());
    if let Some(gateway) = ip.gateway {
        object.insert("gateway", gateway.to_string());
    }
    object.into()
}

pub(super) fn route(route: &Route) -> Value {
    let mut object: Object = [("dst", route.dst.to_string())].into_iter().collect();
    if let Some(gw) = route.gw {
        object.insert("gw", gw.to_string());
    }
    for (name, number) in [("mtu", route.mtu), ("advmss", route.advmss), ("priority", route.priority)] {
        if number != 0 {
            object.insert(name, number);
        }
    }
    for (name, number) in [("table", route.table), ("scope", route.scope)] {
        if let Some(number) = number {
            object.insert(name, number);
        }
    }
    object.into()
}

fn dns(dns: &Dns) -> Object {
    let mut object = Object::new();
    insert_texts(&mut object, "nameservers", dns.nameservers.as_ref());
    insert_text(&mut object, "domain", &dns.domain);
    insert_texts(&mut object, "search", dns.search.as_ref());
    insert_texts(&mut object, "options", dns.options.as_ref());
    object
}

fn insert_texts(object: &mut Object, name: &str, texts: Option<&Vec<String>>) {
    if let Some(texts) = texts.filter(|texts| !texts.is_empty()) {
        object.insert(name, texts.clone());
    }
}

fn insert_text(object: &mut Object, name: &str, text: &str) {
    if !text.is_empty() {
        object.insert(name, text);
    }
}

fn insert_list<T>(object: &mut Object, name: &str, items: &[T], value: impl Fn(&T) -> Value) {
    if !items.is_empty() {
        object.insert(name, items.iter().map(value).collect::<Vec<Value>>());
    }
}
