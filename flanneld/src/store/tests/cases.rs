//! The cases of the contract.

use flannel_core::store::{CreateGuard, Held, Listing, Record};
use tokio::time::{Instant, timeout};

use super::server::eventually;
use super::*;

const CONFIG: &str = r#"{"Network":"10.5.0.0/16"}"#;
const DAY: Option<Duration> = Some(Duration::from_secs(86_400));
/// A cap, not an expectation.
const PATIENCE: Duration = Duration::from_secs(20);

fn subnets(third: u8) -> Subnets {
    Subnets { v4: Some(format!("10.5.{third}.0/24").parse().unwrap()), v6: None }
}

fn key(third: u8) -> String {
    subnets(third).to_string()
}

fn attrs(last: u8) -> LeaseAttrs {
    LeaseAttrs {
        public_ip: Some([192, 0, 2, last].into()),
        backend_type: "host-gw".to_owned(),
        ..Default::default()
    }
}

fn value(last: u8) -> String {
    format!(r#"{{"PublicIP":"192.0.2.{last}","PublicIPv6":null,"BackendType":"host-gw"}}"#)
}

fn text(record: &Record) -> String {
    String::from_utf8(record.value.clone()).unwrap()
}

fn keys(listing: &Listing) -> Vec<&str> {
    listing.records.iter().map(|record| record.key.as_str()).collect()
}

fn guard(listing: &Listing) -> CreateGuard {
    CreateGuard { config: listing.config.as_ref().expect("a config was put").revision, records: None }
}

async fn configured(bench: &impl Bench) -> (Store, Listing) {
    bench.put_config(CONFIG).await;
    let store = bench.store();
    let listing = store.list().await.unwrap();
    (store, listing)
}

/// Creates 10.5.`third`.0/24.
async fn created(bench: &impl Bench, third: u8, lifetime: Option<Duration>) -> (Store, Held) {
    let (store, listing) = configured(bench).await;
    let held = store.create(&subnets(third), &attrs(1), guard(&listing), lifetime).await.unwrap();
    (store, held)
}

fn assert_raced<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Raced)), "{result:?}");
}

/// Reads a watch up to and including the change wanted; checks that revisions never go back.
async fn until(watch: &mut Watch, wanted: impl Fn(&Change) -> bool) -> (Vec<Change>, Revision) {
    let mut seen = Vec::new();
    let mut last = Revision::new(0);
    loop {
        let event =
            timeout(PATIENCE, watch.next()).await.unwrap_or_else(|_| panic!("nothing after {seen:?}"));
        let WatchEvent::Changes { revision, changes } = event.unwrap() else {
            panic!("outdated after {seen:?}")
        };
        assert!(!revision.is_before(last), "{revision:?} after {last:?}");
        last = revision;
        seen.extend(changes);
        if seen.iter().any(&wanted) {
            return (seen, last);
        }
    }
}

fn is_delete(change: &Change, wanted: &str) -> bool {
    matches!(change, Change::Delete { key } if key == wanted)
}

fn is_put(change: &Change, wanted: &str) -> bool {
    matches!(change, Change::Put(record) if record.key == wanted)
}

pub(super) async fn an_empty_store_lists_nothing(bench: &impl Bench) {
    let listing = bench.store().list().await.unwrap();
    assert_eq!((listing.config, listing.records), (None, Vec::new()));
    assert!(Revision::new(0).is_before(listing.revision));
}

pub(super) async fn a_listing_is_complete_and_in_key_order(bench: &impl Bench) {
    bench.lay_out("10.5.9.0-24", "b", DAY).await;
    bench.lay_out("10.5.10.0-24", "a", None).await;
    bench.lay_out("10.5.9.0-24&fc00::-64", "c", None).await;
    let (store, listing) = configured(bench).await;
    assert_eq!(keys(&listing), ["10.5.10.0-24", "10.5.9.0-24", "10.5.9.0-24&fc00::-64"]);
    assert_eq!(listing.config.as_ref().unwrap().text, CONFIG);
    let grants: Vec<bool> = listing.records.iter().map(|record| record.grant.is_some()).collect();
    assert_eq!(grants, [false, true, false]);
    assert!(listing.records.iter().all(|record| !listing.revision.is_before(record.revision)));
    assert_eq!(store.list().await.unwrap(), listing, "reading changes nothing");

    bench.remove_config().await;
    bench.remove("10.5.9.0-24").await;
    let later = store.list().await.unwrap();
    assert_eq!((later.config.as_ref(), keys(&later)), (None, vec!["10.5.10.0-24", "10.5.9.0-24&fc00::-64"]));
    assert!(listing.revision.is_before(later.revision));
}

