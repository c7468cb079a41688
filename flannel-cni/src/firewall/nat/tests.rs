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
