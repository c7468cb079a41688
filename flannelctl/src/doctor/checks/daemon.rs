//! The daemon itself.

use std::collections::BTreeMap;

use crate::doctor::catalog::{DAEMON_DOWN, DAEMON_DUPLICATE, DAEMON_NOT_READY, DAEMON_STUCK};
use crate::doctor::facts::Facts;
use crate::doctor::report::Report;
use crate::node::daemon::DaemonAnswer;

use super::AS_ROOT;

pub(super) fn check(facts: &Facts, report: &mut Report) {
    if facts.daemons.is_empty() && facts.ran_before() {
        report.find(
            &DAEMON_DOWN,
            "flanneld",
            "flanneld does not run on this node: nothing is repaired, renewed or learned",
            vec!["no process flanneld in this network namespace".to_owned()],
            "systemctl start flanneld",
        );
    }
    let mut by_scope: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for daemon in &facts.daemons {
        if let Some(scope) = &daemon.scope {
            by_scope.entry(scope).or_default().push(daemon.pid);
        }
        if daemon.is_stopped() {
            report.find(
                &DAEMON_STUCK,
                format!("pid {}", daemon.pid),
                "flanneld is stopped by a signal or a debugger",
                vec![format!("state {} in /proc/{}/stat", daemon.state, daemon.pid)],
                format!("kill -CONT {}", daemon.pid),
            );
        }
    }
    if !facts.is_root {
        // Whose network namespace they are in is not told to others.
        report.skip(&DAEMON_DUPLICATE, AS_ROOT);
        by_scope.clear();
    }
    for (scope, pids) in by_scope.into_iter().filter(|(_, pids)| pids.len() > 1) {
        let texts: Vec<String> = pids.iter().map(ToString::to_string).collect();
        report.find(
            &DAEMON_DUPLICATE,
            scope,
            format!("{} daemons of one store work on one network namespace", pids.len()),
            vec![format!("pids {}", texts.join(", "))],
            format!("kill {}", texts.last().map_or("", String::as_str)),
        );
    }
    match &facts.answer {
        DaemonAnswer::Silent(reason) => {
            report.find(
                &DAEMON_STUCK,
                "flanneld",
                "flanneld runs and does not answer",
                vec![reason.clone()],
                "systemctl restart flanneld",
            );
        }
        DaemonAnswer::NotReady(words) => {
            report.find(
                &DAEMON_NOT_READY,
                "flanneld",
                "flanneld runs and says that pods cannot be served",
                vec![words.clone()],
                "journalctl -u flanneld; and what else is found here",
            );
        }
        _ => {}
    }
}