pub(super) async fn a_thousand_records_are_listed(bench: &impl Bench) {
    for n in 0..1000 {
        bench.lay_out(&format!("10.{}.{}.0-24", n / 250, n % 250), &value(1), None).await;
    }
    let listing = bench.store().list().await.unwrap();
    assert_eq!(listing.records.len(), 1000);
    assert!(listing.records.is_sorted_by(|a, b| a.key < b.key));
}

pub(super) async fn malformed_records_are_delivered_raw(bench: &impl Bench) {
    let (store, listing) = configured(bench).await;
    let mut watch = store.watch(listing.revision).await.unwrap();
    bench.lay_out("10.5.1.0-24", "{not json", DAY).await;
    bench.lay_out("nonsense", "", None).await;
    let (seen, _) = until(&mut watch, |change| is_put(change, "nonsense")).await;
    assert!(seen.iter().any(|change| is_put(change, "10.5.1.0-24")));
    let listing = store.list().await.unwrap();
    let found: Vec<_> = listing.records.iter().map(|record| (record.key.as_str(), text(record))).collect();
    assert_eq!(found, [("10.5.1.0-24", "{not json".to_owned()), ("nonsense", String::new())]);
}

pub(super) async fn a_record_is_created_once(bench: &impl Bench) {
    let (store, held) = created(bench, 1, DAY).await;
    assert!(held.grant.is_some());
    assert!(held.remaining.is_some_and(|left| left > Duration::from_secs(86_300) && Some(left) <= DAY));

    let listing = store.list().await.unwrap();
    assert_eq!(keys(&listing), ["10.5.1.0-24"]);
    let record = &listing.records[0];
    assert_eq!((record.revision, record.grant, text(record)), (held.revision, held.grant, value(1)));

    assert_raced(store.create(&subnets(1), &attrs(2), guard(&listing), DAY).await);
    assert_eq!(store.list().await.unwrap().records, listing.records);

    let dual = Subnets { v6: Some("fc00:0:0:1::/64".parse().unwrap()), ..subnets(1) };
    store.create(&dual, &attrs(2), guard(&listing), None).await.unwrap();
    let listing = store.list().await.unwrap();
    assert_eq!(keys(&listing), ["10.5.1.0-24", "10.5.1.0-24&fc00:0:0:1::-64"]);
    assert_eq!(listing.records[1].grant, None);
}

