use super::*;

#[test]
fn networks_keep_their_host_bits() {
    for (text, written) in [
        ("10.244.1.1/24", Some("10.244.1.1/24")),
        ("10.0.0.0/08", Some("10.0.0.0/8")),
        ("2001:DB8::/64", Some("2001:db8::/64")),
        ("::ffff:10.1.2.3/120", Some("10.1.2.3/24")),
        ("0.0.0.0/0", Some("0.0.0.0/0")),
        ("10.0.0.0/33", None),
        ("10.0.0.0/+8", None),
        ("010.0.0.0/8", None),
        ("10.0.0.0", None),
        ("10.0.0.0/", None),
        (" 10.0.0.0/8", None),
        ("fe80::1%eth0/64", None),
        ("", None),
    ] {
        let parsed = parse_cidr(text);
        assert_eq!(parsed.as_ref().ok().map(ToString::to_string).as_deref(), written, "{text}");
        if let Err(error) = parsed {
            assert_eq!(error.to_string(), format!("invalid CIDR address: {text}"));
        }
    }
}

#[test]
fn mapped_addresses_are_ipv4() {
    assert_eq!(parse_ip("::ffff:1.2.3.4").unwrap().to_string(), "1.2.3.4");
    assert_eq!(parse_ip("1.2.3").unwrap_err().to_string(), "invalid IP address: 1.2.3");
}
