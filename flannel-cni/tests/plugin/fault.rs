//! An ADD or DEL that fails or is killed at any step leaves nothing behind and does not affect the next one.

use flannel_core::json::Value;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::bridge::Node;
use crate::support::{Netns, plugin};

/// How a call ended.
#[derive(Debug)]
struct Outcome {
    success: bool,
    stdout: String,
    stderr: String,
}

impl Outcome {
    /// Whether the requested fault occurred.
    fn was_hit(&self) -> bool {
        self.stderr.contains("fault: ")
    }
}

/// One call of the plugin.
struct Call<'a> {
    command: &'a str,
    id: &'a str,
    pod: &'a Netns,
    fault: Option<&'a str>,
    config: &'a str,
}

/// A chain of plugins as a runtime calls it for one container.
struct Scene {
    node: Node,
    pod: Netns,
    program: &'static str,
    config: String,
    /// Every ADD creates the bridge, because it is deleted before.
    first: bool,
}

impl Scene {
    fn new(program: &'static str, members: &str, first: bool) -> Self {
        let (node, pod) = (Node::new(), Netns::new("pod"));
        let config = match program {
            "flannel" => flannel_config(&node, members),
            _ => node.config(members),
        };
        let scene = Self { node, pod, program, config, first };
        if !first {
            // Create the bridge.
            for command in ["ADD", "DEL"] {
                let other = scene.call(command, "other", &scene.pod, None);
                assert!(other.success, "{other:?}");
            }
        }
        scene
    }

    fn call(&self, command: &str, id: &str, pod: &Netns, fault: Option<&str>) -> Outcome {
        self.run(Call { command, id, pod, fault, config: &self.config })
    }

