use super::*;
use crate::lease::Revision;
use crate::store::Grant;

const NOW: Duration = Duration::from_secs(100);

fn record(key: &str, public_ip: &str) -> Record {
    Record {
        key: key.to_owned(),
        value: format!(r#"{{"PublicIP":"{public_ip}","PublicIPv6":null}}"#).into_bytes(),
        revision: Revision::new(1),
        grant: Some(Grant(7)),
        fault: None,
        node: None,
    }
}

fn three() -> Vec<Record> {
    vec![record("10.5.1.0-24", "1.1.1.1"), record("10.5.2.0-24", "1.1.1.2"), record("10.5.3.0-24", "1.1.1.3")]
}

fn delete(key: &str) -> Change {
    Change::Delete { key: key.to_owned() }
}

fn keys(cluster: &Cluster) -> Vec<String> {
    let mut keys: Vec<String> = cluster.leases().map(|lease| lease.subnets.to_string()).collect();
    keys.sort();
    keys
}

fn own() -> Subnets {
    Subnets::parse_key("10.5.1.0-24").unwrap()
}

fn listed() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.listing(three(), Some(&own()), false, NOW);
    cluster
}

#[test]
fn a_peer_without_a_lease_is_kept_for_a_short_time() {
    let mut cluster = listed();
    assert_eq!(cluster.changes(&[delete("10.5.2.0-24")], Some(&own()), NOW), []);
    let later = NOW + PEER_GRACE / 2;
    assert_eq!(cluster.changes(&[delete("10.5.3.0-24")], Some(&own()), later), []);
    assert_eq!((keys(&cluster).len(), cluster.lingering().len()), (3, 2));
    assert_eq!(cluster.next_tick(), Some(NOW + PEER_GRACE));
    let removed = cluster.tick(NOW + PEER_GRACE);
    assert!(removed[0].before.is_some() && removed[0].after.is_none());
    assert_eq!(keys(&cluster), ["10.5.1.0-24", "10.5.3.0-24"]);
    assert_eq!(cluster.next_tick(), Some(later + PEER_GRACE));
    // The same node again: nothing to do for the kernel.
    let back = cluster.changes(&[Change::Put(record("10.5.3.0-24", "1.1.1.3"))], Some(&own()), later);
    assert_eq!((back, cluster.next_tick()), (vec![], None));
}

#[test]
fn a_peer_that_something_replaces_is_removed_at_once() {
    let elsewhere = || Change::Put(record("10.5.9.0-24", "1.1.1.2"));
    let taken = || Change::Put(record("10.5.2.128-25", "1.1.1.7"));
    let malformed = || Change::Put(Record { value: b"no JSON".to_vec(), ..record("10.5.2.0-24", "") });
    let gone = || delete("10.5.2.0-24");
    for changes in [
        vec![vec![gone()], vec![elsewhere()]],
        vec![vec![gone(), elsewhere()]],
        vec![vec![elsewhere()], vec![gone()]],
        vec![vec![gone()], vec![taken()]],
        vec![vec![taken()], vec![gone()]],
        vec![vec![malformed()]],
    ] {
        let mut cluster = listed();
        for batch in &changes {
            cluster.changes(batch, Some(&own()), NOW);
        }
        assert!(!keys(&cluster).contains(&"10.5.2.0-24".to_owned()), "{changes:?}");
        assert_eq!(cluster.next_tick(), None, "{changes:?}");
    }
}

