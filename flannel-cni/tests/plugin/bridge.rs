//! Compares bridge and loopback with Debian's Go plugins: the same state in the kernel, and each deletes what the other added.

use flannel_core::json::Value;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::{Call, GO_PLUGINS, Netns, plugin};

/// Plugins: a directory of programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plugins {
    Go,
    Flannel,
}

/// A node with a directory of the plugins under their names.
pub(crate) struct Node {
    pub(crate) netns: Netns,
    directory: tempfile::TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        let node = Self { netns: Netns::new("node"), directory: tempfile::tempdir().unwrap() };
        fs::create_dir(node.path("bin")).unwrap();
        for name in ["bandwidth", "bridge", "host-local", "loopback"] {
            std::os::unix::fs::symlink(plugin(), node.path("bin").join(name)).unwrap();
        }
        // A new namespace has the setting of the host, which may be on.
        node.netns.sh(&["sysctl", "-q", "-w", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0"]);
        node
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn config(&self, members: &str) -> String {
        let root = self.path("networks");
        let ipam = format!(
            r#"{{"type":"host-local","dataDir":"{}","routes":[{{"dst":"10.244.0.0/16"}}],
                "ranges":[[{{"subnet":"10.244.1.0/24"}}],[{{"subnet":"2001:cafe:42:1::/64"}}]]}}"#,
            root.display()
        );
        format!(
            r#"{{"cniVersion":"0.4.0","name":"cbr0","type":"bridge","ipam":{ipam},"mtu":1450,"hairpinMode":true,
                "isDefaultGateway":true{members}}}"#
        )
    }

    #[expect(clippy::too_many_arguments, reason = "those of a call of a plugin")]
    pub(crate) fn run_as(
        &self,
        plugins: Plugins,
        program: &str,
        command: &str,
        id: &str,
        pod: &str,
        config: &str,
    ) -> Result<String, String> {
        let bin = match plugins {
            Plugins::Go => GO_PLUGINS.to_owned(),
            Plugins::Flannel => self.path("bin").display().to_string(),
        };
        Call {
            program: &format!("{bin}/{program}"),
            node: Some(&self.netns),
            command,
            id,
            ifname: "eth0",
            netns: pod,
            args: "",
            path: &bin,
            config,
        }
        .run()
    }

    #[expect(clippy::too_many_arguments, reason = "those of a call of a plugin")]
    pub(crate) fn run(
        &self,
        plugins: Plugins,
        command: &str,
        id: &str,
        pod: &Netns,
        config: &str,
    ) -> Result<String, String> {
        self.run_as(plugins, "bridge", command, id, &pod.path(), config)
    }

    /// Returns ports on the host and addresses in use.
    pub(crate) fn leftovers(&self) -> String {
        let ports = self.netns.sh(&["ip", "-o", "link", "show", "type", "veth"]);
        let files = fs::read_dir(self.path("networks/cbr0")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let addresses: Vec<_> = names.filter(|name| name.starts_with("10.") || name.contains(':')).collect();
        format!("{ports}{}", addresses.join(" "))
    }

    /// Returns the state of host and pod, without random values.
    fn state(&self, pod: &Netns) -> String {
        let host = [
            &["ip", "-d", "-o", "addr", "show", "dev", "cni0"][..],
            &["ip", "route"],
            &["ip", "-6", "route"],
            &["ip", "-d", "-o", "link", "show", "type", "veth"],
            &[
                "sysctl",
                "net.ipv4.ip_forward",
                "net.ipv6.conf.all.forwarding",
                "net.ipv6.conf.cni0.accept_ra",
            ],
        ];
        let inside = [
            &["ip", "-d", "-o", "addr", "show", "dev", "eth0"][..],
            &["ip", "-d", "-o", "link", "show", "dev", "eth0"],
            &["ip", "-o", "link", "show", "dev", "lo"],
            &["ip", "route"],
            &["ip", "-6", "route"],
            &["sysctl", "net.ipv6.conf.eth0.accept_dad"],
            &["sysctl", "net.ipv4.conf.eth0.arp_notify", "net.ipv6.conf.eth0.disable_ipv6"],
        ];
        let host = host.iter().map(|command| self.netns.sh(command));
        let inside = inside.iter().map(|command| pod.sh(command));
        host.chain(inside).map(|text| without_chance(&text)).collect()
    }
}

