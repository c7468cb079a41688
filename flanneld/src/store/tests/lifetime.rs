//! What an administrator does to the life of a record, on every real store.

use flannel_core::lease::{LeaseAttrs, Revision};
use flannel_core::store::{CreateGuard, Record};
use std::time::Duration;

use super::{Bench, DirBench, EtcdBench};
use crate::store::{AnyStore, LeaseStore as _, StoreError};

const DAY: Duration = Duration::from_secs(86_400);

async fn only_record(store: &AnyStore) -> Record {
    let mut records = store.list().await.unwrap().records;
    assert_eq!(records.len(), 1, "{records:?}");
    records.remove(0)
}

async fn a_lease_becomes_a_reservation_and_back(store: AnyStore) {
    let config = store.put_config(r#"{"Network":"10.5.0.0/16"}"#, None).await.unwrap();
    let subnets = flannel_core::lease::Subnets { v4: Some("10.5.1.0/24".parse().unwrap()), v6: None };
    let attrs = LeaseAttrs { public_ip: Some([192, 0, 2, 1].into()), ..LeaseAttrs::default() };
    let guard = CreateGuard { config, records: None };
    store.create(&subnets, &attrs, guard, Some(DAY)).await.unwrap();
    let lease = only_record(&store).await;
    let life = store.life(&lease).await.unwrap().unwrap();
    assert_eq!(life.granted, DAY);
    assert!(life.left <= DAY && life.left > DAY / 2, "{life:?}");

    let stale = Record { revision: Revision(lease.revision.0 - 1), ..lease.clone() };
    let refused = store.set_lifetime(&stale, None).await;
    assert!(matches!(refused, Err(StoreError::Raced)), "{refused:?}");
    assert_eq!(only_record(&store).await, lease);

    let revision = store.set_lifetime(&lease, None).await.unwrap();
    let reserved = only_record(&store).await;
    assert_eq!(reserved, Record { grant: None, revision, ..lease });
    assert_eq!(store.life(&reserved).await.unwrap(), None);

    store.set_lifetime(&reserved, Some(DAY / 2)).await.unwrap();
    let lease = only_record(&store).await;
    assert!(lease.grant.is_some() && lease.value == reserved.value && lease.revision > revision);
    assert_eq!(store.life(&lease).await.unwrap().unwrap().granted, DAY / 2);
}

#[tokio::test]
async fn in_a_directory() {
    let bench = DirBench::new().await;
    a_lease_becomes_a_reservation_and_back(AnyStore::Directory(bench.store())).await;
}

#[tokio::test]
#[ignore = "needs etcd"]
async fn in_etcd() {
    let bench = EtcdBench::new().await;
    a_lease_becomes_a_reservation_and_back(AnyStore::Etcd(bench.store())).await;
}
