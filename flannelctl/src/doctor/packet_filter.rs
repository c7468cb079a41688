//! The packet filters of a host as far as they decide on our packets: which rule, if any, drops one.
//!
//! A packet is walked through the chains as the kernel would do it. A condition that is not understood counts as
//! "perhaps": a rule with one never drops, and after it has perhaps accepted, the end of the chain is no proof either. So
//! what is reported as dropped is dropped.

use flannel_core::family::Family;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;

mod iptables;
mod nftables;
#[cfg(test)]
mod tests;

/// Where in its way a packet is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    /// For this host.
    Input,
    /// For somebody else.
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
    /// Where the kernel starts in it, and whether its end drops.
    base: Option<(Hook, i64, bool)>,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    conditions: Vec<Condition>,
    verdict: Verdict,
    /// As the tool writes it.
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

/// What must hold for a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    Protocol {
        negated: bool,
        number: u8,
    },
    Ports {
        negated: bool,
        ranges: Vec<(u16, u16)>,
    },
    Input {
        negated: bool,
        link: String,
    },
    Output {
        negated: bool,
        link: String,
    },
    Source {
        negated: bool,
        nets: Vec<IpNet>,
    },
    Destination {
        negated: bool,
        nets: Vec<IpNet>,
    },
    /// States of connections; a packet of ours is the first of a new one.
    State {
        negated: bool,
        new: bool,
    },
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Truth {
    Yes,
    No,
    Perhaps,
}

/// The way of a packet through one chain.
enum Way {
    /// Accepted, or perhaps.
    Through,
    /// Dropped by this.
    Dropped(String),
    /// Back to the chain before; `true` if it may have been accepted meanwhile.
    Back(bool),
}

/// Chains nest; the kernel refuses loops, a file may have some.
const DEEPEST: u8 = 16;

impl Filter {
    /// What drops a packet, in words; `None` if nothing certainly does.
    pub(crate) fn drops(&self, packet: &Packet) -> Option<String> {
        for table in &self.tables {
            let mut bases: Vec<(i64, &String, bool, &Chain)> = table
                .chains
                .iter()
                .filter_map(|(name, chain)| {
                    let (hook, priority, drops) = chain.base?;
                    (hook == packet.hook).then_some((priority, name, drops, chain))
                })
                .collect();
            bases.sort_by_key(|(priority, ..)| *priority);
            for (_, name, drops, chain) in bases {
                match table.walk(chain, packet, 0) {
                    Way::Dropped(text) => return Some(format!("{} {name}: {text}", table.name)),
                    Way::Back(false) if drops => {
                        return Some(format!("{} {name}: policy drop", table.name));
                    }
                    Way::Through | Way::Back(_) => {}
                }
            }
        }
        None
    }
}

impl Table {
    fn walk(&self, chain: &Chain, packet: &Packet, depth: u8) -> Way {
        let mut perhaps_accepted = false;
        for rule in &chain.rules {
            let truth = rule.holds(packet);
            if truth == Truth::No {
                continue;
            }
            let certain = truth == Truth::Yes;
            match &rule.verdict {
                Verdict::Continue => {}
                Verdict::Accept if certain => return Way::Through,
                Verdict::Drop if certain => return Way::Dropped(rule.text.clone()),
                Verdict::Return if certain => return Way::Back(perhaps_accepted),
                Verdict::Accept | Verdict::Return => perhaps_accepted = true,
                Verdict::Drop => {}
                Verdict::Jump(target) | Verdict::Goto(target) => {
                    let way = match self.chains.get(target).filter(|_| depth < DEEPEST) {
                        Some(target) => self.walk(target, packet, depth + 1),
                        // Something that we do not know, such as a queue.
                        None => Way::Back(true),
                    };
                    match way {
                        Way::Through if certain => return Way::Through,
                        Way::Dropped(text) if certain => return Way::Dropped(text),
                        Way::Through => perhaps_accepted = true,
                        Way::Dropped(_) => {}
                        Way::Back(perhaps) => {
                            perhaps_accepted |= perhaps;
                            if certain && matches!(rule.verdict, Verdict::Goto(_)) {
                                return Way::Back(perhaps_accepted);
                            }
                        }
                    }
                }
            }
        }
        Way::Back(perhaps_accepted)
    }
}

impl Rule {
    fn holds(&self, packet: &Packet) -> Truth {
        let mut truth = Truth::Yes;
        for condition in &self.conditions {
            match condition.holds(packet) {
                Truth::No => return Truth::No,
                Truth::Perhaps => truth = Truth::Perhaps,
                Truth::Yes => {}
            }
        }
        truth
    }
}

impl Condition {
    fn holds(&self, packet: &Packet) -> Truth {
        let (holds, negated) = match self {
            Self::Protocol { negated, number } => (*number == packet.protocol.0, negated),
            Self::Ports { negated, ranges } => {
                // A packet for any port: some are dropped, others are not.
                let Some(port) = packet.protocol.1 else { return Truth::Perhaps };
                (ranges.iter().any(|(first, last)| (*first..=*last).contains(&port)), negated)
            }
            Self::Input { negated, link } => (is_named(&packet.input, link), negated),
            Self::Output { negated, link } => {
                (packet.output.as_ref().is_some_and(|output| is_named(output, link)), negated)
            }
            Self::Source { negated, nets } => (holds_one(nets, packet.source), negated),
            Self::Destination { negated, nets } => (holds_one(nets, packet.destination), negated),
            Self::State { negated, new } => (*new, negated),
            Self::Unknown => return Truth::Perhaps,
        };
        if holds != *negated { Truth::Yes } else { Truth::No }
    }
}

/// `eth+` in iptables and `eth*` in nft stand for all names that start so.
fn is_named(name: &str, pattern: &str) -> bool {
    match pattern.strip_suffix(['+', '*']) {
        Some(stem) => name.starts_with(stem),
        None => name == pattern,
    }
}

fn holds_one(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

/// A network, or an address alone.
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

/// Tables of nftables that the tools of iptables show as theirs.
fn is_of_iptables(family: &str, table: &str) -> bool {
    matches!(family, "ip" | "ip6") && matches!(table, "filter" | "nat" | "mangle" | "raw" | "security")
}

impl Filter {
    /// Adds what `iptables-save` printed.
    pub(crate) fn add_iptables(&mut self, text: &str) {
        self.tables.extend(iptables::tables(text));
    }

    /// Adds what `nft -j list ruleset` printed, of one family; without the tables of iptables if they are known already.
    pub(crate) fn add_nftables(
        &mut self,
        text: &str,
        family: Family,
        without_iptables: bool,
    ) -> Result<(), String> {
        self.tables.extend(nftables::tables(text, family, without_iptables)?);
        Ok(())
    }
}
