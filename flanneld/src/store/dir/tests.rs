use super::*;
use crate::store::tests::server::eventually;
use crate::store::tests::{Bench, DirBench};
use crate::store::{Change, Grant, WatchEvent};
use std::fs;
use std::os::unix::fs::symlink;
use tokio::time::timeout;

/// A cap, not an expectation.
const PATIENCE: Duration = Duration::from_secs(20);
const DAY: Duration = Duration::from_secs(86_400);

fn subnets(third: u8) -> Subnets {
    Subnets { v4: Some(format!("10.5.{third}.0/24").parse().unwrap()), v6: None }
}

async fn watching(bench: &DirBench) -> Watch {
    let store = bench.store();
    store.watch(store.list().await.unwrap().revision).await.unwrap()
}

async fn next(watch: &mut Watch) -> Vec<Change> {
    match timeout(PATIENCE, watch.next()).await.expect("an event").unwrap() {
        WatchEvent::Changes { changes, .. } => changes,
        WatchEvent::Outdated => panic!("outdated"),
    }
}

/// The values of a key that a watch delivers, up to the one wanted.
async fn values_until(watch: &mut Watch, key: &str, wanted: &str) -> Vec<String> {
    let mut values = Vec::new();
    while values.last().is_none_or(|last| last != wanted) {
        for change in next(watch).await {
            if let Change::Put(record) = change
                && record.key == key
            {
                values.push(String::from_utf8(record.value).unwrap());
            }
        }
    }
    values
}

#[tokio::test]
async fn an_editor_may_write_in_place_or_by_rename() {
    let bench = DirBench::new().await;
    let mut watch = watching(&bench).await;
    let path = bench.path("subnets/10.5.1.0-24");
    fs::write(&path, "one").unwrap();
    values_until(&mut watch, "10.5.1.0-24", "one").await;
    fs::write(&path, "two").unwrap();
    values_until(&mut watch, "10.5.1.0-24", "two").await;
    fs::write(bench.path("subnets/10.5.1.0-24~"), "backup").unwrap();
    fs::write(bench.path("subnets/.10.5.1.0-24.swp"), "swap").unwrap();
    fs::write(bench.path("subnets/.new"), "six").unwrap();
    fs::rename(bench.path("subnets/.new"), &path).unwrap();
    values_until(&mut watch, "10.5.1.0-24", "six").await;
    let listing = bench.store().list().await.unwrap();
    assert_eq!(listing.records.len(), 1, "{listing:?}");
}

#[tokio::test]
async fn a_half_written_file_is_read_again() {
    use std::io::Write;
    let bench = DirBench::new().await;
    let mut watch = watching(&bench).await;
    let mut file = fs::File::create(bench.path("subnets/10.5.1.0-24")).unwrap();
    file.write_all(b"{\"Public").unwrap();
    // Another change makes everybody look while the file is not whole.
    fs::write(bench.path("subnets/10.5.2.0-24"), "{}").unwrap();
    values_until(&mut watch, "10.5.2.0-24", "{}").await;
    file.write_all(b"IP\":\"192.0.2.1\"}").unwrap();
    drop(file);
    values_until(&mut watch, "10.5.1.0-24", "{\"PublicIP\":\"192.0.2.1\"}").await;
}

#[tokio::test]
async fn same_size_in_the_same_tick_is_noticed() {
    let bench = DirBench::new().await;
    let path = bench.path("config");
    let mut last = Revision::new(0);
    for n in 0..200 {
        fs::write(&path, format!("{n:03}")).unwrap();
        let config = bench.store().list().await.unwrap().config.unwrap();
        assert_eq!(config.text, format!("{n:03}"));
        assert!(last.is_before(config.revision));
        last = config.revision;
    }
}

