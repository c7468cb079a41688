//! Property tests: plugins respond to any input with a result or a JSON error, never with a panic. Inputs are configs on stdin,
//! results of delegates, `CNI_ARGS`, and the files that are kept between calls.

use flannel_core::host_local::Attachment;
use flannel_core::json::{Object, Value};
use proptest::collection::vec;
use proptest::prelude::*;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use crate::native::{bandwidth, bridge, host_local};
use crate::netconf::NetConf;
use crate::plugin::Outcome;
use crate::request::{Request, parse_config};
use crate::result::CniResult;
use crate::scratch::Scratch;
use crate::subnet_env::SubnetEnv;
use crate::version::Version;
use crate::{args, delegate, plugin_named};

/// Names with a meaning. Not those of directories, because tests use their own.
const NAMES: [&str; 58] = [
    "cniVersion",
    "name",
    "type",
    "capabilities",
    "prevResult",
    "runtimeConfig",
    "args",
    "cni",
    "dns",
    "ipam",
    "delegate",
    "cni.dev/attachments",
    "cni.dev/valid-attachments",
    "bridge",
    "isGateway",
    "isDefaultGateway",
    "forceAddress",
    "hairpinMode",
    "mtu",
    "promiscMode",
    "vlan",
    "vlanTrunk",
    "id",
    "minID",
    "maxID",
    "preserveDefaultVlan",
    "enabledad",
    "disableContainerInterface",
    "portIsolation",
    "ranges",
    "subnet",
    "rangeStart",
    "rangeEnd",
    "gateway",
    "routes",
    "dst",
    "gw",
    "ips",
    "ipRanges",
    "mac",
    "ingressRate",
    "ingressBurst",
    "egressRate",
    "egressBurst",
    "bandwidth",
    "interfaces",
    "address",
    "interface",
    "sandbox",
    "ip4",
    "ip6",
    "ip",
    "native",
    "nameservers",
    "servers",
    "containerID",
    "ifname",
    "Vlan",
];

/// Valid, nearly valid and invalid texts.
const TEXTS: [&str; 32] = [
    "",
    "1.0.0",
    "0.2.0",
    "1.1.0",
    "9.9",
    "bridge",
    "host-local",
    "flannel",
    "cbr0",
    "a/b",
    "..",
    "eth0",
    "cni0",
    "10.244.1.0/24",
    "10.244.1.7",
    "10.244.1.0/33",
    "10.0.0.0/31",
    "2001:db8::/64",
    "2001:db8::7/64",
    "::/0",
    "0.0.0.0/0",
    "::ffff:10.0.0.1",
    "::ffff:10.0.0.0/120",
    "01.2.3.4",
    "1.2.3.4/+8",
    "0a:00:00:00:00:01",
    "zz",
    "true",
    "\u{0}",
    "\u{fffd}é",
    "veryveryverylonginterfacename",
    "-1",
];

const NUMBERS: [&str; 14] = [
    "0",
    "1",
    "-1",
    "1.5",
    "1e400",
    "4094",
    "4095",
    "65536",
    "4294967295",
    "34359738368",
    "9223372036854775808",
    "18446744073709551615",
    "99999999999999999999999",
    "2.0",
];

fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|flag| flag.to_string()),
        proptest::sample::select(&NUMBERS[..]).prop_map(str::to_owned),
        proptest::sample::select(&TEXTS[..]).prop_map(|text| Value::from(text).to_compact()),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|list| format!("[{}]", list.join(","))),
            vec((name(), inner), 0..8).prop_map(|members| {
                let members: Vec<_> =
                    members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

fn name() -> impl Strategy<Value = String> {
    (proptest::sample::select(&NAMES[..]), 0..6u8).prop_map(|(name, style)| match style {
        0 => name.to_uppercase(),
        1 => name.to_lowercase(),
        _ => name.to_owned(),
    })
}

/// Members of an object.
fn members() -> impl Strategy<Value = Object> {
    vec((name(), json_text()), 0..10).prop_map(|members| {
        members
            .into_iter()
            .filter_map(|(name, text)| Some((name, Value::parse(text.as_bytes()).ok()?)))
            .collect()
    })
}

/// A valid text with some bytes changed, removed or added.
fn damaged(good: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<prop::sample::Index>(), 0..4u8, any::<u8>()), 0..6);
    (proptest::sample::select(good), changes).prop_map(|(good, changes)| {
        let mut bytes = good.as_bytes().to_vec();
        for (at, kind, byte) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, byte),
                _ => bytes.truncate(at),
            }
        }
        bytes
    })
}

