use super::*;
use insta::assert_snapshot;

/// One line that says what a config came to, or the chain of its error.
fn check(text: &str) -> String {
    match NetworkConfig::parse(text) {
        Ok(config) => {
            let ranges: Vec<_> = config
                .ranges()
                .map(|range| {
                    format!("{} {} {}…{} ", range.network(), range.subnet_len(), range.min(), range.max())
                })
                .collect();
            format!("{}{}", ranges.concat(), config.backend.name())
        }
        Err(error) => format!("error: {error}"),
    }
}

fn v4(rest: &str) -> String {
    check(&format!(r#"{{"Network": "10.1.0.0/16", {rest}}}"#))
}

fn v6(rest: &str) -> String {
    check(&format!(r#"{{"EnableIPv4": false, "EnableIPv6": true, {rest}}}"#))
}

#[test]
fn golden_results() {
    for (text, expected) in [
        (r#"{ "network": "10.3.0.0/16" }"#, "10.3.0.0/16 24 10.3.1.0…10.3.255.0 udp"),
        (
            r#"{ "enableIPv6": true, "ipv6Network": "fc00::/48", "enableIPv4": false }"#,
            "fc00::/48 64 fc00:0:0:1::…fc00:0:0:ffff:: udp",
        ),
        (
            r#"{ "Network": "10.3.0.0/16", "SubnetMin": "10.3.5.0", "SubnetMax": "10.3.8.0", "SubnetLen": 28 }"#,
            "10.3.0.0/16 28 10.3.5.0…10.3.8.0 udp",
        ),
        (
            r#"{ "EnableIPv6": true, "IPv6Network": "fc00::/48", "IPv6SubnetMin": "fc00:0:0:1::", "IPv6SubnetMax": "fc00:0:0:f::", "IPv6SubnetLen": 124, "enableIPv4": false }"#,
            "fc00::/48 124 fc00:0:0:1::…fc00:0:0:f:: udp",
        ),
        (r#"{"Network":"10.3.1.5/16"}"#, "10.3.0.0/16 24 10.3.1.0…10.3.255.0 udp"),
        (r#"{"Network":"10.0.0.0/8"}"#, "10.0.0.0/8 24 10.0.1.0…10.255.255.0 udp"),
        (r#"{"Network":"10.0.0.0/08"}"#, "10.0.0.0/8 24 10.0.1.0…10.255.255.0 udp"),
        (
            r#"{"Network":"10.0.0.0/8","SubnetLen":20,"SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0","Backend":{"Type":"udp","Port":7890}}"#,
            "10.0.0.0/8 20 10.10.0.0…10.99.0.0 udp",
        ),
        (r#"{"Network":"10.1.0.0/22"}"#, "10.1.0.0/22 24 10.1.1.0…10.1.3.0 udp"),
        (r#"{"Network":"10.1.0.0/23"}"#, "10.1.0.0/23 25 10.1.0.128…10.1.1.128 udp"),
        (r#"{"Network":"10.1.0.0/24"}"#, "10.1.0.0/24 26 10.1.0.64…10.1.0.192 udp"),
        (r#"{"Network":"10.1.0.0/28"}"#, "10.1.0.0/28 30 10.1.0.4…10.1.0.12 udp"),
        (r#"{"Network":"10.1.0.0/28","SubnetLen":30}"#, "10.1.0.0/28 30 10.1.0.4…10.1.0.12 udp"),
        (r#"{"Network":"10.1.0.0/16","SubnetLen":18}"#, "10.1.0.0/16 18 10.1.64.0…10.1.192.0 udp"),
        (
            r#"{"Network":"10.1.0.0/16","SubnetMin":"10.1.9.0","SubnetMax":"10.1.2.0"}"#,
            "10.1.0.0/16 24 10.1.9.0…10.1.2.0 udp",
        ),
        (r#"{"Network":"10.1.0.0/16","SubnetMin":"10.1.0.0"}"#, "10.1.0.0/16 24 10.1.0.0…10.1.255.0 udp"),
        (r#"{"Network":"10.1.0.0/16","SubnetMin":"0.0.0.0"}"#, "10.1.0.0/16 24 10.1.1.0…10.1.255.0 udp"),
        (r#"{"Network":"240.0.0.0/4"}"#, "240.0.0.0/4 24 240.0.1.0…255.255.255.0 udp"),
        (r#"{"Network":"255.255.0.0/16"}"#, "255.255.0.0/16 24 255.255.1.0…255.255.255.0 udp"),
        (
            r#"{"EnableIPv6":true,"Network":"10.42.0.0/16","IPv6Network":"2001:cafe:42::/56"}"#,
            "10.42.0.0/16 24 10.42.1.0…10.42.255.0 2001:cafe:42::/56 64 2001:cafe:42:1::…2001:cafe:42:ff:: udp",
        ),
        (r#"{"EnableIPv4":false}"#, "udp"),
        (r#"{"Network":"10.7.0.0/16","network":"10.5.0.0/16"}"#, "10.5.0.0/16 24 10.5.1.0…10.5.255.0 udp"),
        (
            r#"{"Network":"10.5.0.0/16","Backend":{"type":"VXLAN"},"BackendType":"ipip"}"#,
            "10.5.0.0/16 24 10.5.1.0…10.5.255.0 vxlan",
        ),
        (
            r#"{"Network":"10.5.0.0/16","EnableIPv4":null,"EnableNFTables":null,"SubnetLen":null,"IPv6SubnetMin":null,"IPv6SubnetMax":null}"#,
            "10.5.0.0/16 24 10.5.1.0…10.5.255.0 udp",
        ),
        (
            r#"{"Network":"\u00310.5.0.0/16", "SubnetMin": "10.5.2.0"}"#,
            "10.5.0.0/16 24 10.5.2.0…10.5.255.0 udp",
        ),
    ] {
        assert_eq!(check(text), expected, "{text}");
    }
}

#[test]
fn golden_results_of_ipv6() {
    for (network, expected) in [
        ("fc00::/62", "fc00::/62 64 fc00:0:0:1::…fc00:0:0:3:: udp"),
        ("fc00::/63", "fc00::/63 65 fc00::8000:0:0:0…fc00:0:0:1:8000:: udp"),
        ("fc00::/64", "fc00::/64 66 fc00::4000:0:0:0…fc00::c000:0:0:0 udp"),
        ("fc00::/124", "fc00::/124 126 fc00::4…fc00::c udp"),
        ("ff00::/8", "ff00::/8 64 ff00:0:0:1::…ffff:ffff:ffff:ffff:: udp"),
    ] {
        assert_eq!(v6(&format!(r#""IPv6Network": "{network}""#)), expected);
    }
    let text = r#""IPv6Network": "fc00::/48", "IPv6SubnetMin": "fc00:0:0:9::", "ipv6subnetmin": null, "IPv6SubnetMax": "::""#;
    assert_eq!(v6(text), "fc00::/48 64 fc00:0:0:1::…fc00:0:0:ffff:: udp");
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of errors")]
fn errors_name_key_value_rule_and_fix() {
    let errors = [
        check(r#"{"Network":"10.1.0.0/29"}"#),
        check(r#"{"Network":"10.1.0.0/29","SubnetLen":30}"#),
        v4(r#""SubnetLen": 31"#),
        v4(r#""SubnetLen": 17"#),
        v4(r#""SubnetLen": 4294967320"#),
        v4(r#""SubnetLen": "24""#),
        v4(r#""SubnetMin": "10.2.0.0""#),
        v4(r#""SubnetMax": "10.2.0.0""#),
        v4(r#""SubnetMin": "10.1.1.5""#),
        v4(r#""SubnetMax": "10.1.9.9""#),
        v4(r#""SubnetMax": "10.1.9.0/24""#),
        check("{}"),
        check("null"),
        check(""),
        check("[]"),
        check(r#"{"Network":"0.0.0.0/0"}"#),
        check(r#"{"Network":"10.1.0.0"}"#),
        check(r#"{"Network":"fc00::/48"}"#),
        check(r#"{"EnableIPv6":true,"IPv6Network":"fc00::/48"}"#),
        v4(r#""EnableIPv6": true"#),
        v6(r#""IPv6Network": "10.0.0.0/8""#),
        v6(r#""IPv6Network": "::ffff:10.0.0.0/104""#),
        v6(r#""IPv6Network": "fc00::/125""#),
        v6(r#""IPv6Network": "fc00::/125", "IPv6SubnetLen": 126"#),
        v6(r#""IPv6Network": "fc00::/48", "IPv6SubnetLen": 127"#),
        v6(r#""IPv6Network": "fc00::/48", "IPv6SubnetLen": 49"#),
        v6(r#""IPv6Network": "fc00::/48", "IPv6SubnetMin": "fd00::""#),
        v6(r#""IPv6Network": "fc00::/48", "IPv6SubnetMax": "fd00::""#),
        v6(r#""IPv6Network": "fc00::/48", "IPv6SubnetMin": "fc00:0:0:1::1""#),
        v6(r#""IPv6Network": "fc00::/48", "IPv6SubnetMax": "fc00:0:0:1::1""#),
        v6(r#""IPv6Network": "::/0""#),
        v4(r#""EnableIPv4": "true""#),
        v4(r#""Backend": null"#),
        v4(r#""Backend": {}"#),
        v4(r#""Backend": {"Type": null}"#),
        v4(r#""Backend": "vxlan""#),
        v4(r#""Backend": []"#),
        v4(r#""Backend": {"Type": 5}"#),
        v4(r#""Backend": {"Type": "vxlam"}"#),
    ];
    assert_snapshot!(errors.join("\n"), @r#"
    error: Network is 10.1.0.0/29, which is too small for four subnets: its prefix length must be at most 28
    error: Network is 10.1.0.0/29, which is too small for four subnets: its prefix length must be at most 28
    error: SubnetLen is 31: must be from 18 (four subnets in 10.1.0.0/16) to 30
    error: SubnetLen is 17: must be from 18 (four subnets in 10.1.0.0/16) to 30
    error: SubnetLen is 4294967320: must be from 18 (four subnets in 10.1.0.0/16) to 30
    error: SubnetLen is "24": must be a whole number without sign, quotes, fraction or exponent
    error: SubnetMin is 10.2.0.0, which is outside 10.1.0.0/16: must be from 10.1.0.0 to 10.1.255.255
    error: SubnetMax is 10.2.0.0, which is outside 10.1.0.0/16: must be from 10.1.0.0 to 10.1.255.255
    error: SubnetMin is 10.1.1.5, which does not start a subnet of length 24: the one around it starts at 10.1.1.0
    error: SubnetMax is 10.1.9.9, which does not start a subnet of length 24: the one around it starts at 10.1.9.0
    error: SubnetMax is "10.1.9.0/24": must be an IPv4 address without prefix length, such as "10.244.1.0"
    error: Network is missing, but IPv4 is on: set Network to a network such as 10.244.0.0/16, or EnableIPv4 to false
    error: Network is missing, but IPv4 is on: set Network to a network such as 10.244.0.0/16, or EnableIPv4 to false
    error: the network config cannot be read
    error: the network config cannot be read
    error: Network is missing, but IPv4 is on: set Network to a network such as 10.244.0.0/16, or EnableIPv4 to false
    error: Network is "10.1.0.0": must be an IPv4 network with its prefix length, such as "10.244.0.0/16"
    error: Network is "fc00::/48": is an IPv6 network: put it under IPv6Network and set EnableIPv6 to true
    error: Network is missing, but IPv4 is on: set Network to a network such as 10.244.0.0/16, or EnableIPv4 to false
    error: IPv6Network is missing, but IPv6 is on: set IPv6Network to a network such as fd00:244::/48, or EnableIPv6 to false
    error: IPv6Network is "10.0.0.0/8": is an IPv4 network: put it under Network
    error: IPv6Network is "::ffff:10.0.0.0/104": embeds IPv4 addresses (RFC 4291 section 2.5.5), which Go nodes write in a form that they cannot read: take another network
    error: IPv6Network is fc00::/125, which is too small for four subnets: its prefix length must be at most 124
    error: IPv6Network is fc00::/125, which is too small for four subnets: its prefix length must be at most 124
    error: IPv6SubnetLen is 127: must be from 50 (four subnets in fc00::/48) to 126
    error: IPv6SubnetLen is 49: must be from 50 (four subnets in fc00::/48) to 126
    error: IPv6SubnetMin is fd00::, which is outside fc00::/48: must be from fc00:: to fc00::ffff:ffff:ffff:ffff:ffff
    error: IPv6SubnetMax is fd00::, which is outside fc00::/48: must be from fc00:: to fc00::ffff:ffff:ffff:ffff:ffff
    error: IPv6SubnetMin is fc00:0:0:1::1, which does not start a subnet of length 64: the one around it starts at fc00:0:0:1::
    error: IPv6SubnetMax is fc00:0:0:1::1, which does not start a subnet of length 64: the one around it starts at fc00:0:0:1::
    error: IPv6Network is missing, but IPv6 is on: set IPv6Network to a network such as fd00:244::/48, or EnableIPv6 to false
    error: EnableIPv4 is "true": must be true or false, without quotes
    error: Backend.Type is missing: must be one of vxlan, host-gw, wireguard, udp, ipip, ipsec, alloc, extension, tencent-vpc
    error: Backend.Type is missing: must be one of vxlan, host-gw, wireguard, udp, ipip, ipsec, alloc, extension, tencent-vpc
    error: Backend.Type is missing: must be one of vxlan, host-gw, wireguard, udp, ipip, ipsec, alloc, extension, tencent-vpc
    error: Backend is a string: must be an object: { … }
    error: Backend is an array: must be an object: { … }
    error: Backend.Type is 5: must be a string in double quotes
    error: Backend.Type is "vxlam": must be one of vxlan, host-gw, wireguard, udp, ipip, ipsec, alloc, extension, tencent-vpc
    "#);
}

#[test]
fn inputs_that_go_refuses() {
    for text in [
        "{} x",
        "\u{feff}{}",
        "{ // comment\n}",
        "\"x\"",
        "5",
        r#"{"Network": null}"#,
        r#"{"Network": ""}"#,
        r#"{"Network": "010.0.0.0/8"}"#,
        r#"{"Network": " 10.0.0.0/8"}"#,
        r#"{"Network": "10.0.0.0/33"}"#,
        r#"{"Network": "10.0.0.0/+8"}"#,
        r#"{"Network": 10}"#,
        r#"{"Network": "10.0.0.0/8", "IPv6Network": null}"#,
        r#"{"Network": "10.0.0.0/8", "IPv6Network": ""}"#,
        r#"{"Network": "10.0.0.0/8", "IPv6Network": "fe80::%eth0/64"}"#,
        r#"{"Network": "10.0.0.0/8", "SubnetMin": null}"#,
        r#"{"Network": "10.0.0.0/8", "SubnetMax": ""}"#,
        r#"{"Network": "10.0.0.0/8", "IPv6SubnetMin": ""}"#,
        r#"{"Network": "10.0.0.0/8", "SubnetLen": 24.0}"#,
        r#"{"Network": "10.0.0.0/8", "SubnetLen": 2.4e1}"#,
        r#"{"Network": "10.0.0.0/8", "SubnetLen": -24}"#,
        r#"{"Network": "10.0.0.0/8", "EnableNFTables": 1}"#,
        r#"{"Network": "10.0.0.0/8", "EnableIPv6": "false"}"#,
        r#"{"Network": "x", "network": "10.0.0.0/8"}"#,
    ] {
        assert!(NetworkConfig::parse(text).is_err(), "{text}");
    }
}

#[test]
fn ranges_count_and_place_their_subnets() {
    let config = NetworkConfig::parse(
        r#"{"Network": "10.3.0.0/16", "SubnetMin": "10.3.1.0", "SubnetMax": "10.3.25.0", "EnableNFTables": true}"#,
    )
    .unwrap();
    assert!(config.enable_nftables);
    let range = config.range(Family::V4).unwrap();
    assert_eq!(range.count(), 25);
    assert_eq!(range.nth(0).unwrap().to_string(), "10.3.1.0/24");
    assert_eq!(range.nth(24).unwrap().to_string(), "10.3.25.0/24");
    assert_eq!(range.nth(25), None);
    let places = |net: &str| range.places_of(net.parse().unwrap());
    assert_eq!(places("10.3.1.128/25"), Some((0, 0)));
    assert_eq!(places("10.3.0.0/20"), Some((0, 14)));
    assert_eq!(places("0.0.0.0/0"), Some((0, 24)));
    assert_eq!(places("10.3.0.0/24"), None);
    assert_eq!(places("10.3.26.0/24"), None);
    assert_eq!(places("fc00::/64"), None);
    let allows = |net: &str| range.allows(net.parse().unwrap());
    assert!(allows("10.3.1.0/24") && allows("10.3.25.0/24"));
    for net in ["10.3.0.0/24", "10.3.26.0/24", "10.3.1.0/25", "10.3.1.7/24", "fc00::/24"] {
        assert!(!allows(net), "{net}");
    }
    let empty = NetworkConfig::parse(
        r#"{"Network": "10.3.0.0/16", "SubnetMin": "10.3.9.0", "SubnetMax": "10.3.1.0"}"#,
    )
    .unwrap();
    let range = empty.range(Family::V4).unwrap();
    assert_eq!((range.count(), range.nth(0)), (0, None));
    assert!(!range.allows("10.3.5.0/24".parse().unwrap()));
}

#[test]
fn a_store_that_assigns_subnets_needs_no_rules_for_them() {
    let parse =
        |text: &str| NetworkConfig::parse_for(text, Ownership::Assigned).map(|config| config.networks());
    for text in [
        r#"{"Network":"10.1.0.0/16","SubnetLen":31}"#,
        r#"{"Network":"10.1.0.0/16","SubnetLen":8}"#,
        r#"{"Network":"10.1.0.0/16","SubnetMin":"10.2.0.0","SubnetMax":"10.1.1.5"}"#,
        r#"{"Network":"10.1.0.0/29"}"#,
        r#"{"Network":"10.1.0.0/32"}"#,
        r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/128"}"#,
    ] {
        assert!(parse(text).is_ok() && NetworkConfig::parse(text).is_err(), "{text}");
    }
    for text in
        [r#"{"Network":"10.1.0.0/16","SubnetLen":"24"}"#, "{}", r#"{"Network":"10.1.0.0/16","SubnetMin":5}"#]
    {
        assert!(parse(text).is_err(), "{text}");
    }
    let config = |len: u8| {
        let text = format!(r#"{{"Network":"10.1.0.0/16","SubnetLen":{len}}}"#);
        NetworkConfig::parse_for(&text, Ownership::Assigned).unwrap()
    };
    let subnets = |key| crate::lease::Subnets::parse_key(key).unwrap();
    assert!(config(26).allows(&subnets("10.1.0.0-24")) && !config(26).allows(&subnets("10.2.0.0-24")));
    assert_eq!(config(24).obstacles(&config(26), Some(&subnets("10.1.1.0-24"))), [""; 0]);
}
