use super::*;

const V1: &str =
    "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";

fn parse(text: &str) -> Result<SubnetEnv, String> {
    SubnetEnv::parse(text, Path::new("/run/flannel/subnet.env")).map_err(|error| error.to_string())
}

#[test]
fn a_file_of_flanneld_is_parsed() {
    let env = parse(V1).unwrap();
    assert_eq!(env.networks, ["10.244.0.0/16".parse().unwrap()]);
    assert_eq!(env.subnets, DualStack { v4: Some("10.244.1.0/24".parse().unwrap()), v6: None });
    assert_eq!((env.mtu, env.ip_masq), (1450, true));
    assert_eq!(parse(&V1.replace('\n', "\r\n")).unwrap(), env, "CRLF");
    assert_eq!(parse(V1.trim_end()).unwrap(), env, "no last newline");
}

#[test]
fn only_true_is_true() {
    for value in ["TRUE", "1", "", "false", " true"] {
        let text = V1.replace("IPMASQ=true", &format!("IPMASQ={value}"));
        assert!(!parse(&text).unwrap().ip_masq, "{value:?}");
    }
}

#[test]
fn lists_are_masked_and_without_duplicates() {
    let text = V1.replace("10.244.0.0/16", "10.244.0.0/16,192.168.7.0/16,10.244.9.9/16,fd00::1/64");
    let networks: Vec<_> = parse(&text).unwrap().networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.244.0.0/16", "192.168.0.0/16", "fd00::/64"]);
    assert_eq!(
        parse(&V1.replace("10.244.0.0/16", "10.244.0.0/16, 10.5.0.0/16")),
        Err("invalid CIDR address:  10.5.0.0/16".to_owned())
    );
}

#[test]
fn unknown_lines_are_ignored_and_the_last_value_counts() {
    let text = format!("# FLANNEL_MTU\nexport FLANNEL_MTU=1\n FLANNEL_MTU\n\n{V1}FLANNEL_MTU=9000\nX\n");
    assert_eq!(parse(&text).unwrap().mtu, 9000);
}

#[test]
fn missing_keys_are_named_in_order() {
    let missing = |keys: &str| Err(format!("/run/flannel/subnet.env is missing {keys}"));
    assert_eq!(
        parse(""),
        missing(
            "FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ"
        )
    );
    let lines: Vec<&str> = V1.lines().collect();
    let keys = [
        "FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK",
        "FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET",
        "FLANNEL_MTU",
        "FLANNEL_IPMASQ",
    ];
    for kept in 0..15_usize {
        let text: String =
            (0..4).filter(|at| kept & (1 << at) != 0).map(|at| format!("{}\n", lines[at])).collect();
        let names: Vec<_> = (0..4).filter(|at| kept & (1 << at) == 0).map(|at| keys[at]).collect();
        assert_eq!(parse(&text), missing(&names.join(", ")), "{text}");
    }
    let mixed = V1.replace("FLANNEL_NETWORK=10.244.0.0/16", "FLANNEL_IPV6_NETWORK=fd00::/56");
    assert!(parse(&mixed).is_ok(), "families are checked independently");
}

#[test]
fn bad_values_have_the_errors_of_go() {
    for (from, to, error) in [
        ("10.244.1.1/24", "zz", "invalid CIDR address: zz"),
        ("10.244.1.1/24", "10.244.1.1/24,10.244.2.1/24", "invalid CIDR address: 10.244.1.1/24,10.244.2.1/24"),
        ("1450", "abc", "strconv.ParseUint: parsing \"abc\": invalid syntax"),
        ("1450", "", "strconv.ParseUint: parsing \"\": invalid syntax"),
        ("1450", "+5", "strconv.ParseUint: parsing \"+5\": invalid syntax"),
        ("1450", "4294967296", "strconv.ParseUint: parsing \"4294967296\": value out of range"),
        ("FLANNEL_MTU=1450", "FLANNEL_MTU", "the line \"FLANNEL_MTU\" has no '=': must be FLANNEL_MTU=VALUE"),
    ] {
        assert_eq!(parse(&V1.replace(from, to)), Err(error.to_owned()), "{to}");
    }
}

#[test]
fn a_late_file_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/flannel/subnet.env");
    let error = SubnetEnv::wait_and_read(&path, Duration::from_millis(20)).unwrap_err();
    assert!(error.is_absent(), "{error}");
    assert_eq!(error.to_string(), format!("open {}: no such file or directory", path.display()));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| SubnetEnv::wait_and_read(&path, Duration::from_secs(60)));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, V1).unwrap();
        std::fs::rename(&temporary, &path).unwrap();
        assert_eq!(reader.join().unwrap().unwrap().mtu, 1450);
    });
}

#[test]
fn an_empty_path_is_not_waited_for() {
    let start = Instant::now();
    let error = SubnetEnv::wait_and_read(Path::new(""), Duration::from_secs(600)).unwrap_err();
    assert_eq!(error.to_string(), "open : no such file or directory");
    assert!(start.elapsed() < Duration::from_secs(300));
}
