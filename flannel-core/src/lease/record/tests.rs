use super::*;
use proptest::prelude::*;
use std::net::Ipv6Addr;

const GOLDEN: [&str; 14] = [
    r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#,
    r#"{"PublicIP":"192.168.64.3","PublicIPv6":"fd00::3","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"},"BackendV6Data":{"VNI":1,"VtepMAC":"d2:00:00:00:00:01"}}"#,
    r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::3","BackendType":"vxlan","BackendV6Data":{"VNI":1,"VtepMAC":"d2:00:00:00:00:01"}}"#,
    r#"{"PublicIP":"10.0.0.1","PublicIPv6":null,"BackendType":"wireguard","BackendData":{"PublicKey":"H0Ad2yKBMgfGM6/Yt2dRxd8u+juyViCz3KdJfEdteJ8=","Port":51820}}"#,
    r#"{"PublicIP":"10.0.0.1","PublicIPv6":"fd00::3","BackendType":"wireguard","BackendData":{"PublicKey":"k","Port":51820},"BackendV6Data":{"PublicKey":"k","Port":51821}}"#,
    r#"{"PublicIP":"10.0.0.1","PublicIPv6":null,"BackendType":"host-gw"}"#,
    r#"{"PublicIP":"10.0.0.1","PublicIPv6":"fd00::3","BackendType":"host-gw"}"#,
    r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd00::3","BackendType":"host-gw"}"#,
    r#"{"PublicIP":"10.0.0.1","PublicIPv6":null,"BackendType":"ipip"}"#,
    r#"{"PublicIP":"10.0.0.1","PublicIPv6":null,"BackendType":"ipsec"}"#,
    r#"{"PublicIP":"10.0.0.1","PublicIPv6":null}"#,
    r#"{"PublicIP":"10.0.0.1","PublicIPv6":null,"BackendType":"extension"}"#,
    r#"{"PublicIP":"10.0.0.1","PublicIPv6":null,"BackendType":"extension","BackendData":"96:59:b2:3f:04:ee"}"#,
    r#"{"PublicIP":"10.0.0.1","PublicIPv6":null,"BackendType":"extension","BackendData":"a\u003cb \u0026 \"c\""}"#,
];

fn parse(text: &str) -> LeaseAttrs {
    LeaseAttrs::parse(text.as_bytes()).unwrap()
}

#[test]
fn golden_records_read_and_write_back() {
    for text in GOLDEN {
        assert_eq!(parse(text).to_json(), text);
    }
    assert_eq!(parse(GOLDEN[1]).public_ipv6, Some("fd00::3".parse().unwrap()));
    assert_eq!(parse(GOLDEN[2]).public_ip, None);
}

#[test]
fn attributes_are_written_as_go_writes_them() {
    let attrs = LeaseAttrs {
        public_ip: Some(Ipv4Addr::new(10, 0, 0, 1)),
        backend_type: "a<b".to_owned(),
        backend_data: Some(RawValue::from_string(" { \"a\" : \"<\" } ".trim().to_owned()).unwrap()),
        ..LeaseAttrs::default()
    };
    assert_eq!(
        attrs.to_json(),
        r#"{"PublicIP":"10.0.0.1","PublicIPv6":null,"BackendType":"a\u003cb","BackendData":{"a":"\u003c"}}"#
    );
    assert_eq!(LeaseAttrs::default().to_json(), r#"{"PublicIP":"0.0.0.0","PublicIPv6":null}"#);
}

#[test]
fn tolerated_forms() {
    for (text, written) in [
        ("{}", r#"{"PublicIP":"0.0.0.0","PublicIPv6":null}"#),
        ("null", r#"{"PublicIP":"0.0.0.0","PublicIPv6":null}"#),
        (
            r#"{"publicip": "1.2.3.4", "new": [], "BACKENDTYPE": "vxlan"}"#,
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"vxlan"}"#,
        ),
        (r#"{"PublicIP": "::ffff:1.2.3.4"}"#, r#"{"PublicIP":"1.2.3.4","PublicIPv6":null}"#),
        (
            r#"{"PublicIP": "1.2.3.4", "PublicIP": "1.2.3.5", "BackendType": null}"#,
            r#"{"PublicIP":"1.2.3.5","PublicIPv6":null}"#,
        ),
        (
            r#"{"PublicIP": "1.2.3.4", "BackendData": null, "BackendV6Data": [1, 2]}"#,
            r#"{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendData":null,"BackendV6Data":[1,2]}"#,
        ),
    ] {
        assert_eq!(parse(text).to_json(), written, "{text}");
    }
    let mapped = parse(r#"{"PublicIPv6": "1.2.3.4"}"#).public_ipv6;
    assert_eq!(mapped, Some(Ipv4Addr::new(1, 2, 3, 4).to_ipv6_mapped()));
}

#[test]
fn unusable_records() {
    for text in [
        "",
        "x",
        "[]",
        r#"{"PublicIP": null}"#,
        r#"{"PublicIP": ""}"#,
        r#"{"PublicIP": "fd00::3"}"#,
        r#"{"PublicIP": "1.2.3"}"#,
        r#"{"PublicIP": 16909060}"#,
        r#"{"PublicIPv6": ""}"#,
        r#"{"BackendType": 5}"#,
    ] {
        assert!(LeaseAttrs::parse(text.as_bytes()).is_err(), "{text}");
    }
    assert!(LeaseAttrs::parse(b"\xff\xfe").is_err());
    assert_eq!(
        LeaseAttrs::parse(br#"{"PublicIP": "fd00::3"}"#).unwrap_err().to_string(),
        r#"PublicIP is "fd00::3": must be an IPv4 address such as "192.168.64.3""#
    );
}

proptest! {
    #[test]
    fn records_read_back(ip: u32, ipv6: Option<u128>, backend_type in "[a-z<&é\"-]{0,8}", data in ".{0,12}") {
        let attrs = LeaseAttrs {
            public_ip: Some(Ipv4Addr::from(ip)).filter(|ip| !ip.is_unspecified()),
            public_ipv6: ipv6.map(Ipv6Addr::from).filter(|ip| !ip.is_unspecified()),
            backend_type,
            backend_data: {
                let mut text = String::new();
                json::write_string(&mut text, &data);
                RawValue::from_string(text).ok()
            },
            backend_v6_data: None,
        };
        prop_assert_eq!(parse(&attrs.to_json()), attrs);
    }
}
