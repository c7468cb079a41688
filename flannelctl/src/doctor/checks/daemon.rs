//! The daemon.

use flannel_core::ruleset::Mode;
use flannel_core::status::Firewall;
use std::collections::BTreeMap;

use super::AS_ROOT;
use crate::doctor::catalog::{
    DAEMON_DOWN, DAEMON_DUPLICATE, DAEMON_NOT_READY, DAEMON_STUCK, FIREWALL_CONTESTED,
};
use crate::doctor::facts::Facts;
use crate::doctor::report::Report;
use crate::node::daemon::{Daemon, DaemonAnswer};

pub(super) fn check(facts: &Facts, report: &mut Report) {
    if facts.daemons.is_empty() && facts.ran_before() {
        let problem = "flanneld is not running: nothing is repaired, renewed or updated";
        report.find(&DAEMON_DOWN, "flanneld", problem).seen("no flanneld process in this network namespace");
    }
    let mut by_scope: BTreeMap<&str, Vec<&Daemon>> = BTreeMap::new();
    for daemon in &facts.daemons {
        if let Some(scope) = &daemon.scope {
            by_scope.entry(scope).or_default().push(daemon);
        }
        if daemon.is_stopped() {
            let problem = "flanneld is stopped by a signal or a debugger";
            report
                .find(&DAEMON_STUCK, format!("pid {}", daemon.pid), problem)
                .seen(format!("state {} in /proc/{}/stat", daemon.state, daemon.pid))
                .fix(format!("kill -CONT {}", daemon.pid));
        }
    }
    if !facts.is_root {
        // Only root can read the network namespaces of processes.
        report.skip(&DAEMON_DUPLICATE, AS_ROOT);
        by_scope.clear();
    } else if let Some(reason) = &facts.hidden.processes {
        report.skip(&DAEMON_DUPLICATE, reason);
    }
    for (scope, daemons) in by_scope.into_iter().filter(|(_, daemons)| daemons.len() > 1) {
        let problem = format!("{} daemons with the same store run in one network namespace", daemons.len());
        let found = report.find(&DAEMON_DUPLICATE, scope, problem);
        for Daemon { pid, is_go, pod, .. } in &daemons {
            let name = if *is_go { "Go flannel" } else { "flannel" };
            let place = pod
                .as_ref()
                .map_or_else(String::new, |(namespace, pod)| format!(" in pod {namespace}/{pod}"));
            found.seen(format!("process {pid}: {name}{place}"));
        }
        let is_mixed = daemons.iter().any(|daemon| !daemon.is_go);
        if let Some(surplus) = daemons.iter().rev().find(|daemon| daemon.is_go && is_mixed).or(daemons.last())
        {
            found.fix(stop(surplus));
        }
    }
    for mode in [Mode::Nftables, Mode::Iptables] {
        contested_firewall(facts, mode, report);
    }
    match &facts.answer {
        DaemonAnswer::Silent(reason) => {
            report.find(&DAEMON_STUCK, "flanneld", "flanneld does not respond").seen(reason);
        }
        DaemonAnswer::NotReady(reasons) => {
            report
                .find(&DAEMON_NOT_READY, "flanneld", "flanneld is running but not ready")
                .seen(reasons)
                .fix("fix the other findings; see journalctl -u flanneld");
        }
        DaemonAnswer::NotAsked | DaemonAnswer::Ready => {}
    }
}

/// What stops a daemon for good.
fn stop(daemon: &Daemon) -> String {
    let pod = daemon.pod.as_ref().and_then(|(namespace, pod)| Some((namespace, pod.rsplit_once('-')?.0)));
    match pod {
        Some((namespace, set)) => format!("kubectl --namespace {namespace} delete daemonset {set}"),
        None if daemon.is_go => format!("systemctl disable --now flanneld, or kill {}", daemon.pid),
        None => format!("kill {}", daemon.pid),
    }
}

/// Several daemons, each of which sets its own rules in the same place.
fn contested_firewall(facts: &Facts, mode: Mode, report: &mut Report) {
    let text = mode.to_string();
    let all = || facts.firewalls.iter().filter(|(_, firewall)| firewall.mode.as_ref() == Some(&text));
    let is_lost = |firewall: &Firewall| !firewall.correct || firewall.error.is_some();
    let pids: Vec<u32> = all().map(|(pid, _)| *pid).collect();
    let (Some(last), true) = (pids.last(), pids.len() > 1) else { return };
    if !all().any(|(_, firewall)| is_lost(firewall)) {
        return;
    }
    let problem = format!(
        "{} daemons in one network namespace set their own rules in the {}: only the rules of one daemon are in effect",
        pids.len(),
        mode.place()
    );
    let found = report.find(&FIREWALL_CONTESTED, &text, problem);
    for (pid, firewall) in all() {
        let state = if firewall.correct { "in effect" } else { "not in effect" };
        found.seen(format!("process {pid}: its rules are {state}"));
    }
    found.fix(format!("kill {last}, or run it in a network namespace of its own"));
}
