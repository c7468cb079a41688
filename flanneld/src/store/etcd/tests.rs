//! What only etcd has: members that die, wiped data, TLS, users.

mod login;
mod tls;

use std::net::TcpListener;
use std::path::PathBuf;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::error::chain;
use crate::store::tests::server::{Server, eventually, free_port};
use crate::store::tests::{PREFIX, options};
use crate::store::watch::{Update, WatchStats, channel, follow};
use crate::store::{Change, WatchEvent};

/// A cap, not an expectation.
const PATIENCE: Duration = Duration::from_secs(30);

async fn put(server: &Server, key: &str, value: &str) {
    server.client().await.put(format!("{PREFIX}/{key}"), value, None).await.unwrap();
}

/// A record that hangs on a lease, as daemons write it.
async fn lay_out(server: &Server, key: &str, value: &str) {
    let mut client = server.client().await;
    let lease = client.lease_grant(3600, None).await.unwrap().id();
    let options = PutOptions::new().with_lease(lease);
    client.put(format!("{PREFIX}/subnets/{key}"), value, Some(options)).await.unwrap();
}

/// Error and causes in one line, with the port replaced.
fn show(error: &StoreError, server: &Server) -> String {
    chain(error)
        .replace(&server.port.to_string(), "PORT")
        .replace(server.directory.path().to_str().unwrap(), "DIR")
}

fn is_unreachable(error: &StoreError) -> bool {
    error.is_transient() && error.to_string().starts_with("could not reach etcd")
}

