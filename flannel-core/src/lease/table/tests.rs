use super::*;
use crate::lease::Revision;

fn record(key: &str, public_ip: &str, revision: i64) -> Record {
    Record {
        key: key.to_owned(),
        value: format!(r#"{{"PublicIP":"{public_ip}","PublicIPv6":null}}"#).into_bytes(),
        revision: Revision::new(revision),
        grant: Some(Grant(7)),
        fault: None,
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
