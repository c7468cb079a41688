//! Which rule of the packet filters drops a packet, if any.
//!
//! A packet traverses the chains as in the kernel. Unknown conditions are "perhaps": a rule with one never drops, and after
//! it has perhaps accepted, the policy of the chain proves nothing. A packet that is reported as dropped is dropped.

use flannel_core::family::Family;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

mod iptables;
mod nftables;
#[cfg(test)]
mod tests;

/// Hook of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// Packets for this host.
    Input,
    /// Forwarded packets.
    Forward,
}

/// All chains of a family.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    tables: Vec<Table>,
}

/// Chains that can jump to each other.
#[derive(Clone, Debug, Default)]
struct Table {
    /// `iptables filter`, `nft inet firewall`.
    name: String,
    chains: BTreeMap<String, Chain>,
}

#[derive(Clone, Debug, Default)]
struct Chain {
    /// Hook and priority of a base chain, and whether its policy is drop.
    base: Option<(Hook, i64, bool)>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    conditions: Vec<Condition>,
    verdict: Verdict,
    /// In the notation of the tool.
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    /// Counts, marks, logs.
    Continue,
}

/// A condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    negated: bool,
    subject: Subject,
}

/// What a condition matches.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    Protocol(u8),
    /// Ranges of destination ports.
    Ports(Vec<(u16, u16)>),
    Input(String),
    Output(String),
    Source(Vec<IpNet>),
    Destination(Vec<IpNet>),
    /// Whether the states include that of the first packet of a connection.
    State(bool),
    Unknown,
}

/// A packet.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) hook: Hook,
    /// Number of the protocol, and the port it goes to if that matters.
    pub(crate) protocol: (u8, Option<u16>),
    pub(crate) input: String,
    pub(crate) output: Option<String>,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
}

/// Result of one chain.
enum Passage {
    /// Accepted, or perhaps.
    Through,
    /// Dropped by this rule.
    Dropped(String),
    /// Returned to the calling chain; `true` if it may have been accepted.
    Back(bool),
}

/// Maximum depth of chains. The kernel rejects loops, but a text may contain them.
const DEEPEST: u8 = 16;

impl Filter {
    /// Describes the rule or policy that certainly drops a packet.
    pub(crate) fn drops<'a>(&'a self, packet: &Packet) -> Option<String> {
        for table in &self.tables {
            let base = |(name, chain): (&'a String, &'a Chain)| {
                let (hook, priority, drops) = chain.base?;
                (hook == packet.hook).then_some((priority, name, drops, chain))
            };
            let mut bases: Vec<_> = table.chains.iter().filter_map(base).collect();
            bases.sort_by_key(|(priority, ..)| *priority);
            for (_, name, drops, chain) in bases {
                match table.walk(chain, packet, 0) {
                    Passage::Dropped(text) => return Some(format!("{} {name}: {text}", table.name)),
                    Passage::Back(false) if drops => {
                        return Some(format!("{} {name}: policy drop", table.name));
                    }
                    Passage::Through | Passage::Back(_) => {}
                }
            }
        }
        None
    }
}

impl Table {
    fn walk(&self, chain: &Chain, packet: &Packet, depth: u8) -> Passage {
        let mut perhaps_accepted = false;
        for rule in &chain.rules {
            let holds = rule.holds(packet);
            let certain = holds == Some(true);
            match &rule.verdict {
                _ if holds == Some(false) => {}
                Verdict::Continue => {}
                Verdict::Accept if certain => return Passage::Through,
                Verdict::Drop if certain => return Passage::Dropped(rule.text.clone()),
                Verdict::Return if certain => return Passage::Back(perhaps_accepted),
                Verdict::Accept | Verdict::Return => perhaps_accepted = true,
                Verdict::Drop => {}
                Verdict::Jump(target) | Verdict::Goto(target) => {
                    let passage = match self.chains.get(target).filter(|_| depth < DEEPEST) {
                        Some(target) => self.walk(target, packet, depth + 1),
                        // An unknown target, such as a queue.
                        None => Passage::Back(true),
                    };
                    match passage {
                        passage @ (Passage::Through | Passage::Dropped(_)) if certain => return passage,
                        Passage::Through => perhaps_accepted = true,
                        Passage::Dropped(_) => {}
                        Passage::Back(perhaps) => {
                            perhaps_accepted |= perhaps;
                            if certain && matches!(rule.verdict, Verdict::Goto(_)) {
                                return Passage::Back(perhaps_accepted);
                            }
                        }
                    }
                }
            }
        }
        Passage::Back(perhaps_accepted)
    }
}

impl Rule {
    /// Whether all conditions hold; `None` if that is unknown.
    fn holds(&self, packet: &Packet) -> Option<bool> {
        let conditions = || self.conditions.iter().map(|condition| condition.holds(packet));
        match conditions().any(|holds| holds == Some(false)) {
            true => Some(false),
            false => conditions().all(|holds| holds.is_some()).then_some(true),
        }
    }
}

impl Condition {
    const UNKNOWN: Self = Self { negated: false, subject: Subject::Unknown };

    /// A condition whose subject may be unknown.
    fn new(negated: bool, subject: Option<Subject>) -> Self {
        subject.map_or(Self::UNKNOWN, |subject| Self { negated, subject })
    }

    fn holds(&self, packet: &Packet) -> Option<bool> {
        let holds = match &self.subject {
            Subject::Protocol(number) => *number == packet.protocol.0,
            Subject::Ports(ranges) => {
                // A packet for any port: some are dropped, others are not.
                let port = packet.protocol.1?;
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&port))
            }
            Subject::Input(link) => is_named(&packet.input, link),
            Subject::Output(link) => packet.output.as_ref().is_some_and(|output| is_named(output, link)),
            Subject::Source(nets) => nets.iter().any(|net| net.contains(&packet.source)),
            Subject::Destination(nets) => nets.iter().any(|net| net.contains(&packet.destination)),
            Subject::State(new) => *new,
            Subject::Unknown => return None,
        };
        Some(holds != self.negated)
    }
}

/// `eth+` in iptables and `eth*` in nft match all names with this prefix.
fn is_named(name: &str, pattern: &str) -> bool {
    match pattern.strip_suffix(['+', '*']) {
        Some(stem) => name.starts_with(stem),
        None => name == pattern,
    }
}

/// Parses a network or an address.
fn net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn protocol(name: &str) -> Option<u8> {
    match name {
        "icmp" => Some(1),
        "tcp" => Some(6),
        "udp" => Some(17),
        "ipv6-icmp" | "icmpv6" => Some(58),
        "sctp" => Some(132),
        number => number.parse().ok(),
    }
}

/// Tables of nftables that belong to iptables.
fn is_of_iptables(family: &str, table: &str) -> bool {
    matches!(family, "ip" | "ip6") && matches!(table, "filter" | "nat" | "mangle" | "raw" | "security")
}

impl Filter {
    /// Adds the output of `iptables-save`.
    pub(crate) fn add_iptables(&mut self, text: &str) {
        self.tables.extend(iptables::tables(text));
    }

    /// Adds the output of `nft -j list ruleset` for one family, optionally without the tables of iptables.
    pub(crate) fn add_nftables(&mut self, text: &str, of: Family, no_iptables: bool) -> Result<(), String> {
        self.tables.extend(nftables::tables(text, of, no_iptables)?);
        Ok(())
    }
}
