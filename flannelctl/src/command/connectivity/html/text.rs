//! Texts and order of nodes and paths.

use std::fmt::Write as _;

use super::super::report::{Node, Path, Report, milliseconds};
use crate::output::Style;

pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

pub(super) fn name(node: &Node) -> String {
    node.public_addresses.first().map_or_else(|| node.key.clone(), ToString::to_string)
}

/// The name with the lease.
pub(super) fn title(node: &Node) -> String {
    let name = name(node);
    if name == node.key { name } else { format!("{name} ({})", node.key) }
}

/// How bad a path is: loss in percent, missing bytes, microseconds.
pub(super) type Severity = (u32, u32, u64);

pub(super) fn severity(path: &Path) -> Severity {
    let missing = path.largest_packet_bytes.map(|largest| path.expected_packet_bytes.saturating_sub(largest));
    let time = path.round_trip_milliseconds.as_ref().map(|time| (time.median * 1e3) as u64);
    (path.loss_percent(), missing.unwrap_or(0), time.unwrap_or(0))
}

pub(super) fn class(path: &Path) -> &'static str {
    match path.style() {
        Style::Bad => "bad",
        Style::Warning => "warn",
        _ => "good",
    }
}

pub(super) fn details(report: &Report, path: &Path) -> String {
    let of = |key: &str| report.node(key).map_or_else(|| key.to_owned(), name);
    format!("{} to {}: {}", of(&path.from), of(&path.to), measured(path))
}

pub(super) fn measured(path: &Path) -> String {
    let mut text = format!("{}: {} of {} answered", path.target, path.received, path.sent);
    if let Some(time) = &path.round_trip_milliseconds {
        let _ = write!(text, ", {} to {} ms", milliseconds(time.least), milliseconds(time.most));
    }
    if let Some(largest) = path.largest_packet_bytes {
        let _ = write!(text, ", largest packet {largest} of {}", path.expected_packet_bytes);
    }
    if let Some(problem) = &path.problem {
        let _ = write!(text, ", {problem}");
    }
    text
}
