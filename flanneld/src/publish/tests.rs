use super::*;
use crate::claim::Own;
use flannel_core::config::NetworkConfig;
use flannel_core::lease::LeaseAttrs;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use tempfile::TempDir;

/// A publisher and the other ends of its channels.
struct Lab {
    claim: watch::Sender<ClaimState>,
    report: watch::Sender<Report>,
    firewall: watch::Sender<FirewallStatus>,
    env: watch::Sender<Option<SubnetEnv>>,
    publisher: Publisher,
    home: TempDir,
}

impl Lab {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (claim, report) = (watch::Sender::default(), watch::Sender::default());
        let (firewall, env) = (watch::Sender::default(), watch::Sender::default());
        let inputs = Inputs {
            claim: claim.subscribe(),
            report: report.subscribe(),
            firewall: firewall.subscribe(),
            subnet_env: env.subscribe(),
        };
        let outputs = Outputs {
            subnet_file: home.path().join("subnet.env"),
            readiness: watch::Sender::new(Readiness::waiting("starting")),
            host: watch::Sender::default(),
            notifier: Notifier::from_env(|_| None, 1),
            pulse: Arc::default(),
        };
        let publisher = Publisher::new(inputs, outputs, Vec::new());
        Self { claim, report, firewall, env, publisher, home }
    }

    fn hold(&self, key: &str) {
        let own = Own {
            subnets: Subnets::parse_key(key).unwrap(),
            attrs: LeaseAttrs::default(),
            expires: None,
            confirmed: true,
            reservation: false,
        };
        self.claim.send_replace(ClaimState { own: Some(own), ..ClaimState::default() });
    }

    fn lose(&self, key: &str) {
        let lost = Some(Subnets::parse_key(key).unwrap());
        self.claim.send_replace(ClaimState { lost, ..ClaimState::default() });
    }

    fn offer(&self, key: &str) {
        self.env.send_replace(Some(env(key)));
    }

    /// Publishes; the subnet in the file afterwards.
    fn publish(&mut self) -> Option<String> {
        self.publisher.publish();
        written(self.home.path())
    }

    fn is_ready(&self) -> bool {
        self.publisher.outputs.readiness.borrow().is_ready()
    }
}

fn env(key: &str) -> SubnetEnv {
    let config = NetworkConfig::parse(r#"{"Network":"10.5.0.0/16"}"#).unwrap();
    SubnetEnv::new(&config, &Subnets::parse_key(key).unwrap(), 1450, true).unwrap()
}

fn written(home: &Path) -> Option<String> {
    let text = fs::read_to_string(home.join("subnet.env")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("FLANNEL_SUBNET=")).map(str::to_owned)
}

#[test]
fn ready_means_lease_routes_rules_and_file() {
    let mut lab = Lab::new();
    assert_eq!(lab.publish(), None);
    lab.hold("10.5.1.0-24");
    lab.offer("10.5.1.0-24");
    assert_eq!(lab.publish().as_deref(), Some("10.5.1.1/24"));
    assert!(!lab.is_ready());
    lab.report.send_replace(Report { converged: true, peers_known: true, ..Report::default() });
    lab.publish();
    assert!(!lab.is_ready(), "rules are missing");
    lab.firewall.send_replace(FirewallStatus { correct: true, ..FirewallStatus::default() });
    lab.publish();
    assert!(lab.is_ready());
    // A later round with failures does not take it back: pods can start.
    lab.report.send_replace(Report { converged: false, peers_known: true, ..Report::default() });
    lab.publish();
    assert!(lab.is_ready());
}

#[test]
fn a_subnet_that_was_lost_is_never_told_again() {
    for says_lost in [true, false] {
        let mut lab = Lab::new();
        lab.hold("10.5.1.0-24");
        lab.offer("10.5.1.0-24");
        assert_eq!(lab.publish().as_deref(), Some("10.5.1.1/24"));
        if says_lost {
            lab.lose("10.5.1.0-24");
            assert_eq!(lab.publish(), None);
        }
        // The new lease is there, what follows from it is not yet.
        lab.hold("10.5.7.0-24");
        assert_eq!(lab.publish(), None);
        assert!(!lab.is_ready());
        lab.offer("10.5.7.0-24");
        assert_eq!(lab.publish().as_deref(), Some("10.5.7.1/24"));
    }
}

#[test]
fn the_file_of_the_last_run_stays_until_something_speaks_against_it() {
    let mut lab = Lab::new();
    fs::write(lab.home.path().join("subnet.env"), env("10.5.1.0-24").to_string()).unwrap();
    assert_eq!(lab.publish().as_deref(), Some("10.5.1.1/24"));
    lab.hold("10.5.1.0-24");
    assert_eq!(lab.publish().as_deref(), Some("10.5.1.1/24"));
    lab.hold("10.5.2.0-24");
    assert_eq!(lab.publish(), None);
}

#[test]
fn a_file_that_cannot_be_written_is_tried_again() {
    let mut lab = Lab::new();
    lab.publisher.outputs.subnet_file = lab.home.path().join("file/subnet.env");
    fs::write(lab.home.path().join("file"), "not a directory").unwrap();
    lab.hold("10.5.1.0-24");
    lab.offer("10.5.1.0-24");
    assert!(lab.publisher.publish().is_some());
    fs::remove_file(lab.home.path().join("file")).unwrap();
    assert!(lab.publisher.publish().is_none());
    assert!(lab.publisher.written);
}

#[test]
fn only_what_we_own_is_remembered() {
    let lab = Lab::new();
    let remembered =
        || lease_to_remember(&lab.claim.borrow(), None).map(|lease| lease.map(|lease| lease.key));
    assert_eq!(remembered(), None);
    lab.hold("10.5.1.0-24");
    assert_eq!(remembered(), Some(Some("10.5.1.0-24".to_owned())));
    lab.lose("10.5.1.0-24");
    assert_eq!(remembered(), Some(None));
}

#[tokio::test(start_paused = true)]
async fn the_watchdog_is_notified_only_while_the_loop_responds() {
    let mut lab = Lab::new();
    let path = lab.home.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_nonblocking(true).unwrap();
    let variables = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "20000000")];
    let env = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
    lab.publisher.outputs.notifier = Notifier::from_env(env, 1);
    let pulse = Arc::clone(&lab.publisher.outputs.pulse);
    let received = || {
        let mut buffer = [0; 512];
        std::iter::from_fn(|| manager.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()))
            .filter(|message| message == b"WATCHDOG=1")
            .count()
    };
    let stop = CancellationToken::new();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(lab.publisher.run(stop.clone()));
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(received(), 0, "the loop hangs");
    tasks.spawn(async move {
        loop {
            pulse.request.notified().await;
            pulse.response.notify_one();
        }
    });
    tokio::time::sleep(Duration::from_secs(105)).await;
    let received = received();
    assert!((10..=11).contains(&received), "{received} in 105 s");
    stop.cancel();
}
