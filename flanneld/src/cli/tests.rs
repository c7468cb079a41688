use super::go_flags::parse_integer;
use super::*;
use crate::store::EtcdOptions;
use insta::assert_snapshot;
use std::collections::BTreeMap;

fn parse_with(args: &[&str], env: &[(&str, &str)]) -> Result<Parsed, CliError> {
    let env: BTreeMap<_, _> = env.iter().copied().collect();
    Options::parse(args.iter().map(OsString::from), |name| env.get(name).map(|text| (*text).to_owned()))
}

fn options_with(args: &[&str], env: &[(&str, &str)]) -> Options {
    match parse_with(args, env) {
        Ok(Parsed::Run(options)) => *options,
        other => panic!("{args:?} {env:?}: {other:?}"),
    }
}

fn options(args: &[&str]) -> Options {
    options_with(args, &[])
}

fn etcd(options: &Options) -> &EtcdOptions {
    options.store.etcd()
}

/// The error of a command line, with its exit code.
fn refused(args: &[&str]) -> String {
    refused_with(args, &[])
}

fn refused_with(args: &[&str], env: &[(&str, &str)]) -> String {
    let error = parse_with(args, env).err().unwrap_or_else(|| panic!("{args:?} {env:?}"));
    format!("{}: {error}", error.exit_code())
}

