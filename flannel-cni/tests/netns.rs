//! The plugin with Debian's Go delegates (`containernetworking-plugins`) on a node that is a network namespace.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

const GO_PLUGINS: &str = "/usr/lib/cni";

/// A namespace with a name of its own; gone when dropped, also by a panic.
struct Netns(String);

impl Netns {
    fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let netns = Self(format!("flannel-cni-{}-{count}-{name}", std::process::id()));
        sh(&["ip", "netns", "add", &netns.0]);
        netns
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    /// Runs a command inside; answers with its stdout.
    fn sh(&self, command: &[&str]) -> String {
        sh(&[&["ip", "netns", "exec", &self.0], command].concat())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn sh(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

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
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.netns.0, env!("CARGO_BIN_EXE_flannel")])
            .envs([
                ("CNI_COMMAND", command),
                ("CNI_CONTAINERID", id),
                ("CNI_NETNS", pod),
                ("CNI_IFNAME", "eth0"),
                ("CNI_PATH", GO_PLUGINS),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        if output.status.success() {
            Ok(stdout)
        } else {
            Err(format!("{stdout}{}", String::from_utf8_lossy(&output.stderr)))
        }
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
