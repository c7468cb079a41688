//! The plugin as a process with stub delegates, as runtimes see it.

use flannel_core::json::Value;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const ENV_V4: &str =
    "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
const STOCK_DELEGATE: &str = r#"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#;
const RESULT: &str =
    r#"{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.244.1.2/24"}],"dns":{},"unknown":1}"#;

struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Outcome {
    fn succeeded(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Returns code and text of the error object.
    fn error(&self) -> (u32, String) {
        assert_eq!(self.code, 1, "{}", self.stderr);
        let value = Value::parse(self.stdout.as_bytes()).unwrap();
        let object = value.as_object().unwrap();
        let Some(Value::Number(code)) = object.get("code") else { panic!("{}", self.stdout) };
        let text = |name| object.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let details = text("details");
        let separator = if details.is_empty() { "" } else { "; " };
        (code.to_string().parse().unwrap(), format!("{}{separator}{details}", text("msg")))
    }
}

/// A directory with stub delegates that log how they were called, and the files of a node.
struct Node {
    directory: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(node.path("bin")).unwrap();
        node.write("subnet.env", ENV_V4);
        node.stub("bridge", &format!("[ $CNI_COMMAND != ADD ] || echo '{RESULT}'"));
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Creates a delegate that appends its command, ids and stdin to `calls`, then runs `script`.
    fn stub(&self, name: &str, script: &str) {
        let calls = self.path("calls");
        let calls = calls.display();
        let text = format!(
            "#!/bin/sh\nstdin=$(cat)\n\
             echo \"$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_NETNS $stdin\" >>{calls}\n{script}\n"
        );
        let path = self.path(&format!("bin/{name}"));
        // Renamed into place, because a program that was just open for writing may still be busy.
        let temporary = self.path("stub.tmp");
        fs::write(&temporary, text).unwrap();
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&temporary, path).unwrap();
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("calls"));
        text.lines().map(str::to_owned).collect()
    }

    /// Returns the commands and IDs of the calls.
    fn commands(&self) -> Vec<String> {
        self.calls().iter().map(|call| call.split(' ').take(3).collect::<Vec<_>>().join(" ")).collect()
    }

    fn config(&self, members: &str) -> String {
        let [env, data] = ["subnet.env", "data"].map(|name| self.path(name));
        format!(
            r#"{{"name":"cbr0","type":"flannel","subnetFile":"{}","dataDir":"{}","native":false,"subnetFileTimeoutSeconds":0{members}}}"#,
            env.display(),
            data.display()
        )
    }

    fn stock(&self) -> String {
        self.config(r#","cniVersion":"0.3.1","delegate":{"hairpinMode":true,"isDefaultGateway":true}"#)
    }

    fn run_for(&self, command: &str, ifname: &str, config: &str) -> Outcome {
        let bin = self.path("bin");
        let vars = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "cid1"),
            ("CNI_NETNS", "/nowhere/pod1"),
            ("CNI_IFNAME", ifname),
            ("CNI_PATH", bin.to_str().unwrap()),
        ];
        run(&vars, config)
    }

    fn run(&self, command: &str, config: &str) -> Outcome {
        self.run_for(command, "eth0", config)
    }

    fn state(&self) -> Vec<String> {
        let Ok(listing) = fs::read_dir(self.path("data")) else { return Vec::new() };
        let mut names: Vec<_> =
            listing.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn run(vars: &[(&str, &str)], stdin: &str) -> Outcome {
    let mut child = Command::new(crate::support::plugin())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .envs(vars.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The plugin may exit without reading.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    Outcome {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn a_call_without_command_prints_the_versions() {
    let outcome = run(&[], "");
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""));
    let versions = "CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n";
    assert!(outcome.stderr.ends_with(versions), "{}", outcome.stderr);
}

#[test]
fn version_needs_no_other_variable() {
    let versions = r#"["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]"#;
    let expected = format!("{{\"cniVersion\":\"1.1.0\",\"supportedVersions\":{versions}}}\n");
    assert_eq!(run(&[("CNI_COMMAND", "VERSION")], "not json").succeeded(), expected);
}

#[test]
fn errors_of_dispatch_come_in_order() {
    let all = [
        ("CNI_CONTAINERID", "cid1"),
        ("CNI_NETNS", "/nowhere"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/nowhere"),
    ];
    let with = |command: &'static str| {
        let mut vars = all.to_vec();
        vars.push(("CNI_COMMAND", command));
        vars
    };
    let missing = "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing";
    assert_eq!(run(&[("CNI_COMMAND", "ADD")], "x").error(), (4, missing.to_owned()));
    for (command, stdin, code, text) in [
        ("FOO", "x", 6, "error unmarshall network config: expected value at line 1 column 1"),
        ("FOO", "{}", 7, "missing network name"),
        ("FOO", r#"{"name":"a b"}"#, 7, "invalid characters found in network name; a b"),
        ("FOO", r#"{"name":"a","cniVersion":"9.9.9"}"#, 4, "unknown CNI_COMMAND: FOO"),
        (
            "ADD",
            r#"{"name":"a","cniVersion":"9.9.9"}"#,
            1,
            r#"incompatible CNI versions; config is "9.9.9", plugin supports ["0.1.0" "0.2.0" "0.3.0" "0.3.1" "0.4.0" "1.0.0" "1.1.0"]"#,
        ),
        ("CHECK", r#"{"name":"a","cniVersion":"0.3.1"}"#, 1, "config version does not allow CHECK"),
        ("CHECK", r#"{"name":"a","cniVersion":"9.9.9"}"#, 1, "plugin version does not allow CHECK"),
        ("GC", r#"{"name":"a","cniVersion":"1.0.0"}"#, 1, "config version does not allow GC"),
        ("STATUS", r#"{"name":"a","cniVersion":"1.0.0"}"#, 1, "config version does not allow STATUS"),
    ] {
        assert_eq!(run(&with(command), stdin).error(), (code, text.to_owned()), "{command} {stdin}");
    }
    let outcome = run(&with("FOO"), "{}");
    assert_eq!(outcome.stdout, "{\n    \"code\": 7,\n    \"msg\": \"missing network name\"\n}");
}

#[test]
fn the_namespace_of_the_plugin_is_refused_first() {
    for command in ["ADD", "DEL"] {
        let node = Node::new();
        let bin = node.path("bin");
        let mut vars = vec![
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "cid1"),
            ("CNI_NETNS", "/proc/self/ns/net"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", bin.to_str().unwrap()),
        ];
        let text = "plugin's netns and netns from CNI_NETNS should not be the same";
        assert_eq!(run(&vars, &node.stock()).error(), (8, text.to_owned()));
        assert_eq!((node.calls(), node.state()), (vec![], vec![]));
        vars.push(("CNI_NETNS_OVERRIDE", "true"));
        run(&vars, &node.stock()).succeeded();
    }
}

#[test]
fn add_saves_and_sends_the_same_bytes() {
    let node = Node::new();
    let outcome = node.run("ADD", &node.stock());
    assert!(
        outcome.stderr.contains(&format!("delegateAdd: netconf sent to delegate plugin:\n{STOCK_DELEGATE}")),
        "{}",
        outcome.stderr
    );
    assert_eq!(
        outcome.succeeded(),
        "{\n    \"cniVersion\": \"0.3.1\",\n    \"ips\": [\n        {\n            \"version\": \"4\",\n            \
         \"address\": \"10.244.1.2/24\"\n        }\n    ],\n    \"dns\": {}\n}"
    );
    assert_eq!(node.calls(), [format!("ADD cid1 eth0 /nowhere/pod1 {STOCK_DELEGATE}")]);
    assert_eq!(node.state(), ["cid1", "cid1.eth0"]);
    for name in ["data/cid1", "data/cid1.eth0"] {
        assert_eq!(fs::read_to_string(node.path(name)).unwrap(), STOCK_DELEGATE);
    }
    assert_eq!(node.run("DEL", &node.stock()).succeeded(), "");
    assert_eq!(node.calls(), [format!("DEL cid1 eth0 /nowhere/pod1 {STOCK_DELEGATE}")]);
    assert_eq!(node.state(), [""; 0]);
}

#[test]
fn the_result_has_the_version_of_the_config() {
    let node = Node::new();
    for (conf, answer, version) in [
        (r#","cniVersion":"1.0.0""#, RESULT, "1.0.0"),
        (r#","cniVersion":"0.2.0""#, RESULT, "0.2.0"),
        ("", RESULT, "0.1.0"),
        // The delegate's own version is used if the outer config has none.
        (r#","delegate":{"cniVersion":"1.0.0"}"#, r#"{"ips":[{"address":"10.244.1.2/24"}]}"#, "1.0.0"),
        (r#","cniVersion":"0.4.0""#, "null", "0.4.0"),
    ] {
        node.stub("bridge", &format!("[ $CNI_COMMAND != ADD ] || echo '{answer}'"));
        let result = node.run("ADD", &node.config(conf)).succeeded();
        let value = Value::parse(result.as_bytes()).unwrap();
        assert_eq!(value.as_object().unwrap().get("cniVersion"), Some(&Value::from(version)), "{conf}");
    }
}

#[test]
fn errors_of_the_delegate_pass_through() {
    let node = Node::new();
    for (script, code, text) in [
        (r#"echo '{"code":11,"msg":"later","details":"soon"}'; exit 1"#, 11, "later; soon"),
        ("exit 1", 0, "netplugin failed with no error message: exit status 1"),
        ("echo oops >&2; exit 1", 0, "netplugin failed: \"oops\\n\""),
        (
            "echo oops; exit 1",
            0,
            "netplugin failed but error parsing its diagnostic message \"oops\\n\": \
             expected value at line 1 column 1",
        ),
        (
            "exit 0",
            999,
            "failed to delegate add: failed to unmarshal raw result: EOF while parsing a value at line 1 column 0",
        ),
        (
            r#"echo '{"cniVersion":"2.0.0"}'"#,
            999,
            "failed to delegate add: unsupported CNI result version \"2.0.0\"",
        ),
    ] {
        node.stub("bridge", script);
        assert_eq!(node.run("ADD", &node.stock()).error(), (code, text.to_owned()), "{script}");
        // The partial ADD is undone, and the runtime's DEL finds the saved config.
        assert_eq!(node.commands(), ["ADD cid1 eth0", "DEL cid1 eth0"]);
        assert_eq!(node.state(), ["cid1", "cid1.eth0"]);
    }
}

#[test]
fn a_missing_delegate_is_named() {
    let node = Node::new();
    let bin = node.path("bin");
    for (kind, reason) in [
        ("zzz", format!("failed to find plugin \"zzz\" in path [{}]", bin.display())),
        ("", "no plugin name provided".to_owned()),
        ("a/b", "invalid plugin name: a/b".to_owned()),
    ] {
        let config = node.config(&format!(r#","delegate":{{"type":"{kind}"}}"#));
        assert_eq!(node.run("ADD", &config).error(), (999, format!("failed to delegate add: {reason}")));
    }
}

#[test]
fn invalid_configs_fail_add_but_not_del() {
    let node = Node::new();
    let config = node.config(r#","delegate":"x""#);
    let text = "failed to load flannel netconf file: failed to load netconf: json: cannot unmarshal string into Go \
                struct field NetConf.delegate of type map[string]interface {}; NetConf.delegate must be an object: { ... }";
    assert_eq!(node.run("ADD", &config).error(), (999, text.to_owned()));
    assert_eq!(node.commands(), [""; 0]);
    node.run("DEL", &config).succeeded();
    assert_eq!(node.commands(), ["DEL cid1 eth0"]);
}

#[test]
fn without_subnet_env_add_fails_with_try_again() {
    let node = Node::new();
    fs::remove_file(node.path("subnet.env")).unwrap();
    let path = node.path("subnet.env");
    let text = format!(
        "failed to load flannel 'subnet.env' file: open {}: no such file or directory. \
         Check the flannel pod log for this node.",
        path.display()
    );
    assert_eq!(node.run("ADD", &node.stock()).error(), (11, text.clone()));
    let status = node.config(r#","cniVersion":"1.1.0""#);
    assert_eq!(node.run("STATUS", &status).error(), (50, text));
    node.write("subnet.env", "FLANNEL_MTU=1450\n");
    let text = format!(
        "failed to load flannel 'subnet.env' file: {} is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, \
         FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_IPMASQ. Check the flannel pod log for this node.",
        path.display()
    );
    assert_eq!(node.run("ADD", &node.stock()).error(), (999, text.clone()));
    assert_eq!(node.run("STATUS", &status).error(), (50, text));
    assert_eq!((node.calls(), node.state()), (vec![], vec![]));
    // A DEL after such an ADD has nothing to do and logs that.
    node.run("DEL", &node.stock()).succeeded();
}

#[test]
fn add_waits_for_subnet_env() {
    let node = Node::new();
    let (path, later) = (node.path("subnet.env"), node.path("later"));
    fs::rename(&path, &later).unwrap();
    let config = node.stock().replace(r#""subnetFileTimeoutSeconds":0"#, r#""subnetFileTimeoutSeconds":60"#);
    std::thread::scope(|scope| {
        let add = scope.spawn(|| node.run("ADD", &config));
        fs::rename(&later, &path).unwrap();
        add.join().unwrap().succeeded();
    });
}

#[test]
fn a_failed_del_can_be_repeated() {
    let node = Node::new();
    node.run("ADD", &node.stock()).succeeded();
    node.stub("bridge", r#"echo '{"code":999,"msg":"link not found","details":"not found"}'; exit 1"#);
    let error = node.run("DEL", &node.stock()).error();
    assert_eq!(error, (999, "link missing; missing".to_owned()), "containerd would swallow the other words");
    assert_eq!(node.state(), ["cid1", "cid1.eth0"]);
    node.stub("bridge", "");
    node.calls();
    node.run("DEL", &node.stock()).succeeded();
    assert_eq!(node.calls(), [format!("DEL cid1 eth0 /nowhere/pod1 {STOCK_DELEGATE}")]);
    assert_eq!(node.state(), [""; 0]);
}

#[test]
fn lost_and_invalid_state_is_rebuilt() {
    let node = Node::new();
    for broken in [None, Some(""), Some("{"), Some("[]"), Some(r#"{"ipam":{"type":1}}"#)] {
        if let Some(text) = broken {
            fs::create_dir_all(node.path("data")).unwrap();
            node.write("data/cid1", text);
        }
        node.run("DEL", &node.stock()).succeeded();
        let call = format!("DEL cid1 eth0 /nowhere/pod1 {STOCK_DELEGATE}");
        assert_eq!(node.calls(), [call], "{broken:?}");
        assert_eq!(node.state(), [""; 0]);
    }
    fs::remove_file(node.path("subnet.env")).unwrap();
    node.run("DEL", &node.stock()).succeeded();
    let [call] = &node.calls()[..] else { panic!("one call") };
    assert!(call.contains(r#""ipMasq":true,"ipam":{"ranges":[[{"subnet":"192.0.2.0/24"}]]"#), "{call}");
    // A delegate that is not installed has created nothing.
    fs::remove_file(node.path("bin/bridge")).unwrap();
    node.run("DEL", &node.stock()).succeeded();
}

#[test]
fn state_of_go_flannel_is_used_as_it_is() {
    let node = Node::new();
    fs::create_dir(node.path("data")).unwrap();
    let old = r#"{"ipam":{"subnet":"10.244.1.0/24","type":"host-local"},"name":"cbr0","type":"bridge"}"#;
    node.write("data/cid1", old);
    node.run("DEL", &node.stock()).succeeded();
    assert_eq!(node.calls(), [format!("DEL cid1 eth0 /nowhere/pod1 {old}")]);
    assert_eq!(node.state(), [""; 0]);
}

#[test]
fn two_networks_of_a_container_are_both_undone() {
    let node = Node::new();
    let second = node.stock().replace("cbr0", "second");
    node.run_for("ADD", "eth0", &node.stock()).succeeded();
    node.run_for("ADD", "net1", &second).succeeded();
    node.calls();
    node.run_for("DEL", "net1", &second).succeeded();
    node.run_for("DEL", "eth0", &node.stock()).succeeded();
    let of_second = STOCK_DELEGATE.replace("cbr0", "second");
    assert_eq!(
        node.calls(),
        [
            format!("DEL cid1 net1 /nowhere/pod1 {of_second}"),
            format!("DEL cid1 eth0 /nowhere/pod1 {STOCK_DELEGATE}")
        ]
    );
    assert_eq!(node.state(), [""; 0]);

    // Go flannel has one file for both: that of the second network.
    fs::create_dir_all(node.path("data")).unwrap();
    node.write("data/cid1", &of_second);
    node.run_for("DEL", "eth0", &node.stock()).succeeded();
    node.run_for("DEL", "net1", &second).succeeded();
    assert_eq!(
        node.calls(),
        [
            format!("DEL cid1 eth0 /nowhere/pod1 {of_second}"),
            format!("DEL cid1 eth0 /nowhere/pod1 {STOCK_DELEGATE}"),
            format!("DEL cid1 net1 /nowhere/pod1 {of_second}")
        ]
    );
}

#[test]
fn del_accepts_an_empty_namespace() {
    let node = Node::new();
    node.run("ADD", &node.stock()).succeeded();
    let bin = node.path("bin");
    let vars = [
        ("CNI_COMMAND", "DEL"),
        ("CNI_CONTAINERID", "cid1"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", bin.to_str().unwrap()),
    ];
    run(&vars, &node.stock()).succeeded();
    assert_eq!(node.state(), [""; 0]);
}

#[test]
fn check_is_forwarded_with_the_result() {
    let node = Node::new();
    let config = node.config(r#","cniVersion":"0.4.0""#);
    node.run("ADD", &config).succeeded();
    node.calls();
    let error = node.run("CHECK", &config).error();
    assert_eq!((error.0, error.1.starts_with("required prevResult missing")), (7, true));
    let with_result = node.config(r#","cniVersion":"1.0.0","prevResult":{"cniVersion":"1.0.0","ips":[]}"#);
    assert_eq!(node.run("CHECK", &with_result).succeeded(), "");
    let [call] = &node.calls()[..] else { panic!("one call") };
    assert!(
        call.starts_with(r#"CHECK cid1 eth0 /nowhere/pod1 {"cniVersion":"1.0.0","ipMasq":false"#),
        "{call}"
    );
    assert!(call.contains(r#""prevResult":{"cniVersion":"1.0.0","ips":[]},"type":"bridge"}"#), "{call}");
    node.stub("bridge", r#"echo '{"code":999,"msg":"changed"}'; exit 1"#);
    assert_eq!(node.run("CHECK", &with_result).error(), (999, "changed".to_owned()));
}

#[test]
fn status_is_forwarded() {
    let node = Node::new();
    let config = node.config(r#","cniVersion":"1.1.0""#);
    assert_eq!(node.run("STATUS", &config).succeeded(), "");
    assert_eq!(node.commands(), ["STATUS cid1 eth0"]);
    node.stub("bridge", r#"echo '{"code":51,"msg":"limited"}'; exit 1"#);
    assert_eq!(node.run("STATUS", &config).error(), (51, "limited".to_owned()));
}

#[test]
fn gc_removes_what_is_stale_of_this_network_only() {
    let node = Node::new();
    fs::create_dir(node.path("data")).unwrap();
    let other = STOCK_DELEGATE.replace("cbr0", "other");
    for (name, text) in [
        ("dead", STOCK_DELEGATE),
        ("dead.net1", STOCK_DELEGATE),
        ("alive", STOCK_DELEGATE),
        ("alive.eth0", STOCK_DELEGATE),
        ("alive.net1", STOCK_DELEGATE),
        ("old", STOCK_DELEGATE),
        ("foreign", &other),
        ("broken", "{"),
    ] {
        node.write(&format!("data/{name}"), text);
    }
    let before = node.state();
    node.run("GC", &node.config(r#","cniVersion":"1.1.0""#)).succeeded();
    assert_eq!((node.state(), node.calls()), (before, vec![]), "no list, no change");

    let list =
        r#","cniVersion":"1.1.0","cni.dev/valid-attachments":[{"containerID":"alive","ifname":"eth0"}]"#;
    assert_eq!(node.run("GC", &node.config(list)).succeeded(), "");
    assert_eq!(node.state(), ["alive", "alive.eth0", "broken", "foreign"]);
    let calls = node.calls();
    let commands: Vec<_> = calls.iter().map(|call| call.split(" {").next().unwrap()).collect();
    assert_eq!(
        commands,
        [
            "DEL alive net1 ",
            "DEL alive.net1 eth0 ",
            "DEL dead net1 ",
            "DEL dead.net1 eth0 ",
            "DEL old eth0 ",
            "GC cid1 eth0 /nowhere/pod1"
        ]
    );
    let forwarded = calls.last().unwrap();
    assert!(
        forwarded.contains(r#""cni.dev/valid-attachments":[{"containerID":"alive","ifname":"eth0"}]"#),
        "{forwarded}"
    );
}

#[test]
fn gc_goes_on_after_an_error_and_keeps_what_failed() {
    let node = Node::new();
    fs::create_dir(node.path("data")).unwrap();
    for name in ["a", "b", "c"] {
        node.write(&format!("data/{name}"), STOCK_DELEGATE);
    }
    node.stub("bridge", r#"[ $CNI_CONTAINERID != b ] || { echo '{"code":999,"msg":"stuck"}'; exit 1; }"#);
    let config = node.config(r#","cniVersion":"1.1.0","cni.dev/attachments":null"#);
    assert_eq!(node.run("GC", &config).error(), (999, "stuck".to_owned()));
    assert_eq!(node.state(), ["b"]);
}

#[test]
fn runtime_config_passes_through_in_any_case() {
    let node = Node::new();
    for ports in [
        r#"{"portMappings":[{"HostPort":8080,"ContainerPort":80,"Protocol":"tcp","HostIP":""}]}"#,
        r#"{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}"#,
    ] {
        node.run("ADD", &node.config(&format!(r#","RuntimeConfig":{ports}"#))).succeeded();
        let [call] = &node.calls()[..] else { panic!("one call") };
        let sorted = Value::parse(ports.as_bytes()).unwrap().sorted().to_compact();
        assert!(call.contains(&format!(r#""runtimeConfig":{sorted}"#)), "{call}");
    }
}

#[test]
fn a_crlf_subnet_env_works() {
    let node = Node::new();
    node.write("subnet.env", &ENV_V4.replace('\n', "\r\n"));
    node.run("ADD", &node.stock()).succeeded();
    assert_eq!(fs::read_to_string(node.path("data/cid1")).unwrap(), STOCK_DELEGATE);
}

#[test]
fn empty_paths_are_errors() {
    let node = Node::new();
    let config = node.stock().replace(&format!("{}", node.path("data").display()), "");
    assert_eq!(node.run("ADD", &config).error(), (999, "mkdir : no such file or directory".to_owned()));
    let config = node.stock().replace(&format!("{}", node.path("subnet.env").display()), "");
    let (_, text) = node.run("ADD", &config).error();
    assert!(text.contains("open : no such file or directory"), "{text}");
    assert!(!Path::new("cid1").exists());
}
