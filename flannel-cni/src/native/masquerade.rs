//! Masquerading of packets that leave the subnet of a container (`ipMasq` of bridge), with the rules of Go's plugins.
//!
//! Improvements: rules are found by their names, so that DEL needs neither namespace nor addresses; a stale chain of an earlier
//! ADD is replaced; each interface of a container only removes its own rules; rules are removed before the address is released; GC.

use flannel_core::family::Family;
use flannel_core::host_local::Attachment;
use flannel_core::message::nftables::{
    Command, Expr, Hook, META_NFPROTO, REGISTER_1, Rule, TableFamily, Verdict,
};
use flannel_core::ruleset::AddressMatch;
use flannel_core::ruleset::nft::{address_expressions, address_offsets};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::CniError;
use crate::firewall::iptables::{Running, Tool, quote};
use crate::firewall::names::{self, Owner};
use crate::firewall::nat::{Nat, NatRule, POSTROUTING};
use crate::firewall::netfilter::Netfilter;
use crate::firewall::nft::{self, NftTable, equal};
use crate::firewall::{Backend, Removed, Selector, legacy_tools, stale_chains};
use crate::request::Request;
use crate::siblings::Siblings;

/// The names of Go's plugins, which never change.
const TABLE: NftTable = NftTable(TableFamily::INET, "cni_plugins_masquerade");
const CHECKS: &str = "masq_checks";
const BASE: &str = "postrouting";
const TABLES: &[(NftTable, &[&str])] = &[(TABLE, &[CHECKS])];
const TABLE_COMMENT: &str = "Masquerading for plugins from github.com/containernetworking/plugins";
const CHAIN_COMMENT: &str =
    "Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet";

/// Multicast addresses, to which packets are not masqueraded.
const fn multicast(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4)),
        Family::V6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8)),
    }
}

/// The rules of one interface of a container.
#[derive(Clone, Copy)]
pub(crate) struct Masquerade<'a> {
    request: &'a Request,
    owner: Owner<'a>,
}

impl<'a> Masquerade<'a> {
    pub(crate) const fn new(request: &'a Request) -> Self {
        let owner = Owner::new(request.network.as_str(), &request.environment.attachment);
        Self { request, owner }
    }

