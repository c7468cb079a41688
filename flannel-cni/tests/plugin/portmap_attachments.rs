//! portmap for interfaces of any kind, and for several interfaces of one container.

use crate::firewall::{BOTH_WAYS, Node, Plugins, compact};
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
        // Unknown keys are ignored.
        let config = config("cbr0", "203.0.113.7", 8080, r#","someKey":{"a":1},"_comment":"x""#);
        let result = node.run(plugins, "portmap", "ADD", "cid1", &pod.path(), &config).unwrap();
        assert!(compact(&result).contains("203.0.113.7/24"), "{result}");
        assert!(node.rules().contains("--to-destination 203.0.113.7:80"), "{}", node.rules());
        node.run(Plugins::Flannel, "portmap", "CHECK", "cid1", &pod.path(), &config).unwrap();
        node.run(Plugins::Flannel, "portmap", "DEL", "cid1", &pod.path(), &config).unwrap();
        assert!(!node.rules().contains("203.0.113.7"), "{}", node.rules());
    }
    let (node, pod) = (Node::new("nft"), Netns::new("pod"));
    let config = config("cbr0", "203.0.113.7", 8080, r#","backend":"nftables""#);
    let added = node.output(Plugins::Flannel, "portmap", "ADD", ("cid1", "eth0"), &pod.path(), &config, "");
    assert!(added.status.success(), "{added:?}");
    let stderr = String::from_utf8(added.stderr).unwrap();
    assert!(stderr.contains("this host has no route to 203.0.113.7"), "{stderr}");
    assert!(node.nftables("ip cni_hostport").contains("dnat to 203.0.113.7:80"));
}

