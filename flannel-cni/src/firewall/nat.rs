//! The rules of plugins in the `nat` table of iptables, read through netlink or from the text of `iptables-save`.
//!
//! Only the parts of a rule that are needed to find and delete it are decoded. Rules are only written by iptables, which must be
//! able to read them back.

use flannel_core::family::Family;
use flannel_core::message::nftables::{
    CmpOp, Command, Expr, META_L4PROTO, META_MARK, Message, PayloadBase, Query, Rule, TableFamily, Verdict,
};
use flannel_core::ruleset::iptables::words;
use flannel_core::ruleset::nft::address_offsets;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::names;
use super::netfilter::{Netfilter, NetfilterError};
use super::nft::NftTable;
use super::{UDP, protocol_number};

pub(crate) const NAT: &str = "nat";
pub(crate) const POSTROUTING: &str = "POSTROUTING";

/// The chains that plugins use, with their rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nat {
    pub(crate) chains: BTreeSet<String>,
    pub(crate) rules: Vec<NatRule>,
}

/// The decoded parts of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NatRule {
    pub(crate) chain: String,
    /// The chain that it jumps to, or the name of an extension such as `DNAT`.
    pub(crate) target: Option<String>,
    pub(crate) comment: Option<String>,
    pub(crate) source: Option<IpNet>,
    pub(crate) destination: Option<IpNet>,
    /// The address that it maps packets to.
    pub(crate) translated: Option<IpAddr>,
    pub(crate) protocol: Option<u8>,
    /// Mark and mask that it compares or sets.
    pub(crate) mark: Option<(u32, u32)>,
    /// Destination ports; empty without such a condition, or with one that cannot be decoded.
    pub(crate) ports: Vec<u16>,
    pub(crate) place: Place,
}

/// How a rule is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// By the kernel's handle.
    Handle(u64),
    /// By its text after `-A CHAIN`.
    Text(String),
}

impl Default for Place {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl Nat {
    /// Reads some chains through netlink, skipping those that do not exist.
    pub(crate) fn read(
        netfilter: &mut Netfilter,
        family: Family,
        chains: &[&str],
    ) -> Result<Self, NetfilterError> {
        let mut nat = Self::default();
        for chain in chains {
            let table = NftTable(family.into(), NAT);
            if table.has_chain(netfilter, chain)? {
                nat.chains.insert((*chain).to_owned());
                let rules = table.rules(netfilter, chain)?;
                nat.rules.extend(rules.iter().map(|rule| NatRule::decode(family, rule)));
            }
        }
        Ok(nat)
    }

    /// Reads the whole table through netlink.
    pub(crate) fn read_all(netfilter: &mut Netfilter, family: Family) -> Result<Self, NetfilterError> {
        let mut nat = Self::default();
        for message in netfilter.query(&Query::Chains(family.into()))? {
            if let Message::Chain(chain) = message
                && chain.table == NAT
            {
                nat.chains.insert(chain.name);
            }
        }
        for message in netfilter.query(&Query::Rules(family.into(), NAT.to_owned()))? {
            if let Message::Rule(rule) = message
                && rule.table == NAT
            {
                nat.rules.push(NatRule::decode(family, &rule));
            }
        }
        Ok(nat)
    }

    /// Parses the text of `iptables-save`.
    pub(crate) fn parse(text: &str) -> Self {
        let mut nat = Self::default();
        let mut table = "";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            }
            if table != NAT {
                continue;
            }
            if let Some(chain) = line.strip_prefix(':') {
                nat.chains.extend(chain.split_whitespace().next().map(str::to_owned));
            } else if let Some(rule) = line.strip_prefix("-A ") {
                nat.rules.push(NatRule::parse(rule));
            }
        }
        nat
    }

    /// Returns the rules of a chain.
    pub(crate) fn of<'a>(&'a self, chain: &'a str) -> impl Iterator<Item = &'a NatRule> {
        self.rules.iter().filter(move |rule| rule.chain == chain)
    }

    /// Returns the chains of the network that are not kept, by the comments of their rules and of the rules that jump to them.
    pub(crate) fn stale_chains(
        &self,
        network: &str,
        kept: &BTreeSet<String>,
        is_chain: fn(&str) -> bool,
    ) -> BTreeSet<String> {
        let mut chains = BTreeMap::new();
        for rule in &self.rules {
            let Some((of, _)) = rule.comment.as_deref().and_then(names::parse_comment) else { continue };
            for chain in [Some(&rule.chain), rule.target.as_ref()].into_iter().flatten() {
                if is_chain(chain) {
                    // Two owners may share a chain: see the names.
                    let stale = of == network && !kept.contains(chain);
                    *chains.entry(chain.clone()).or_insert(true) &= stale;
                }
            }
        }
        chains.into_iter().filter(|(_, stale)| *stale).map(|(chain, _)| chain).collect()
    }
}

