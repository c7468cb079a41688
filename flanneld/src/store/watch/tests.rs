use super::*;
use crate::store::tests::{Bench, DirBench};
use crate::store::{LeaseStore as _, Operation, Record};
use crate::testing::store::{Availability, MemoryStore};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A store that is followed, and what its consumer believes.
struct Scene {
    store: MemoryStore,
    updates: mpsc::Receiver<Update>,
    stats: watch::Receiver<WatchStats>,
    stop: CancellationToken,
    task: tokio::task::JoinSet<()>,
    view: View,
}

/// What a consumer believes.
#[derive(Debug, Default, PartialEq)]
struct View {
    config: Option<String>,
    records: BTreeMap<String, Vec<u8>>,
}

impl View {
    fn take(&mut self, update: Update) -> String {
        match update {
            Update::Listing { listing, .. } => {
                let told = format!("listing of {}", listing.records.len());
                self.config = listing.config.map(|config| config.text);
                self.records = listing.records.into_iter().map(|record| (record.key, record.value)).collect();
                told
            }
            Update::Changes { changes, .. } => {
                let told: Vec<String> = changes.iter().map(|change| self.apply(change)).collect();
                told.join(", ")
            }
            Update::Down(error) => format!("down: {error}"),
            Update::Up => "up".to_owned(),
        }
    }

    fn apply(&mut self, change: &Change) -> String {
        match change {
            Change::Put(Record { key, value, .. }) => {
                self.records.insert(key.clone(), value.clone());
                format!("put {key}")
            }
            Change::Delete { key } => {
                self.records.remove(key);
                format!("delete {key}")
            }
            Change::Config(config) => {
                self.config = config.as_ref().map(|config| config.text.clone());
                "config".to_owned()
            }
            Change::Own(_) => "own".to_owned(),
        }
    }
}

impl Scene {
    fn new() -> Self {
        Self::with_queue(QUEUE)
    }

    fn with_queue(queue: usize) -> Self {
        let store = MemoryStore::default();
        let (sender, updates) = mpsc::channel(queue);
        let (counters, stats) = watch::channel(WatchStats::default());
        let stop = CancellationToken::new();
        let mut task = tokio::task::JoinSet::new();
        task.spawn(follow(store.shared(), sender, counters, 1, stop.clone()));
        Self { store, updates, stats, stop, task, view: View::default() }
    }

    /// The next thing that the consumer is told. Time is virtual, so waiting costs nothing.
    async fn next(&mut self) -> String {
        let update = timeout(Duration::from_secs(86_400), self.updates.recv()).await;
        self.view.take(update.expect("it is told something").expect("it goes on"))
    }