/// Removes hardware and link-local addresses, random names and timers; differences between versions of Go's plugin (the queue of
/// the container's end); and what only flannel sets (addresses without duplicate address detection).
pub(crate) fn without_chance(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| !line.contains("fe80::")) {
        let words = line.split([' ', '\\', '\t']).filter(|word| !word.is_empty());
        let words = words.filter(|word| !matches!(*word, "nodad" | "tentative" | "qlen" | "1000"));
        let words = words.map(|word| match word {
            word if word.starts_with("veth") && word.len() > 4 => "vethX",
            word if word.starts_with("flannel-cni-") => "N",
            // MACs, bridge ids, timers.
            word if word.contains(':') && !word.contains("::") && word.len() > 12 => "M",
            word if word.contains('.') && word.parse::<f64>().is_ok() => "T",
            word => word,
        });
        lines.push(words.collect::<Vec<_>>().join(" "));
    }
    lines.sort();
    lines.join("\n") + "\n"
}

#[test]
#[ignore = "needs netns"]
fn the_state_is_that_of_go() {
    for members in ["", r#","isDefaultGateway":false"#, r#","hairpinMode":false,"mtu":0"#] {
        let [(go, go_result), (ours, our_result)] = [Plugins::Go, Plugins::Flannel].map(|plugins| {
            let (node, pod) = (Node::new(), Netns::new("pod"));
            let result = node.run(plugins, "ADD", "a", &pod, &node.config(members)).unwrap();
            let state = node.state(&pod);
            let value = Value::parse(result.replace(&pod.path(), "POD").as_bytes()).unwrap();
            (state, without_chance(&value.to_pretty().replace(['"', ','], " ")))
        });
        // Link indexes depend on earlier links in the namespace.
        assert_eq!(ours, go, "{members}");
        assert_eq!(our_result, go_result, "{members}");
    }
}