#[tokio::test]
async fn processes_agree_on_revisions() {
    let bench = DirBench::new().await;
    bench.put_config("{}").await;
    bench.lay_out("10.5.1.0-24", "a", Some(DAY)).await;
    let (one, two) = (DirStore::new(bench.path("")), DirStore::new(bench.path("")));
    let listing = one.list().await.unwrap();
    assert_eq!(two.list().await.unwrap(), listing);
    let guard = CreateGuard { config: listing.config.unwrap().revision, records: Some(listing.revision) };
    let held = two.create(&subnets(2), &LeaseAttrs::default(), guard, Some(DAY)).await.unwrap();
    let renewed = one.renew(&subnets(2), &held).await.unwrap();
    assert_eq!(renewed.remaining, Some(DAY));
    one.delete("10.5.2.0-24", held.revision).await.unwrap();
    assert_eq!(one.list().await.unwrap(), two.list().await.unwrap());
    let left: Vec<_> =
        fs::read_dir(bench.path("leases")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["10.5.1.0-24"], "the expiry file goes with the record");
}

#[tokio::test]
async fn expiry_files_are_those_of_any_tool() {
    let bench = DirBench::new().await;
    bench.lay_out("10.5.1.0-24", "never", None).await;
    bench.lay_out("10.5.2.0-24", "unknown", None).await;
    fs::write(bench.path("leases/10.5.2.0-24"), "when pigs fly").unwrap();
    bench.lay_out("10.5.3.0-24", "past", None).await;
    fs::write(bench.path("leases/10.5.3.0-24"), "2020-01-01T00:00:00Z").unwrap();
    bench.lay_out("10.5.4.0-24", "future", None).await;
    fs::write(bench.path("leases/10.5.4.0-24"), "2120-01-01T00:00:00+02:00\n").unwrap();
    let store = bench.store();
    let records = store.list().await.unwrap().records;
    let found: Vec<_> = records.iter().map(|record| (record.key.as_str(), record.grant.is_some())).collect();
    assert_eq!(found, [("10.5.1.0-24", false), ("10.5.2.0-24", true), ("10.5.4.0-24", true)]);
    assert!(!bench.path("subnets/10.5.3.0-24").exists() && !bench.path("leases/10.5.3.0-24").exists());

    let held = Held { revision: records[2].revision, grant: records[2].grant, remaining: None };
    assert_eq!(store.renew(&subnets(4), &held).await.unwrap().remaining, Some(DAY));
    let other = Held { grant: Some(Grant(1)), ..held };
    assert!(matches!(store.renew(&subnets(4), &other).await, Err(StoreError::Raced)));
    fs::remove_file(bench.path("leases/10.5.4.0-24")).unwrap();
    assert!(matches!(store.renew(&subnets(4), &held).await, Err(StoreError::Raced)));
    let record = store.list().await.unwrap().records.remove(2);
    assert_eq!(record.grant, None, "without expiry file it is a reservation");
    assert!(held.revision.is_before(record.revision));
}

#[tokio::test]
async fn an_expiry_wakes_a_watch() {
    let bench = DirBench::new().await;
    let mut watch = watching(&bench).await;
    bench.lay_out("10.5.1.0-24", "a", Some(Duration::from_millis(300))).await;
    let mut seen = Vec::new();
    while !seen.iter().any(|change| matches!(change, Change::Delete { .. })) {
        seen.extend(next(&mut watch).await);
    }
    assert!(!bench.path("subnets/10.5.1.0-24").exists());
}

#[tokio::test]
async fn a_directory_that_is_moved_and_created_again() {
    let bench = DirBench::new().await;
    bench.put_config("{}").await;
    bench.lay_out("10.5.1.0-24", "a", None).await;
    let mut watch = watching(&bench).await;
    fs::rename(bench.path(""), bench.directory.path().join("elsewhere")).unwrap();
    let event = timeout(PATIENCE, async {
        loop {
            let event = watch.next().await.unwrap();
            if event == WatchEvent::Outdated {
                return event;
            }
        }
    });
    assert_eq!(event.await.unwrap(), WatchEvent::Outdated);
    let mut watch = watching(&bench).await;
    assert_eq!(bench.store().list().await.unwrap().records, []);
    fs::write(bench.path("subnets/10.5.2.0-24"), "b").unwrap();
    values_until(&mut watch, "10.5.2.0-24", "b").await;
}