/// Two interfaces of one container in one network, and what is mapped to each.
struct Pair {
    node: Node,
    pod: Netns,
    backend: &'static str,
    /// Interface, address, port of the host.
    interfaces: Vec<(&'static str, String, u16)>,
}

impl Pair {
    fn new(variant: &str, backend: &'static str) -> Self {
        let (node, pod) = (Node::new(variant), Netns::new("pod"));
        let bridge = node.bridge("").replace(r#""ipMasq":true"#, r#""ipMasq":false"#);
        let add = |(ifname, port)| {
            let result = node
                .run_for(Plugins::Flannel, "bridge", "ADD", ("cid1", ifname), &pod.path(), &bridge)
                .unwrap();
            let address = result.split("\"address\": \"").nth(1).unwrap().split('/').next().unwrap();
            (ifname, address.to_owned(), port)
        };
        let interfaces = [("eth0", 8080), ("net1", 8081)].map(add).to_vec();
        Self { node, pod, backend, interfaces }
    }

    fn run(&self, plugins: Plugins, command: &str, at: usize) -> Result<String, String> {
        let (ifname, ip, port) = &self.interfaces[at];
        let config = config("cbr0", ip, *port, &format!(r#","backend":"{}""#, self.backend));
        self.node.run_for(plugins, "portmap", command, ("cid1", ifname), &self.pod.path(), &config)
    }

    fn is_mapped(&self, at: usize) -> bool {
        let rules = if self.backend == "nftables" {
            self.node.nftables("ip cni_hostport")
        } else {
            self.node.tool(&["iptables-save", "-t", "nat"])
        };
        rules.contains(&format!(" {}:80", self.interfaces[at].1))
    }
}

const BACKENDS: [(&str, &str); 3] = [("nft", "iptables"), ("legacy", "iptables"), ("nft", "nftables")];

#[test]
#[ignore = "needs netns"]
fn two_interfaces_of_a_container_have_their_own_mappings() {
    for (variant, backend) in BACKENDS {
        for first in [0, 1] {
            let pair = Pair::new(variant, backend);
            // A repeated ADD replaces the mappings of its interface alone.
            for at in [0, 1, 1, 0] {
                pair.run(Plugins::Flannel, "ADD", at).unwrap();
            }
            for at in [0, 1] {
                assert!(pair.is_mapped(at), "{backend} {at}");
                pair.run(Plugins::Flannel, "CHECK", at).unwrap();
            }
            pair.run(Plugins::Flannel, "DEL", first).unwrap();
            assert!(!pair.is_mapped(first) && pair.is_mapped(1 - first), "{backend} {first}");
            pair.run(Plugins::Flannel, "CHECK", 1 - first).unwrap();
            pair.run(Plugins::Flannel, "DEL", 1 - first).unwrap();
            assert!(!pair.is_mapped(1 - first), "{backend} {first}");
            assert!(!pair.node.rules().contains("CNI-DN-"), "{}", pair.node.rules());
        }
    }
}

#[test]
#[ignore = "needs netns"]
fn a_port_of_another_interface_of_the_container_is_a_conflict() {
    for (variant, backend) in BACKENDS {
        let mut pair = Pair::new(variant, backend);
        pair.interfaces[1].2 = 8080;
        pair.run(Plugins::Flannel, "ADD", 0).unwrap();
        let error = pair.run(Plugins::Flannel, "ADD", 1).unwrap_err();
        assert!(
            error.contains("host port 8080/tcp of container cid1 in network cbr0 is already used"),
            "{error}"
        );
        assert!(pair.is_mapped(0) && !pair.is_mapped(1), "{backend}");
    }
}

/// The rules of a single attachment are those of Go's plugin, whatever the name of the interface.
#[test]
#[ignore = "needs netns"]
fn a_single_attachment_is_compatible_with_go() {
    for (adder, other) in BOTH_WAYS {
        for at in [0, 1] {
            let pair = Pair::new("nft", "iptables");
            // Debian's plugin rejects the key.
            let (ifname, ip, port) = &pair.interfaces[at];
            let config = config("cbr0", ip, *port, "");
            let run = |plugins, command| {
                // Debian's CHECK searches the chain of IPv6 for rules of IPv4.
                pair.node.hide_v6(plugins == Plugins::Go && command == "CHECK");
                let outcome = pair.node.run_for(
                    plugins,
                    "portmap",
                    command,
                    ("cid1", ifname),
                    &pair.pod.path(),
                    &config,
                );
                pair.node.hide_v6(false);
                outcome
            };
            run(adder, "ADD").unwrap();
            assert!(pair.is_mapped(at));
            run(other, "CHECK").unwrap();
            run(other, "DEL").unwrap();
            assert!(!pair.node.rules().contains("CNI-DN-"), "{}", pair.node.rules());
        }
    }
}

/// When the namespace no longer exists, its interfaces do not either.
#[test]
#[ignore = "needs netns"]
fn del_and_gc_remove_the_mappings_of_one_interface() {
    for (variant, backend) in BACKENDS {
        let pair = Pair::new(variant, backend);
        for at in [0, 1] {
            pair.run(Plugins::Flannel, "ADD", at).unwrap();
        }
        let valid = |list: &str| {
            format!(
                r#"{{"cniVersion":"1.1.0","name":"cbr0","type":"portmap","cni.dev/valid-attachments":[{list}]}}"#
            )
        };
        let gc = |list: &str| pair.node.run(Plugins::Flannel, "portmap", "GC", "", "", &valid(list)).unwrap();
        gc(r#"{"containerID":"cid1","ifname":"eth0"},{"containerID":"cid1","ifname":"net1"}"#);
        assert!(pair.is_mapped(0) && pair.is_mapped(1), "{backend}");
        gc(r#"{"containerID":"cid1","ifname":"eth0"}"#);
        assert!(pair.is_mapped(0) && !pair.is_mapped(1), "{backend}");
        gc("");
        assert!(!pair.is_mapped(0), "{backend}");
        pair.run(Plugins::Flannel, "ADD", 1).unwrap();
        let (_, ip, port) = &pair.interfaces[1];
        let config = config("cbr0", ip, *port, "");
        pair.node.run_for(Plugins::Flannel, "portmap", "DEL", ("cid1", "net1"), "", &config).unwrap();
        assert!(!pair.is_mapped(1), "{backend}");
    }
}

/// Go's rules in nftables only name the container. They are removed when no network knows it.
#[test]
#[ignore = "needs netns"]
fn gc_removes_the_rules_of_go_in_nftables() {
    let pair = Pair::new("nft", "nftables");
    pair.run(Plugins::Flannel, "ADD", 0).unwrap();
    for (id, port) in [("gone", 9001), ("other", 9002), ("starting", 9003), ("cid1", 9004)] {
        let rule = format!(
            "add rule ip cni_hostport hostports tcp dport {port} dnat to 10.9.9.9:80 comment \"{id}\""
        );
        pair.node.netns.sh(&["nft", &rule]);
    }
    let gc = || {
        let config = r#"{"cniVersion":"1.1.0","name":"cbr0","type":"portmap",
            "cni.dev/valid-attachments":[{"containerID":"cid1","ifname":"eth0"}]}"#;
        pair.node.run(Plugins::Flannel, "portmap", "GC", "", "", config).unwrap();
        let rules = pair.node.nftables("ip cni_hostport");
        [9001, 9002, 9003, 9004].map(|port| rules.contains(&format!("dport {port} ")))
    };
    // Without the results of the runtime, nothing is known.
    assert_eq!(gc(), [true; 4]);
    for (file, text) in [
        ("results/cbr0-gone-eth0", ""),
        ("results/second-other-eth0", ""),
        ("networks/second/10.9.9.9", "starting\r\neth0"),
    ] {
        let path = std::path::Path::new("/var/lib/cni").join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    assert_eq!(gc(), [false, true, true, true]);
    assert!(pair.is_mapped(0));
}
