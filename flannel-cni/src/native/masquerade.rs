//! Masquerading of what a container sends out of its subnet (`ipMasq` of bridge), with the rules of Go's plugins.
//!
//! Mended against them: rules are found by their names, so that DEL needs neither namespace nor addresses; a chain that an
//! earlier life of the container left is made anew; of two interfaces of a container each takes away its own rules;
//! rules go before the address is free; GC.

use flannel_core::family::Family;
use flannel_core::json::Object;
use flannel_core::message::nftables::{
    Chain, CmpOp, Command, Expr, Hook, META_NFPROTO, Policy, REGISTER_1, Rule, Table, TableFamily, Verdict,
};
use flannel_core::ruleset::AddressMatch;
use flannel_core::ruleset::nft::{address_expressions, address_offsets};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::host_local;
use crate::environment::Environment;
use crate::error::CniError;
use crate::firewall::iptables::{self, Running, Tool, ToolError, quote};
use crate::firewall::names::{self, Owner};
use crate::firewall::nat::{Nat, NatRule, POSTROUTING};
use crate::firewall::netfilter::Netfilter;
use crate::firewall::{ATTEMPTS, Backend, FirewallError, Removed, Trace, nat_tables};
use crate::netconf::{self, ValidAttachments};

/// Names of Go's plugins, which never change.
const TABLE: &str = "cni_plugins_masquerade";
const CHECKS: &str = "masq_checks";
const BASE: &str = "postrouting";
const TABLES: &[(TableFamily, &str, &[&str])] = &[(TableFamily::INET, TABLE, &[CHECKS])];
const TABLE_COMMENT: &str = "Masquerading for plugins from github.com/containernetworking/plugins";
const CHAIN_COMMENT: &str =
    "Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet";

/// Addresses of groups, to which nothing is masqueraded.
const fn multicast(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4)),
        Family::V6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8)),
    }
}

/// Rules that a container lacks.
#[derive(Debug, thiserror::Error)]
#[error("the masquerade rules of {0} are missing, in iptables as in nftables")]
struct MissingError(IpAddr);

/// The rules of one interface of a container.
#[derive(Clone, Copy)]
pub(crate) struct Masquerade<'a> {
    config: &'a Object,
    environment: &'a Environment,
    owner: Owner<'a>,
}

impl<'a> Masquerade<'a> {
    pub(crate) fn new(config: &'a Object, environment: &'a Environment) -> Self {
        let network = config.field("name").and_then(|name| name.as_str()).unwrap_or_default();
        let owner = Owner { network, container_id: &environment.container_id, ifname: &environment.ifname };
        Self { config, environment, owner }
    }

