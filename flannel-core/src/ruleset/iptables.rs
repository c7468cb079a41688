//! The rules as iptables has them: our chains `FLANNEL-POSTRTG` and `FLANNEL-FWD`, each reached by one jump.
//!
//! Compatibility: names, jumps, rules and comments are those of Go's flanneld, byte for byte, so that either
//! daemon finds its rules in place after the other.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fmt;

use super::{AddressMatch, ChainKind, FamilyRuleset, Rule, Verdict};
use crate::family::Family;

pub mod leftover;

/// How one of our chains is called and where it is hooked in.
struct Place {
    table: &'static str,
    chain: &'static str,
    parent: &'static str,
    comment: &'static str,
}

const fn place(kind: ChainKind) -> Place {
    match kind {
        ChainKind::Masquerade => {
            Place { table: "nat", chain: "FLANNEL-POSTRTG", parent: "POSTROUTING", comment: "flanneld masq" }
        }
        ChainKind::Forward => {
            Place { table: "filter", chain: "FLANNEL-FWD", parent: "FORWARD", comment: "flanneld forward" }
        }
    }
}

/// Whether a change of a chain, or of the table as such, may concern our rules: they are in two chains, and two
/// others jump there.
#[must_use]
pub fn concerns(table: &str, chain: Option<&String>) -> bool {
    ChainKind::ALL.map(place).iter().any(|place| {
        table == place.table && chain.is_none_or(|chain| chain == place.chain || chain == place.parent)
    })
}

/// The text of `rule` after `-A CHAIN`.
fn specification(place: &Place, rule: &Rule) -> String {
    let address = |option: &str, condition: Option<AddressMatch>| {
        condition.map_or_else(String::new, |AddressMatch { negated, net }| {
            let not = if negated { "! " } else { "" };
            format!("{not}{option} {net} ")
        })
    };
    let mark = rule.mark.map_or_else(String::new, |mark| format!("-m mark --mark {mark:#x}/{mark:#x} "));
    let target = match rule.verdict {
        Verdict::Return => "RETURN",
        Verdict::Accept => "ACCEPT",
        Verdict::Masquerade { fully_random: false } => "MASQUERADE",
        Verdict::Masquerade { fully_random: true } => "MASQUERADE --random-fully",
    };
    let (source, destination) = (address("-s", rule.source), address("-d", rule.destination));
    format!("{source}{destination}{mark}-m comment --comment \"{}\" -j {target}", place.comment)
}

fn jump(place: &Place) -> String {
    format!("-m comment --comment \"{}\" -j {}", place.comment, place.chain)
}

/// The rules as `iptables -S` shows them, jump first: for people and tests.
#[must_use]
pub fn listing(rules: &FamilyRuleset) -> String {
    let mut text = String::new();
    for (kind, rules) in rules.chains() {
        let place = place(kind);
        text += &format!("-A {} {}\n-N {}\n", place.parent, jump(&place), place.chain);
        text.extend(rules.iter().map(|rule| format!("-A {} {}\n", place.chain, specification(&place, rule))));
    }
    text
}

/// What `iptables-save` showed of our two chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed(BTreeMap<ChainKind, ObservedChain>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ObservedChain {
    /// The table exists, but has things in it that iptables cannot show.
    hidden: bool,
    /// The chain exists.
    declared: bool,
    /// Its rules; `None` for a rule that is none of ours.
    rules: Vec<Option<Rule>>,
    /// Rules anywhere in the table that lead to the chain.
    references: Vec<Reference>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Reference {
    /// `CHAIN SPECIFICATION` as saved: what `-D` takes.
    text: String,
    /// It is exactly our jump at its place.
    ours: bool,
}

/// Why the rules cannot be put right by iptables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReconcileError {
    /// Other programs put nftables rules into a table of iptables.
    #[error(
        "iptables cannot show table {table} of {family} because another program put rules into it that only \
         nft understands: find them with `nft list ruleset` and remove them, or set EnableNFTables to true \
         in the network config"
    )]
    Hidden {
        /// The family.
        family: Family,
        /// The table.
        table: &'static str,
    },
}