impl NatRule {
    /// The source, if it is a single address.
    pub(crate) fn source_address(&self) -> Option<IpAddr> {
        address(self.source)
    }

    /// The destination, if it is a single address.
    pub(crate) fn destination_address(&self) -> Option<IpAddr> {
        address(self.destination)
    }

    /// Whether it maps packets to an address or concerns packets to it.
    pub(crate) fn leads_to(&self, is_meant: &dyn Fn(IpAddr) -> bool) -> bool {
        self.translated.is_some_and(is_meant) || self.destination_address().is_some_and(is_meant)
    }

    /// The UDP ports that it matches.
    pub(crate) fn udp_ports(&self) -> &[u16] {
        if self.protocol == Some(UDP) { &self.ports } else { &[] }
    }

    pub(crate) fn jumps_to(&self, chain: &str) -> bool {
        self.target.as_deref() == Some(chain)
    }

    /// Decodes a rule of nf_tables, including the extensions with which iptables stores its rules there.
    pub(crate) fn decode(family: Family, rule: &Rule) -> Self {
        let mut read = Self {
            chain: rule.chain.clone(),
            comment: rule.comment.clone(),
            place: Place::Handle(rule.handle.unwrap_or_default()),
            ..Self::default()
        };
        let (source, destination) = address_offsets(family);
        for pair in rule.expressions.windows(2) {
            let Expr::Cmp { op: CmpOp::Equal, data, .. } = &pair[1] else { continue };
            match &pair[0] {
                Expr::Payload { base: PayloadBase::Network, offset, .. } if *offset == source => {
                    read.source = net(family, data);
                }
                Expr::Payload { base: PayloadBase::Network, offset, .. } if *offset == destination => {
                    read.destination = net(family, data);
                }
                Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, .. } => {
                    read.ports.extend(data.first_chunk().map(|bytes| u16::from_be_bytes(*bytes)));
                }
                Expr::Meta { key: META_L4PROTO, .. } => read.protocol = data.first().copied(),
                _ => {}
            }
        }
        for triple in rule.expressions.windows(3) {
            if let [
                Expr::Meta { key: META_MARK, .. },
                Expr::Bitwise { mask, .. },
                Expr::Cmp { op: CmpOp::Equal, data, .. },
            ] = triple
            {
                read.mark = number(data).zip(number(mask));
            }
        }
        for pair in rule.expressions.windows(2) {
            if let [Expr::Immediate { data, .. }, Expr::Immediate { .. } | Expr::DestinationNat { .. }] = pair
            {
                read.translated = read.translated.or(net(family, data).map(|net| net.addr()));
            }
        }
        for expression in &rule.expressions {
            match expression {
                Expr::Verdict(Verdict::Jump(chain) | Verdict::Goto(chain)) => {
                    read.target = Some(chain.clone());
                }
                other => {
                    if let Some((name, content)) = other.extension() {
                        read.extension(family, name, content);
                    }
                }
            }
        }
        read
    }

    fn extension(&mut self, family: Family, name: String, content: &[u8]) {
        match name.as_str() {
            "comment" => {
                let end = content.iter().position(|byte| *byte == 0).unwrap_or(content.len());
                self.comment = Some(String::from_utf8_lossy(&content[..end]).into_owned());
            }
            "multiport" => self.ports = multiport(content),
            // `struct nf_nat_range2` begins with flags and the first address. `nf_nat_ipv4_multi_range_compat` of old versions of
            // iptables is shorter, and has a count before them.
            "DNAT" => {
                let start = if content.len() < 40 { 8 } else { 4 };
                let address = content.get(start..start + usize::from(family.bits() / 8));
                self.translated = address.and_then(|address| net(family, address)).map(|net| net.addr());
            }
            // `struct xt_tcp` and `xt_udp` begin with the range of source ports, `xt_sctp_info` with that of destination ports.
            // Current versions of iptables do not use them.
            "tcp" | "udp" => self.ports.extend(content.get(4..).and_then(one_port)),
            "sctp" => self.ports.extend(one_port(content)),
            // `struct xt_mark_tginfo2` and `xt_mark_mtinfo1`: mark and mask, in host order; the latter may be inverted.
            "MARK" | "mark" => {
                let inverted = name == "mark" && content.get(8) != Some(&0);
                let mask = content.get(4..).and_then(number);
                self.mark = number(content).zip(mask).filter(|_| !inverted);
            }
            _ => {}
        }
        if name.chars().all(|c| c.is_ascii_uppercase()) {
            self.target = Some(name);
        }
    }

    /// Parses a line of `iptables-save` without its `-A`.
    fn parse(line: &str) -> Self {
        let (chain, text) = line.split_once(' ').unwrap_or((line, ""));
        let place = Place::Text(text.to_owned());
        let mut read = Self { chain: chain.to_owned(), place, ..Self::default() };
        let words = words(text);
        for at in 0..words.len() {
            let Some(value) = words.get(at + 1) else { break };
            if at > 0 && words[at - 1] == "!" {
                continue;
            }
            match words[at].as_str() {
                "-j" | "-g" => read.target = Some(value.clone()),
                "--comment" => read.comment = Some(value.clone()),
                "-s" => read.source = parse_net(value),
                "-d" => read.destination = parse_net(value),
                "--mark" | "--set-xmark" => read.mark = parse_mark(value),
                "--to-destination" => read.translated = parse_target(value),
                "-p" => read.protocol = protocol_number(value),
                "--dport" | "--dports" => {
                    read.ports = value.split(',').filter_map(|port| port.parse().ok()).collect();
                }
                _ => {}
            }
        }
        read
    }

    /// Returns the command that deletes it, if it was read through netlink.
    pub(crate) fn deletion(&self, family: Family) -> Option<Command> {
        let Place::Handle(handle) = self.place else { return None };
        let family = TableFamily::from(family);
        Some(Command::DeleteRule(family, NAT.to_owned(), self.chain.clone(), handle))
    }

    /// Returns the line that deletes it, if it was read from text.
    pub(crate) fn deletion_line(&self) -> Option<String> {
        let Place::Text(text) = &self.place else { return None };
        Some(format!("-D {} {text}\n", self.chain))
    }
}

