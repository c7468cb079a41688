use super::*;
use crate::testing::store::{Availability, MemoryStore};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// A node that is not ready yet, and its task.
struct Scene {
    store: MemoryStore,
    readiness: watch::Sender<Readiness>,
    problem: watch::Receiver<Option<String>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Scene {
    fn start() -> Self {
        let (store, stop) = (MemoryStore::default(), CancellationToken::new());
        let readiness = watch::Sender::new(Readiness::waiting("starting"));
        let (problem, ready) = (watch::Sender::default(), readiness.subscribe());
        let seen = problem.subscribe();
        #[expect(clippy::disallowed_methods, reason = "a test has no JoinSet of the daemon")]
        let task = tokio::spawn(run(store.shared(), ready, problem, 1, stop.clone()));
        Self { store, readiness, problem: seen, stop, task }
    }

    fn ready(&self) {
        self.readiness.send_replace(Readiness::default());
    }

    /// What was announced after some time.
    async fn after(&self, secs: u64) -> Vec<Serving> {
        sleep(Duration::from_secs(secs)).await;
        self.store.announced()
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn not_ready(reason: &str) -> Serving {
    Serving::NotReady(reason.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_ready_node_is_announced_at_once_and_once() {
    let scene = Scene::start();
    assert_eq!(scene.after(5).await, [], "not before it is ready");
    scene.ready();
    sleep(Duration::from_millis(10)).await;
    assert_eq!(scene.store.announced(), [Serving::Ready]);
    assert_eq!(scene.after(600).await, [Serving::Ready]);
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_counts_as_ready_for_a_while() {
    let scene = Scene::start();
    assert_eq!(scene.after(11).await, [not_ready("starting")]);
    scene.ready();
    assert_eq!(scene.after(2).await, [not_ready("starting"), Serving::Ready]);
    scene.readiness.send_replace(Readiness::waiting("no route"));
    sleep(Duration::from_secs(5)).await;
    scene.ready();
    assert_eq!(scene.after(60).await.len(), 2, "it was not ready for 5 s");
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn it_is_repeated_when_someone_changes_it_but_not_too_often() {
    let scene = Scene::start();
    scene.ready();
    scene.after(5).await;
    for _ in 0..100 {
        scene.store.change_announcement();
        sleep(Duration::from_millis(10)).await;
    }
    let repeated = scene.after(10).await.len();
    assert!((2..=4).contains(&repeated), "{repeated} in a second");
    scene.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_retried() {
    let scene = Scene::start();
    scene.store.set_availability(Availability::Down);
    scene.ready();
    assert_eq!(scene.after(60).await, []);
    let problem = scene.problem.borrow().clone();
    assert!(problem.is_some(), "the failure is a condition until it is over");
    scene.store.set_availability(Availability::Up);
    assert_eq!(scene.after(60).await, [Serving::Ready]);
    assert_eq!(*scene.problem.borrow(), None);
    scene.end().await;
}