impl Observed {
    /// Reads the output of `iptables-save` (all tables). Foreign chains are skipped.
    #[must_use]
    pub fn parse(save: &str, family: Family) -> Self {
        let mut observed = Self::default();
        let mut table = "";
        for line in save.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name.trim();
            }
            for kind in ChainKind::ALL {
                let place = place(kind);
                let chain = observed.0.entry(kind).or_default();
                // The wording of xtables_save_main; there is no other sign of it.
                if line.starts_with('#') && line.contains(&format!("`{}' is incompatible", place.table)) {
                    chain.hidden = true;
                } else if table == place.table {
                    chain.read(&place, line, family);
                }
            }
        }
        observed
    }
}

impl ObservedChain {
    fn read(&mut self, place: &Place, line: &str, family: Family) {
        if let Some(declaration) = line.strip_prefix(':') {
            self.declared |= declaration.split(' ').next() == Some(place.chain);
        } else if let Some(text) = line.strip_prefix("-A ")
            && text.contains(place.chain)
        {
            let (chain, specification) = text.split_once(' ').unwrap_or((text, ""));
            let words = words(specification);
            let leads_to_us = words.windows(2).any(|pair| {
                matches!(pair[0].as_str(), "-j" | "-g" | "--jump" | "--goto") && pair[1] == place.chain
            });
            if chain == place.chain {
                self.rules.push(parse_rule(place, &words, family));
            } else if leads_to_us {
                let ours = chain == place.parent && specification == jump(place);
                self.references.push(Reference { text: text.to_owned(), ours });
            }
        }
    }

    fn has(&self, rules: &[Rule]) -> bool {
        self.declared && self.rules.iter().map(Option::as_ref).eq(rules.iter().map(Some))
    }
}

/// Splits a line of `iptables-save`, which quotes words with spaces and escapes `"` and `\` in them.
#[must_use]
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(chars.next()),
            ' ' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The rule of ours that `words` mean, if they mean one: anything beyond makes it a foreign rule.
fn parse_rule(place: &Place, words: &[String], family: Family) -> Option<Rule> {
    let mut rule = Rule { mark: None, source: None, destination: None, verdict: Verdict::Return };
    let (mut verdict, mut comment, mut negated) = (None, None, false);
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let condition_follows = std::mem::take(&mut negated);
        match word {
            "!" if !condition_follows => negated = true,
            "-s" | "-d" => {
                let condition =
                    Some(AddressMatch { negated: condition_follows, net: parse_net(words.next()?, family)? });
                let slot = if word == "-s" { &mut rule.source } else { &mut rule.destination };
                *slot = condition;
            }
            _ if condition_follows => return None,
            "-m" => match words.next()? {
                "mark" | "comment" => {}
                _ => return None,
            },
            "--mark" => {
                let (value, mask) = words.next()?.split_once('/')?;
                rule.mark = Some(parse_hex(value)?).filter(|value| parse_hex(mask) == Some(*value));
                rule.mark?;
            }
            "--comment" => comment = words.next(),
            "-j" => verdict = Some(parse_target(words.next()?)?),
            "--random-fully" => match &mut verdict {
                Some(Verdict::Masquerade { fully_random }) => *fully_random = true,
                _ => return None,
            },
            _ => return None,
        }
    }
    rule.verdict = verdict.filter(|_| comment == Some(place.comment))?;
    Some(rule)
}

fn parse_target(target: &str) -> Option<Verdict> {
    match target {
        "RETURN" => Some(Verdict::Return),
        "ACCEPT" => Some(Verdict::Accept),
        "MASQUERADE" => Some(Verdict::Masquerade { fully_random: false }),
        _ => None,
    }
}

