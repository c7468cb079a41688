//! The golden vectors were recorded from Go flannel.

use super::*;
use flannel_core::family::DualStack;

fn conf(text: &str) -> NetConf {
    let value = Value::parse(text.as_bytes()).unwrap();
    NetConf::parse(value.as_object().unwrap()).unwrap()
}

fn env_v4() -> SubnetEnv {
    SubnetEnv {
        networks: vec!["10.244.0.0/16".parse().unwrap()],
        subnets: DualStack { v4: Some("10.244.1.0/24".parse().unwrap()), v6: None },
        mtu: 1450,
        ip_masq: true,
    }
}

fn env_v6() -> SubnetEnv {
    SubnetEnv {
        networks: vec!["2001:cafe:42::/56".parse().unwrap()],
        subnets: DualStack { v4: None, v6: Some("2001:cafe:42:1::/64".parse().unwrap()) },
        mtu: 1430,
        ip_masq: true,
    }
}

fn env_dual() -> SubnetEnv {
    SubnetEnv {
        networks: [env_v4().networks, env_v6().networks].concat(),
        subnets: DualStack { v4: env_v4().subnets.v4, v6: env_v6().subnets.v6 },
        ..env_v4()
    }
}

fn build(text: &str, env: &SubnetEnv) -> String {
    Value::Object(netconf(&conf(text), env).unwrap()).to_compact()
}

const STOCK: &str = r#"{"cniVersion":"0.3.1","name":"cbr0","type":"flannel","delegate":{"hairpinMode":true,"isDefaultGateway":true}}"#;
const STOCK_V4: &str = r#"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#;

#[test]
fn stock_config_in_all_families() {
    assert_eq!(build(STOCK, &env_v4()), STOCK_V4);
    assert_eq!(
        build(STOCK, &env_v6()),
        r#"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"2001:cafe:42:1::/64"}]],"routes":[{"dst":"2001:cafe:42::/56"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1430,"name":"cbr0","type":"bridge"}"#
    );
    assert_eq!(
        build(STOCK, &env_dual()),
        r#"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}],[{"subnet":"2001:cafe:42:1::/64"}]],"routes":[{"dst":"10.244.0.0/16"},{"dst":"2001:cafe:42::/56"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#
    );
}

