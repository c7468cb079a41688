//! Firewall rules of pods: backends, and how rules are found and removed.
//!
//! Rules in nf_tables are listed and changed through netlink. That includes listing and deleting the rules of the nftables variant
//! of iptables; its new rules are written by `iptables-restore`, one process per family, because its programs must be able to read
//! them.

use flannel_core::family::Family;
use flannel_core::json::Object;
use flannel_core::message::nftables::Command;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use crate::error::CniError;

pub(crate) mod iptables;
pub(crate) mod names;
pub(crate) mod nat;
pub(crate) mod netfilter;
pub(crate) mod nft;

use iptables::{Running, Tool, Variant};
use nat::{NAT, Nat, NatRule};
use netfilter::{Netfilter, NetfilterError};
use nft::NftTable;

/// The firewall that holds the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Backend {
    Iptables,
    Nftables,
}

impl Backend {
    /// Reads the backend that a config requests.
    pub(crate) fn read(config: &Object, key: &str) -> Result<Option<Self>, CniError> {
        let Some(value) = config.field(key) else { return Ok(None) };
        match value.as_str() {
            Some("") => Ok(None),
            Some("iptables") => Ok(Some(Self::Iptables)),
            Some("nftables") => Ok(Some(Self::Nftables)),
            _ => {
                // Compatibility: Go's texts.
                let problem =
                    if key == "backend" { "unrecognized backend" } else { "unknown ipmasq backend" };
                let msg = format!("{problem} {}: must be iptables or nftables", value.to_compact());
                Err(CniError::internal(msg))
            }
        }
    }

    /// Returns the default: iptables, unless the host only has nftables.
    pub(crate) fn of_host() -> Self {
        let has_iptables = Family::ALL.into_iter().any(|family| Tool::find(family).is_some());
        if has_iptables { Self::Iptables } else { Self::Nftables }
    }
}

/// Opens a connection to netfilter; none if the kernel has no nf_tables.
pub(crate) fn open_netfilter() -> Result<Option<Netfilter>, NetfilterError> {
    match Netfilter::open() {
        Err(error) if error.means_absent() => Ok(None),
        other => other.map(Some),
    }
}

/// Returns the programs of the families for which the legacy variant has created a `nat` table.
pub(crate) fn legacy_tools() -> impl Iterator<Item = (Family, Tool)> {
    Family::ALL
        .into_iter()
        .filter(|family| iptables::has_legacy_nat(*family))
        .filter_map(|family| Some((family, Tool::find(family)?)))
}

/// Returns the iptables chains of a network that are not kept, in both families. `legacy` includes the legacy
/// variant, which takes a process.
pub(crate) fn stale_chains(
    network: &str,
    kept: &BTreeSet<String>,
    is_chain: fn(&str) -> bool,
    legacy: bool,
) -> Result<BTreeSet<String>, CniError> {
    let mut chains = BTreeSet::new();
    if let Some(mut netfilter) = open_netfilter()? {
        for family in Family::ALL {
            let nat = Nat::read_all(&mut netfilter, family)?;
            chains.extend(nat.stale_chains(network, kept, is_chain));
        }
    }
    for (_, tool) in legacy_tools().filter(|_| legacy) {
        chains.extend(Nat::parse(&tool.save()?).stale_chains(network, kept, is_chain));
    }
    Ok(chains)
}

