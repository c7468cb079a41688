use super::*;

fn tunnel_packet() -> Packet {
    Packet {
        hook: Hook::Input,
        protocol: (17, Some(8472)),
        input: "eth0".to_owned(),
        output: None,
        source: "192.168.50.2".parse().unwrap(),
        destination: "192.168.50.1".parse().unwrap(),
    }
}

fn pod_packet() -> Packet {
    Packet {
        hook: Hook::Forward,
        protocol: (6, None),
        input: "flannel.1".to_owned(),
        output: Some("cni0".to_owned()),
        source: "10.42.2.2".parse().unwrap(),
        destination: "10.42.1.2".parse().unwrap(),
    }
}

fn iptables(rules: &str, input: &str, forward: &str) -> Filter {
    let mut filter = Filter::default();
    filter.add_iptables(&format!(
        "*filter\n:INPUT {input} [0:0]\n:FORWARD {forward} [0:0]\n:OUTPUT ACCEPT [0:0]\n:USER - [0:0]\n{rules}\nCOMMIT\n\
         *nat\n:INPUT DROP [0:0]\nCOMMIT\n"
    ));
    filter
}

#[track_caller]
fn check(rules: &str, policies: (&str, &str), packet: &Packet, expected: Option<&str>) {
    let found = iptables(rules, policies.0, policies.1).drops(packet);
    assert_eq!(
        found.as_deref(),
        expected.map(|text| format!("iptables filter {text}")).as_deref(),
        "{rules}"
    );
}

const ACCEPT: (&str, &str) = ("ACCEPT", "ACCEPT");
const DROP: (&str, &str) = ("DROP", "DROP");

#[test]
fn rules_of_iptables_on_tunnel_packets() {
    let packet = tunnel_packet();
    check("", ACCEPT, &packet, None);
    check("", DROP, &packet, Some("INPUT: policy drop"));
    let rule = "-A INPUT -p udp -m udp --dport 8472 -j DROP";
    check(rule, ACCEPT, &packet, Some(&format!("INPUT: {rule}")));
    let rule = "-A INPUT -i eth+ -p udp -m multiport --dports 53,8000:9000 -j REJECT --reject-with icmp-port-unreachable";
    check(rule, ACCEPT, &packet, Some(&format!("INPUT: {rule}")));
    for harmless in [
        "-A INPUT -p tcp -m tcp --dport 8472 -j DROP",
        "-A INPUT -p udp -m udp --dport 4789 -j DROP",
        "-A INPUT -i eth1 -p udp -j DROP",
        "-A INPUT ! -s 192.168.50.0/24 -p udp -j DROP",
        "-A INPUT -m conntrack --ctstate INVALID -j DROP",
        // Not understood, so no proof.
        "-A INPUT -m recent --rcheck --name bad --rsource -j DROP",
        "-A INPUT -p udp -j NFQUEUE --queue-num 0",
    ] {
        check(harmless, ACCEPT, &packet, None);
    }
    let accepted =
        "-A INPUT -m comment --comment \"the -j DROP of a comment\" -p udp -m udp --dport 8472 -j ACCEPT";
    check(accepted, DROP, &packet, None);
    let established = "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
    check(established, DROP, &packet, Some("INPUT: policy drop"));
    check("-A INPUT -m set --match-set nodes src -j ACCEPT", DROP, &packet, None);
    check("-A INPUT -j USER\n-A USER -p udp -j DROP", ACCEPT, &packet, Some("INPUT: -A USER -p udp -j DROP"));
    check("-A INPUT -j USER\n-A USER -s 192.168.50.0/24 -j RETURN\n-A USER -j DROP", ACCEPT, &packet, None);
}

#[test]
fn rules_of_iptables_on_pod_packets() {
    let packet = pod_packet();
    check("", DROP, &packet, Some("FORWARD: policy drop"));
    // As the daemon writes it.
    let ours = "-A FORWARD -m comment --comment \"flanneld forward\" -j USER\n\
                -A USER -s 10.42.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT";
    check(ours, DROP, &packet, None);
    check(
        &format!("-A FORWARD -o cni0 -j DROP\n{ours}"),
        DROP,
        &packet,
        Some("FORWARD: -A FORWARD -o cni0 -j DROP"),
    );
}

fn nftables(text: &str, packet: &Packet) -> Option<String> {
    let mut filter = Filter::default();
    filter.add_nftables(text, Family::V4, true).unwrap();
    filter.drops(packet)
}

/// Texts of nft 1.0.6.
#[test]
fn rules_of_nftables() {
    let chain = |hook: &str, policy: &str| {
        format!(
            r#"{{"metainfo":{{"version":"1.0.6"}}}},{{"table":{{"family":"inet","name":"guard","handle":1}}}},
            {{"chain":{{"family":"inet","table":"guard","name":"c","handle":1,"type":"filter","hook":"{hook}","prio":0,"policy":"{policy}"}}}}"#
        )
    };
    let rule = |expressions: &str| {
        format!(
            r#"{{"rule":{{"family":"inet","table":"guard","chain":"c","handle":4,"expr":[{expressions}]}}}}"#
        )
    };
    let all = |hook: &str, policy: &str, expressions: &str| {
        format!("{{\"nftables\":[{},{}]}}", chain(hook, policy), rule(expressions))
    };
    let port = r#"{"match":{"op":"==","left":{"payload":{"protocol":"udp","field":"dport"}},"right":8472}}"#;
    let packet = tunnel_packet();
    assert_eq!(
        nftables(&all("input", "accept", &format!("{port},{{\"drop\":null}}")), &packet).unwrap(),
        "nft inet guard c: rule 4 (udp dport 8472 drop)"
    );
    assert_eq!(nftables(&all("input", "drop", &format!("{port},{{\"accept\":null}}")), &packet), None);
    assert_eq!(nftables(&all("forward", "accept", &format!("{port},{{\"drop\":null}}")), &packet), None);
    let set = r#"{"match":{"op":"==","left":{"payload":{"protocol":"udp","field":"dport"}},"right":{"set":[53,{"range":[8000,9000]}]}}}"#;
    assert!(nftables(&all("input", "accept", &format!("{set},{{\"drop\":null}}")), &packet).is_some());
    let tcp = r#"{"match":{"op":"!=","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":22}}"#;
    assert_eq!(nftables(&all("input", "accept", &format!("{tcp},{{\"drop\":null}}")), &packet), None);
    let limit = r#"{"limit":{"rate":10,"per":"second"}},{"accept":null}"#;
    assert_eq!(nftables(&all("input", "drop", limit), &packet), None, "perhaps accepted");
    let state = r#"{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}},{"accept":null}"#;
    assert_eq!(nftables(&all("input", "drop", state), &packet).unwrap(), "nft inet guard c: policy drop");
    let from = r#"{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":{"prefix":{"addr":"10.42.0.0","len":16}}}},{"drop":null}"#;
    assert!(nftables(&all("forward", "accept", from), &pod_packet()).is_some());
}
