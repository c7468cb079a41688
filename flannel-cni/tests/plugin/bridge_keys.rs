//! The less common keys of bridge, with the same kernel state as Debian's Go plugin.

use flannel_core::json::Value;

use crate::bridge::{Node, Plugins, without_chance};
use crate::support::{Call, Netns};

fn layer2(members: &str) -> String {
    format!(r#"{{"cniVersion":"1.0.0","name":"l2","type":"bridge","bridge":"br2"{members}}}"#)
}

fn with_result(config: &str, result: &str) -> String {
    let result = Value::parse(result.as_bytes()).unwrap().to_compact();
    let mut config = config.trim_end().to_owned();
    config.pop();
    format!(r#"{config},"prevResult":{result}}}"#)
}

#[test]
#[ignore = "needs netns"]
fn promiscuous_and_isolated_as_go_sets_them() {
    for members in [r#","promiscMode":true,"hairpinMode":false"#, r#","portIsolation":true"#] {
        // Debian's plugin does not support portIsolation.
        let plugins = if members.contains("promisc") {
            &[Plugins::Go, Plugins::Flannel][..]
        } else {
            &[Plugins::Flannel]
        };
        let states: Vec<String> = plugins
            .iter()
            .map(|plugins| {
                let (node, pod) = (Node::new(), Netns::new("pod"));
                // The later key counts.
                let config = node.config(members);
                let result = node.run(*plugins, "ADD", "a", &pod, &config).unwrap();
                node.run(Plugins::Flannel, "CHECK", "a", &pod, &with_result(&config, &result)).unwrap();
                let text = node.netns.sh(&["ip", "-d", "-o", "link", "show"]);
                assert_eq!(text.contains("PROMISC"), members.contains("promisc"), "{text}");
                assert_eq!(text.contains("isolated on"), members.contains("Isolation"), "{text}");
                if members.contains("promisc") {
                    node.netns.sh(&["ip", "link", "set", "cni0", "promisc", "off"]);
                    let checked =
                        node.run(Plugins::Flannel, "CHECK", "a", &pod, &with_result(&config, &result));
                    assert!(checked.unwrap_err().contains("is not promiscuous"));
                    // The next ADD repairs drift.
                    node.run(Plugins::Flannel, "ADD", "b", &Netns::new("other"), &config).unwrap();
                    assert!(node.netns.sh(&["ip", "link", "show", "dev", "cni0"]).contains("PROMISC"));
                }
                without_chance(&text)
            })
            .collect();
        assert!(states.iter().all(|state| *state == states[0]), "{states:#?}");
    }
}

#[test]
#[ignore = "needs netns"]
fn isolated_pods_reach_the_gateway_but_not_each_other() {
    let node = Node::new();
    let config = node.config(r#","portIsolation":true"#);
    let pods = [Netns::new("a"), Netns::new("b")];
    for (id, pod) in ["a", "b"].iter().zip(&pods) {
        node.run(Plugins::Flannel, "ADD", id, pod, &config).unwrap();
    }
    pods[0].sh(&["ping", "-c1", "-W5", "10.244.1.1"]);
    pods[0].sh(&["sh", "-c", "! ping -c2 -i 0.2 -W1 10.244.1.3"]);
}

/// The pair exists, the container's end is down, and ADD does not wait for it.
#[test]
#[ignore = "needs netns"]
fn a_container_interface_may_stay_down() {
    let (node, pod) = (Node::new(), Netns::new("pod"));
    let config = layer2(r#","disableContainerInterface":true"#);
    let result = node.run(Plugins::Flannel, "ADD", "a", &pod, &config).unwrap();
    assert_eq!(result.matches("\"name\"").count(), 3, "{result}");
    assert!(pod.sh(&["ip", "-o", "link", "show", "dev", "eth0"]).contains("state DOWN"));
    node.run(Plugins::Flannel, "CHECK", "a", &pod, &with_result(&config, &result)).unwrap();
    node.run(Plugins::Flannel, "DEL", "a", &pod, &config).unwrap();
    let error = node
        .run(Plugins::Flannel, "ADD", "b", &pod, &node.config(r#","disableContainerInterface":true"#))
        .unwrap_err();
    assert!(error.contains("cannot use IPAM when DisableContainerInterface flag is set"), "{error}");
    assert!(!pod.sh(&["ip", "-o", "link"]).contains("eth0"));
}

/// Two networks allocate the same addresses on one bridge: the second container detects the first one.
#[test]
#[ignore = "needs netns"]
fn duplicate_detection_finds_the_other_owner() {
    let node = Node::new();
    let members = r#","enabledad":true"#;
    let first = node.config(members);
    let pods = [Netns::new("a"), Netns::new("b")];
    node.run(Plugins::Flannel, "ADD", "a", &pods[0], &first).unwrap();
    let address = pods[0].sh(&["ip", "-6", "addr", "show", "dev", "eth0", "scope", "global"]);
    assert!(address.contains("2001:cafe:42:1::2/64") && !address.contains("tentative"), "{address}");
    assert_eq!(pods[0].sh(&["sysctl", "-n", "net.ipv6.conf.eth0.accept_dad"]).trim(), "1");
    let second = first.replace(r#""name":"cbr0""#, r#""name":"cbr1""#);
    let error = node.run(Plugins::Flannel, "ADD", "b", &pods[1], &second).unwrap_err();
    assert!(error.contains("link eth0 has address 2001:cafe:42:1::2/64 in DADFAILED state"), "{error}");
    assert!(!pods[1].sh(&["ip", "-o", "link"]).contains("eth0"));
    assert!(!node.path("networks/cbr1/10.244.1.2").exists());
    // Without detection nothing is reported.
    let quiet = second.replace(members, "");
    node.run(Plugins::Flannel, "ADD", "b", &pods[1], &quiet).unwrap();
}

/// The gateway replies to a container's first packet in both families: no address is tentative.
#[test]
#[ignore = "needs netns"]
fn gateways_are_usable_when_add_returns() {
    let (node, pod) = (Node::new(), Netns::new("pod"));
    node.run(Plugins::Flannel, "ADD", "a", &pod, &node.config("")).unwrap();
    let addresses = node.netns.sh(&["ip", "-6", "addr", "show", "dev", "cni0", "scope", "global"]);
    assert!(addresses.contains("2001:cafe:42:1::1/64") && !addresses.contains("tentative"), "{addresses}");
    pod.sh(&["ping", "-c1", "-W5", "2001:cafe:42:1::1"]);
    for setting in ["net.ipv4.conf.eth0.arp_notify", "net.ipv6.conf.eth0.ndisc_notify"] {
        assert_eq!(pod.sh(&["sysctl", "-n", setting]).trim(), "1", "{setting}");
    }
}

#[test]
#[ignore = "needs netns"]
fn the_runtime_chooses_addresses() {
    let node = Node::new();
    let members = r#","runtimeConfig":{"mac":"0a:00:00:00:00:07","ips":["10.244.1.77/24"],"ipRanges":[[{"subnet":"10.250.0.0/24"}]],"dns":{"servers":["10.96.0.10"],"searches":["cluster.local"]}},"args":{"cni":{"ips":["2001:cafe:42:1::77"]}}"#;
    let pod = Netns::new("pod");
    let result = node.run(Plugins::Flannel, "ADD", "a", &pod, &node.config(members)).unwrap();
    for wanted in ["10.250.0.2/24", "10.244.1.77/24", "2001:cafe:42:1::77/64", "10.96.0.10", "cluster.local"]
    {
        assert!(result.contains(wanted), "{wanted}: {result}");
    }
    assert!(pod.sh(&["ip", "-o", "link", "show", "dev", "eth0"]).contains("0a:00:00:00:00:07"));
    // CNI_ARGS: each plugin of the chain reads its own keys and rejects others.
    let bin = node.path("bin").display().to_string();
    let other = Netns::new("other");
    let call = |args: &str| {
        let (path, config) = (other.path(), node.config(""));
        let program = format!("{bin}/bridge");
        let (node, id, ifname) = (Some(&node.netns), "b", "eth0");
        let call = Call {
            program: &program,
            node,
            command: "ADD",
            id,
            ifname,
            netns: &path,
            args,
            path: &bin,
            config: &config,
        };
        call.run()
    };
    let error = call("MAC=0a:00:00:00:00:08;IP=10.244.1.99").unwrap_err();
    assert!(error.contains("ARGS: unknown args"), "{error}");
    let result = call("IgnoreUnknown=1;MAC=0a:00:00:00:00:08;IP=10.244.1.99;K8S_POD_NAME=x").unwrap();
    assert!(result.contains("10.244.1.99/24") && result.contains("0a:00:00:00:00:08"), "{result}");
}

/// The bridge's MTU was set manually; a bridge never has a larger MTU than a port.
#[test]
#[ignore = "needs netns"]
fn the_mtu_of_the_bridge_is_restored() {
    let node = Node::new();
    let mtu = || {
        let text = node.netns.sh(&["ip", "-o", "link", "show", "dev", "cni0"]);
        text.split("mtu ").nth(1).unwrap().split(' ').next().unwrap().to_owned()
    };
    let pods: Vec<_> = (0..4).map(|_| Netns::new("pod")).collect();
    let add = |at: usize, config: &str| {
        node.run(Plugins::Flannel, "ADD", &format!("p{at}"), &pods[at], config).unwrap()
    };
    add(0, &node.config(""));
    node.netns.sh(&["ip", "link", "set", "cni0", "mtu", "1300"]);
    add(1, &node.config(""));
    assert_eq!(mtu(), "1450");
    // From now on the kernel does not change the MTU.
    let smaller = node.config(r#","mtu":1400"#);
    add(2, &smaller);
    assert_eq!(mtu(), "1400");
    add(3, &node.config(""));
    assert_eq!(mtu(), "1400");
    node.run(Plugins::Flannel, "DEL", "p2", &pods[2], &smaller).unwrap();
    node.run(Plugins::Flannel, "DEL", "p3", &pods[3], &smaller).unwrap();
    add(3, &node.config(""));
    assert_eq!(mtu(), "1450");
}

/// The port is in its VLAN; on a kernel without VLAN filtering, ADD fails with that reason and leaves nothing behind.
#[test]
#[ignore = "needs netns"]
fn vlans_work_or_the_kernel_is_named() {
    let node = Node::new();
    let probe =
        "ip link add probe type bridge vlan_filtering 1 2>/dev/null && ip link del probe && echo yes || true";
    let possible = node.netns.sh(&["sh", "-c", probe]).contains("yes");
    let pod = Netns::new("pod");
    for config in [layer2(r#","vlan":5"#), layer2(r#","vlanTrunk":[{"id":7}]"#), node.config(r#","vlan":5"#)]
    {
        match node.run(Plugins::Flannel, "ADD", "a", &pod, &config) {
            Ok(result) => {
                assert!(possible, "{result}");
                let vlans = node.netns.sh(&["bridge", "vlan", "show"]);
                assert!(vlans.contains("5 PVID") || vlans.contains(" 7"), "{vlans}");
                node.run(Plugins::Flannel, "CHECK", "a", &pod, &with_result(&config, &result)).unwrap();
                node.run(Plugins::Flannel, "DEL", "a", &pod, &config).unwrap();
            }
            Err(error) => {
                assert!(
                    !possible && error.contains("the kernel has no CONFIG_BRIDGE_VLAN_FILTERING"),
                    "{error}"
                );
                assert!(!node.netns.sh(&["ip", "-o", "link"]).contains("br2"));
                assert!(!node.path("networks").exists());
            }
        }
        assert!(!pod.sh(&["ip", "-o", "link"]).contains("eth0"));
    }
}

const SPOOF: &str = r#","macspoofchk":true"#;

/// The filter, without the name and the address of this pod.
fn filter(node: &Node, pod: &Netns) -> String {
    let table = node.netns.sh(&["sh", "-c", "nft list table bridge nat 2>/dev/null || true"]);
    let link = pod.sh(&["sh", "-c", "ip -o link show dev eth0 2>/dev/null || true"]);
    let mac = link.split("link/ether ").nth(1).map_or("none", |rest| &rest[..17]);
    let veth = node.netns.sh(&["sh", "-c", "ip -o link show type veth | cut -d: -f2 | cut -d@ -f1"]);
    table.replace(mac, "MAC").replace(veth.trim(), "VETH")
}

#[test]
#[ignore = "needs netns"]
fn the_filter_of_source_addresses_is_that_of_go() {
    let [go, ours] = [Plugins::Go, Plugins::Flannel].map(|plugins| {
        let (node, pod) = (Node::new(), Netns::new("pod"));
        node.run(plugins, "ADD", "a", &pod, &node.config(SPOOF)).unwrap();
        filter(&node, &pod)
    });
    assert_eq!(ours, go);
    assert!(
        ours.contains(r#"iifname "VETH" jump cni-br-iface-a-eth0 comment "macspoofchk-a-eth0""#),
        "{ours}"
    );
    for (adder, other) in [
        (Plugins::Go, Plugins::Flannel),
        (Plugins::Flannel, Plugins::Go),
        (Plugins::Flannel, Plugins::Flannel),
    ] {
        let (node, pod, second) = (Node::new(), Netns::new("pod"), Netns::new("second"));
        let config = node.config(SPOOF);
        let result = node.run(adder, "ADD", "a", &pod, &config).unwrap();
        node.run(adder, "ADD", "b", &second, &config).unwrap();
        if other == Plugins::Flannel {
            node.run(other, "CHECK", "a", &pod, &with_result(&config, &result)).unwrap();
        }
        node.run(other, "DEL", "a", &pod, &config).unwrap();
        let left = filter(&node, &second);
        assert!(!left.contains("-a-eth0") && left.contains("macspoofchk-b-eth0"), "{left}");
        // Its namespace no longer exists at the time of DEL: Go's plugin leaks the filter then.
        drop(second);
        node.run(Plugins::Flannel, "DEL", "b", &pod, &config).unwrap();
        node.run(Plugins::Flannel, "DEL", "b", &pod, &config).unwrap();
        assert!(!filter(&node, &pod).contains("macspoofchk"), "{adder:?} {other:?}");
    }
}

#[test]
#[ignore = "needs netns"]
fn frames_with_another_source_are_dropped() {
    let (node, pod) = (Node::new(), Netns::new("pod"));
    let config = node.config(SPOOF);
    let result = node.run(Plugins::Flannel, "ADD", "a", &pod, &config).unwrap();
    let reach = |pod: &Netns| {
        pod.sh(&["sh", "-c", "ping -c2 -i0.2 -W1 10.244.1.1 >/dev/null && echo yes || echo no"])
    };
    assert_eq!(reach(&pod).trim(), "yes");
    let link = pod.sh(&["ip", "-o", "link", "show", "dev", "eth0"]);
    let mac = link.split("link/ether ").nth(1).unwrap()[..17].to_owned();
    pod.sh(&["ip", "link", "set", "eth0", "address", "0a:00:00:00:00:66"]);
    assert_eq!(reach(&pod).trim(), "no");
    pod.sh(&["ip", "link", "set", "eth0", "address", &mac]);
    assert_eq!(reach(&pod).trim(), "yes");
    // CHECK detects a filter that was emptied; the next ADD of the same container restores it.
    node.netns.sh(&["nft", "flush", "chain", "bridge", "nat", "cni-br-iface-a-eth0-mac"]);
    let error = node.run(Plugins::Flannel, "CHECK", "a", &pod, &with_result(&config, &result)).unwrap_err();
    assert!(error.contains("(macspoofchk)") && error.contains("is incomplete"), "{error}");
    pod.sh(&["ip", "link", "del", "eth0"]);
    std::fs::remove_dir_all(node.path("networks")).unwrap();
    node.run(Plugins::Flannel, "ADD", "a", &pod, &config).unwrap();
    assert_eq!(filter(&node, &pod).matches("macspoofchk").count(), 4);
}

#[test]
#[ignore = "needs netns"]
fn gc_removes_filters_whose_interface_is_gone() {
    let (node, pods) = (Node::new(), [Netns::new("a"), Netns::new("b")]);
    let config = node.config(SPOOF).replace("0.4.0", "1.1.0");
    for (id, pod) in ["a", "b"].iter().zip(&pods) {
        node.run(Plugins::Flannel, "ADD", id, pod, &config).unwrap();
    }
    // One pair is deleted without a DEL.
    pods[1].sh(&["ip", "link", "del", "eth0"]);
    let gc = |list: &str| {
        let config = config.trim_end().trim_end_matches('}');
        let config = format!(r#"{config}{list}}}"#);
        node.run_as(Plugins::Flannel, "bridge", "GC", "", "", &config).unwrap();
        filter(&node, &pods[0])
    };
    let all = r#","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"},{"containerID":"b","ifname":"eth0"}]"#;
    assert!(gc("").contains("macspoofchk-b-eth0"));
    assert!(gc(all).contains("macspoofchk-b-eth0"));
    let left = gc(r#","cni.dev/valid-attachments":[]"#);
    assert!(!left.contains("-b-eth0") && left.contains("macspoofchk-a-eth0"), "{left}");
}
