//! portmap: the same rules as Go's plugin, reachable ports, conflicts, and nothing left behind.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use crate::firewall::{BOTH_WAYS, Node, Plugins, compact};
use crate::support::Netns;

const TWO: &str = r#"{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp","HostIP":""},{"hostPort":5353,"containerPort":53,"protocol":"udp","hostIP":"192.0.2.1"}"#;

/// `iptables-save` of container cid1 with these.
const GOLDEN: &str = r#"-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ
-A CNI-DN-4c7c118642e0d78610143 -s 10.244.1.0/24 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-4c7c118642e0d78610143 -s 127.0.0.1/32 -p tcp -m tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-4c7c118642e0d78610143 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.244.1.2:80
-A CNI-DN-4c7c118642e0d78610143 -s 10.244.1.0/24 -d 192.0.2.1/32 -p udp -m udp --dport 5353 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-4c7c118642e0d78610143 -s 127.0.0.1/32 -d 192.0.2.1/32 -p udp -m udp --dport 5353 -j CNI-HOSTPORT-SETMARK
-A CNI-DN-4c7c118642e0d78610143 -d 192.0.2.1/32 -p udp -m udp --dport 5353 -j DNAT --to-destination 10.244.1.2:53
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"cbr0\" id: \"cid1\"" -m multiport --dports 8080 -j CNI-DN-4c7c118642e0d78610143
-A CNI-HOSTPORT-DNAT -p udp -m comment --comment "dnat name: \"cbr0\" id: \"cid1\"" -m multiport --dports 5353 -j CNI-DN-4c7c118642e0d78610143
-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
-A CNI-HOSTPORT-SETMARK -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark 0x2000/0x2000
"#;

/// A pod with an address and the result of its ADD, without masquerading, so that all rules are portmap's.
struct Pod {
    netns: Netns,
    id: String,
    result: String,
}

impl Pod {
    fn new(node: &Node, id: &str) -> Self {
        let netns = Netns::new("pod");
        let result = node.run(Plugins::Flannel, "bridge", "ADD", id, &netns.path(), &bridge(node)).unwrap();
        Self { netns, id: id.to_owned(), result: compact(&result) }
    }

    fn config(&self, mappings: &str, members: &str) -> String {
        let result = &self.result;
        format!(
            r#"{{"cniVersion":"0.4.0","name":"cbr0","type":"portmap","prevResult":{result},"runtimeConfig":{{"portMappings":[{mappings}]}}{members}}}"#
        )
    }

