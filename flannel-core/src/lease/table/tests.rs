use super::*;
use crate::lease::{LeaseAttrs, Revision};
use proptest::collection::vec;
use proptest::prelude::*;

fn record(key: &str, public_ip: &str, revision: i64) -> Record {
    Record {
        key: key.to_owned(),
        value: format!(r#"{{"PublicIP":"{public_ip}","PublicIPv6":null}}"#).into_bytes(),
        revision: Revision::new(revision),
        grant: Some(Grant(7)),
        fault: None,
        node: None,
    }
}

/// Changes as `key: before -> after`, with the public addresses.
fn shown(changes: &[PeerChange]) -> Vec<String> {
    let ip = |lease: &Option<Arc<Lease>>| {
        lease.as_ref().and_then(|lease| lease.attrs.public_ip).map_or("-".to_owned(), |ip| ip.to_string())
    };
    changes
        .iter()
        .map(|change| format!("{}: {} -> {}", change.subnets, ip(&change.before), ip(&change.after)))
        .collect()
}

#[test]
fn a_listing_replaces_everything_at_once() {
    let mut table = LeaseTable::default();
    assert!(!table.is_ready());
    let changes = table.replace(&[record("10.5.1.0-24", "1.1.1.1", 1), record("10.5.2.0-24", "1.1.1.2", 2)]);
    assert_eq!(shown(&changes), ["10.5.1.0-24: - -> 1.1.1.1", "10.5.2.0-24: - -> 1.1.1.2"]);
    assert!(table.is_ready());
    let changes = table.replace(&[record("10.5.2.0-24", "1.1.1.9", 4), record("10.5.3.0-24", "1.1.1.3", 5)]);
    assert_eq!(
        shown(&changes),
        ["10.5.2.0-24: 1.1.1.2 -> 1.1.1.9", "10.5.3.0-24: - -> 1.1.1.3", "10.5.1.0-24: 1.1.1.1 -> -"]
    );
}

#[test]
fn a_renewal_that_rewrites_the_same_is_no_change() {
    let mut table = LeaseTable::default();
    table.replace(&[record("10.5.1.0-24", "1.1.1.1", 1)]);
    assert_eq!(table.apply(&Change::Put(record("10.5.1.0-24", "1.1.1.1", 8))), None);
    let entry = table.leases().values().next().unwrap();
    assert_eq!(entry.lease.revision, Revision::new(8));
}

#[test]
fn a_bad_record_is_named_and_hurts_nobody() {
    let mut table = LeaseTable::default();
    let mut broken = record("10.5.1.0-24", "1.1.1.1", 1);
    broken.value = b"{".to_vec();
    let bad_key = record("not-a-key", "1.1.1.1", 1);
    let no_subnet = record("0.0.0.0-0", "1.1.1.1", 1);
    let changes = table.replace(&[broken.clone(), record("10.5.2.0-24", "1.1.1.2", 2), bad_key, no_subnet]);
    assert_eq!(shown(&changes), ["10.5.2.0-24: - -> 1.1.1.2"]);
    let rejected: Vec<&str> = table.rejected().keys().map(String::as_str).collect();
    assert_eq!(rejected, ["0.0.0.0-0", "10.5.1.0-24", "not-a-key"]);
    let reason = &table.rejected()["10.5.1.0-24"];
    assert!(reason.contains("cannot be read: ") && reason.contains("JSON"), "the cause is told: {reason}");
    // Once it is good, or gone, it is no longer named.
    table.apply(&Change::Put(record("10.5.1.0-24", "1.1.1.1", 3)));
    table.apply(&Change::Delete { key: "not-a-key".to_owned() });
    let rejected: Vec<&str> = table.rejected().keys().map(String::as_str).collect();
    assert_eq!(rejected, ["0.0.0.0-0"]);
    // A good record that turns bad no longer says how its node is reached.
    let change = table.apply(&Change::Put(Record { revision: Revision::new(9), ..broken }));
    assert_eq!(shown(change.as_slice()), ["10.5.1.0-24: 1.1.1.1 -> -"]);
}

#[test]
fn a_deletion_is_told_with_the_lease_that_was() {
    let mut table = LeaseTable::default();
    table.replace(&[record("10.5.1.0-24", "1.1.1.1", 1)]);
    let change = table.apply(&Change::Delete { key: "10.5.1.0-24".to_owned() });
    assert_eq!(shown(change.as_slice()), ["10.5.1.0-24: 1.1.1.1 -> -"]);
    assert_eq!(table.apply(&Change::Delete { key: "10.5.1.0-24".to_owned() }), None);
}

#[test]
fn leases_that_share_addresses_with_ours_are_found() {
    let mut table = LeaseTable::default();
    table.replace(&[
        record("10.5.0.0-20", "1.1.1.1", 1),
        record("10.5.1.0-24", "1.1.1.2", 2),
        record("10.5.16.0-24", "1.1.1.3", 3),
    ]);
    let own = Subnets::parse_key("10.5.1.0-24").unwrap();
    let found: Vec<String> = table.overlapping(&own).map(|lease| lease.subnets.to_string()).collect();
    assert_eq!(found, ["10.5.0.0-20"]);
}

proptest! {
    /// The indices of a table find what a search of all leases finds, after any changes.
    #[test]
    fn indices_find_what_a_search_finds(changes in vec(change(), 1..40), asked in (key(), 1..4_u8)) {
        let mut table = LeaseTable::default();
        let half = changes.len() / 2;
        for change in &changes[..half] {
            table.apply(change);
        }
        let records: Vec<Record> = changes[half..].iter().filter_map(|change| match change {
            Change::Put(record) => Some(record.clone()),
            _ => None,
        }).collect();
        table.replace(&records);
        for change in &changes[..half] {
            table.apply(change);
        }
        let (key, host) = asked;
        let subnets = Subnets::parse_key(&key).unwrap();
        let attrs = LeaseAttrs { public_ip: Some([1, 1, 1, host].into()), ..LeaseAttrs::default() };
        let gone = Lease { subnets, attrs, revision: Revision::new(1) };
        let all = || table.leases().values().map(|entry| &entry.lease);
        let expected: Vec<&Arc<Lease>> =
            all().filter(|lease| lease.subnets != subnets && lease.subnets.overlap(&subnets)).collect();
        prop_assert_eq!(table.overlapping(&subnets).collect::<Vec<_>>(), expected);
        prop_assert_eq!(table.has_replaced(&gone), all().any(|lease| gone.is_replaced_by(lease)));
    }
}

fn change() -> impl Strategy<Value = Change> {
    let put = (key(), 1..4_u8).prop_map(|(key, host)| Change::Put(record(&key, &format!("1.1.1.{host}"), 1)));
    prop_oneof![3 => put, 1 => key().prop_map(|key| Change::Delete { key })]
}

/// Keys of one or two families, some with host bits, many of which overlap.
fn key() -> impl Strategy<Value = String> {
    let v4 = (0..4_u8, 0..3_u8, 20..25_u8).prop_map(|(net, host, len)| format!("10.5.{net}.{host}-{len}"));
    let v6 = (0..4_u8, 62..66_u8).prop_map(|(net, len)| format!("fd00:0:0:{net}::-{len}"));
    prop_oneof![
        3 => v4.clone(),
        1 => v6.clone().prop_map(|v6| format!("0.0.0.0-0&{v6}")),
        1 => (v4, v6).prop_map(|(v4, v6)| format!("{v4}&{v6}")),
    ]
}