fn parse_net(text: &str, family: Family) -> Option<IpNet> {
    let net = match text.parse() {
        Ok(net) => net,
        Err(_) => IpNet::new(text.parse().ok()?, family.bits()).ok()?,
    };
    Some(net).filter(|net| Family::of_net(*net) == family)
}

fn parse_hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The input of `iptables-restore --noflush` that turns `observed` into `desired`, each table in one step;
/// `None` if it is so already.
///
/// A jump that is there stays where it is, a missing one is appended, surplus ones go. `:CHAIN` empties the
/// chain within the commit, so there is no moment without rules. Nothing else in the tables is touched.
pub fn payload(
    family: Family,
    desired: &FamilyRuleset,
    observed: &Observed,
) -> Result<Option<String>, ReconcileError> {
    let (mut text, absent) = (String::new(), ObservedChain::default());
    for kind in ChainKind::ALL {
        let place = place(kind);
        let chain = observed.0.get(&kind).unwrap_or(&absent);
        let lines = match desired.0.get(&kind) {
            Some(_) if chain.hidden => return Err(ReconcileError::Hidden { family, table: place.table }),
            Some(rules) => repair(&place, rules, chain),
            None => removal(&place, chain),
        };
        if !lines.is_empty() {
            text += &format!("*{}\n{}\nCOMMIT\n", place.table, lines.join("\n"));
        }
    }
    Ok((!text.is_empty()).then_some(text))
}

fn repair(place: &Place, rules: &[Rule], observed: &ObservedChain) -> Vec<String> {
    let right = observed.has(rules);
    let jumps = observed.references.iter().filter(|reference| reference.ours).count();
    let mut lines = Vec::new();
    if !right {
        lines.push(format!(":{} - [0:0]", place.chain));
    }
    if jumps == 0 {
        lines.push(format!("-A {} {}", place.parent, jump(place)));
    }
    // By its text, not by number: somebody else may change the chain meanwhile.
    lines.extend((1..jumps).map(|_| format!("-D {} {}", place.parent, jump(place))));
    if !right {
        let append = |rule| format!("-A {} {}", place.chain, specification(place, rule));
        lines.extend(rules.iter().map(append));
    }
    lines
}

/// Jumps first: a chain that something leads to cannot be deleted.
fn removal(place: &Place, observed: &ObservedChain) -> Vec<String> {
    let mut lines: Vec<String> =
        observed.references.iter().map(|reference| format!("-D {}", reference.text)).collect();
    if observed.declared {
        lines.push(format!(":{} - [0:0]", place.chain));
        lines.push(format!("-X {}", place.chain));
    }
    lines
}

/// The variant of an iptables binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Works on nftables, so that changes of its rules are notified by netlink.
    Nftables,
    /// Works on x_tables, which tells nobody about changes.
    Legacy,
}

/// What `iptables --version` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    number: (u32, u32, u32),
    /// The variant; releases before 1.8 name none and are legacy.
    pub variant: Variant,
}

impl Version {
    /// Reads `iptables v1.8.9 (nf_tables)`.
    #[must_use]
    pub fn parse(output: &str) -> Option<Self> {
        let number = output.split_whitespace().find_map(|word| {
            let mut parts = word.strip_prefix('v')?.splitn(3, '.').map(|part| {
                let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
                part[..digits].parse::<u32>().ok()
            });
            Some((parts.next()??, parts.next()??, parts.next()??))
        })?;
        let variant = if output.contains("nf_tables") { Variant::Nftables } else { Variant::Legacy };
        Some(Self { number, variant })
    }

    /// Whether `MASQUERADE --random-fully` and `iptables-restore --wait` exist: both came with 1.6.2.
    #[must_use]
    pub fn has_random_fully_and_wait(&self) -> bool {
        self.number >= (1, 6, 2)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, patch) = self.number;
        let variant = match self.variant {
            Variant::Nftables => "nf_tables",
            Variant::Legacy => "legacy",
        };
        write!(f, "{major}.{minor}.{patch} ({variant})")
    }
}
