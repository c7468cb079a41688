//! Port mappings in nf_tables: the tables of Go's portmap.
//!
//! Two things differ from Go's rules, which plugins tell by their comments alone. Conditions of a network stand in the rules of
//! its containers, not in those that lead to all. And what is masqueraded is what was mapped and comes from the container's
//! subnet, as in iptables: an answer within a subnet would not pass the host.

use flannel_core::family::Family;
use flannel_core::message::nftables::{
    CT_STATUS, Chain, CmpOp, Command, DESTINATION_NAT, Expr, Hook, LOCAL_ADDRESS, META_L4PROTO, PayloadBase,
    Policy, REGISTER_1, REGISTER_2, Rule, Table, TableFamily, Verdict,
};
use flannel_core::ruleset::AddressMatch;
use flannel_core::ruleset::nft::{address_expressions, address_offsets};
use ipnet::IpNet;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;

use super::config::{Config, Mapping};
use crate::firewall::netfilter::{Netfilter, NetfilterError};

pub(super) const TABLE: &str = "cni_hostport";
const COMMENT: &str = "CNI portmap plugin";
/// Room for a comment, without the zero bytes in it.
const COMMENT_LEN: usize = 126;
pub(super) const PORTS: &str = "hostports";
/// Kept for what older plugins put there.
pub(super) const ADDRESS_PORTS: &str = "hostip_hostports";
const ALL_PORTS: &str = "hostports_all";
const MASQUERADING: &str = "masquerading";
/// The chains that have rules of containers.
const OWN: &[&str] = &[PORTS, ADDRESS_PORTS, MASQUERADING];
pub(super) const TABLES: &[(TableFamily, &str, &[&str])] =
    &[(TableFamily::IP, TABLE, OWN), (TableFamily::IP6, TABLE, OWN)];

/// Base chains whose packets are looked at: name and hook.
const BASES: [(&str, u32); 2] = [("prerouting", Hook::PREROUTING), ("output", Hook::OUTPUT)];

/// A comment: the container, which is all that nft shows and Go's plugin compares, and behind a zero byte the network, by which
/// GC knows what is its own.
fn comment(network: &str, container_id: &str) -> String {
    // A name that was cut could be that of another network.
    if container_id.len() + network.len() < COMMENT_LEN {
        format!("{container_id}\0{network}")
    } else {
        container_id.to_owned()
    }
}

/// The container in a comment, and the network if it is told.
pub(super) fn parse_comment(comment: &str) -> (&str, Option<&str>) {
    comment.split_once('\0').map_or((comment, None), |(id, network)| (id, Some(network)))
}

/// A rule is of a container.
pub(super) fn is_of(rule: &Rule, container_id: &str) -> bool {
    rule.comment.as_deref().is_some_and(|comment| parse_comment(comment).0 == container_id)
}

/// Conditions that the program nft has to read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConditionsError {
    #[error("conditions of nftables are read by the program nft, which could not be run: {}", crate::error::errno_text(.0))]
    Start(std::io::Error),
    #[error("nft refused the conditions: {0}")]
    Refused(String),
}

/// The mappings of one container in one family.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) config: &'a Config,
    pub(super) container_id: &'a str,
    /// The container's address with the length of its subnet.
    pub(super) target: IpNet,
}