    /// Starts the programs for rules of these families, so that they are initialized when the addresses are known.
    pub(crate) fn prepare(
        self,
        backend: Option<Backend>,
        families: &[Family],
    ) -> Result<Rules<'a>, CniError> {
        let chosen = backend.unwrap_or_else(Backend::of_host);
        let running = match chosen {
            Backend::Iptables => {
                families.iter().map(|family| start_tool(*family)).collect::<Result<_, _>>()?
            }
            Backend::Nftables => Vec::new(),
        };
        Ok(Rules { masquerade: self, is_fixed: backend.is_some(), chosen, nets: Vec::new(), running })
    }

    /// Returns the rules of the chain.
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

    /// Returns the rules that jump to the chain.
    fn entry_lines(&self, nets: &[IpNet]) -> String {
        let (chain, comment) = (self.owner.masquerade_chain(), quote(&self.owner.comment()));
        let line = |net: &IpNet| {
            format!("-A {POSTROUTING} -s {} -m comment --comment {comment} -j {chain}\n", net.addr())
        };
        nets.iter().map(line).collect()
    }

    /// Replaces stale rules of an earlier ADD and keeps those of other interfaces of the container. Returns false if neither exist,
    /// so that they are not the reason for a failure.
    fn replace(&self, tool: &Tool, nets: &[IpNet]) -> Result<bool, CniError> {
        let nat = Nat::parse(&tool.save()?);
        let siblings = Siblings::of(&self.request.environment);
        let chain = self.owner.masquerade_chain();
        if !nat.chains.contains(&chain) {
            return Ok(false);
        }
        let entries = nat.of(POSTROUTING).filter(|rule| rule.jumps_to(&chain));
        let (kept, stale): (Vec<&NatRule>, Vec<&NatRule>) =
            entries.partition(|rule| rule.source_address().is_some_and(|source| siblings.have(source)));
        // Rules of subnets do not name their interface: keep those that contain an address of another interface.
        let mut subnets = nets.to_vec();
        for rule in nat.of(&chain).filter(|rule| rule.jumps_to("ACCEPT")) {
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

    /// Sets the rules in one transaction, with the shared objects if they are out of date.
    fn add_nftables(&self, nets: &[IpNet]) -> Result<(), CniError> {
        let (key, comment) = (self.owner.masquerade_key(), self.owner.masquerade_comment());
        nft::commit(&mut Netfilter::open()?, |netfilter| {
            let mut commands = TABLE.replace(netfilter, BASE, base_rules())?;
            if !commands.is_empty() {
                commands.splice(0..0, shared_objects());
            }
            commands.extend(TABLE.delete_rules(netfilter, CHECKS, |comment| comment.starts_with(&key))?);
            let own = nets.iter().map(|net| TABLE.rule(CHECKS, check(*net), Some(&comment)));
            commands.extend(own.map(Command::AppendRule));
            Ok(commands)
        })
    }

    /// Removes the rules, wherever they are; see [`Removed::finish`].
    pub(crate) fn remove(self) -> Result<Removed, CniError> {
        let key = self.owner.masquerade_key();
        let siblings = Siblings::of(&self.request.environment);
        let selector = Selector {
            chains: vec![(self.owner.masquerade_chain(), POSTROUTING)],
            tables: TABLES,
            is_owned: &|comment| comment.starts_with(&key),
            is_kept: &|ip| siblings.have(ip),
            legacy: is_wanted(self.request),
        };
        selector.remove()
    }

    /// Fails unless every address has rules, in any backend.
    pub(crate) fn check(self, nets: &[IpNet]) -> Result<(), CniError> {
        let chain = self.owner.masquerade_chain();
        let sources = |nat: &Nat| -> Vec<IpAddr> {
            let entries = nat.of(POSTROUTING).filter(|rule| rule.jumps_to(&chain));
            entries.filter_map(NatRule::source_address).collect()
        };
        let mut covered: BTreeSet<IpAddr> = BTreeSet::new();
        if let Ok(mut netfilter) = Netfilter::open() {
            for family in Family::ALL {
                covered.extend(sources(&Nat::read(&mut netfilter, family, &[chain.as_str(), POSTROUTING])?));
            }
            let key = self.owner.masquerade_key();
            for rule in TABLE.rules(&mut netfilter, CHECKS)? {
                if rule.comment.is_some_and(|comment| comment.starts_with(&key)) {
                    let own = nets.iter().filter(|net| check(**net) == rule.expressions);
                    covered.extend(own.map(IpNet::addr));
                }
            }
        }
        for (family, tool) in legacy_tools() {
            if of_family(nets, family).next().is_some() {
                covered.extend(sources(&Nat::parse(&tool.save()?)));
            }
        }
        match nets.iter().find(|net| !covered.contains(&net.addr())) {
            Some(net) => {
                let msg = format!("{} has masquerade rules neither in iptables nor in nftables", net.addr());
                Err(CniError::internal(msg))
            }
            None => Ok(()),
        }
    }
}

/// Whether the config requests masquerading. An invalid value counts as false.
fn is_wanted(request: &Request) -> bool {
    request.config.is_true("ipMasq")
}

/// Rules that are being set, in iptables by programs that wait for them.
pub(crate) struct Rules<'a> {
    masquerade: Masquerade<'a>,
    chosen: Backend,
    /// The config requests this backend.
    is_fixed: bool,
    nets: Vec<IpNet>,
    running: Vec<(Family, Running, Tool)>,
}

fn start_tool(family: Family) -> Result<(Family, Running, Tool), CniError> {
    let tool = Tool::require(family)?;
    Ok((family, tool.start()?, tool))
}

