//! Cases that are hard to create on a real node. For the others, see `integration/tests/doctor*.rs`.

use super::*;
use crate::doctor::catalog::Severity;
use crate::doctor::facts::{CniFacts, FirewallFacts, Hidden, KindFacts, StoreFacts};
use crate::node::daemon::{Daemon, DaemonAnswer};
use flannel_core::ruleset::Mode;
use flannel_core::status::Firewall;
use flannel_core::store::{ConfigRecord, Listing};
use flanneld::cli::{Options, Parsed};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

mod kubernetes;

/// A host without config, daemon and CNI.
fn bare() -> Facts {
    let Ok(Parsed::Run(options)) = Options::parse(std::iter::empty(), |_| None) else {
        panic!("no flags are fine");
    };
    Facts {
        is_root: true,
        daemons: Vec::new(),
        options: *options,
        answer: DaemonAnswer::NotAsked,
        firewalls: Vec::new(),
        store: StoreFacts {
            location: "http://127.0.0.1:2379 /coreos.com/network".to_owned(),
            config_place: "the etcd key /coreos.com/network/config".to_owned(),
            listing: Ok(Listing {
                config: Some(ConfigRecord { text: "{}".to_owned(), revision: Default::default() }),
                ..Listing::default()
            }),
            latency: Some(Duration::from_millis(2)),
            clock_ahead: Some(Ok(0)),
            time_left: None,
        },
        remembered: Default::default(),
        observation: Default::default(),
        view: None,
        obstacles: Vec::new(),
        firewall: None,
        filters: Vec::new(),
        sysctls: BTreeMap::new(),
        advertised: Ok(Vec::new()),
        bridge_netfilter: Vec::new(),
        kinds: Vec::new(),
        offload: Ok(Vec::new()),
        checksum_errors: Some((0, 1000)),
        subnet_env: None,
        unwritable: Vec::new(),
        paths: Ok(Vec::new()),
        cni: CniFacts::default(),
        hidden: Hidden::default(),
        kubernetes: None,
    }
}

fn kind(name: &'static str, is_supported: Result<bool, String>) -> KindFacts {
    KindFacts { name, is_replaceable: false, is_supported }
}

fn of_store(pid: u32, scope: &str) -> Daemon {
    Daemon { pid, state: 'S', scope: Some(scope.to_owned()), socket: None, is_go: false, pod: None }
}

fn ids(facts: &Facts) -> Vec<&'static str> {
    run(facts).findings.iter().map(|finding| finding.id).filter(|id| *id != "cni-config-missing").collect()
}

#[test]
fn bare_host_has_no_findings() {
    assert!(ids(&bare()).is_empty(), "{:#?}", run(&bare()));
}

#[test]
fn invalid_checksums_are_reported_by_their_share() {
    let mut facts = bare();
    for (wrong, right, found) in [(9, 0, false), (10, 0, true), (10, 1001, false), (11, 1000, true)] {
        facts.checksum_errors = Some((wrong, right));
        assert_eq!(ids(&facts) == ["checksum-offload"], found, "{wrong} of {right}");
    }
}

#[test]
fn small_clock_skew_and_latency_are_tolerated() {
    let mut facts = bare();
    facts.store.clock_ahead = Some(Ok(-5));
    facts.store.latency = Some(Duration::from_millis(250));
    assert!(ids(&facts).is_empty());
    facts.store.clock_ahead = Some(Ok(-6));
    facts.store.latency = Some(Duration::from_millis(251));
    assert_eq!(ids(&facts), ["store-slow", "clock-skew"]);
    facts.store.clock_ahead = Some(Err("no date".to_owned()));
    assert_eq!(run(&facts).skipped.len(), 1);
}

#[test]
fn daemons_of_different_stores_may_share_a_host() {
    let mut facts = bare();
    let daemon = of_store;
    facts.daemons = vec![daemon(7, "etcd-a"), daemon(8, "etcd-b")];
    assert!(ids(&facts).is_empty());
    facts.daemons.push(daemon(9, "etcd-b"));
    assert_eq!(ids(&facts), ["daemon-duplicate"]);
}