pub(super) async fn creation_needs_the_config_it_was_chosen_from(bench: &impl Bench) {
    let (store, listing) = configured(bench).await;
    bench.put_config(r#"{"Network":"10.6.0.0/16"}"#).await;
    assert_raced(store.create(&subnets(1), &attrs(1), guard(&listing), DAY).await);
    bench.remove_config().await;
    assert_raced(store.create(&subnets(1), &attrs(1), guard(&listing), DAY).await);
    assert_eq!(store.list().await.unwrap().records, []);
}

pub(super) async fn creation_can_need_unchanged_records(bench: &impl Bench) {
    bench.lay_out("10.5.8.0-24", "x", None).await;
    bench.lay_out("10.5.9.0-24", "x", None).await;
    let (store, listing) = configured(bench).await;
    let strict = |listing: &Listing| CreateGuard { records: Some(listing.revision), ..guard(listing) };
    store.create(&subnets(1), &attrs(1), strict(&listing), DAY).await.unwrap();
    assert_raced(store.create(&subnets(2), &attrs(2), strict(&listing), DAY).await);

    let listing = store.list().await.unwrap();
    bench.remove("10.5.9.0-24").await;
    store.create(&subnets(2), &attrs(2), strict(&listing), DAY).await.expect("a deletion takes nothing away");

    let listing = store.list().await.unwrap();
    bench.lay_out("10.5.8.0-24", "y", None).await;
    assert_raced(store.create(&subnets(3), &attrs(3), strict(&listing), DAY).await);
    store.create(&subnets(3), &attrs(3), guard(&listing), DAY).await.expect("without that guard it is free");
}

pub(super) async fn of_many_at_once_one_wins(bench: &impl Bench) {
    let (store, listing) = configured(bench).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..16 {
        let (store, guard) = (store.clone(), guard(&listing));
        tasks.spawn(async move { store.create(&subnets(1), &attrs(n), guard, DAY).await });
    }
    let results = tasks.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    for result in results.into_iter().filter(Result::is_err) {
        assert_raced(result);
    }
    assert_eq!(keys(&store.list().await.unwrap()), ["10.5.1.0-24"]);
}

pub(super) async fn an_update_needs_the_revision_and_keeps_the_grant(bench: &impl Bench) {
    let (store, first) = created(bench, 1, DAY).await;
    let second = store.update(&subnets(1), &attrs(2), &first).await.unwrap();
    assert!(first.revision.is_before(second.revision));
    assert_eq!(second.grant, first.grant);
    let record = store.list().await.unwrap().records.remove(0);
    assert_eq!((record.revision, record.grant, text(&record)), (second.revision, first.grant, value(2)));

    assert_raced(store.update(&subnets(1), &attrs(3), &first).await);
    let renewed = store.renew(&subnets(1), &second).await.unwrap();
    assert_eq!((renewed.revision, renewed.grant), (second.revision, second.grant));

    bench.lay_out("10.5.1.0-24", "of somebody else", DAY).await;
    assert_raced(store.update(&subnets(1), &attrs(3), &second).await);
    bench.remove("10.5.1.0-24").await;
    assert_raced(store.update(&subnets(1), &attrs(3), &second).await);
    assert_eq!(store.list().await.unwrap().records, []);
}

pub(super) async fn a_reservation_remains_one(bench: &impl Bench) {
    let (store, _) = created(bench, 1, DAY).await;
    bench.lay_out("10.5.2.0-24", &value(2), None).await;
    let listing = store.list().await.unwrap();
    let record = &listing.records[1];
    let held = Held { revision: record.revision, grant: record.grant, remaining: None };
    assert_eq!(held.grant, None);
    assert_eq!(store.renew(&subnets(2), &held).await.unwrap(), held);
    let held = store.update(&subnets(2), &attrs(3), &held).await.unwrap();
    assert_eq!((held.grant, held.remaining), (None, None));
    let record = store.list().await.unwrap().records.remove(1);
    assert_eq!((record.revision, record.grant, text(&record)), (held.revision, None, value(3)));
}

pub(super) async fn a_deletion_needs_the_revision(bench: &impl Bench) {
    let (store, first) = created(bench, 1, DAY).await;
    let second = store.update(&subnets(1), &attrs(2), &first).await.unwrap();
    assert_raced(store.delete(&key(1), first.revision).await);
    assert_eq!(keys(&store.list().await.unwrap()), ["10.5.1.0-24"]);
    store.delete(&key(1), second.revision).await.unwrap();
    assert_eq!(store.list().await.unwrap().records, []);
    assert_raced(store.delete(&key(1), second.revision).await);
}

pub(super) async fn renewal_prolongs_without_writing(bench: &impl Bench) {
    let lifetime = Duration::from_secs(2);
    let started = Instant::now();
    let (store, held) = created(bench, 1, Some(lifetime)).await;
    let mut latest = held;
    eventually("three lifetimes have passed", async || {
        latest = store.renew(&subnets(1), &latest).await.unwrap();
        assert!(latest.remaining.is_some_and(|left| left > lifetime / 2), "{latest:?}");
        started.elapsed() > lifetime * 3
    })
    .await;
    let record = store.list().await.unwrap().records.remove(0);
    assert_eq!((record.revision, record.grant), (held.revision, held.grant));
}

pub(super) async fn an_unrenewed_record_expires(bench: &impl Bench) {
    bench.lay_out("10.5.7.0-24", &value(7), None).await;
    bench.lay_out("10.5.8.0-24", &value(8), Some(Duration::from_secs(1))).await;
    let (store, held) = created(bench, 1, Some(Duration::from_secs(1))).await;
    let mut watch = store.watch(held.revision).await.unwrap();
    let (mut seen, _) = until(&mut watch, |change| is_delete(change, "10.5.1.0-24")).await;
    if !seen.iter().any(|change| is_delete(change, "10.5.8.0-24")) {
        seen.extend(until(&mut watch, |change| is_delete(change, "10.5.8.0-24")).await.0);
    }
    assert!(seen.iter().all(|change| matches!(change, Change::Delete { .. })), "{seen:?}");
    assert_eq!(keys(&store.list().await.unwrap()), ["10.5.7.0-24"]);
    assert_raced(store.renew(&subnets(1), &held).await);
    assert_raced(store.update(&subnets(1), &attrs(1), &held).await);
    assert_raced(store.delete(&key(1), held.revision).await);
    let listing = store.list().await.unwrap();
    store.create(&subnets(1), &attrs(2), guard(&listing), DAY).await.expect("it is free again");
}

pub(super) async fn a_watch_delivers_every_change(bench: &impl Bench) {
    let (store, listing) = configured(bench).await;
    let mut watch = store.watch(listing.revision).await.unwrap();

    let first = store.create(&subnets(1), &attrs(1), guard(&listing), DAY).await.unwrap();
    let (seen, revision) = until(&mut watch, |change| is_put(change, "10.5.1.0-24")).await;
    assert_eq!((seen.len(), revision), (1, first.revision), "{seen:?}");
    let Change::Put(record) = &seen[0] else { panic!("{seen:?}") };
    assert_eq!((text(record), record.grant, record.revision), (value(1), first.grant, first.revision));

    let second = store.update(&subnets(1), &attrs(2), &first).await.unwrap();
    let (seen, revision) = until(&mut watch, |change| is_put(change, "10.5.1.0-24")).await;
    let Change::Put(record) = &seen[0] else { panic!("{seen:?}") };
    assert_eq!((text(record), record.grant, revision), (value(2), first.grant, second.revision));

    bench.put_config("{}").await;
    let (seen, _) = until(&mut watch, |change| matches!(change, Change::Config(_))).await;
    let Change::Config(Some(config)) = &seen[0] else { panic!("{seen:?}") };
    assert_eq!((config.text.as_str(), second.revision.is_before(config.revision)), ("{}", true));

    store.delete(&key(1), second.revision).await.unwrap();
    let (seen, _) = until(&mut watch, |change| is_delete(change, "10.5.1.0-24")).await;
    assert_eq!(seen.len(), 1, "{seen:?}");

    bench.remove_config().await;
    let (seen, revision) = until(&mut watch, |change| matches!(change, Change::Config(_))).await;
    assert_eq!(seen, [Change::Config(None)]);
    assert_eq!(store.list().await.unwrap().revision, revision);
}

pub(super) async fn a_watch_resumes_where_it_was(bench: &impl Bench) {
    let (store, first) = created(bench, 1, DAY).await;
    let before = store.list().await.unwrap();
    let second = store.create(&subnets(2), &attrs(2), guard(&before), DAY).await.unwrap();
    store.delete(&key(1), first.revision).await.unwrap();
    bench.put_config("{}").await;
    // Nothing was watching. Whoever resumes gets all of it, in order.
    let mut watch = store.watch(before.revision).await.unwrap();
    let (seen, last) = until(&mut watch, |change| matches!(change, Change::Config(_))).await;
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(is_put(&seen[0], "10.5.2.0-24") && is_delete(&seen[1], "10.5.1.0-24"), "{seen:?}");
    assert_eq!(store.list().await.unwrap().revision, last);

    let mut watch = store.watch(second.revision).await.unwrap();
    let (seen, _) = until(&mut watch, |change| matches!(change, Change::Config(_))).await;
    assert_eq!(seen.len(), 2, "{seen:?}");
}

pub(super) async fn a_watch_without_history_is_outdated(bench: &impl Bench) {
    let (store, first) = created(bench, 1, DAY).await;
    let second = store.update(&subnets(1), &attrs(2), &first).await.unwrap();
    store.update(&subnets(1), &attrs(3), &second).await.unwrap();
    bench.forget_history().await;
    let mut watch = store.watch(first.revision).await.unwrap();
    let event = timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
    assert_eq!(event, WatchEvent::Outdated);

    let listing = store.list().await.unwrap();
    let mut watch = store.watch(listing.revision).await.unwrap();
    bench.remove("10.5.1.0-24").await;
    until(&mut watch, |change| is_delete(change, "10.5.1.0-24")).await;
}

pub(super) async fn a_lease_becomes_a_reservation_and_back(bench: &impl Bench) {
    let (store, _) = created(bench, 1, DAY).await;
    let only_record = async || {
        let mut records = store.list().await.unwrap().records;
        assert_eq!(records.len(), 1, "{records:?}");
        records.remove(0)
    };
    let lease = only_record().await;
    let day = Duration::from_secs(86_400);
    let life = store.life(&lease).await.unwrap().unwrap();
    assert_eq!(life.granted, day);
    assert!(life.left <= day && life.left > day / 2, "{life:?}");

    let stale = Record { revision: Revision::new(lease.revision.number() - 1), ..lease.clone() };
    assert_raced(store.set_lifetime(&stale, None).await);
    assert_eq!(only_record().await, lease);

    let revision = store.set_lifetime(&lease, None).await.unwrap();
    let reserved = only_record().await;
    assert_eq!(reserved, Record { grant: None, revision, ..lease });
    assert_eq!(store.life(&reserved).await.unwrap(), None);

    store.set_lifetime(&reserved, Some(day / 2)).await.unwrap();
    let lease = only_record().await;
    assert!(lease.grant.is_some() && lease.value == reserved.value && revision.is_before(lease.revision));
    assert_eq!(store.life(&lease).await.unwrap().unwrap().granted, day / 2);
}
