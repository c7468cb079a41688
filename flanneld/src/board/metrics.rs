//! `/metrics`: the text format of Prometheus, version 0.0.4.
//!
//! Labels are bounded: none contains a peer, a subnet or an address. The cost of a page does not depend on the size of the cluster.
//! `docs/metrics.md` explains each metric; a test compares the two.

use flannel_core::json;
use flannel_core::ruleset::Mode;
use flannel_core::status::{Action, Kind};
use std::fmt::{Display, Write as _};
use std::time::Duration;

use super::{Board, by_subject};
use crate::histogram::Histogram;
use crate::status::{DURATION_CLASSES, Reason, unix_secs};
use crate::store::{LATENCY_CLASSES, Operation, OperationStats};

/// The media type of the format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics.
pub(crate) fn page(board: &Board) -> String {
    let mut page = Page::default();
    page.family("flannel_build_info", GAUGE, "Version of flanneld; always 1.");
    page.sample("", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    let ready = board.sources.readiness.borrow().is_ready();
    page.gauge("flannel_ready", "1 if pods can start on this node, as reported by /readyz.", u8::from(ready));
    page.family("flannel_degraded_conditions", GAUGE, "Current problems, by subject.");
    for (about, count) in by_subject(&board.conditions()) {
        page.sample("", &[("about", &about)], count);
    }
    rounds(&mut page, board);
    cluster(&mut page, board);
    store(&mut page, board);
    lease(&mut page, board);
    firewall(&mut page, board);
    process(&mut page, board);
    page.text
}

fn rounds(page: &mut Page, board: &Board) {
    let history = board.sources.history.borrow();
    page.family("flannel_rounds_total", COUNTER, "Runs of the reconcile loop, by reason.");
    for reason in Reason::all() {
        let count = history.by_reason.get(&reason).copied().unwrap_or_default();
        page.sample("", &[("reason", reason.name())], count);
    }
    page.family("flannel_round_duration_seconds", HISTOGRAM, "Duration of full rounds.");
    page.histogram(&[], &DURATION_CLASSES, &history.durations);
    page.gauge(
        "flannel_round_last_success_timestamp_seconds",
        "End of the last full round without a failed operation, in seconds since 1970; 0 before the first.",
        history.last_success_at_unix_seconds.unwrap_or_default(),
    );
    page.family("flannel_ops_total", COUNTER, "Kernel operations, by kind of object, action and result.");
    for kind in Kind::ALL {
        for action in Action::ALL {
            let (kind_name, action_name) = (json::name(&kind), json::name(&action));
            for (result, count) in
                ["success", "failure"].iter().zip(history.ops[kind as usize][action as usize])
            {
                let labels = [("kind", &*kind_name), ("action", &action_name), ("result", result)];
                page.sample("", &labels, count);
            }
        }
    }
    page.gauge(
        "flannel_ops_failing",
        "Operations that failed in the last full round or since then.",
        history.failing_count,
    );
    page.family(
        "flannel_repairs_total",
        COUNTER,
        "Operations that reverted changes of other programs, by cause of detection.",
    );
    for cause in Reason::REPAIRS {
        page.sample("", &[("cause", cause.name())], history.repairs.get(&cause).copied().unwrap_or_default());
    }
}

fn cluster(page: &mut Page, board: &Board) {
    let report = board.sources.report.borrow();
    page.gauge("flannel_peers", "Leases of other nodes in use.", report.peers.total);
    page.gauge(
        "flannel_peers_faulty",
        "Peers that cannot be reached in some family because of their lease.",
        report.peers.faulty,
    );
    page.gauge(
        "flannel_peers_kept",
        "Peers without a lease that are kept until their grace period ends.",
        report.peers.kept,
    );
    page.gauge("flannel_records_unreadable", "Malformed lease records.", report.peers.unreadable);
    page.family("flannel_subnets_capacity", GAUGE, "Subnets that the network config provides.");
    for allocation in &report.allocation {
        page.sample("", &[("family", &allocation.family)], allocation.capacity);
    }
    page.family("flannel_subnets_allocated", GAUGE, "Subnets with a lease or reservation.");
    for allocation in &report.allocation {
        page.sample("", &[("family", &allocation.family)], allocation.used);
    }
}

fn store(page: &mut Page, board: &Board) {
    let stats = board.sources.store.stats();
    let watch = *board.sources.watch.borrow();
    page.gauge("flannel_store_up", "1 while the store is reachable.", u8::from(board.store_is_up()));
    let mut each = |name, help, value: fn(&OperationStats) -> u64| {
        page.family(name, COUNTER, help);
        for operation in Operation::all() {
            page.sample("", &[("operation", operation.name())], value(stats.of(operation)));
        }
    };
    each("flannel_store_requests_total", "Requests to the store.", |stats| stats.durations.count);
    each("flannel_store_request_errors_total", "Failed requests to the store.", |stats| stats.errors);
    page.family("flannel_store_request_duration_seconds", HISTOGRAM, "Duration of requests to the store.");
    for operation in Operation::all() {
        let labels = [("operation", operation.name())];
        page.histogram(&labels, &LATENCY_CLASSES, &stats.of(operation).durations);
    }
    page.counter("flannel_store_listings_total", "Listings of all leases.", watch.listings);
    page.family("flannel_store_watch_restarts_total", COUNTER, "Watches of the store that ended, by cause.");
    for (cause, count) in [("broken", watch.breaks), ("outdated", watch.outdated), ("silent", watch.silences)]
    {
        page.sample("", &[("cause", cause)], count);
    }
}

fn lease(page: &mut Page, board: &Board) {
    let lease = board.lease();
    page.gauge("flannel_lease_held", "1 while this node has a lease.", u8::from(lease.is_some()));
    page.family(
        "flannel_lease_remaining_seconds",
        GAUGE,
        "Time until the lease of this node expires; +Inf for a reservation, absent if unknown.",
    );
    if let Some(lease) = &lease {
        match lease.remaining_seconds {
            Some(remaining) => page.sample("", &[], remaining),
            None if lease.reservation => page.sample("", &[], "+Inf"),
            None => {}
        }
    }
    page.gauge(
        "flannel_lease_renew_margin_seconds",
        "Remaining time at which the lease is renewed.",
        board.sources.renew_margin.as_secs(),
    );
}

fn firewall(page: &mut Page, board: &Board) {
    let firewall = board.sources.firewall.borrow();
    page.gauge(
        "flannel_firewall_correct",
        "1 if the firewall rules were read back and match.",
        u8::from(firewall.correct),
    );
    page.family("flannel_firewall_mode", GAUGE, "1 for the firewall mode in use.");
    for mode in [Mode::Nftables, Mode::Iptables] {
        let mode = mode.to_string();
        page.sample("", &[("mode", &mode)], u8::from(firewall.mode.as_ref() == Some(&mode)));
    }
    page.counter(
        "flannel_firewall_installs_total",
        "Rule sets installed because the desired rules changed.",
        firewall.installs,
    );
    page.counter(
        "flannel_firewall_repairs_total",
        "Rule sets restored after changes of other programs.",
        firewall.repairs,
    );
    page.counter("flannel_firewall_checks_total", "Times that the rules were read.", firewall.checks);
}

/// Metrics of the process, under the names of all exporters.
fn process(page: &mut Page, board: &Board) {
    page.gauge(
        "process_start_time_seconds",
        "Start time of the process, in seconds since 1970.",
        unix_secs(board.started.1),
    );
    // Unreadable values are left out.
    if let Some(seconds) = processor_seconds() {
        page.counter("process_cpu_seconds_total", "CPU time.", seconds);
    }
    if let Some(kilobytes) = status_kilobytes("VmRSS:") {
        page.gauge("process_resident_memory_bytes", "Resident memory.", kilobytes * 1024);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        page.gauge("process_open_fds", "Open file descriptors.", files.count());
    }
}

fn processor_seconds() -> Option<f64> {
    // USER_HZ, the unit of the kernel, is 100 on all supported architectures.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which can contain any character, state is the first field and utime the twelfth.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS)
}

fn status_kilobytes(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok())
}

