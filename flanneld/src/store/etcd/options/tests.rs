use super::*;
use std::collections::BTreeMap;

fn options(endpoints: &str) -> EtcdOptions {
    EtcdOptions {
        endpoints: endpoints.to_owned(),
        prefix: "/coreos.com/network".to_owned(),
        ..Default::default()
    }
}

fn urls(options: EtcdOptions) -> Result<Vec<String>, String> {
    let target = Target::new(options).map_err(|error| error.to_string())?;
    Ok(target.endpoints.into_iter().map(|endpoint| endpoint.url).collect())
}

#[test]
fn endpoints_are_normalised() {
    let cases = [
        ("http://127.0.0.1:2379", &["http://127.0.0.1:2379"][..]),
        ("http://127.0.0.1:4001,http://127.0.0.1:2379", &["http://127.0.0.1:4001", "http://127.0.0.1:2379"]),
        (" https://a:1 ,, http://[fd00::1]:2379/ ", &["https://a:1", "http://[fd00::1]:2379"]),
        ("etcd-0.example.com:2379", &["http://etcd-0.example.com:2379"]),
        ("https://a:1/some/path?x", &["https://a:1"]),
        ("https://a:1,b:2,http://c:3", &["https://a:1", "https://b:2", "http://c:3"]),
    ];
    for (text, expected) in cases {
        assert_eq!(urls(options(text)).unwrap(), expected, "{text}");
    }
}

#[test]
fn without_scheme_certificates_decide() {
    let mut with_ca = options("a:1,http://b:2");
    with_ca.cafile = Some("ca.pem".into());
    let target = Target::new(with_ca).unwrap();
    assert_eq!(target.endpoints[0].url, "https://a:1");
    assert!(!target.ignores_certificates(&target.endpoints[0]));
    assert!(target.ignores_certificates(&target.endpoints[1]));
    let mut after_http = options("http://a:1,b:2");
    after_http.cafile = Some("ca.pem".into());
    assert_eq!(urls(after_http).unwrap(), ["http://a:1", "http://b:2"]);
}

#[test]
fn bad_endpoints_are_named() {
    let cases = [
        ("", "--etcd-endpoints names no endpoint"),
        (" , ", "--etcd-endpoints names no endpoint"),
        ("http://a", "\"http://a\" has no port"),
        ("http://a:b", "\"http://a:b\" has no port between"),
        ("http://a:70000", "has no port between"),
        ("http://a:0", "has no port between"),
        ("unix:///run/etcd.sock", "has a scheme other than http and https"),
        ("http://fd00::1:2379", "has an IPv6 address without brackets"),
        ("http://[a]:2379", "has brackets without an IPv6 address"),
        ("http://:2379", "has no valid host"),
        ("http://a b:2379", "has no valid host"),
    ];
    for (text, expected) in cases {
        let error = urls(options(text)).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn secrets_are_never_shown() {
    for text in ["http://user:s3cret@a:1", "ftp://user:s3cret@a:1", "user:s3cret@a:1"] {
        let error = urls(options(text)).unwrap_err();
        assert!(!error.contains("s3cret") && error.contains("--etcd-username"), "{error}");
    }
    let login = EtcdOptions { password: Some("s3cret".to_owned()), ..options("a:1") };
    assert!(!format!("{login:?}").contains("s3cret"));
}

#[test]
fn halves_are_refused() {
    let whole = [
        ("etcd-endpoints", "a:1"),
        ("etcd-certfile", "c"),
        ("etcd-keyfile", "k"),
        ("etcd-username", "u"),
        ("etcd-password", "p"),
    ];
    let without = |missing: &str| {
        let given = whole.into_iter().filter(|(name, _)| *name != missing).collect::<BTreeMap<_, _>>();
        EtcdOptions::from_flags(|flag| given.get(flag.name).map(|text| (*text).to_owned()))
    };
    let emptied = |empty: &str| {
        let text = |name: &str, text: &str| if name == empty { String::new() } else { text.to_owned() };
        let given: BTreeMap<_, _> = whole.into_iter().collect();
        EtcdOptions::from_flags(|flag| Some(text(flag.name, given.get(flag.name)?)))
    };
    assert!(Target::new(without("")).is_ok());
    let cases = [
        (without("etcd-keyfile"), "--etcd-certfile is set and --etcd-keyfile is not"),
        (emptied("etcd-certfile"), "--etcd-keyfile is set and --etcd-certfile"),
        (emptied("etcd-password"), "--etcd-username is set and --etcd-pass"),
        (without("etcd-username"), "--etcd-password is set and --etcd-username is not"),
    ];
    for (options, expected) in cases {
        let error = urls(options).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn prefix_is_joined_as_go_does() {
    let cases = [
        ("/coreos.com/network", "/coreos.com/network/config", "/coreos.com/network/subnets/"),
        ("/coreos.com/network/", "/coreos.com/network/config", "/coreos.com/network/subnets/"),
        ("//a//b/", "/a/b/config", "/a/b/subnets/"),
        ("coreos.com/network", "coreos.com/network/config", "coreos.com/network/subnets/"),
        ("/a/./b/../c", "/a/c/config", "/a/c/subnets/"),
        ("/../a", "/a/config", "/a/subnets/"),
        ("../a", "../a/config", "../a/subnets/"),
        ("a/..", "config", "subnets/"),
        ("", "config", "subnets/"),
        ("/", "/config", "/subnets/"),
        ("[(", "[(/config", "[(/subnets/"),
    ];
    for (prefix, config, subnets) in cases {
        let keys = Keys::new(prefix);
        assert_eq!((keys.config.as_str(), keys.subnets.as_str()), (config, subnets), "{prefix}");
        assert_eq!(keys.subnets_end, format!("{}0", subnets.trim_end_matches('/')));
    }
}