#[test]
fn minimal_config() {
    assert_eq!(
        build(r#"{"name":"mynet","type":"flannel"}"#, &env_v4()),
        r#"{"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},"isGateway":true,"mtu":1450,"name":"mynet","type":"bridge"}"#
    );
}

#[test]
fn masquerading_is_done_by_one_of_both() {
    let env = SubnetEnv { ip_masq: false, ..env_v4() };
    assert_eq!(build(STOCK, &env), STOCK_V4.replace(r#""ipMasq":false"#, r#""ipMasq":true"#));
}

#[test]
fn several_networks_make_several_routes() {
    let networks = vec!["10.244.0.0/16".parse().unwrap(), "192.168.0.0/16".parse().unwrap()];
    let env = SubnetEnv { networks, ..env_v4() };
    let routes = r#""routes":[{"dst":"10.244.0.0/16"},{"dst":"192.168.0.0/16"}]"#;
    assert_eq!(build(STOCK, &env), STOCK_V4.replace(r#""routes":[{"dst":"10.244.0.0/16"}]"#, routes));
}

#[test]
fn another_delegate_type() {
    assert_eq!(
        build(
            r#"{"cniVersion":"1.0.0","name":"n","type":"flannel","delegate":{"type":"ipvlan","master":"eth0","mtu":1400,"ipMasq":true}}"#,
            &env_v4()
        ),
        r#"{"cniVersion":"1.0.0","ipMasq":true,"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},"master":"eth0","mtu":1400,"name":"n","type":"ipvlan"}"#
    );
}

#[test]
fn ipam_and_runtime_config_are_merged() {
    let text = r#"{"cniVersion":"1.0.0","name":"n","type":"flannel",
 "ipam":{"type":"my-ipam","unknown-param":"unknown-value","subnet":"1.2.3.0/24","ranges":[[{"subnet":"9.9.9.0/24"}]],
         "routes":[{"dst":"10.96.0.0/12"},{"dst":"192.168.244.5/24","gw":"10.1.17.20","foo":1,"mtu":1300}]},
 "delegate":{"type":"ipvlan","cniVersion":"0.2.0"},
 "runtimeConfig":{"portMappings":[{"HostPort":1}]},
 "dns":{"nameservers":["1.1.1.1"]},"args":{"cni":{"ips":["1.2.3.4"]}}}"#;
    assert_eq!(
        build(text, &env_dual()),
        r#"{"cniVersion":"1.0.0","ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}],[{"subnet":"2001:cafe:42:1::/64"}]],"routes":[{"dst":"10.96.0.0/12"},{"dst":"192.168.244.5/24","gw":"10.1.17.20","mtu":1300},{"dst":"10.244.0.0/16"},{"dst":"2001:cafe:42::/56"}],"subnet":"1.2.3.0/24","type":"my-ipam","unknown-param":"unknown-value"},"mtu":1450,"name":"n","runtimeConfig":{"portMappings":[{"HostPort":1}]},"type":"ipvlan"}"#
    );
}

#[test]
fn encoding_corner_cases() {
    let text = r#"{"cniVersion":"1.0.0","name":"n","type":"flannel","delegate":{"a":"<&>","big":12345678901234567890,"f":1.50,"e":1e21,"n":null,"z":[1,2.0],"runtimeConfig":{"x":1},"mtu":null}}"#;
    assert_eq!(
        build(text, &env_v4()),
        r#"{"a":"\u003c\u0026\u003e","big":12345678901234567000,"cniVersion":"1.0.0","e":1e+21,"f":1.5,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},"isGateway":true,"mtu":null,"n":null,"name":"n","runtimeConfig":{"x":1},"type":"bridge","z":[1,2]}"#
    );
}

#[test]
fn versions_and_names_within_the_delegate() {
    let text = r#"{"name":"n","delegate":{"cniVersion":"1.0.0","Type":"macvlan"}}"#;
    let netconf = netconf(&conf(text), &env_v4()).unwrap();
    assert_eq!(netconf.get("cniVersion"), Some(&Value::from("1.0.0")));
    // Both exist, and the delegate uses the later one.
    assert_eq!(netconf.text("type"), "bridge");
    assert_eq!(netconf.get("Type"), Some(&Value::from("macvlan")));
}

#[test]
fn unusable_sections_are_named() {
    for (text, error) in [
        (r#""delegate":{"type":1}"#, "'delegate' dictionary, if present, must have (string) 'type' field"),
        (r#""delegate":{"type":null}"#, "'delegate' dictionary, if present, must have (string) 'type' field"),
        (
            r#""delegate":{"name":"x"}"#,
            "'delegate' dictionary must not have 'name' field, it'll be set by flannel",
        ),
        (
            r#""delegate":{"ipam":null}"#,
            "'delegate' dictionary must not have 'ipam' field, it'll be set by flannel",
        ),
        (
            r#""ipam":{"routes":[{"gw":"10.0.0.1"}]}"#,
            "failed to assemble Delegate IPAM: failed to read IPAM routes: failed to parse ipam.routes: \
             ipam.routes[0] has no dst: must be an address with its prefix length, such as 10.244.1.2/24",
        ),
        (
            r#""ipam":{"routes":[{"dst":"10.0.0.0"}]}"#,
            "failed to assemble Delegate IPAM: failed to read IPAM routes: failed to parse ipam.routes: \
             invalid CIDR address: 10.0.0.0",
        ),
    ] {
        let conf = conf(&format!(r#"{{"name":"n",{text}}}"#));
        assert_eq!(netconf(&conf, &env_v4()).unwrap_err().msg, error);
        // None of it prevents a DEL from cleaning up.
        assert_eq!(netconf_for_cleaning(&conf, Some(&env_v4())).text("type"), "bridge");
    }
}

#[test]
fn cleaning_up_needs_no_other_key() {
    let netconf = netconf_for_cleaning(&conf(r#"{"name":"n"}"#), None);
    assert_eq!(
        Value::Object(netconf).to_compact(),
        r#"{"ipMasq":true,"ipam":{"ranges":[[{"subnet":"192.0.2.0/24"}]],"routes":[],"type":"host-local"},"isGateway":true,"name":"n","type":"bridge"}"#
    );
}
