//! The ring: nodes on a circle, with a line for each pair in the style of its worse direction.

use flannel_core::family::Family;
use std::f64::consts::TAU;
use std::fmt::Write as _;

use super::super::report::Report;
use super::text::{class, details, escaped, name, severity};

/// Maximum number of nodes for which lines and names remain distinguishable.
pub(super) const MOST_NODES: usize = 12;

/// Upper limit of the width of a character of a name in common fonts, in pixels at the size of the style sheet.
const CHARACTER: f64 = 7.8;
/// Distance of names from the centre of their node, and height of a line, in pixels.
const GAP: f64 = 22.0;
const LINE: f64 = 16.0;
const NODE: f64 = 13.0;

/// A position, with the centre of the ring as origin.
type Point = (f64, f64);

pub(super) fn ring(report: &Report, family: Family) -> String {
    let nodes = &report.nodes;
    let (radius, angle) = ((nodes.len() as f64 * 22.0).max(90.0), |at: usize| {
        TAU * at as f64 / nodes.len().max(1) as f64 - TAU / 4.0
    });
    let point = |at: usize, radius: f64| (radius * angle(at).cos(), radius * angle(at).sin());
    let mut shapes = lines(report, family, |at| point(at, radius));
    // The picture ends where the outermost name or node ends.
    let (mut right, mut top, mut bottom) = (radius + NODE, 0.0_f64, 0.0_f64);
    for (at, node) in nodes.iter().enumerate() {
        let ((x, y), (text_x, text_y)) = (point(at, radius), point(at, radius + GAP));
        let label = name(node);
        let width = label.chars().count() as f64 * CHARACTER;
        let (anchor, reach) = match text_x {
            offset if offset < -1.0 => ("end", width),
            offset if offset > 1.0 => ("start", width),
            _ => ("middle", width / 2.0),
        };
        right = right.max(text_x.abs() + reach);
        top = top.max(LINE - text_y);
        bottom = bottom.max(LINE + text_y);
        let _ = write!(
            shapes,
            "<circle class=\"node\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{NODE}\"><title>{}</title></circle>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text x=\"{text_x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            escaped(&node.key),
            y + 4.0,
            at + 1,
            text_y + 4.0,
            escaped(&label)
        );
    }
    let (width, height) = (2.0 * right, top + bottom);
    format!(
        "<div class=\"scroll\"><svg width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"{:.1} {:.1} {width:.1} {height:.1}\" \
         role=\"img\" aria-label=\"ring of the nodes\">{shapes}</svg></div>\n",
        -right, -top
    )
}

fn lines(report: &Report, family: Family, point: impl Fn(usize) -> Point) -> String {
    let (nodes, paths) = (&report.nodes, report.by_nodes(family));
    let mut svg = String::new();
    for (at, a) in nodes.iter().enumerate() {
        for (other, b) in nodes.iter().enumerate().skip(at + 1) {
            let path = |from: &str, to: &str| paths.get(&(from, to)).copied();
            let both: Vec<_> = [path(&a.key, &b.key), path(&b.key, &a.key)].into_iter().flatten().collect();
            let Some(worst) = both.iter().max_by_key(|path| severity(path)) else { continue };
            let ((x1, y1), (x2, y2)) = (point(at), point(other));
            let title: Vec<String> = both.iter().map(|path| details(report, path)).collect();
            let _ = write!(
                svg,
                "<line class=\"edge {}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"><title>{}</title></line>",
                class(worst),
                escaped(&title.join("\n"))
            );
        }
    }
    svg
}
