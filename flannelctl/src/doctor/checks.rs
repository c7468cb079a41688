//! The checks: pure functions from facts to findings.

use super::catalog::RESTART;
use super::facts::Facts;
use super::report::Report;

mod cni;
mod daemon;
mod host;
mod kernel;
mod kubernetes;
mod leases;
mod network;
mod runtime;
mod store;
#[cfg(test)]
mod tests;

/// Reason of a check that is skipped without root permissions.
const AS_ROOT: &str = "requires root";

/// Runs all checks.
pub(crate) fn run(facts: &Facts) -> Report {
    let mut report = Report::default();
    host::check(facts, &mut report);
    network::check(facts, &mut report);
    store::check(facts, &mut report);
    leases::check(facts, &mut report);
    kubernetes::check(facts, &mut report);
    daemon::check(facts, &mut report);
    kernel::check(facts, &mut report);
    cni::check(facts, &mut report);
    runtime::check(facts, &mut report);
    if let Some(kubernetes) = &facts.kubernetes {
        kubernetes::settle(&kubernetes.cluster, &mut report);
    }
    if facts.daemons.is_empty() {
        for finding in report.findings.iter_mut().filter(|finding| finding.fix == RESTART) {
            finding.fix = "systemctl start flanneld".to_owned();
        }
    }
    report.sort();
    report
}