    /// Debian's CHECK searches the chain of IPv6 for rules of IPv4, even for its own: it only gets IPv4.
    fn run(&self, node: &Node, plugins: Plugins, command: &str, config: &str) -> Result<String, String> {
        let mut config = config.to_owned();
        if plugins == Plugins::Go && command == "CHECK" {
            let v6 = self.result.split(r#"},{"version":"6""#).nth(1).unwrap().split('}').next().unwrap();
            config = config.replace(&format!(r#",{{"version":"6"{v6}}}"#), "");
            assert!(!config.contains("2001:cafe:42:1::2"), "{config}");
            node.hide_v6(true);
        }
        let config = config.as_str();
        let outcome = node.run(plugins, "portmap", command, &self.id, &self.netns.path(), config);
        node.hide_v6(false);
        outcome
    }
}

fn bridge(node: &Node) -> String {
    // Hairpin, so that a pod reaches itself by its own port of the host.
    node.bridge(r#","hairpinMode":true"#).replace(r#""ipMasq":true"#, r#""ipMasq":false"#)
}

/// Returns the rules of containers, without shared objects, which are never removed.
fn of_containers(rules: &str) -> Vec<&str> {
    rules.lines().filter(|line| line.contains("CNI-DN-")).collect()
}

#[test]
#[ignore = "needs netns"]
fn each_checks_and_deletes_the_rules_of_the_other() {
    for variant in ["nft", "legacy"] {
        for (adder, other) in BOTH_WAYS {
            let node = Node::new(variant);
            let pod = Pod::new(&node, "cid1");
            let config = pod.config(TWO, "");
            let result = pod.run(&node, adder, "ADD", &config).unwrap();
            if adder == Plugins::Flannel {
                assert_eq!(compact(&result), pod.result);
            }
            let mut expected: Vec<&str> = GOLDEN.lines().collect();
            let rules = node.tool(&["iptables-save", "-t", "nat"]);
            let mut found: Vec<&str> = rules.lines().filter(|line| line.starts_with("-A")).collect();
            expected.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, expected, "{variant} {adder:?}");
            let v6 = node.tool(&["ip6tables-save", "-t", "nat"]);
            assert!(v6.contains("--dport 8080 -j DNAT --to-destination [2001:cafe:42:1::2]:80"), "{v6}");
            assert!(v6.contains("--dports 5353") && !v6.contains("--dport 5353"), "{v6}");

            pod.run(&node, other, "CHECK", &config).unwrap();
            if other == Plugins::Flannel {
                node.tool(&["ip6tables", "-t", "nat", "-F", "OUTPUT"]);
                let error = pod.run(&node, other, "CHECK", &config).unwrap_err();
                assert!(
                    error.contains("could not check ipv6 dnat") && error.contains("-C OUTPUT"),
                    "{error}"
                );
            }
            for _ in 0..2 {
                pod.run(&node, other, "DEL", &config).unwrap();
            }
            assert_eq!(of_containers(&node.rules()), [""; 0], "{variant} {adder:?} {other:?}");
            // Shared objects are created once, by either plugin.
            pod.run(&node, other, "ADD", &config).unwrap();
            let rules = node.tool(&["iptables-save", "-t", "nat"]);
            let mut found: Vec<&str> = rules.lines().filter(|line| line.starts_with("-A")).collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{variant} {adder:?} {other:?}");
        }
    }
}

#[test]
#[ignore = "needs netns"]
fn the_tables_of_nftables_are_those_of_go() {
    let node = Node::new("nft");
    let pod = Pod::new(&node, "cid1");
    node.remove_tools();
    let config = pod.config(TWO, r#","backend":"nftables""#);
    let listing = |rules: [&str; 2]| {
        format!(
            "table ip cni_hostport {{
	comment \"CNI portmap plugin\"
	chain hostports {{
{}	}}

	chain hostip_hostports {{
	}}

	chain hostports_all {{
		jump hostip_hostports
		jump hostports
	}}

	chain prerouting {{
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local jump hostports_all
	}}

	chain output {{
		type nat hook output priority -100; policy accept;
		fib daddr type local jump hostports_all
	}}

	chain masquerading {{
		type nat hook postrouting priority srcnat; policy accept;
{}	}}
}}
",
            rules[0], rules[1]
        )
    };
    let rules = listing([
        "		tcp dport 8080 dnat to 10.244.1.2:80 comment \"cid1\"
		ip daddr 192.0.2.1 udp dport 5353 dnat to 10.244.1.2:53 comment \"cid1\"
",
        "		ip saddr 10.244.1.0/24 ip daddr 10.244.1.2 ct status dnat masquerade comment \"cid1\"
		ip saddr 127.0.0.1 ip daddr 10.244.1.2 ct status dnat masquerade comment \"cid1\"
",
    ]);
    // A repeated ADD replaces its rules and restores shared objects that were modified.
    for damage in ["", "flush chain ip cni_hostport output", "add rule ip cni_hostport hostports_all accept"]
    {
        if !damage.is_empty() {
            node.netns.sh(&["nft", damage]);
        }
        pod.run(&node, Plugins::Flannel, "ADD", &config).unwrap();
        assert_eq!(node.nftables("ip cni_hostport"), rules, "{damage}");
    }
    let v6 = node.nftables("ip6 cni_hostport");
    assert!(v6.contains("tcp dport 8080 dnat to [2001:cafe:42:1::2]:80 comment \"cid1\""), "{v6}");
    assert!(!v6.contains("5353") && !v6.contains("127.0.0.1"), "{v6}");
    pod.run(&node, Plugins::Flannel, "CHECK", &config).unwrap();
    node.netns.sh(&["nft", "flush chain ip6 cni_hostport masquerading"]);
    let error = pod.run(&node, Plugins::Flannel, "CHECK", &config).unwrap_err();
    assert!(error.contains(r#"missing hostport rules in \"masquerading\" chain"#), "{error}");
    // DEL removes rules from both backends, whatever the default is now, without mappings, namespace or result.
    let bare = r#"{"cniVersion":"0.4.0","name":"cbr0","type":"portmap"}"#;
    for _ in 0..2 {
        node.run(Plugins::Flannel, "portmap", "DEL", "cid1", "", bare).unwrap();
    }
    assert_eq!(node.nftables("ip cni_hostport"), listing(["", ""]));
}

#[test]
#[ignore = "needs netns"]
fn conditions_are_those_of_their_network() {
    let node = Node::new("nft");
    let [one, two] = ["one", "two"].map(|id| Pod::new(&node, id));
    let mapping = |port: u16| format!(r#"{{"hostPort":{port},"containerPort":80,"protocol":"tcp"}}"#);
    let config = one.config(&mapping(8080), r#","conditionsV4":["ip","saddr","192.0.2.0/24"]"#);
    one.run(&node, Plugins::Flannel, "ADD", &config).unwrap();
    two.run(&node, Plugins::Flannel, "ADD", &two.config(&mapping(8081), r#","backend":"nftables""#)).unwrap();
    let listing = node.nftables("ip cni_hostport");
    assert!(listing.contains("ip saddr 192.0.2.0/24 tcp dport 8080 dnat to"), "{listing}");
    assert!(listing.contains("\t\ttcp dport 8081 dnat to"), "{listing}");
    one.run(&node, Plugins::Flannel, "CHECK", &config).unwrap();
    // Conditions that nft rejects are reported, and nothing is left behind.
    let bad = one.config(&mapping(8082), r#","conditionsV4":["ip","saddr","nonsense."]"#);
    let error = one.run(&node, Plugins::Flannel, "ADD", &bad).unwrap_err();
    assert!(error.contains("nft rejected the conditions"), "{error}");
    assert!(!node.nftables("ip cni_hostport").contains("\"one\""));
    // In iptables they are part of the rules that jump to the container's chain.
    let config = one.config(&mapping(8082), r#","conditionsV4":["!","-s","10.9.0.0/16"]"#);
    one.run(&node, Plugins::Flannel, "ADD", &config).unwrap();
    let rules = node.rules();
    assert!(rules.contains("! -s 10.9.0.0/16 -p tcp") && rules.contains("--dports 8082"), "{rules}");
    one.run(&node, Plugins::Go, "CHECK", &config).unwrap();
    let bad = one.config(&mapping(8083), r#","conditionsV4":["-m","nonsense"]"#);
    let error = one.run(&node, Plugins::Flannel, "ADD", &bad).unwrap_err();
    assert!(error.contains("nonsense"), "{error}");
    assert_eq!(of_containers(&node.rules()), [""; 0]);
}

#[test]
#[ignore = "needs netns"]
fn a_port_conflict_names_both_containers() {
    for (variant, backend) in [("nft", "iptables"), ("legacy", "iptables"), ("nft", "nftables")] {
        let node = Node::new(variant);
        let [first, second] = ["first", "second"].map(|id| Pod::new(&node, id));
        let mapping = |ip: &str, protocol: &str| {
            format!(r#"{{"hostPort":8080,"containerPort":80,"protocol":"{protocol}","hostIP":"{ip}"}}"#)
        };
        let members = format!(r#","backend":"{backend}""#);
        let add = |pod: &Pod, plugins, mapping: &str, members: &str| {
            pod.run(&node, plugins, "ADD", &pod.config(mapping, members))
        };
        // Debian's plugin only supports iptables.
        let plugins = if backend == "iptables" { Plugins::Go } else { Plugins::Flannel };
        let of_first = if backend == "iptables" { "" } else { members.as_str() };
        add(&first, plugins, &mapping("192.0.2.1", "tcp"), of_first).unwrap();
        let all = node.rules();
        for taken in ["192.0.2.1", "0.0.0.0", ""] {
            let error = add(&second, Plugins::Flannel, &mapping(taken, "tcp"), &members).unwrap_err();
            assert!(
                error.contains("8080/tcp of container second in network cbr0 is already used by"),
                "{error}"
            );
            let owner =
                if backend == "iptables" { "container first in network cbr0" } else { "container first" };
            assert!(error.contains(owner), "{error}");
            assert_eq!(node.rules(), all, "{variant} {backend}");
        }
        // Another address, another protocol, another family.
        for free in [("192.0.2.2", "tcp"), ("192.0.2.1", "udp"), ("fd00::1", "tcp")] {
            add(&second, Plugins::Flannel, &mapping(free.0, free.1), &members).unwrap();
        }
        second.run(&node, Plugins::Flannel, "DEL", &second.config("", &members)).unwrap();
        first.run(&node, Plugins::Flannel, "DEL", &first.config("", &members)).unwrap();
        add(&second, Plugins::Flannel, &mapping("192.0.2.1", "tcp"), &members).unwrap();
        assert_eq!(of_containers(&node.rules()).is_empty(), backend == "nftables");
    }
    // The other backend is checked as well.
    let node = Node::new("nft");
    let [first, second] = ["first", "second"].map(|id| Pod::new(&node, id));
    for (one, other) in [("iptables", "nftables"), ("nftables", "iptables")] {
        let config = |pod: &Pod, backend: &str| pod.config(TWO, &format!(r#","backend":"{backend}""#));
        first.run(&node, Plugins::Flannel, "ADD", &config(&first, one)).unwrap();
        let error = second.run(&node, Plugins::Flannel, "ADD", &config(&second, other)).unwrap_err();
        assert!(error.contains("already used by container first"), "{error}");
        first.run(&node, Plugins::Flannel, "DEL", &config(&first, one)).unwrap();
    }
}

#[test]
#[ignore = "needs netns"]
fn of_many_adds_at_once_one_gets_the_port() {
    let node = Node::new("nft");
    let pods: Vec<Pod> = (0..8).map(|at| Pod::new(&node, &format!("p{at}"))).collect();
    let config = |pod: &Pod, at: usize| {
        let own = 9000 + at;
        pod.config(
            &format!(
                r#"{{"hostPort":{},"containerPort":80,"protocol":"tcp"}}"#,
                if at.is_multiple_of(2) { 8080 } else { own }
            ),
            "",
        )
    };
    let good = std::thread::scope(|scope| {
        let runs: Vec<_> = pods
            .iter()
            .enumerate()
            .map(|(at, pod)| {
                let config = config(pod, at);
                let node = &node;
                scope.spawn(move || pod.run(node, Plugins::Flannel, "ADD", &config).is_ok())
            })
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(good.iter().step_by(2).filter(|good| **good).count(), 1, "{good:?}");
    assert!(good.iter().skip(1).step_by(2).all(|good| *good), "{good:?}");
    // Shared objects were created once, by the first of them.
    let rules = node.tool(&["iptables-save", "-t", "nat"]);
    for (rule, count) in [
        ("-A PREROUTING", 1),
        ("-A OUTPUT", 1),
        ("-A POSTROUTING", 1),
        ("-A CNI-HOSTPORT-MASQ", 1),
        ("-A CNI-HOSTPORT-SETMARK", 1),
        ("-A CNI-HOSTPORT-DNAT", 5),
    ] {
        assert_eq!(rules.matches(rule).count(), count, "{rule}: {rules}");
    }
}

#[test]
#[ignore = "needs netns"]
fn del_finds_its_rules_in_any_state() {
    for variant in ["nft", "legacy"] {
        let node = Node::new(variant);
        let pod = Pod::new(&node, "cid1");
        let bare = r#"{"cniVersion":"0.4.0","name":"cbr0","type":"portmap","prevResult":{"cniVersion":"9"},"backend":7}"#;
        let nat = |rule: &[&str]| drop(node.tool(&[&["iptables", "-t", "nat"], rule].concat()));
        for damage in ["", "entries", "own chain", "historic"] {
            pod.run(&node, Plugins::Flannel, "ADD", &pod.config(TWO, "")).unwrap();
            match damage {
                "entries" => nat(&["-F", "CNI-HOSTPORT-DNAT"]),
                "own chain" => nat(&["-F", "CNI-DN-4c7c118642e0d78610143"]),
                "historic" => {
                    nat(&["-N", "CNI-SN-4c7c118642e0d78610143"]);
                    nat(&["-N", "CNI-HOSTPORT-SNAT"]);
                    nat(&["-A", "CNI-HOSTPORT-SNAT", "-j", "CNI-SN-4c7c118642e0d78610143"]);
                }
                _ => {}
            }
            for _ in 0..2 {
                node.run(Plugins::Flannel, "portmap", "DEL", "cid1", "", bare).unwrap();
            }
            let rules = node.rules();
            assert!(!rules.contains("CNI-DN-") && !rules.contains("CNI-SN-"), "{variant} {damage}: {rules}");
        }
        // An earlier ADD of the container, with another address.
        nat(&["-N", "CNI-DN-4c7c118642e0d78610143"]);
        let stale = ["-A", "CNI-DN-4c7c118642e0d78610143", "-p", "tcp", "--dport", "8080"];
        nat(&[&stale[..], &["-j", "DNAT", "--to", "10.244.1.77:80"]].concat());
        pod.run(&node, Plugins::Flannel, "ADD", &pod.config(TWO, "")).unwrap();
        assert!(!node.rules().contains("10.244.1.77"));
    }
}

#[test]
#[ignore = "needs netns"]
fn an_add_that_fails_leaves_nothing() {
    let refused = "echo 'iptables-restore: line 3 failed: No chain/target/match by that name.' >&2; exit 1";
    for variant in ["nft", "legacy"] {
        for (tool, script, expected) in [
            ("iptables-restore", "cat >/dev/null\nexit 4", "another program has held the iptables lock"),
            ("ip6tables-restore", refused, "No chain/target/match by that name. in `"),
        ] {
            let node = Node::new(variant);
            let pod = Pod::new(&node, "cid1");
            let family = tool.strip_suffix("-restore").unwrap();
            node.replace_tool(family, &format!("exec /usr/sbin/{family}-{variant} \"$@\""));
            node.replace_tool(tool, script);
            let error = pod.run(&node, Plugins::Flannel, "ADD", &pod.config(TWO, "")).unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert_eq!(of_containers(&node.rules()), [""; 0], "{variant} {tool}");
        }
    }
    let node = Node::new("nft");
    let pod = Pod::new(&node, "cid1");
    let without_result = r#"{"cniVersion":"0.4.0","name":"cbr0","type":"portmap"}"#;
    let error = pod.run(&node, Plugins::Flannel, "ADD", without_result).unwrap_err();
    assert!(error.contains("must be called as chained plugin"), "{error}");
    // An external chain that does not exist.
    let config = pod.config(TWO, r#","externalSetMarkChain":"KUBE-MARK-MASQ""#);
    let error = pod.run(&node, Plugins::Flannel, "ADD", &config).unwrap_err();
    assert!(error.contains("KUBE-MARK-MASQ"), "{error}");
    assert_eq!(of_containers(&node.rules()), [""; 0]);
    node.tool(&["iptables", "-t", "nat", "-N", "KUBE-MARK-MASQ"]);
    node.tool(&["ip6tables", "-t", "nat", "-N", "KUBE-MARK-MASQ"]);
    pod.run(&node, Plugins::Flannel, "ADD", &config).unwrap();
    pod.run(&node, Plugins::Go, "CHECK", &config).unwrap();
    assert!(!node.rules().contains("SETMARK"));
    // In addition to a network with another mark.
    let other = pod.config(TWO, r#","markMasqBit":5"#);
    for config in [pod.config(TWO, ""), other] {
        pod.run(&node, Plugins::Flannel, "ADD", &config).unwrap();
        pod.run(&node, Plugins::Go, "CHECK", &config).unwrap();
    }
    assert_eq!(node.tool(&["iptables-save", "-t", "nat"]).matches("-A CNI-HOSTPORT-MASQ").count(), 2);
}

/// One process per family for an ADD, none for a DEL; the legacy variant can only be listed by its own programs.
#[test]
#[ignore = "needs netns"]
fn processes_are_as_few_as_possible() {
    let restore = "ip6tables-restore iptables-restore";
    let listed = "ip6tables-restore ip6tables-save iptables-restore iptables-save";
    for (variant, mapped, deleted) in [("nft", restore, ""), ("legacy", listed, listed)] {
        let node = Node::new(variant);
        node.log_starts(variant);
        let masquerading = node.bridge("");
        for id in ["first", "later"] {
            let netns = Netns::new("pod");
            let run = |plugin: &str, command: &str, config: &str| {
                let result = node.run(Plugins::Flannel, plugin, command, id, &netns.path(), config).unwrap();
                (result, node.starts())
            };
            let (result, starts) = run("bridge", "ADD", &masquerading);
            assert_eq!(starts, restore, "{variant} {id}: masquerade");
            let pod = Pod { netns: Netns::new("unused"), id: id.to_owned(), result: compact(&result) };
            let port = if id == "first" { 8080 } else { 8081 };
            let mapping = format!(r#"{{"hostPort":{port},"containerPort":80,"protocol":"tcp"}}"#);
            let config = pod.config(&mapping, "");
            assert_eq!(run("portmap", "ADD", &config).1, mapped, "{variant} {id}: mapping");
            if id == "later" {
                assert_eq!(run("portmap", "DEL", &config).1, deleted, "{variant}");
                assert_eq!(run("bridge", "DEL", &masquerading).1, deleted, "{variant}");
            }
        }
    }
}

/// Injects a fault at every step of an ADD and of a DEL, until one completes before the fault.
#[test]
#[ignore = "needs netns"]
fn an_interrupted_add_or_del_leaves_nothing() {
    std::thread::scope(|scope| {
        for (backend, kind) in [("iptables", "fail"), ("iptables", "kill"), ("nftables", "fail")] {
            scope.spawn(move || end_anywhere(backend, kind));
        }
    });
}

fn end_anywhere(backend: &str, kind: &str) {
    let node = Node::new("nft");
    let pod = Pod::new(&node, "cid1");
    let config = pod.config(TWO, &format!(r#","backend":"{backend}""#));
    let path = pod.netns.path();
    let run =
        |command: &str, fault: &str| node.run_with_fault("portmap", command, "cid1", &path, &config, fault);
    let traces = || {
        let listing = node.netns.sh(&["nft", "list", "ruleset"]);
        node.rules() + &listing.lines().filter(|line| line.contains("\"cid1\"")).collect::<String>()
    };
    let assert_deleted = |after: &str| {
        let (deleted, _) = run("DEL", "");
        deleted.unwrap();
        assert!(!traces().contains("cid1") && !traces().contains("CNI-DN-"), "{after}: {}", traces());
    };
    for at in 1.. {
        let fault = format!("{kind}:{at}");
        let (added, hit) = run("ADD", &fault);
        if !hit {
            added.unwrap();
            assert!(traces().contains("cid1"));
            assert!(at > 15, "{at} steps");
            break;
        }
        if kind == "fail" && added.is_err() {
            assert!(!traces().contains("cid1") && !traces().contains("CNI-DN-"), "{fault}: {}", traces());
        }
        // The next ADD succeeds even without a DEL.
        if at % 3 == 0 {
            run("ADD", "").0.unwrap();
        }
        assert_deleted(&fault);
    }
    for at in 1.. {
        let fault = format!("{kind}:{at}");
        run("ADD", "").0.unwrap();
        let (deleted, hit) = run("DEL", &fault);
        if !hit {
            deleted.unwrap();
            assert!(at > 5, "{at} steps");
            break;
        }
        assert_deleted(&fault);
    }
}

#[test]
#[ignore = "needs netns"]
fn gc_and_status_work() {
    for variant in ["nft", "legacy"] {
        let node = Node::new(variant);
        let pods = ["a", "b"].map(|id| Pod::new(&node, id));
        for (pod, port) in pods.iter().zip([8080, 8081]) {
            let mapping = format!(r#"{{"hostPort":{port},"containerPort":80,"protocol":"tcp"}}"#);
            pod.run(&node, Plugins::Flannel, "ADD", &pod.config(&mapping, "")).unwrap();
        }
        let config = r#"{"cniVersion":"1.1.0","name":"cbr0","type":"portmap"}"#;
        node.run(Plugins::Flannel, "portmap", "STATUS", "", "", config).unwrap();
        let list = r#""cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}],"name""#;
        let gc = |name: &str| {
            let config = config.replace("\"name\"", list).replace("cbr0", name);
            node.run(Plugins::Flannel, "portmap", "GC", "", "", &config).unwrap();
            node.rules().replace("\\\"", "")
        };
        let rules = gc("other");
        assert!(rules.contains("id: a\"") && rules.contains("id: b\""), "{rules}");
        let rules = gc("cbr0");
        assert!(rules.contains("id: a\"") && !rules.contains("id: b\""), "{rules}");
        // All networks share the tables of nftables.
        for (pod, port) in pods.iter().zip([8082, 8083]) {
            let mapping = format!(r#"{{"hostPort":{port},"containerPort":80,"protocol":"tcp"}}"#);
            let config = pod.config(&mapping, r#","backend":"nftables""#);
            pod.run(&node, Plugins::Flannel, "ADD", &config).unwrap();
        }
        let of_go = "tcp dport 8084 dnat to 10.9.0.2:80 comment \"go\"";
        node.netns.sh(&["nft", &format!("add rule ip cni_hostport hostports {of_go}")]);
        for (network, kept) in [("other", true), ("cbr0", false)] {
            gc(network);
            for table in ["ip cni_hostport", "ip6 cni_hostport"] {
                let rules = node.nftables(table);
                assert!(rules.contains("comment \"a\""), "{rules}");
                assert_eq!(rules.contains("comment \"b\""), kept, "{rules}");
            }
        }
        assert!(node.nftables("ip cni_hostport").contains("comment \"go\""));
        node.remove_tools();
        let config = config.replace("\"name\"", "\"backend\":\"iptables\",\"name\"");
        let error = node.run(Plugins::Flannel, "portmap", "STATUS", "", "", &config).unwrap_err();
        assert!(
            error.contains("\"code\": 50") && error.contains("iptables was not found in PATH"),
            "{error}"
        );
    }
}

/// A server in a pod, a client outside, one in another pod, one on the node, and the pod itself.
#[test]
#[ignore = "needs netns"]
fn a_mapped_port_is_reached_from_everywhere() {
    for backend in ["iptables", "nftables"] {
        let (node, outside) = (Node::new("nft"), Netns::new("outside"));
        link_outside(&node, &outside);
        let [server, client] = ["server", "client"].map(|id| Pod::new(&node, id));
        let mapping = r#"{"hostPort":8080,"containerPort":80,"protocol":"tcp"}"#;
        let config = server.config(mapping, &format!(r#","backend":"{backend}""#));
        server.run(&node, Plugins::Flannel, "ADD", &config).unwrap();
        let _server = Listener::start(&server.netns, 80);
        let seen = |from: &Netns, target: &str| ask(from, target, 8080);
        // The pod receives the address of an external client, but that of the gateway from its own subnet: otherwise the reply
        // would not pass through the host.
        for (from, target, sees) in [
            (&outside, "192.0.2.1", "192.0.2.9"),
            (&outside, "2001:db8::1", "2001:db8::9"),
            (&client.netns, "192.0.2.1", "10.244.1.1"),
            (&server.netns, "192.0.2.1", "10.244.1.1"),
            (&node.netns, "127.0.0.1", "10.244.1.1"),
            (&node.netns, "192.0.2.1", "192.0.2.1"),
        ] {
            let answer = seen(from, target);
            assert!(answer.starts_with(sees), "{backend}: {} from {target}: {answer:?}", from.0);
        }
        let address = server.result.split(r#""address":""#).nth(1).unwrap().split('/').next().unwrap();
        // Packets that are not mapped keep their address.
        assert!(ask(&client.netns, address, 80).starts_with("10.244.1.3"), "{backend}");
        // Without source translation the pod receives the address of the client.
        let plain = server.config(mapping, &format!(r#","backend":"{backend}","snat":false"#));
        server.run(&node, Plugins::Flannel, "ADD", &plain).unwrap();
        assert!(seen(&outside, "192.0.2.1").starts_with("192.0.2.9"), "{backend}");
        server.run(&node, Plugins::Flannel, "DEL", &plain).unwrap();
        assert_eq!(seen(&outside, "192.0.2.1"), "", "{backend}: the port still leads somewhere");
    }
}

/// A client that continues to send reaches the new server, not the first one.
#[test]
#[ignore = "needs netns"]
fn connections_over_udp_follow_the_mapping() {
    for backend in ["iptables", "nftables"] {
        let (node, outside) = (Node::new("nft"), Netns::new("outside"));
        link_outside(&node, &outside);
        let pods = ["one", "two"].map(|id| Pod::new(&node, id));
        let mapping = r#"{"hostPort":5353,"containerPort":53,"protocol":"UDP"}"#;
        let config = |pod: &Pod| pod.config(mapping, &format!(r#","backend":"{backend}""#));
        let entries = || node.netns.sh(&["conntrack", "-L", "-p", "udp", "--orig-port-dst", "5353"]);
        // Connections are tracked before anything is mapped.
        node.netns.sh(&["nft", "add table ip watch"]);
        node.netns.sh(&["nft", "add chain ip watch input { type filter hook input priority 0; }"]);
        node.netns.sh(&["nft", "add rule ip watch input ct state new counter"]);
        let send = || {
            // From one port, like a client that continues to send.
            let socket = outside.inside(|| UdpSocket::bind("192.0.2.9:4000")).unwrap();
            socket.send_to(b"hello", "192.0.2.1:5353").unwrap();
        };
        send();
        assert!(entries().contains("dport=5353"), "{}", entries());
        pods[0].run(&node, Plugins::Flannel, "ADD", &config(&pods[0])).unwrap();
        assert!(!entries().contains("dport=5353"), "{backend}: {}", entries());
        send();
        assert!(entries().contains("src=10.244.1.2"), "{backend}: {}", entries());
        pods[0].run(&node, Plugins::Flannel, "DEL", &config(&pods[0])).unwrap();
        assert!(!entries().contains("src=10.244.1.2"), "{backend}: {}", entries());
        pods[1].run(&node, Plugins::Flannel, "ADD", &config(&pods[1])).unwrap();
        send();
        assert!(entries().contains("src=10.244.1.3"), "{backend}: {}", entries());
    }
}

fn link_outside(node: &Node, outside: &Netns) {
    node.netns.sh(&["ip", "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", &outside.0]);
    for (netns, link, addresses, routes) in [
        (&node.netns, "up0", ["192.0.2.1/24", "2001:db8::1/64"], None),
        (outside, "eth0", ["192.0.2.9/24", "2001:db8::9/64"], Some(["192.0.2.1", "2001:db8::1"])),
    ] {
        netns.sh(&["ip", "link", "set", link, "up"]);
        netns.sh(&["ip", "addr", "add", addresses[0], "dev", link]);
        netns.sh(&["ip", "addr", "add", addresses[1], "dev", link, "nodad"]);
        for gateway in routes.into_iter().flatten() {
            netns.sh(&["ip", "route", "add", "default", "via", gateway]);
        }
    }
}

/// A server that replies with the address of the client.
struct Listener(TcpListener);

impl Listener {
    fn start(netns: &Netns, port: u16) -> Self {
        let listener = netns.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))).unwrap();
        let server = listener.try_clone().unwrap();
        std::thread::spawn(move || {
            while let Ok((mut client, address)) = server.accept() {
                let _ = write!(client, "{}", address.ip().to_canonical());
            }
        });
        Self(listener)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Ends the wait in the thread.
        let _ = nix::sys::socket::shutdown(self.0.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

/// Returns the reply of the server at an address, or nothing if there is none.
fn ask(from: &Netns, target: &str, port: u16) -> String {
    let target = SocketAddr::new(target.parse().unwrap(), port);
    from.inside(|| {
        let mut answer = String::new();
        match TcpStream::connect_timeout(&target, Duration::from_secs(60)) {
            Ok(mut server) => drop(server.read_to_string(&mut answer).unwrap()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{target}"),
        }
        answer
    })
}

#[test]
#[ignore = "needs netns"]
fn a_program_reports_its_name() {
    let node = Node::new("nft");
    let about = Command::new(node.path("bin/portmap")).output().unwrap();
    assert!(String::from_utf8_lossy(&about.stderr).starts_with("CNI plugin portmap"));
}
