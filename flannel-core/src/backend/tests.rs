use super::*;
use crate::config::NetworkConfig;
use insta::assert_snapshot;

fn parse(backend: &str) -> Result<Backend, String> {
    NetworkConfig::parse(&format!(r#"{{"Network": "10.5.0.0/16", "Backend": {backend}}}"#))
        .map(|config| config.backend)
        .map_err(|error| error.to_string())
}

const KEY: &str = "H0Ad2yKBMgfGM6/Yt2dRxd8u+juyViCz3KdJfEdteJ8=";

#[test]
fn defaults() {
    let long = "x".repeat(96);
    let lines: Vec<_> = BACKENDS
        .iter()
        .map(|Entry { name, .. }| {
            let backend = parse(&format!(
                r#"{{"Type": "{name}", "PSK": "{}"}}"#,
                if *name == "ipsec" { &long } else { "" }
            ))
            .unwrap();
            assert_eq!(backend.name(), *name);
            format!("{:?} publishes {:?}", backend, backend.published_type())
        })
        .collect();
    assert_snapshot!(lines.join("\n"), @r#"
    Vxlan(Options { vni: Vni(1), port: None, mtu: None, gbp: false, learning: false, direct_routing: false }) publishes "vxlan"
    HostGw(Options) publishes "host-gw"
    Wireguard(Options { listen_port: 51820, listen_port_v6: 51821, mtu: None, psk: None, persistent_keepalive_secs: 0, mode: Separate }) publishes "wireguard"
    Udp(Options { port: 8285 }) publishes ""
    Ipip(Options { direct_routing: false }) publishes "ipip"
    Ipsec(Options { udp_encap: false, esp_proposal: "aes128gcm16-sha256-prfsha256-ecp256", psk: Secret(…) }) publishes "ipsec"
    Alloc(Options) publishes ""
    Extension(Options { pre_startup_command: "", post_startup_command: "", subnet_add_command: "", subnet_remove_command: "" }) publishes "extension"
    TencentVpc(Options { credentials: None }) publishes ""
    "#);
}

#[test]
fn all_options_in_any_case() {
    let backends = [
        parse(
            r#"{"TYPE": "Vxlan", "vni": 4096, "PORT": 4789, "mtu": 1400, "gbp": true, "learning": true, "directRouting": true, "MacPrefix": "0E-2A", "Name": "x"}"#,
        ),
        parse(r#"{"Type": "vxlan", "VNI": null, "Port": 0}"#),
        parse(&format!(
            r#"{{"Type": "wireguard", "ListenPort": 1, "ListenPortV6": 2, "MTU": 9000, "PSK": "{KEY}", "PersistentKeepaliveInterval": 25, "Mode": "auto"}}"#
        )),
        parse(r#"{"Type": "udp", "Port": 7890}"#),
        parse(r#"{"Type": "ipip", "DirectRouting": true}"#),
        parse(&format!(
            r#"{{"Type": "ipsec", "UDPEncap": true, "ESPProposal": "aes256", "PSK": "{}"}}"#,
            "k".repeat(100)
        )),
        parse(
            r#"{"Type": "extension", "PreStartupCommand": "a", "PostStartupCommand": "b", "SubnetAddCommand": "c", "SubnetRemoveCommand": "d"}"#,
        ),
        parse(r#"{"Type": "tencent-vpc", "AccessKeyID": "id", "AccessKeySecret": "hidden"}"#),
        parse(r#"{"Type": "tencent-vpc", "AccessKeyID": "id"}"#),
    ];
    let lines: Vec<_> = backends.into_iter().map(|backend| format!("{:?}", backend.unwrap())).collect();
    assert_snapshot!(lines.join("\n"), @r#"
    Vxlan(Options { vni: Vni(4096), port: Some(4789), mtu: Some(1400), gbp: true, learning: true, direct_routing: true })
    Vxlan(Options { vni: Vni(1), port: None, mtu: None, gbp: false, learning: false, direct_routing: false })
    Wireguard(Options { listen_port: 1, listen_port_v6: 2, mtu: Some(9000), psk: Some(Key(…)), persistent_keepalive_secs: 25, mode: Auto })
    Udp(Options { port: 7890 })
    Ipip(Options { direct_routing: true })
    Ipsec(Options { udp_encap: true, esp_proposal: "aes256", psk: Secret(…) })
    Extension(Options { pre_startup_command: "a", post_startup_command: "b", subnet_add_command: "c", subnet_remove_command: "d" })
    TencentVpc(Options { credentials: Some(Credentials { access_key_id: "id", access_key_secret: Secret(…) }) })
    TencentVpc(Options { credentials: None })
    "#);
}

#[test]
fn errors_name_the_option_and_hide_secrets() {
    let errors: Vec<_> = [
        r#"{"Type": "vxlan", "VNI": 0}"#,
        r#"{"Type": "vxlan", "VNI": 16777216}"#,
        r#"{"Type": "vxlan", "VNI": "1"}"#,
        r#"{"Type": "vxlan", "VNI": 1.0}"#,
        r#"{"Type": "vxlan", "Port": 65536}"#,
        r#"{"Type": "vxlan", "MTU": 100}"#,
        r#"{"Type": "vxlan", "GBP": "true"}"#,
        r#"{"Type": "udp", "Port": 0}"#,
        r#"{"Type": "wireguard", "Mode": "Auto"}"#,
        r#"{"Type": "wireguard", "PSK": "hidden"}"#,
        r#"{"Type": "wireguard", "PSK": ["hidden"]}"#,
        r#"{"Type": "wireguard", "PersistentKeepaliveInterval": "25"}"#,
        r#"{"Type": "ipsec"}"#,
        r#"{"Type": "ipsec", "PSK": "hidden"}"#,
        r#"{"Type": "extension", "SubnetAddCommand": 5}"#,
    ]
    .into_iter()
    .map(|backend| parse(backend).unwrap_err())
    .collect();
    assert!(errors.iter().all(|error| !error.contains("hidden")));
    assert_snapshot!(errors.join("\n"), @r#"
    Backend.VNI is 0: must be a whole number from 1 to 16777215, without quotes
    Backend.VNI is 16777216: must be a whole number from 1 to 16777215, without quotes
    Backend.VNI is "1": must be a whole number from 1 to 16777215, without quotes
    Backend.VNI is 1.0: must be a whole number from 1 to 16777215, without quotes
    Backend.Port is 65536: must be a whole number from 0 to 65535, without quotes
    Backend.MTU is 100: must be a whole number from 138 to 65535, without quotes
    Backend.GBP is "true": must be true or false, without quotes
    Backend.Port is 0: must be a whole number from 1 to 65535, without quotes
    Backend.Mode is "Auto": must be one of separate, auto, ipv4, ipv6, in small letters
    Backend.PSK is not a WireGuard key: must be 32 bytes in base64, as wg genpsk prints them
    Backend.PSK is an array: must be a string in double quotes
    Backend.PersistentKeepaliveInterval is "25": must be a whole number from 0 to 65535, without quotes
    Backend.PSK is missing: must have at least 96 bytes, such as the output of openssl rand -hex 48
    Backend.PSK is 6 bytes long: must have at least 96 bytes, such as the output of openssl rand -hex 48
    Backend.SubnetAddCommand is 5: must be a string in double quotes
    "#);
}

#[test]
fn ipv6_needs_a_larger_underlay() {
    let text = r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fc00::/48", "Backend": {"Type": "vxlan", "MTU": 1349}}"#;
    assert_eq!(
        NetworkConfig::parse(text).unwrap_err().to_string(),
        "Backend.MTU is 1349: must be a whole number from 1350 to 65535, without quotes"
    );
    assert!(NetworkConfig::parse(&text.replace("1349", "1350")).is_ok());
}

#[test]
fn keys_in_base64() {
    let Ok(Backend::Wireguard(config)) = parse(&format!(r#"{{"Type": "wireguard", "PSK": "{KEY}"}}"#)) else {
        panic!("the key is good")
    };
    let key = config.psk.unwrap().0;
    assert_eq!((key[0], key[1], key[31]), (0x1f, 0x40, 0x9f));
    assert_eq!(wireguard::decode_key(&"A".repeat(44)), None);
    assert_eq!(wireguard::decode_key(&KEY.replace('H', "%")), None);
}
