//! Port mappings in nf_tables: the tables of Go's portmap.
//!
//! Two things differ from Go's rules, which plugins only find by their comments. The conditions of a network are part of the rules of
//! its containers, not of the rules that all share. And packets are masqueraded if they were mapped and come from the container's
//! subnet, as in iptables: replies within a subnet would not pass through the host.

use flannel_core::family::Family;
use flannel_core::message::nftables::{
    CT_STATUS, CmpOp, Command, DESTINATION_NAT, Expr, Hook, LOCAL_ADDRESS, META_L4PROTO, PayloadBase,
    REGISTER_1, REGISTER_2, Rule, TableFamily,
};
use flannel_core::ruleset::AddressMatch;
use flannel_core::ruleset::nft::{address_expressions, address_offsets};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::Rules;
use super::config::Mapping;
use crate::error::{CniError, errno_text};
use crate::firewall::names::Owner;
use crate::firewall::nat::NatRule;
use crate::firewall::netfilter::{Netfilter, NetfilterError};
use crate::firewall::nft::{self, NftTable, equal, jump};
use crate::process;

const NAME: &str = "cni_hostport";
const COMMENT: &str = "CNI portmap plugin";
/// The maximum length of a comment, without its zero bytes.
const COMMENT_LEN: usize = 126;
pub(super) const PORTS: &str = "hostports";
/// The chain that older plugins use.
pub(super) const ADDRESS_PORTS: &str = "hostip_hostports";
const ALL_PORTS: &str = "hostports_all";
const MASQUERADING: &str = "masquerading";
/// The chains with rules of containers.
const OWN: &[&str] = &[PORTS, ADDRESS_PORTS, MASQUERADING];
pub(super) const TABLES: &[(NftTable, &[&str])] =
    &[(NftTable(TableFamily::IP, NAME), OWN), (NftTable(TableFamily::IP6, NAME), OWN)];

/// Returns the table of a family.
pub(super) fn table(family: Family) -> NftTable {
    NftTable(family.into(), NAME)
}

/// Base chains: name and hook.
const BASES: [(&str, u32); 2] = [("prerouting", Hook::PREROUTING), ("output", Hook::OUTPUT)];

/// Returns a comment: the container, which nft shows and Go's plugin compares, and after zero bytes the network and the interface.
fn comment(owner: &Owner<'_>) -> String {
    let comment = format!("{}\0{}\0{}", owner.container_id, owner.network, owner.ifname);
    // A truncated name could be that of another network.
    if comment.len() <= COMMENT_LEN { comment } else { owner.container_id.to_owned() }
}

/// The owner in a comment, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Comment<'a> {
    pub(super) container_id: &'a str,
    pub(super) network: Option<&'a str>,
    ifname: Option<&'a str>,
}

impl<'a> Comment<'a> {
    pub(super) fn parse(comment: &'a str) -> Self {
        let mut parts = comment.split('\0');
        let container_id = parts.next().unwrap_or_default();
        Self { container_id, network: parts.next(), ifname: parts.next() }
    }

    /// Whether the rule may be of an owner.
    pub(super) fn is_of(&self, owner: &Owner<'_>) -> bool {
        self.container_id == owner.container_id
            && self.network.is_none_or(|network| network == owner.network)
            && self.ifname.is_none_or(|ifname| ifname == owner.ifname)
    }
}

