//! The plugin with Debian's Go delegates (`containernetworking-plugins`) on a node that is a network namespace.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::{Call, GO_PLUGINS, Netns, plugin};

/// A directory that does not exist, so that no program can be started.
const NATIVE: &str = "/nowhere";

/// A node: namespace, state directories, config.
struct Node {
    netns: Netns,
    /// The directory of Go's plugins, or one without any, so that everything runs in one process.
    delegates: &'static str,
    directory: tempfile::TempDir,
}

impl Node {
    fn new(ip_masq: bool, delegates: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let node = Self { netns: Netns::new("node"), delegates, directory };
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
        let native = self.delegates == NATIVE;
        let [env, state, networks] =
            ["subnet.env", "state", "networks"].map(|name| self.path(name).display().to_string());
        format!(
            r#"{{"cniVersion":"{version}","name":"cbr0","type":"flannel","native":{native},"subnetFile":"{env}","dataDir":"{state}",
                "ipam":{{"dataDir":"{networks}"}},"delegate":{{"hairpinMode":true,"isDefaultGateway":true}}{members}}}"#
        )
    }

    fn run(&self, command: &str, id: &str, pod: &str, config: &str) -> Result<String, String> {
        Call {
            program: plugin(),
            node: Some(&self.netns),
            command,
            id,
            ifname: "eth0",
            netns: pod,
            args: "",
            path: self.delegates,
            config,
        }
        .run()
    }

    fn files(&self, directory: &str) -> Vec<String> {
        let Ok(listing) = fs::read_dir(self.path(directory)) else { return Vec::new() };
        let mut names: Vec<_> =
            listing.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Asserts that nothing of a pod is left: no link, reservation, saved config or rule.
    fn assert_clean(&self) {
        // The kernel deletes the namespace with its links in the background.
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let links = self.netns.sh(&["ip", "-o", "link"]);
            if !links.contains("veth") {
                break;
            }
            assert!(Instant::now() < deadline, "{links}");
        }
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
    for (ip_masq, delegates) in [(true, GO_PLUGINS), (false, GO_PLUGINS), (true, NATIVE), (false, NATIVE)] {
        let node = Node::new(ip_masq, delegates);
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
        // The namespace of the other one no longer exists at the time of its DEL.
        let path = pods[1].path();
        drop(pods);
        // A repeated DEL succeeds, whatever no longer exists.
        for _ in 0..2 {
            node.run("DEL", "b", &path, &config).unwrap();
            node.run("DEL", "a", "", &config).unwrap();
        }
        // Go's bridge leaks masquerade rules of a pod whose namespace no longer exists.
        if ip_masq || delegates == NATIVE {
            node.assert_clean();
        }
    }
}

#[test]
#[ignore = "needs netns"]
fn a_pod_whose_saved_config_is_lost_leaves_nothing() {
    for (ip_masq, delegates) in [(false, GO_PLUGINS), (true, NATIVE), (false, NATIVE)] {
        let node = Node::new(ip_masq, delegates);
        let config = node.config("0.3.1", "");
        let pod = Netns::new("a");
        node.run("ADD", "a", &pod.path(), &config).unwrap();
        fs::remove_dir_all(node.path("state")).unwrap();
        fs::remove_file(node.path("subnet.env")).unwrap();
        node.run("DEL", "a", &pod.path(), &config).unwrap();
        node.assert_clean();
    }
}

#[test]
#[ignore = "needs netns"]
fn a_failed_add_leaves_nothing_but_its_config() {
    for delegates in [GO_PLUGINS, NATIVE] {
        let node = Node::new(true, delegates);
        let pod = Netns::new("a");
        // The bridge's address belongs to another network, which is detected after the pod's interface has been created.
        node.netns.sh(&["ip", "link", "add", "cni0", "type", "bridge"]);
        node.netns.sh(&["ip", "addr", "add", "10.9.9.1/24", "dev", "cni0"]);
        let config = node.config("0.3.1", "");
        let error = node.run("ADD", "a", &pod.path(), &config).unwrap_err();
        assert!(error.contains("already has an IP address different from 10.244.1.1/24"), "{error}");
        assert_eq!(node.files("state"), ["a", "a.eth0"]);
        assert!(!pod.sh(&["ip", "-o", "link"]).contains("eth0"));
        node.run("DEL", "a", &pod.path(), &config).unwrap();
        node.assert_clean();
    }
}

