use super::*;
use ipnet::{Ipv4Net, Ipv6Net};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

const GOLDEN: &str = r#"{ "Network": "10.3.0.0/16", "SubnetMin": "10.3.1.0", "SubnetMax": "10.3.25.0" }"#;
const DUAL: &str = r#"{"Network": "10.3.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00::/56"}"#;

fn config(text: &str) -> NetworkConfig {
    NetworkConfig::parse(text).unwrap()
}

fn keys(keys: &[&str]) -> Vec<Subnets> {
    keys.iter().map(|key| Subnets::parse_key(key).unwrap()).collect()
}

fn choose_text(text: &str, taken: &[&str], wish: &str, seed: u64) -> String {
    let wish = Subnets::parse_key(wish).ok();
    match choose(&config(text), &keys(taken), wish.as_ref(), seed) {
        Ok(subnets) => subnets.to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn golden_candidates() {
    let taken = ["10.3.1.0-24", "10.3.2.0-24", "10.3.4.0-24", "10.3.5.0-24", "10.3.31.0-24"];
    let chosen: BTreeMap<String, u32> = (0..2100).fold(BTreeMap::new(), |mut chosen, seed| {
        *chosen.entry(choose_text(GOLDEN, &taken, "", seed)).or_default() += 1;
        chosen
    });
    let expected: BTreeSet<String> =
        [3].into_iter().chain(6..=25).map(|third| format!("10.3.{third}.0-24")).collect();
    assert_eq!(chosen.keys().cloned().collect::<BTreeSet<_>>(), expected);
    // 21 candidates, 100 choices each on average; 60 is four standard deviations below.
    assert!(chosen.values().all(|times| (60..150).contains(times)), "{chosen:?}");
    assert_eq!(choose_text(GOLDEN, &taken, "10.3.6.0-24", 1), "10.3.6.0-24");
    assert_ne!(choose_text(GOLDEN, &taken, "10.4.1.0-24", 1), "10.4.1.0-24");
    assert_ne!(choose_text(GOLDEN, &taken, "10.3.4.0-24", 1), "10.3.4.0-24");
}

#[test]
fn wishes_are_kept_by_family() {
    let taken = ["10.3.1.0-24&fd00:0:0:1::-64", "10.3.9.0-24"];
    assert_eq!(choose_text(DUAL, &taken, "10.3.2.0-24&fd00:0:0:2::-64", 1), "10.3.2.0-24&fd00:0:0:2::-64");
    // IPv6 was turned on: the node keeps its IPv4 subnet.
    assert!(choose_text(DUAL, &taken, "10.3.2.0-24", 1).starts_with("10.3.2.0-24&fd00:"));
    // Somebody has one half.
    let chosen = choose_text(DUAL, &taken, "10.3.2.0-24&fd00:0:0:1::-64", 1);
    assert!(chosen.starts_with("10.3.2.0-24&fd00:") && !chosen.ends_with("fd00:0:0:1::-64"), "{chosen}");
    // IPv6 was turned off.
    assert_eq!(choose_text(GOLDEN, &[], "10.3.2.0-24&fd00:0:0:2::-64", 1), "10.3.2.0-24");
    // Another length, or host bits.
    assert_ne!(choose_text(GOLDEN, &[], "10.3.2.0-25", 1), "10.3.2.0-25");
    assert_ne!(choose_text(GOLDEN, &[], "10.3.2.7-24", 1), "10.3.2.7-24");
}

#[test]
fn errors_name_the_cause_and_the_fix() {
    let small = r#"{"Network": "10.3.0.0/22"}"#;
    assert_eq!(
        choose_text(small, &["10.3.1.0-25", "10.3.2.0-24", "10.3.3.64-26", "10.4.0.0-24"], "", 1),
        "no free IPv4 subnet: all 3 of length 24 from 10.3.1.0 to 10.3.3.0 in 10.3.0.0/22 are taken by 3 \
         leases; give the network config a wider range or delete the leases of nodes that are gone"
    );
    assert_eq!(
        choose_text(r#"{"Network":"10.1.0.0/16","SubnetMin":"10.1.9.0","SubnetMax":"10.1.2.0"}"#, &[], "", 1),
        "the network config offers no IPv4 subnet: its first one, 10.1.9.0, is above its last one, 10.1.2.0; \
         swap SubnetMin and SubnetMax"
    );
    assert_eq!(
        choose_text(r#"{"EnableIPv4": false}"#, &[], "", 1),
        "the network config turns both families off: set EnableIPv4 or EnableIPv6 to true in it"
    );
}

#[test]
fn the_top_of_the_address_space_is_the_end() {
    let text = r#"{"Network": "255.255.252.0/22"}"#;
    let chosen: BTreeSet<String> = (0..100).map(|seed| choose_text(text, &[], "", seed)).collect();
    assert_eq!(
        chosen.into_iter().collect::<Vec<_>>(),
        ["255.255.253.0-24", "255.255.254.0-24", "255.255.255.0-24"]
    );
    let text = r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "ffff:ffff:ffff:fffc::/62"}"#;
    let taken = ["0.0.0.0-0&ffff:ffff:ffff:fffd::-64", "0.0.0.0-0&ffff:ffff:ffff:fffe::-64"];
    assert_eq!(choose_text(text, &taken, "", 3), "0.0.0.0-0&ffff:ffff:ffff:ffff::-64");
}

#[test]
fn a_large_network_is_used_to_the_last_subnet() {
    let config = config(r#"{"Network": "10.0.0.0/8"}"#);
    let range = config.range(Family::V4).unwrap();
    let all: Vec<Subnets> = (0..range.count())
        .map(|place| match range.nth(place) {
            Some(IpNet::V4(net)) => Subnets { v4: Some(net), v6: None },
            other => panic!("no IPv4 subnet at {place}: {other:?}"),
        })
        .collect();
    assert_eq!(all.len(), 65_535);
    let (free, taken) = (all[40_000], [&all[..40_000], &all[40_001..]].concat());
    assert_eq!(choose(&config, &taken, None, 5), Ok(free));
    assert!(matches!(choose(&config, &all, None, 5), Err(AllocateError::Full { leases: 65_535, .. })));
}

/// Nodes that all start at once on a store that creates a key once and, in dual stack, only where nothing has changed
/// since the listing.
fn start_together(text: &str, nodes: u64, seed: u64) -> (Vec<Subnets>, u32) {
    let config = config(text);
    let dual = config.has(Family::V4) && config.has(Family::V6);
    let mut store: Vec<Subnets> = Vec::new();
    let mut waiting: Vec<Seed> = (0..nodes).map(|node| Seed::new(seed ^ node << 32)).collect();
    let mut rounds = 0;
    while !waiting.is_empty() {
        rounds += 1;
        let listing = store.clone();
        let mut losers = Vec::new();
        for mut node in waiting {
            let subnets = choose(&config, &listing, None, node.next_u64()).unwrap();
            if store.contains(&subnets) || dual && store.len() > listing.len() {
                losers.push(node);
            } else {
                store.push(subnets);
            }
        }
        waiting = losers;
    }
    (store, rounds)
}

#[test]
fn nodes_that_start_together_all_get_a_subnet() {
    let sixty = r#"{"Network": "10.3.0.0/16", "SubnetMin": "10.3.1.0", "SubnetMax": "10.3.60.0"}"#;
    for seed in 0..50 {
        let (held, rounds) = start_together(sixty, 48, seed);
        assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), 48);
        assert!(rounds <= 10, "seed {seed} took {rounds} rounds");
    }
    // The last node finds the last subnet.
    assert_eq!(start_together(sixty, 60, 1).0.len(), 60);
    let (held, _) = start_together(DUAL, 48, 3);
    for (at, one) in held.iter().enumerate() {
        assert!(held[..at].iter().all(|other| !one.overlap(other)));
    }
}

/// Networks of any length around a small range, so that they often meet.
fn any_subnets() -> impl Strategy<Value = Subnets> {
    let v4 = (0_u32..128, 24_u8..32)
        .prop_map(|(host, len)| Ipv4Net::new(Ipv4Addr::from_bits(0x0a00_0000 | host), len).unwrap());
    let v6 = (0_u128..128, 120_u8..128)
        .prop_map(|(host, len)| Ipv6Net::new(Ipv6Addr::from_bits(0xfd << 120 | host), len).unwrap());
    (proptest::option::of(v4), proptest::option::of(v6)).prop_map(|(v4, v6)| Subnets { v4, v6 })
}

fn any_config() -> impl Strategy<Value = NetworkConfig> {
    (28_u8..=30, 124_u8..=126, 0_usize..3).prop_map(|(len, len6, families)| {
        config(&format!(
            r#"{{"EnableIPv4": {}, "Network": "10.0.0.0/26", "SubnetLen": {len},
                "EnableIPv6": {}, "IPv6Network": "fd00::/122", "IPv6SubnetLen": {len6}}}"#,
            families != 1,
            families != 0
        ))
    })
}

