use super::*;
use insta::assert_snapshot;

const V4: &str = r#"{"Network": "10.5.0.0/16"}"#;
const DUAL: &str = r#"{"Network": "10.42.0.0/16", "EnableIPv6": true, "IPv6Network": "2001:cafe:42::/56"}"#;
const V6: &str = r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "2001:cafe:42::/56"}"#;

fn text(config: &str, key: &str, mtu: u32, ip_masq: bool) -> Result<String, MissingSubnetError> {
    let config = NetworkConfig::parse(config).unwrap();
    let subnets = Subnets::parse_key(key).unwrap();
    SubnetEnv::new(&config, &subnets, mtu, ip_masq).map(|env| env.to_string())
}

#[test]
fn golden_texts() {
    assert_snapshot!(text(V4, "10.5.72.0-24", 1450, false).unwrap(), @r"
    FLANNEL_NETWORK=10.5.0.0/16
    FLANNEL_SUBNET=10.5.72.1/24
    FLANNEL_MTU=1450
    FLANNEL_IPMASQ=false
    ");
    assert_snapshot!(text(DUAL, "10.42.0.0-24&2001:cafe:42::-64", 1450, true).unwrap(), @r"
    FLANNEL_NETWORK=10.42.0.0/16
    FLANNEL_SUBNET=10.42.0.1/24
    FLANNEL_IPV6_NETWORK=2001:cafe:42::/56
    FLANNEL_IPV6_SUBNET=2001:cafe:42::1/64
    FLANNEL_MTU=1450
    FLANNEL_IPMASQ=true
    ");
    let v6 = text(V6, "0.0.0.0-0&2001:cafe:42::-64", 1420, true).unwrap();
    assert_eq!(
        v6,
        "FLANNEL_IPV6_NETWORK=2001:cafe:42::/56\nFLANNEL_IPV6_SUBNET=2001:cafe:42::1/64\nFLANNEL_MTU=1420\nFLANNEL_IPMASQ=true\n"
    );
}

#[test]
fn a_family_without_subnet_is_refused() {
    let error = text(DUAL, "10.42.0.0-24", 1450, true).unwrap_err();
    assert_eq!(error.family, Family::V6);
    assert!(text(V4, "0.0.0.0-0&fc00::-64", 1450, true).is_err());
    // A subnet of a family that is off is not told.
    assert!(!text(V4, "10.5.72.0-24&fc00::-64", 1450, true).unwrap().contains("IPV6"));
}

fn previous(text: &str) -> String {
    let PreviousEnv { networks, subnets } = PreviousEnv::parse(text);
    format!("{networks} {subnets}")
}

#[test]
fn what_is_written_reads_back() {
    let dual = text(DUAL, "10.42.0.0-24&2001:cafe:42::-64", 1450, true).unwrap();
    assert_eq!(previous(&dual), "10.42.0.0-16&2001:cafe:42::-56 10.42.0.0-24&2001:cafe:42::-64");
}

#[test]
fn the_dialect_of_go() {
    for (text, expected) in [
        ("export FLANNEL_SUBNET='10.5.72.1/24' # ours", "0.0.0.0-0 10.5.72.0-24"),
        ("FLANNEL_SUBNET: \"10.5.72.1/24\"\r\n#FLANNEL_SUBNET=10.5.1.1/24", "0.0.0.0-0 10.5.72.0-24"),
        (" FLANNEL_SUBNET = 10.5.72.1/24 # ours", "0.0.0.0-0 10.5.72.0-24"),
        ("FLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_SUBNET=10.5.72.1/24", "0.0.0.0-0 10.5.72.0-24"),
        ("FLANNEL_IPV6_SUBNET:fd00::1/64", "0.0.0.0-0 0.0.0.0-0&fd00::-64"),
        ("FLANNEL_SUBNET=10.5.72.1/24,not-a-cidr", "0.0.0.0-0 10.5.72.0-24"),
        ("FLANNEL_SUBNET=10.244.1.0/24,not-a-cidr,10.244.2.0/24", "0.0.0.0-0 0.0.0.0-0"),
        ("FLANNEL_SUBNET=fd00::1/64\nFLANNEL_IPV6_SUBNET=10.5.72.1/24", "0.0.0.0-0 0.0.0.0-0"),
        ("FLANNEL_SUBNET=not-a-cidr", "0.0.0.0-0 0.0.0.0-0"),
        ("FLANNEL_SUBNET=\"10.5.72.1/24\nno line\n=\n:", "0.0.0.0-0 0.0.0.0-0"),
        ("FLANNEL_SUBNET\nFLANNEL_SUBNET=", "0.0.0.0-0 0.0.0.0-0"),
        ("", "0.0.0.0-0 0.0.0.0-0"),
    ] {
        assert_eq!(previous(text), expected, "{text}");
    }
}

#[test]
fn lists_keep_what_is_readable() {
    let list = |text: &str, key: &str, family| {
        nets(text, key, family).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let text = "FLANNEL_SUBNET=10.244.1.0/24,not-a-cidr,10.244.2.0/24";
    assert_eq!(list(text, "FLANNEL_SUBNET", Family::V4), "10.244.1.0/24 10.244.2.0/24");
    let text = "FLANNEL_IPV6_SUBNET=fd00::/64,not-a-cidr,fd01::/64";
    assert_eq!(list(text, "FLANNEL_IPV6_SUBNET", Family::V6), "fd00::/64 fd01::/64");
}