/// The node has another subnet. Running pods keep their gateway.
#[test]
#[ignore = "needs netns"]
fn a_new_subnet_coexists_with_the_former_one() {
    let node = Node::new(true, NATIVE);
    let config = node.config("1.0.0", "");
    let [old, new, newer] = [Netns::new("old"), Netns::new("new"), Netns::new("newer")];
    node.run("ADD", "old", &old.path(), &config).unwrap();
    let env = fs::read_to_string(node.path("subnet.env")).unwrap();
    let env = env.replace("10.244.1.1/24", "10.244.9.1/24").replace("42:1::1/64", "42:9::1/64");
    fs::write(node.path("subnet.env"), env).unwrap();

    let addresses = || node.netns.sh(&["ip", "-o", "addr", "show", "dev", "cni0", "scope", "global"]);
    node.run("ADD", "new", &new.path(), &config).unwrap();
    old.sh(&["ping", "-c1", "-W5", "10.244.1.1"]);
    new.sh(&["ping", "-c1", "-W5", "10.244.9.1"]);
    old.sh(&["ping", "-c1", "-W5", "10.244.9.2"]);
    old.sh(&["ping", "-c1", "-W5", "2001:cafe:42:1::1"]);
    new.sh(&["ping", "-c1", "-W5", "2001:cafe:42:9::1"]);
    for gateway in ["10.244.1.1/24", "42:1::1/64", "10.244.9.1/24", "42:9::1/64"] {
        assert!(addresses().contains(gateway), "{gateway}: {}", addresses());
    }

    node.run("DEL", "old", &old.path(), &config).unwrap();
    node.run("ADD", "newer", &newer.path(), &config).unwrap();
    // Packets to the former subnet belong to another node now.
    assert!(!addresses().contains("10.244.1.1/24") && !addresses().contains("42:1::1/64"), "{}", addresses());
    for (id, pod) in [("new", &new), ("newer", &newer)] {
        node.run("DEL", id, &pod.path(), &config).unwrap();
    }
    node.assert_clean();
}

/// Namespaces are deleted without a DEL; their addresses are released when they are needed.
#[test]
#[ignore = "needs netns"]
fn addresses_of_lost_pods_are_released() {
    let node = Node::new(true, NATIVE);
    let env = fs::read_to_string(node.path("subnet.env")).unwrap();
    fs::write(node.path("subnet.env"), env.replace("10.244.1.1/24", "10.244.1.1/29")).unwrap();
    let config = node.config("1.0.0", "");
    for round in 0..3 {
        let pods: Vec<_> = (0..5).map(|_| Netns::new("lost")).collect();
        for (at, pod) in pods.iter().enumerate() {
            node.run("ADD", &format!("pod{round}-{at}"), &pod.path(), &config).unwrap();
        }
    }
}

/// GC removes what is not in the runtime's list.
#[test]
#[ignore = "needs netns"]
fn gc_releases_everything() {
    let node = Node::new(true, NATIVE);
    let config = node.config("1.1.0", "");
    let [a, b] = [Netns::new("a"), Netns::new("b")];
    node.run("ADD", "a", &a.path(), &config).unwrap();
    node.run("ADD", "b", &b.path(), &config).unwrap();
    drop(b);
    let list = r#","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#;
    node.run("GC", "x", "", &node.config("1.1.0", list)).unwrap();
    assert_eq!(node.files("state"), ["a", "a.eth0"]);
    let addresses = node.files("networks/cbr0");
    assert!(addresses.contains(&"10.244.1.2".to_owned()) && !addresses.contains(&"10.244.1.3".to_owned()));
    node.run("STATUS", "x", "", &config).unwrap();
    node.run("GC", "x", "", &node.config("1.1.0", r#","cni.dev/valid-attachments":[]"#)).unwrap();
    node.run("DEL", "a", &a.path(), &config).unwrap();
    node.assert_clean();
}
