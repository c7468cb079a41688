//! Firewall rules of pods: what they are called, how they are found, and how they are removed.
//!
//! nf_tables is spoken to through netlink, and so are the tables of iptables where they are in nf_tables, as far as rules
//! are looked for and deleted. New rules of iptables are written by `iptables-restore`, one process for a family, because
//! its own programs must be able to read them.

use flannel_core::family::Family;
use flannel_core::json::{Object, Value};
use flannel_core::message::nftables::{Command, Expr, META_L4PROTO, PayloadBase, Rule, TableFamily};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

pub(crate) mod iptables;
pub(crate) mod names;
pub(crate) mod nat;
pub(crate) mod netfilter;

use iptables::{Running, Tool, ToolError, Variant};
use nat::{NAT, Nat};
use netfilter::{Netfilter, NetfilterError};

/// How often rules are looked for again when somebody else has changed them meanwhile.
pub(crate) const ATTEMPTS: u32 = 10;

/// Where rules are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Iptables,
    Nftables,
}

/// Rules that could not be set or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FirewallError {
    #[error(
        "there is no {} in PATH: install the package iptables, or choose the nftables backend in the network config",
        match .0 { Family::V4 => "iptables", Family::V6 => "ip6tables" }
    )]
    NoTool(Family),
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Netfilter(#[from] NetfilterError),
}

impl Backend {
    /// The name in a config; nothing if it is not there, and an error with the value if it is no such name.
    pub(crate) fn read(config: &Object, key: &str) -> Result<Option<Self>, String> {
        match config.field(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_str() {
                Some("") => Ok(None),
                Some("iptables") => Ok(Some(Self::Iptables)),
                Some("nftables") => Ok(Some(Self::Nftables)),
                _ => Err(value.to_compact()),
            },
        }
    }

    /// The one to use if the config does not say: iptables, unless only nftables is there.
    pub(crate) fn default_here() -> Self {
        if Tool::find(Family::V4).is_some() || Tool::find(Family::V6).is_some() {
            Self::Iptables
        } else {
            Self::Nftables
        }
    }
}

/// The tables of iptables for addresses of both families, wherever they are; those of its legacy variant, which take a process, on
/// request.
pub(crate) fn nat_tables(legacy: bool) -> Result<Vec<Nat>, FirewallError> {
    let mut tables = Vec::new();
    match Netfilter::open() {
        Ok(mut netfilter) => {
            for family in Family::ALL {
                tables.push(Nat::read_all(&mut netfilter, family)?);
            }
        }
        Err(error) if error.means_absent() => {}
        Err(error) => return Err(error.into()),
    }
    for family in Family::ALL {
        if legacy
            && iptables::has_legacy_nat(family)
            && let Some(tool) = Tool::find(family)
        {
            tables.push(Nat::parse(&tool.save()?));
        }
    }
    Ok(tables)
}

/// The rules of one owner, or of several, wherever they are.
pub(crate) struct Trace<'a> {
    /// Chains of iptables that hold nothing else, and the chains that lead to them.
    pub(crate) chains: Vec<(String, &'static str)>,
    /// Chains of nf_tables that they share with others.
    pub(crate) tables: &'static [(TableFamily, &'static str, &'static [&'static str])],
    /// Tells their rules in those by the comment.
    pub(crate) is_ours: &'a (dyn Fn(&str) -> bool + Sync),
    /// Tells the source addresses whose rules stay, with the chain that these lead to.
    pub(crate) spared: &'a (dyn Fn(IpAddr) -> bool + Sync),
    /// Rules of the legacy variant of iptables are looked for as well, which takes a process.
    pub(crate) legacy: bool,
}

/// What of a trace there is.
pub(crate) struct Found {
    netfilter: Option<Netfilter>,
    commands: Vec<Command>,
    legacy: Vec<(Family, Tool)>,
    /// UDP ports of the host that it led somewhere.
    udp: BTreeSet<(Family, u16)>,
}

impl Found {
    /// There is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.legacy.is_empty()
    }
}

