use super::*;

fn request(members: &str, args: &str) -> Request {
    Request::sample(&format!(r#"{{"cniVersion":"1.0.0","name":"n","type":"bridge"{members}}}"#), "a", args)
}

#[test]
fn flannels_config_is_read() {
    let stock = r#"{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#;
    let stock = Request::sample(stock, "a", "");
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
            masquerade: false,
            masquerade_backend: None,
            layer3: true,
            mac: None,
            dns: None
        }
    );
}

#[test]
fn unknown_keys_are_ignored_and_impossible_values_are_refused() {
    let error = |members: &str| Config::parse(&request(members, "")).err().map(|error| error.msg);
    for members in [
        r#","someKey":{"a":1},"mac":"02:00:00:00:00:09","uplink":null,"_comment":"x""#,
        r#","Bridge":"br1","VLAN":0,"vlanTrunk":null,"mtu":null,"promiscMode":false"#,
        r#","runtimeConfig":{"portMappings":[],"vendor":1},"capabilities":{"mac":true},"args":{"vendor":1}"#,
        r#","ipam":{"type":"host-local","vendor":1}"#,
        r#","ipam":{}"#,
        r#","ipMasq":true,"ipMasqBackend":"nftables""#,
    ] {
        assert_eq!(error(members), None, "{members}");
    }
    for (members, member) in [
        (r#","bridge":1"#, "NetConf.bridge of type string"),
        (r#","mtu":-1"#, "NetConf.mtu of type uint32"),
        (r#","vlan":"5""#, "NetConf.vlan of type int"),
        (r#","vlan":1.5"#, "NetConf.vlan of type int"),
        (r#","vlanTrunk":{}"#, "NetConf.vlanTrunk of type []*bridge.VlanTrunk"),
        (r#","promiscMode":1"#, "NetConf.promiscMode of type bool"),
        (r#","hairpinMode":"true""#, "NetConf.hairpinMode of type bool"),
        (r#","ipam":[]"#, "NetConf.ipam of type map[string]interface {}"),
        (r#","ipam":{"type":1}"#, "NetConf.ipam.type of type string"),
    ] {
        let error = error(members).unwrap();
        assert!(error.starts_with("failed to load netconf: json: cannot unmarshal "), "{error}");
        assert!(error.ends_with(member), "{error}");
    }
}

#[test]
fn the_hardware_address_comes_from_three_places() {
    let mac = |members: &str, args: &str| {
        Config::parse(&request(members, args))
            .map(|config| config.mac.map(|mac| mac.to_string()))
            .map_err(|error| error.msg)
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
        config.check_conflicts(Version::NEWEST).err().map(|error| error.msg)
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
