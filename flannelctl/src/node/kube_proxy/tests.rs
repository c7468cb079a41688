use super::*;

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn cidrs(proxy: &KubeProxy) -> Vec<String> {
    proxy.cluster_cidrs.iter().map(ToString::to_string).collect()
}

#[test]
fn configuration_of_kubeadm() {
    let text = "\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
bindAddress: 0.0.0.0
clusterCIDR: 10.244.0.0/16,fd42::/48
configSyncPeriod: 0s
detectLocal:
  bridgeInterface: \"\"
  interfaceNamePrefix: \"\"
detectLocalMode: \"\"
iptables:
  localhostNodePorts: null
  masqueradeAll: false
  masqueradeBit: null
ipvs:
  excludeCIDRs: null
kind: KubeProxyConfiguration
mode: \"\"
nftables:
  masqueradeAll: true
  masqueradeBit: 15
";
    let proxy = KubeProxy::of_config("x".to_owned(), text).unwrap();
    assert_eq!(cidrs(&proxy), ["10.244.0.0/16", "fd42::/48"]);
    assert!(!proxy.masquerades_all && proxy.masquerade_bit.is_none() && proxy.local == Local::ClusterCidr);
    let proxy = KubeProxy::of_config("x".to_owned(), &text.replace("mode: \"\"", "mode: nftables")).unwrap();
    assert!(proxy.masquerades_all && proxy.masquerade_bit == Some(15), "{proxy:?}");
    let json =
        r#"{"mode":"ipvs","detectLocalMode":"BridgeInterface","detectLocal":{"bridgeInterface":"br0"}}"#;
    let proxy = KubeProxy::of_config("x".to_owned(), json).unwrap();
    assert_eq!(proxy.local, Local::Bridge("br0".to_owned()));
    assert!(KubeProxy::of_config("x".to_owned(), "[").unwrap_err().contains("invalid"));
}

#[test]
fn command_line() {
    let line = "kube-proxy --cluster-cidr 10.1.0.0/16 --proxy-mode=ipvs --masquerade-all --iptables-masquerade-bit=7";
    let proxy = KubeProxy::of_flags("process 7".to_owned(), &words(line));
    assert_eq!((proxy.mode.as_str(), cidrs(&proxy)), ("ipvs", vec!["10.1.0.0/16".to_owned()]));
    assert!(proxy.masquerades_all && proxy.masquerade_bit == Some(7));
}

/// Texts of kube-proxy 1.36.
#[test]
fn firewall_rules() {
    let iptables = "*nat\n\
        -A KUBE-SVC-NPX46M4PTMTKRN6Y ! -s 10.244.0.0/16 -d 10.43.0.1/32 -p tcp -m comment --comment \"default/kubernetes:https cluster IP\" -m tcp --dport 443 -j KUBE-MARK-MASQ\n\
        -A KUBE-SEP-56SCJSOTSGPH7G5W -s 192.168.50.230/32 -m comment --comment \"default/kubernetes:https\" -j KUBE-MARK-MASQ\nCOMMIT\n";
    let proxy = KubeProxy::of_rules(&[iptables.to_owned()]).unwrap();
    assert_eq!((proxy.mode.as_str(), cidrs(&proxy)), ("iptables", vec!["10.244.0.0/16".to_owned()]));
    let ipvs = "-A KUBE-SERVICES ! -s 10.244.0.0/16 -m comment --comment \"Kubernetes service cluster ip + port for masquerade purpose\" -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ\n";
    assert_eq!(KubeProxy::of_rules(&[ipvs.to_owned()]).unwrap().mode, "ipvs");
    let nftables = r#"{"nftables":[{"rule":{"family":"ip","table":"kube-proxy","chain":"services","expr":[
        {"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"daddr"}},"right":"@cluster-ips"}},
        {"match":{"op":"!=","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":{"prefix":{"addr":"10.42.0.0","len":16}}}},
        {"mangle":{"key":{"meta":{"key":"mark"}},"value":{"|":[{"meta":{"key":"mark"}},16384]}}}]}}]}"#;
    let proxy = KubeProxy::of_rules(&[nftables.to_owned()]).unwrap();
    assert_eq!((proxy.mode.as_str(), cidrs(&proxy)), ("nftables", vec!["10.42.0.0/16".to_owned()]));
    assert!(KubeProxy::of_rules(&["*nat\nCOMMIT\n".to_owned(), "{\"nftables\":[]}".to_owned()]).is_none());
}