    /// Lets time pass and checks that the consumer is told nothing.
    async fn quiet(&mut self, time: Duration) {
        if let Ok(update) = timeout(time, self.updates.recv()).await {
            panic!("{update:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_is_followed_by_changes() {
    let mut scene = Scene::new();
    scene.store.put("a", "1", None);
    assert_eq!(scene.next().await, "listing of 1");
    scene.store.set_config(Some("{}"));
    assert_eq!(scene.next().await, "config");
    scene.store.put("b", "1", Some(Duration::from_secs(60)));
    assert_eq!(scene.next().await, "put b");
    assert_eq!(scene.next().await, "delete b");
    scene.quiet(Duration::from_secs(60)).await;
    let stats = *scene.stats.borrow();
    assert_eq!(stats, WatchStats { listings: 1, watches: 1, ..WatchStats::default() });
    assert_eq!(scene.store.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_break_is_resumed_without_a_listing_and_without_alarm() {
    let mut scene = Scene::new();
    assert_eq!(scene.next().await, "listing of 0");
    scene.quiet(Duration::from_secs(60)).await;
    scene.store.break_watches();
    scene.store.put("a", "1", None);
    assert_eq!(scene.next().await, "put a");
    let stats = *scene.stats.borrow();
    assert_eq!(stats, WatchStats { listings: 1, watches: 2, breaks: 1, ..WatchStats::default() });
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_store_is_reported_once() {
    let mut scene = Scene::new();
    scene.store.put("a", "1", None);
    assert_eq!(scene.next().await, "listing of 1");
    scene.store.set_availability(Availability::Down);
    assert!(scene.next().await.starts_with("down: set to fail"));
    let calls = scene.store.calls();
    scene.quiet(Duration::from_secs(3600)).await;
    let calls = scene.store.calls() - calls;
    assert!((3600 / 5..3600 / 2).contains(&calls), "{calls} in an hour, at most every 5 s");
    scene.store.put("b", "1", None);
    scene.store.set_availability(Availability::Up);
    assert_eq!(scene.next().await, "up");
    assert_eq!(scene.next().await, "put b");
    assert_eq!(scene.stats.borrow().listings, 1);
}

#[tokio::test(start_paused = true)]
async fn a_start_without_store_waits_for_it() {
    let mut scene = Scene::new();
    scene.store.set_availability(Availability::Down);
    assert!(scene.next().await.starts_with("down: "));
    scene.store.set_availability(Availability::Up);
    assert_eq!(scene.next().await, "up");
    assert_eq!(scene.next().await, "listing of 0");
}

#[tokio::test(start_paused = true)]
async fn lost_history_and_a_wiped_store_lead_to_a_listing() {
    let mut scene = Scene::new();
    scene.store.put("a", "1", None);
    assert_eq!(scene.next().await, "listing of 1");
    scene.quiet(Duration::from_secs(60)).await;
    scene.store.set_availability(Availability::Down);
    assert!(scene.next().await.starts_with("down: "));
    scene.store.put("b", "1", None);
    scene.store.compact();
    scene.store.set_availability(Availability::Up);
    assert_eq!(scene.next().await, "up");
    assert_eq!(scene.next().await, "listing of 2");
    scene.store.wipe();
    assert_eq!(scene.next().await, "listing of 0");
    assert_eq!(scene.stats.borrow().outdated, 2);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_silent_too_long_leads_to_a_listing() {
    let mut scene = Scene::new();
    assert_eq!(scene.next().await, "listing of 0");
    scene.quiet(Duration::from_secs(3500)).await;
    let started = Instant::now();
    assert_eq!(scene.next().await, "listing of 0");
    assert!(started.elapsed() <= Duration::from_secs(101));
    assert_eq!(scene.stats.borrow().silences, 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_every_watch_is_not_hammered() {
    let store = MemoryStore::default();
    store.forget_always();
    let (sender, mut updates) = channel();
    let following = follow(store.shared(), sender, watch::Sender::default(), 1, CancellationToken::new());
    let consuming = async { while updates.recv().await.is_some() {} };
    let both = async { tokio::join!(following, consuming) };
    assert!(timeout(Duration::from_secs(600), both).await.is_err(), "it goes on for ever");
    let listings = store.calls_of(Operation::List);
    assert!((600 / 5..600 / 2).contains(&listings), "{listings} in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn it_stops_while_the_consumer_sleeps_and_while_the_store_hangs() {
    let mut scene = Scene::with_queue(1);
    for n in 0..100 {
        scene.store.put(&n.to_string(), "1", None);
        tokio::task::yield_now().await;
    }
    scene.stop.cancel();
    timeout(Duration::from_secs(1), scene.task.join_next()).await.expect("it ends").unwrap().unwrap();

    let mut scene = Scene::new();
    scene.store.set_availability(Availability::Hanging);
    scene.quiet(Duration::from_secs(3)).await;
    scene.stop.cancel();
    timeout(Duration::from_secs(1), scene.task.join_next()).await.expect("it ends").unwrap().unwrap();

    let mut scene = Scene::new();
    assert_eq!(scene.next().await, "listing of 0");
    scene.updates.close();
    scene.store.put("a", "1", None);
    timeout(Duration::from_secs(1), scene.task.join_next()).await.expect("it ends").unwrap().unwrap();
}

#[tokio::test]
async fn it_follows_a_directory() {
    let bench = DirBench::new().await;
    bench.lay_out("10.5.1.0-24", "1", None).await;
    let (sender, mut updates) = channel();
    let stop = CancellationToken::new();
    let mut task = tokio::task::JoinSet::new();
    task.spawn(follow(bench.store(), sender, watch::Sender::default(), 1, stop.clone()));
    let mut view = View::default();
    let mut next = async || {
        let update = timeout(Duration::from_secs(20), updates.recv()).await.expect("an update");
        view.take(update.unwrap())
    };
    assert_eq!(next().await, "listing of 1");
    bench.lay_out("10.5.2.0-24", "1", None).await;
    assert_eq!(next().await, "put 10.5.2.0-24");
    bench.forget_history().await;
    bench.lay_out("10.5.3.0-24", "1", None).await;
    // Whether the watch sees the new record or the lost history first is chance; it misses nothing either way.
    let told = next().await;
    assert!(told == "listing of 3" || told == "put 10.5.3.0-24", "{told}");
    stop.cancel();
    task.join_next().await.unwrap().unwrap();
}

/// What can happen to a store.
#[derive(Clone, Debug)]
enum Deed {
    Put(u8, Option<u8>),
    Remove(u8),
    Config(bool),
    Break,
    Availability(Availability),
    Compact,
    Wipe,
    Pass(u16),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => (0u8..6, proptest::option::of(1u8..90)).prop_map(|(key, life)| Deed::Put(key, life)),
        3 => (0u8..6).prop_map(Deed::Remove),
        1 => any::<bool>().prop_map(Deed::Config),
        2 => Just(Deed::Break),
        2 => prop_oneof![Just(Availability::Up), Just(Availability::Down), Just(Availability::Hanging)].prop_map(Deed::Availability),
        1 => Just(Deed::Compact),
        1 => Just(Deed::Wipe),
        4 => (0u16..2000).prop_map(Deed::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_mix_ends_as_a_fresh_listing(deeds in proptest::collection::vec(deed(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut scene = Scene::new();
            for deed in deeds {
                match deed {
                    Deed::Put(key, life) => {
                        let life = life.map(|life| Duration::from_secs(life.into()));
                        scene.store.put(&key.to_string(), "1", life);
                    }
                    Deed::Remove(key) => scene.store.remove(&key.to_string()),
                    Deed::Config(there) => scene.store.set_config(there.then_some("{}")),
                    Deed::Break => scene.store.break_watches(),
                    Deed::Availability(mood) => scene.store.set_availability(mood),
                    Deed::Compact => scene.store.compact(),
                    Deed::Wipe => scene.store.wipe(),
                    Deed::Pass(millis) => {
                        let _ = timeout(Duration::from_millis(millis.into()), async {
                            loop {
                                scene.next().await;
                            }
                        })
                        .await;
                    }
                }
            }
            scene.store.set_availability(Availability::Up);
            // Longer than a silent watch is believed.
            let _ = timeout(Duration::from_secs(4000), async {
                loop {
                    scene.next().await;
                }
            })
            .await;
            let listing = scene.store.list().await.unwrap();
            let mut truth = View::default();
            truth.take(Update::Listing { listing, is_other_store: false });
            assert_eq!(scene.view, truth);
        });
    }
}
