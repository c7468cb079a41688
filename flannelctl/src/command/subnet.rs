//! `flannelctl subnet`: the capacity of the network.

use anyhow::Context as _;
use clap::Subcommand;
use flannel_core::config::SubnetRange;
use flannel_core::store::Ownership;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

use crate::failure::Outcome;
use crate::flags;
use crate::node::cluster::{Cluster, Entry, store_config};
use crate::node::host_local::usable;
use crate::output::Page;
use crate::output::text::{count, range};
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum SubnetCommand {
    /// Show capacity, use and a map of the network
    Plan {
        /// File with a network config, or - for standard input [default: the config in the store]
        file: Option<PathBuf>,
        /// Number of nodes that join per month, for a forecast
        #[arg(long, value_name = "NODES")]
        per_month: Option<u32>,
    },
}

pub(crate) async fn run(session: &Session, command: SubnetCommand) -> anyhow::Result<Outcome> {
    let SubnetCommand::Plan { file, per_month } = command;
    plan(session, file.as_deref(), per_month).await?;
    Ok(Outcome::Fine)
}

async fn plan(session: &Session, file: Option<&Path>, per_month: Option<u32>) -> anyhow::Result<()> {
    let given = file.map(|file| flags::config(file, session.store_options().ownership())).transpose()?;
    let read = async {
        let store = session.store()?;
        let cluster = Cluster::read(session, &store).await?;
        anyhow::Ok((store, cluster))
    };
    let read = read.await;
    let assigned = read.as_ref().is_ok_and(|(store, _)| store.ownership() == Ownership::Assigned);
    let (config, entries) = match (given, read) {
        (Some((_, config)), Ok((_, cluster))) => (config, cluster.entries),
        // A config can be planned before the store exists.
        (Some((_, config)), Err(error)) => {
            session.output.message(&format!("leases are not shown: {error:#}"));
            (config, Vec::new())
        }
        (None, read) => {
            let (store, cluster) = read?;
            (store_config(cluster.config.as_ref(), &store)?.0, cluster.entries)
        }
    };
    if assigned {
        session.output.message(
            "Kubernetes assigns the subnets, whatever SubnetLen, SubnetMin and SubnetMax are: --cluster-cidr and \
             --node-cidr-mask-size of kube-controller-manager determine the capacity",
        );
    }
    let uses: Vec<Usage<'_>> = config.ranges().map(|range| Usage::of(range, &entries)).collect();
    let outside = entries.iter().filter(|entry| !config.allows(&entry.subnets)).count();
    let free = uses.iter().map(Usage::free).min().context("the network config turns both families off")?;
    let mut lines: Vec<String> = uses.iter().flat_map(Usage::lines).collect();
    if outside > 0 {
        lines
            .push(format!("{} outside of this config; shown where they overlap it", count(outside, "lease")));
    }
    let forecast = forecast(free, per_month);
    lines.push(format!("Capacity for {free} more nodes. {forecast}"));
    let value = json!({
        "families": uses.iter().map(Usage::to_json).collect::<Vec<_>>(),
        "leasesOutside": outside,
        "nodeCapacity": free.to_string(),
        "forecast": forecast,
        "backend": config.backend.name(),
    });
    session.output.page(&Page::lines(value, lines.join("\n")))
}

fn forecast(free: u128, per_month: Option<u32>) -> String {
    match per_month {
        None | Some(0) => "Specify --per-month NODES for a forecast.".to_owned(),
        Some(_) if free == 0 => "The network is full.".to_owned(),
        Some(nodes) => match free / u128::from(nodes) {
            0 => format!("At {nodes} nodes a month it is full within a month."),
            months @ 1..24 => format!("At {nodes} nodes a month it is full in {months} months."),
            months => format!("At {nodes} nodes a month it is full in {} years.", months / 12),
        },
    }
}

/// The range of one family and its users.
struct Usage<'a> {
    range: &'a SubnetRange,
    /// First and last place of each lease, and its sign.
    parts: Vec<(u128, u128, char)>,
}

/// Signs of the map.
const LEASE: char = '#';
const RESERVED: char = 'r';
const OWN: char = '*';

/// Cells of a line of the map, and lines.
const WIDTH: u128 = 32;
const HEIGHT: u128 = 16;

