//! A result as a self-contained HTML page with topology and matrix.

use flannel_core::family::Family;
use std::f64::consts::TAU;
use std::fmt::Write as _;

use super::report::{Node, Path, Report, milliseconds};
use crate::output::Style;

const STYLE: &str = "
:root{--paper:#fff;--ink:#1b1f24;--soft:#66707b;--line:#d5dae0;--good:#2f7d4f;--goodbg:#e3f3e9;--warn:#9a6200;--warnbg:#fff1d6;--bad:#b3261e;--badbg:#fde5e3}
@media(prefers-color-scheme:dark){:root{--paper:#14181d;--ink:#e6eaef;--soft:#98a3af;--line:#343c46;--good:#6fcf97;--goodbg:#173324;--warn:#f2b24c;--warnbg:#3a2c10;--bad:#ff8a80;--badbg:#44201d}}
body{background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem}
h1{font-size:1.4rem;margin:0 0 .25rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}p{color:var(--soft);margin:.25rem 0}
svg{width:100%;max-width:44rem;height:auto;display:block;margin:0 auto}svg text{fill:var(--ink);font:12px system-ui,sans-serif}
.node{fill:var(--paper);stroke:var(--ink);stroke-width:1.5}.edge{stroke-width:1.5;fill:none}
.edge.good{stroke:var(--good);opacity:.45}.edge.warn{stroke:var(--warn);stroke-width:2.5}.edge.bad{stroke:var(--bad);stroke-width:2.5;stroke-dasharray:6 4}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{border:1px solid var(--line);padding:.3rem .55rem;text-align:right;white-space:nowrap}th{font-weight:600;text-align:left}
td.good{background:var(--goodbg);color:var(--good)}td.warn{background:var(--warnbg);color:var(--warn)}td.bad{background:var(--badbg);color:var(--bad);font-weight:600}
td.none{color:var(--soft);text-align:center}";

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
        let _ = writeln!(page, "<h2>{} topology</h2>\n{}", family, topology(report, family));
        let _ = writeln!(
            page,
            "<h2>{} matrix</h2>\n<p>From the node of the row to the node of the column: median round-trip time in milliseconds, \
             and the largest packet in bytes. Point at a cell for details.</p>\n{}",
            family,
            matrix(report, family)
        );
    }
    for node in &report.nodes {
        if let Some(error) = &node.error {
            let _ = writeln!(page, "<p>Not measured from {}: {}</p>", escaped(&node.key), escaped(error));
        }
    }
    page.push_str("</body></html>\n");
    page
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn name(node: &Node) -> String {
    node.public_addresses.first().map_or_else(|| node.key.clone(), ToString::to_string)
}

fn class(path: &Path) -> &'static str {
    match path.style() {
        Style::Bad => "bad",
        Style::Warning => "warn",
        _ => "good",
    }
}

/// Maximum number of nodes for which paths without problems are drawn, too.
const MOST_NODES: usize = 24;
const SIZE: f64 = 640.0;

/// Nodes on a circle, with a line for each pair in the style of its worse direction.
fn topology(report: &Report, family: Family) -> String {
    let nodes = &report.nodes;
    let (middle, radius) = (SIZE / 2.0, SIZE / 2.0 - 90.0);
    let point = |at: usize, radius: f64| {
        #[expect(clippy::cast_precision_loss, reason = "the number of nodes is small")]
        let angle = TAU * at as f64 / nodes.len().max(1) as f64 - TAU / 4.0;
        (middle + radius * angle.cos(), middle + radius * angle.sin())
    };
    let mut svg = format!("<svg viewBox=\"0 0 {SIZE} {SIZE}\" role=\"img\" aria-label=\"topology\">");
    for (at, a) in nodes.iter().enumerate() {
        for (other, b) in nodes.iter().enumerate().skip(at + 1) {
            let both = [report.path(a, b, family), report.path(b, a, family)];
            let Some(worst) = both.into_iter().flatten().max_by_key(|path| match class(path) {
                "bad" => 2,
                "warn" => 1,
                _ => 0,
            }) else {
                continue;
            };
            if nodes.len() > MOST_NODES && class(worst) == "good" {
                continue;
            }
            let ((x1, y1), (x2, y2)) = (point(at, radius), point(other, radius));
            let title: Vec<String> = both.into_iter().flatten().map(|path| details(report, path)).collect();
            let _ = write!(
                svg,
                "<line class=\"edge {}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"><title>{}</title></line>",
                class(worst),
                escaped(&title.join("\n"))
            );
        }
    }
    for (at, node) in nodes.iter().enumerate() {
        let ((x, y), (text_x, text_y)) = (point(at, radius), point(at, radius + 28.0));
        // Text is positioned by its baseline.
        let text_y = text_y + 4.0;
        let anchor = match text_x - middle {
            offset if offset < -20.0 => "end",
            offset if offset > 20.0 => "start",
            _ => "middle",
        };
        let _ = write!(
            svg,
            "<circle class=\"node\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"13\"><title>{}</title></circle>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text x=\"{text_x:.1}\" y=\"{text_y:.1}\" text-anchor=\"{anchor}\">{}</text>",
            escaped(&node.key),
            y + 4.0,
            at + 1,
            escaped(&name(node))
        );
    }
    svg.push_str("</svg>");
    svg
}

fn details(report: &Report, path: &Path) -> String {
    let of = |key: &str| report.node(key).map_or_else(|| key.to_owned(), name);
    let mut text = format!(
        "{} to {} ({}): {} of {} answered",
        of(&path.from),
        of(&path.to),
        path.target,
        path.received,
        path.sent
    );
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

fn matrix(report: &Report, family: Family) -> String {
    let mut table = String::from("<div class=\"scroll\"><table><tr><th>from \\ to</th>");
    for number in 1..=report.nodes.len() {
        let _ = write!(table, "<th>{number}</th>");
    }
    table.push_str("</tr>\n");
    for (row, from) in report.nodes.iter().enumerate() {
        let _ = write!(
            table,
            "<tr><th>{} {}<br><small>{}</small></th>",
            row + 1,
            escaped(&name(from)),
            escaped(&from.key)
        );
        for (column, to) in report.nodes.iter().enumerate() {
            match report.path(from, to, family) {
                Some(path) => {
                    let largest =
                        path.largest_packet_bytes.map(|bytes| format!("<br><small>{bytes}</small>"));
                    let _ = write!(
                        table,
                        "<td class=\"{}\" title=\"{}\">{}{}</td>",
                        class(path),
                        escaped(&details(report, path)),
                        escaped(&match (&path.round_trip_milliseconds, path.style()) {
                            // The size is shown below.
                            (Some(time), Style::Warning) => milliseconds(time.median),
                            _ => path.short(),
                        }),
                        largest.unwrap_or_default()
                    );
                }
                None if row == column => table.push_str("<td class=\"none\">&middot;</td>"),
                None => table.push_str("<td class=\"none\">&ndash;</td>"),
            }
        }
        table.push_str("</tr>\n");
    }
    table.push_str("</table></div>");
    table
}

#[cfg(test)]
mod tests;
