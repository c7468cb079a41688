//! What came out: percentiles, ratios with their spread, tables, JSON.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;

use super::side::{Operation, Sample};
use super::trace::Counts;
use super::variant::Variant;
use crate::bench::percentile;

/// Sides, in the order of all arrays.
const SIDES: [&str; 3] = ["ours", "peer", "bare"];
const OURS: usize = 0;
const PEER: usize = 1;
const BARE: usize = 2;

/// How many times as long as the kernel's part alone an ADD may take.
const BARE_TARGET: f64 = 1.5;
/// How many times as fast as a Go plugin ours starts and ends.
const VERSION_TARGET: f64 = 4.0;
const SIZE_TARGET_MIB: f64 = 2.5;

/// A median, and the quarters below and above which a quarter of the values lies.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        Self { low: percentile(values, 25), median: percentile(values, 50), high: percentile(values, 75) }
    }

    /// The ratios of two series, value by value.
    fn of_ratios(above: &[f64], below: &[f64]) -> Option<Self> {
        let ratios: Vec<f64> = above.iter().zip(below).map(|(above, below)| above / below).collect();
        (!ratios.is_empty()).then(|| Self::of(&ratios))
    }

    fn to_text(self) -> String {
        format!("{:.2} ({:.2}–{:.2})", self.median, self.low, self.high)
    }

    fn to_json(self) -> Value {
        json!({"low": self.low, "median": self.median, "high": self.high})
    }
}

fn walls(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(|sample| sample.wall).collect()
}

fn processor(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(|sample| sample.processor).collect()
}

/// Of one variant; sides that do not take part have nothing.
pub(super) struct Figures {
    variant: Variant,
    peer_firewall: Option<&'static str>,
    /// Why the peer's CHECK is not measured.
    pub(super) peer_check: Option<String>,
    pub(super) counts: [BTreeMap<Operation, Counts>; 3],
    pub(super) samples: [BTreeMap<Operation, Vec<Sample>>; 3],
    pub(super) rates: [BTreeMap<(usize, Operation), Vec<f64>>; 3],
}

impl Figures {
    pub(super) fn new(variant: Variant, peer_firewall: Option<&'static str>) -> Self {
        Self {
            variant,
            peer_firewall,
            peer_check: None,
            counts: Default::default(),
            samples: Default::default(),
            rates: Default::default(),
        }
    }

    /// A side can do an operation: there is no CHECK of the kernel's part alone.
    pub(super) fn can(&self, side: usize, operation: Operation) -> bool {
        operation != Operation::Check || side == OURS || (side == PEER && self.peer_check.is_none())
    }

    fn samples(&self, side: usize, operation: Operation) -> &[Sample] {
        self.samples[side].get(&operation).map_or(&[], Vec::as_slice)
    }

    fn ratio(&self, operation: Operation, of: fn(&[Sample]) -> Vec<f64>, to: usize) -> Option<Spread> {
        let (own, other) = (of(self.samples(OURS, operation)), of(self.samples(to, operation)));
        if to == BARE { Spread::of_ratios(&own, &other) } else { Spread::of_ratios(&other, &own) }
    }

    /// How many times as many a second as the peer.
    fn rate_ratio(&self, key: (usize, Operation)) -> Option<Spread> {
        Spread::of_ratios(self.rates[OURS].get(&key)?, self.rates[PEER].get(&key)?)
    }

    fn target(&self, operation: Operation) -> Option<f64> {
        match operation {
            Operation::Add => Some(self.variant.targets.add),
            Operation::Del => Some(self.variant.targets.del),
            Operation::Check => None,
        }
    }

    pub(super) fn print(&self) {
        println!("\n{self}");
    }