const CONFIGS: [&str; 4] = [
    r#"{"cniVersion":"1.0.0","name":"cbr0","type":"flannel","subnetFile":"/x","delegate":{"hairpinMode":true,"mtu":1450},"ipam":{"routes":[{"dst":"10.0.0.0/8","gw":"10.1.1.1"}]},"runtimeConfig":{"portMappings":[{"hostPort":1}]}}"#,
    r#"{"cniVersion":"0.3.1","name":"cbr0","type":"bridge","vlan":7,"vlanTrunk":[{"minID":2,"maxID":9},{"id":3}],"dns":{"nameservers":["1.1.1.1"]},"ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.1.0/24","rangeStart":"10.244.1.9"}],[{"subnet":"2001:db8::/64"}]]}}"#,
    r#"{"cniVersion":"0.4.0","name":"cbr0","type":"bandwidth","runtimeConfig":{"bandwidth":{"ingressRate":1000000,"ingressBurst":4294967295}}}"#,
    r#"{"cniVersion":"1.1.0","name":"cbr0","type":"host-local","cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}],"args":{"cni":{"ips":["10.1.2.3/24"]}}}"#,
];

const RESULTS: [&str; 3] = [
    r#"{"cniVersion":"1.0.0","interfaces":[{"name":"cni0","mac":"0e:ed:59:6c:8e:99"},{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.244.1.2/24","gateway":"10.244.1.1","interface":1}],"routes":[{"dst":"0.0.0.0/0","gw":"10.244.1.1"}]}"#,
    r#"{"cniVersion":"0.3.1","ips":[{"version":"6","address":"2001:db8::2/64"}],"dns":{"search":["a"]}}"#,
    r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.1.2.3/24","gateway":"10.1.2.1","routes":[{"dst":"0.0.0.0/0"}]}}"#,
];

const ENVS: [&str; 2] = [
    "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
    "FLANNEL_IPV6_NETWORK=2001:cafe:42::/56\r\nFLANNEL_IPV6_SUBNET=2001:cafe:42:1::1/64\r\nFLANNEL_MTU=1\r\nFLANNEL_IPMASQ=\r\n",
];

const ARGS: [&str; 2] = ["IgnoreUnknown=1;K8S_POD_NAME=x;IP=10.1.2.3;MAC=0a:00:00:00:00:01", "IP=10.1.2.3"];

