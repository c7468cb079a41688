use super::*;

/// Reads in one version and prints in another.
fn convert(text: &str, to: Version) -> Result<String, String> {
    let result = CniResult::parse(text.as_bytes(), "0.1.0").map_err(|error| error.msg)?;
    result.to_value(to).map(|value| value.to_compact()).map_err(|error| error.msg)
}

const V1_1_0: &str = concat!(
    r#"{"cniVersion":"1.1.0","dns":{"nameservers":["1.1.1.1"]},"#,
    r#""interfaces":[{"mac":"0e:ed:59:6c:8e:99","name":"cni0"},"#,
    r#"{"mac":"06:9d:c4:ef:ca:7b","mtu":1450,"name":"eth0","pciID":"p","sandbox":"/run/netns/pod1","socketPath":"s"}],"#,
    r#""ips":[{"address":"10.244.1.2/24","gateway":"10.244.1.1","interface":0},"#,
    r#"{"address":"10.245.1.2/24","interface":1},"#,
    r#"{"address":"2001:cafe:42:1::2/64","gateway":"2001:cafe:42:1::1"}],"#,
    r#""routes":[{"advmss":1400,"dst":"10.244.0.0/16","gw":"10.244.1.1","mtu":1300,"priority":5,"scope":0,"table":7},"#,
    r#"{"dst":"::/0","gw":"2001:cafe:42:1::1"}]}"#
);

const V0_4_0: &str = concat!(
    r#"{"cniVersion":"0.4.0","interfaces":[{"name":"cni0","mac":"0e:ed:59:6c:8e:99"},"#,
    r#"{"name":"eth0","mac":"06:9d:c4:ef:ca:7b","sandbox":"/run/netns/pod1"}],"#,
    r#""ips":[{"version":"4","interface":0,"address":"10.244.1.2/24","gateway":"10.244.1.1"},"#,
    r#"{"version":"4","interface":1,"address":"10.245.1.2/24"},"#,
    r#"{"version":"6","address":"2001:cafe:42:1::2/64","gateway":"2001:cafe:42:1::1"}],"#,
    r#""routes":[{"dst":"10.244.0.0/16","gw":"10.244.1.1","mtu":1300,"advmss":1400,"priority":5,"table":7,"scope":0},"#,
    r#"{"dst":"::/0","gw":"2001:cafe:42:1::1"}],"dns":{"nameservers":["1.1.1.1"]}}"#
);

const V0_2_0: &str = concat!(
    r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.244.1.2/24","gateway":"10.244.1.1","#,
    r#""routes":[{"dst":"10.244.0.0/16","gw":"10.244.1.1"}]},"#,
    r#""ip6":{"ip":"2001:cafe:42:1::2/64","gateway":"2001:cafe:42:1::1","#,
    r#""routes":[{"dst":"::/0","gw":"2001:cafe:42:1::1"}]},"dns":{"nameservers":["1.1.1.1"]}}"#
);

#[test]
fn every_version_prints_as_go_prints_it() {
    assert_eq!(convert(V1_1_0, Version::V1_1_0).unwrap(), V1_1_0);
    assert_eq!(convert(V1_1_0, Version::V1_0_0).unwrap(), V1_1_0.replace("1.1.0", "1.0.0"));
    for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0] {
        assert_eq!(convert(V1_1_0, version).unwrap(), V0_4_0.replace("0.4.0", version.as_str()));
        assert_eq!(convert(V0_4_0, version).unwrap(), V0_4_0.replace("0.4.0", version.as_str()));
    }
    for version in [Version::V0_1_0, Version::V0_2_0] {
        for from in [V1_1_0, V0_4_0, V0_2_0] {
            assert_eq!(convert(from, version).unwrap(), V0_2_0.replace("0.2.0", version.as_str()));
        }
    }
}

#[test]
fn old_results_become_new_ones() {
    assert_eq!(
        convert(V0_2_0, Version::V1_0_0).unwrap(),
        concat!(
            r#"{"cniVersion":"1.0.0","dns":{"nameservers":["1.1.1.1"]},"#,
            r#""ips":[{"address":"10.244.1.2/24","gateway":"10.244.1.1"},"#,
            r#"{"address":"2001:cafe:42:1::2/64","gateway":"2001:cafe:42:1::1"}],"#,
            r#""routes":[{"dst":"10.244.0.0/16","gw":"10.244.1.1"},{"dst":"::/0","gw":"2001:cafe:42:1::1"}]}"#
        )
    );
}

#[test]
fn empty_results() {
    assert_eq!(convert("null", Version::V0_1_0).unwrap(), r#"{"cniVersion":"0.1.0","dns":{}}"#);
    assert_eq!(convert("{}", Version::V0_3_1).unwrap(), r#"{"cniVersion":"0.3.1","dns":{}}"#);
    assert_eq!(convert(r#"{"dns":{"search":[]}}"#, Version::V1_1_0).unwrap(), r#"{"cniVersion":"1.1.0"}"#);
    let layer2 = r#"{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}]}"#;
    assert_eq!(convert(layer2, Version::V0_2_0), Err("cannot convert: no valid IP addresses".to_owned()));
}

#[test]
fn unusable_results_say_why() {
    for (text, error) in [
        ("", "failed to unmarshal raw result: EOF while parsing a value at line 1 column 0"),
        (r#"{"cniVersion":"2.0.0"}"#, "unsupported CNI result version \"2.0.0\""),
        (r#"{"cniVersion":"1.0.0","ips":[{"address":"x"}]}"#, "invalid CIDR address: x"),
        (r#"{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.1/8","gateway":"x"}]}"#, "invalid IP address: x"),
        (
            r#"{"cniVersion":"1.0.0","ips":[{}]}"#,
            "Result.ips[0] has no address: must be an address with its prefix length, such as 10.244.1.2/24",
        ),
        (
            r#"{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.1/8","interface":1.5}]}"#,
            "json: cannot unmarshal number 1.5 into Go struct field Result.ips[0].interface of type int",
        ),
    ] {
        assert_eq!(convert(text, Version::V1_0_0), Err(error.to_owned()), "{text}");
    }
}

#[test]
fn a_result_without_version_has_that_of_the_config() {
    let text = br#"{"ips":[{"address":"10.0.0.1/8","gateway":""}],"unknown":1}"#;
    assert_eq!(CniResult::parse(text, "0.4.0").unwrap().ips.len(), 1);
    // Version 0.1.0 has no such list.
    assert_eq!(CniResult::parse(text, "").unwrap(), CniResult::default());
}

#[test]
fn a_prev_result_has_a_version_of_the_same_shape() {
    let parse = |text: &str, version| {
        let value = Value::parse(text.as_bytes()).unwrap();
        CniResult::from_prev_result(value.as_object().unwrap(), version).map_err(|error| error.msg)
    };
    assert!(parse(V1_1_0, Version::V1_0_0).is_ok());
    assert!(parse(r#"{"cniVersion":null}"#, Version::V1_0_0).is_ok());
    assert_eq!(
        parse(V0_4_0, Version::V1_1_0),
        Err("could not parse prevResult: result type supports [1.0.0 1.1.0] but unmarshalled CNIVersion is \"0.4.0\""
            .to_owned())
    );
    assert!(parse(r#"{"cniVersion":""}"#, Version::V0_3_1).is_err());
    assert!(parse(r#"{"cniVersion":""}"#, Version::V0_2_0).is_ok());
}
