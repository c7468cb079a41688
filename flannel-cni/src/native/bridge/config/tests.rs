use super::*;
use crate::error::chain;

fn object(members: &str) -> Object {
    request(members, "").config
}

fn request(members: &str, args: &str) -> Request {
    Request::sample(&format!(r#"{{"cniVersion":"1.0.0","name":"n","type":"bridge"{members}}}"#), "a", args)
}

#[test]
fn flannels_config_is_supported() {
    let stock = r#"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#;
    let stock = Request::sample(stock, "a", "");
    assert_eq!(check_supported(&stock.config), Ok(()));
    let config = Config::parse(&stock).unwrap();
    assert_eq!(
        config,
        Config {
            bridge: "cni0".parse().unwrap(),
            gateway: true,
            default_gateway: true,
            force_address: false,
            mtu: Some(1450),
            hairpin: true,
            promiscuous: false,
            isolated: false,
            vlans: None,
            spoof_check: false,
            duplicate_detection: false,
            container_down: false,
            masquerade: None,
            layer3: true,
            mac: None,
            dns: None
        }
    );
}

#[test]
fn unsupported_keys_are_never_ignored() {
    for (members, supported) in [
        ("", true),
        (r#","Bridge":"br1","VLAN":0,"vlanTrunk":null,"mtu":null,"promiscMode":false"#, true),
        (
            r#","runtimeConfig":{"portMappings":[]},"capabilities":{"mac":true},"cni.dev/attachments":[]"#,
            true,
        ),
        (r#","ipam":{}"#, true),
        (r#","ipam":{"type":"host-local","DataDir":"/x"}"#, true),
        (r#","ipMasq":true,"ipMasqBackend":"nftables""#, true),
        (r#","ipMasq":1"#, false),
        (r#","vlan":5,"vlanTrunk":[{"id":7}],"preserveDefaultVlan":true"#, true),
        (r#","vlan":5000"#, true),
        (r#","promiscMode":true,"portIsolation":true,"enabledad":true"#, true),
        (r#","disableContainerInterface":true"#, true),
        (r#","vlan":"5""#, false),
        (r#","vlan":1.5"#, false),
        (r#","vlanTrunk":{}"#, false),
        (r#","promiscMode":1"#, false),
        (r#","uplink":"eth0""#, false),
        (r#","macspoofchk":true"#, true),
        (r#","macspoofchk":1"#, false),
        (r#","hairpinMode":"true""#, false),
        (r#","mtu":-1"#, false),
        (r#","vendor":1"#, false),
        (r#","ipam":{"type":"dhcp"}"#, false),
        (r#","ipam":{"type":"host-local","vendor":1}"#, false),
        (r#","ipam":[]"#, false),
    ] {
        assert_eq!(check_supported(&object(members)).is_ok(), supported, "{members}");
    }
    let error = check_supported(&object(r#","vlan":"5""#)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the bridge plugin in flannel does not support \"vlan\" with the value \"5\": it must be a whole number"
    );
    assert_eq!(error.as_cni_error().code, 2);
}

#[test]
fn the_hardware_address_comes_from_three_places() {
    let mac = |members: &str, args: &str| {
        Config::parse(&request(members, args))
            .map(|config| config.mac.map(|mac| mac.to_string()))
            .map_err(|error| chain(&error))
    };
    let runtime = r#","runtimeConfig":{"Mac":"0a:00:00:00:00:01"}"#;
    let args = r#","args":{"cni":{"mac":"0a:00:00:00:00:02"}}"#;
    let all = format!("{runtime}{args}");
    let given = "IgnoreUnknown=1;K8S_POD_NAME=x;MAC=0a:00:00:00:00:03";
    assert_eq!(mac(&all, given), Ok(Some("0a:00:00:00:00:01".to_owned())));
    assert_eq!(mac(args, given), Ok(Some("0a:00:00:00:00:02".to_owned())));
    assert_eq!(mac("", given), Ok(Some("0a:00:00:00:00:03".to_owned())));
    assert_eq!(mac("", ""), Ok(None));
    assert_eq!(
        mac("", "MAC=zz"),
        Err("failed to make veth pair: address zz: invalid MAC address".to_owned())
    );
    assert_eq!(mac("", "IP=1.2.3.4"), Err("ARGS: unknown args [\"IP=1.2.3.4\"]".to_owned()));
}

#[test]
fn exclusive_settings_fail_an_add() {
    let conflict = |members: &str| {
        let config = Config::parse(&request(members, "")).unwrap();
        config.check_conflicts().err().map(|error| error.to_string())
    };
    assert_eq!(conflict(r#","hairpinMode":true,"disableContainerInterface":true"#), None);
    assert_eq!(
        conflict(r#","disableContainerInterface":true,"ipam":{"type":"host-local"}"#),
        Some("cannot use IPAM when DisableContainerInterface flag is set".to_owned())
    );
    assert_eq!(
        conflict(r#","hairpinMode":true,"promiscMode":true"#),
        Some("cannot set hairpin mode and promiscuous mode at the same time".to_owned())
    );
}

#[test]
fn name_resolution_of_the_runtime_comes_first() {
    let members = r#","dns":{"domain":"x"},"runtimeConfig":{"dns":{"servers":["10.0.0.10"],"searches":["a","b"],"options":["ndots:5"]}}"#;
    let dns = Config::parse(&request(members, "")).unwrap().dns.unwrap();
    assert_eq!(dns.nameservers, Some(vec!["10.0.0.10".to_owned()]));
    assert_eq!(dns.search, Some(vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(dns.options, Some(vec!["ndots:5".to_owned()]));
    assert_eq!(dns.domain, "");
    let members = r#","dns":{"domain":"x"},"runtimeConfig":{"dns":{}}"#;
    assert_eq!(Config::parse(&request(members, "")).unwrap().dns.unwrap().domain, "x");
    let members = r#","runtimeConfig":{"dns":{"servers":"10.0.0.10"}}"#;
    assert!(Config::parse(&request(members, "")).is_err());
}

#[test]
fn dns_counts_if_anything_is_there() {
    let dns = |members: &str| Config::parse(&request(members, "")).unwrap().dns.is_some();
    assert!(!dns(r#","dns":{}"#));
    assert!(dns(r#","dns":{"search":[]}"#));
    assert!(dns(r#","dns":{"domain":"x"}"#));
}
