//! Results: what was measured, put together from several nodes, as table, matrix and JSON.

use flannel_core::backend::Via;
use flannel_core::family::Family;
use flannel_core::lease::Subnets;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use crate::output::{Cell, Page, Style, Table};

/// What the form of the JSON is called; raised when it changes.
const VERSION: u32 = 1;

/// Paths between nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) version: u32,
    pub(super) nodes: Vec<Node>,
    pub(super) paths: Vec<Path>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Node {
    /// Key of its lease.
    pub(super) key: String,
    pub(super) public: Vec<IpAddr>,
    pub(super) backend: String,
    /// Why nothing could be measured from there, where that was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// What was measured from one node to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Path {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) family: FamilyName,
    pub(super) target: IpAddr,
    pub(super) via: Via,
    pub(super) sent: u32,
    pub(super) received: u32,
    pub(super) round_trip_ms: Option<RoundTrip>,
    /// Bytes, with the IP header; missing if nothing passes or it was not asked for.
    pub(super) largest_packet: Option<u32>,
    pub(super) expected_packet: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
}

/// A family as JSON has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum FamilyName {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

impl From<Family> for FamilyName {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::V4,
            Family::V6 => Self::V6,
        }
    }
}

impl From<FamilyName> for Family {
    fn from(name: FamilyName) -> Self {
        match name {
            FamilyName::V4 => Self::V4,
            FamilyName::V6 => Self::V6,
        }
    }
}

impl FamilyName {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// Times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RoundTrip {
    pub(super) least: f64,
    pub(super) median: f64,
    pub(super) most: f64,
}

impl RoundTrip {
    pub(super) fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        // To the microsecond: more is noise.
        let of = |time: &Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        Some(Self {
            least: of(times.first()?),
            median: of(times.get(times.len() / 2)?),
            most: of(times.last()?),
        })
    }
}

impl Default for Report {
    fn default() -> Self {
        Self { version: VERSION, nodes: Vec::new(), paths: Vec::new() }
    }
}

impl Path {
    /// Percent of the requests that had no answer, rounded up.
    pub(super) fn loss_percent(&self) -> u32 {
        (self.sent.saturating_sub(self.received) * 100).div_ceil(self.sent.max(1))
    }

    /// Large packets do not pass.
    pub(super) fn is_narrow(&self) -> bool {
        self.largest_packet.is_some_and(|largest| largest < self.expected_packet)
    }

    pub(super) fn is_fine(&self) -> bool {
        self.received == self.sent && !self.is_narrow()
    }

    pub(super) const fn style(&self) -> Style {
        match self {
            Self { received: 0, .. } => Style::Bad,
            Self { received, sent, .. } if *received < *sent => Style::Bad,
            Self { largest_packet: Some(largest), expected_packet, .. } if *largest < *expected_packet => {
                Style::Warning
            }
            _ => Style::Good,
        }
    }

    /// A cell of the matrix, at most five characters.
    pub(super) fn short(&self) -> String {
        match (self.loss_percent(), &self.round_trip_ms) {
            (100, _) | (_, None) => "LOST".to_owned(),
            (loss @ 1.., _) => format!("-{loss}%"),
            (0, _) if self.is_narrow() => format!("≤{}", self.largest_packet.unwrap_or(0)),
            (0, Some(time)) => milliseconds(time.median),
        }
    }
}

/// A time in few characters.
pub(super) fn milliseconds(time: f64) -> String {
    match time {
        time if time < 9.95 => format!("{time:.2}"),
        time if time < 99.5 => format!("{time:.1}"),
        time => format!("{time:.0}"),
    }
}

