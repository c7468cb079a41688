//! The matrix: a row for each node that packets come from, a column for each node that they go to.

use flannel_core::family::Family;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::super::report::{Node, Path, Report};
use super::text::{Severity, class, details, escaped, name, severity};

/// Maximum number of nodes for which every cell contains its details, and of problems for which their cells do. The page of 500
/// nodes has a quarter of a million cells.
const MOST_DETAILED: usize = 60;
const MOST_PROBLEMS: usize = 10_000;

pub(super) fn matrix(report: &Report, family: Family) -> String {
    let (nodes, paths) = (&report.nodes, report.by_nodes(family));
    let mut text = String::from(
        "<h3>Matrix</h3>\n<p>From the node of the row to the node of the column: median round-trip time in milliseconds. LOST: no \
         answer; -20%: packet loss; ≤1404: larger packets are lost; –: not measured.</p>\n\
         <div class=\"matrix\"><p class=\"order\" hidden>Order: <button type=\"button\" aria-pressed=\"true\">by subnet</button> \
         <button type=\"button\" aria-pressed=\"false\">worst first</button></p>\n\
         <div class=\"scroll\">",
    );
    let _ = write!(text, "<table style=\"--name:{}\"><thead><tr><th>from \\ to</th>", name_width(nodes));
    for (number, node) in (1..).zip(nodes) {
        let _ = write!(text, "<th scope=\"col\" title=\"{}\">{number}</th>", escaped(&name(node)));
    }
    text.push_str("</tr></thead><tbody>\n");
    let problems = paths.values().filter(|path| !path.is_fine()).count();
    let detailed =
        |path: &Path| nodes.len() <= MOST_DETAILED || (!path.is_fine() && problems <= MOST_PROBLEMS);
    let ranks = ranks(report, family);
    for (row, (from, rank)) in nodes.iter().zip(ranks).enumerate() {
        let _ = write!(
            text,
            "<tr data-rank=\"{rank}\"><th scope=\"row\"><b>{}</b> {} <small>{}</small></th>",
            row + 1,
            escaped(&name(from)),
            escaped(&from.key)
        );
        for (column, to) in nodes.iter().enumerate() {
            match paths.get(&(from.key.as_str(), to.key.as_str())) {
                Some(path) => cell(&mut text, path, detailed(path).then(|| details(report, path))),
                None if row == column => text.push_str("<td class=\"none\">·"),
                None => text.push_str("<td class=\"none\">–"),
            }
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</tbody></table></div></div>\n");
    text
}

/// The width of the widest first cell of a row, in characters. The columns have fixed widths, so that a browser lays out only the
/// rows that are visible.
fn name_width(nodes: &[Node]) -> usize {
    let numbers = nodes.len().to_string().len();
    nodes.iter().map(|node| numbers + name(node).len() + node.key.len() + 2).max().unwrap_or_default()
}

/// The end tag of a cell is optional in HTML.
fn cell(text: &mut String, path: &Path, details: Option<String>) {
    text.push_str("<td");
    if !path.is_fine() {
        let _ = write!(text, " class=\"{}\"", class(path));
    }
    if let Some(details) = details {
        let _ = write!(text, " title=\"{}\"", escaped(&details));
    }
    let _ = write!(text, ">{}", escaped(&path.short()));
}

/// The position of each node when the worst come first: by lost paths from and to it, then by paths with problems, then by its
/// worst path.
fn ranks(report: &Report, family: Family) -> Vec<usize> {
    let mut badness: BTreeMap<&str, (usize, usize, Severity)> = BTreeMap::new();
    for path in report.paths.iter().filter(|path| path.family == family) {
        for key in [&path.from, &path.to] {
            let (lost, problems, worst) = badness.entry(key).or_default();
            *lost += usize::from(path.received == 0);
            *problems += usize::from(!path.is_fine());
            *worst = severity(path).max(*worst);
        }
    }
    let mut order: Vec<usize> = (0..report.nodes.len()).collect();
    order.sort_by_key(|at| Reverse(badness.get(report.nodes[*at].key.as_str())));
    let mut ranks = vec![0; order.len()];
    for (rank, at) in order.into_iter().enumerate() {
        ranks[at] = rank;
    }
    ranks
}
