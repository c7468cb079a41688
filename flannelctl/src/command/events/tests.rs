use super::*;
use flannel_core::lease::Revision;
use flannel_core::status::{Firewall, PeerCounts, Round, Store};
use flannel_core::store::Grant;

fn shown(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .map(|event| format!("{} {} {} {}", event.kind, event.event, event.about, event.detail))
        .collect()
}

#[test]
fn changes_of_leases_are_events() {
    let record = |value: &str| {
        Some(Record {
            key: "10.5.3.0-24".to_owned(),
            value: value.into(),
            revision: Revision::new(1),
            grant: Some(Grant(1)),
            fault: None,
            node: None,
        })
    };
    let event =
        |before, after| shown(of_leases(follow::Event::Record { before, after, listed: false }).as_slice());
    assert_eq!(event(None, record("c")), ["lease added 10.5.3.0/24 c"]);
    assert_eq!(event(record("c"), record("d")), ["lease changed 10.5.3.0/24 d"]);
    assert_eq!(event(record("d"), None), ["lease deleted 10.5.3.0/24 "]);
    let listed = follow::Event::Record { before: None, after: record("c"), listed: true };
    assert_eq!(of_leases(listed), None);
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
fn conditions_begin_and_end_and_each_round_is_shown_once() {
    let first = status(&[("store", "away")], &[1]);
    assert_eq!(
        shown(&changes(None, &first)),
        ["condition began store away", "ready ready this node pods can start"]
    );
    assert!(changes(Some(&first), &first).is_empty());
    let other_reason = status(&[("store", "refuses")], &[1]);
    assert_eq!(shown(&changes(Some(&first), &other_reason)), ["condition began store refuses"]);
    let mut later = status(&[], &[1, 0, 2]);
    later.ready = false;
    later.not_ready_reasons = vec!["no lease".to_owned()];
    let found = shown(&changes(Some(&other_reason), &later));
    assert_eq!(found[..2], ["condition ended store ", "ready lost this node no lease"]);
    assert_eq!(found.len(), 3, "a round without changes is no event: {found:?}");
    assert!(found[2].starts_with("round done hint hint: 3 kept, 2 set"), "{found:?}");
}
