use flannel_core::ruleset::{Mode, Ruleset};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::{Desired, FULL_CHECK, FirewallStatus, Hint, Hints, PATIENCE, Task};
use crate::contention::{CHECK, PAUSE, QUIET};
use crate::firewall::Firewall;
use crate::firewall::tests::rules;
use crate::testing::firewall::FakeHost;

const RESYNC: Duration = Duration::from_secs(5);

/// The task on a fake host.
struct Daemon {
    host: FakeHost,
    hints: mpsc::Sender<Hint>,
    desired: watch::Sender<Option<Desired>>,
    status: watch::Receiver<FirewallStatus>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Daemon {
    fn start(host: &FakeHost) -> Self {
        let (hints, hint_receiver) = mpsc::channel(16);
        let (desired, desired_receiver) = watch::channel(None);
        let (status_sender, status) = watch::channel(FirewallStatus::default());
        let stop = CancellationToken::new();
        let firewalls = [Mode::Nftables, Mode::Iptables]
            .map(|mode| -> Box<dyn Firewall> { Box::new(host.firewall(mode)) });
        let task = Task::new(firewalls, Hints::Channel(hint_receiver), RESYNC, status_sender);
        let mut tasks = JoinSet::new();
        tasks.spawn(task.run(desired_receiver, stop.clone()));
        Self { host: host.clone(), hints, desired, status, stop, tasks }
    }

    fn want(&self, mode: Mode, ruleset: Ruleset) {
        self.desired.send_replace(Some(Desired { mode, ruleset }));
    }

    /// The next status that fulfils the condition, and how long it took.
    async fn until(
        &mut self,
        what: &str,
        condition: impl FnMut(&FirewallStatus) -> bool,
    ) -> (FirewallStatus, Duration) {
        let start = Instant::now();
        let waiting = time::timeout(Duration::from_secs(600), self.status.wait_for(condition));
        let Ok(status) = waiting.await.map(|status| status.unwrap().clone()) else {
            panic!("{what} did not come: {:?}, {:?}", *self.status.borrow(), self.host.state());
        };
        (status, start.elapsed())
    }

    async fn correct(&mut self) -> FirewallStatus {
        self.until("correct", |status| status.correct).await.0
    }

    /// Somebody else removes our rules, and the kernel says so.
    async fn damage(&mut self, mode: Mode) -> Duration {
        let repairs = self.status.borrow().repairs;
        self.host.state().damage(mode, Ruleset::default());
        let generation = Some(self.host.state().generation);
        self.hints.send(Hint { generation }).await.unwrap();
        self.until("repair", |status| status.repairs > repairs && status.correct).await.1
    }
}

fn notifying() -> FakeHost {
    let host = FakeHost::default();
    host.state().notifies = true;
    host
}

#[tokio::test(start_paused = true)]
async fn nothing_is_touched_before_something_is_wanted() {
    let host = notifying();
    let daemon = Daemon::start(&host);
    time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(*daemon.status.borrow(), FirewallStatus::default());
    assert_eq!(host.calls(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn installs_then_rests() {
    let host = notifying();
    let mut daemon = Daemon::start(&host);
    daemon.want(Mode::Nftables, rules(true, true));
    let status = daemon.correct().await;
    assert_eq!((status.installs, status.repairs, status.mode), (1, 0, Some(Mode::Nftables.to_string())));
    assert_eq!(host.state().nftables, rules(true, true));
    let reads = host.state().reads;
    time::sleep(Duration::from_secs(3630)).await;
    // Whether the other mode has something.
    assert_eq!(host.calls(), (reads + 60, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_right_already_is_not_written() {
    let host = notifying();
    host.state().iptables = rules(true, false);
    let mut daemon = Daemon::start(&host);
    daemon.want(Mode::Iptables, rules(true, false));
    let status = daemon.correct().await;
    assert_eq!((status.installs, status.repairs, host.state().writes), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_hint_brings_the_repair_at_once() {
    let host = notifying();
    let mut daemon = Daemon::start(&host);
    daemon.want(Mode::Nftables, rules(true, true));
    daemon.correct().await;
    assert!(daemon.damage(Mode::Nftables).await < Duration::from_millis(200));
    assert_eq!(host.state().nftables, rules(true, true));
    // The echo of the repair, and of older changes.
    let (reads, _) = host.calls();
    let generation = host.state().generation;
    for back in [0, 1, 2] {
        daemon.hints.send(Hint { generation: Some(generation - back) }).await.unwrap();
    }
    time::sleep(Duration::from_secs(30)).await;
    assert_eq!(host.state().reads, reads);
}

/// Lost notifications and a missed one: both are made good.
#[tokio::test(start_paused = true)]
async fn damage_without_a_hint_is_found_by_the_full_check() {
    let host = notifying();
    let mut daemon = Daemon::start(&host);
    daemon.want(Mode::Nftables, rules(true, true));
    daemon.correct().await;
    host.state().damage(Mode::Nftables, rules(true, false));
    let (_, took) = daemon.until("repair", |status| status.repairs == 1).await;
    assert!(took <= FULL_CHECK, "{took:?}");
    host.state().damage(Mode::Nftables, rules(true, false));
    daemon.hints.send(Hint { generation: None }).await.unwrap();
    let (_, took) = daemon.until("repair", |status| status.repairs == 2).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn without_notifications_the_rules_are_read_periodically() {
    let host = FakeHost::default();
    let mut daemon = Daemon::start(&host);
    daemon.want(Mode::Iptables, rules(true, true));
    daemon.correct().await;
    let reads = host.state().reads;
    time::sleep(RESYNC * 10 + RESYNC / 2).await;
    assert_eq!(host.state().reads, reads + 2 * 10, "those of either mode");
    host.state().damage(Mode::Iptables, rules(true, false));
    let (_, took) = daemon.until("repair", |status| status.repairs == 1).await;
    assert!(took <= RESYNC, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_what_is_wanted_is_an_installation() {
    let host = notifying();
    let mut daemon = Daemon::start(&host);
    daemon.want(Mode::Nftables, rules(true, true));
    daemon.correct().await;
    daemon.want(Mode::Nftables, rules(true, false));
    let (status, took) = daemon.until("install", |status| status.installs == 2 && status.correct).await;
    assert_eq!((status.repairs, took), (0, Duration::ZERO));
    assert_eq!(host.state().nftables, rules(true, false));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_mode_cleans_the_other_after_installing() {
    let host = notifying();
    host.state().nftables = rules(true, false);
    let mut daemon = Daemon::start(&host);
    for mode in [Mode::Iptables, Mode::Nftables, Mode::Iptables] {
        daemon.want(mode, rules(true, true));
        daemon.until("switch", |status| status.correct && status.mode == Some(mode.to_string())).await;
        assert_eq!(*host.state().rules(mode), rules(true, true));
        assert_eq!(*host.state().rules(mode.other()), Ruleset::default());
    }
    assert!(!host.state().interrupted);
}

/// The previous mode contains the same rules until the new one does, however often that fails.
#[tokio::test(start_paused = true)]
async fn a_change_of_mode_keeps_the_node_ready() {
    let host = notifying();
    let mut daemon = Daemon::start(&host);
    daemon.want(Mode::Iptables, rules(true, true));
    daemon.correct().await;
    for mode in [Mode::Nftables, Mode::Iptables] {
        host.state().fail_writes = 2;
        daemon.want(mode, rules(true, true));
        loop {
            daemon.status.changed().await.unwrap();
            let status = daemon.status.borrow_and_update().clone();
            assert!(status.correct, "{status:?}");
            if status.mode == Some(mode.to_string()) && status.error.is_none() {
                break;
            }
        }
    }
    // Other rules are missing until they are set, and so are the same ones if the previous mode has lost them.
    host.state().fail_writes = 1;
    daemon.want(Mode::Nftables, rules(true, false));
    daemon.until("other rules", |status| !status.correct && status.error.is_some()).await;
    daemon.correct().await;
    host.state().fail_writes = 1;
    host.state().nftables = Ruleset::default();
    daemon.want(Mode::Iptables, rules(true, false));
    daemon.until("lost rules", |status| !status.correct && status.error.is_some()).await;
    daemon.correct().await;
}

/// Another program makes rules of the mode not in use: with a hint they go at once, without one in a minute.
#[tokio::test(start_paused = true)]
async fn what_appears_in_the_other_mode_goes() {
    let host = notifying();
    let mut daemon = Daemon::start(&host);
    for mode in [Mode::Nftables, Mode::Iptables] {
        daemon.want(mode, rules(true, true));
        daemon.until("switch", |status| status.correct && status.mode == Some(mode.to_string())).await;
        for (hinted, limit) in [(true, Duration::from_millis(200)), (false, FULL_CHECK)] {
            time::sleep(Duration::from_secs(100)).await;
            if hinted {
                host.state().damage(mode.other(), rules(true, false));
                let generation = Some(host.state().generation);
                daemon.hints.send(Hint { generation }).await.unwrap();
            } else {
                // The legacy variant of iptables leaves the generation as it is.
                *host.state().rules(mode.other()) = rules(true, false);
            }
            time::sleep(limit).await;
            assert_eq!(*host.state().rules(mode.other()), Ruleset::default(), "{mode}, hinted: {hinted}");
            assert_eq!(*host.state().rules(mode), rules(true, true));
        }
    }
    assert_eq!(daemon.status.borrow().repairs, 0, "ours were right throughout");
}

#[tokio::test(start_paused = true)]
async fn failures_are_shown_and_tried_again() {
    let host = notifying();
    host.state().fail_writes = 3;
    let mut daemon = Daemon::start(&host);
    daemon.want(Mode::Nftables, rules(true, true));
    let (status, _) = daemon.until("error", |status| status.error.is_some()).await;
    assert!(!status.correct);
    let (status, took) = daemon.until("correct", |status| status.correct).await;
    assert_eq!((status.error, status.installs, host.state().writes), (None, 1, 4));
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(4), "{took:?}");
}

/// A read that fails says nothing about the rules: they were right and nobody is told otherwise.
#[tokio::test(start_paused = true)]
async fn a_failing_read_does_not_take_readiness_away() {
    let host = FakeHost::default();
    let mut daemon = Daemon::start(&host);
    daemon.want(Mode::Iptables, rules(true, true));
    daemon.correct().await;
    host.state().fail_reads = 2;
    let (status, _) = daemon.until("error", |status| status.error.is_some()).await;
    assert!(status.correct);
    let (status, _) = daemon.until("recovery", |status| status.error.is_none()).await;
    assert_eq!((status.correct, status.repairs, host.state().fail_reads), (true, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn rules_that_do_not_last_are_an_error() {
    let host = notifying();
    host.state().forgets = true;
    let mut daemon = Daemon::start(&host);
    daemon.want(Mode::Nftables, rules(true, true));
    let (status, _) = daemon.until("error", |status| status.error.is_some()).await;
    assert!(status.error.unwrap().starts_with("the nftables rules read back differ"));
    assert!(!status.correct);
    host.state().forgets = false;
    daemon.correct().await;
}

/// The rules in use do not wait for the clean-up of the others.
#[tokio::test(start_paused = true)]
async fn leftovers_that_cannot_be_removed_are_named_and_tried_again() {
    let host = notifying();
    host.state().nftables = rules(true, true);
    host.state().iptables = rules(true, true);
    host.state().fail_writes = 2;
    let mut daemon = Daemon::start(&host);
    daemon.want(Mode::Nftables, rules(true, true));
    let (status, _) = daemon.until("error", |status| status.cleanup_error.is_some()).await;
    assert!(status.correct && status.error.is_none());
    daemon.until("clean-up", |status| status.cleanup_error.is_none()).await;
    assert_eq!(host.state().iptables, Ruleset::default());
    assert_eq!(host.state().nftables, rules(true, true));
}

#[tokio::test(start_paused = true)]
async fn a_conflict_with_another_program_slows_down() {
    let host = notifying();
    let mut daemon = Daemon::start(&host);
    daemon.want(Mode::Nftables, rules(true, true));
    daemon.correct().await;
    let mut times = Vec::new();
    for _ in 0..PATIENCE + 10 {
        times.push(daemon.damage(Mode::Nftables).await);
    }
    assert!(times[..5].iter().all(|took| *took < Duration::from_millis(100)), "{times:?}");
    assert!(times[times.len() - 1] > Duration::from_secs(3), "{times:?}");
    // Whoever changes what is wanted need not wait for that.
    host.state().damage(Mode::Nftables, Ruleset::default());
    let generation = Some(host.state().generation);
    daemon.hints.send(Hint { generation }).await.unwrap();
    time::sleep(Duration::from_secs(1)).await;
    daemon.want(Mode::Nftables, rules(true, false));
    let (_, took) = daemon.until("install", |status| status.installs == 2 && status.correct).await;
    assert!(took < Duration::from_millis(100), "{took:?}");
    time::sleep(Duration::from_secs(20)).await;
    daemon.damage(Mode::Nftables).await;
    assert!(daemon.damage(Mode::Nftables).await < Duration::from_millis(100));
}

/// Another daemon sets its rules whenever it sees those of this one: both must not go on so, and it is reported.
#[tokio::test(start_paused = true)]
async fn rules_of_a_conflicting_daemon_are_not_overwritten_without_end() {
    let host = notifying();
    let mut daemon = Daemon::start(&host);
    daemon.want(Mode::Nftables, rules(true, true));
    daemon.correct().await;
    let (others, hints) = (host.clone(), daemon.hints.clone());
    daemon.tasks.spawn(async move {
        loop {
            time::sleep(Duration::from_millis(20)).await;
            if others.state().nftables == rules(true, true) {
                others.state().damage(Mode::Nftables, rules(true, false));
                let generation = Some(others.state().generation);
                hints.send(Hint { generation }).await.unwrap();
            }
        }
    });
    let (status, took) = daemon.until("a conflict", |status| status.error.is_some()).await;
    let text = status.error.unwrap();
    assert!(
        text.starts_with("another program repeatedly changes flannel's nftables rules, perhaps"),
        "{text}"
    );
    assert!(took < Duration::from_secs(5), "{took:?}");
    time::sleep(Duration::from_secs(100)).await;
    let (before, reads) = (daemon.status.borrow().repairs, host.state().reads);
    time::sleep(Duration::from_secs(600)).await;
    let status = daemon.status.borrow().clone();
    assert!(
        (9..=11).contains(&(status.repairs - before)),
        "{} repairs in ten minutes",
        status.repairs - before
    );
    assert!(host.state().reads - reads < 500, "{} reads", host.state().reads - reads);
    assert!(!status.correct && status.error.is_some(), "{status:?}");
    // The present rules are needed at once, whoever changes them.
    daemon.want(Mode::Nftables, Ruleset::default());
    let (_, took) = daemon.until("install", |status| status.installs == 2 && status.correct).await;
    assert!(took < Duration::from_millis(100), "{took:?}");
}

/// The other daemon ends: the rules are restored after the present pause at the latest, and some time later it is forgotten.
#[tokio::test(start_paused = true)]
async fn a_conflict_ends() {
    let host = notifying();
    let mut daemon = Daemon::start(&host);
    daemon.want(Mode::Nftables, rules(true, true));
    daemon.correct().await;
    while daemon.status.borrow().error.is_none() {
        host.state().damage(Mode::Nftables, rules(true, false));
        let generation = Some(host.state().generation);
        daemon.hints.send(Hint { generation }).await.unwrap();
        time::sleep(Duration::from_secs(1)).await;
    }
    host.state().damage(Mode::Nftables, rules(true, false));
    let generation = Some(host.state().generation);
    daemon.hints.send(Hint { generation }).await.unwrap();
    time::sleep(PAUSE.1 + CHECK).await;
    assert_eq!(host.state().nftables, rules(true, true));
    assert!(daemon.status.borrow().correct);
    let (_, took) = daemon.until("end", |status| status.error.is_none()).await;
    assert!(took <= QUIET, "{took:?}");
    assert!(daemon.damage(Mode::Nftables).await < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn ends_when_told_and_when_nobody_wants_anything_any_more() {
    let host = notifying();
    let mut daemon = Daemon::start(&host);
    daemon.want(Mode::Nftables, rules(true, true));
    daemon.correct().await;
    daemon.stop.cancel();
    daemon.tasks.join_next().await.unwrap().unwrap();
    assert_eq!(host.state().nftables, rules(true, true), "the rules stay");

    let Daemon { desired, mut tasks, .. } = Daemon::start(&host);
    drop(desired);
    tasks.join_next().await.unwrap().unwrap();
}
