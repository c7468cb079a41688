//! Results of a test, merged from several nodes, as table, matrix and JSON.

use flannel_core::backend::Via;
use flannel_core::family::Family;
use flannel_core::json;
use flannel_core::lease::{LeaseAttrs, Subnets};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use crate::output::text::join;
use crate::output::{Cell, Page, Style, Table};

/// Version of the JSON format, incremented on every change.
const VERSION: u32 = 2;

/// Results of a test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) version: u32,
    pub(super) nodes: Vec<Node>,
    pub(super) paths: Vec<Path>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    /// Key of its lease.
    pub(super) key: String,
    pub(super) public_addresses: Vec<IpAddr>,
    pub(super) backend: String,
    /// Why the node could not measure, if it was requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

/// The measurement of one path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Path {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) family: Family,
    pub(super) target: IpAddr,
    pub(super) via: Via,
    pub(super) sent: u32,
    pub(super) received: u32,
    pub(super) round_trip_milliseconds: Option<RoundTrip>,
    /// Including the IP header; `None` if nothing passes or it was not measured.
    pub(super) largest_packet_bytes: Option<u32>,
    pub(super) expected_packet_bytes: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) problem: Option<String>,
}

/// Round-trip times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RoundTrip {
    pub(super) least: f64,
    pub(super) median: f64,
    pub(super) most: f64,
}

impl RoundTrip {
    pub(super) fn of(mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        // Rounded to microseconds; more digits are noise.
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

impl Node {
    /// The node of a lease.
    pub(super) fn new(subnets: &Subnets, attrs: &LeaseAttrs) -> Self {
        Self {
            key: subnets.to_string(),
            public_addresses: Family::ALL
                .into_iter()
                .filter_map(|family| attrs.public_address(family))
                .collect(),
            backend: attrs.backend_type.clone(),
            error: None,
        }
    }
}

impl Path {
    /// Percentage of lost requests, rounded up.
    pub(super) fn loss_percent(&self) -> u32 {
        (self.sent.saturating_sub(self.received) * 100).div_ceil(self.sent.max(1))
    }

    /// Whether large packets are lost.
    pub(super) fn is_narrow(&self) -> bool {
        self.largest_packet_bytes.is_some_and(|largest| largest < self.expected_packet_bytes)
    }

    pub(super) fn is_fine(&self) -> bool {
        self.received == self.sent && !self.is_narrow()
    }

    pub(super) fn style(&self) -> Style {
        match (self.received < self.sent, self.is_narrow()) {
            (true, _) => Style::Bad,
            (false, true) => Style::Warning,
            (false, false) => Style::Good,
        }
    }

    /// Cell of the matrix, at most five characters.
    pub(super) fn short(&self) -> String {
        match (self.loss_percent(), &self.round_trip_milliseconds) {
            (100, _) | (_, None) => "LOST".to_owned(),
            (loss @ 1.., _) => format!("-{loss}%"),
            (0, _) if self.is_narrow() => format!("≤{}", self.largest_packet_bytes.unwrap_or(0)),
            (0, Some(time)) => milliseconds(time.median),
        }
    }
}

/// A time in at most four characters, mostly.
pub(super) fn milliseconds(time: f64) -> String {
    match time {
        time if time < 9.95 => format!("{time:.2}"),
        time if time < 99.5 => format!("{time:.1}"),
        time => format!("{time:.0}"),
    }
}

impl Report {
    /// Parses the JSON of a result.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let report: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if report.version != VERSION {
            return Err(format!(
                "it has format version {}, but this flannelctl expects {VERSION}",
                report.version
            ));
        }
        Ok(report)
    }

    /// Adds other results. Later paths take precedence.
    pub(super) fn merge(&mut self, others: impl IntoIterator<Item = Self>) {
        let mut nodes: BTreeMap<String, Node> = BTreeMap::new();
        let mut paths = BTreeMap::new();
        for report in std::iter::once(std::mem::take(self)).chain(others) {
            for node in report.nodes {
                let earlier = nodes.remove(&node.key).and_then(|known| known.error);
                nodes.insert(node.key.clone(), Node { error: node.error.or(earlier), ..node });
            }
            for path in report.paths {
                paths.insert((path.from.clone(), path.to.clone(), path.family), path);
            }
        }
        self.nodes = nodes.into_values().collect();
        self.paths = paths.into_values().collect();
        self.sort();
    }

    /// Sorts nodes and paths by subnet.
    pub(super) fn sort(&mut self) {
        self.nodes.sort_by_cached_key(|node| order(&node.key));
        self.paths.sort_by_cached_key(|path| (order(&path.from), order(&path.to), path.family));
    }

    /// Whether packets were lost, or a measurement failed.
    pub(super) fn has_findings(&self) -> bool {
        self.paths.iter().any(|path| !path.is_fine()) || self.nodes.iter().any(|node| node.error.is_some())
    }

