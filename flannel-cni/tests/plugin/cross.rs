//! Every plugin paired with Go's, over IPv4, IPv6 and both: what one adds, the other checks and deletes.

use flannel_core::json::Value;
use std::fs;

use crate::bridge::{Node, Plugins};
use crate::support::Netns;

const BOTH: [Plugins; 2] = [Plugins::Go, Plugins::Flannel];
const V4: &str = r#"[{"subnet":"10.244.1.0/24"}]"#;
const V6: &str = r#"[{"subnet":"2001:cafe:42:1::/64"}]"#;

/// A config with addresses of these ranges. Debian's CHECK finds only routes that name their gateway, so there are no others.
fn config(node: &Node, kind: &str, ranges: &str, members: &str) -> String {
    let root = node.path("networks").display().to_string();
    format!(
        r#"{{"cniVersion":"1.0.0","name":"cbr0","type":"{kind}","isDefaultGateway":true,"hairpinMode":true,"mtu":1450,
            "ipam":{{"type":"host-local","dataDir":"{root}","ranges":[{ranges}]}}{members}}}"#
    )
}

fn addresses(node: &Node) -> Vec<String> {
    let names = fs::read_dir(node.path("networks/cbr0")).unwrap();
    let names = names.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != "lock" && !name.starts_with("last_")).collect();
    names.sort();
    names
}