#[test]
fn peers_of_a_wiped_store_are_kept_until_they_are_back() {
    for way in ["all at once", "one by one", "listing", "our record is back already"] {
        let mut cluster = listed();
        match way {
            "all at once" => {
                let all = [delete("10.5.1.0-24"), delete("10.5.2.0-24"), delete("10.5.3.0-24")];
                let changes = cluster.changes(&all, Some(&own()), NOW);
                assert_eq!(changes.iter().map(|change| change.subnets).collect::<Vec<_>>(), [own()]);
            }
            "one by one" => {
                for key in ["10.5.2.0-24", "10.5.1.0-24", "10.5.3.0-24"] {
                    let changes = cluster.changes(&[delete(key)], Some(&own()), NOW);
                    assert!(changes.iter().all(|change| change.subnets == own()), "{changes:?}");
                }
            }
            "listing" => drop(cluster.listing(&[], Some(&own()), false, NOW)),
            _ => drop(cluster.listing(&three()[..1], Some(&own()), true, NOW)),
        }
        if way == "our record is back already" {
            cluster.changes(&[delete("10.5.1.0-24")], Some(&own()), NOW);
        }
        assert_eq!(cluster.tick(NOW + PEER_GRACE), []);
        assert_eq!(keys(&cluster), ["10.5.2.0-24", "10.5.3.0-24"]);
        // Back as it was: nothing to do for the kernel. Back with another address: a change.
        let back = cluster.changes(&[Change::Put(record("10.5.2.0-24", "1.1.1.2"))], Some(&own()), NOW);
        assert_eq!(back, []);
        let back = cluster.changes(&[Change::Put(record("10.5.3.0-24", "9.9.9.9"))], Some(&own()), NOW);
        assert!(back[0].before.is_some() && back[0].after.is_some());
        assert_eq!(cluster.next_tick(), None);
    }
}

#[test]
fn the_grace_ends() {
    let mut cluster = listed();
    cluster.listing(&[], Some(&own()), false, NOW);
    assert_eq!(cluster.tick(NOW), []);
    let ends = cluster.next_tick().unwrap();
    assert_eq!(cluster.tick(ends).len(), 2);
    assert_eq!(keys(&cluster), [""; 0]);
}

#[test]
fn a_new_owner_ends_the_grace_of_the_old_one() {
    let mut cluster = listed();
    cluster.listing(&[], Some(&own()), false, NOW);
    let changes = cluster.changes(&[Change::Put(record("10.5.2.0-25", "4.4.4.4"))], Some(&own()), NOW);
    let shown: Vec<(String, bool)> =
        changes.iter().map(|change| (change.subnets.to_string(), change.after.is_some())).collect();
    assert_eq!(shown, [("10.5.2.0-24".to_owned(), false), ("10.5.2.0-25".to_owned(), true)]);
}

#[test]
fn remembered_records_serve_until_the_store_answers() {
    let mut cluster = Cluster::default();
    cluster.remember(&three());
    assert_eq!(cluster.source(), Source::Remembered);
    let changes = cluster.listing(&three()[..2], Some(&own()), false, NOW);
    assert_eq!(cluster.source(), Source::Store);
    assert_eq!((changes, cluster.lingering().len()), (vec![], 1));
    cluster.tick(NOW + PEER_GRACE);
    cluster.remember(&three());
    assert_eq!(keys(&cluster).len(), 2);
}

#[test]
fn of_leases_that_overlap_the_older_counts() {
    let mut cluster = Cluster::default();
    let at = |key: &str, revision| Record { revision: Revision::new(revision), ..record(key, "1.1.1.1") };
    cluster.listing(
        &[
            at("10.5.0.0-20", 5),
            at("10.5.1.0-24", 3),
            at("10.5.2.0-24", 7),
            at("10.5.16.0-24", 1),
            at("10.5.32.0-24&fc00:0:0:1::-64", 2),
            at("10.5.33.0-24&fc00:0:0:1::-64", 4),
        ],
        None,
        false,
        NOW,
    );
    let (winners, losers) = cluster.settled();
    let winners: Vec<String> = winners.iter().map(|lease| lease.subnets.to_string()).collect();
    assert_eq!(winners, ["10.5.1.0-24", "10.5.16.0-24", "10.5.32.0-24&fc00:0:0:1::-64"]);
    let losers: Vec<String> = losers.iter().map(|(loser, winner)| format!("{loser} < {winner}")).collect();
    assert_eq!(
        losers,
        [
            "10.5.0.0-20 < 10.5.1.0-24",
            "10.5.2.0-24 < 10.5.0.0-20",
            "10.5.33.0-24&fc00:0:0:1::-64 < 10.5.32.0-24&fc00:0:0:1::-64"
        ]
    );
}