    fn run(&self, call: Call<'_>) -> Outcome {
        let Call { command, id, pod, fault, config } = call;
        let program = match self.program {
            "flannel" => plugin().into(),
            other => self.node.path("bin").join(other),
        };
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.node.netns.0])
            .arg(program)
            .envs([("CNI_COMMAND", command), ("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0")])
            .envs([("CNI_NETNS", pod.path().as_str()), ("CNI_PATH", "/nowhere"), ("CNI_ARGS", "")])
            .env("FLANNEL_CNI_FAULT", fault.unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A plugin may fail before it reads.
        let _ = child.stdin.take().unwrap().write_all(config.as_bytes());
        let output = child.wait_with_output().unwrap();
        Outcome {
            success: output.status.success(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Deletes the bridge if the next ADD should create it.
    fn prepare(&self) {
        if self.first {
            self.node.netns.sh(&["sh", "-c", "ip link del cni0 2>/dev/null || true"]);
        }
    }

    /// Returns everything that may belong to a container: links, limits, addresses, temporary files.
    fn traces(&self, with_saved: bool) -> String {
        // A line for each link, limit and rule.
        let mut script = "ip -o link show type veth | cut -d: -f2; ip -o link show type ifb | cut -d: -f2
            tc qdisc show | grep -v noqueue
            "
        .to_owned();
        if self.config.contains("ipMasq") || self.config.contains("macspoofchk") {
            script += "nft list ruleset 2>/dev/null | grep -E 'cni-br-iface|macspoofchk|, net: '
                { iptables-save; ip6tables-save; } 2>/dev/null | grep -E 'CNI-[0-9a-f]{24}'
                ";
        }
        script += "true";
        let mut text = self.node.netns.sh(&["sh", "-c", &script]);
        text += &self.pod.sh(&["sh", "-c", "ip -o link show | grep -v ' lo:' || true"]);
        let directories: &[&str] = if with_saved { &["networks/cbr0", "state"] } else { &["networks/cbr0"] };
        for directory in directories {
            let Ok(listing) = fs::read_dir(self.node.path(directory)) else { continue };
            for file in listing {
                let name = file.unwrap().file_name().into_string().unwrap();
                if name != "lock" && !name.starts_with("last_") {
                    text += &format!("{directory}/{name}\n");
                }
            }
        }
        text
    }

    fn cursors(&self) -> Vec<String> {
        (0..2)
            .filter_map(|set| {
                fs::read_to_string(self.node.path(&format!("networks/cbr0/last_reserved_ip.{set}"))).ok()
            })
            .collect()
    }

    /// Asserts that ADD, CHECK and DEL succeed.
    fn assert_works(&self, after: &str) {
        let added = self.call("ADD", "a", &self.pod, None);
        assert!(added.success, "{after}: {added:?}");
        let result = Value::parse(added.stdout.as_bytes()).unwrap().to_compact();
        let config = self.config.trim_end().trim_end_matches('}');
        let braces = self.config.trim_end().len() - config.len() - 1;
        let checked = format!(r#"{config}{},"prevResult":{result}}}"#, "}".repeat(braces));
        let call = Call { command: "CHECK", id: "a", pod: &self.pod, fault: None, config: &checked };
        let checked = self.run(call);
        assert!(checked.success, "{after}: {checked:?}");
        self.assert_deleted(after);
    }

    fn assert_deleted(&self, after: &str) {
        let deleted = self.call("DEL", "a", &self.pod, None);
        assert!(deleted.success, "{after}: {deleted:?}");
        assert_eq!(self.traces(true), "", "{after}");
    }

    /// Fails or kills an ADD at every step, until one completes before the fault.
    fn add_with_faults(&self, kind: &str) -> u32 {
        for at in 1.. {
            self.prepare();
            let before = self.cursors();
            let fault = format!("{kind}:{at}");
            let added = self.call("ADD", "a", &self.pod, Some(&fault));
            if !added.was_hit() {
                assert!(added.success, "{fault}: {added:?}");
                // The search finds objects of a complete ADD.
                let traces = self.traces(true);
                for (key, word) in [
                    ("macspoofchk", "macspoofchk-a-eth0"),
                    (r#""ipMasqBackend":"nftables""#, "net: cbr0, if: eth0, id: a"),
                    (r#""ipMasqBackend":"iptables""#, "MASQUERADE"),
                    ("ranges", "10.244.1."),
                ] {
                    assert!(!self.config.contains(key) || traces.contains(word), "{key}: {traces}");
                }
                self.assert_deleted(&fault);
                return at - 1;
            }
            if !added.success && kind != "kill" {
                assert!(added.stdout.contains("i/o error"), "{fault}: {added:?}");
                // The saved config is kept for the DEL of the runtime.
                assert_eq!(self.traces(false), "", "{fault}: {added:?}");
                if kind == "fail" {
                    if self.program == "host-local" {
                        assert_eq!(self.cursors(), before, "{fault}: {added:?}");
                    }
                    // The next ADD succeeds even without a DEL.
                    if at % 3 == 0 {
                        self.assert_works(&fault);
                    }
                }
            }
            self.assert_deleted(&fault);
        }
        unreachable!("an ADD has an end");
    }

    /// Does the same with DEL; another DEL completes it.
    fn del_with_faults(&self, kind: &str) -> u32 {
        for at in 1.. {
            let fault = format!("{kind}:{at}");
            let added = self.call("ADD", "a", &self.pod, None);
            assert!(added.success, "{fault}: {added:?}");
            let deleted = self.call("DEL", "a", &self.pod, Some(&fault));
            if !deleted.was_hit() {
                assert!(deleted.success, "{fault}: {deleted:?}");
                assert_eq!(self.traces(true), "", "{fault}");
                return at - 1;
            }
            self.assert_deleted(&fault);
        }
        unreachable!("a DEL has an end");
    }
}

/// Returns the config of the plugin with its whole chain in one process.
fn flannel_config(node: &Node, members: &str) -> String {
    let env = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_NETWORK=2001:cafe:42::/56\n\
        FLANNEL_IPV6_SUBNET=2001:cafe:42:1::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    fs::write(node.path("subnet.env"), env).unwrap();
    let [env, state, networks] =
        ["subnet.env", "state", "networks"].map(|name| node.path(name).display().to_string());
    format!(
        r#"{{"cniVersion":"1.0.0","name":"cbr0","type":"flannel","subnetFile":"{env}","dataDir":"{state}",
            "ipam":{{"dataDir":"{networks}"}},"delegate":{{"hairpinMode":true,"isDefaultGateway":true{members}}}}}"#
    )
}

/// The release of an address is logged to stderr, whose reader has exited.
#[test]
#[ignore = "needs netns"]
fn a_closed_stderr_changes_nothing() {
    let scene = Scene::new("flannel", "", true);
    let env = fs::read_to_string(scene.node.path("subnet.env")).unwrap();
    fs::write(scene.node.path("subnet.env"), env.replace("10.244.1.1/24", "10.244.1.1/30")).unwrap();
    let lost = scene.call("ADD", "lost", &Netns::new("lost"), None);
    assert!(lost.success, "{lost:?}");
    let mut child = Command::new("ip")
        .args(["netns", "exec", &scene.node.netns.0, plugin()])
        .envs([("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "a"), ("CNI_IFNAME", "eth0")])
        .envs([("CNI_NETNS", scene.pod.path().as_str()), ("CNI_PATH", "/nowhere")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    child.stdin.take().unwrap().write_all(scene.config.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("10.244.1.2/30"), "{output:?}");
}

#[test]
#[ignore = "needs netns"]
fn the_first_add_fails_at_any_step() {
    let scene = Scene::new("bridge", "", true);
    let steps = scene.add_with_faults("fail");
    assert!(steps > 20, "{steps}");
    assert!(scene.add_with_faults("lose") > 5);
}

#[test]
#[ignore = "needs netns"]
fn the_first_add_is_killed_at_any_step() {
    let steps = Scene::new("bridge", "", true).add_with_faults("kill");
    assert!(steps > 20, "{steps}");
}

#[test]
#[ignore = "needs netns"]
fn a_later_add_with_all_keys_fails_at_any_step() {
    let members = r#","hairpinMode":false,"promiscMode":true,"portIsolation":true,"macspoofchk":true"#;
    let scene = Scene::new("bridge", members, false);
    assert!(scene.add_with_faults("fail") > 18);
    assert!(scene.add_with_faults("kill") > 18);
}

fn masquerading(backend: &str) -> Scene {
    Scene::new("bridge", &format!(r#","ipMasq":true,"ipMasqBackend":"{backend}""#), false)
}

#[test]
#[ignore = "needs netns"]
fn masquerading_by_nftables_fails_at_any_step() {
    let scene = masquerading("nftables");
    assert!(scene.add_with_faults("fail") > 18);
    assert!(scene.del_with_faults("fail") > 8);
}

#[test]
#[ignore = "needs netns"]
fn masquerading_by_nftables_is_killed_at_any_step() {
    assert!(masquerading("nftables").add_with_faults("kill") > 18);
}

#[test]
#[ignore = "needs netns"]
fn masquerading_by_iptables_fails_at_any_step() {
    assert!(masquerading("iptables").add_with_faults("fail") > 18);
}

/// A program that sets rules continues when the plugin is killed; DEL waits for it.
#[test]
#[ignore = "needs netns"]
fn masquerading_by_iptables_is_killed_at_any_step() {
    assert!(masquerading("iptables").add_with_faults("kill") > 18);
}

#[test]
#[ignore = "needs netns"]
fn host_local_fails_or_is_killed_at_any_step() {
    let scene = Scene::new("host-local", "", false);
    assert!(scene.add_with_faults("fail") > 5);
    assert!(scene.add_with_faults("kill") > 5);
}

#[test]
#[ignore = "needs netns"]
fn flannel_fails_or_is_killed_at_any_step() {
    let scene = Scene::new("flannel", "", false);
    assert!(scene.add_with_faults("fail") > 15);
    assert!(scene.add_with_faults("kill") > 15);
}

#[test]
#[ignore = "needs netns"]
fn del_fails_or_is_killed_at_any_step() {
    for (program, steps) in [("bridge", 5), ("flannel", 8)] {
        let scene = Scene::new(program, "", false);
        assert!(scene.del_with_faults("fail") > steps, "{program}");
        assert!(scene.del_with_faults("kill") > steps, "{program}");
    }
}

/// bandwidth is chained after bridge and works on its pair; both are deleted in the end.
#[test]
#[ignore = "needs netns"]
fn bandwidth_fails_or_is_killed_at_any_step() {
    let limits = r#""ingressRate":2000000,"ingressBurst":800000,"egressRate":1000000,"egressBurst":80000"#;
    let mut scene = Scene::new("bridge", "", false);
    let bridge = scene.config.clone();
    for (kind, least) in [("fail", 8), ("lose", 5), ("kill", 8)] {
        for at in 1.. {
            (scene.program, scene.config) = ("bridge", bridge.clone());
            let added = scene.call("ADD", "a", &scene.pod, None);
            let result = Value::parse(added.stdout.as_bytes()).unwrap().to_compact();
            scene.program = "bandwidth";
            scene.config = format!(
                r#"{{"cniVersion":"0.4.0","name":"cbr0","type":"bandwidth",{limits},"prevResult":{result}}}"#
            );
            let limited = scene.call("ADD", "a", &scene.pod, Some(&format!("{kind}:{at}")));
            if limited.was_hit() && kind != "kill" {
                assert!(!limited.success, "{kind}:{at}: {limited:?}");
                let traces = scene.traces(true);
                assert!(
                    !["tbf", "ingress", "bwp"].iter().any(|word| traces.contains(word)),
                    "{kind}:{at} {traces}"
                );
            }
            if limited.was_hit() && at % 3 == 0 {
                for command in ["ADD", "CHECK"] {
                    let outcome = scene.call(command, "a", &scene.pod, None);
                    assert!(outcome.success, "{kind}:{at}: {outcome:?}");
                }
            }
            assert!(scene.call("DEL", "a", &scene.pod, None).success);
            (scene.program, scene.config) = ("bridge", bridge.clone());
            scene.assert_deleted(&format!("{kind}:{at}"));
            if !limited.was_hit() {
                assert!(limited.success && at > least, "{kind}:{at}: {limited:?}");
                break;
            }
        }
    }
}
