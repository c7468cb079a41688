use super::*;
use flannel_core::lease::Revision;
use flannel_core::store::{Grant, Listing};

fn record(key: &str, value: &str) -> Record {
    Record {
        key: key.to_owned(),
        value: value.into(),
        revision: Revision::new(1),
        grant: Some(Grant(1)),
        fault: None,
        node: None,
    }
}

fn shown(events: &[Event]) -> Vec<String> {
    let text = |record: &Option<Record>| {
        record.as_ref().map_or("-".to_owned(), |record| {
            format!("{}={}", record.key, String::from_utf8_lossy(&record.value))
        })
    };
    events
        .iter()
        .map(|event| match event {
            Event::Record { before, after, listed: false } => format!("{} {}", text(before), text(after)),
            Event::Record { after, .. } => format!("listed {}", text(after)),
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn renewals_are_no_events() {
    let mut known = None;
    let mut next = |update| shown(&events_of(&mut known, update));
    let listing = |records: &[Record]| Update::Listing {
        listing: Listing {
            revision: Revision::new(1),
            config: None,
            records: records.to_vec(),
            ..Listing::default()
        },
        is_other_store: false,
    };
    let put = |record| Update::Changes { revision: Revision::new(2), changes: vec![Change::Put(record)] };
    assert_eq!(
        next(listing(&[record("10.5.2.0-24", "b"), record("10.5.1.0-24", "a")])),
        ["Listed", "listed 10.5.1.0-24=a", "listed 10.5.2.0-24=b"]
    );
    assert_eq!(next(put(record("10.5.3.0-24", "c"))), ["- 10.5.3.0-24=c"]);
    assert!(next(put(record("10.5.3.0-24", "c"))).is_empty(), "a renewal");
    assert_eq!(next(put(record("10.5.3.0-24", "d"))), ["10.5.3.0-24=c 10.5.3.0-24=d"]);
    let reservation = Record { grant: None, ..record("10.5.3.0-24", "d") };
    assert_eq!(next(put(reservation.clone())), ["10.5.3.0-24=d 10.5.3.0-24=d"]);
    let delete = Change::Delete { key: "10.5.1.0-24".to_owned() };
    assert_eq!(
        next(Update::Changes { revision: Revision::new(3), changes: vec![delete] }),
        ["10.5.1.0-24=a -"]
    );
    // After a break, a listing replaces the changes that were missed.
    assert_eq!(
        next(listing(&[reservation, record("10.5.4.0-24", "e")])),
        ["10.5.2.0-24=b -", "- 10.5.4.0-24=e"]
    );
}
