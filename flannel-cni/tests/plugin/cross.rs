//! Every pair of ours and Go's, over IPv4, IPv6 and both: what one adds, the other checks and deletes.

use flannel_core::json::Value;
use std::fs;

use crate::bridge::{Node, Plugins};
use crate::support::Netns;

const BOTH: [Plugins; 2] = [Plugins::Go, Plugins::Ours];
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
                // And the other way round on the same bridge and directory.
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