impl Rules<'_> {
    fn table(&self) -> NftTable {
        table(self.family())
    }

    /// Whether a rule is of this interface.
    pub(super) fn is_own_rule(&self, rule: &Rule) -> bool {
        rule.comment.as_deref().is_some_and(|comment| Comment::parse(comment).is_of(&self.owner))
            && !NatRule::decode(self.family(), rule).leads_to(&|ip| self.siblings.have(ip))
    }

    /// Returns the commands of an ADD: shared objects, if they are out of date, and the container's own rules.
    pub(super) fn commands(&self, netfilter: &mut Netfilter) -> Result<Vec<Command>, NetfilterError> {
        let table = self.table();
        let mut commands = Vec::new();
        for (chain, wanted) in self.shared_rules() {
            commands.extend(table.replace(netfilter, chain, wanted)?);
        }
        let is_complete = commands.is_empty()
            && table.has_chain(netfilter, PORTS)?
            && (!self.config.snat || table.has_chain(netfilter, MASQUERADING)?);
        if !is_complete {
            commands.splice(0..0, self.shared_objects());
        }
        for chain in OWN {
            let own = table.rules(netfilter, chain)?.into_iter().filter(|rule| self.is_own_rule(rule));
            commands.extend(own.filter_map(nft::delete_rule));
        }
        let comment = comment(&self.owner);
        let mut append = |chain, expressions| {
            commands.push(Command::AppendRule(table.rule(chain, expressions, Some(&comment))));
        };
        if self.config.conditions(self.family()).is_empty() {
            self.config.of(self.family()).for_each(|mapping| append(PORTS, self.mapping(mapping)));
        }
        if self.config.snat {
            self.masqueraded().for_each(|source| append(MASQUERADING, self.masquerade(source)));
        }
        Ok(commands)
    }

    /// Fails unless the container has the right number of rules.
    pub(super) fn check(&self, netfilter: &mut Netfilter) -> Result<(), CniError> {
        let masqueraded = if self.config.snat { self.masqueraded().count() } else { 0 };
        for (chain, wanted) in [(PORTS, self.config.of(self.family()).count()), (MASQUERADING, masqueraded)] {
            let rules = self.table().rules(netfilter, chain)?;
            if rules.iter().filter(|rule| self.is_own_rule(rule)).count() < wanted {
                return Err(CniError::internal(format!("missing hostport rules in {chain:?} chain")));
            }
        }
        Ok(())
    }

    /// Sets the rules that have conditions, which are in the syntax of nft.
    pub(super) fn set_conditioned(&self) -> Result<(), CniError> {
        let conditions = self.config.conditions(self.family()).join(" ").replace(['\n', ';'], " ");
        if conditions.trim().is_empty() {
            return Ok(());
        }
        let family = self.table().0;
        let script: String = self
            .config
            .of(self.family())
            .map(|mapping| {
                let address = mapping.address().map_or_else(String::new, |ip| format!("{family} daddr {ip} "));
                let target = SocketAddr::new(self.target.addr(), mapping.container_port);
                format!(
                    "add rule {family} {NAME} {PORTS} {conditions} {address}{} dport {} dnat to {target} comment \"{}\"\n",
                    mapping.protocol, mapping.host_port, self.owner.container_id
                )
            })
            .collect();
        let mut nft = std::process::Command::new("nft");
        let output =
            process::run(nft.args(["-f", "-"]).env("LC_ALL", "C"), script.as_bytes()).map_err(|error| {
                CniError::internal(format!(
                    "could not run nft, which parses the conditions: {}",
                    errno_text(&error)
                ))
            })?;
        if output.status.success() {
            return Ok(());
        }
        let refusal = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        Err(CniError::internal(format!("nft rejected the conditions: {refusal}")))
    }

    fn shared_objects(&self) -> Vec<Command> {
        let table = self.table();
        let nat = |number, priority| Some(nft::hook("nat", number, priority));
        let mut objects = vec![table.add(Some(COMMENT))];
        objects.extend([PORTS, ADDRESS_PORTS, ALL_PORTS].map(|name| table.add_chain(name, None, None)));
        objects.extend(
            BASES.map(|(name, number)| {
                table.add_chain(name, nat(number, Hook::PRIORITY_DESTINATION_NAT), None)
            }),
        );
        if self.config.snat {
            let hook = nat(Hook::POSTROUTING, Hook::PRIORITY_SOURCE_NAT);
            objects.push(table.add_chain(MASQUERADING, hook, None));
        }
        objects
    }

    /// Returns the shared rules that jump to those of containers, by chain.
    fn shared_rules(&self) -> Vec<(&'static str, Vec<Rule>)> {
        let rule = |chain, expressions| self.table().rule(chain, expressions, None);
        let all = [ADDRESS_PORTS, PORTS].map(|chain| rule(ALL_PORTS, vec![jump(chain)]));
        let mut rules = vec![(ALL_PORTS, all.to_vec())];
        for (chain, _) in BASES {
            let local = vec![
                Expr::DestinationType { register: REGISTER_1 },
                equal(LOCAL_ADDRESS.to_ne_bytes()),
                jump(ALL_PORTS),
            ];
            rules.push((chain, vec![rule(chain, local)]));
        }
        rules
    }

    /// `[ip daddr A] tcp dport P dnat to T`.
    fn mapping(&self, mapping: &Mapping) -> Vec<Expr> {
        let (_, destination) = address_offsets(self.family());
        let mut expressions: Vec<Expr> = mapping
            .address()
            .into_iter()
            .flat_map(|ip| address_expressions(destination, is(IpNet::from(ip))))
            .collect();
        let address = match self.target.addr() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        expressions.extend([
            Expr::Meta { key: META_L4PROTO, register: REGISTER_1 },
            equal([mapping.protocol_number()]),
            // The destination port has the same offset in the headers of all three protocols.
            Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, register: REGISTER_1 },
            equal(mapping.host_port.to_be_bytes()),
            Expr::Immediate { register: REGISTER_1, data: address },
            Expr::Immediate { register: REGISTER_2, data: mapping.container_port.to_be_bytes().to_vec() },
            Expr::DestinationNat { family: self.table().0.0, address: REGISTER_1, port: REGISTER_2 },
        ]);
        expressions
    }

    /// Returns the sources whose mapped packets are masqueraded.
    fn masqueraded(&self) -> impl Iterator<Item = IpNet> + use<> {
        let all = self.config.masquerade_all;
        let local = IpNet::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let local = (!all && self.family() == Family::V4).then_some(local);
        [Some(if all { self.family().any() } else { self.target.trunc() }), local].into_iter().flatten()
    }

    /// `ip saddr S ip daddr T ct status dnat masquerade`.
    fn masquerade(&self, source: IpNet) -> Vec<Expr> {
        let (from, to) = address_offsets(self.family());
        let mut expressions = address_expressions(from, is(source));
        expressions.extend(address_expressions(to, is(IpNet::from(self.target.addr()))));
        expressions.extend([
            Expr::Connection { key: CT_STATUS, register: REGISTER_1 },
            Expr::Bitwise {
                source: REGISTER_1,
                destination: REGISTER_1,
                mask: DESTINATION_NAT.to_ne_bytes().to_vec(),
                xor: vec![0; 4],
            },
            Expr::Cmp { op: CmpOp::NotEqual, register: REGISTER_1, data: vec![0; 4] },
            Expr::Masquerade { flags: 0 },
        ]);
        expressions
    }
}

const fn is(net: IpNet) -> AddressMatch {
    AddressMatch { negated: false, net }
}