impl Trace<'_> {
    /// Looks for it. No process is started.
    pub(crate) fn find(&self) -> Result<Found, FirewallError> {
        let legacy = Family::ALL
            .into_iter()
            .filter(|family| self.legacy && iptables::has_legacy_nat(*family))
            .filter_map(|family| Some((family, Tool::find(family)?)))
            .filter(|(_, tool)| tool.variant != Variant::Nftables)
            .collect();
        let mut found = Found { netfilter: None, commands: Vec::new(), legacy, udp: BTreeSet::new() };
        match Netfilter::open() {
            Ok(netfilter) => found.netfilter = Some(netfilter),
            Err(error) if error.means_absent() => return Ok(found),
            Err(error) => return Err(error.into()),
        }
        match self.look(&mut found) {
            Err(error) if error.means_absent() => {}
            other => other?,
        }
        Ok(found)
    }

    fn look(&self, found: &mut Found) -> Result<(), NetfilterError> {
        let Some(netfilter) = &mut found.netfilter else { return Ok(()) };
        found.commands.clear();
        for family in Family::ALL {
            let nat = self.read(netfilter, family)?;
            let removal = self.removal(&nat);
            found.commands.extend(removal.rules.iter().filter_map(|rule| rule.deletion(family)));
            for chain in &removal.chains {
                let (family, table) = (TableFamily::from(family), NAT.to_owned());
                // Its rules may lead to the next one that is deleted.
                found.commands.push(Command::FlushChain(family, table, chain.clone()));
            }
            for chain in removal.chains {
                found.commands.push(Command::DeleteChain(family.into(), NAT.to_owned(), chain));
            }
            found.udp.extend(removal.udp.into_iter().map(|port| (family, port)));
        }
        for (family, table, chains) in self.tables {
            for rule in chains.iter().map(|chain| netfilter.rules(*family, table, chain)) {
                for rule in rule?.iter().filter(|rule| rule.comment.as_deref().is_some_and(self.is_ours)) {
                    found.udp.extend(udp_port(rule));
                    found.commands.push(Command::DeleteRule(
                        *family,
                        rule.table.clone(),
                        rule.chain.clone(),
                        rule.handle.unwrap_or_default(),
                    ));
                }
            }
        }
        Ok(())
    }

    /// The chains in question, if any of them is there.
    fn read(&self, netfilter: &mut Netfilter, family: Family) -> Result<Nat, NetfilterError> {
        let mut wanted = BTreeSet::new();
        for (chain, entry) in &self.chains {
            if netfilter.has_chain(family.into(), NAT, chain)? {
                wanted.extend([chain.as_str(), *entry]);
            }
        }
        Nat::read(netfilter, family, &wanted.into_iter().collect::<Vec<_>>())
    }

    fn removal<'n>(&self, nat: &'n Nat) -> Removal<'n> {
        let mut removal = Removal::default();
        for (chain, entry) in self.chains.iter().filter(|(chain, _)| nat.chains.contains(chain)) {
            let (kept, gone): (Vec<_>, Vec<_>) = nat
                .of(entry)
                .filter(|rule| rule.leads_to(chain))
                .partition(|rule| rule.source_address().is_some_and(self.spared));
            if kept.is_empty() {
                removal.chains.push(chain.clone());
            }
            let udp = gone.iter().filter(|rule| rule.protocol == Some(UDP));
            removal.udp.extend(udp.flat_map(|rule| &rule.ports));
            removal.rules.extend(gone);
        }
        removal
    }

    /// Removes it: what is in nf_tables at once, the rest goes on by itself.
    pub(crate) fn remove(&self, mut found: Found) -> Result<Removed, FirewallError> {
        let mut removed =
            Removed { udp: std::mem::take(&mut found.udp), netfilter: None, running: Vec::new() };
        for attempt in 1.. {
            let Some(netfilter) = &mut found.netfilter else { break };
            match netfilter.commit(&found.commands) {
                Err(error) if error.means_outdated() && attempt < ATTEMPTS => self.look(&mut found)?,
                other => {
                    other?;
                    break;
                }
            }
        }
        removed.netfilter = found.netfilter;
        for (family, tool) in found.legacy {
            let nat = Nat::parse(&tool.save()?);
            let removal = self.removal(&nat);
            let lines = removal.lines();
            if !lines.is_empty() {
                removed.running.push(tool.restore(&lines)?);
            }
            removed.udp.extend(removal.udp.into_iter().map(|port| (family, port)));
        }
        Ok(removed)
    }
}

/// Rules that are gone, or on their way.
pub(crate) struct Removed {
    udp: BTreeSet<(Family, u16)>,
    netfilter: Option<Netfilter>,
    running: Vec<Running>,
}

impl Removed {
    /// Waits until they are gone. Answers with the UDP ports of the host that are free now.
    ///
    /// The rules themselves are gone before. But a socket of netfilter is closed only when no packet can be on its way through
    /// removed rules any more, some milliseconds, during which links cannot be deleted either, because the kernel locks nf_tables
    /// for both. What else takes as long comes first.
    pub(crate) fn finish(self) -> Result<BTreeSet<(Family, u16)>, FirewallError> {
        for running in self.running {
            running.finish()?;
        }
        drop(self.netfilter);
        Ok(self.udp)
    }
}

/// What is removed from a `nat` table.
#[derive(Debug, Default)]
struct Removal<'n> {
    rules: Vec<&'n nat::NatRule>,
    chains: Vec<String>,
    udp: Vec<u16>,
}

impl Removal<'_> {
    fn lines(&self) -> String {
        let mut lines: String = self.rules.iter().filter_map(|rule| rule.deletion_line()).collect();
        for verb in ["-F", "-X"] {
            for chain in &self.chains {
                let _ = writeln!(lines, "{verb} {chain}");
            }
        }
        lines
    }
}

const UDP: u8 = 17;

/// The UDP port of the host that a rule of nf_tables is for.
fn udp_port(rule: &Rule) -> Option<(Family, u16)> {
    let family = Family::ALL.into_iter().find(|family| TableFamily::from(*family) == rule.family)?;
    let (protocol, port) = mapped_port(rule)?;
    (protocol == UDP).then_some((family, port))
}

/// Protocol and port that a rule of nf_tables compares.
pub(crate) fn mapped_port(rule: &Rule) -> Option<(u8, u16)> {
    let (mut protocol, mut port) = (None, None);
    for pair in rule.expressions.windows(2) {
        let Expr::Cmp { data, .. } = &pair[1] else { continue };
        match &pair[0] {
            Expr::Meta { key: META_L4PROTO, .. } => protocol = data.first().copied(),
            Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, .. } => {
                port = data.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
            }
            _ => {}
        }
    }
    protocol.zip(port)
}

/// The number of a protocol that ports can be mapped of.
pub(crate) fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "tcp" => Some(6),
        "udp" => Some(UDP),
        "sctp" => Some(132),
        _ => None,
    }
}
