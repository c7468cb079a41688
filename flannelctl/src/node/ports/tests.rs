use super::*;
use serde_json::json;

#[test]
fn the_port_of_a_running_pod_is_read_from_a_kept_result() {
    let cache = |netns: &str, arguments: Value| {
        json!({
            "kind": "cniCacheV1", "containerId": "c1", "networkName": "cbr0", "ifName": "eth0", "netns": netns,
            "cniArgs": arguments,
            "result": {"interfaces": [
                {"name": "cni0", "mac": "02:00:00:00:00:01"},
                {"name": "veth12", "mac": "02:00:00:00:00:02"},
                {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": netns},
            ]},
        })
    };
    let port = |pod: &str| {
        let (pod, bridge, link) = (pod.to_owned(), "cni0".to_owned(), "veth12".to_owned());
        Some(Port { pod, bridge, link })
    };
    assert_eq!(Port::read(&cache("/proc/self/ns/net", Value::Null)), port("c1"));
    let arguments = json!([["K8S_POD_NAME", "web"], ["K8S_POD_NAMESPACE", "default"]]);
    assert_eq!(Port::read(&cache("/proc/self/ns/net", arguments)), port("default/web"));
    assert_eq!(Port::read(&cache("/nonexistent", Value::Null)), None, "the pod no longer exists");
    assert_eq!(Port::read(&json!({"netns": "/proc/self/ns/net", "result": {}})), None, "no bridge");
}
