//! Compares bandwidth with Debian's Go plugin: the same disciplines, and limits that work.

use flannel_core::json::Value;
use std::fs;

use crate::bridge::{Node, Plugins};
use crate::support::{Call, Netns};

/// `cbr0` + `a`, hashed.
const IFB: &str = "bwpeaea36d9a8fa";
const LIMITS: &str =
    r#","ingressRate":2000000,"ingressBurst":800000,"egressRate":1000000,"egressBurst":80000"#;

/// A pod with an interface, and the result of its ADD.
struct Pod {
    node: Node,
    netns: Netns,
    result: String,
}

impl Pod {
    fn new() -> Self {
        let (node, netns) = (Node::new(), Netns::new("pod"));
        let result = node.run(Plugins::Flannel, "ADD", "a", &netns, &node.config("")).unwrap();
        let result = Value::parse(result.as_bytes()).unwrap().to_compact();
        Self { node, netns, result }
    }

    fn run(&self, plugins: Plugins, command: &str, members: &str) -> Result<String, String> {
        let result = &self.result;
        let config = format!(
            r#"{{"cniVersion":"0.4.0","name":"cbr0","type":"bandwidth","prevResult":{result}{members}}}"#
        );
        self.node.run_as(plugins, "bandwidth", command, "a", &self.netns.path(), &config)
    }

    fn veth(&self) -> String {
        let text = self.node.netns.sh(&["ip", "-o", "link", "show", "type", "veth"]);
        text.split([':', '@']).nth(1).unwrap().trim().to_owned()
    }

    /// Returns disciplines and filters on the host, without random values.
    fn limits(&self) -> String {
        let veth = self.veth();
        let mut text = self.node.netns.sh(&["tc", "qdisc", "show"]);
        text += &self.node.netns.sh(&["tc", "filter", "show", "dev", &veth, "ingress"]);
        let links = self.node.netns.sh(&["ip", "-d", "-o", "link", "show", "type", "ifb"]);
        text += &links;
        let text = text.replace(&veth, "vethX");
        // Go's plugin attaches its action twice.
        let lines = text
            .lines()
            .filter(|line| !["action order", "index ", "noqueue"].iter().any(|word| line.contains(word)));
        let words = |line: &str| -> Vec<String> {
            let words = line.split_whitespace().map(|word| word.trim_end_matches([':', '\\']));
            let chance = |word: &&str| word.matches(':').count() == 5 || word.starts_with("numtxqueues");
            words.filter(|word| !chance(word)).map(str::to_owned).collect()
        };
        let mut lines: Vec<String> = lines.map(|line| words(line).join(" ")).collect();
        lines.sort();
        lines.dedup();
        lines.join("\n")
    }

    /// Asserts that the pod has no limits.
    fn assert_free(&self) {
        let text = self.node.netns.sh(&["tc", "qdisc", "show"]) + &self.node.netns.sh(&["ip", "-o", "link"]);
        assert!(!text.contains("tbf") && !text.contains("ingress") && !text.contains("bwp"), "{text}");
    }
}

#[test]
#[ignore = "needs netns"]
fn the_disciplines_are_those_of_go() {
    let [(go, go_result), (ours, our_result)] = [Plugins::Go, Plugins::Flannel].map(|plugins| {
        let pod = Pod::new();
        let result = pod.run(plugins, "ADD", LIMITS).unwrap();
        let interfaces = Value::parse(result.as_bytes()).unwrap();
        let interfaces = interfaces.as_object().unwrap().get("interfaces").unwrap().as_array().unwrap().len();
        let addresses = result.matches("10.244.1.2/24").count() + result.matches(IFB).count();
        (pod.limits(), (interfaces, addresses))
    });
    assert_eq!(ours, go);
    assert_eq!(our_result, go_result);
    for wanted in ["rate 2Mbit burst 100000b lat 25ms", "rate 1Mbit burst 10000b lat 25ms", IFB] {
        assert!(ours.contains(wanted), "{wanted}: {ours}");
    }
}

#[test]
#[ignore = "needs netns"]
fn each_checks_and_deletes_what_the_other_limited() {
    for (adder, other) in [
        (Plugins::Go, Plugins::Flannel),
        (Plugins::Flannel, Plugins::Go),
        (Plugins::Flannel, Plugins::Flannel),
    ] {
        let pod = Pod::new();
        pod.run(adder, "ADD", LIMITS).unwrap();
        pod.run(other, "CHECK", LIMITS).unwrap();
        let error = pod.run(other, "CHECK", &LIMITS.replace("1000000", "3000000")).unwrap_err();
        assert!(!error.is_empty());
        if other == Plugins::Flannel {
            assert!(error.contains("is limited to TokenBucket { rate: 125000"), "{error}");
            pod.node.netns.sh(&["tc", "qdisc", "del", "dev", &pod.veth(), "ingress"]);
            let error = pod.run(other, "CHECK", LIMITS).unwrap_err();
            assert!(
                error.contains(&format!("packets received by {} are not redirected to {IFB}", pod.veth())),
                "{error}"
            );
        }
        for _ in 0..2 {
            pod.run(other, "DEL", LIMITS).unwrap();
        }
        let links = pod.node.netns.sh(&["ip", "-o", "link"]);
        assert!(!links.contains(IFB), "{links}");
    }
}