    /// Starts the programs for rules of these families, so that they are ready when the addresses are known.
    pub(crate) fn prepare(
        self,
        backend: Option<Backend>,
        families: &[Family],
    ) -> Result<Prepared<'a>, FirewallError> {
        let mut prepared = Prepared { masquerade: self, chosen: backend.is_some(), tools: Vec::new() };
        if backend.unwrap_or_else(Backend::default_here) == Backend::Iptables {
            for family in families {
                let tool = Tool::find(*family).ok_or(FirewallError::NoTool(*family))?;
                prepared.tools.push((*family, tool.start()?, tool));
            }
        }
        Ok(prepared)
    }

    /// What the chain holds.
    fn chain_lines(&self, subnets: &[IpNet], nets: &[IpNet]) -> String {
        let (chain, comment) = (self.owner.masquerade_chain(), quote(&self.owner.comment()));
        let subnets: BTreeSet<IpNet> = subnets.iter().map(IpNet::trunc).collect();
        let mut lines = String::new();
        for subnet in subnets {
            let _ = writeln!(lines, "-A {chain} -d {subnet} -m comment --comment {comment} -j ACCEPT");
        }
        if let Some(net) = nets.first() {
            let groups = multicast(Family::of_net(*net));
            let _ = writeln!(lines, "-A {chain} ! -d {groups} -m comment --comment {comment} -j MASQUERADE");
        }
        lines
    }

    /// What leads to the chain.
    fn entry_lines(&self, nets: &[IpNet]) -> String {
        let (chain, comment) = (self.owner.masquerade_chain(), quote(&self.owner.comment()));
        let line = |net: &IpNet| {
            format!("-A {POSTROUTING} -s {} -m comment --comment {comment} -j {chain}\n", net.addr())
        };
        nets.iter().map(line).collect()
    }

    /// Sets rules in the place of those that an earlier life of the container left, and beside those of its other
    /// interfaces. Answers false if there are none of either, so that they were not the reason of a failure.
    fn replace(&self, tool: &Tool, nets: &[IpNet]) -> Result<bool, FirewallError> {
        let nat = Nat::parse(&tool.save()?);
        let chain = self.owner.masquerade_chain();
        if !nat.chains.contains(&chain) {
            return Ok(false);
        }
        let entries = nat.of(POSTROUTING).filter(|rule| rule.leads_to(&chain));
        let (kept, stale): (Vec<&NatRule>, Vec<&NatRule>) =
            entries.partition(|rule| rule.source_address().is_some_and(|source| self.is_of_sibling(source)));
        // The subnets of the others: theirs are not told, so all stay that have one of their addresses.
        let mut subnets = nets.to_vec();
        for rule in nat.of(&chain).filter(|rule| rule.leads_to("ACCEPT")) {
            let subnet = rule.destination;
            let of_kept = |rule: &&NatRule| {
                rule.source.zip(subnet).is_some_and(|(source, subnet)| subnet.contains(&source))
            };
            subnets.extend(subnet.filter(|_| kept.iter().any(of_kept)));
        }
        let mut lines: String = stale.iter().filter_map(|rule| rule.deletion_line()).collect();
        let _ = write!(lines, "-F {chain}\n{}{}", self.chain_lines(&subnets, nets), self.entry_lines(nets));
        tool.restore(&lines)?.finish()?;
        Ok(true)
    }

    fn is_of_sibling(&self, ip: IpAddr) -> bool {
        host_local::is_of_sibling(self.config, self.environment, ip)
    }

    /// One transaction: what all containers share, where it is not right, and the container's own rules anew.
    fn add_nftables(&self, nets: &[IpNet]) -> Result<(), FirewallError> {
        let mut netfilter = Netfilter::open()?;
        let key = self.owner.masquerade_key();
        for attempt in 1.. {
            let mut commands = Vec::new();
            let base = netfilter.rules(TableFamily::INET, TABLE, BASE)?;
            let wanted = base_rules();
            if !base.iter().map(|rule| &rule.expressions).eq(wanted.iter().map(|rule| &rule.expressions)) {
                commands.extend(shared_objects());
                commands.push(Command::FlushChain(TableFamily::INET, TABLE.to_owned(), BASE.to_owned()));
                commands.extend(wanted.into_iter().map(Command::AppendRule));
            }
            let stale = netfilter.rules(TableFamily::INET, TABLE, CHECKS)?.into_iter();
            let stale =
                stale.filter(|rule| rule.comment.as_ref().is_some_and(|comment| comment.starts_with(&key)));
            commands.extend(stale.filter_map(|rule| {
                Some(Command::DeleteRule(rule.family, rule.table, rule.chain, rule.handle?))
            }));
            let comment = self.owner.masquerade_comment();
            commands.extend(nets.iter().map(|net| {
                Command::AppendRule(Rule { comment: Some(comment.clone()), ..rule(CHECKS, check(*net)) })
            }));
            match netfilter.commit(&commands) {
                Err(error) if error.means_outdated() && attempt < ATTEMPTS => {}
                other => return Ok(other?),
            }
        }
        Ok(())
    }

    /// Removes the rules, wherever they are; see [`Removed::finish`].
    pub(crate) fn remove(self) -> Result<Removed, FirewallError> {
        self.with_trace(|trace| trace.remove(trace.find()?))
    }

    fn with_trace<T>(&self, work: impl FnOnce(&Trace<'_>) -> T) -> T {
        let key = self.owner.masquerade_key();
        work(&Trace {
            chains: vec![(self.owner.masquerade_chain(), POSTROUTING)],
            tables: TABLES,
            is_ours: &|comment| comment.starts_with(&key),
            spared: &|ip| self.is_of_sibling(ip),
            legacy: is_wanted(self.config),
        })
    }

    /// Every address has rules, in whichever backend.
    pub(crate) fn check(self, nets: &[IpNet]) -> Result<(), CniError> {
        let chain = self.owner.masquerade_chain();
        let mut covered = BTreeSet::new();
        let mut cover = |nat: &Nat| {
            let entries = nat.of(POSTROUTING).filter(|rule| rule.leads_to(&chain));
            covered.extend(entries.filter_map(NatRule::source_address));
        };
        let mut in_nftables: BTreeSet<IpNet> = BTreeSet::new();
        if let Ok(mut netfilter) = Netfilter::open() {
            for family in Family::ALL {
                cover(&Nat::read(&mut netfilter, family, &[chain.as_str(), POSTROUTING])?);
            }
            let key = self.owner.masquerade_key();
            for rule in netfilter.rules(TableFamily::INET, TABLE, CHECKS)? {
                if rule.comment.is_some_and(|comment| comment.starts_with(&key)) {
                    in_nftables.extend(nets.iter().filter(|net| check(**net) == rule.expressions));
                }
            }
        }
        for family in Family::ALL {
            if iptables::has_legacy_nat(family)
                && let Some(tool) = Tool::find(family)
                && of_family(nets, family).next().is_some()
            {
                cover(&Nat::parse(&tool.save()?));
            }
        }
        match nets.iter().find(|net| !covered.contains(&net.addr()) && !in_nftables.contains(net)) {
            Some(net) => Err(MissingError(net.addr()).into()),
            None => Ok(()),
        }
    }
}

