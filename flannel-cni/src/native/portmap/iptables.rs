//! Port mappings in iptables: the chains and rules of Go's portmap.

use flannel_core::family::Family;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use super::config::{Config, Mapping, Mark};
use crate::firewall::FirewallError;
use crate::firewall::iptables::{Running, Tool, ToolError, Variant, quote};
use crate::firewall::names::Owner;
use crate::firewall::nat::{Nat, POSTROUTING};
use crate::firewall::netfilter::{Netfilter, NetfilterError};

/// Chains that all containers share. They stay for ever.
pub(super) const ENTRY: &str = "CNI-HOSTPORT-DNAT";
const SET_MARK: &str = "CNI-HOSTPORT-SETMARK";
const MASQUERADE: &str = "CNI-HOSTPORT-MASQ";
/// Where Go's portmap once led to chains for source addresses.
pub(super) const HISTORIC_ENTRY: &str = "CNI-HOSTPORT-SNAT";
/// As many ports as one rule takes.
const PORTS: usize = 15;

/// The mappings of one container in one family.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) config: &'a Config,
    pub(super) owner: Owner<'a>,
    /// The container's address with the length of its subnet.
    pub(super) target: IpNet,
}

/// What of the shared objects is there. `None`: there are rules, but not all were understood.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shared {
    chains: Vec<String>,
    mark: Option<bool>,
    masquerade: Option<bool>,
    /// Built-in chains and where they must lead.
    jumps: [bool; 3],
}

/// Built-in chains with the rule that leads from them, and whether it comes first.
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
            jumps: JUMPS.map(|(chain, _, target)| nat.of(chain).any(|rule| rule.leads_to(target))),
        }
    }
}

impl<'a> Rules<'a> {
    const fn family(&self) -> Family {
        Family::of_net(self.target)
    }

    /// Reads what is there: through netlink, where that is possible.
    pub(super) fn read(&self, netfilter: Option<&mut Netfilter>, tool: &Tool) -> Result<Nat, FirewallError> {
        match netfilter {
            Some(netfilter) if tool.variant == Variant::Nftables => {
                Ok(read_entries(netfilter, self.family(), &self.owner)?)
            }
            _ => Ok(Nat::parse(&tool.save()?)),
        }
    }

    /// Begins to set the rules, beside what `nat` says is there. The container's own chain is not.
    pub(super) fn start(&self, nat: &Nat, tool: Tool, running: Running) -> Pending<'a> {
        let shared = Shared::of(nat, self.mark());
        let sure = shared.mark.is_some() && shared.masquerade.is_some();
        Pending { rules: *self, tool, running: running.feed(&self.lines(&shared)), sure }
    }

    const fn mark(&self) -> u32 {
        match self.config.mark {
            Mark::Bit(mark) => mark,
            Mark::External(_) => 0,
        }
    }

    /// One batch. What is not known for sure is asserted by `-C`, which refuses the whole if it is not so.
    fn lines(&self, shared: &Shared) -> String {
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
        let _ = writeln!(lines, "-N {}", self.owner.mapping_chain());
        self.own_lines().iter().for_each(|line| {
            let _ = writeln!(lines, "-A {line}");
        });
        lines
    }

    /// The rules of the container, without a verb.
    fn own_lines(&self) -> Vec<String> {
        let (chain, family) = (self.owner.mapping_chain(), self.family());
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

    /// Where packets come from whose answers would not come back by themselves.
    fn sources(&self) -> Vec<String> {
        match self.family() {
            family if self.config.masquerade_all => vec![family.any().to_string()],
            Family::V4 => vec![self.target.to_string(), "127.0.0.1".to_owned()],
            Family::V6 => vec![self.target.to_string()],
        }
    }

    /// Compares what is there with what an ADD sets, by iptables itself.
    pub(super) fn compare(&self, tool: &Tool) -> Result<Running, ToolError> {
        let own_mark = self.config.snat && matches!(self.config.mark, Mark::Bit(_));
        let mut rules = self.own_lines();
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

/// Rules that are on their way.
pub(super) struct Pending<'a> {
    rules: Rules<'a>,
    tool: Tool,
    running: Running,
    sure: bool,
}

impl Pending<'_> {
    /// Waits until they are there.
    pub(super) fn finish(self) -> Result<(), FirewallError> {
        match self.running.finish() {
            // A shared chain has rules that were not understood: then the text tells what is there.
            Err(ToolError::Failed { .. }) if !self.sure => {
                let nat = Nat::parse(&self.tool.save()?);
                let shared = Shared::of(&nat, self.rules.mark());
                Ok(self.tool.restore(&self.rules.lines(&shared))?.finish()?)
            }
            other => Ok(other?),
        }
    }
}

/// The chains that lead to containers, those that must lead there, and the container's own.
pub(super) fn read_entries(
    netfilter: &mut Netfilter,
    family: Family,
    owner: &Owner<'_>,
) -> Result<Nat, NetfilterError> {
    let own = [owner.mapping_chain(), owner.historic_mapping_chain()];
    let [own, historic] = own.each_ref().map(String::as_str);
    let chains =
        [ENTRY, SET_MARK, MASQUERADE, "PREROUTING", "OUTPUT", POSTROUTING, own, historic, HISTORIC_ENTRY];
    Nat::read(netfilter, family, &chains)
}

/// The rules of the shared chains.
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

/// Compatibility: ports of all mappings, whatever their family, protocols in the order of the alphabet.
fn by_protocol(mappings: &[Mapping]) -> BTreeMap<&str, Vec<String>> {
    let mut ports: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for mapping in mappings {
        ports.entry(&mapping.protocol).or_default().push(mapping.host_port.to_string());
    }
    ports
}

#[cfg(test)]
mod tests;
