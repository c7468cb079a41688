//! `ipMasq` of bridge: the same rules as Go's plugin, which are always removed.

use std::fs;
use std::time::{Duration, Instant};

use crate::firewall::{BOTH_WAYS, Node, Plugins, compact};
use crate::support::Netns;

const CHAIN: &str = "CNI-4c7c118642e0d78610143dd0";

/// `iptables-save` of container cid1 with its first addresses.
const GOLDEN: &str = r#":CNI-4c7c118642e0d78610143dd0 -
-A POSTROUTING -s 10.244.1.2/32 -m comment --comment "name: \"cbr0\" id: \"cid1\"" -j CNI-4c7c118642e0d78610143dd0
-A CNI-4c7c118642e0d78610143dd0 -d 10.244.1.0/24 -m comment --comment "name: \"cbr0\" id: \"cid1\"" -j ACCEPT
-A CNI-4c7c118642e0d78610143dd0 ! -d 224.0.0.0/4 -m comment --comment "name: \"cbr0\" id: \"cid1\"" -j MASQUERADE
:CNI-4c7c118642e0d78610143dd0 -
-A POSTROUTING -s 2001:cafe:42:1::2/128 -m comment --comment "name: \"cbr0\" id: \"cid1\"" -j CNI-4c7c118642e0d78610143dd0
-A CNI-4c7c118642e0d78610143dd0 -d 2001:cafe:42:1::/64 -m comment --comment "name: \"cbr0\" id: \"cid1\"" -j ACCEPT
-A CNI-4c7c118642e0d78610143dd0 ! -d ff00::/8 -m comment --comment "name: \"cbr0\" id: \"cid1\"" -j MASQUERADE
"#;

