use super::*;

fn conf(subnet: &str) -> RangeConf {
    RangeConf { subnet: Some(subnet.parse().unwrap()), ..RangeConf::default() }
}

fn with_ends(subnet: &str, start: &str, end: &str) -> RangeConf {
    let address = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
    RangeConf { start: address(start), end: address(end), ..conf(subnet) }
}

fn candidates(set: &RangeSet, last: &str) -> Vec<String> {
    set.candidates(last.parse().ok()).map(|(address, _)| address.to_string()).collect()
}

#[test]
fn defaults_leave_out_network_gateway_and_broadcast() {
    let set = RangeSet::new(&[conf("10.1.2.0/29")]).unwrap();
    assert_eq!(set.to_string(), "10.1.2.1-10.1.2.6");
    assert_eq!(candidates(&set, ""), ["10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.5", "10.1.2.6"]);
    let set = RangeSet::new(&[conf("2001:db8:1::/126")]).unwrap();
    assert_eq!(candidates(&set, ""), ["2001:db8:1::2", "2001:db8:1::3"], "the last one is usable in IPv6");
}

#[test]
fn candidates_continue_after_the_last_one() {
    let set = RangeSet::new(&[conf("10.1.2.0/30"), conf("10.1.3.0/29")]).unwrap();
    let all = ["10.1.2.2", "10.1.3.2", "10.1.3.3", "10.1.3.4", "10.1.3.5", "10.1.3.6"];
    assert_eq!(candidates(&set, ""), all);
    assert_eq!(candidates(&set, "10.9.9.9"), all, "outside: from the beginning");
    for (at, last) in all.iter().enumerate() {
        let expected: Vec<_> = all.iter().cycle().skip(at + 1).take(all.len()).copied().collect();
        assert_eq!(candidates(&set, last), expected, "{last}");
    }
    let explicit = RangeConf {
        gateway: Some("10.1.2.10".parse().unwrap()),
        ..with_ends("10.1.2.0/24", "10.1.2.9", "10.1.2.11")
    };
    let set = RangeSet::new(&[explicit]).unwrap();
    assert_eq!(candidates(&set, ""), ["10.1.2.9", "10.1.2.11"]);
    let outside = RangeConf { gateway: Some("1.2.3.4".parse().unwrap()), ..conf("10.0.0.0/29") };
    assert_eq!(candidates(&RangeSet::new(&[outside]).unwrap(), "").len(), 6, "nothing is left out");
}

#[test]
fn a_large_range_is_iterated_lazily() {
    let set = RangeSet::new(&[conf("2001:db8::/64")]).unwrap();
    let (first, _) = set.candidates(None).next().unwrap();
    assert_eq!(first.to_string(), "2001:db8::2");
    let last = "2001:db8::ffff:ffff:ffff:ffff".parse().unwrap();
    assert_eq!(set.candidates(Some(last)).next().unwrap().0.to_string(), "2001:db8::2", "round the end");
}

#[test]
fn bad_ranges_are_named() {
    for (confs, error) in [
        (vec![], "empty range set"),
        (vec![RangeConf::default()], "IP <nil> not v4 nor v6: a range needs a subnet, such as 10.1.2.0/24"),
        (vec![conf("10.0.0.0/31")], "Network 10.0.0.0/31 too small to allocate from"),
        (vec![conf("2001:db8::/127")], "Network 2001:db8::/127 too small to allocate from"),
        (
            vec![conf("10.0.0.1/24")],
            "Network has host bits set. For a subnet mask of length 24 the network address is 10.0.0.0",
        ),
        (vec![with_ends("10.0.0.0/24", "10.0.1.1", "")], "RangeStart 10.0.1.1 not in network 10.0.0.0/24"),
        (vec![with_ends("10.0.0.0/24", "", "10.0.1.1")], "RangeEnd 10.0.1.1 not in network 10.0.0.0/24"),
        (
            vec![with_ends("10.0.0.0/24", "10.0.0.9", "10.0.0.5")],
            "RangeEnd 10.0.0.5 not in network 10.0.0.0/24",
        ),
        (vec![conf("10.0.0.0/24"), conf("2001:db8::/64")], "mixed address families"),
        (
            vec![conf("10.0.0.0/24"), conf("10.0.0.128/25")],
            "subnets 10.0.0.1-10.0.0.254 and 10.0.0.129-10.0.0.254 overlap",
        ),
    ] {
        assert_eq!(RangeSet::new(&confs).unwrap_err().msg, error);
    }
    assert!(
        RangeSet::new(&[with_ends("10.0.0.0/24", "10.0.0.0", "10.0.0.255")]).is_ok(),
        "asked for explicitly"
    );
}
