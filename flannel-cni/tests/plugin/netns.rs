//! The plugin with Debian's Go delegates (`containernetworking-plugins`) on a node that is a network namespace.

use std::fs;
use std::path::PathBuf;

use crate::support::{Call, Netns, OURS};

/// A node: namespace, state directories, config.
struct Node {
    netns: Netns,
    directory: tempfile::TempDir,
}

impl Node {
    fn new(ip_masq: bool) -> Self {
        let node = Self { netns: Netns::new("node"), directory: tempfile::tempdir().unwrap() };
        node.netns.sh(&["ip", "link", "set", "lo", "up"]);
        let env = format!(
            "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\n\
             FLANNEL_IPV6_NETWORK=2001:cafe:42::/56\nFLANNEL_IPV6_SUBNET=2001:cafe:42:1::1/64\n\
             FLANNEL_MTU=1450\nFLANNEL_IPMASQ={ip_masq}\n"
        );
        fs::write(node.path("subnet.env"), env).unwrap();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self, version: &str, members: &str) -> String {
        let [env, state, networks] =
            ["subnet.env", "state", "networks"].map(|name| self.path(name).display().to_string());
        format!(
            r#"{{"cniVersion":"{version}","name":"cbr0","type":"flannel","subnetFile":"{env}","dataDir":"{state}",
                "ipam":{{"dataDir":"{networks}"}},"delegate":{{"hairpinMode":true,"isDefaultGateway":true}}{members}}}"#
        )
    }

    fn run(&self, command: &str, id: &str, pod: &str, config: &str) -> Result<String, String> {
        Call { program: OURS, node: Some(&self.netns), command, id, netns: pod, args: "", config }.run()
    }

    fn files(&self, directory: &str) -> Vec<String> {
        let Ok(listing) = fs::read_dir(self.path(directory)) else { return Vec::new() };
        let mut names: Vec<_> =
            listing.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Nothing of a pod is left: no link, no reservation, no saved config, no rule.
    fn assert_clean(&self) {
        let links = self.netns.sh(&["ip", "-o", "link"]);
        assert!(!links.contains("veth"), "{links}");
        assert_eq!(self.files("state"), [""; 0]);
        assert_eq!(
            self.files("networks/cbr0"),
            ["last_reserved_ip.0", "last_reserved_ip.1", "lock"],
            "reservations"
        );
        for save in ["iptables-save", "ip6tables-save"] {
            let rules = self.netns.sh(&[save]);
            assert!(!rules.contains("CNI-"), "{rules}");
        }
    }
}

#[test]
#[ignore = "needs netns"]
fn pods_reach_each_other_and_leave_nothing() {
    for ip_masq in [true, false] {
        let node = Node::new(ip_masq);
        let config = node.config("1.0.0", "");
        let pods = [Netns::new("a"), Netns::new("b")];
        for (pod, id) in pods.iter().zip(["a", "b"]) {
            node.run("ADD", id, &pod.path(), &config).unwrap();
        }
        assert_eq!(node.files("state"), ["a", "a.eth0", "b", "b.eth0"]);
        for target in ["10.244.1.3", "10.244.1.1", "2001:cafe:42:1::3"] {
            pods[0].sh(&["ping", "-c1", "-W5", target]);
        }
        assert!(pods[0].sh(&["ip", "route"]).contains("default via 10.244.1.1 dev eth0"));

        let error = node.run("CHECK", "a", &pods[0].path(), &config).unwrap_err();
        assert!(error.contains("prevResult missing"), "{error}");
        node.run("DEL", "a", &pods[0].path(), &config).unwrap();
        // The namespace of the other one is gone by the time of its DEL.
        let path = pods[1].path();
        drop(pods);
        // A repeated DEL is fine, whatever is gone.
        for _ in 0..2 {
            node.run("DEL", "b", &path, &config).unwrap();
            node.run("DEL", "a", "", &config).unwrap();
        }
        // Go's bridge forgets masquerade rules of a pod whose namespace is gone.
        if ip_masq {
            node.assert_clean();
        }
    }
}

#[test]
#[ignore = "needs netns"]
fn a_pod_whose_saved_config_is_lost_leaves_nothing() {
    let node = Node::new(false);
    let config = node.config("0.3.1", "");
    let pod = Netns::new("a");
    node.run("ADD", "a", &pod.path(), &config).unwrap();
    fs::remove_dir_all(node.path("state")).unwrap();
    fs::remove_file(node.path("subnet.env")).unwrap();
    node.run("DEL", "a", &pod.path(), &config).unwrap();
    node.assert_clean();
}

#[test]
#[ignore = "needs netns"]
fn a_failed_add_leaves_nothing_but_its_config() {
    let node = Node::new(true);
    let pod = Netns::new("a");
    // The bridge's address belongs to another network: the delegate finds out after it has made the pod's interface.
    node.netns.sh(&["ip", "link", "add", "cni0", "type", "bridge"]);
    node.netns.sh(&["ip", "addr", "add", "10.9.9.1/24", "dev", "cni0"]);
    let config = node.config("0.3.1", "");
    let error = node.run("ADD", "a", &pod.path(), &config).unwrap_err();
    assert!(error.contains("already has an IP address different from"), "{error}");
    assert_eq!(node.files("state"), ["a", "a.eth0"]);
    assert!(!pod.sh(&["ip", "-o", "link"]).contains("eth0"));
    node.run("DEL", "a", &pod.path(), &config).unwrap();
    node.assert_clean();
}
