//! portmap for interfaces of any kind, and for several interfaces of one container.

use crate::firewall::{Node, Plugins, compact};
use crate::support::Netns;

/// The config of portmap with a result that another plugin has returned for `ip`.
fn config(network: &str, ip: &str, port: u16, members: &str) -> String {
    format!(
        r#"{{"cniVersion":"0.4.0","name":"{network}","type":"portmap","prevResult":{{"cniVersion":"0.4.0",
            "ips":[{{"version":"4","address":"{ip}/24"}}]}},
            "runtimeConfig":{{"portMappings":[{{"hostPort":{port},"containerPort":80,"protocol":"tcp"}}]}}{members}}}"#
    )
}

/// A container on macvlan or ipvlan, on a host without a default route.
#[test]
#[ignore = "needs netns"]
fn ports_are_mapped_without_a_route_to_the_container() {
    for plugins in [Plugins::Flannel, Plugins::Go] {
        let (node, pod) = (Node::new("nft"), Netns::new("pod"));
        let config = config("cbr0", "203.0.113.7", 8080, "");
        let result = node.run(plugins, "portmap", "ADD", "cid1", &pod.path(), &config).unwrap();
        assert!(compact(&result).contains("203.0.113.7/24"), "{result}");
        assert!(node.rules().contains("--to-destination 203.0.113.7:80"), "{}", node.rules());
        node.run(Plugins::Flannel, "portmap", "CHECK", "cid1", &pod.path(), &config).unwrap();
        node.run(Plugins::Flannel, "portmap", "DEL", "cid1", &pod.path(), &config).unwrap();
        assert!(!node.rules().contains("203.0.113.7"), "{}", node.rules());
    }
    let (node, pod) = (Node::new("nft"), Netns::new("pod"));
    let config = config("cbr0", "203.0.113.7", 8080, r#","backend":"nftables""#);
    node.run(Plugins::Flannel, "portmap", "ADD", "cid1", &pod.path(), &config).unwrap();
    assert!(node.nftables("ip cni_hostport").contains("dnat to 203.0.113.7:80"));
}