/// The config asks for masquerading. What is no such setting does not keep DEL from looking.
pub(crate) fn is_wanted(config: &Object) -> bool {
    config.field("ipMasq") == Some(&true.into())
}

/// Programs that wait for rules. Without any, the rules go into nftables.
pub(crate) struct Prepared<'a> {
    masquerade: Masquerade<'a>,
    /// The config says which backend.
    chosen: bool,
    tools: Vec<(Family, Running, Tool)>,
}

impl<'a> Prepared<'a> {
    /// Begins to set rules for addresses with the length of their subnets. In iptables that goes on by itself.
    pub(crate) fn start(self, nets: &[IpNet]) -> Result<Pending<'a>, FirewallError> {
        let Self { masquerade, chosen, tools } = self;
        if tools.is_empty() {
            masquerade.add_nftables(nets)?;
        }
        let mut pending = Pending { masquerade, nets: nets.to_vec(), chosen, running: Vec::new() };
        for (family, running, tool) in tools {
            let nets: Vec<IpNet> = of_family(nets, family).collect();
            if nets.is_empty() {
                continue;
            }
            // A chain that is there already, which is rare, refuses the whole.
            let chain = masquerade.owner.masquerade_chain();
            let own = masquerade.chain_lines(&nets, &nets);
            let lines = format!("-N {chain}\n{own}{}", masquerade.entry_lines(&nets));
            pending.running.push((family, running.feed(&lines), tool));
        }
        Ok(pending)
    }
}

/// Rules that are on their way.
pub(crate) struct Pending<'a> {
    masquerade: Masquerade<'a>,
    nets: Vec<IpNet>,
    /// The config says which backend.
    chosen: bool,
    running: Vec<(Family, Running, Tool)>,
}

impl Pending<'_> {
    /// Waits until the rules are there.
    pub(crate) fn finish(self) -> Result<(), FirewallError> {
        for (family, running, tool) in self.running {
            let Err(error) = running.finish() else { continue };
            let nets: Vec<IpNet> = of_family(&self.nets, family).collect();
            let refused = matches!(error, ToolError::Failed { .. });
            if refused && matches!(self.masquerade.replace(&tool, &nets), Ok(true)) {
                continue;
            }
            // Compatibility: without a wish, nftables is taken where iptables does not work at all.
            if refused && !self.chosen && !tool.is_usable() {
                self.masquerade.add_nftables(&nets)?;
                continue;
            }
            return Err(error.into());
        }
        Ok(())
    }
}