impl<'a> Usage<'a> {
    fn of(range: &'a SubnetRange, entries: &[Entry]) -> Self {
        let part = |entry: &Entry| {
            let (from, to) = range.places_of(entry.subnets.get(range.family())?)?;
            let sign = match (entry.is_own, entry.is_reservation()) {
                (true, _) => OWN,
                (false, true) => RESERVED,
                (false, false) => LEASE,
            };
            Some((from, to, sign))
        };
        Self { range, parts: entries.iter().filter_map(part).collect() }
    }

    /// Number of used subnets. Leases never overlap, except for a moment in a race with an older flannel.
    fn used(&self) -> u128 {
        self.parts.iter().map(|(from, to, _)| to - from + 1).sum::<u128>().min(self.range.count())
    }

    fn reserved(&self) -> u128 {
        let reserved = self.parts.iter().filter(|(_, _, sign)| *sign == RESERVED);
        reserved.map(|(from, to, _)| to - from + 1).sum()
    }

    fn free(&self) -> u128 {
        self.range.count() - self.used()
    }

    fn pods(&self) -> u128 {
        usable(self.range.family(), self.range.subnet_len())
    }

    fn pods_text(&self) -> String {
        match self.pods() {
            pods @ ..1_000_000_000 => pods.to_string(),
            _ => format!("2^{}", self.range.family().bits() - self.range.subnet_len()),
        }
    }

    fn lines(&self) -> Vec<String> {
        let range = self.range;
        let (family, network, length) = (range.family(), range.network(), range.subnet_len());
        let (used, reserved, free) = (self.used(), self.reserved(), self.free());
        let percent = (used * 100).checked_div(range.count()).unwrap_or(0);
        let mut lines = vec![
            format!("{family}: {network}, subnets of length {length} for {} pods", self.pods_text()),
            format!("  {} subnets from {} to {}", range.count(), range.min(), range.max()),
            format!("  {used} in use ({percent} %), {reserved} of them reserved, {free} free"),
        ];
        lines.extend(self.map());
        lines
    }

    /// The range in order, one sign per subnet, or per group of subnets in a large network.
    fn map(&self) -> Vec<String> {
        let count = self.range.count();
        let per_cell = count.div_ceil(WIDTH * HEIGHT).next_power_of_two();
        let cells = count.div_ceil(per_cell);
        let mut taken = vec![(0_u128, '.'); cells as usize];
        for (from, to, sign_of_part) in &self.parts {
            for cell in (from / per_cell)..=(to / per_cell) {
                let Some((used, sign)) = taken.get_mut(cell as usize) else { continue };
                let (first, last) = (cell * per_cell, (cell + 1) * per_cell - 1);
                *used += last.min(*to) - first.max(*from) + 1;
                // This node takes precedence.
                *sign = if *sign == OWN { OWN } else { *sign_of_part };
            }
        }
        let meaning = match per_cell {
            1 => "  map: . free  # in use  r reserved  * this node".to_owned(),
            many => format!("  map, {many} subnets per sign: . free  o partly  # all in use  * this node"),
        };
        let starts = (0..cells.div_ceil(WIDTH)).filter_map(|line| self.range.nth(line * WIDTH * per_cell));
        let labels: Vec<String> = starts.map(|net| net.addr().to_string()).collect();
        let width = labels.iter().map(String::len).max().unwrap_or(0);
        let rows = taken.chunks(WIDTH as usize).zip(&labels).map(|(cells, label)| {
            let signs: String = cells
                .iter()
                .map(|(used, sign)| match (*used, *sign) {
                    (used, sign) if per_cell == 1 || used == 0 || sign == OWN => sign,
                    (used, _) if used >= per_cell => LEASE,
                    _ => 'o',
                })
                .collect();
            format!("  {label:<width$}  {signs}")
        });
        std::iter::once(meaning).chain(rows).collect()
    }

    fn to_json(&self) -> Value {
        let mut value = range(self.range);
        let (used, reserved, free, pods) = (self.used(), self.reserved(), self.free(), self.pods());
        for (key, number) in [("used", used), ("reserved", reserved), ("free", free), ("podsPerNode", pods)] {
            value[key] = number.to_string().into();
        }
        value
    }
}