#[test]
#[ignore = "needs netns"]
fn bridge_over_each_family() {
    for (ranges, count) in [(V4.to_owned(), 1), (V6.to_owned(), 1), (format!("{V4},{V6}"), 2)] {
        for adder in BOTH {
            for other in BOTH {
                let (node, pod) = (Node::new(), Netns::new("pod"));
                let plain = config(&node, "bridge", &ranges, "");
                let result = node.run(adder, "ADD", "a", &pod, &plain).unwrap();
                let result = Value::parse(result.as_bytes()).unwrap().to_compact();
                assert_eq!(addresses(&node).len(), count);
                let with_result = config(&node, "bridge", &ranges, &format!(r#","prevResult":{result}"#));
                node.run(other, "CHECK", "a", &pod, &with_result).unwrap();
                pod.sh(&["ip", "addr", "flush", "dev", "eth0", "scope", "global"]);
                let error = node.run(other, "CHECK", "a", &pod, &with_result).unwrap_err();
                assert!(!error.is_empty());
                for _ in 0..2 {
                    node.run(other, "DEL", "a", &pod, &plain).unwrap();
                }
                let text = format!("{adder:?} {other:?} {ranges}");
                assert_eq!(addresses(&node), [""; 0], "{text}");
                assert!(!pod.sh(&["ip", "-o", "link"]).contains("eth0"), "{text}");
                // And vice versa on the same bridge and directory.
                node.run(other, "ADD", "b", &pod, &plain).unwrap();
                node.run(adder, "DEL", "b", &pod, &plain).unwrap();
                assert_eq!(addresses(&node), [""; 0], "{text}");
            }
        }
    }
}

#[test]
#[ignore = "needs netns"]
fn host_local_over_each_family() {
    for ranges in [V4.to_owned(), V6.to_owned(), format!("{V4},{V6}")] {
        for adder in BOTH {
            for other in BOTH {
                let node = Node::new();
                let config = config(&node, "bridge", &ranges, "");
                let run = |plugins, command: &str, id: &str| {
                    node.run_as(plugins, "host-local", command, id, "/nowhere/pod", &config)
                };
                let results: Vec<String> = [adder, other, adder]
                    .iter()
                    .zip(["a", "b", "c"])
                    .map(|(one, id)| run(*one, "ADD", id).unwrap())
                    .collect();
                assert!(results[0] != results[1] && results[1] != results[2]);
                for id in ["a", "b", "c"] {
                    run(other, "CHECK", id).unwrap();
                }
                let error = run(other, "CHECK", "x").unwrap_err();
                assert!(error.contains("Failed to find address added by container x"), "{error}");
                for (plugins, id) in [(other, "a"), (adder, "b"), (other, "c"), (other, "c")] {
                    run(plugins, "DEL", id).unwrap();
                }
                assert_eq!(addresses(&node), [""; 0]);
            }
        }
    }
}

#[test]
#[ignore = "needs netns"]
fn loopback_of_each() {
    for adder in BOTH {
        for other in BOTH {
            let (node, pod) = (Node::new(), Netns::new("pod"));
            let config = r#"{"cniVersion":"1.0.0","name":"cni-loopback","type":"loopback"}"#;
            let run =
                |plugins, command: &str| node.run_as(plugins, "loopback", command, "a", &pod.path(), config);
            run(adder, "ADD").unwrap();
            run(other, "CHECK").unwrap();
            run(other, "DEL").unwrap();
            run(adder, "CHECK").unwrap_err();
            assert!(!pod.sh(&["ip", "-o", "link", "show", "dev", "lo"]).contains(",UP"));
        }
    }
}

/// The first pods of a node are added at the same time, by both plugins, while the node gets another subnet: there is one bridge
/// with one hardware address, and every pod reaches its gateway.
#[test]
#[ignore = "needs netns"]
fn first_pods_at_the_same_time() {
    let node = Node::new();
    let pods: Vec<Netns> = (0..12).map(|_| Netns::new("pod")).collect();
    let of_subnet = |subnet: u32| {
        let ranges = format!("{V4},{V6}")
            .replace("10.244.1.", &format!("10.244.{subnet}."))
            .replace("42:1::", &format!("42:{subnet}::"));
        let routes = r#""routes":[{"dst":"10.244.0.0/16"},{"dst":"2001:cafe:42::/56"}]"#;
        config(&node, "bridge", &ranges, "").replace(r#""ranges""#, &format!(r#"{routes},"ranges""#))
    };
    let (old, new) = (of_subnet(1), of_subnet(9));
    let add = |at: usize| {
        let config = if at.is_multiple_of(2) { &old } else { &new };
        node.run(Plugins::Flannel, "ADD", &format!("p{at}"), &pods[at], config)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..pods.len()).map(|at| scope.spawn(move || add(at))).collect();
        for thread in threads {
            thread.join().unwrap().unwrap();
        }
    });
    let link = || node.netns.sh(&["ip", "-o", "link", "show", "dev", "cni0"]);
    let mac = |text: &str| text.split("link/ether ").nth(1).unwrap()[..17].to_owned();
    for (at, pod) in pods.iter().enumerate() {
        let subnet = if at.is_multiple_of(2) { 1 } else { 9 };
        for gateway in [format!("10.244.{subnet}.1"), format!("2001:cafe:42:{subnet}::1")] {
            pod.sh(&["ping", "-c1", "-W5", &gateway]);
        }
        let ports = node.netns.sh(&["ip", "-o", "link", "show", "master", "cni0"]);
        assert!(!ports.contains(&mac(&link())), "the bridge has the address of a port: {ports}");
    }
    for (at, pod) in pods.iter().enumerate() {
        let config = if at.is_multiple_of(2) { &old } else { &new };
        node.run(Plugins::Flannel, "DEL", &format!("p{at}"), pod, config).unwrap();
    }
    assert_eq!(addresses(&node), [""; 0]);
}

/// A full and a read-only file system: errors name the path, and nothing is left behind.
#[test]
#[ignore = "needs netns"]
fn a_directory_that_is_full_or_read_only() {
    let (node, pod) = (Node::new(), Netns::new("pod"));
    let both = config(&node, "bridge", &format!("{V4},{V6}"), "");
    let root = node.path("networks");
    fs::create_dir(&root).unwrap();
    let mount = |options: &str| {
        crate::support::sh(&["mount", "-t", "tmpfs", "-o", options, "tmpfs", root.to_str().unwrap()]);
    };
    // Root, network, lock, one address: the second set fails.
    mount("nr_inodes=5");
    let error = node.run(Plugins::Flannel, "ADD", "a", &pod, &both).unwrap_err();
    assert!(error.contains("no space left on device") && error.contains(root.to_str().unwrap()), "{error}");
    assert_eq!(addresses(&node), [""; 0]);
    assert!(!pod.sh(&["ip", "-o", "link"]).contains("eth0"));
    crate::support::sh(&["mount", "-o", "remount,nr_inodes=50", root.to_str().unwrap()]);
    node.run(Plugins::Flannel, "ADD", "a", &pod, &both).unwrap();
    crate::support::sh(&["mount", "-o", "remount,ro", root.to_str().unwrap()]);
    let other = Netns::new("other");
    let error = node.run(Plugins::Flannel, "ADD", "b", &other, &both).unwrap_err();
    assert!(error.contains("read-only file system") && error.contains(root.to_str().unwrap()), "{error}");
    assert!(!other.sh(&["ip", "-o", "link"]).contains("eth0"));
    // A DEL that cannot release an address fails, and succeeds when repeated.
    let error = node.run(Plugins::Flannel, "DEL", "a", &pod, &both).unwrap_err();
    assert!(error.contains("read-only file system"), "{error}");
    crate::support::sh(&["mount", "-o", "remount,rw", root.to_str().unwrap()]);
    node.run(Plugins::Flannel, "DEL", "a", &pod, &both).unwrap();
    assert_eq!(addresses(&node), [""; 0]);
    crate::support::sh(&["umount", root.to_str().unwrap()]);
}
