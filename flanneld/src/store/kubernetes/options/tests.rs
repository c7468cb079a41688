use super::*;
use insta::assert_snapshot;
use std::collections::BTreeMap;

const IN_POD: (&str, &str) = ("KUBERNETES_SERVICE_HOST", "10.200.0.1");
const NAMED: (&str, &str) = ("NODE_NAME", "worker-1");

fn options(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Result<KubernetesOptions, String> {
    let (value, env) = values(flags, env);
    KubernetesOptions::new(value, env).map_err(|error| error.to_string())
}

fn client(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Result<KubernetesOptions, String> {
    let (value, env) = values(flags, env);
    KubernetesOptions::of_client(value, env).map_err(|error| error.to_string())
}

fn values(
    flags: &[(&str, &str)],
    env: &[(&str, &str)],
) -> (impl Fn(&Flag) -> Option<String>, impl Fn(&str) -> Option<String>) {
    let map = |entries: &[(&str, &str)]| -> BTreeMap<String, String> {
        entries.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    };
    let (flags, env) = (map(flags), map(env));
    (move |flag: &Flag| flags.get(flag.name).cloned(), move |name: &str| env.get(name).cloned())
}

#[test]
fn a_pod_of_the_daemon_set() {
    let options = options(
        &[],
        &[
            IN_POD,
            ("POD_NAME", "kube-flannel-ds-x"),
            ("POD_NAMESPACE", "kube-flannel"),
            ("EVENT_QUEUE_DEPTH", "5000"),
            ("CONT_WHEN_CACHE_NOT_READY", "false"),
        ],
    )
    .unwrap();
    let of_pod =
        NodeName::OfPod { namespace: "kube-flannel".to_owned(), name: "kube-flannel-ds-x".to_owned() };
    assert_eq!(options.node, of_pod);
    assert!(options.sets_available && !options.sets_unavailable);
    assert_eq!(options.net_config, PathBuf::from("/etc/kube-flannel/net-conf.json"));
    assert_eq!(options.prefix.to_string(), "flannel.alpha.coreos.com/");
}

#[test]
fn node_name_takes_precedence() {
    let options = options(&[], &[IN_POD, NAMED, ("POD_NAME", "p"), ("POD_NAMESPACE", "n")]).unwrap();
    assert_eq!(options.node, NodeName::Given("worker-1".to_owned()));
}

#[test]
fn flags_that_select_the_store_again() {
    let flags = [
        ("kubeconfig-file", "/k"),
        ("kube-api-url", "https://192.0.2.1:6443"),
        ("kube-annotation-prefix", "org.com/x"),
    ];
    let options = options(&flags, &[NAMED]).unwrap();
    assert_snapshot!(options.public_flags().join(" "), @"--kube-subnet-mgr --kube-annotation-prefix=org.com/x --net-config-path=/etc/kube-flannel/net-conf.json --kubeconfig-file=/k --kube-api-url=https://192.0.2.1:6443");
}

#[test]
fn what_is_missing_or_invalid_is_named() {
    let lines = [
        options(&[], &[IN_POD]),
        options(&[], &[IN_POD, ("POD_NAME", "p")]),
        options(&[], &[IN_POD, ("POD_NAMESPACE", "n")]),
        options(&[], &[NAMED]),
        options(&[("kube-api-url", "192.0.2.1:6443")], &[NAMED]),
        options(&[("kube-annotation-prefix", "org")], &[IN_POD, NAMED]),
        options(&[("kube-annotation-prefix", "org.com/a/b")], &[IN_POD, NAMED]),
        options(&[], &[IN_POD, NAMED, ("EVENT_QUEUE_DEPTH", "many")]),
    ];
    let lines: Vec<String> = lines.into_iter().map(Result::unwrap_err).collect();
    assert_snapshot!(lines.join("\n"), @r#"
    --kube-subnet-mgr needs the name of this node, but NODE_NAME is not set: set NODE_NAME, or both POD_NAME and POD_NAMESPACE (in a pod by fieldRef: spec.nodeName, metadata.name, metadata.namespace)
    --kube-subnet-mgr needs the name of this node, but POD_NAMESPACE is not set: set NODE_NAME, or both POD_NAME and POD_NAMESPACE (in a pod by fieldRef: spec.nodeName, metadata.name, metadata.namespace)
    --kube-subnet-mgr needs the name of this node, but POD_NAME is not set: set NODE_NAME, or both POD_NAME and POD_NAMESPACE (in a pod by fieldRef: spec.nodeName, metadata.name, metadata.namespace)
    --kube-subnet-mgr does not know the Kubernetes API server: KUBERNETES_SERVICE_HOST is not set, so this is not a pod; use --kubeconfig-file or --kube-api-url
    --kube-api-url is "192.0.2.1:6443", but must be http://host:port or https://host:port; for example --kube-api-url=https://192.0.2.1:6443
    --kube-annotation-prefix is "org", but must be a DNS name of two or more labels in small letters, optionally with / and the start of a name; for example --kube-annotation-prefix=flannel.alpha.coreos.com
    --kube-annotation-prefix is "org.com/a/b", but must be a DNS name, optionally with one / and at most 41 small letters, digits, - and _ that start with a letter or digit; for example --kube-annotation-prefix=flannel.alpha.coreos.com
    EVENT_QUEUE_DEPTH is "many", but must be a number; for example EVENT_QUEUE_DEPTH=5000
    "#);
}

#[test]
fn a_client_need_not_run_on_a_node() {
    let admin = [("kubeconfig-file", "/k")];
    let options = client(&admin, &[]).unwrap();
    assert!(options.node == NodeName::Unknown && options.reads_config_map);
    assert_snapshot!(options.public_flags().join(" "), @"--kube-subnet-mgr --kube-annotation-prefix=flannel.alpha.coreos.com --kube-config-map=kube-flannel/kube-flannel-cfg --kubeconfig-file=/k");
    let file = client(&[("kubeconfig-file", "/k"), ("net-config-path", "/n")], &[NAMED]).unwrap();
    assert!(file.node == NodeName::Given("worker-1".to_owned()) && !file.reads_config_map);
    assert!(client(&[], &[]).unwrap_err().contains("use --kubeconfig-file or --kube-api-url"));
}

/// Another node has a service account of its own, and finds its own daemon.
#[test]
fn identity_of_a_pod_is_not_passed_on() {
    let options = client(&[], &[IN_POD, ("KUBERNETES_SERVICE_PORT", "6443")]).unwrap();
    assert!(options.public_flags().is_empty());
    assert_eq!(options.service.as_deref(), Some("https://10.200.0.1:6443"));
    let v6 = client(&[], &[("KUBERNETES_SERVICE_HOST", "fd00::1")]).unwrap();
    assert_eq!(v6.service.as_deref(), Some("https://[fd00::1]:443"));
}

#[test]
fn a_client_is_completed_by_the_daemon() {
    let daemon = options(
        &[("kube-annotation-prefix", "org.com/x")],
        &[IN_POD, ("POD_NAMESPACE", "flannel"), ("POD_NAME", "p")],
    );
    let daemon = daemon.unwrap();
    let mut own = client(&[("kubeconfig-file", "/k")], &[]).unwrap();
    own.complete(&daemon);
    assert_eq!(
        (own.prefix.to_string().as_str(), own.config_map.to_string().as_str()),
        ("org.com/x-", "flannel/kube-flannel-cfg")
    );
    let mut given =
        client(&[("kubeconfig-file", "/k"), ("kube-annotation-prefix", "org.com/y")], &[]).unwrap();
    given.complete(&daemon);
    assert_eq!(given.prefix.to_string(), "org.com/y-");
}

#[test]
fn files_of_a_daemon_in_a_container() {
    let mut options = options(&[], &[IN_POD, NAMED]).unwrap();
    assert_eq!(options.path(&options.net_config), PathBuf::from("/etc/kube-flannel/net-conf.json"));
    options.root = Some("/proc/7/cwd".into());
    assert_eq!(
        options.path(&options.net_config),
        PathBuf::from("/proc/7/cwd/etc/kube-flannel/net-conf.json")
    );
}

#[test]
fn names_of_a_config_map() {
    let parse = |text: &str| text.parse::<ConfigMap>().map_err(|error| error.to_string());
    assert_eq!(parse("a/b").unwrap().to_string(), "a/b");
    assert_eq!(parse("a/b/c.json").unwrap().to_string(), "a/b/c.json");
    assert_eq!(parse("a/b/net-conf.json"), parse("a/b"));
    for wrong in ["a", "a/", "/b", "a/b/c/d", "a/b?x"] {
        assert!(parse(wrong).unwrap_err().contains("--kube-config-map"), "{wrong}");
    }
}
