use super::*;

#[test]
fn rules_are_read_from_text() {
    let nat = Nat::parse(
        r#"# Generated
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -j ACCEPT
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
:CNI-1 - [0:0]
-A POSTROUTING -s 10.244.1.2/32 -m comment --comment "name: \"cbr0\" id: \"cid1\"" -j CNI-1
-A CNI-1 -d 10.244.1.0/24 -m comment --comment "name: \"cbr0\" id: \"cid1\"" -j ACCEPT
-A CNI-1 ! -d 224.0.0.0/4 -j MASQUERADE
-A CNI-HOSTPORT-DNAT -p udp -m comment --comment "a b" -m multiport --dports 53,54 -j CNI-DN-1
-A CNI-DN-1 -d 192.0.2.1/32 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.244.1.2:80
COMMIT
"#,
    );
    assert_eq!(nat.chains.iter().map(String::as_str).collect::<Vec<_>>(), ["CNI-1", "POSTROUTING"]);
    assert_eq!(nat.rules.len(), 5);
    let jump = &nat.rules[0];
    assert!(jump.jumps_to("CNI-1") && jump.source_address() == Some(IpAddr::from([10, 244, 1, 2])));
    assert_eq!(jump.comment.as_deref(), Some(r#"name: "cbr0" id: "cid1""#));
    assert!(jump.deletion_line().unwrap().starts_with("-D POSTROUTING -s 10.244.1.2/32 -m comment"));
    assert_eq!(nat.rules[1].destination.unwrap().to_string(), "10.244.1.0/24");
    assert_eq!(nat.rules[2].destination, None);
    assert_eq!((nat.rules[3].protocol, nat.rules[3].ports.as_slice()), (Some(17), &[53, 54][..]));
    let last = &nat.rules[4];
    assert_eq!(
        (last.destination.unwrap().addr(), last.ports.as_slice()),
        (IpAddr::from([192, 0, 2, 1]), &[8080][..])
    );
    assert_eq!(last.translated, Some(IpAddr::from([10, 244, 1, 2])));
    assert!(last.jumps_to("DNAT") && last.deletion(Family::V4).is_none());
}

#[test]
fn lists_of_ports_are_understood_and_nothing_else() {
    let mut info = vec![1, 2];
    for port in [8080_u16, 81] {
        info.extend(port.to_ne_bytes());
    }
    info.resize(48, 0);
    assert_eq!(multiport(&info), [8080, 81]);
    for (at, value) in [(0, 0), (32, 1), (47, 1)] {
        let mut other = info.clone();
        other[at] = value;
        assert!(multiport(&other).is_empty(), "{at}");
    }
    for length in 0..47 {
        assert!(multiport(&info[..length]).is_empty());
    }
}

#[test]
fn the_target_of_a_mapping_is_decoded_in_every_form() {
    let text = |text: &str| parse_target(text).map(|ip| ip.to_string());
    assert_eq!(text("10.244.1.2:80").as_deref(), Some("10.244.1.2"));
    assert_eq!(text("[fd00::2]:80").as_deref(), Some("fd00::2"));
    assert_eq!((text("10.244.1.2").as_deref(), text("x")), (Some("10.244.1.2"), None));
    let decoded = |family, content: &[u8]| {
        let mut rule = NatRule::default();
        rule.extension(family, "DNAT".to_owned(), content);
        rule.translated.map(|ip| ip.to_string())
    };
    let mut range = vec![3, 0, 0, 0, 10, 244, 1, 2];
    range.resize(48, 0);
    assert_eq!(decoded(Family::V4, &range).as_deref(), Some("10.244.1.2"));
    range[4..20].copy_from_slice(&"fd00::2".parse::<Ipv6Addr>().unwrap().octets());
    assert_eq!(decoded(Family::V6, &range).as_deref(), Some("fd00::2"));
    let mut compat = vec![1, 0, 0, 0, 3, 0, 0, 0, 10, 244, 1, 2];
    compat.resize(24, 0);
    assert_eq!(decoded(Family::V4, &compat).as_deref(), Some("10.244.1.2"));
    assert_eq!(decoded(Family::V4, &[1, 2]), None);
}
