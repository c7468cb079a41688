//! A result as a self-contained HTML page: problems, matrix, and for few nodes a ring.
//!
//! The page works without a script, which only sorts the matrix.

use flannel_core::family::Family;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::report::{Path, Report};
use text::{class, escaped, measured, severity, title};

mod matrix;
mod ring;
mod text;

const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");

/// The HTML page.
pub(super) fn page(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>flannel connectivity</title><style>{STYLE}</style></head>\n<body>\n\
         <h1>Connectivity of the flannel network</h1>\n<p>{}</p>\n",
        escaped(&report.summary())
    );
    for family in report.families() {
        section(&mut page, report, family);
    }
    if report.paths.is_empty() && report.nodes.iter().all(|node| node.error.is_none()) {
        page.push_str("<p>No paths: the network has no other nodes.</p>\n");
    }
    for node in &report.nodes {
        if let Some(error) = &node.error {
            let _ = writeln!(
                page,
                "<p class=\"failed\">Not measured from {}: {}</p>",
                escaped(&title(node)),
                escaped(error)
            );
        }
    }
    let _ = writeln!(page, "<script>{SCRIPT}</script>\n</body></html>");
    page
}

fn section(page: &mut String, report: &Report, family: Family) {
    let mut paths: Vec<&Path> = report.paths.iter().filter(|path| path.family == family).collect();
    let sources: BTreeSet<&str> = paths.iter().map(|path| path.from.as_str()).collect();
    let _ = writeln!(page, "<section><h2>{family}</h2>");
    if report.nodes.len() <= ring::MOST_NODES {
        page.push_str(&ring::ring(report, family));
    }
    paths.sort_by_key(|path| Reverse(severity(path)));
    if sources.len() == 1 {
        list(page, "Paths, worst first", &paths, report);
    } else {
        paths.retain(|path| !path.is_fine());
        list(page, "Problems, worst first", &paths, report);
        page.push_str(&matrix::matrix(report, family));
    }
    page.push_str("</section>\n");
}

/// Maximum number of paths in a list: those from one node of the largest networks.
const MOST_LISTED: usize = 500;

fn list(page: &mut String, caption: &str, paths: &[&Path], report: &Report) {
    let shown = paths.len().min(MOST_LISTED);
    if shown == 0 {
        page.push_str("<p>No problems.</p>\n");
        return;
    }
    let _ = writeln!(
        page,
        "<h3>{caption}</h3>\n<div class=\"scroll low\"><table class=\"list\"><thead><tr><th>from</th><th>to</th>\
         <th>result</th><th>details</th></tr></thead><tbody>"
    );
    let of = |key: &str| escaped(&report.node(key).map_or_else(|| key.to_owned(), title));
    for path in &paths[..shown] {
        let _ = writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td class=\"{}\">{}</td><td>{}</td></tr>",
            of(&path.from),
            of(&path.to),
            class(path),
            escaped(&path.short()),
            escaped(&measured(path))
        );
    }
    page.push_str("</tbody></table></div>\n");
    if shown < paths.len() {
        let _ = writeln!(page, "<p>and {} more: see the matrix</p>", paths.len() - shown);
    }
}

#[cfg(test)]
mod tests;