    /// The families of the paths.
    pub(super) fn families(&self) -> BTreeSet<Family> {
        self.paths.iter().map(|path| path.family).collect()
    }

    /// The paths of a family by source and destination.
    pub(super) fn by_nodes(&self, family: Family) -> BTreeMap<(&str, &str), &Path> {
        let paths = self.paths.iter().filter(|path| path.family == family);
        paths.map(|path| ((path.from.as_str(), path.to.as_str()), path)).collect()
    }

    pub(super) fn node(&self, key: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.key == key)
    }

    /// The output: a list from one node, a matrix from several.
    pub(super) fn page(&self) -> Page {
        let value = serde_json::to_value(self).unwrap_or_default();
        let sources: BTreeSet<&str> = self.paths.iter().map(|path| path.from.as_str()).collect();
        let failing = self.paths.iter().filter(|path| !path.is_fine());
        let failing: BTreeSet<String> = failing.map(|path| format!("{} {}", path.from, path.to)).collect();
        let page = match sources.len() {
            0 if self.nodes.iter().all(|node| node.error.is_none()) => Page::lines(value, "no other nodes"),
            1 => Page::table(value, self.list()),
            _ => Page::lines(value, self.matrix()),
        };
        page.named(failing)
    }

    fn list(&self) -> Table {
        let mut table = Table::new(
            &["NODE", "SUBNET", "LOSS", "RTT-MS", "LARGEST", "TARGET"],
            &["VIA", "EXPECTED", "LEAST", "MOST", "SENT", "PROBLEM"],
        );
        let time = |path: &Path, which: fn(&RoundTrip) -> f64| {
            Cell::lines(path.round_trip_milliseconds.as_ref().map(|all| milliseconds(which(all))))
        };
        for path in &self.paths {
            let public = self.node(&path.to).and_then(|node| {
                let of_family = |address: &&IpAddr| Family::of(**address) == path.family;
                node.public_addresses.iter().find(of_family).or(node.public_addresses.first())
            });
            let subnet = Subnets::parse_key(&path.to).ok().and_then(|subnets| subnets.get(path.family));
            let subnet = subnet.map_or_else(|| path.to.clone(), |subnet| subnet.to_string());
            let narrow = if path.is_narrow() { Style::Warning } else { Style::Plain };
            table.push(vec![
                Cell::lines(public),
                Cell::from(subnet),
                Cell::from(format!("{}%", path.loss_percent())).styled(path.style()),
                time(path, |all| all.median),
                Cell::lines(path.largest_packet_bytes).styled(narrow),
                Cell::from(path.target.to_string()),
                Cell::from(json::name(&path.via)),
                Cell::from(path.expected_packet_bytes.to_string()),
                time(path, |all| all.least),
                time(path, |all| all.most),
                Cell::from(path.sent.to_string()),
                Cell::lines(&path.problem),
            ]);
        }
        table
    }

    /// From the node of the row to the node of the column, in blocks of columns that fit a terminal.
    fn matrix(&self) -> String {
        const COLUMNS: usize = 12;
        let mut text = String::new();
        for (number, node) in (1..).zip(&self.nodes) {
            let addresses = join(&node.public_addresses, " ");
            let _ = writeln!(text, "{number:>3}  {addresses}  {}", node.key);
        }
        for family in self.families() {
            let paths = self.by_nodes(family);
            let numbers: Vec<usize> = (0..self.nodes.len()).collect();
            for block in numbers.chunks(COLUMNS) {
                let titles: String = block.iter().map(|at| format!("{:>6}", at + 1)).collect();
                let _ = writeln!(text, "\n{family} {titles}");
                for (row, from) in self.nodes.iter().enumerate() {
                    let cells: String = block
                        .iter()
                        .map(|at| match paths.get(&(from.key.as_str(), self.nodes[*at].key.as_str())) {
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
            "\nround-trip time in milliseconds; LOST: no answer; -20%: packet loss;\n≤1404: larger packets are lost; -: not measured\n");
        for node in &self.nodes {
            if let Some(error) = &node.error {
                let _ = writeln!(text, "not measured from {}: {error}", node.key);
            }
        }
        text.push_str(&self.summary());
        text
    }

    /// Number of paths by result.
    pub(super) fn summary(&self) -> String {
        let count = |of: fn(&Path) -> bool| self.paths.iter().filter(|path| of(path)).count();
        format!(
            "{} paths: {} fine, {} with loss, {} losing large packets",
            self.paths.len(),
            count(Path::is_fine),
            count(|path| path.received < path.sent),
            count(|path| path.received == path.sent && path.is_narrow()),
        )
    }
}

/// Sort key of a lease.
fn order(key: &str) -> (Option<Subnets>, String) {
    (Subnets::parse_key(key).ok(), key.to_owned())
}

#[cfg(test)]
pub(super) mod tests;