/// Runs an operation whose environment and directory do not affect the host.
fn run(program: &str, command: &str, mut config: Object, args: &str, directory: &Path) -> Outcome {
    let path = |name: &str| directory.join(name).display().to_string();
    let text = |object: &Object, name: &str| {
        object.field(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    // A unique network.
    let name = format!("fuzz{}", text(&config, "name"));
    let ipam = config.field("ipam").cloned();
    let forced = |key: &str| matches!(key.to_lowercase().as_str(), "name" | "ipam");
    config = config
        .iter()
        .filter(|(key, _)| !forced(key))
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect();
    config.insert("name", name);
    config.insert("dataDir", path(if program == "flannel" { "saved" } else { "addresses" }));
    config.insert("subnetFile", path("subnet.env"));
    config.insert("subnetFileTimeoutSeconds", 0u32);
    let mut ipam = match ipam {
        Some(Value::Object(ipam)) => ipam,
        _ => Object::new(),
    };
    ipam.insert("dataDir", path("addresses"));
    config.insert("ipam", ipam);
    let environment = [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "fuzz"),
        ("CNI_NETNS", "/nowhere/pod"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", args),
        ("CNI_PATH", "/nowhere"),
    ];
    let lookup =
        |name: &str| environment.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
    plugin_named(program).run(lookup, Value::Object(config).to_compact().as_bytes())
}

/// Success prints nothing or a result; failure prints an error with a code and a text.
fn check_answer(outcome: &Outcome) -> Result<(), TestCaseError> {
    if outcome.success {
        if !outcome.stdout.is_empty() {
            let value = Value::parse(outcome.stdout.as_bytes());
            prop_assert!(matches!(value, Ok(Value::Object(_))), "{}", outcome.stdout);
        }
        return Ok(());
    }
    let Ok(Value::Object(error)) = Value::parse(outcome.stdout.as_bytes()) else {
        return Err(TestCaseError::fail(format!("no JSON object: {:?}", outcome.stdout)));
    };
    prop_assert!(matches!(error.get("code"), Some(Value::Number(_))), "{}", outcome.stdout);
    let msg = error.get("msg").and_then(Value::as_str).unwrap_or_default();
    prop_assert!(!msg.is_empty(), "{}", outcome.stdout);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_config_gets_a_result_or_an_error(
        config in members(),
        program in proptest::sample::select(&["flannel", "bridge", "host-local", "loopback", "bandwidth"][..]),
        command in proptest::sample::select(&["ADD", "CHECK", "STATUS", "DEL"][..]),
        args in damaged(&ARGS),
        env in damaged(&ENVS),
    ) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("subnet.env"), env).unwrap();
        let args = String::from_utf8_lossy(&args);
        check_answer(&run(program, command, config, &args, directory.path()))?;
    }

    #[test]
    fn damaged_configs_are_parsed_or_rejected(bytes in damaged(&CONFIGS), args in damaged(&ARGS)) {
        let args = String::from_utf8_lossy(&args);
        let Ok(config) = parse_config(&bytes) else { return Ok(()) };
        let (lenient, _) = NetConf::parse_leniently(&config);
        let env = SubnetEnv::parse(ENVS[0], Path::new("x")).unwrap();
        if let Ok(conf) = NetConf::parse(&config) {
            prop_assert_eq!(&conf.name, &lenient.name);
            if let Ok(delegate) = delegate::netconf(&conf, &env) {
                // A saved config parses to the same config.
                let text = Value::Object(delegate).to_compact();
                prop_assert_eq!(Value::parse(text.as_bytes()).unwrap().to_compact(), text);
            }
        }
        let _ = delegate::netconf_for_cleaning(&lenient, None);
        let _ = bandwidth::Config::parse(&config);
        let request = Request { config, ..Request::sample(r#"{"name":"n"}"#, "a", &args) };
        let _ = bridge::Config::parse(&request).map(|config| config.check_conflicts(request.version));
        let _ = host_local::Config::parse(&request);
    }

    #[test]
    fn damaged_results_are_parsed_or_rejected(bytes in damaged(&RESULTS)) {
        if let Ok(result) = CniResult::parse(&bytes, "1.0.0") {
            for version in Version::ALL {
                let _ = result.to_value(version).map(|value| value.to_pretty());
            }
            // A printed result parses to the same result.
            let printed = result.to_value(Version::NEWEST).unwrap().to_compact();
            prop_assert_eq!(CniResult::parse(printed.as_bytes(), "").unwrap(), normal(result));
        }
        if let Ok(Value::Object(object)) = Value::parse(&bytes) {
            for version in Version::ALL {
                let _ = CniResult::from_prev_result(&object, version);
            }
        }
    }

    #[test]
    fn any_subnet_env_is_parsed_or_rejected(bytes in damaged(&ENVS)) {
        let _ = SubnetEnv::parse(&String::from_utf8_lossy(&bytes), Path::new("x")).map_err(|error| error.to_string());
    }

    #[test]
    fn any_args_are_parsed_or_rejected(text in "[A-Z;=a-z01 é]{0,20}", key in "[A-Z]{1,3}") {
        if let Ok(Some(value)) = args::value(&text, &key) {
            let pair = format!("{key}={value}");
            prop_assert!(text.contains(&pair));
        }
    }

    /// Whatever the directory contains: an address is allocated to one container only, and DEL only releases its own.
    #[test]
    fn any_address_files_are_tolerated(
        files in vec((file_name(), content()), 0..12),
        cursor in "(10\\.1\\.2\\.[0-9]\n?|[a-z0-9.]{0,8})",
    ) {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("net");
        fs::create_dir(&store).unwrap();
        for (name, content) in &files {
            fs::write(store.join(name), content).unwrap();
        }
        fs::write(store.join("last_reserved_ip.0"), cursor).unwrap();
        let listed = |wanted: &dyn Fn(&str, &str) -> bool| -> Vec<String> {
            let names = fs::read_dir(&store).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.filter(|name| {
                wanted(name, &String::from_utf8_lossy(&fs::read(store.join(name)).unwrap_or_default()))
            }).collect();
            names.sort();
            names
        };
        let others = |name: &str, text: &str| {
            !matches!(name, "lock" | "last_reserved_ip.0") && text.trim() != "c\r\neth0" && text.trim() != "c"
        };
        let before = listed(&others);
        let root = directory.path().display();
        let config = format!(
            r#"{{"cniVersion":"1.0.0","name":"net","ipam":{{"type":"host-local","dataDir":"{root}","subnet":"10.1.2.0/29"}}}}"#
        );
        let mut request = Request::sample(&config, "c", "");
        request.environment.netns = "/nowhere".into();
        let config = host_local::Config::parse(&request).unwrap();
        if let Ok(result) = host_local::add(&config, &request.environment) {
            let ip = result.ips[0].address.addr().to_string();
            prop_assert!(!files.iter().any(|(name, _)| *name == ip), "{}", ip);
            prop_assert!(host_local::check(&request).is_ok());
        }
        // Files in the old form, of the container alone, are only removed if it has no others: by the second DEL.
        for _ in 0..2 {
            prop_assert!(host_local::del(&request).is_ok());
        }
        prop_assert_eq!(listed(&others), before);
        prop_assert!(host_local::check(&request).is_err());
        prop_assert!(host_local::gc(&request).is_ok());
    }

    #[test]
    fn any_saved_configs_are_tolerated(files in vec(("[ab]{1,2}(\\.[ab]{1,2})?|\\.tmp-a\\.a", damaged(&CONFIGS)), 0..6)) {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in &files {
            fs::write(directory.path().join(name), content).unwrap();
        }
        let scratch = Scratch::new(directory.path());
        let attachment = Attachment { container_id: "a".to_owned(), ifname: "b".to_owned() };
        let before = scratch.entries(|_| true).unwrap();
        let _ = scratch.load(&attachment).unwrap();
        scratch.remove(&attachment).unwrap();
        scratch.remove_stale().unwrap();
        let foreign = |name: &str| name != "a" && name != "a.b";
        let kept: Vec<_> = scratch.entries(|_| true).unwrap().into_iter().filter(|entry| foreign(&entry.file_name)).collect();
        let expected: Vec<_> = before.into_iter().filter(|entry| foreign(&entry.file_name)).collect();
        prop_assert_eq!(kept, expected);
        prop_assert!(!directory.path().join("a.b").exists());
        let mut config: Object = [("name", "fuzz")].into_iter().collect();
        config.insert("cniVersion", "1.1.0");
        check_answer(&run("flannel", "DEL", config, "", directory.path()))?;
    }
}

fn file_name() -> impl Strategy<Value = String> {
    "10\\.1\\.2\\.[0-9]|2001:db8::[1-3]|10\\.1\\.2\\.0[1-9]|[a-z]{1,4}|last_reserved_ip\\.[1-9]"
        .prop_filter("not the lock", |name| name != "lock")
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        "[cd](\r\neth[01])?\n?".prop_map(String::into_bytes),
        vec(any::<u8>(), 0..24),
    ]
}

/// Returns a result as it is after printing: an empty list is absent.
fn normal(mut result: CniResult) -> CniResult {
    for list in [&mut result.dns.nameservers, &mut result.dns.search, &mut result.dns.options] {
        *list = list.take().filter(|list| !list.is_empty());
    }
    result
}