fn warnings(args: &[&str]) -> String {
    let lines = options(args).warnings.into_iter().map(|w| format!("{} | {}", w.setting, w.reason));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn defaults_are_those_of_go() {
    let options = options(&[]);
    let etcd = etcd(&options);
    assert_eq!(etcd.endpoints, "http://127.0.0.1:4001,http://127.0.0.1:2379");
    assert_eq!(etcd.prefix, "/coreos.com/network");
    assert!(etcd.cafile.is_none() && etcd.certfile.is_none() && etcd.keyfile.is_none());
    assert!(etcd.username.is_none() && etcd.password.is_none());
    assert_eq!(options.node.interface, Criteria::default());
    assert_eq!(options.subnet_file, PathBuf::from("/run/flannel/subnet.env"));
    assert_eq!(options.state_dir, PathBuf::from("/var/lib/flannel"));
    assert_eq!(options.lease_time, Duration::from_secs(86400));
    assert_eq!(options.renew_margin, Duration::from_secs(3600));
    assert_eq!(options.firewall_resync, Duration::from_secs(5));
    assert!(!options.node.ip_masq && !options.node.blackhole_route);
    assert!(options.node.fully_random && options.node.forward_rules);
    assert_eq!(options.healthz, None);
    assert_eq!(options.log, LogOptions { verbosity: 0, format: LogFormat::Text });
    assert_eq!(options.summary(), "");
    assert_eq!(options.warnings, []);
}

#[test]
fn the_shipped_command_lines_parse() {
    let env = [("NODE_NAME", "worker-1"), ("KUBERNETES_SERVICE_HOST", "10.96.0.1")];
    let pod = options_with(&["--ip-masq", "--kube-subnet-mgr", "--healthz-port=8081"], &env);
    assert_eq!(pod.store.scope(), "kubernetes-flannel.alpha.coreos.com");
    assert_eq!(pod.warnings, []);
    let unit =
        options(&["-etcd-endpoints=http://10.0.0.1:2379", "-etcd-prefix=/net", "-ip-masq", "-iface", "eth1"]);
    assert_eq!(etcd(&unit).endpoints, "http://10.0.0.1:2379");
    assert_eq!(etcd(&unit).prefix, "/net");
    assert_eq!(unit.node.interface.names, ["eth1"]);
    assert!(unit.node.ip_masq);
    // Kubernetes flags without --kube-subnet-mgr do nothing, as in Go.
    options(&[
        "--kube-api-url=https://x",
        "--kubeconfig-file=/k",
        "--kube-annotation-prefix=a.b",
        "--net-config-path=/n",
    ]);
}

#[test]
fn go_grammar() {
    // One dash or two, '=' or the next word.
    for args in [
        &["-etcd-prefix", "/x"] as &[_],
        &["--etcd-prefix", "/x"],
        &["-etcd-prefix=/x"],
        &["--etcd-prefix=/x"],
        &["--etcd-prefix=/a", "--etcd-prefix=/x"],
    ] {
        assert_eq!(etcd(&options(args)).prefix, "/x", "{args:?}");
    }
    // A text flag swallows the next word; only the first '=' splits; '=' can leave it empty.
    let swallowed = options(&["--etcd-prefix", "--ip-masq"]);
    assert_eq!(etcd(&swallowed).prefix, "--ip-masq");
    assert!(!swallowed.node.ip_masq);
    assert_eq!(etcd(&options(&["--etcd-prefix=a=b"])).prefix, "a=b");
    assert_eq!(etcd(&options(&["--etcd-prefix="])).prefix, "");
    assert_eq!(etcd(&options(&["--etcd-prefix", ""])).prefix, "");
    // Booleans.
    for text in ["1", "t", "T", "TRUE", "true", "True"] {
        assert!(options(&[&format!("--ip-masq={text}")]).node.ip_masq, "{text}");
    }
    for text in ["0", "f", "F", "FALSE", "false", "False"] {
        assert!(!options(&[&format!("-iptables-forward-rules={text}")]).node.forward_rules, "{text}");
    }
    // Lists append in order, also across forms.
    let lists = options(&["-iface", "a", "--iface=b", "--iface=", "--iface-regex=x", "--iface-regex", "y"]);
    assert_eq!(lists.node.interface.names, ["a", "b", ""]);
    assert_eq!(lists.node.interface.regexes, ["x", "y"]);
}

#[test]
fn parsing_stops_at_the_first_word_that_is_no_flag() {
    for args in [
        &["--ip-masq", "true", "--healthz-port", "8081"] as &[_],
        &["--ip-masq", "-", "--healthz-port", "8081"],
        &["--ip-masq", "--", "--healthz-port", "8081"],
        &["--ip-masq", "", "--healthz-port", "8081"],
    ] {
        let options = options(args);
        assert!(options.node.ip_masq);
        assert_eq!(options.healthz, None, "{args:?}");
        assert_eq!(options.warnings.len(), 1, "{args:?}");
    }
    assert_eq!(warnings(&["--ip-masq", "--"]), "");
    assert_snapshot!(
        warnings(&["--ip-masq", "true", "--healthz-port", "8081", "--etcd-password=p4ss"]),
        @"true | not a flag; ends the command line, so these are ignored: --healthz-port --etcd-password; use --ip-masq=true"
    );
    assert_snapshot!(warnings(&["eth0", "-v=1"]), @"eth0 | not a flag; ends the command line, so these are ignored: -v");
    assert_snapshot!(warnings(&["--etcd-username=a", "--etcd-password=p4ss", "w0rd"]), @"[hidden] | not a flag; ends the command line");
}

#[test]
fn help_and_version() {
    for args in [&["-h"] as &[_], &["--help"], &["--ip-masq", "-help", "--bogus"], &["--help=x"]] {
        assert!(matches!(parse_with(args, &[]), Ok(Parsed::Help(_))), "{args:?}");
    }
    for args in [&["-version"] as &[_], &["--version=true", "--healthz-port=nonsense"]] {
        assert!(matches!(parse_with(args, &[("FLANNELD_V", "bad")]), Ok(Parsed::Version)), "{args:?}");
    }
    // Compatibility: no effect.
    options_with(&[], &[("FLANNELD_VERSION", "true")]);
    options(&["--version=false"]);
    let Ok(Parsed::Help(text)) = parse_with(&["-h"], &[]) else { panic!() };
    insta::assert_snapshot!("help", text);
    assert!(text.lines().all(|line| line.len() <= 140), "{text}");
}

#[test]
fn invalid_flags_suggest_the_closest_match() {
    let lines: Vec<String> = [
        &["--etcd-prefx=/x"] as &[_],
        &["--etcd_prefix=/x"],
        &["-ipmasq"],
        &["--kubeconfig"],
        &["--healthz"],
        &["--logtostderr"],
        &["--x"],
        &["--etcd-pasword=s3cret"],
        &["---ip-masq"],
        &["-=s3cret"],
        &["---etcd-password=s3cret"],
        &["--etcd-prefix"],
        &["--iface"],
    ]
    .into_iter()
    .map(refused)
    .collect();
    assert_snapshot!(lines.join("\n"), @r#"
    2: unknown flag --etcd-prefx: did you mean --etcd-prefix?
    2: unknown flag --etcd_prefix: did you mean --etcd-prefix?
    2: unknown flag --ipmasq: did you mean --ip-masq?
    2: unknown flag --kubeconfig: did you mean --kubeconfig-file?
    2: unknown flag --healthz: flanneld --help lists all flags
    2: unknown flag --logtostderr: flanneld --help lists all flags
    2: unknown flag --x: flanneld --help lists all flags
    2: unknown flag --etcd-pasword: did you mean --etcd-password?
    2: "---ip-masq" is not a flag: use -name or --name, and a value after '='
    2: "-" is not a flag: use -name or --name, and a value after '='
    2: "---etcd-password" is not a flag: use -name or --name, and a value after '='
    2: --etcd-prefix needs a value: --etcd-prefix=KEY
    2: --iface needs a value: --iface=NAME|IP
    "#);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of errors")]
fn invalid_values_report_the_rule_and_the_fix() {
    let lines: Vec<String> = [
        "--ip-masq=yes",
        "--ip-masq=",
        "--version=maybe",
        "--set-node-network-unavailable=2",
        "--etcd-endpoints=",
        "--etcd-endpoints=unix:///run/etcd",
        "--etcd-endpoints=http://a:port",
        "--etcd-endpoints=http://a b:1",
        "--etcd-endpoints=http://user:s3cret@a:port",
        "--etcd-endpoints=http://user:s3,cret@a:1",
        "--etcd-endpoints=http://a",
        "--public-ip=2001:db8::1",
        "--public-ip=10.0.0",
        "--public-ip=0.0.0.0",
        "--public-ip=010.0.0.1",
        "--public-ipv6=10.0.0.1",
        "--public-ipv6=::ffff:10.0.0.1",
        "--public-ipv6=::1.2.3.4",
        "--public-ipv6=ff02::1",
        "--iface-can-reach=example.org",
        "--subnet-lease-renew-margin=0",
        "--subnet-lease-renew-margin=1440",
        "--subnet-lease-renew-margin=60m",
        "--iptables-resync=0",
        "--iptables-resync=-1",
        "--iptables-resync=5s",
        "--healthz-ip=host.example",
        "--healthz-port=65536",
        "--healthz-port=http",
        "-v=0x1",
        "-v=2147483648",
        "--subnet-file=",
        "--state-dir=",
        "--lease-time=1s",
        "--lease-time=24",
        "--lease-time=1.5h",
        "--lease-time=9000h",
        "--log-format=xml",
    ]
    .into_iter()
    .map(|arg| refused(&[arg]))
    .collect();
    assert_snapshot!(lines.join("\n"), @r#"
    2: --ip-masq is "yes", but must be true or false; for example --ip-masq=true
    2: --ip-masq is "", but must be true or false; for example --ip-masq=true
    2: --version is "maybe", but must be true or false; for example --version=true
    2: --set-node-network-unavailable is "2", but must be true or false; for example --set-node-network-unavailable=true
    2: --etcd-endpoints is "", but must be http://host:port or https://host:port, several separated by commas; for example --etcd-endpoints=http://192.0.2.1:2379,http://192.0.2.2:2379
    2: --etcd-endpoints is "unix:///run/etcd", but must be http://host:port or https://host:port, several separated by commas; for example --etcd-endpoints=http://192.0.2.1:2379,http://192.0.2.2:2379
    2: --etcd-endpoints is "http://a:port", but must be http://host:port or https://host:port, several separated by commas; for example --etcd-endpoints=http://192.0.2.1:2379,http://192.0.2.2:2379
    2: --etcd-endpoints is "http://a b:1", but must be http://host:port or https://host:port, several separated by commas; for example --etcd-endpoints=http://192.0.2.1:2379,http://192.0.2.2:2379
    2: --etcd-endpoints is "[hidden]", but must be http://host:port or https://host:port, several separated by commas; for example --etcd-endpoints=http://192.0.2.1:2379,http://192.0.2.2:2379
    2: --etcd-endpoints is "[hidden]", but must be http://host:port or https://host:port, several separated by commas; for example --etcd-endpoints=http://192.0.2.1:2379,http://192.0.2.2:2379
    2: --etcd-endpoints is "http://a", but must be http://host:port or https://host:port, several separated by commas; for example --etcd-endpoints=http://192.0.2.1:2379,http://192.0.2.2:2379
    2: --public-ip is "2001:db8::1", but must be the IPv4 address of one host (IPv6 is for --public-ipv6); for example --public-ip=192.0.2.1
    2: --public-ip is "10.0.0", but must be the IPv4 address of one host; for example --public-ip=192.0.2.1
    2: --public-ip is "0.0.0.0", but must be the IPv4 address of one host; for example --public-ip=192.0.2.1
    2: --public-ip is "010.0.0.1", but must be the IPv4 address of one host; for example --public-ip=192.0.2.1
    2: --public-ipv6 is "10.0.0.1", but must be the IPv6 address of one host; for example --public-ipv6=2001:db8::1
    2: --public-ipv6 is "::ffff:10.0.0.1", but must be the IPv6 address of one host; for example --public-ipv6=2001:db8::1
    2: --public-ipv6 is "::1.2.3.4", but must be the IPv6 address of one host; for example --public-ipv6=2001:db8::1
    2: --public-ipv6 is "ff02::1", but must be the IPv6 address of one host; for example --public-ipv6=2001:db8::1
    2: --iface-can-reach is "example.org", but must be an IPv4 or IPv6 address; for example --iface-can-reach=192.0.2.1
    2: --subnet-lease-renew-margin is "0", but must be a number of minutes from 1 to 1439; for example --subnet-lease-renew-margin=60
    2: --subnet-lease-renew-margin is "1440", but must be a number of minutes from 1 to 1439; for example --subnet-lease-renew-margin=60
    2: --subnet-lease-renew-margin is "60m", but must be a number of minutes from 1 to 1439; for example --subnet-lease-renew-margin=60
    2: --iptables-resync is "0", but must be a number of seconds, at least 1; for example --iptables-resync=5
    2: --iptables-resync is "-1", but must be a number of seconds, at least 1; for example --iptables-resync=5
    2: --iptables-resync is "5s", but must be a number of seconds, at least 1; for example --iptables-resync=5
    2: --healthz-ip is "host.example", but must be an IPv4 or IPv6 address; for example --healthz-ip=0.0.0.0
    2: --healthz-port is "65536", but must be a port up to 65535, or 0 for no health checks; for example --healthz-port=0
    2: --healthz-port is "http", but must be a port up to 65535, or 0 for no health checks; for example --healthz-port=0
    2: -v is "0x1", but must be a number in decimal digits; for example -v=0
    2: -v is "2147483648", but must be a number in decimal digits; for example -v=0
    2: --subnet-file is "", but must be the path of a file or directory; for example --subnet-file=/run/flannel/subnet.env
    2: --state-dir is "", but must be the path of a file or directory; for example --state-dir=/var/lib/flannel
    2: --lease-time is "1s", but must be a time of 2s to 8760h in whole h, m and s; for example --lease-time=24h
    2: --lease-time is "24", but must be a time of 2s to 8760h in whole h, m and s; for example --lease-time=24h
    2: --lease-time is "1.5h", but must be a time of 2s to 8760h in whole h, m and s; for example --lease-time=24h
    2: --lease-time is "9000h", but must be a time of 2s to 8760h in whole h, m and s; for example --lease-time=24h
    2: --log-format is "xml", but must be text or json; for example --log-format=text
    "#);
}

#[test]
fn environment() {
    let env = [
        ("FLANNELD_ETCD_ENDPOINTS", "https://a:1,https://b:2"),
        ("FLANNELD_ETCD_PREFIX", "/env"),
        ("FLANNELD_IP_MASQ", "true"),
        ("FLANNELD_IFACE", "eth0,eth1"),
        ("FLANNELD_HEALTHZ_PORT", "8081"),
        ("FLANNELD_SUBNET_FILE", ""),
        ("FLANNELD_LOG_BACKTRACE_AT", "main.go:1"),
        ("FLANNELD_V", "4"),
        ("FLANNELD_STATE_DIR", "/s"),
    ];
    let options = options_with(&["--etcd-prefix=/flag", "--iface-regex=x"], &env);
    assert_eq!(etcd(&options).endpoints, "https://a:1,https://b:2");
    assert_eq!(etcd(&options).prefix, "/flag", "the command line wins");
    assert!(options.node.ip_masq);
    assert_eq!(options.node.interface.names, ["eth0,eth1"], "one element");
    assert_eq!(options.healthz, Some("0.0.0.0:8081".parse().unwrap()));
    assert_eq!(options.subnet_file, PathBuf::from("/run/flannel/subnet.env"), "empty is not set");
    assert_eq!(options.log.verbosity, 4);
    assert_snapshot!(options.summary(), @"FLANNELD_ETCD_ENDPOINTS=https://a:1,https://b:2 --etcd-prefix=/flag FLANNELD_HEALTHZ_PORT=8081 FLANNELD_IFACE=eth0,eth1 --iface-regex=x FLANNELD_IP_MASQ=true FLANNELD_LOG_BACKTRACE_AT=main.go:1 FLANNELD_STATE_DIR=/s FLANNELD_V=4");
    // A flag with its default on the command line wins as well, an empty one too.
    assert!(!options_with(&["--ip-masq=false"], &env).node.ip_masq);
    assert_eq!(etcd(&options_with(&["--etcd-prefix="], &env)).prefix, "");

    let lines: Vec<String> = [
        ("FLANNELD_IPTABLES_RESYNC", "x"),
        ("FLANNELD_IP_MASQ", "yes"),
        ("FLANNELD_PUBLIC_IP", "fd00::1"),
        ("FLANNELD_V", "99999999999"),
        ("FLANNELD_KUBE_SUBNET_MGR", "true"),
    ]
    .into_iter()
    .map(|variable| refused_with(&[], &[variable]))
    .collect();
    assert_snapshot!(lines.join("\n"), @r#"
    2: FLANNELD_IPTABLES_RESYNC is "x", but must be a number of seconds, at least 1; for example FLANNELD_IPTABLES_RESYNC=5
    2: FLANNELD_IP_MASQ is "yes", but must be true or false; for example FLANNELD_IP_MASQ=true
    2: FLANNELD_PUBLIC_IP is "fd00::1", but must be the IPv4 address of one host (IPv6 is for --public-ipv6); for example FLANNELD_PUBLIC_IP=192.0.2.1
    2: FLANNELD_V is "99999999999", but must be a number in decimal digits; for example FLANNELD_V=0
    2: --kube-subnet-mgr needs the name of this node, but NODE_NAME is not set: set NODE_NAME, or both POD_NAME and POD_NAMESPACE (in a pod by fieldRef: spec.nodeName, metadata.name, metadata.namespace)
    "#);
}

#[test]
fn integers_are_those_of_go() {
    for (text, number) in [
        ("0", Some(0)),
        ("8081", Some(8081)),
        ("+5", Some(5)),
        ("-5", Some(-5)),
        ("010", Some(8)),
        ("0o10", Some(8)),
        ("0O10", Some(8)),
        ("0x1F", Some(31)),
        ("-0X1f", Some(-31)),
        ("0b101", Some(5)),
        ("1_000", Some(1000)),
        ("0_7", Some(7)),
        ("0x_1f", Some(31)),
        ("00", Some(0)),
        ("9223372036854775807", Some(i64::MAX)),
        ("-9223372036854775808", Some(i64::MIN)),
        ("9223372036854775808", None),
        ("99999999999999999999", None),
        ("", None),
        ("-", None),
        ("+-5", None),
        ("--5", None),
        ("08", None),
        ("0x", None),
        ("0b", None),
        ("0b2", None),
        ("_1", None),
        ("1_", None),
        ("0_", None),
        ("1__0", None),
        ("0x__1", None),
        ("1e3", None),
        (" 1", None),
        ("1.0", None),
        ("é1", None),
    ] {
        assert_eq!(parse_integer(text), number, "{text:?}");
    }
    assert_eq!(options(&["--healthz-port=0x1f91"]).healthz, Some("0.0.0.0:8081".parse().unwrap()));
    assert_eq!(options(&["-v", "-3"]).log.verbosity, -3);
}

#[test]
fn health_address() {
    for (args, address) in [
        (&["--healthz-port=8081"] as &[_], Some("0.0.0.0:8081")),
        (&["--healthz-port=8081", "--healthz-ip=::"], Some("[::]:8081")),
        (&["--healthz-port=8081", "--healthz-ip=127.0.0.1"], Some("127.0.0.1:8081")),
        (&["--healthz-port=8081", "--healthz-ip=localhost"], Some("127.0.0.1:8081")),
        (&["--healthz-port=8081", "--healthz-ip="], Some("0.0.0.0:8081")),
        (&["--healthz-port=0"], None),
        (&["--healthz-port=-1"], None),
    ] {
        assert_eq!(options(args).healthz, address.map(|text| text.parse().unwrap()), "{args:?}");
    }
}

#[test]
fn settings_that_do_nothing_are_named() {
    let lines: Vec<String> = [
        &["--etcd-certfile=/c"] as &[_],
        &["--etcd-keyfile=/k"],
        &["--etcd-username=u"],
        &["--etcd-password=s3cret"],
        &["--lease-dir=/l", "--etcd-prefix=/x", "--etcd-password=s3cret"],
        &["--lease-dir=/l", "--kubeconfig-file=/k", "--report-node-network-unavailable"],
    ]
    .into_iter()
    .map(warnings)
    .collect();
    assert_snapshot!(lines.join("\n"), @r#"
    --etcd-certfile | a client certificate needs both: --etcd-keyfile is missing
    --etcd-keyfile | a client certificate needs both: --etcd-certfile is missing
    --etcd-username | a login needs both: --etcd-password is missing
    --etcd-password | a login needs both: --etcd-username is missing
    --etcd-password | leases are in the directory of --lease-dir
    --etcd-prefix | leases are in the directory of --lease-dir
    --kubeconfig-file | it needs --kube-subnet-mgr
    --report-node-network-unavailable | it needs --kube-subnet-mgr
    "#);
}

#[test]
fn stores() {
    let options = options(&["--lease-dir=/var/lib/leases"]);
    assert_eq!(options.store.public_flags(), ["--lease-dir=/var/lib/leases"]);
    assert_snapshot!(refused(&["--lease-dir=/l", "--kube-subnet-mgr"]), @"2: --kube-subnet-mgr and --lease-dir are incompatible: only one store can be used");
    assert_snapshot!(refused(&["--kube-subnet-mgr"]), @"2: --kube-subnet-mgr needs the name of this node, but NODE_NAME is not set: set NODE_NAME, or both POD_NAME and POD_NAMESPACE (in a pod by fieldRef: spec.nodeName, metadata.name, metadata.namespace)");
    let login = ["--etcd-username=u", "--etcd-password=s3cret"];
    let files =
        ["--etcd-endpoints=https://a:1", "--etcd-cafile=/ca", "--etcd-certfile=/c", "--etcd-keyfile=/k"];
    let secure = self::options(&[&files[..], &login].concat());
    let file = |path: &Option<PathBuf>| path.as_ref().unwrap().display().to_string();
    let etcd = etcd(&secure);
    assert_eq!([file(&etcd.cafile), file(&etcd.certfile), file(&etcd.keyfile)], ["/ca", "/c", "/k"]);
    assert_eq!((etcd.username.as_deref(), etcd.password.as_deref()), (Some("u"), Some("s3cret")));
    assert_eq!(secure.warnings, []);
}

#[test]
fn scopes_tell_stores_apart() {
    let scope = |arg: &str| options(&[arg]).store.scope();
    assert_eq!(scope("--etcd-prefix=/coreos.com/network"), "etcd-coreos.com-network");
    assert_eq!(scope("--etcd-prefix=/coreos.com/network/"), "etcd-coreos.com-network");
    assert_eq!(scope("--etcd-prefix=/a-b"), "etcd-a%2Db");
    assert_eq!(scope("--etcd-prefix=../../x y"), "etcd..-..-x%20y");
    assert_eq!(scope("--lease-dir=/l"), "dir-l");
}

#[test]
fn renew_margin_and_lease_time() {
    let times = |args: &[&str]| {
        let options = options(args);
        (options.lease_time.as_secs(), options.renew_margin.as_secs())
    };
    assert_eq!(times(&["--subnet-lease-renew-margin=1"]), (86400, 60));
    assert_eq!(times(&["--subnet-lease-renew-margin=1439"]), (86400, 86340));
    assert_eq!(times(&["--lease-time=10s"]), (10, 5));
    assert_eq!(times(&["--lease-time=1h30m"]), (5400, 3600));
    assert_snapshot!(refused(&["--lease-time=10m", "--subnet-lease-renew-margin=10"]), @"2: --subnet-lease-renew-margin=10 and --lease-time=10m are incompatible: the lifetime of a lease must exceed the renew margin");
}

#[test]
fn secrets_are_shown_nowhere() {
    let options = options_with(&["--etcd-username=root"], &[("FLANNELD_ETCD_PASSWORD", "s3cret")]);
    assert_eq!(etcd(&options).password.as_deref(), Some("s3cret"));
    let shown = format!("{options:?} {options:#?} {} {:?}", options.summary(), options.warnings);
    assert!(shown.contains("root") && !shown.contains("s3cret"), "{shown}");
}

#[test]
fn words_that_are_not_text_are_refused() {
    use std::os::unix::ffi::OsStringExt as _;
    let bad = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    for args in [vec![bad(b"--etcd-password=s3cret\xff")], vec!["--subnet-file".into(), bad(b"/s3cret\xff")]]
    {
        let error = Options::parse(args.into_iter(), |_| None).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}

/// The tables of flags: each name with the cell that tells its default.
#[test]
fn documents_have_every_flag_with_its_default_and_no_other() {
    let text = include_str!("../../../docs/configuration.md");
    let rows = text.lines().filter(|line| line.starts_with("| `-")).filter_map(|line| {
        let mut cells = line.split('|').skip(1);
        Some((cells.next()?, cells.next()?))
    });
    let mut documented = BTreeMap::new();
    for (names, default) in rows {
        documented.extend(names.split('`').skip(1).step_by(2).map(|name| (name.to_owned(), default)));
    }
    assert!(documented.remove("--help").is_some());
    for flag in flags() {
        let name = flag.dashed();
        let default =
            documented.remove(&name).unwrap_or_else(|| panic!("docs/configuration.md lacks {name}"));
        let told = default.contains(&format!("`{}`", flag.default)) || !default.contains('`');
        assert!(told || flag.default.is_empty(), "{name} has the default {}, not {default}", flag.default);
    }
    assert!(documented.is_empty(), "docs/configuration.md has flags that are not there: {documented:?}");
}