#[tokio::test]
async fn a_removed_subdirectory_removes_its_records() {
    let bench = DirBench::new().await;
    bench.lay_out("10.5.1.0-24", "a", None).await;
    let mut watch = watching(&bench).await;
    fs::remove_dir_all(bench.path("subnets")).unwrap();
    assert_eq!(next(&mut watch).await, [Change::Delete { key: "10.5.1.0-24".to_owned() }]);
    eventually("the directory is there again", async || {
        fs::write(bench.path("subnets/10.5.2.0-24"), "b").is_ok()
    })
    .await;
    values_until(&mut watch, "10.5.2.0-24", "b").await;
}

#[tokio::test]
async fn a_damaged_index_is_made_anew() {
    let bench = DirBench::new().await;
    bench.lay_out("10.5.1.0-24", "a", None).await;
    let store = bench.store();
    let before = store.list().await.unwrap();
    fs::write(bench.path(".index"), "{\"revision\":").unwrap();
    let after = store.list().await.unwrap();
    assert!(before.revision.is_before(after.revision));
    assert_eq!(after.records[0].value, b"a");
    let mut watch = store.watch(before.revision).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), WatchEvent::Outdated);
}

#[tokio::test]
async fn odd_things_hurt_no_record() {
    let bench = DirBench::new().await;
    bench.lay_out("10.5.1.0-24", "a", None).await;
    fs::create_dir(bench.path("subnets/10.5.2.0-24")).unwrap();
    symlink("/nowhere", bench.path("subnets/10.5.3.0-24")).unwrap();
    fs::write(bench.directory.path().join("target"), "linked").unwrap();
    symlink("../../target", bench.path("subnets/10.5.4.0-24")).unwrap();
    let listing = bench.store().list().await.unwrap();
    let found: Vec<_> =
        listing.records.iter().map(|record| (record.key.as_str(), &record.value[..])).collect();
    assert_eq!(found, [("10.5.1.0-24", &b"a"[..]), ("10.5.4.0-24", b"linked")]);
}

#[tokio::test]
async fn an_idle_watch_does_nothing() {
    let bench = DirBench::new().await;
    bench.lay_out("10.5.1.0-24", "a", None).await;
    let mut watch = watching(&bench).await;
    // A first look, and one at a change, after which it waits.
    fs::write(bench.path("subnets/10.5.1.0-24"), "b").unwrap();
    values_until(&mut watch, "10.5.1.0-24", "b").await;
    let store = bench.store();
    let looks = || store.stats().of(Operation::Watch).durations.count;
    assert!(timeout(Duration::from_millis(200), watch.next()).await.is_err(), "nothing is left to tell");
    let before = looks();
    for _ in 0..5 {
        store.list().await.unwrap();
    }
    assert!(timeout(Duration::from_millis(200), watch.next()).await.is_err());
    assert_eq!(looks(), before, "reading and the hidden files wake nobody");
}

#[tokio::test]
async fn errors_name_the_path_and_the_fix() {
    let bench = DirBench::new().await;
    fs::write(bench.directory.path().join("file"), "").unwrap();
    let show = async |path: PathBuf| {
        let error = DirStore::new(path).list().await.unwrap_err();
        assert!(!error.is_transient());
        let source = std::error::Error::source(&error).unwrap().to_string();
        format!("{error}: {source}").replace(bench.directory.path().to_str().unwrap(), "DIR")
    };
    insta::assert_snapshot!(
        show(bench.directory.path().join("file")).await,
        @"could not create the directory DIR/file; a part of the path is a file: move it, or choose another path: File exists (os error 17)"
    );
    insta::assert_snapshot!(
        show(bench.directory.path().join("file/below")).await,
        @"could not create the directory DIR/file/below; a part of the path is a file: move it, or choose another path: Not a directory (os error 20)"
    );
    insta::assert_snapshot!(
        show("/proc/flannel".into()).await,
        @"could not create the directory /proc/flannel; create its directory, or choose another path: No such file or directory (os error 2)"
    );
}
