//! Port mappings in iptables: the chains and rules of Go's portmap.

use flannel_core::family::Family;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use super::Rules;
use super::config::{Mapping, Mark};
use crate::error::CniError;
use crate::firewall::iptables::{Running, Tool, ToolError, Variant, quote};
use crate::firewall::names::Owner;
use crate::firewall::nat::{Nat, POSTROUTING};
use crate::firewall::netfilter::{Netfilter, NetfilterError};

/// Chains that all containers share. They are never removed.
pub(super) const ENTRY: &str = "CNI-HOSTPORT-DNAT";
const SET_MARK: &str = "CNI-HOSTPORT-SETMARK";
const MASQUERADE: &str = "CNI-HOSTPORT-MASQ";
/// The chain of former versions of Go's portmap for source addresses.
pub(super) const HISTORIC_ENTRY: &str = "CNI-HOSTPORT-SNAT";
/// The maximum number of ports in one rule.
const PORTS: usize = 15;

/// The shared objects that exist. `None`: there are rules, but not all could be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shared {
    chains: Vec<String>,
    mark: Option<bool>,
    masquerade: Option<bool>,
    /// Whether the built-in chains jump to the shared ones.
    jumps: [bool; 3],
}

/// Built-in chains with the condition and target of the jump in them.
const JUMPS: [(&str, &str, &str); 3] = [
    ("PREROUTING", "-m addrtype --dst-type LOCAL", ENTRY),
    ("OUTPUT", "-m addrtype --dst-type LOCAL", ENTRY),
    (POSTROUTING, "-m comment --comment \"CNI portfwd requiring masquerade\"", MASQUERADE),
];

impl Shared {
    fn of(nat: &Nat, mark: u32) -> Self {
        let holds = |chain: &str| {
            let marks: Vec<_> = nat.of(chain).map(|rule| rule.mark).collect();
            let known = marks.contains(&Some((mark, mark))) || !marks.contains(&None);
            known.then(|| marks.contains(&Some((mark, mark))))
        };
        Self {
            chains: nat.chains.iter().cloned().collect(),
            mark: holds(SET_MARK),
            masquerade: holds(MASQUERADE),
            jumps: JUMPS.map(|(chain, _, target)| nat.of(chain).any(|rule| rule.jumps_to(target))),
        }
    }
}

impl<'a> Rules<'a> {
    /// Reads the present rules, through netlink if possible.
    pub(super) fn read(&self, netfilter: Option<&mut Netfilter>, tool: &Tool) -> Result<Nat, CniError> {
        match netfilter {
            Some(netfilter) if tool.variant == Variant::Nftables => {
                Ok(read_entries(netfilter, self.family(), &self.owner)?)
            }
            _ => Ok(Nat::parse(&tool.save()?)),
        }
    }

