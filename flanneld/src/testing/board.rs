//! A board with the other ends of its channels, for tests.

use flannel_core::claim::Problem;
use flannel_core::lease::{LeaseAttrs, Subnets};
use flannel_core::ruleset::Mode;
use flannel_core::status::{Allocation, Kind, Round};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::board::{Board, Sources};
use crate::claim::{ClaimState, Own};
use crate::firewall::FirewallStatus;
use crate::status::{History, Readiness, Reason, Report, ViewRequest};
use crate::store::StoreOptions;

pub(crate) struct Fixture {
    pub(crate) board: Arc<Board>,
    pub(crate) readiness: watch::Sender<Readiness>,
    pub(crate) claim: watch::Sender<ClaimState>,
    pub(crate) report: watch::Sender<Report>,
    pub(crate) history: watch::Sender<History>,
    pub(crate) firewall: watch::Sender<FirewallStatus>,
    pub(crate) host: watch::Sender<Vec<String>>,
    _views: mpsc::Receiver<ViewRequest>,
    pub(crate) home: TempDir,
}

impl Fixture {
    /// A daemon that has just started.
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let store = StoreOptions::directory(home.path()).open().unwrap();
        let readiness = watch::Sender::new(Readiness::waiting("starting"));
        let (claim, report, history) =
            (watch::Sender::default(), watch::Sender::default(), watch::Sender::default());
        let (firewall, host) = (watch::Sender::default(), watch::Sender::default());
        let (ask, views) = mpsc::channel(1);
        let board = Board::new(Sources {
            store,
            watch: watch::Sender::default().subscribe(),
            readiness: readiness.subscribe(),
            claim: claim.subscribe(),
            report: report.subscribe(),
            history: history.subscribe(),
            firewall: firewall.subscribe(),
            host: host.subscribe(),
            announcement: watch::Sender::new(Some("no answer".to_owned())).subscribe(),
            views: ask,
            renew_margin: Duration::from_secs(3600),
        });
        Self {
            board: Arc::new(board),
            readiness,
            claim,
            report,
            history,
            firewall,
            host,
            _views: views,
            home,
        }
    }

    /// A daemon that has worked for a while, with something wrong everywhere.
    pub(crate) fn busy() -> Self {
        let fixture = Self::new();
        fixture.readiness.send_replace(Readiness::default());
        let own = Own {
            subnets: Subnets::parse_key("10.42.1.0-24").unwrap(),
            attrs: LeaseAttrs::default(),
            expires: Some(Instant::now() + Duration::from_secs(7200)),
            confirmed: true,
            reservation: false,
        };
        let problem = Some(Problem::NoConfig.to_string());
        fixture.claim.send_replace(ClaimState { own: Some(own), lost: None, problem });
        fixture.report.send_modify(|report| {
            report.peers.total = 5000;
            report.peers.faulty = 1;
            for about in ["store", "public address", "10.42.7.0-24", "10.42.8.0-24"] {
                report.conditions.insert(about.to_owned(), "it is wrong".to_owned());
            }
            report.allocation = vec![Allocation {
                family: "ipv4".to_owned(),
                network: "10.42.0.0/16".parse().unwrap(),
                capacity: 255,
                used: 3,
            }];
        });
        fixture.history.send_modify(|history| {
            for (reason, set, millis) in
                [(Reason::Start, 40, 20), (Reason::Hint, 2, 3), (Reason::Resync, 0, 7000)]
            {
                history.note(reason, round(reason, set), Duration::from_millis(millis));
            }
            history.note(Reason::LeaseChange, round(Reason::LeaseChange, 3), Duration::from_millis(1));
            history.ops[Kind::Route as usize][0] = [43, 1];
        });
        fixture.firewall.send_modify(|firewall| {
            firewall.mode = Some(Mode::Nftables.to_string());
            firewall.correct = true;
            firewall.repairs = 2;
            firewall.cleanup_error = Some("no iptables".to_owned());
        });
        fixture.host.send_replace(vec!["net.ipv4.ip_forward is 0".to_owned()]);
        fixture
    }
}

fn round(reason: Reason, set: u64) -> Round {
    Round {
        reason: reason.name().to_owned(),
        at_unix_seconds: 1_700_000_000,
        elapsed_milliseconds: 3,
        kept: 10,
        set,
        deleted: 0,
        failed: 0,
    }
}
