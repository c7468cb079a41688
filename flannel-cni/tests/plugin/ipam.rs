//! bridge with address management by another plugin: Go's `static`, and a script that fails on request.

use flannel_core::json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::bridge::{Node, Plugins};
use crate::support::{Call, GO_PLUGINS, Netns};

const RESULT: &str = r#"{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.9.0.7/24"}],"routes":[{"dst":"10.8.0.0/16"}]}"#;

/// Installs an IPAM plugin that logs its commands and fails at that in the file `fail`.
fn install_script(node: &Node, result: &str) {
    let root = node.path("").display().to_string();
    let script = format!(
        "#!/bin/sh\ncat >{root}/$CNI_COMMAND.stdin\necho $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME >>{root}/calls\n\
         if [ \"$(cat {root}/fail 2>/dev/null)\" = $CNI_COMMAND ]; then\n\
         echo '{{\"code\":117,\"msg\":\"'$CNI_COMMAND' refused\",\"details\":\"by the test\"}}'; exit 1; fi\n\
         [ $CNI_COMMAND != ADD ] || echo '{result}'\n"
    );
    let path = node.path("bin/script");
    fs::write(node.path("script.tmp"), script).unwrap();
    fs::set_permissions(node.path("script.tmp"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(node.path("script.tmp"), path).unwrap();
}

/// Returns the calls of the script since the last time.
fn calls(node: &Node) -> Vec<String> {
    let text = fs::read_to_string(node.path("calls")).unwrap_or_default();
    let _ = fs::remove_file(node.path("calls"));
    text.lines().map(str::to_owned).collect()
}

fn config(version: &str, members: &str) -> String {
    format!(
        r#"{{"cniVersion":"{version}","name":"cbr0","type":"bridge","bridge":"br9","isDefaultGateway":true,
            "ipam":{{"type":"script","vendor":[1]}}{members}}}"#
    )
}

fn ports(node: &Node) -> String {
    node.netns.sh(&["ip", "-o", "link", "show", "type", "veth"])
}