async fn event(watch: &mut Watch) -> Result<WatchEvent, StoreError> {
    timeout(PATIENCE, watch.next()).await.expect("the watch says something")
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn requests_of_a_start_do_not_grow_with_the_cluster() {
    let server = Server::start().await;
    put(&server, "config", "{}").await;
    for n in 0..200 {
        lay_out(&server, &format!("10.5.{n}.0-24"), "{}").await;
    }
    let store = server.store();
    let listing = store.list().await.unwrap();
    assert_eq!(listing.records.len(), 200);
    store.watch(listing.revision).await.unwrap();
    let stats = store.stats();
    let count = |operation| stats.of(operation).durations.count;
    assert_eq!((count(Operation::List), count(Operation::Watch), count(Operation::Verify)), (1, 1, 1));
    assert_eq!(stats.requests(), 4, "and one connection: {stats:?}");
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn a_dead_endpoint_beside_a_good_one_does_not_matter() {
    let server = Server::start().await;
    // One refuses, one takes connections and never says a word.
    let refusing = format!("http://127.0.0.1:{}", free_port());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    for endpoints in [
        format!("{refusing},{}", server.url()),
        format!("{},{refusing}", server.url()),
        format!("{silent},{}", server.url()),
        format!("{refusing},{silent},{}", server.url()),
    ] {
        // The first one is chosen by chance.
        for _ in 0..4 {
            let store = EtcdStore::new(options(&endpoints)).unwrap();
            store.list().await.unwrap_or_else(|error| panic!("{endpoints}: {error}"));
        }
    }
    let other = free_port();
    let store = EtcdStore::new(options(&format!("{refusing},http://127.0.0.1:{other}"))).unwrap();
    let error = store.list().await.unwrap_err();
    assert!(error.to_string().starts_with("could not use any of the etcd endpoints"), "{error}");
    assert!(error.to_string().contains(&other.to_string()) && error.is_transient(), "{error}");
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn an_unreachable_server_is_named() {
    let mut server = Server::start().await;
    let store = server.store();
    store.list().await.unwrap();
    server.stop();
    let error = store.list().await.unwrap_err();
    assert!(is_unreachable(&error), "{error:?}");
    let error = server.store().list().await.unwrap_err();
    insta::assert_snapshot!(show(&error, &server), @r#"could not reach etcd at http://127.0.0.1:PORT; check that it runs there and that --etcd-endpoints is correct (host, port, http or https): Connection refused (os error 111)"#);
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn a_watch_survives_restarts_and_compaction() {
    let mut server = Server::start().await;
    lay_out(&server, "10.5.1.0-24", "1").await;
    let (sender, mut updates) = channel();
    let (counters, stop) = (sync::watch::Sender::<WatchStats>::default(), CancellationToken::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(follow(Arc::new(server.store()), sender, counters.clone(), 1, stop.clone()));
    let mut next = async || {
        loop {
            match timeout(PATIENCE, updates.recv()).await.expect("an update").unwrap() {
                Update::Listing { listing, .. } => return format!("listing of {}", listing.records.len()),
                Update::Changes { changes, .. } => match &changes[..] {
                    [Change::Put(record)] => return format!("put {}", record.key),
                    // The last one seen may be told again.
                    other => panic!("{other:?}"),
                },
                Update::Down(_) | Update::Up => {}
            }
        }
    };
    assert_eq!(next().await, "listing of 1");
    for round in 2..5 {
        server.stop();
        server.run();
        server.ready().await;
        lay_out(&server, &format!("10.5.{round}.0-24"), "1").await;
        assert_eq!(next().await, format!("put 10.5.{round}.0-24"));
    }
    assert_eq!(counters.borrow().listings, 1, "a restart needs no listing");

    // Compacted while the watch is well, and then restarted: nothing was missed.
    let mut client = server.client().await;
    let revision = client.get("x", None).await.unwrap().header().unwrap().revision();
    client.compact(revision, None).await.unwrap();
    server.stop();
    server.run();
    server.ready().await;
    lay_out(&server, "10.5.9.0-24", "1").await;
    let told = next().await;
    assert!(told == "put 10.5.9.0-24" || told == "listing of 5", "{told}");
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn a_wiped_store_is_noticed_even_if_it_has_passed_our_revision() {
    let mut server = Server::start().await;
    put(&server, "config", "{}").await;
    lay_out(&server, "10.5.1.0-24", "1").await;
    lay_out(&server, "10.5.2.0-24", "1").await;
    let store = server.store();
    let listing = store.list().await.unwrap();
    let mut watch = store.watch(listing.revision).await.unwrap();

    server.stop();
    assert!(event(&mut watch).await.is_err());
    std::fs::remove_dir_all(server.data()).unwrap();
    server.run();
    server.ready().await;
    // The same writes again, and some more.
    put(&server, "config", "{}").await;
    lay_out(&server, "10.5.1.0-24", "1").await;
    lay_out(&server, "10.5.2.0-24", "1").await;
    put(&server, "config", "{ }").await;
    let mut watch = store.watch(listing.revision).await.unwrap();
    assert_eq!(event(&mut watch).await.unwrap(), WatchEvent::Outdated);

    // A revision that lies ahead is noticed without any record to tell by.
    let listing = store.list().await.unwrap();
    let mut watch = server.store().watch(Revision::new(listing.revision.number() + 1)).await.unwrap();
    assert_eq!(event(&mut watch).await.unwrap(), WatchEvent::Outdated);
    let mut watch = store.watch(listing.revision).await.unwrap();
    put(&server, "subnets/10.5.9.0-24", "1").await;
    assert!(
        matches!(event(&mut watch).await.unwrap(), WatchEvent::Changes { changes, .. } if changes.len() == 1)
    );
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn a_server_that_stands_still_is_noticed() {
    let server = Server::start().await;
    put(&server, "config", "{}").await;
    let store = server.store();
    let listing = store.list().await.unwrap();
    let mut watch = store.watch(listing.revision).await.unwrap();
    server.freeze().await;
    let (watched, listed) = tokio::join!(event(&mut watch), store.list());
    let (watched, listed) = (watched.unwrap_err(), listed.unwrap_err());
    assert!(watched.is_transient() && listed.is_transient());
    assert!(matches!(listed, StoreError::TimedOut(_)), "{listed:?}");
    assert!(is_unreachable(&watched), "{watched:?}");
    insta::assert_snapshot!(show(&listed, &server), @r#"etcd at http://127.0.0.1:PORT did not answer in 5 s: listing the leases"#);
    server.thaw();
    let mut watch = store.watch(listing.revision).await.unwrap();
    put(&server, "config", "{ }").await;
    assert!(
        matches!(event(&mut watch).await.unwrap(), WatchEvent::Changes { changes, .. } if changes.len() == 1)
    );
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn the_config_is_written_only_as_it_was_read() {
    let server = Server::start().await;
    let store = server.store();
    let first = store.put_config("{}", None).await.unwrap();
    assert!(matches!(store.put_config("{ }", None).await, Err(StoreError::Raced)));
    let second = store.put_config("{ }", Some(first)).await.unwrap();
    assert!(matches!(store.put_config("{}", Some(first)).await, Err(StoreError::Raced)));
    let config = store.list().await.unwrap().config.unwrap();
    assert_eq!((config.text.as_str(), config.revision), ("{ }", second));

    put(&server, "subnets/no key at all", "x").await;
    let record = store.list().await.unwrap().records.remove(0);
    store.delete(&record.key, record.revision).await.unwrap();
    assert_eq!(store.list().await.unwrap().records, []);
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn a_failed_creation_leaves_no_grant() {
    let server = Server::start().await;
    put(&server, "config", "{}").await;
    let store = server.store();
    let guard = CreateGuard { config: Revision::new(1), records: None };
    let subnets = Subnets { v4: Some("10.5.1.0/24".parse().unwrap()), v6: None };
    let result = store.create(&subnets, &LeaseAttrs::default(), guard, Some(PATIENCE)).await;
    assert!(matches!(result, Err(StoreError::Raced)));
    assert_eq!(server.client().await.leases().await.unwrap().leases().len(), 0);
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn keys_beside_ours_are_not_ours() {
    let server = Server::start().await;
    let store = server.store();
    let listing = store.list().await.unwrap();
    let mut watch = store.watch(listing.revision).await.unwrap();
    for key in ["subnets-meta/10.5.1.0-24", "subnets", "confiture", "config/x", "running", "subnets0"] {
        put(&server, key, "x").await;
    }
    put(&server, "subnets/10.5.1.0-24", "x").await;
    let mut seen = Vec::new();
    while seen.is_empty() {
        let WatchEvent::Changes { changes, .. } = event(&mut watch).await.unwrap() else {
            panic!("outdated")
        };
        seen.extend(changes);
    }
    assert!(matches!(&seen[..], [Change::Put(record)] if record.key == "10.5.1.0-24"), "{seen:?}");
    assert_eq!(store.list().await.unwrap().records.len(), 1);
}