/// Returns the percentage of lost packets, sending packets of 1400 bytes all at once.
fn loss(from: &Netns, to: &str) -> f64 {
    let script = format!("ping -q -n -s 1372 -c 60 -l 60 -W 2 {to} || true");
    let text = from.sh(&["sh", "-c", &script]);
    let percent = text.split(", ").find_map(|part| part.split_once("% packet loss")).unwrap().0;
    percent.parse().unwrap()
}

#[test]
#[ignore = "needs netns"]
fn the_limits_hold() {
    let pod = Pod::new();
    assert!(loss(&pod.netns, "10.244.1.1") < 5.0);
    // 8000 bytes a second with a burst of 3000: two packets pass.
    let slow = |direction: &str| format!(r#","{direction}Rate":64000,"{direction}Burst":24000"#);
    for (direction, link) in [("ingress", pod.veth()), ("egress", IFB.to_owned())] {
        pod.run(Plugins::Flannel, "ADD", &slow(direction)).unwrap();
        assert!(loss(&pod.netns, "10.244.1.1") > 50.0, "{direction}");
        let statistics = pod.node.netns.sh(&["tc", "-s", "qdisc", "show", "dev", &link]);
        assert!(statistics.contains("rate 64Kbit burst 3000b"), "{statistics}");
        let dropped = statistics.split("dropped ").nth(1).unwrap().split(',').next().unwrap();
        assert!(dropped.parse::<u32>().unwrap() > 20, "{statistics}");
        if direction == "ingress" {
            pod.node.netns.sh(&["tc", "qdisc", "del", "dev", &link, "root"]);
        }
    }
    // Without the IFB, the redirection would drop packets of a pod that is kept.
    pod.run(Plugins::Flannel, "DEL", "").unwrap();
    pod.assert_free();
    assert!(loss(&pod.netns, "10.244.1.1") < 5.0);
}

#[test]
#[ignore = "needs netns"]
fn an_add_may_be_repeated_with_other_limits() {
    let pod = Pod::new();
    for (rate, shown) in [("2000000", "rate 2Mbit"), ("4000000", "rate 4Mbit"), ("2000000", "rate 2Mbit")] {
        let limits = LIMITS.replace("2000000", rate);
        let result = pod.run(Plugins::Flannel, "ADD", &limits).unwrap();
        assert_eq!(result.matches(IFB).count(), 1, "{result}");
        assert!(pod.limits().contains(shown), "{}", pod.limits());
        pod.run(Plugins::Flannel, "CHECK", &limits).unwrap();
    }
    let filters = pod.node.netns.sh(&["tc", "filter", "show", "dev", &pod.veth(), "ingress"]);
    assert_eq!(filters.matches("Egress Redirect").count(), 1, "{filters}");
}

/// Runtimes send the largest number for an unlimited burst.
#[test]
#[ignore = "needs netns"]
fn an_unlimited_burst_is_the_largest_one() {
    let pod = Pod::new();
    let limits = r#","runtimeConfig":{"bandwidth":{"ingressRate":1000000,"ingressBurst":4294967295}}"#;
    pod.run(Plugins::Flannel, "ADD", limits).unwrap();
    pod.run(Plugins::Flannel, "CHECK", limits).unwrap();
    // 4.29 seconds of 125000 bytes: as long as the kernel can count.
    assert!(pod.limits().contains("rate 1Mbit burst 536870b"), "{}", pod.limits());
}

#[test]
#[ignore = "needs netns"]
fn an_add_that_fails_leaves_no_limit() {
    let pod = Pod::new();
    let ours = |members: &str| pod.run(Plugins::Flannel, "ADD", members).unwrap_err();
    assert!(ours(r#","ingressRate":1000"#).contains("if rate is set, burst must also be set"));
    // Another link has its name.
    pod.node.netns.sh(&["ip", "link", "add", IFB, "type", "bridge"]);
    pod.node.netns.sh(&["ip", "link", "del", IFB]);
    // The kernel rejects a burst of no ticks, after the IFB has been created.
    let tiny = r#","ingressRate":8000000,"ingressBurst":800000,"egressRate":80000000000000,"egressBurst":8"#;
    let error = ours(tiny);
    assert!(error.contains(&format!("failed to limit {IFB}: could not set a token bucket")), "{error}");
    pod.assert_free();
    // No limits: the result is unchanged.
    let result = pod.run(Plugins::Flannel, "ADD", "").unwrap();
    assert_eq!(Value::parse(result.as_bytes()).unwrap().to_compact(), pod.result);
    let none =
        r#"{"cniVersion":"0.4.0","name":"cbr0","type":"bandwidth","ingressRate":8000,"ingressBurst":8000}"#;
    let path = pod.netns.path();
    for config in [none.to_owned(), none.replace(r#","ingressRate":8000,"ingressBurst":8000"#, "")] {
        let error = pod.node.run_as(Plugins::Flannel, "bandwidth", "ADD", "a", &path, &config).unwrap_err();
        assert!(error.contains("must be called as chained plugin"), "{error}");
    }
    pod.assert_free();
}

#[test]
#[ignore = "needs netns"]
fn gc_removes_unused_ifbs() {
    let pod = Pod::new();
    pod.run(Plugins::Flannel, "ADD", LIMITS).unwrap();
    // One of a container whose namespace and veth no longer exist; and an unmanaged IFB.
    pod.node.netns.sh(&["ip", "link", "add", "bwp0123456789ab", "type", "ifb"]);
    pod.node.netns.sh(&["ip", "link", "add", "bwpmine", "type", "ifb"]);
    let gc = |list: &str| {
        let config = format!(r#"{{"cniVersion":"1.1.0","name":"cbr0","type":"bandwidth"{list}}}"#);
        pod.node.run_as(Plugins::Flannel, "bandwidth", "GC", "", "", &config).unwrap();
        pod.node.netns.sh(&["ip", "-o", "link", "show", "type", "ifb"])
    };
    assert_eq!(gc("").lines().count(), 3);
    let links = gc(r#","cni.dev/valid-attachments":[]"#);
    assert!(
        !links.contains("bwp0123456789ab") && links.contains("bwpmine") && links.contains(IFB),
        "{links}"
    );
    // Without the pod nothing is redirected to its IFB.
    fs::remove_dir_all(pod.node.path("networks")).unwrap();
    pod.node.netns.sh(&["ip", "link", "del", &pod.veth()]);
    let valid = r#","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#;
    assert!(gc(valid).contains(IFB));
    assert!(!gc(r#","cni.dev/valid-attachments":[{"containerID":"b","ifname":"eth0"}]"#).contains(IFB));
}

/// Returns the filters of a link for both directions.
fn filters(pod: &Pod) -> String {
    let show = |direction| pod.node.netns.sh(&["tc", "filter", "show", "dev", &pod.veth(), direction]);
    format!("{}{}", show("ingress"), show("egress"))
}

/// Monitoring agents attach programs to the host's end of each pod.
#[test]
#[ignore = "needs netns"]
fn filters_of_other_programs_are_kept() {
    for kind in ["clsact", "ingress"] {
        let pod = Pod::new();
        let tc = |command: &str| {
            pod.node.netns.sh(&["sh", "-c", &format!("tc {}", command.replace("VETH", &pod.veth()))])
        };
        tc(&format!("qdisc add dev VETH {kind}"));
        // A program that lets the next filter decide, one without a priority, and an ordinary filter.
        tc("filter add dev VETH ingress pref 1 protocol all bpf bytecode '1,6 0 0 0,' flowid 1:1");
        tc("filter add dev VETH ingress protocol all bpf bytecode '1,6 0 0 0,' flowid 1:1");
        tc("filter add dev VETH ingress pref 7 protocol ip u32 match ip dport 9 0xffff flowid 1:1");
        if kind == "clsact" {
            tc("filter add dev VETH egress pref 1 protocol all bpf bytecode '1,6 0 0 0,' flowid 1:1");
        }
        let before = filters(&pod);
        for burst in ["24000", "32000"] {
            let slow = format!(r#","egressRate":64000,"egressBurst":{burst}"#);
            pod.run(Plugins::Flannel, "ADD", &slow).unwrap();
            pod.run(Plugins::Flannel, "CHECK", &slow).unwrap();
            let now = filters(&pod);
            assert!(before.lines().all(|line| now.contains(line)), "{kind}: {before}{now}");
            let received = tc("filter show dev VETH ingress");
            assert_eq!(received.matches("Egress Redirect").count(), 1, "{received}");
            assert!(tc("qdisc show dev VETH").contains(kind));
        }
        assert!(loss(&pod.netns, "10.244.1.1") > 50.0, "{kind}");
        // All other filters are before that of this plugin.
        let order = filters(&pod);
        let (others, own) = (order.find("pref 49152").unwrap(), order.find("pref 61856").unwrap());
        assert!(others < own, "{order}");
        pod.run(Plugins::Flannel, "DEL", "").unwrap();
        assert_eq!(filters(&pod), before, "{kind}");
        assert!(loss(&pod.netns, "10.244.1.1") < 5.0, "{kind}");
        // A failing ADD undoes its own filter.
        let error =
            pod.run(Plugins::Flannel, "ADD", r#","egressRate":80000000000000,"egressBurst":8"#).unwrap_err();
        assert!(error.contains("could not set a token bucket"), "{error}");
        assert_eq!(filters(&pod), before, "{kind}");
    }
}

#[test]
#[ignore = "needs netns"]
fn a_root_discipline_of_another_program_is_named() {
    let pod = Pod::new();
    let veth = pod.veth();
    pod.node.netns.sh(&["tc", "qdisc", "add", "dev", &veth, "root", "handle", "7:", "pfifo", "limit", "100"]);
    let error = pod.run(Plugins::Flannel, "ADD", LIMITS).unwrap_err();
    assert!(error.contains("another program has attached the root qdisc pfifo 7: to it"), "{error}");
    assert!(error.contains(&format!("`tc qdisc del dev {veth} root`")), "{error}");
    assert!(pod.node.netns.sh(&["tc", "qdisc", "show", "dev", &veth]).contains("pfifo 7:"));
    pod.assert_free();
    // The other direction does not need it.
    pod.run(Plugins::Flannel, "ADD", r#","egressRate":1000000,"egressBurst":80000"#).unwrap();
    pod.run(Plugins::Flannel, "DEL", LIMITS).unwrap();
    assert!(pod.node.netns.sh(&["tc", "qdisc", "show", "dev", &veth]).contains("pfifo 7:"));
    pod.node.netns.sh(&["tc", "qdisc", "del", "dev", &veth, "root"]);
    pod.run(Plugins::Flannel, "ADD", LIMITS).unwrap();
}

/// Go's plugin has one IFB per container and network.
#[test]
#[ignore = "needs netns"]
fn two_interfaces_of_a_container_have_their_own_limits() {
    for first in [0, 1] {
        let (node, pod) = (Node::new(), Netns::new("pod"));
        let call = |program: &str, command: &str, ifname: &str, config: &str| {
            let bin = node.path("bin").display().to_string();
            let call = Call {
                program: &format!("{bin}/{program}"),
                node: Some(&node.netns),
                command,
                id: "a",
                ifname,
                netns: &pod.path(),
                args: "",
                path: &bin,
                config,
            };
            call.run().unwrap()
        };
        let bridge = node.config("").replace(r#""isDefaultGateway":true"#, r#""isGateway":true"#);
        let interfaces = [("eth0", "1000000"), ("net1", "2000000")].map(|(ifname, rate)| {
            let result = call("bridge", "ADD", ifname, &bridge);
            let config = format!(
                r#"{{"cniVersion":"0.4.0","name":"cbr0","type":"bandwidth","prevResult":{result},
                    "egressRate":{rate},"egressBurst":80000}}"#
            );
            (ifname, rate.replace("000000", "Mbit"), config)
        });
        // Repeated in any order.
        for at in [0, 1, 1, 0] {
            let (ifname, _, config) = &interfaces[at];
            call("bandwidth", "ADD", ifname, config);
        }
        let limits = || {
            let text = node.netns.sh(&["tc", "qdisc", "show"]);
            interfaces.each_ref().map(|(_, rate, _)| text.contains(&format!("rate {rate}")))
        };
        assert_eq!(limits(), [true, true]);
        for (ifname, _, config) in &interfaces {
            call("bandwidth", "CHECK", ifname, config);
        }
        let gc = |list: &str| {
            let config = format!(
                r#"{{"cniVersion":"1.1.0","name":"cbr0","type":"bandwidth","cni.dev/valid-attachments":[{list}]}}"#
            );
            call("bandwidth", "GC", "", &config);
        };
        gc(r#"{"containerID":"a","ifname":"eth0"},{"containerID":"a","ifname":"net1"}"#);
        let (ifname, _, config) = &interfaces[first];
        call("bandwidth", "DEL", ifname, config);
        assert_eq!(limits(), [first == 1, first == 0]);
        let (ifname, _, config) = &interfaces[1 - first];
        call("bandwidth", "CHECK", ifname, config);
        call("bandwidth", "DEL", ifname, config);
        assert_eq!(limits(), [false, false]);
        assert!(!node.netns.sh(&["ip", "-o", "link"]).contains("bwp"));
    }
}
