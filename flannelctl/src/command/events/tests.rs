use super::*;
use flannel_core::lease::Revision;
use flannel_core::status::{Firewall, PeerCounts, Round, Store};
use flannel_core::store::{Grant, Listing};

fn record(key: &str, value: &str) -> Record {
    Record { key: key.to_owned(), value: value.into(), revision: Revision(1), grant: Some(Grant(1)) }
}

fn told(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .map(|event| format!("{} {} {} {}", event.kind, event.event, event.about, event.detail))
        .collect()
}

#[test]
fn leases_that_stand_are_no_event_and_changes_are() {
    let mut known = None;
    let mut tell = |update| told(&lease_events(&mut known, update));
    let listing = |records: &[Record]| {
        Update::Listing(Listing { revision: Revision(1), config: None, records: records.to_vec() })
    };
    let changes = |changes| Update::Changes { revision: Revision(2), changes };
    assert!(tell(listing(&[record("10.5.1.0-24", "a"), record("10.5.2.0-24", "b")])).is_empty());
    assert_eq!(tell(changes(vec![Change::Put(record("10.5.3.0-24", "c"))])), ["lease added 10.5.3.0/24 c"]);
    assert!(tell(changes(vec![Change::Put(record("10.5.3.0-24", "c"))])).is_empty(), "a renewal");
    assert_eq!(tell(changes(vec![Change::Put(record("10.5.3.0-24", "d"))])), ["lease changed 10.5.3.0/24 d"]);
    assert_eq!(
        tell(changes(vec![Change::Delete { key: "10.5.1.0-24".to_owned() }])),
        ["lease deleted 10.5.1.0/24 "]
    );
    // After a break: a listing in place of what was missed.
    assert_eq!(
        tell(listing(&[record("10.5.3.0-24", "d"), record("10.5.4.0-24", "e")])),
        ["lease deleted 10.5.2.0/24 ", "lease added 10.5.4.0/24 e"]
    );
}

fn status(conditions: &[(&str, &str)], rounds: &[u64]) -> Status {
    let condition = |(about, reason): &(&str, &str)| Condition {
        about: (*about).to_owned(),
        reason: (*reason).to_owned(),
    };
    let round = |set: &u64| Round {
        reason: "hint".to_owned(),
        at_unix_seconds: *set,
        elapsed_milliseconds: 1,
        kept: 3,
        set: *set,
        deleted: 0,
        failed: 0,
    };
    Status {
        version: "1".to_owned(),
        pid: 1,
        started_at_unix_seconds: 0,
        uptime_seconds: 0,
        ready: true,
        not_ready_reasons: Vec::new(),
        conditions: conditions.iter().map(condition).collect(),
        store: Store {
            kind: "etcd".to_owned(),
            location: String::new(),
            up: true,
            revision: None,
            last_request: None,
            requests: 0,
            errors: 0,
            listings: 0,
            watch_restarts: 0,
        },
        config_revision: None,
        backend: None,
        lease: None,
        interface: None,
        pod_mtu_bytes: None,
        tunnels: Vec::new(),
        peers: PeerCounts::default(),
        allocation: Vec::new(),
        rounds: rounds.iter().map(round).collect(),
        last_lease_change: None,
        last_success_at_unix_seconds: None,
        failing_ops: Vec::new(),
        firewall: Firewall::default(),
    }
}

#[test]
fn conditions_begin_and_end_and_rounds_are_told_once() {
    let first = status(&[("store", "away")], &[1]);
    assert_eq!(
        told(&changes(None, &first)),
        ["condition began store away", "ready ready this node pods can be served"]
    );
    assert!(changes(Some(&first), &first).is_empty());
    let other_reason = status(&[("store", "refuses")], &[1]);
    assert_eq!(told(&changes(Some(&first), &other_reason)), ["condition began store refuses"]);
    let mut later = status(&[], &[1, 0, 2]);
    later.ready = false;
    later.not_ready_reasons = vec!["no lease".to_owned()];
    let found = told(&changes(Some(&other_reason), &later));
    assert_eq!(found[..2], ["condition ended store it is all right again", "ready lost this node no lease"]);
    assert_eq!(found.len(), 3, "the round that did nothing is none: {found:?}");
    assert!(found[2].starts_with("round done hint hint: 3 kept, 2 set"), "{found:?}");
}
