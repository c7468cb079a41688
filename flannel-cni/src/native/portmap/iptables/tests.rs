use flannel_core::json::Value;

use super::*;
use crate::native::portmap::config::Config;
use crate::request::Request;
use crate::siblings::Siblings;

const OWNER: Owner<'_> = Owner { network: "cbr0", container_id: "cid1", ifname: "eth0" };

fn config(members: &str, mappings: &str) -> Config {
    let text = format!(r#"{{"name":"cbr0","runtimeConfig":{{"portMappings":[{mappings}]}}{members}}}"#);
    let Ok(Value::Object(object)) = Value::parse(text.as_bytes()) else { panic!("{text}") };
    Config::parse(&object).unwrap()
}

fn with_rules<T>(config: &Config, target: &str, work: impl FnOnce(&Rules<'_>) -> T) -> T {
    let request = Request::sample(r#"{"name":"cbr0"}"#, "cid1", "");
    let siblings = Siblings::of(&request.environment);
    work(&Rules { config, owner: OWNER, siblings: &siblings, target: target.parse().unwrap() })
}

fn lines(config: &Config, target: &str) -> String {
    let lines = with_rules(config, target, |rules| rules.own_lines("D").join("\n"));
    lines.replace(r#"-m comment --comment "dnat name: \"cbr0\" id: \"cid1\"""#, "#")
}

const TWO: &str = r#"{"hostPort":8080,"containerPort":80,"protocol":"tcp"},
    {"hostPort":5353,"containerPort":53,"protocol":"udp","hostIP":"192.0.2.1"}"#;

#[test]
fn rules_are_those_of_go() {
    assert_eq!(
        lines(&config("", TWO), "10.244.1.2/24"),
        "D -p tcp --dport 8080 -s 10.244.1.2/24 -j CNI-HOSTPORT-SETMARK\n\
         D -p tcp --dport 8080 -s 127.0.0.1 -j CNI-HOSTPORT-SETMARK\n\
         D -p tcp --dport 8080 -j DNAT --to-destination 10.244.1.2:80\n\
         D -p udp --dport 5353 -d 192.0.2.1 -s 10.244.1.2/24 -j CNI-HOSTPORT-SETMARK\n\
         D -p udp --dport 5353 -d 192.0.2.1 -s 127.0.0.1 -j CNI-HOSTPORT-SETMARK\n\
         D -p udp --dport 5353 -d 192.0.2.1 -j DNAT --to-destination 10.244.1.2:53\n\
         CNI-HOSTPORT-DNAT # -m multiport -p tcp --destination-ports 8080 -j D\n\
         CNI-HOSTPORT-DNAT # -m multiport -p udp --destination-ports 5353 -j D"
    );
    // The entry rule of the other family's port exists as well.
    assert_eq!(
        lines(&config(r#","snat":false"#, TWO), "2001:cafe:42:1::2/64"),
        "D -p tcp --dport 8080 -j DNAT --to-destination [2001:cafe:42:1::2]:80\n\
         CNI-HOSTPORT-DNAT # -m multiport -p tcp --destination-ports 8080 -j D\n\
         CNI-HOSTPORT-DNAT # -m multiport -p udp --destination-ports 5353 -j D"
    );
    let members =
        r#","masqAll":true,"externalSetMarkChain":"KUBE-MARK-MASQ","conditionsV4":["!","-s","10.0.0.0/8"]"#;
    assert_eq!(
        lines(&config(members, r#"{"hostPort":80,"containerPort":80,"protocol":"sctp"}"#), "10.244.1.2/24"),
        "D -p sctp --dport 80 -s 0.0.0.0/0 -j KUBE-MARK-MASQ\n\
         D -p sctp --dport 80 -j DNAT --to-destination 10.244.1.2:80\n\
         CNI-HOSTPORT-DNAT # -m multiport -p sctp --destination-ports 80 ! -s 10.0.0.0/8 -j D"
    );
}

#[test]
fn one_rule_takes_fifteen_ports() {
    let mappings: Vec<String> = (1..=16)
        .map(|port| format!(r#"{{"hostPort":{port},"containerPort":80,"protocol":"tcp"}}"#))
        .collect();
    let lines = lines(&config("", &mappings.join(",")), "10.244.1.2/24");
    let entries: Vec<_> = lines.lines().filter(|line| line.starts_with(ENTRY)).collect();
    assert!(entries[0].contains(" 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15 "), "{}", entries[0]);
    assert!(entries[1].contains("--destination-ports 16 ") && entries.len() == 2);
}

#[test]
fn shared_objects_are_made_once() {
    let config = config(r#","markMasqBit":0"#, TWO);
    let shared = |nat: &Nat| {
        let lines = with_rules(&config, "10.244.1.2/24", |rules| rules.lines(&Shared::of(nat, 1), "D"));
        lines.split("-N D\n").next().unwrap().to_owned()
    };
    assert_eq!(
        shared(&Nat::default()),
        "-N CNI-HOSTPORT-DNAT\n-N CNI-HOSTPORT-SETMARK\n-N CNI-HOSTPORT-MASQ\n\
         -A CNI-HOSTPORT-SETMARK -m comment --comment \"CNI portfwd masquerade mark\" -j MARK --set-xmark 0x1/0x1\n\
         -A CNI-HOSTPORT-MASQ -m mark --mark 0x1/0x1 -j MASQUERADE\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
         -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
         -I POSTROUTING 1 -m comment --comment \"CNI portfwd requiring masquerade\" -j CNI-HOSTPORT-MASQ\n"
    );
    // With the mark of another network, and without one of the jumps.
    let nat = Nat::parse(
        "*nat\n:CNI-HOSTPORT-DNAT - [0:0]\n:CNI-HOSTPORT-SETMARK - [0:0]\n:CNI-HOSTPORT-MASQ - [0:0]\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
         -A POSTROUTING -m comment --comment \"CNI portfwd requiring masquerade\" -j CNI-HOSTPORT-MASQ\n\
         -A CNI-HOSTPORT-SETMARK -j MARK --set-xmark 0x2000/0x2000\n\
         -A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE\n",
    );
    let mark = "CNI-HOSTPORT-SETMARK -m comment --comment \"CNI portfwd masquerade mark\" -j MARK --set-xmark 0x1/0x1";
    let masquerade = "CNI-HOSTPORT-MASQ -m mark --mark 0x1/0x1 -j MASQUERADE";
    let jump = "-A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT";
    assert_eq!(shared(&nat), format!("-A {mark}\n-A {masquerade}\n{jump}\n"));
    // Rules that cannot be decoded.
    let mut nat = nat;
    nat.rules.iter_mut().for_each(|rule| rule.mark = None);
    assert_eq!(shared(&nat), format!("-C {mark}\n-C {masquerade}\n{jump}\n"));
}