#[test]
#[ignore = "needs netns"]
fn each_checks_and_deletes_the_rules_of_the_other() {
    for variant in ["nft", "legacy"] {
        for (adder, other) in BOTH_WAYS {
            let (node, pod) = (Node::new(variant), Netns::new("pod"));
            let config = node.bridge("");
            let result = node.run(adder, "bridge", "ADD", "cid1", &pod.path(), &config).unwrap();
            assert_eq!(node.rules(), GOLDEN, "{variant} {adder:?}");
            if other == Plugins::Flannel {
                let check = node.bridge(&format!(r#","prevResult":{}"#, compact(&result)));
                node.run(other, "bridge", "CHECK", "cid1", &pod.path(), &check).unwrap();
                node.tool(&["ip6tables", "-t", "nat", "-F", "POSTROUTING"]);
                let error = node.run(other, "bridge", "CHECK", "cid1", &pod.path(), &check).unwrap_err();
                assert!(error.contains("2001:cafe:42:1::2 has masquerade rules neither"), "{error}");
            }
            for _ in 0..2 {
                node.run(other, "bridge", "DEL", "cid1", &pod.path(), &config).unwrap();
            }
            assert_eq!(node.rules(), "", "{variant} {adder:?} {other:?}");
            assert_eq!(node.addresses(), [""; 0]);
        }
    }
}

#[test]
#[ignore = "needs netns"]
fn the_rules_of_nftables_are_those_of_go() {
    let (node, pods) = (Node::new("nft"), [Netns::new("a"), Netns::new("b")]);
    // No program is needed for them.
    node.remove_tools();
    let config = node.bridge(r#","ipMasqBackend":"nftables""#);
    let result = node.run(Plugins::Flannel, "bridge", "ADD", "cid1", &pods[0].path(), &config).unwrap();
    let empty = "table inet cni_plugins_masquerade {
	comment \"Masquerading for plugins from github.com/containernetworking/plugins\"
	chain masq_checks {
		comment \"Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet\"
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip daddr 224.0.0.0/4 return
		ip6 daddr ff00::/8 return
		goto masq_checks
	}
}
";
    let key = "cb6e746fae1a4d6c-0b65a318f52e521b, net: cbr0, if: eth0, id: cid1";
    let with_rules = empty.replace(
        "outside their subnet\"\n",
        &format!(
            "outside their subnet\"\n\
             \t\tip saddr 10.244.1.2 ip daddr != 10.244.1.0/24 masquerade comment \"{key}\"\n\
             \t\tip6 saddr 2001:cafe:42:1::2 ip6 daddr != 2001:cafe:42:1::/64 masquerade comment \"{key}\"\n"
        ),
    );
    let listing = || node.nftables("inet cni_plugins_masquerade");
    assert_eq!(listing(), with_rules);
    let check = node.bridge(&format!(r#","ipMasqBackend":"nftables","prevResult":{}"#, compact(&result)));
    node.run(Plugins::Flannel, "bridge", "CHECK", "cid1", &pods[0].path(), &check).unwrap();
    // The next ADD repairs modified rules and replaces stale ones of the same container.
    node.netns.sh(&["nft", "flush", "chain", "inet", "cni_plugins_masquerade", "postrouting"]);
    let stale = "6fd94d501e58f0aa-287fc69eff0574a2, of an earlier life";
    let rule = format!("ip saddr 10.244.1.9 masquerade comment \"{stale}\"");
    node.netns.sh(&["nft", &format!("add rule inet cni_plugins_masquerade masq_checks {rule}")]);
    let other = config.replace("cbr0", "unit-test");
    node.run(Plugins::Flannel, "bridge", "ADD", "one", &pods[1].path(), &other).unwrap();
    assert!(listing().contains("287fc69eff0574a2, net: unit-test") && !listing().contains(stale));
    node.run(Plugins::Flannel, "bridge", "DEL", "one", &pods[1].path(), &other).unwrap();
    assert_eq!(listing(), with_rules);
    node.netns.sh(&["nft", "flush", "chain", "inet", "cni_plugins_masquerade", "masq_checks"]);
    let error = node.run(Plugins::Flannel, "bridge", "CHECK", "cid1", &pods[0].path(), &check).unwrap_err();
    assert!(error.contains("10.244.1.2 has masquerade rules neither"), "{error}");
    // DEL searches both backends, whatever the config requests now.
    node.run(Plugins::Flannel, "bridge", "DEL", "cid1", &pods[0].path(), &node.bridge("")).unwrap();
    assert_eq!(listing(), empty);
}

/// DEL finds the rules by their names.
#[test]
#[ignore = "needs netns"]
fn del_leaves_no_rule_in_any_state() {
    for (variant, backend) in [("nft", "iptables"), ("legacy", "iptables"), ("nft", "nftables")] {
        let node = Node::new(variant);
        let config = node.bridge(&format!(r#","ipMasqBackend":"{backend}""#));
        let states = ["link", "addresses", "namespace", "empty", "reservation", "one rule"];
        for (at, state) in states.into_iter().enumerate() {
            let (pod, id) = (Netns::new("pod"), format!("p{at}"));
            node.run(Plugins::Flannel, "bridge", "ADD", &id, &pod.path(), &config).unwrap();
            let mut path = pod.path();
            match state {
                "link" => drop(pod.sh(&["ip", "link", "del", "eth0"])),
                "addresses" => drop(pod.sh(&["ip", "addr", "flush", "dev", "eth0"])),
                "namespace" => drop(pod),
                "empty" => {
                    path = String::new();
                    drop(pod);
                }
                "reservation" => fs::remove_dir_all(node.path("networks")).unwrap(),
                "one rule" if backend == "iptables" => {
                    drop(node.tool(&["iptables", "-t", "nat", "-F", "POSTROUTING"]));
                }
                _ => {}
            }
            for _ in 0..2 {
                node.run(Plugins::Flannel, "bridge", "DEL", &id, &path, &config).unwrap();
            }
            assert_eq!(node.rules(), "", "{variant} {state}");
            if backend == "nftables" {
                let listing = node.nftables("inet cni_plugins_masquerade");
                assert!(!listing.contains("saddr"), "{state}: {listing}");
            }
        }
    }
}

/// A stale chain of an earlier ADD of the container, with another address.
#[test]
#[ignore = "needs netns"]
fn stale_rules_are_replaced() {
    for variant in ["nft", "legacy"] {
        let (node, pod) = (Node::new(variant), Netns::new("pod"));
        node.tool(&["iptables", "-t", "nat", "-N", CHAIN]);
        node.tool(&["iptables", "-t", "nat", "-A", CHAIN, "-d", "10.9.0.0/24", "-j", "ACCEPT"]);
        node.tool(&["iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.9.0.2", "-j", CHAIN]);
        node.run(Plugins::Flannel, "bridge", "ADD", "cid1", &pod.path(), &node.bridge("")).unwrap();
        assert_eq!(node.rules(), GOLDEN, "{variant}");
    }
}

/// Two interfaces of a container in one network share a chain.
#[test]
#[ignore = "needs netns"]
fn each_interface_only_removes_its_own_rules() {
    for variant in ["nft", "legacy"] {
        let (node, pod) = (Node::new(variant), Netns::new("pod"));
        let config = node.bridge("");
        let run = |command: &str, ifname: &str| {
            node.run_for(Plugins::Flannel, "bridge", command, ("cid1", ifname), &pod.path(), &config).unwrap()
        };
        run("ADD", "eth0");
        // The same default routes would conflict.
        pod.sh(&["ip", "route", "del", "default"]);
        pod.sh(&["ip", "-6", "route", "del", "default"]);
        run("ADD", "net1");
        let rules = node.rules();
        assert!(rules.contains("-s 10.244.1.2/32") && rules.contains("-s 10.244.1.3/32"), "{rules}");
        assert_eq!(rules.matches("-j MASQUERADE").count(), 2, "{rules}");
        for _ in 0..2 {
            run("DEL", "net1");
            assert_eq!(node.rules(), GOLDEN, "{variant}");
        }
        run("DEL", "eth0");
        assert_eq!(node.rules(), "");
    }
}

/// The error of rules that cannot be set contains the reason, and nothing of the pod is left behind.
#[test]
#[ignore = "needs netns"]
fn an_add_that_fails_leaves_nothing() {
    let refused = "echo 'iptables-restore: line 3 failed: No chain/target/match by that name.' >&2; exit 1";
    let cases = [
        ("iptables-restore", "cat >/dev/null\nexit 4", "another program has held the iptables lock"),
        ("iptables-restore", refused, "-j ACCEPT"),
        // The first family is set by then.
        ("ip6tables-restore", refused, "-d 2001:cafe:42:1::/64"),
    ];
    for variant in ["nft", "legacy"] {
        for (tool, script, expected) in cases {
            let (node, pod) = (Node::new(variant), Netns::new("pod"));
            // Without a program with many names, each program is started by its own name.
            let family = tool.strip_suffix("-restore").unwrap();
            node.replace_tool(family, &format!("exec /usr/sbin/{family}-{variant} \"$@\""));
            node.replace_tool(tool, script);
            let before = node.netns.sh(&["ip", "-o", "link", "show", "type", "veth"]);
            let error = node
                .run(Plugins::Flannel, "bridge", "ADD", "cid1", &pod.path(), &node.bridge(""))
                .unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert_eq!(node.netns.sh(&["ip", "-o", "link", "show", "type", "veth"]), before);
            assert_eq!(node.addresses(), [""; 0]);
            assert_eq!(node.rules(), "", "{variant} {tool}");
        }
    }
    let (node, pod) = (Node::new("nft"), Netns::new("pod"));
    let config = node.bridge(r#","ipMasqBackend":"zz""#);
    let error = node.run(Plugins::Flannel, "bridge", "ADD", "cid1", &pod.path(), &config).unwrap_err();
    assert!(error.contains(r#"unknown ipmasq backend \"zz\""#), "{error}");
    node.remove_tools();
    let config = node.bridge(r#","ipMasqBackend":"iptables""#);
    let error = node.run(Plugins::Flannel, "bridge", "ADD", "cid1", &pod.path(), &config).unwrap_err();
    assert!(error.contains("iptables was not found in PATH"), "{error}");
    // Without a requested backend, the available one is used.
    node.run(Plugins::Flannel, "bridge", "ADD", "cid1", &pod.path(), &node.bridge("")).unwrap();
    assert!(node.nftables("inet cni_plugins_masquerade").contains("id: cid1"));
}

/// The legacy variant has one lock for the whole host.
#[test]
#[ignore = "needs netns"]
fn a_held_lock_is_waited_for() {
    let (node, pod) = (Node::new("legacy"), Netns::new("pod"));
    node.log_starts("legacy");
    let file = fs::OpenOptions::new().create(true).append(true).open("/run/xtables.lock").unwrap();
    let held = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).unwrap();
    std::thread::scope(|scope| {
        let add = scope.spawn(|| {
            node.run(Plugins::Flannel, "bridge", "ADD", "cid1", &pod.path(), &node.bridge("")).unwrap();
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        while !node.path("starts").exists() {
            assert!(Instant::now() < deadline, "iptables was not started");
        }
        assert!(!add.is_finished());
        drop(held);
        add.join().unwrap();
    });
    assert_eq!(node.rules(), GOLDEN);
}

#[test]
#[ignore = "needs netns"]
fn gc_collects_the_rules_of_containers_that_are_gone() {
    for (variant, backend) in [("nft", "iptables"), ("legacy", "iptables"), ("nft", "nftables")] {
        let node = Node::new(variant);
        let config = node
            .bridge(&format!(r#","ipMasqBackend":"{backend}""#))
            .replace(r#""cniVersion":"0.4.0""#, r#""cniVersion":"1.1.0""#);
        let pods = ["a", "b"].map(Netns::new);
        for (pod, id) in pods.iter().zip(["a", "b"]) {
            node.run(Plugins::Flannel, "bridge", "ADD", id, &pod.path(), &config).unwrap();
        }
        // Of another network.
        let other =
            config.replace("cbr0", "cbr1").replace("10.244.1.", "10.244.2.").replace("42:1:", "42:2:");
        let other = other.replace(r#""type":"bridge""#, r#""type":"bridge","bridge":"cni1""#);
        let third = Netns::new("c");
        node.run(Plugins::Flannel, "bridge", "ADD", "c", &third.path(), &other).unwrap();
        let list = r#""cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}],"type""#;
        node.run(
            Plugins::Flannel,
            "bridge",
            "GC",
            "",
            "",
            &config.replace(r#""type":"bridge""#, &format!("{list}:\"bridge\"")),
        )
        .unwrap();
        let rules = match backend {
            "iptables" => node.rules().replace("\\\"", ""),
            _ => node.nftables("inet cni_plugins_masquerade"),
        };
        for (id, kept) in [("id: a", true), ("id: b", false), ("id: c", true)] {
            assert_eq!(rules.contains(&format!("{id}\"")), kept, "{variant} {backend} {id}: {rules}");
        }
    }
}

/// An external server receives the node's address, or that of the pod without masquerading.
#[test]
#[ignore = "needs netns"]
fn a_pod_is_seen_by_the_address_of_its_node() {
    for backend in ["iptables", "nftables"] {
        let (node, outside, pod) = (Node::new("nft"), Netns::new("outside"), Netns::new("pod"));
        node.netns
            .sh(&["ip", "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", &outside.0]);
        for (netns, link, addresses) in [
            (&node.netns, "up0", ["192.0.2.1/24", "2001:db8::1/64"]),
            (&outside, "eth0", ["192.0.2.9/24", "2001:db8::9/64"]),
        ] {
            netns.sh(&["ip", "link", "set", link, "up"]);
            netns.sh(&["ip", "addr", "add", addresses[0], "dev", link]);
            netns.sh(&["ip", "addr", "add", addresses[1], "dev", link, "nodad"]);
        }
        let config = node.bridge(&format!(r#","ipMasqBackend":"{backend}""#));
        node.run(Plugins::Flannel, "bridge", "ADD", "cid1", &pod.path(), &config).unwrap();
        // The server has no route to pods: a reply means that it received the node's address.
        for target in ["192.0.2.9", "2001:db8::9"] {
            pod.sh(&["ping", "-c1", "-W10", target]);
        }
        let entries = node.netns.sh(&["conntrack", "-L", "-p", "icmp"]);
        assert!(entries.contains("src=192.0.2.9 dst=192.0.2.1"), "{backend}: {entries}");
    }
}