const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";
const HISTOGRAM: &str = "histogram";

/// A page under construction.
#[derive(Default)]
struct Page {
    text: String,
    /// The metric that samples belong to.
    name: &'static str,
}

impl Page {
    /// Begins a metric. Here and below, writing to a String cannot fail.
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self.name = name;
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.text, "{}{suffix}", self.name);
        for (place, (label, text)) in labels.iter().enumerate() {
            let open = if place == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{label}=\"{text}\"");
        }
        self.text.push_str(if labels.is_empty() { " " } else { "} " });
        let _ = writeln!(self.text, "{value}");
    }

    /// A metric of one sample.
    fn gauge(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(name, GAUGE, help);
        self.sample("", &[], value);
    }

    /// A counter of one sample.
    fn counter(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(name, COUNTER, help);
        self.sample("", &[], value);
    }

    /// The samples of a histogram.
    fn histogram<const N: usize>(
        &mut self,
        labels: &[(&str, &str)],
        bounds: &[Duration; N],
        histogram: &Histogram<N>,
    ) {
        let mut below = 0;
        for (bound, count) in bounds.iter().zip(histogram.classes) {
            below += count;
            let bound = bound.as_secs_f64().to_string();
            self.sample("_bucket", &[labels, &[("le", &bound)]].concat(), below);
        }
        self.sample("_bucket", &[labels, &[("le", "+Inf")]].concat(), histogram.count);
        self.sample("_sum", labels, histogram.total.as_secs_f64());
        self.sample("_count", labels, histogram.count);
    }
}

#[cfg(test)]
pub(super) mod tests;