fn address(net: Option<IpNet>) -> Option<IpAddr> {
    net.filter(|net| net.prefix_len() == net.max_prefix_len()).map(|net| net.addr())
}

/// Decodes an address, or the leading bytes of one.
fn net(family: Family, data: &[u8]) -> Option<IpNet> {
    let length = u8::try_from(data.len() * 8).ok()?;
    let mut bytes = data.to_vec();
    bytes.resize(usize::from(family.bits() / 8), 0);
    let address = match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(*bytes.first_chunk::<4>()?)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(*bytes.first_chunk::<16>()?)),
    };
    IpNet::new(address, length).ok()
}

/// Decodes four bytes in host order.
fn number(data: &[u8]) -> Option<u32> {
    data.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// Parses `0x2000/0x2000`, as `iptables-save` writes it.
fn parse_mark(text: &str) -> Option<(u32, u32)> {
    let hex = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let (mark, mask) = text.split_once('/')?;
    hex(mark).zip(hex(mask))
}

fn parse_net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Parses `10.244.1.2:80` or `[fd00::2]:80`, where the port may be missing.
fn parse_target(text: &str) -> Option<IpAddr> {
    text.parse::<SocketAddr>().map(|target| target.ip()).or_else(|_| text.parse()).ok()
}

/// Decodes a range of one port, in host order.
fn one_port(content: &[u8]) -> Option<u16> {
    let &[a, b, c, d, ..] = content else { return None };
    ([a, b] == [c, d]).then_some(u16::from_ne_bytes([a, b]))
}

/// Decodes `struct xt_multiport_v1`: flags, count, 15 ports in host order, 15 marks of ranges, inverted. Empty unless it is a list
/// of destination ports.
fn multiport(content: &[u8]) -> Vec<u16> {
    const DESTINATION: u8 = 1;
    let &[flags, count, ref rest @ ..] = content else { return Vec::new() };
    let (Some(ports), Some(ranges), Some(inverted)) = (rest.get(..30), rest.get(30..45), rest.get(45)) else {
        return Vec::new();
    };
    if flags != DESTINATION || *inverted != 0 || ranges.iter().any(|range| *range != 0) {
        return Vec::new();
    }
    let ports = ports.chunks_exact(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]]));
    ports.take(usize::from(count)).collect()
}

#[cfg(test)]
mod tests;