#[test]
#[ignore = "needs netns"]
fn the_addresses_of_a_script_are_set_checked_and_released() {
    let (node, pod) = (Node::new(), Netns::new("pod"));
    install_script(&node, RESULT);
    let config = config("0.4.0", "");
    let result = node.run(Plugins::Flannel, "ADD", "a", &pod, &config).unwrap();
    let value = Value::parse(result.as_bytes()).unwrap();
    let text = value.to_compact();
    assert!(text.contains(r#""interface":2,"address":"10.9.0.7/24","gateway":"10.9.0.1""#), "{text}");
    assert!(text.contains(r#"[{"dst":"10.8.0.0/16"},{"dst":"0.0.0.0/0","gw":"10.9.0.1"}]"#), "{text}");
    pod.sh(&["ping", "-c1", "-W5", "10.9.0.1"]);
    // The plugin receives the complete config.
    let stdin = fs::read_to_string(node.path("ADD.stdin")).unwrap();
    assert!(stdin.contains(r#""bridge":"br9""#) && stdin.contains(r#""vendor":[1]"#), "{stdin}");
    let check = config.replacen('{', &format!(r#"{{"prevResult":{text},"#), 1);
    node.run(Plugins::Flannel, "CHECK", "a", &pod, &check).unwrap();
    node.run(Plugins::Flannel, "DEL", "a", &pod, &config).unwrap();
    // A second DEL, as runtimes send it, and one without a namespace.
    node.run(Plugins::Flannel, "DEL", "a", &pod, &config).unwrap();
    node.run_as(Plugins::Flannel, "bridge", "DEL", "a", "", &config).unwrap();
    assert_eq!(
        calls(&node),
        ["ADD a eth0", "CHECK a eth0", "DEL a eth0", "DEL a eth0", "DEL a eth0"].map(str::to_owned)
    );
    assert_eq!(ports(&node), "");
}

#[test]
#[ignore = "needs netns"]
fn status_and_gc_are_forwarded() {
    let (node, pod) = (Node::new(), Netns::new("pod"));
    install_script(&node, RESULT);
    let config = config("1.1.0", r#","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#);
    for command in ["STATUS", "GC"] {
        node.run(Plugins::Flannel, command, "", &pod, &config).unwrap();
        let stdin = fs::read_to_string(node.path(&format!("{command}.stdin"))).unwrap();
        assert!(stdin.contains(r#""containerID":"a""#), "{stdin}");
        fs::write(node.path("fail"), command).unwrap();
        let error = node.run(Plugins::Flannel, command, "", &pod, &config).unwrap_err();
        assert!(error.contains("\"code\": 117") && error.contains(" refused"), "{error}");
    }
}

/// The error of the plugin is reported unchanged, and nothing is left behind.
#[test]
#[ignore = "needs netns"]
fn a_failing_plugin_leaves_nothing() {
    let (node, pod) = (Node::new(), Netns::new("pod"));
    install_script(&node, RESULT);
    let config = config("0.4.0", "");
    let fail = |command: &str| fs::write(node.path("fail"), command).unwrap();
    let run = |command: &str, config: &str| node.run(Plugins::Flannel, command, "a", &pod, config);
    fail("ADD");
    let error = run("ADD", &config).unwrap_err();
    assert!(
        error.contains("\"code\": 117") && error.contains("ADD refused") && error.contains("by the test"),
        "{error}"
    );
    assert_eq!(calls(&node), ["ADD a eth0", "DEL a eth0"]);
    assert_eq!(ports(&node), "");
    fail("CHECK");
    let result = run("ADD", &config).unwrap();
    let check = config.replacen('{', &format!(r#"{{"prevResult":{result},"#), 1);
    assert!(run("CHECK", &check).unwrap_err().contains("CHECK refused"));
    // The interface is removed, and the next DEL releases the address.
    fail("DEL");
    assert!(run("DEL", &config).unwrap_err().contains("DEL refused"));
    assert_eq!(ports(&node), "");
    fail("");
    calls(&node);
    run("DEL", &config).unwrap();
    assert_eq!(calls(&node), ["DEL a eth0"]);
    // The last step of an ADD fails.
    node.netns.sh(&["ip", "addr", "add", "10.7.0.1/24", "dev", "br9"]);
    node.netns.sh(&["ip", "addr", "del", "10.9.0.1/24", "dev", "br9"]);
    let error = run("ADD", &config).unwrap_err();
    assert!(error.contains("already has an IP address different from 10.9.0.1/24"), "{error}");
    assert_eq!(calls(&node), ["ADD a eth0", "DEL a eth0"]);
    assert_eq!(ports(&node), "");
}

#[test]
#[ignore = "needs netns"]
fn unusable_plugins_are_named() {
    let (node, pod) = (Node::new(), Netns::new("pod"));
    for (result, problem) in [
        ("", "invalid result of script: failed to unmarshal raw result"),
        (r#"{"cniVersion":"0.4.0"}"#, "IPAM plugin returned missing IP config"),
        (r#"{"cniVersion":"0.4.0","ips":[{"address":"10.9.0.7"}]}"#, "invalid CIDR address: 10.9.0.7"),
    ] {
        install_script(&node, result);
        let error = node.run(Plugins::Flannel, "ADD", "a", &pod, &config("0.4.0", "")).unwrap_err();
        assert!(error.contains(problem), "{error}");
        assert_eq!(calls(&node), ["ADD a eth0", "DEL a eth0"]);
        assert_eq!(ports(&node), "");
    }
    for (plugin, problem) in [
        ("whereabouts", "failed to find plugin \\\"whereabouts\\\" in path ["),
        ("bridge", "does not allocate addresses"),
        ("../script", "invalid plugin name: ../script"),
    ] {
        let config = config("0.4.0", "").replace("\"script\"", &format!("{plugin:?}"));
        let error = node.run(Plugins::Flannel, "ADD", "a", &pod, &config).unwrap_err();
        assert!(error.contains(problem), "{error}");
        assert_eq!(ports(&node), "");
    }
}

/// A plugin may leave a process behind, which inherits open files.
#[test]
#[ignore = "needs netns"]
fn a_process_of_the_plugin_does_not_block_the_next_operation() {
    let (node, pod) = (Node::new(), Netns::new("pod"));
    install_script(&node, RESULT);
    let path = node.path("bin/script");
    let script = fs::read_to_string(&path).unwrap();
    fs::write(node.path("script.tmp"), script + "sleep 60 >/dev/null 2>&1 &\n").unwrap();
    fs::set_permissions(node.path("script.tmp"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(node.path("script.tmp"), path).unwrap();
    let config = config("0.4.0", r#","ipMasq":true"#);
    let start = std::time::Instant::now();
    for command in ["ADD", "DEL", "ADD", "DEL"] {
        node.run(Plugins::Flannel, command, "a", &pod, &config).unwrap();
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(30));
}

/// Go's bridge and this one with Go's `static`: each deletes what the other added.
#[test]
#[ignore = "needs netns"]
fn static_addresses_are_the_same_as_with_go() {
    let config = r#"{"cniVersion":"0.4.0","name":"net","type":"bridge","bridge":"br9","isGateway":true,"ipMasq":true,
        "ipMasqBackend":"iptables","ipam":{"type":"static","addresses":[{"address":"10.9.0.7/24","gateway":"10.9.0.1"},
        {"address":"fd09::7/64"}],"routes":[{"dst":"0.0.0.0/0"}]}}"#;
    let state = |first, second| {
        let (node, pod) = (Node::new(), Netns::new("pod"));
        symlink(format!("{GO_PLUGINS}/static"), node.path("bin/static")).unwrap();
        let result = node.run(first, "ADD", "a", &pod, config).unwrap();
        let check = config.replacen('{', &format!(r#"{{"prevResult":{result},"#), 1);
        node.run(second, "CHECK", "a", &pod, &check).unwrap();
        pod.sh(&["ping", "-c1", "-W5", "10.9.0.1"]);
        let state = [
            pod.sh(&["ip", "-4", "-o", "addr"]),
            pod.sh(&["ip", "route"]),
            node.netns.sh(&["iptables-save", "-t", "nat"]),
        ];
        node.run(second, "DEL", "a", &pod, config).unwrap();
        assert_eq!(ports(&node), "");
        assert!(!node.netns.sh(&["iptables-save", "-t", "nat"]).contains("10.9.0.7"));
        state.map(|text| text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n"))
    };
    let go = state(Plugins::Go, Plugins::Flannel);
    let own = state(Plugins::Flannel, Plugins::Go);
    assert_eq!(own[1..], go[1..]);
}

/// The delegate of flannel with another IPAM. Unknown keys are ignored.
#[test]
#[ignore = "needs netns"]
fn the_delegate_of_flannel_uses_another_plugin() {
    let (node, pod) = (Node::new(), Netns::new("pod"));
    symlink(crate::support::plugin(), node.path("bin/flannel")).unwrap();
    symlink(format!("{GO_PLUGINS}/static"), node.path("bin/static")).unwrap();
    let env =
        "FLANNEL_NETWORK=10.9.0.0/16\nFLANNEL_SUBNET=10.9.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    fs::write(node.path("subnet.env"), env).unwrap();
    let config = format!(
        r#"{{"cniVersion":"1.0.0","name":"cbr0","type":"flannel","subnetFile":"{0}/subnet.env","dataDir":"{0}/saved",
            "someKey":{{"a":1}},"delegate":{{"isDefaultGateway":true,"vendor":[1],"mac":"02:00:00:00:00:09"}},"ipam":{{"type":"static","addresses":[{{"address":"10.9.0.7/24"}}]}}}}"#,
        node.path("").display()
    );
    let bin = node.path("bin").display().to_string();
    let run = |command| {
        let call = Call {
            program: &format!("{bin}/flannel"),
            node: Some(&node.netns),
            command,
            id: "a",
            ifname: "eth0",
            netns: &pod.path(),
            args: "",
            path: &bin,
            config: &config,
        };
        call.run()
    };
    let result = run("ADD").unwrap();
    assert!(result.contains("10.9.0.7/24"), "{result}");
    assert!(pod.sh(&["ip", "-o", "link", "show", "dev", "eth0"]).contains("mtu 1450"));
    run("DEL").unwrap();
    assert_eq!(ports(&node), "");
}