    pub(super) fn to_json(&self) -> Value {
        let mut operations = json!({});
        for operation in Operation::ALL {
            let mut one = json!({"target": self.target(operation)});
            for (side, name) in SIDES.iter().enumerate() {
                let samples = self.samples(side, operation);
                if samples.is_empty() {
                    continue;
                }
                let (wall, processor) = (walls(samples), processor(samples));
                let counts = self.counts[side].get(&operation).copied().unwrap_or_default();
                one[*name] = json!({
                    "p50Milliseconds": percentile(&wall, 50), "p99Milliseconds": percentile(&wall, 99),
                    "processorMilliseconds": percentile(&processor, 50),
                    "processes": counts.processes, "netlinkRoundTrips": counts.round_trips,
                    "flushes": counts.flushes, "systemCalls": counts.calls,
                });
            }
            for (name, ratio) in [
                ("peerToOurs", self.ratio(operation, walls, PEER)),
                ("peerToOursProcessor", self.ratio(operation, processor, PEER)),
                ("oursToBare", self.ratio(operation, walls, BARE)),
                ("oursToBareProcessor", self.ratio(operation, processor, BARE)),
            ] {
                one[name] = json!(ratio.map(Spread::to_json));
            }
            operations[operation.name()] = one;
        }
        let rate = |key: &(usize, Operation)| {
            let mut one = json!({"atOnce": key.0, "operation": key.1.name()});
            for (side, name) in SIDES.iter().enumerate() {
                one[*name] = json!(self.rates[side].get(key).map(|rates| Spread::of(rates).to_json()));
            }
            one["oursToPeer"] = json!(self.rate_ratio(*key).map(Spread::to_json));
            one
        };
        json!({
            "name": self.variant.name,
            "peerFirewall": self.peer_firewall,
            "peerCheckFails": self.peer_check,
            "operations": operations,
            "rates": self.rates[OURS].keys().map(rate).collect::<Vec<_>>(),
            "rateTarget": self.variant.targets.rate,
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer =
            self.peer_firewall.map_or_else(String::new, |firewall| format!("; the peer uses {firewall}"));
        writeln!(f, "  {} ({}{peer})", self.variant.what, self.variant.name)?;
        writeln!(f, "{}", heading("ours/bare"))?;
        for operation in Operation::ALL {
            self.write_operation(f, operation)?;
        }
        if let Some(reason) = &self.peer_check {
            writeln!(f, "  the peer's CHECK fails: {reason}")?;
        }
        for key in self.rates[OURS].keys() {
            let (at_once, operation) = *key;
            let rates = std::array::from_fn(|side| {
                let rates = self.rates[side].get(key);
                rates.map_or_else(String::new, |rates| format!("{:.0}", percentile(rates, 50)))
            });
            let has_target = at_once == 32 && operation == Operation::Add;
            let target =
                if has_target { format!("≥ {:.0}", self.variant.targets.rate) } else { String::new() };
            let label = format!("{} per second, {at_once} at once", operation.name());
            writeln!(f, "{}", row(&label, &rates, &text(self.rate_ratio(*key)), &target, ""))?;
        }
        Ok(())
    }
}

impl Figures {
    fn write_operation(&self, f: &mut fmt::Formatter<'_>, operation: Operation) -> fmt::Result {
        let name = operation.name();
        let of = |what: fn(&[Sample]) -> Vec<f64>, percent| {
            std::array::from_fn(|side| match self.samples(side, operation) {
                [] => String::new(),
                samples => format!("{:.2}", percentile(&what(samples), percent)),
            })
        };
        let target = self.target(operation).map_or_else(String::new, |target| format!("≥ {target:.1}"));
        let mut bare = text(self.ratio(operation, walls, BARE));
        if operation == Operation::Add && !bare.is_empty() {
            bare += &format!(" ≤ {BARE_TARGET}");
        }
        let peer = text(self.ratio(operation, walls, PEER));
        writeln!(f, "{}", row(&format!("{name}, ms, median"), &of(walls, 50), &peer, &target, &bare))?;
        writeln!(f, "{}", row(&format!("{name}, ms, 99th percentile"), &of(walls, 99), "", "", ""))?;
        let [peer, bare] = [PEER, BARE].map(|to| text(self.ratio(operation, processor, to)));
        writeln!(f, "{}", row(&format!("{name}, processor ms"), &of(processor, 50), &peer, "", &bare))?;
        for (label, count) in [
            ("processes", (|counts| counts.processes) as fn(&Counts) -> usize),
            ("netlink round trips", |counts| counts.round_trips),
            ("system calls", |counts| counts.calls),
        ] {
            let counts = std::array::from_fn(|side| {
                self.counts[side].get(&operation).map_or_else(String::new, |counts| count(counts).to_string())
            });
            writeln!(f, "{}", row(&format!("{name}, {label}"), &counts, "", "", ""))?;
        }
        Ok(())
    }
}

fn text(spread: Option<Spread>) -> String {
    spread.map_or_else(String::new, Spread::to_text)
}

fn heading(last: &str) -> String {
    row("", &SIDES.map(str::to_owned), "faster than peer", "target", last)
}

fn row(label: &str, sides: &[String; 3], ratio: &str, target: &str, bare: &str) -> String {
    let [ours, peer, lone] = sides;
    let text = format!("  {label:<28}{ours:>9}{peer:>9}{lone:>9}  {ratio:<22}{target:<8}{bare}");
    text.trim_end().to_owned()
}

/// Of starting a program, and what it weighs.
pub(super) struct Startup {
    pub(super) samples: [Vec<Sample>; 3],
    pub(super) own_bytes: u64,
    pub(super) peer_bytes: u64,
}

impl Startup {
    fn ratio(&self, of: fn(&[Sample]) -> Vec<f64>) -> Option<Spread> {
        Spread::of_ratios(&of(&self.samples[PEER]), &of(&self.samples[OURS]))
    }

    pub(super) fn print(&self) {
        let of = |what: fn(&[Sample]) -> Vec<f64>, percent| {
            std::array::from_fn(|side| format!("{:.2}", percentile(&what(&self.samples[side]), percent)))
        };
        let text = |spread: Option<Spread>| spread.map_or_else(String::new, Spread::to_text);
        println!("\n  start to exit for VERSION");
        println!(
            "{}",
            row("", &["ours", "peer", "bare"].map(str::to_owned), "faster than peer", "target", "")
        );
        let target = format!("≥ {VERSION_TARGET}");
        println!("{}", row("ms, median", &of(walls, 50), &text(self.ratio(walls)), &target, ""));
        println!("{}", row("ms, 99th percentile", &of(walls, 99), "", "", ""));
        println!("{}", row("processor ms", &of(processor, 50), &text(self.ratio(processor)), "", ""));
        let mib =
            |bytes: u64| format!("{:.2}", Value::from(bytes).as_f64().unwrap_or_default() / 1_048_576.0);
        let sizes = [mib(self.own_bytes), mib(self.peer_bytes), String::new()];
        println!("{}", row("size, MiB (ours is one file)", &sizes, "", &format!("≤ {SIZE_TARGET_MIB}"), ""));
    }

    pub(super) fn to_json(&self) -> Value {
        let of = |side: usize| {
            let (wall, processor) = (walls(&self.samples[side]), processor(&self.samples[side]));
            json!({
                "p50Milliseconds": percentile(&wall, 50), "p99Milliseconds": percentile(&wall, 99),
                "processorMilliseconds": percentile(&processor, 50),
            })
        };
        json!({
            "ours": of(OURS), "peer": of(PEER), "bare": of(BARE),
            "peerToOurs": self.ratio(walls).map(Spread::to_json),
            "target": VERSION_TARGET,
            "ownBytes": self.own_bytes, "peerBytes": self.peer_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was ten times slower in the last two rounds.
        let (ours, peer) = ([1.0, 1.0, 10.0, 10.0], [8.0, 8.0, 80.0, 80.0]);
        let spread = Spread::of_ratios(&peer, &ours).expect("there are values");
        assert_eq!(spread.to_text(), "8.00 (8.00–8.00)");
        assert_eq!(Spread::of_ratios(&[], &[]), None);
    }
}