#[test]
#[ignore = "needs netns"]
fn each_checks_and_deletes_what_the_other_added() {
    for (adder, other) in [
        (Plugins::Go, Plugins::Flannel),
        (Plugins::Flannel, Plugins::Go),
        (Plugins::Flannel, Plugins::Flannel),
    ] {
        let (node, pod) = (Node::new(), Netns::new("pod"));
        let config = node.config("");
        let result = node.run(adder, "ADD", "a", &pod, &config).unwrap();
        let result = Value::parse(result.as_bytes()).unwrap().to_compact();
        let with_result = node.config(&format!(r#","prevResult":{result}"#));
        // Go's CHECK of this age does not find a route that got its gateway from the address.
        if other == Plugins::Flannel {
            node.run(other, "CHECK", "a", &pod, &with_result).unwrap();
            pod.sh(&["ip", "route", "del", "default"]);
            let error = node.run(other, "CHECK", "a", &pod, &with_result).unwrap_err();
            assert!(error.contains("route 0.0.0.0/0 is missing"), "{error}");
        }
        for _ in 0..2 {
            node.run(other, "DEL", "a", &pod, &config).unwrap();
        }
        assert_eq!(node.leftovers(), "", "{adder:?} {other:?}");
        assert!(!pod.sh(&["ip", "-o", "link"]).contains("eth0"));
    }
}

#[test]
#[ignore = "needs netns"]
fn pods_of_both_reach_each_other_at_once() {
    let node = Node::new();
    let config = node.config("");
    let pods: Vec<_> = (0..4).map(|_| Netns::new("pod")).collect();
    for (at, pod) in pods.iter().enumerate() {
        let plugins = if at.is_multiple_of(2) { Plugins::Flannel } else { Plugins::Go };
        node.run(plugins, "ADD", &format!("p{at}"), pod, &config).unwrap();
        // The gateway replies to the first packet, also over IPv6.
        for gateway in ["10.244.1.1", "2001:cafe:42:1::1"] {
            pod.sh(&["ping", "-c1", "-W5", gateway]);
        }
    }
    for target in ["10.244.1.3", "10.244.1.4", "10.244.1.5", "2001:cafe:42:1::3", "2001:cafe:42:1::5"] {
        pods[0].sh(&["ping", "-c1", "-W5", target]);
    }
}

#[test]
#[ignore = "needs netns"]
fn del_works_in_any_state() {
    let node = Node::new();
    let config = node.config(r#","macspoofchk":true,"ipMasq":true,"ipMasqBackend":"nftables""#);
    let file = node.path("no-namespace");
    fs::write(&file, "").unwrap();
    let damages = [
        "link",
        "addresses",
        "namespace",
        "empty",
        "file",
        "reservation",
        "rules",
        "tables",
        "bridge",
        "deleted",
    ];
    for (at, damage) in damages.iter().enumerate() {
        let pod = Netns::new("pod");
        let id = format!("p{at}");
        node.run(Plugins::Flannel, "ADD", &id, &pod, &config).unwrap();
        let mut path = pod.path();
        match *damage {
            "link" => drop(pod.sh(&["ip", "link", "del", "eth0"])),
            "addresses" => drop(pod.sh(&["ip", "addr", "flush", "dev", "eth0"])),
            "namespace" => drop(pod),
            "empty" => {
                path = String::new();
                drop(pod);
            }
            "file" => {
                path = file.display().to_string();
                drop(pod);
            }
            "reservation" => fs::remove_dir_all(node.path("networks/cbr0")).unwrap(),
            "rules" => {
                node.netns.sh(&["nft", "flush", "chain", "bridge", "nat", "PREROUTING"]);
                node.netns.sh(&["nft", "flush", "table", "inet", "cni_plugins_masquerade"]);
            }
            "tables" => drop(node.netns.sh(&["nft", "flush", "ruleset"])),
            "bridge" => drop(node.netns.sh(&["ip", "link", "del", "cni0"])),
            _ => {
                node.run(Plugins::Flannel, "DEL", &id, &pod, &config).unwrap();
            }
        }
        for _ in 0..2 {
            node.run_as(Plugins::Flannel, "bridge", "DEL", &id, &path, &config).unwrap();
        }
        let rules = node.netns.sh(&["nft", "list", "ruleset"]);
        assert!(!rules.contains("-eth0") && !rules.contains("if: eth0"), "{damage}: {rules}");
    }
    fs::create_dir_all(node.path("networks/cbr0")).unwrap();
    // The kernel deletes the namespace with its links in the background.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !node.leftovers().is_empty() {
        assert!(Instant::now() < deadline, "{}", node.leftovers());
    }
}

/// A default route without a gateway is that of isDefaultGateway.
#[test]
#[ignore = "needs netns"]
fn a_default_route_of_the_config_is_not_set_twice() {
    let (node, pod) = (Node::new(), Netns::new("pod"));
    let config =
        node.config("").replace(r#"{"dst":"10.244.0.0/16"}"#, r#"{"dst":"0.0.0.0/0"},{"dst":"::/0"}"#);
    let result = node.run(Plugins::Flannel, "ADD", "a", &pod, &config).unwrap();
    assert_eq!(result.matches("0.0.0.0/0").count(), 1, "{result}");
    for family in ["-4", "-6"] {
        let routes = pod.sh(&["ip", family, "route", "show", "default"]);
        assert!(routes.lines().count() == 1 && routes.contains("dev eth0"), "{routes}");
    }
    pod.sh(&["ping", "-c1", "-W5", "10.244.1.1"]);
}

/// After a power loss before the content of files was on disk, Go's plugin never releases these addresses.
#[test]
#[ignore = "needs netns"]
fn addresses_are_released_after_a_power_loss() {
    let (node, pod) = (Node::new(), Netns::new("pod"));
    let config = node.config("").replace("10.244.1.0/24", "10.244.1.0/29");
    let store = node.path("networks/cbr0");
    fs::create_dir_all(&store).unwrap();
    for last in 2..=6 {
        let file = fs::File::create(store.join(format!("10.244.1.{last}"))).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(3600)).unwrap();
    }
    fs::write(store.join("last_reserved_ip.0"), "").unwrap();
    node.run(Plugins::Go, "ADD", "a", &pod, &config).unwrap_err();
    pod.sh(&["sh", "-c", "ip link del eth0 2>/dev/null || true"]);
    let result = node.run(Plugins::Flannel, "ADD", "a", &pod, &config).unwrap();
    assert!(result.contains("10.244.1.2/29"), "{result}");
    // A recent empty file may belong to an ADD in progress.
    for last in 3..=6 {
        fs::write(store.join(format!("10.244.1.{last}")), "").unwrap();
    }
    let error = node.run(Plugins::Flannel, "ADD", "b", &Netns::new("other"), &config).unwrap_err();
    assert!(error.contains("no IP addresses available in range set"), "{error}");
}

#[test]
#[ignore = "needs netns"]
fn an_add_that_fails_leaves_nothing() {
    let node = Node::new();
    let pod = Netns::new("pod");
    node.run(Plugins::Flannel, "ADD", "a", &pod, &node.config("")).unwrap();
    let before = node.leftovers();
    let other = Netns::new("other");
    // The interface exists already and is not changed.
    let error = node.run(Plugins::Flannel, "ADD", "b", &pod, &node.config("")).unwrap_err();
    assert!(error.contains("container veth name (\\\"eth0\\\") peer provided"), "{error}");
    // No free address, after the pair was created.
    let full = node.config("").replace("10.244.1.0/24", "10.244.1.0/30");
    let error = node.run(Plugins::Flannel, "ADD", "c", &other, &full).unwrap_err();
    assert!(error.contains("no IP addresses available in range set: 10.244.1.1-10.244.1.2"), "{error}");
    // A route that the kernel rejects, after the addresses were set.
    let bad =
        node.config("").replace(r#"{"dst":"10.244.0.0/16"}"#, r#"{"dst":"10.9.0.0/16","gw":"10.8.0.1"}"#);
    let error = node.run(Plugins::Flannel, "ADD", "d", &other, &bad).unwrap_err();
    assert!(error.contains("failed to add route '10.9.0.0/16 via 10.8.0.1 dev eth0'"), "{error}");
    // The bridge has another address, which is detected last.
    node.netns.sh(&["ip", "addr", "flush", "dev", "cni0", "scope", "global"]);
    node.netns.sh(&["ip", "addr", "add", "10.7.0.1/24", "dev", "cni0"]);
    let error = node.run(Plugins::Flannel, "ADD", "e", &other, &node.config("")).unwrap_err();
    assert!(error.contains("already has an IP address different from 10.244.1.1/24"), "{error}");
    assert_eq!(node.leftovers(), before);
    assert!(!other.sh(&["ip", "-o", "link"]).contains("eth0"));
    let force = node.config(r#","forceAddress":true"#);
    node.run(Plugins::Flannel, "ADD", "f", &other, &force).unwrap();
    assert!(!node.netns.sh(&["ip", "addr", "show", "dev", "cni0"]).contains("10.7.0.1"));
    // A link that is not a bridge, and a key with an impossible value.
    let error = node
        .run(Plugins::Flannel, "ADD", "g", &Netns::new("third"), &node.config(r#","bridge":"lo""#))
        .unwrap_err();
    assert!(error.contains("\\\"lo\\\" already exists but is not a bridge"), "{error}");
    let error = node.run(Plugins::Flannel, "ADD", "g", &other, &node.config(r#","mtu":"x""#)).unwrap_err();
    assert!(
        error.contains("NetConf.mtu must be a whole number that is not negative, without quotes"),
        "{error}"
    );
}

/// Configs contain comments, keys of vendors and keys of later versions.
#[test]
#[ignore = "needs netns"]
fn unknown_keys_are_ignored() {
    let node = Node::new();
    let config = node.config(r#","someKey":{"a":1},"mac":"02:00:00:00:00:09""#);
    for plugins in [Plugins::Flannel, Plugins::Go] {
        let pod = Netns::new("pod");
        let result = node.run(plugins, "ADD", "a", &pod, &config).unwrap();
        assert!(!pod.sh(&["ip", "link", "show", "dev", "eth0"]).contains("02:00:00:00:00:09"));
        let check = config.replacen('{', &format!(r#"{{"prevResult":{result},"#), 1);
        node.run(Plugins::Flannel, "CHECK", "a", &pod, &check).unwrap();
        node.run(Plugins::Flannel, "DEL", "a", &pod, &config).unwrap();
        let limits = r#","ingressRate":8000000,"ingressBurst":80000"#;
        for (program, members) in [("host-local", ""), ("loopback", ""), ("bandwidth", limits)] {
            let result = node.run(Plugins::Flannel, "ADD", "a", &pod, &config).unwrap();
            let own = format!(r#"{{"prevResult":{result}{members},"#);
            let config = config
                .replacen('{', &own, 1)
                .replace(r#""type":"bridge""#, &format!(r#""type":"{program}""#));
            for command in ["DEL", "ADD", "CHECK", "DEL"] {
                let done = node.run_as(plugins, program, command, "a", &pod.path(), &config);
                done.unwrap_or_else(|error| panic!("{program} {command}: {error}"));
            }
            node.run(Plugins::Flannel, "DEL", "a", &pod, &config).unwrap();
        }
    }
}

#[test]
#[ignore = "needs netns"]
fn the_bridge_keeps_its_hardware_address() {
    let node = Node::new();
    let mac = || {
        let text = node.netns.sh(&["ip", "-o", "link", "show", "dev", "cni0"]);
        text.split("link/ether ").nth(1).unwrap()[..17].to_owned()
    };
    let pods: Vec<_> = (0..4).map(|_| Netns::new("pod")).collect();
    let mut first = None;
    for (at, pod) in pods.iter().enumerate() {
        node.run(Plugins::Flannel, "ADD", &format!("p{at}"), pod, &node.config("")).unwrap();
        assert_eq!(*first.get_or_insert_with(mac), mac());
    }
    for (at, pod) in pods.iter().enumerate() {
        node.run(Plugins::Flannel, "DEL", &format!("p{at}"), pod, &node.config("")).unwrap();
        assert_eq!(first, Some(mac()));
    }
}

#[test]
#[ignore = "needs netns"]
fn a_bridge_without_addresses_connects_pods() {
    let node = Node::new();
    let pod = Netns::new("pod");
    let config = r#"{"cniVersion":"1.0.0","name":"l2","type":"bridge","bridge":"br2"}"#;
    let result = node.run(Plugins::Flannel, "ADD", "a", &pod, config).unwrap();
    let value = Value::parse(result.as_bytes()).unwrap();
    let object = value.as_object().unwrap();
    assert_eq!(object.get("interfaces").and_then(Value::as_array).unwrap().len(), 3);
    assert!(object.get("ips").is_none());
    assert!(pod.sh(&["ip", "-o", "link", "show", "dev", "eth0"]).contains("UP"));
    let check = config
        .replace(r#""bridge":"br2""#, &format!(r#""bridge":"br2","prevResult":{}"#, value.to_compact()));
    node.run(Plugins::Flannel, "CHECK", "a", &pod, &check).unwrap();
    node.run(Plugins::Flannel, "DEL", "a", &pod, config).unwrap();
    let error = node.run(Plugins::Flannel, "CHECK", "a", &pod, &check).unwrap_err();
    assert!(error.contains("interface \\\"eth0\\\" is missing"), "{error}");
}

#[test]
#[ignore = "needs netns"]
fn loopback_is_set_up_and_down() {
    let node = Node::new();
    for version in ["0.2.0", "0.3.1", "1.0.0"] {
        let pod = Netns::new("pod");
        let config = format!(r#"{{"cniVersion":"{version}","name":"cni-loopback","type":"loopback"}}"#);
        let run = |plugins, command| node.run_as(plugins, "loopback", command, "a", &pod.path(), &config);
        let result = run(Plugins::Flannel, "ADD").unwrap();
        assert!(result.contains("127.0.0.1/8") && result.contains("::1/128"), "{result}");
        assert_eq!(result.contains("\"sandbox\""), version != "0.2.0", "{result}");
        assert_eq!(result.contains("\"version\": \"4\""), version == "0.3.1", "{result}");
        if version == "1.0.0" {
            run(Plugins::Flannel, "CHECK").unwrap();
            run(Plugins::Go, "CHECK").unwrap();
        }
        run(Plugins::Flannel, "DEL").unwrap();
        if version == "1.0.0" {
            let error = run(Plugins::Flannel, "CHECK").unwrap_err();
            assert!(error.contains("loopback interface is down"), "{error}");
        }
        run(Plugins::Go, "ADD").unwrap();
        run(Plugins::Flannel, "DEL").unwrap();
        assert!(!pod.sh(&["ip", "-o", "link", "show", "dev", "lo"]).contains(",UP"));
        node.run_as(Plugins::Flannel, "loopback", "DEL", "a", "/nowhere", &config).unwrap();
    }
}