    /// Starts to set the rules that `nat` lacks. A chain of this interface must not exist.
    pub(super) fn start(self, nat: &Nat, tool: Tool, running: Running) -> Pending<'a> {
        let shared = Shared::of(nat, self.mark());
        let sure = shared.mark.is_some() && shared.masquerade.is_some();
        let is_second = self.is_of_sibling(nat, &self.owner.mapping_chain());
        let chain = if is_second { self.owner.second_mapping_chain() } else { self.owner.mapping_chain() };
        let running = running.feed(&self.lines(&shared, &chain));
        Pending { rules: self, chain, tool, running, sure }
    }

    const fn mark(&self) -> u32 {
        match self.config.mark {
            Mark::Bit(mark) => mark,
            Mark::External(_) => 0,
        }
    }

    /// Returns the lines of one batch. Rules that could not be decoded are asserted by `-C`, which fails the whole batch.
    fn lines(&self, shared: &Shared, chain: &str) -> String {
        let own_mark = self.config.snat && matches!(self.config.mark, Mark::Bit(_));
        let mut lines = String::new();
        let wanted: &[&str] = if own_mark { &[ENTRY, SET_MARK, MASQUERADE] } else { &[ENTRY] };
        for chain in wanted.iter().filter(|chain| !shared.chains.iter().any(|there| there == *chain)) {
            let _ = writeln!(lines, "-N {chain}");
        }
        if own_mark {
            for ((chain, rule), there) in
                shared_rules(self.mark()).iter().zip([shared.mark, shared.masquerade])
            {
                let verb = match there {
                    Some(true) => continue,
                    Some(false) => "-A",
                    None => "-C",
                };
                let _ = writeln!(lines, "{verb} {chain} {rule}");
            }
        }
        for ((chain, condition, target), there) in JUMPS.iter().zip(shared.jumps) {
            if !there && wanted.contains(target) {
                let place = if *chain == POSTROUTING { "-I POSTROUTING 1" } else { &format!("-A {chain}") };
                let _ = writeln!(lines, "{place} {condition} -j {target}");
            }
        }
        let _ = writeln!(lines, "-N {chain}");
        self.own_lines(chain).iter().for_each(|line| {
            let _ = writeln!(lines, "-A {line}");
        });
        lines
    }

    /// Returns the rules of the interface, without a command.
    fn own_lines(&self, chain: &str) -> Vec<String> {
        let family = self.family();
        let mut lines = Vec::new();
        for mapping in self.config.of(family) {
            let packets = packets(mapping);
            if self.config.snat {
                let mark = match &self.config.mark {
                    Mark::Bit(_) => SET_MARK,
                    Mark::External(chain) => chain,
                };
                lines.extend(
                    self.sources()
                        .iter()
                        .map(|source| format!("{chain} {packets} -s {source} -j {}", quote(mark))),
                );
            }
            let target = SocketAddr::new(self.target.addr(), mapping.container_port);
            lines.push(format!("{chain} {packets} -j DNAT --to-destination {target}"));
        }
        let comment = quote(&self.owner.mapping_comment());
        let conditions: String =
            self.config.conditions(family).iter().map(|word| format!(" {}", quote(word))).collect();
        for (protocol, ports) in by_protocol(&self.config.mappings) {
            for ports in ports.chunks(PORTS) {
                lines.push(format!(
                    "{ENTRY} -m comment --comment {comment} -m multiport -p {protocol} --destination-ports {}{conditions} \
                     -j {chain}",
                    ports.join(",")
                ));
            }
        }
        lines
    }

    /// Returns the sources of packets whose replies would not return through the host.
    fn sources(&self) -> Vec<String> {
        match self.family() {
            family if self.config.masquerade_all => vec![family.any().to_string()],
            Family::V4 => vec![self.target.to_string(), "127.0.0.1".to_owned()],
            Family::V6 => vec![self.target.to_string()],
        }
    }

    /// Compares the present rules with those of an ADD, through iptables.
    pub(super) fn compare(&self, nat: &Nat, tool: &Tool) -> Result<Running, ToolError> {
        let second = self.owner.second_mapping_chain();
        let chain = if nat.chains.contains(&second) { second } else { self.owner.mapping_chain() };
        let own_mark = self.config.snat && matches!(self.config.mark, Mark::Bit(_));
        let mut rules = self.own_lines(&chain);
        if own_mark {
            rules.extend(shared_rules(self.mark()).iter().map(|(chain, rule)| format!("{chain} {rule}")));
        }
        for (chain, condition, target) in JUMPS {
            if target == ENTRY || own_mark {
                rules.push(format!("{chain} {condition} -j {target}"));
            }
        }
        let lines: String = rules.iter().map(|rule| format!("-C {rule}\n")).collect();
        tool.restore(&lines)
    }
}

/// Rules that are being set.
pub(super) struct Pending<'a> {
    rules: Rules<'a>,
    chain: String,
    tool: Tool,
    running: Running,
    sure: bool,
}

impl Pending<'_> {
    /// Waits until they are set.
    pub(super) fn finish(self) -> Result<(), CniError> {
        match self.running.finish() {
            // A shared chain has rules that could not be decoded: read them as text.
            Err(error) if error.refused && !self.sure => {
                let nat = Nat::parse(&self.tool.save()?);
                let shared = Shared::of(&nat, self.rules.mark());
                Ok(self.tool.restore(&self.rules.lines(&shared, &self.chain))?.finish()?)
            }
            other => Ok(other?),
        }
    }
}

/// Reads the shared chains, the built-in chains that jump to them, and the container's own chains.
pub(super) fn read_entries(
    netfilter: &mut Netfilter,
    family: Family,
    owner: &Owner<'_>,
) -> Result<Nat, NetfilterError> {
    let own = [owner.mapping_chain(), owner.second_mapping_chain(), owner.historic_mapping_chain()];
    let mut chains = vec![ENTRY, SET_MARK, MASQUERADE, "PREROUTING", "OUTPUT", POSTROUTING, HISTORIC_ENTRY];
    chains.extend(own.iter().map(String::as_str));
    Nat::read(netfilter, family, &chains)
}

/// Returns the rules of the shared chains.
fn shared_rules(mark: u32) -> [(&'static str, String); 2] {
    [
        (
            SET_MARK,
            format!(
                "-m comment --comment \"CNI portfwd masquerade mark\" -j MARK --set-xmark {mark:#x}/{mark:#x}"
            ),
        ),
        (MASQUERADE, format!("-m mark --mark {mark:#x}/{mark:#x} -j MASQUERADE")),
    ]
}

fn packets(mapping: &Mapping) -> String {
    let destination = mapping.address().map_or_else(String::new, |ip| format!(" -d {ip}"));
    format!("-p {} --dport {}{destination}", mapping.protocol, mapping.host_port)
}

/// Returns ports by protocol. Compatibility: those of all mappings, whatever their family, protocols in alphabetical order.
fn by_protocol(mappings: &[Mapping]) -> BTreeMap<&str, Vec<String>> {
    let mut ports: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for mapping in mappings {
        ports.entry(&mapping.protocol).or_default().push(mapping.host_port.to_string());
    }
    ports
}

#[cfg(test)]
mod tests;
