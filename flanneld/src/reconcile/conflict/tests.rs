use super::*;
use crate::contention::{CHECK, PAUSE, QUIET};
use crate::reconcile::conditions::id;
use crate::reconcile::tests::{Lab, peer};
use crate::store::Change;
use crate::testing::kernel::FakeKernel;
use flannel_core::dataplane::{Dataplane, LinkKind};
use flannel_core::link::Mac;
use tokio::task::JoinSet;
use tokio::time::sleep;

const AT_ONCE: Duration = Duration::from_millis(50);

fn name() -> LinkName {
    "flannel.1".parse().unwrap()
}

/// Our device has become somebody else's: another one (`rebuilt`), or one that was changed in place.
fn take_over(plane: &mut Dataplane, rebuilt: bool) {
    let Some(link) = plane.links.get_mut(&name()) else { return };
    match &mut link.kind {
        LinkKind::Vxlan(vxlan) if rebuilt => vxlan.port = 8473,
        _ => link.mac = Some(Mac([2, 0, 0, 0, 0, 9])),
    }
    link.alias = Some("flannel 10.43.0.0/16".to_owned());
}

fn is_ours(plane: &Dataplane) -> bool {
    let alias = plane.links.get(&name()).and_then(|link| link.alias.as_deref());
    alias == Some("flannel 10.42.0.0/16")
}

fn complaint(lab: &Lab) -> Option<String> {
    lab.report.borrow().conditions.get(id::CONFLICT).cloned()
}

/// Somebody who takes the device as soon as he sees that it is ours, and counts how often.
fn rival(
    tasks: &mut JoinSet<()>,
    kernel: &FakeKernel,
    rebuilt: bool,
) -> std::sync::Arc<std::sync::atomic::AtomicUsize> {
    let (kernel, count) = (kernel.clone(), std::sync::Arc::<std::sync::atomic::AtomicUsize>::default());
    let counted = count.clone();
    tasks.spawn(async move {
        loop {
            sleep(Duration::from_millis(20)).await;
            if is_ours(&kernel.dataplane()) {
                kernel.meddle(|plane| take_over(plane, rebuilt));
                counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
    });
    count
}

#[tokio::test(start_paused = true)]
async fn a_rival_is_named_and_not_fought_for_ever() {
    for rebuilt in [true, false] {
        let lab = Lab::settled().await;
        let mut tasks = JoinSet::new();
        let count = rival(&mut tasks, &lab.kernel, rebuilt);
        let taken = || count.swap(0, std::sync::atomic::Ordering::Relaxed);
        sleep(Duration::from_secs(2)).await;
        let text = complaint(&lab).expect("a complaint");
        assert!(text.starts_with("another program repeatedly changes flannel.1"), "{text}");
        assert!(text.contains("same VNI") && text.contains("stop it"), "{text}");
        let at_first = taken();
        assert!((8..=10).contains(&at_first), "{at_first}");
        // After 1, 2, 4, ... 32 seconds, then every minute.
        sleep(Duration::from_secs(100)).await;
        let later = taken();
        assert!((5..=7).contains(&later), "{later}");
        sleep(Duration::from_secs(600)).await;
        let in_ten_minutes = taken();
        assert!((9..=11).contains(&in_ten_minutes), "{in_ten_minutes}");
        assert!(complaint(&lab).is_some());

        // He gives up: the next try lasts, and some time later nothing is wrong any more.
        tasks.shutdown().await;
        lab.until("the device is ours after the longest pause", |_| true).await;
        sleep(PAUSE.1 + CHECK).await;
        assert!(is_ours(&lab.kernel.dataplane()));
        sleep(QUIET).await;
        assert_eq!(complaint(&lab), None);
        lab.kernel.meddle(|plane| take_over(plane, rebuilt));
        sleep(AT_ONCE).await;
        assert!(is_ours(&lab.kernel.dataplane()), "a single change is repaired at once again");
    }
}

/// Whoever only removes is nobody's rival: no haste makes the repair slower.
#[tokio::test(start_paused = true)]
async fn removals_are_repaired_at_once_however_many() {
    let lab = Lab::settled().await;
    for round in 0..200 {
        lab.kernel.meddle(|plane| {
            plane.links.remove(&name());
            plane.addresses.retain(|key, _| key.link != name());
            plane.neighbours.clear();
            plane.fdb.clear();
            plane.routes.retain(|_, route| route.target.link() != Some(&name()));
        });
        sleep(AT_ONCE).await;
        assert!(is_ours(&lab.kernel.dataplane()), "removal {round}");
    }
    // Nor is one who changes it now and then, or every time in another way.
    for round in 0..100_u8 {
        lab.kernel.meddle(|plane| {
            let link = plane.links.get_mut(&name()).unwrap();
            match round % 3 {
                0 => link.mac = Some(Mac([2, 0, 0, 0, 0, round])),
                1 => link.up = false,
                _ => link.mtu = 1300,
            }
        });
        sleep(QUICK / 2).await;
    }
    assert_eq!(complaint(&lab), None);
}

/// While the device is left alone, everything else goes on; and if the rival removes his, ours is back soon.
#[tokio::test(start_paused = true)]
async fn the_rest_goes_on_meanwhile() {
    let mut lab = Lab::settled().await;
    let mut tasks = JoinSet::new();
    rival(&mut tasks, &lab.kernel, true);
    sleep(Duration::from_secs(20)).await;
    tasks.shutdown().await;
    assert!(!is_ours(&lab.kernel.dataplane()), "his turn");
    lab.kernel.take_log();
    lab.change(vec![Change::Put(peer(4))]).await;
    sleep(AT_ONCE).await;
    assert_eq!(lab.kernel.take_log(), [""; 0], "nothing is put on his device");
    lab.kernel.meddle(|plane| {
        plane.links.remove(&name());
    });
    sleep(CHECK + AT_ONCE).await;
    assert!(is_ours(&lab.kernel.dataplane()));
    assert!(lab.kernel.dataplane().fdb.len() == 3, "with all peers");
}

#[test]
fn a_rival_that_ends_is_noticed() {
    let start = Instant::now();
    let device = Op::DeleteLink(name());
    let mut detector = Detector::default();
    for round in 0..REPETITIONS {
        assert_eq!(detector.next_check(start), None);
        let news = detector.note([&device].into_iter(), Duration::ZERO, start);
        assert_eq!(news.is_some(), round + 1 == REPETITIONS);
    }
    assert_eq!(detector.next_check(start), Some(start + PAUSE.0));
    let contention = &mut detector.conflict.as_mut().unwrap().contention;
    contention.others = vec![7, 8];
    assert_eq!(contention.check_with(|pid| pid == 8, start), None);
    assert_eq!(contention.check_with(|pid| pid == 8, start + PAUSE.0), Some(Turn::Repair));
    assert_eq!(contention.check_with(|_| false, start + PAUSE.0), Some(Turn::Over));
    contention.others.clear();
    assert_eq!(detector.check(start + QUIET), Some(Turn::Over));
    assert_eq!(detector.next_check(start), None);
}