impl Report {
    /// Reads the JSON of a run.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let report: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if report.version != VERSION {
            return Err(format!("it has version {}, this flannelctl knows {VERSION}", report.version));
        }
        Ok(report)
    }

    /// Adds another one. Of a path that both have, that of the other counts.
    pub(super) fn merge(&mut self, other: Self) {
        for node in other.nodes {
            match self.nodes.iter_mut().find(|known| known.key == node.key) {
                Some(known) => *known = Node { error: node.error.or_else(|| known.error.take()), ..node },
                None => self.nodes.push(node),
            }
        }
        let newer = |path: &Path| {
            other
                .paths
                .iter()
                .any(|new| (&new.from, &new.to, new.family) == (&path.from, &path.to, path.family))
        };
        self.paths.retain(|path| !newer(path));
        self.paths.extend(other.paths);
        self.sort();
    }

    /// Puts nodes and paths in the order of subnets.
    pub(super) fn sort(&mut self) {
        self.nodes.sort_by_key(|node| place(&node.key));
        self.paths.sort_by_key(|path| (place(&path.from), place(&path.to), path.family));
    }

    /// Something does not pass, or could not be measured.
    pub(super) fn has_findings(&self) -> bool {
        self.paths.iter().any(|path| !path.is_fine()) || self.nodes.iter().any(|node| node.error.is_some())
    }

    /// The families of the paths.
    pub(super) fn families(&self) -> BTreeSet<FamilyName> {
        self.paths.iter().map(|path| path.family).collect()
    }

    pub(super) fn path(&self, from: &Node, to: &Node, family: FamilyName) -> Option<&Path> {
        self.paths.iter().find(|path| (&path.from, &path.to, path.family) == (&from.key, &to.key, family))
    }

    fn node(&self, key: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.key == key)
    }

    /// All forms: a list from one node, a matrix from several.
    pub(super) fn page(&self) -> Page {
        let value = serde_json::to_value(self).unwrap_or_default();
        let sources: BTreeSet<&str> = self.paths.iter().map(|path| path.from.as_str()).collect();
        let failing: BTreeSet<String> = self
            .paths
            .iter()
            .filter(|path| !path.is_fine())
            .map(|path| format!("{} {}", path.from, path.to))
            .collect();
        let page = match sources.len() {
            0 if self.nodes.iter().all(|node| node.error.is_none()) => {
                Page::lines(value, "no other node: there is nothing to measure")
            }
            1 => Page::table(value, self.list()),
            _ => Page::lines(value, self.matrix()),
        };
        page.named(failing.into_iter().collect())
    }

    fn list(&self) -> Table {
        let mut table = Table::new(
            &["NODE", "SUBNET", "LOSS", "RTT-MS", "LARGEST", "TARGET"],
            &["VIA", "EXPECTED", "LEAST", "MOST", "SENT", "PROBLEM"],
        );
        let time = |path: &Path, which: fn(&RoundTrip) -> f64| {
            Cell::from(
                path.round_trip_ms.as_ref().map_or_else(|| "-".to_owned(), |all| milliseconds(which(all))),
            )
        };
        for path in &self.paths {
            let public = self.node(&path.to).and_then(|node| {
                let of_family = |address: &&IpAddr| FamilyName::from(Family::of(**address)) == path.family;
                node.public.iter().find(of_family).or(node.public.first())
            });
            let subnet =
                Subnets::parse_key(&path.to).ok().and_then(|subnets| subnets.get(path.family.into()));
            let subnet = subnet.map_or_else(|| path.to.clone(), |subnet| subnet.to_string());
            let largest = path.largest_packet.map_or_else(|| "-".to_owned(), |largest| largest.to_string());
            let narrow = if path.is_narrow() { Style::Warning } else { Style::Plain };
            table.push(vec![
                Cell::from(public.map_or_else(|| "-".to_owned(), ToString::to_string)),
                Cell::from(subnet),
                Cell::from(format!("{}%", path.loss_percent())).styled(path.style()),
                time(path, |all| all.median),
                Cell::from(largest).styled(narrow),
                Cell::from(path.target.to_string()),
                Cell::from(path.via.name()),
                Cell::from(path.expected_packet.to_string()),
                time(path, |all| all.least),
                time(path, |all| all.most),
                Cell::from(path.sent.to_string()),
                Cell::from(path.problem.clone().unwrap_or_default()),
            ]);
        }
        table
    }

    /// From the node of a row to the node of a column, in blocks of columns that fit a terminal.
    fn matrix(&self) -> String {
        const COLUMNS: usize = 12;
        let mut text = String::new();
        for (number, node) in (1..).zip(&self.nodes) {
            let public: Vec<String> = node.public.iter().map(ToString::to_string).collect();
            let _ = writeln!(text, "{number:>3}  {}  {}", public.join(" "), node.key);
        }
        for family in self.families() {
            let numbers: Vec<usize> = (0..self.nodes.len()).collect();
            for block in numbers.chunks(COLUMNS) {
                let titles: String = block.iter().map(|at| format!("{:>6}", at + 1)).collect();
                let _ = writeln!(text, "\n{:<4} {titles}", family.name());
                for (row, from) in self.nodes.iter().enumerate() {
                    let cells: String = block
                        .iter()
                        .map(|at| match self.path(from, &self.nodes[*at], family) {
                            _ if *at == row => format!("{:>6}", "."),
                            Some(path) => format!("{:>6}", path.short()),
                            None => format!("{:>6}", "-"),
                        })
                        .collect();
                    let _ = writeln!(text, "{:>4} {cells}", row + 1);
                }
            }
        }
        text.push_str(
            "\nmilliseconds of a round trip; LOST: no answer; -20%: loss; ≤1404: larger packets\nvanish; -: not \
             measured\n",
        );
        for node in &self.nodes {
            if let Some(error) = &node.error {
                let _ = writeln!(text, "not measured from {}: {error}", node.key);
            }
        }
        text.push_str(&self.summary());
        text
    }

    /// One line about all.
    pub(super) fn summary(&self) -> String {
        let count = |of: fn(&Path) -> bool| self.paths.iter().filter(|path| of(path)).count();
        format!(
            "{} paths: {} fine, {} with loss, {} too narrow for large packets",
            self.paths.len(),
            count(Path::is_fine),
            count(|path| path.received < path.sent),
            count(|path| path.received == path.sent && path.is_narrow()),
        )
    }
}

/// The place of a key in the order of subnets.
fn place(key: &str) -> (Option<Subnets>, String) {
    (Subnets::parse_key(key).ok(), key.to_owned())
}

#[cfg(test)]
pub(super) mod tests;