/// All subnets of a family that could be chosen, found one by one.
fn free(range: &SubnetRange, taken: &[Subnets]) -> Vec<IpNet> {
    let overlaps = |a: IpNet, b: IpNet| a.contains(&b.network()) || b.contains(&a.network());
    (0..range.count())
        .filter_map(|place| range.nth(place))
        .filter(|net| {
            !taken.iter().filter_map(|other| other.get(range.family())).any(|other| overlaps(*net, other))
        })
        .collect()
}

proptest! {
    #[test]
    fn chooses_what_a_search_one_by_one_would(
        config in any_config(),
        taken in proptest::collection::vec(any_subnets(), 0..12),
        wish in proptest::option::of(any_subnets()),
        seed: u64,
    ) {
        let candidates: Vec<_> = config.ranges().map(|range| (range, free(range, &taken))).collect();
        match choose(&config, &taken, wish.as_ref(), seed) {
            Ok(chosen) => {
                prop_assert!(config.allows(&chosen));
                for (range, candidates) in candidates {
                    let net = chosen.get(range.family()).unwrap();
                    prop_assert!(candidates.contains(&net));
                    let wished = wish.and_then(|wish| wish.get(range.family()));
                    if let Some(wished) = wished.filter(|wished| candidates.contains(wished)) {
                        prop_assert_eq!(net, wished);
                    }
                }
                prop_assert!(taken.iter().all(|other| !other.overlap(&chosen)));
            }
            Err(AllocateError::Full { range, .. }) => prop_assert!(free(&range, &taken).is_empty()),
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}