/// The one of an older installation is to be stopped.
#[test]
fn go_flannel_beside_flannel_is_named() {
    let mut facts = bare();
    let pod = |name: &str| Some(("kube-flannel".to_owned(), name.to_owned()));
    let go = Daemon { is_go: true, pod: pod("kube-flannel-ds-x1x2x"), ..of_store(8, "kubernetes-a") };
    facts.daemons = vec![go, of_store(9, "kubernetes-a")];
    let finding = run(&facts).findings.remove(0);
    assert_eq!(
        finding.evidence,
        ["process 8: Go flannel in pod kube-flannel/kube-flannel-ds-x1x2x", "process 9: flannel"]
    );
    assert_eq!(finding.fix, "kubectl --namespace kube-flannel delete daemonset kube-flannel-ds");
    facts.daemons[0].pod = None;
    assert_eq!(run(&facts).findings[0].fix, "systemctl disable --now flanneld, or kill 8");
}

#[test]
fn daemons_with_rules_in_the_same_place_are_reported() {
    let mut facts = bare();
    let rules = |pid, mode: &str, correct| {
        (pid, Firewall { mode: Some(mode.to_owned()), correct, ..Firewall::default() })
    };
    facts.firewalls = vec![rules(7, "nftables", true), rules(8, "nftables", true)];
    assert!(ids(&facts).is_empty(), "the same rules");
    facts.firewalls = vec![rules(7, "nftables", true), rules(8, "iptables", false)];
    assert!(ids(&facts).is_empty(), "another mode");
    facts.firewalls.push(rules(9, "nftables", false));
    assert_eq!(ids(&facts), ["firewall-contested"]);
}

#[test]
fn missing_permissions_are_not_findings() {
    let mut facts = bare();
    let daemon = |pid| of_store(pid, "etcd");
    facts.daemons = vec![daemon(7), daemon(8)];
    facts.unwritable = vec![("/var/lib/flannel".into(), "permission denied".to_owned())];
    let refused = || Err("operation not permitted".to_owned());
    facts.firewall =
        Some(FirewallFacts { mode: Mode::Nftables, in_force: refused(), has_stale_rules: refused() });
    assert_eq!(ids(&facts), ["kernel-feature", "daemon-duplicate", "state-unwritable"]);
    facts.is_root = false;
    assert!(ids(&facts).is_empty(), "{:#?}", run(&facts));
    let skipped: BTreeSet<&str> = run(&facts).skipped.iter().map(|skipped| skipped.id).collect();
    for id in ["daemon-duplicate", "kernel-feature", "state-unwritable"] {
        assert!(skipped.contains(id), "{id} is not in {skipped:?}");
    }
}

#[test]
fn impossible_checks_are_listed() {
    let mut facts = bare();
    facts.offload = Err("ethtool is not installed".to_owned());
    facts.paths = Err("may not send".to_owned());
    facts.kinds = vec![kind("vxlan", Err("operation not permitted".to_owned()))];
    let skipped: Vec<&str> = run(&facts).skipped.iter().map(|skipped| skipped.id).collect();
    assert_eq!(skipped, ["kernel-feature", "mtu-path", "checksum-offload"]);
}

/// Kernels of tests have vxlan. How the kernel refuses a kind that it has not is tested with one that nobody has, in
/// `flanneld/src/kernel/netlink/tests.rs`; and end to end with ipip and wireguard, where a kernel lacks them.
#[test]
fn unsupported_kind_of_link_is_reported() {
    let mut facts = bare();
    facts.kinds = vec![kind("vxlan", Ok(false)), kind("bridge", Ok(true)), kind("wireguard", Ok(false))];
    facts.kinds[2].is_replaceable = true;
    let report = run(&facts);
    let found: Vec<_> = report.findings.iter().filter(|finding| finding.id == "kernel-feature").collect();
    let shown = |at: usize| (found[at].subject.as_str(), found[at].severity, found[at].fix.as_str());
    assert_eq!(found.len(), 2, "{report:#?}");
    let fix = "modprobe vxlan, boot a kernel that supports it, or choose another backend";
    assert_eq!(shown(0), ("vxlan", Severity::Error, fix));
    // A userspace implementation takes its place.
    assert_eq!((shown(1).0, shown(1).1), ("wireguard", Severity::Warning));
}