/// Selects the rules of one or more owners in all firewalls.
pub(crate) struct Selector<'a> {
    /// iptables chains that contain nothing else, and the chains that jump to them.
    pub(crate) chains: Vec<(String, &'static str)>,
    /// nf_tables chains that they share with other owners.
    pub(crate) tables: &'static [(NftTable, &'static [&'static str])],
    /// Whether a rule there is selected, by its comment.
    pub(crate) is_owned: &'a dyn Fn(&str) -> bool,
    /// Whether an address belongs to another owner. Rules with this source or target are kept, with their chain.
    pub(crate) is_kept: &'a dyn Fn(IpAddr) -> bool,
    /// Include the legacy variant of iptables, which takes a process.
    pub(crate) legacy: bool,
}

impl Selector<'_> {
    /// Removes the rules: in nf_tables at once, in iptables by programs that are still running on return.
    pub(crate) fn remove(&self) -> Result<Removed, CniError> {
        let mut removed = Removed { netfilter: open_netfilter()?, ..Removed::default() };
        if let Some(netfilter) = &mut removed.netfilter {
            let udp = &mut removed.udp;
            nft::commit(netfilter, |netfilter| match self.plan(netfilter, udp) {
                Err(error) if error.means_absent() => Ok(Vec::new()),
                other => other,
            })?;
        }
        for (family, tool) in
            legacy_tools().filter(|(_, tool)| self.legacy && tool.variant != Variant::Nftables)
        {
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

    /// Returns the commands that remove the rules in nf_tables; collects the UDP ports that they map.
    fn plan(
        &self,
        netfilter: &mut Netfilter,
        udp: &mut BTreeSet<(Family, u16)>,
    ) -> Result<Vec<Command>, NetfilterError> {
        let mut commands = Vec::new();
        for family in Family::ALL {
            let nat = self.read(netfilter, family)?;
            let removal = self.removal(&nat);
            commands.extend(removal.rules.iter().filter_map(|rule| rule.deletion(family)));
            let table = NftTable(family.into(), NAT);
            // All are flushed first: the rules of one may jump to another.
            commands.extend(removal.chains.iter().map(|chain| table.flush_chain(chain)));
            commands.extend(removal.chains.iter().map(|chain| table.delete_chain(chain)));
            udp.extend(removal.udp.into_iter().map(|port| (family, port)));
        }
        for (table, chains) in self.tables {
            for chain in *chains {
                for rule in table.rules(netfilter, chain)? {
                    if !rule.comment.as_deref().is_some_and(self.is_owned) {
                        continue;
                    }
                    // Tables of both families have no mappings.
                    if let Some(family) = Family::ALL.into_iter().find(|family| table.0 == (*family).into()) {
                        let decoded = NatRule::decode(family, &rule);
                        if decoded.leads_to(self.is_kept) {
                            continue;
                        }
                        udp.extend(decoded.udp_ports().iter().map(|port| (family, *port)));
                    }
                    commands.extend(nft::delete_rule(rule));
                }
            }
        }
        Ok(commands)
    }

    /// Reads the chains that exist.
    fn read(&self, netfilter: &mut Netfilter, family: Family) -> Result<Nat, NetfilterError> {
        let mut wanted = BTreeSet::new();
        for (chain, entry) in &self.chains {
            if NftTable(family.into(), NAT).has_chain(netfilter, chain)? {
                wanted.extend([chain.as_str(), *entry]);
            }
        }
        Nat::read(netfilter, family, &wanted.into_iter().collect::<Vec<_>>())
    }

    fn removal<'n>(&self, nat: &'n Nat) -> Removal<'n> {
        let mut removal = Removal::default();
        for (chain, entry) in self.chains.iter().filter(|(chain, _)| nat.chains.contains(chain)) {
            if nat.of(chain).any(|rule| rule.translated.is_some_and(self.is_kept)) {
                continue;
            }
            let (kept, gone): (Vec<_>, Vec<_>) = nat
                .of(entry)
                .filter(|rule| rule.jumps_to(chain))
                .partition(|rule| rule.source_address().is_some_and(self.is_kept));
            if kept.is_empty() {
                removal.chains.push(chain.clone());
            }
            removal.udp.extend(gone.iter().flat_map(|rule| rule.udp_ports()));
            removal.rules.extend(gone);
        }
        removal
    }
}

/// A removal that may still be in progress.
#[derive(Default)]
pub(crate) struct Removed {
    udp: BTreeSet<(Family, u16)>,
    netfilter: Option<Netfilter>,
    running: Vec<Running>,
}

impl Removed {
    /// Waits for the end of the removal. Returns the UDP ports of the host that are no longer mapped.
    ///
    /// Closing a netfilter socket takes some milliseconds, because the kernel waits until no packet passes through removed rules any
    /// more. Meanwhile no link can be deleted, because both need the lock of nf_tables. So callers delete links first.
    pub(crate) fn finish(self) -> Result<BTreeSet<(Family, u16)>, CniError> {
        for running in self.running {
            running.finish()?;
        }
        drop(self.netfilter);
        Ok(self.udp)
    }
}

/// The chains and rules to remove from a `nat` table.
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

/// Returns the number of a protocol whose ports can be mapped.
pub(crate) fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "tcp" => Some(6),
        "udp" => Some(UDP),
        "sctp" => Some(132),
        _ => None,
    }
}
