use super::*;
use proptest::prelude::*;

#[test]
fn golden_keys() {
    for (key, written) in [
        ("10.12.13.0-24", "10.12.13.0-24"),
        ("10.12.13.0-24&fd00:12:13::-56", "10.12.13.0-24&fd00:12:13::-56"),
        ("/coreos.com/network/subnets/10.5.1.0-24", "10.5.1.0-24"),
        ("10.5.1.0-31", "10.5.1.0-31"),
        ("10.5.1.0-24&fc00::-127", "10.5.1.0-24&fc00::-127"),
        ("0.0.0.0-0&fc00::-64", "0.0.0.0-0&fc00::-64"),
        ("0.0.0.0-0", "0.0.0.0-0"),
        ("x10.5.1.0-24", "10.5.1.0-24"),
        ("1.10.5.1.0-24", "10.5.1.0-24"),
        ("/a/1.2.3.4-5/10.5.1.0-24", "10.5.1.0-24"),
        ("a&10.5.1.0-24", "10.5.1.0-24"),
        ("10.5.1.0-024", "10.5.1.0-24"),
        ("10.5.1.7-24", "10.5.1.7-24"),
        ("10.5.1.0-24&fc00:0000:0000:0001::-64", "10.5.1.0-24&fc00:0:0:1::-64"),
        ("10.5.1.0-24&::-0", "10.5.1.0-24"),
        ("10.5.1.0-24&fc00:0:0:1::-0064", "10.5.1.0-24&fc00:0:0:1::-64"),
    ] {
        assert_eq!(Subnets::parse_key(key).unwrap().to_string(), written, "{key}");
    }
    assert!(Subnets::parse_key("0.0.0.0-0").unwrap().is_empty());
    assert_eq!(Subnets::parse_key("0.0.0.0-0&fc00::-64").unwrap().v4, None);
}

#[test]
fn rejected_keys() {
    for key in [
        "",
        "10",
        "10.12.13.0",
        "10.12.13-24",
        "10.12.13.300-24",
        "10.12.13.0-24hi",
        "&2001::-56",
        "10.12.13.0-24&:12:13:-56",
        "10.12.13.0-24&20011::-56",
        "10.12.13.0-24&2001-56",
        "10.12.13.0-24&2001::",
        "10.12.13.0-24&2001::-56hi",
        "10.5.1.0-32",
        "255.255.255.255-32",
        "10.5.1.0-24&fc00::-128",
        "10.5.1.0-24&FC00::-64",
        "10.5.1.0-24&::ffff:1.2.3.4-96",
        "010.5.1.0-24",
        "10x5y1z0-24",
        "10..5.1-24",
        "10.5.1.0-24/",
        "10.5.1.0-24\n",
        "10.5.1.0-99999999999",
        "10.5.1.0-",
        "10.5.1.0-24&",
        "10.5.1.0-+4",
    ] {
        assert!(Subnets::parse_key(key).is_err(), "{key:?}");
    }
    assert_eq!(
        Subnets::parse_key("10.5.1.0-32").unwrap_err().to_string(),
        r#"key "10.5.1.0-32" names no subnet: the IPv4 prefix length must be from 0 to 31"#
    );
}

#[test]
fn overlaps() {
    let check = |a: &str, b: &str| {
        let (a, b) = (Subnets::parse_key(a).unwrap(), Subnets::parse_key(b).unwrap());
        assert_eq!(a.overlap(&b), b.overlap(&a));
        a.overlap(&b)
    };
    assert!(check("1.2.3.0-24", "1.2.3.0-24"));
    assert!(check("1.2.3.0-24", "1.2.0.0-16"));
    assert!(!check("1.2.3.0-24", "1.2.4.0-24"));
    assert!(!check("1.2.3.0-24", "7.2.4.0-22"));
    assert!(check("0.0.0.0-0&fc00:1::-64", "9.9.9.0-24&fc00::-16"));
    assert!(!check("0.0.0.0-0&fc00:1::-64", "9.9.9.0-24&fc00:2::-64"));
    assert!(check("10.5.1.7-24", "10.5.1.128-25"));
    assert!(!check("10.5.1.0-24", "0.0.0.0-0"));
}

proptest! {
    #[test]
    fn keys_read_back(v4: Option<(u32, u8)>, v6: Option<(u128, u8)>) {
        let v4 = v4.map(|(bits, len)| Ipv4Net::new(bits.into(), len % 31 + 1).unwrap());
        // Addresses that embed IPv4 have another text and are never published.
        let v6 = v6.map(|(bits, len)| Ipv6Net::new((bits | 1 << 127).into(), len % 127 + 1).unwrap());
        let subnets = Subnets { v4, v6 };
        prop_assert_eq!(Subnets::parse_key(&subnets.to_string()), Ok(subnets));
    }

    #[test]
    fn any_text_is_read_or_refused(key in "[0-9a-f.:&x-]{0,40}") {
        if let Ok(subnets) = Subnets::parse_key(&key) {
            prop_assert_eq!(Subnets::parse_key(&subnets.to_string()), Ok(subnets));
        }
    }
}
