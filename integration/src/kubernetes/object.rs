//! Objects that tests create and read.

use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A node as a kubelet registers it, with addresses but without podCIDRs.
#[must_use]
pub fn node(name: &str, addresses: &[&str]) -> Value {
    let addresses: Vec<Value> =
        addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
        "status": {"addresses": addresses},
    })
}

/// The same with podCIDRs, as a cluster without node IPAM controller has it.
#[must_use]
pub fn node_with_cidrs(name: &str, addresses: &[&str], pod_cidrs: &[&str]) -> Value {
    let mut node = node(name, addresses);
    node["spec"] = json!({"podCIDR": pod_cidrs.first(), "podCIDRs": pod_cidrs});
    node
}

/// Returns the podCIDRs of a node.
#[must_use]
pub fn pod_cidrs(node: &Value) -> Vec<String> {
    let list = node["spec"]["podCIDRs"].as_array();
    list.into_iter().flatten().filter_map(|cidr| cidr.as_str().map(str::to_owned)).collect()
}

/// Returns the annotations of an object.
#[must_use]
pub fn annotations(object: &Value) -> BTreeMap<String, String> {
    let map = object["metadata"]["annotations"].as_object();
    map.into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// Returns a condition of the status of a node or pod.
#[must_use]
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}