impl Rules<'_> {
    /// Starts to set rules for addresses with the length of their subnets. Programs of iptables continue in the background.
    pub(crate) fn start(mut self, nets: &[IpNet]) -> Result<Self, CniError> {
        self.nets = nets.to_vec();
        if self.chosen == Backend::Nftables {
            self.masquerade.add_nftables(nets)?;
            return Ok(self);
        }
        let mut prepared = std::mem::take(&mut self.running);
        for family in Family::ALL {
            let nets: Vec<IpNet> = of_family(nets, family).collect();
            if nets.is_empty() {
                continue;
            }
            let (family, running, tool) = match prepared.iter().position(|(of, ..)| *of == family) {
                Some(at) => prepared.swap_remove(at),
                None => start_tool(family)?,
            };
            // Fails as a whole if the chain exists, which is rare.
            let chain = self.masquerade.owner.masquerade_chain();
            let own = self.masquerade.chain_lines(&nets, &nets);
            let lines = format!("-N {chain}\n{own}{}", self.masquerade.entry_lines(&nets));
            self.running.push((family, running.feed(&lines), tool));
        }
        Ok(self)
    }

    /// Waits until the rules are set.
    pub(crate) fn finish(self) -> Result<(), CniError> {
        for (family, running, tool) in self.running {
            let Err(error) = running.finish() else { continue };
            let nets: Vec<IpNet> = of_family(&self.nets, family).collect();
            let refused = error.refused;
            if refused && matches!(self.masquerade.replace(&tool, &nets), Ok(true)) {
                continue;
            }
            // Compatibility: nftables is the fallback where iptables does not work at all, unless the config requests it.
            if refused && !self.is_fixed && !tool.is_usable() {
                self.masquerade.add_nftables(&nets)?;
                continue;
            }
            return Err(error.into());
        }
        Ok(())
    }
}

/// Removes the rules of all containers of the network that are not valid.
pub(crate) fn gc(request: &Request, valid: &[Attachment]) -> Result<(), CniError> {
    let (network, legacy) = (request.network.as_str(), is_wanted(request));
    let key = names::network_key(network);
    let kept: BTreeSet<String> =
        valid.iter().map(|one| Owner::new(network, one).masquerade_comment()).collect();
    let kept_chains = valid.iter().map(|one| Owner::new(network, one).masquerade_chain()).collect();
    let chains = stale_chains(network, &kept_chains, names::is_masquerade_chain, legacy)?;
    let selector = Selector {
        chains: chains.into_iter().map(|chain| (chain, POSTROUTING)).collect(),
        tables: TABLES,
        is_owned: &|comment| comment.starts_with(&key) && !kept.contains(comment),
        is_kept: &|_| false,
        legacy,
    };
    selector.remove()?.finish()?;
    Ok(())
}

fn of_family(nets: &[IpNet], family: Family) -> impl Iterator<Item = IpNet> {
    nets.iter().copied().filter(move |net| Family::of_net(*net) == family)
}

fn shared_objects() -> [Command; 3] {
    let hook = nft::hook("nat", Hook::POSTROUTING, Hook::PRIORITY_SOURCE_NAT);
    [
        TABLE.add(Some(TABLE_COMMENT)),
        TABLE.add_chain(CHECKS, None, Some(CHAIN_COMMENT)),
        TABLE.add_chain(BASE, Some(hook), None),
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
            TABLE.rule(BASE, expressions, None)
        })
        .collect();
    rules.push(TABLE.rule(BASE, vec![Expr::Verdict(Verdict::Goto(CHECKS.to_owned()))], None));
    rules
}

/// Matches packets from the address to anywhere but its subnet.
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

/// Matches the family, which a table of both families must check before addresses.
fn family_is(family: Family) -> Vec<Expr> {
    vec![Expr::Meta { key: META_NFPROTO, register: REGISTER_1 }, equal([TableFamily::from(family).0])]
}

#[cfg(test)]
mod tests;
