use super::*;

const LONG: &str = "icee6giejonei6sohng6ahngee7laquohquee9shiGo7fohferakah3Feiyoolu2pei7ciPhoh7shaoX6vai3vuf0ahfaeng8yohb9ceu0daez5hashee8ooYai5wa3y";

const fn owner<'a>(network: &'a str, ifname: &'a str, container_id: &'a str) -> Owner<'a> {
    Owner { network, container_id, ifname }
}

#[test]
fn names_are_those_of_go() {
    let cid1 = owner("cbr0", "eth0", "cid1");
    assert_eq!(cid1.masquerade_chain(), "CNI-4c7c118642e0d78610143dd0");
    assert_eq!(cid1.mapping_chain(), "CNI-DN-4c7c118642e0d78610143");
    assert_eq!(cid1.historic_mapping_chain(), "CNI-SN-4c7c118642e0d78610143");
    assert_eq!(cid1.masquerade_key(), "cb6e746fae1a4d6c-0b65a318f52e521b");
    assert_eq!(cid1.masquerade_comment(), "cb6e746fae1a4d6c-0b65a318f52e521b, net: cbr0, if: eth0, id: cid1");
    assert_eq!(cid1.comment(), r#"name: "cbr0" id: "cid1""#);
    let id = "8f0c3a1d5b7e9f2046c8e1a3b5d7f9012345678990abcdef1234567890abcdef";
    let long = owner("cbr0", "eth0", id);
    assert_eq!(long.masquerade_chain(), "CNI-2aa7f333ea693f2b41c88f74");
    assert_eq!(long.mapping_chain(), "CNI-DN-2aa7f333ea693f2b41c88");
    assert_eq!(long.masquerade_key(), "cb6e746fae1a4d6c-b6fbca0678bbd5cc");
    assert_eq!(owner("testNetName", "", LONG).mapping_chain(), "CNI-DN-bfd599665540dd91d5d28");
    assert_eq!(owner("test", "", LONG).mapping_chain(), "CNI-DN-67e92b96e692a494b6b85");
    for (network, ifname, id, key) in [
        ("unit-test", "eth0", "one", "6fd94d501e58f0aa-287fc69eff0574a2"),
        ("alternate", "net1", "three", "82783ef24bdc7036-acb19d111858e348"),
    ] {
        assert_eq!(owner(network, ifname, id).masquerade_key(), key);
    }
}

#[test]
fn comments_keep_within_their_limits_and_tell_their_owner() {
    let owner_of_much = owner("cbr0", "eth0", LONG);
    assert_eq!(owner_of_much.masquerade_comment().len(), 127);
    let longer = LONG.repeat(2);
    let cut = owner("cbr0", "eth0", &longer).mapping_comment();
    assert!(cut.len() == 256 && cut.ends_with("..."), "{cut}");
    for comment in [owner_of_much.comment(), owner_of_much.mapping_comment()] {
        assert_eq!(parse_comment(&comment), Some(("cbr0", LONG)));
    }
    assert_eq!(parse_comment("CNI portfwd masquerade mark"), None);
}

#[test]
fn only_owned_chains_are_recognized() {
    let cid1 = owner("cbr0", "eth0", "cid1");
    assert!(is_masquerade_chain(&cid1.masquerade_chain()) && !is_masquerade_chain(&cid1.mapping_chain()));
    assert!(is_mapping_chain(&cid1.mapping_chain()) && !is_mapping_chain(&cid1.masquerade_chain()));
    assert!(!is_masquerade_chain("CNI-HOSTPORT-MASQ") && !is_mapping_chain("CNI-DN-XYZ"));
}
