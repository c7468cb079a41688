//! Firewall rules of pods: what they are called, how they are found, and how they are removed.
//!
//! nf_tables is spoken to through netlink, and so are the tables of iptables where they are in nf_tables, as far as rules
//! are looked for and deleted. New rules of iptables are written by `iptables-restore`, one process for a family, because
//! its own programs must be able to read them.

use flannel_core::family::Family;
use flannel_core::host_local::Attachment;
use flannel_core::json::Object;
use flannel_core::message::nftables::Command;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

pub(crate) mod iptables;
pub(crate) mod names;
pub(crate) mod nat;
pub(crate) mod netfilter;
pub(crate) mod nft;

use iptables::{Running, Tool, ToolError, Variant};
use nat::{NAT, Nat, NatRule};
use netfilter::{Netfilter, NetfilterError};
use nft::NftTable;

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
        "{} was not found in PATH: install the package iptables, or choose the nftables backend in the network config",
        match .0 { Family::V4 => "iptables", Family::V6 => "ip6tables" }
    )]
    NoTool(Family),
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Netfilter(#[from] NetfilterError),
}

/// The backend that a config requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackendChoice {
    /// None: the host decides.
    Automatic,
    Requested(Backend),
}

impl BackendChoice {
    /// Reads the key of a config. The error is the value, if it is not the name of a backend.
    pub(crate) fn read(config: &Object, key: &str) -> Result<Self, String> {
        match config.field(key) {
            None => Ok(Self::Automatic),
            Some(value) => match value.as_str() {
                Some("") => Ok(Self::Automatic),
                Some("iptables") => Ok(Self::Requested(Backend::Iptables)),
                Some("nftables") => Ok(Self::Requested(Backend::Nftables)),
                _ => Err(value.to_compact()),
            },
        }
    }

    /// The backend to use: iptables by default, unless the host only has nftables.
    pub(crate) fn resolve(self) -> Backend {
        match self {
            Self::Requested(backend) => backend,
            Self::Automatic if Family::ALL.into_iter().any(|family| Tool::find(family).is_some()) => {
                Backend::Iptables
            }
            Self::Automatic => Backend::Nftables,
        }
    }
}

/// A connection to netfilter; none where the kernel has no nf_tables.
pub(crate) fn open_netfilter() -> Result<Option<Netfilter>, NetfilterError> {
    match Netfilter::open() {
        Err(error) if error.means_absent() => Ok(None),
        other => other.map(Some),
    }
}

/// The programs of the families whose `nat` table the legacy variant has made.
pub(crate) fn legacy_tools() -> impl Iterator<Item = (Family, Tool)> {
    Family::ALL
        .into_iter()
        .filter(|family| iptables::has_legacy_nat(*family))
        .filter_map(|family| Some((family, Tool::find(family)?)))
}

/// The chains of iptables of all containers of a network that are not valid, in both families; those of the legacy
/// variant, which take a process, on request.
pub(crate) fn stale_chains(
    network: &str,
    valid: &[Attachment],
    is_chain: fn(&str) -> bool,
    legacy: bool,
) -> Result<BTreeSet<String>, FirewallError> {
    let mut chains = BTreeSet::new();
    if let Some(mut netfilter) = open_netfilter()? {
        for family in Family::ALL {
            let nat = Nat::read_all(&mut netfilter, family)?;
            chains.extend(nat.stale_chains(network, valid, is_chain));
        }
    }
    for (_, tool) in legacy_tools().filter(|_| legacy) {
        chains.extend(Nat::parse(&tool.save()?).stale_chains(network, valid, is_chain));
    }
    Ok(chains)
}

/// The rules of one owner, or of several, wherever they are.
pub(crate) struct Trace<'a> {
    /// Chains of iptables that hold nothing else, and the chains that lead to them.
    pub(crate) chains: Vec<(String, &'static str)>,
    /// Chains of nf_tables that they share with others.
    pub(crate) tables: &'static [(NftTable, &'static [&'static str])],
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
        let legacy =
            legacy_tools().filter(|(_, tool)| self.legacy && tool.variant != Variant::Nftables).collect();
        let mut found = Found { netfilter: None, commands: Vec::new(), legacy, udp: BTreeSet::new() };
        let Some(mut netfilter) = open_netfilter()? else { return Ok(found) };
        match self.plan(&mut netfilter, &mut found.commands, &mut found.udp) {
            Err(error) if error.means_absent() => {}
            other => other?,
        }
        found.netfilter = Some(netfilter);
        Ok(found)
    }

    /// Collects the commands that remove what is in nf_tables, and the UDP ports that it led somewhere.
    fn plan(
        &self,
        netfilter: &mut Netfilter,
        commands: &mut Vec<Command>,
        udp: &mut BTreeSet<(Family, u16)>,
    ) -> Result<(), NetfilterError> {
        for family in Family::ALL {
            let nat = self.read(netfilter, family)?;
            let removal = self.removal(&nat);
            commands.extend(removal.rules.iter().filter_map(|rule| rule.deletion(family)));
            let table = NftTable(family.into(), NAT);
            // The rules of one chain may lead to the next one that is deleted.
            commands.extend(removal.chains.iter().map(|chain| table.flush_chain(chain)));
            commands.extend(removal.chains.iter().map(|chain| table.delete_chain(chain)));
            udp.extend(removal.udp.into_iter().map(|port| (family, port)));
        }
        for (table, chains) in self.tables {
            for chain in *chains {
                for rule in table.rules(netfilter, chain)? {
                    if !rule.comment.as_deref().is_some_and(self.is_ours) {
                        continue;
                    }
                    for family in Family::ALL.into_iter().filter(|family| table.0 == (*family).into()) {
                        let ports = NatRule::decode(family, &rule).udp_ports().to_vec();
                        udp.extend(ports.into_iter().map(|port| (family, port)));
                    }
                    commands.extend(nft::delete_rule(rule));
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
            removal.udp.extend(gone.iter().flat_map(|rule| rule.udp_ports()));
            removal.rules.extend(gone);
        }
        removal
    }

    /// Removes it: what is in nf_tables at once, the rest by programs that are still running on return.
    pub(crate) fn remove(&self, found: Found) -> Result<Removed, FirewallError> {
        let Found { mut netfilter, commands, legacy, mut udp } = found;
        if let Some(netfilter) = &mut netfilter {
            let mut found = Some(commands);
            nft::commit(netfilter, |netfilter| {
                if let Some(commands) = found.take() {
                    return Ok(commands);
                }
                let mut commands = Vec::new();
                self.plan(netfilter, &mut commands, &mut udp).map(|()| commands)
            })?;
        }
        let mut running = Vec::new();
        for (family, tool) in legacy {
            let nat = Nat::parse(&tool.save()?);
            let removal = self.removal(&nat);
            let lines = removal.lines();
            if !lines.is_empty() {
                running.push(tool.restore(&lines)?);
            }
            udp.extend(removal.udp.into_iter().map(|port| (family, port)));
        }
        Ok(Removed { udp, netfilter, running })
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
    rules: Vec<&'n NatRule>,
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

pub(crate) const UDP: u8 = 17;

/// The number of a protocol that ports can be mapped of.
pub(crate) fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "tcp" => Some(6),
        "udp" => Some(UDP),
        "sctp" => Some(132),
        _ => None,
    }
}