impl Rules<'_> {
    const fn family(&self) -> Family {
        Family::of_net(self.target)
    }

    fn table(&self) -> TableFamily {
        self.family().into()
    }

    /// The commands of an ADD: what is shared, where it is not right, and the container's own rules anew.
    pub(super) fn commands(&self, netfilter: &mut Netfilter) -> Result<Vec<Command>, NetfilterError> {
        let mut commands = Vec::new();
        for wanted in self.shared_rules() {
            let chain = wanted[0].chain.clone();
            let there = netfilter.rules(self.table(), TABLE, &chain)?;
            if !there.iter().map(|rule| &rule.expressions).eq(wanted.iter().map(|rule| &rule.expressions)) {
                commands.push(Command::FlushChain(self.table(), TABLE.to_owned(), chain));
                commands.extend(wanted.into_iter().map(Command::AppendRule));
            }
        }
        let has_all = commands.is_empty()
            && netfilter.has_chain(self.table(), TABLE, PORTS)?
            && (!self.config.snat || netfilter.has_chain(self.table(), TABLE, MASQUERADING)?);
        if !has_all {
            commands.splice(0..0, self.shared_objects());
        }
        for chain in OWN {
            for rule in netfilter.rules(self.table(), TABLE, chain)? {
                if is_of(&rule, self.container_id)
                    && let Some(handle) = rule.handle
                {
                    commands.push(Command::DeleteRule(rule.family, rule.table, rule.chain, handle));
                }
            }
        }
        let mut own = if self.config.conditions(self.family()).is_empty() {
            self.config.of(self.family()).map(|mapping| self.rule(PORTS, self.mapping(mapping))).collect()
        } else {
            Vec::new()
        };
        if self.config.snat {
            own.extend(self.masqueraded().map(|source| self.rule(MASQUERADING, self.masquerade(source))));
        }
        let comment = Some(comment(&self.config.network, self.container_id));
        commands.extend(
            own.into_iter().map(|rule| Command::AppendRule(Rule { comment: comment.clone(), ..rule })),
        );
        Ok(commands)
    }

    /// How many rules of the container there must be, for mappings and for masquerading.
    pub(super) fn counts(&self) -> [(&'static str, usize); 2] {
        let masqueraded = if self.config.snat { self.masqueraded().count() } else { 0 };
        [(PORTS, self.config.of(self.family()).count()), (MASQUERADING, masqueraded)]
    }

    /// Sets the rules that have conditions, which are written in the language of nft.
    pub(super) fn set_conditioned(&self) -> Result<(), ConditionsError> {
        let conditions = self.config.conditions(self.family()).join(" ").replace(['\n', ';'], " ");
        if conditions.trim().is_empty() {
            return Ok(());
        }
        let table = self.table();
        let script: String = self
            .config
            .of(self.family())
            .map(|mapping| {
                let address = mapping.address().map_or_else(String::new, |ip| format!("{table} daddr {ip} "));
                let target = SocketAddr::new(self.target.addr(), mapping.container_port);
                format!(
                    "add rule {table} {TABLE} {PORTS} {conditions} {address}{} dport {} dnat to {target} comment \"{}\"\n",
                    mapping.protocol, mapping.host_port, self.container_id
                )
            })
            .collect();
        let mut child = std::process::Command::new("nft")
            .args(["-f", "-"])
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(ConditionsError::Start)?;
        if let Some(mut stdin) = child.stdin.take() {
            // What it thinks of input that it does not read, it says at its end.
            let _ = stdin.write_all(script.as_bytes());
        }
        let output = child.wait_with_output().map_err(ConditionsError::Start)?;
        if output.status.success() {
            return Ok(());
        }
        Err(ConditionsError::Refused(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")))
    }

    fn shared_objects(&self) -> Vec<Command> {
        let chain = |name: &str, hook: Option<(u32, i32)>| {
            Command::AddChain(Chain {
                family: self.table(),
                table: TABLE.to_owned(),
                name: name.to_owned(),
                hook: hook.map(|(number, priority)| Hook {
                    kind: "nat".to_owned(),
                    number,
                    priority,
                    policy: Policy::Accept,
                }),
                comment: None,
            })
        };
        let mut objects = vec![Command::AddTable(Table {
            family: self.table(),
            name: TABLE.to_owned(),
            flags: 0,
            comment: Some(COMMENT.to_owned()),
        })];
        objects.extend([PORTS, ADDRESS_PORTS, ALL_PORTS].map(|name| chain(name, None)));
        objects.extend(BASES.map(|(name, hook)| chain(name, Some((hook, Hook::PRIORITY_DESTINATION_NAT)))));
        if self.config.snat {
            objects.push(chain(MASQUERADING, Some((Hook::POSTROUTING, Hook::PRIORITY_SOURCE_NAT))));
        }
        objects
    }

    /// The rules that lead to those of containers, by chain.
    fn shared_rules(&self) -> Vec<Vec<Rule>> {
        let jump = |chain: &str| Expr::Verdict(Verdict::Jump(chain.to_owned()));
        let all = [ADDRESS_PORTS, PORTS].map(|chain| self.rule(ALL_PORTS, vec![jump(chain)]));
        let mut rules = vec![all.to_vec()];
        for (chain, _) in BASES {
            let local = vec![
                Expr::DestinationType { register: REGISTER_1 },
                equal(LOCAL_ADDRESS.to_ne_bytes().to_vec()),
                jump(ALL_PORTS),
            ];
            rules.push(vec![self.rule(chain, local)]);
        }
        rules
    }

    fn rule(&self, chain: &str, expressions: Vec<Expr>) -> Rule {
        Rule {
            family: self.table(),
            table: TABLE.to_owned(),
            chain: chain.to_owned(),
            handle: None,
            expressions,
            comment: None,
        }
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
            equal(vec![mapping.protocol_number()]),
            // The destination port is in one place in the headers of all three.
            Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, register: REGISTER_1 },
            equal(mapping.host_port.to_be_bytes().to_vec()),
            Expr::Immediate { register: REGISTER_1, data: address },
            Expr::Immediate { register: REGISTER_2, data: mapping.container_port.to_be_bytes().to_vec() },
            Expr::DestinationNat { family: self.table().0, address: REGISTER_1, port: REGISTER_2 },
        ]);
        expressions
    }

    /// Sources whose mapped packets get an address of the host.
    fn masqueraded(&self) -> impl Iterator<Item = IpNet> + use<> {
        let all = self.config.masquerade_all;
        let everything = match self.family() {
            Family::V4 => IpNet::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            Family::V6 => IpNet::from(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)),
        };
        let everything = IpNet::new(everything.addr(), 0).unwrap_or(everything);
        let local = IpNet::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let local = (!all && self.family() == Family::V4).then_some(local);
        [Some(if all { everything } else { self.target.trunc() }), local].into_iter().flatten()
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

const fn equal(data: Vec<u8>) -> Expr {
    Expr::Cmp { op: CmpOp::Equal, register: REGISTER_1, data }
}