/// Removes the rules of all containers of the network that the list of the runtime does not hold.
pub(crate) fn gc(config: &Object) -> Result<(), CniError> {
    let ValidAttachments::Only(valid) = netconf::attachments(config)? else { return Ok(()) };
    let network = config.field("name").and_then(|name| name.as_str()).unwrap_or_default();
    let legacy = is_wanted(config);
    let mut chains = BTreeSet::new();
    for nat in nat_tables(legacy)? {
        chains.extend(nat.stale_chains(network, &valid, names::is_masquerade_chain));
    }
    let key = names::network_key(network);
    let kept: BTreeSet<String> = valid
        .iter()
        .map(|one| {
            Owner { network, container_id: &one.container_id, ifname: &one.ifname }.masquerade_comment()
        })
        .collect();
    let trace = Trace {
        chains: chains.into_iter().map(|chain| (chain, POSTROUTING)).collect(),
        tables: TABLES,
        is_ours: &|comment| comment.starts_with(&key) && !kept.contains(comment),
        spared: &|_| false,
        legacy,
    };
    trace.remove(trace.find()?)?.finish()?;
    Ok(())
}

fn of_family(nets: &[IpNet], family: Family) -> impl Iterator<Item = IpNet> {
    nets.iter().copied().filter(move |net| Family::of_net(*net) == family)
}

fn shared_objects() -> [Command; 3] {
    let chain = |name: &str, hook, comment: Option<&str>| {
        Command::AddChain(Chain {
            family: TableFamily::INET,
            table: TABLE.to_owned(),
            name: name.to_owned(),
            hook,
            comment: comment.map(str::to_owned),
        })
    };
    let hook = Hook {
        kind: "nat".to_owned(),
        number: Hook::POSTROUTING,
        priority: Hook::PRIORITY_SOURCE_NAT,
        policy: Policy::Accept,
    };
    [
        Command::AddTable(Table {
            family: TableFamily::INET,
            name: TABLE.to_owned(),
            flags: 0,
            comment: Some(TABLE_COMMENT.to_owned()),
        }),
        chain(CHECKS, None, Some(CHAIN_COMMENT)),
        chain(BASE, Some(hook), None),
    ]
}

fn base_rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> = Family::ALL
        .into_iter()
        .map(|family| {
            let net = multicast(family);
            let groups = AddressMatch { negated: false, net };
            let mut expressions = family_is(family);
            expressions.extend(address_expressions(address_offsets(family).1, groups));
            expressions.push(Expr::Verdict(Verdict::Return));
            rule(BASE, expressions)
        })
        .collect();
    rules.push(rule(BASE, vec![Expr::Verdict(Verdict::Goto(CHECKS.to_owned()))]));
    rules
}

fn rule(chain: &str, expressions: Vec<Expr>) -> Rule {
    Rule {
        family: TableFamily::INET,
        table: TABLE.to_owned(),
        chain: chain.to_owned(),
        handle: None,
        expressions,
        comment: None,
    }
}

/// From the address to anywhere but its subnet.
fn check(net: IpNet) -> Vec<Expr> {
    let family = Family::of_net(net);
    let (source, destination) = address_offsets(family);
    let mut expressions = family_is(family);
    let address = AddressMatch { negated: false, net: IpNet::from(net.addr()) };
    expressions.extend(address_expressions(source, address));
    let subnet = AddressMatch { negated: true, net: net.trunc() };
    expressions.extend(address_expressions(destination, subnet));
    expressions.push(Expr::Masquerade { flags: 0 });
    expressions
}

/// A table of both families asks for the family before it looks at addresses.
fn family_is(family: Family) -> Vec<Expr> {
    vec![
        Expr::Meta { key: META_NFPROTO, register: REGISTER_1 },
        Expr::Cmp { op: CmpOp::Equal, register: REGISTER_1, data: vec![TableFamily::from(family).0] },
    ]
}

#[cfg(test)]
mod tests;
