use super::*;
use crate::config::NetworkConfig;
use insta::assert_snapshot;

fn parse(backend: &str) -> Result<Backend, String> {
    NetworkConfig::parse(&format!(r#"{{"Network": "10.5.0.0/16", "Backend": {backend}}}"#))
        .map(|config| config.backend)
        .map_err(|error| error.to_string())
}

/// The backend and its settings in one line.
fn line(backend: &Backend) -> String {
    let settings: Vec<_> =
        backend.settings().into_iter().map(|Setting { key, value, .. }| format!(" {key}={value}")).collect();
    format!("{}{}", backend.name(), settings.concat())
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
            line(&backend)
        })
        .collect();
    assert_snapshot!(lines.join("\n"), @r#"
    vxlan VNI=1 Port=8472 MTU=of the interface GBP=false Learning=false DirectRouting=false
    host-gw
    wireguard ListenPort=51820 MTU=of the interface PSK=none PersistentKeepaliveInterval=0
    udp Port=8285
    ipip DirectRouting=false
    ipsec UDPEncap=false ESPProposal=aes128gcm16-sha256-prfsha256-ecp256 PSK=(secret)
    alloc
    extension
    tencent-vpc
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
    let lines: Vec<_> = backends.into_iter().map(|backend| line(&backend.unwrap())).collect();
    assert_snapshot!(lines.join("\n"), @r#"
    vxlan VNI=4096 Port=4789 MTU=1400 GBP=true Learning=true DirectRouting=true
    vxlan VNI=1 Port=8472 MTU=of the interface GBP=false Learning=false DirectRouting=false
    wireguard ListenPort=1 MTU=9000 PSK=(secret) PersistentKeepaliveInterval=25
    udp Port=7890
    ipip DirectRouting=true
    ipsec UDPEncap=true ESPProposal=aes256 PSK=(secret)
    extension
    tencent-vpc
    tencent-vpc
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
    let check = |key: &str| parse(&format!(r#"{{"Type": "wireguard", "PSK": "{key}"}}"#));
    assert!(check(KEY).is_ok());
    assert!(check(&"A".repeat(44)).is_err());
    assert!(check(&KEY.replace('H', "%")).is_err());
}
