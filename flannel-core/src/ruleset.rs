//! Firewall rules as values: masquerading and forwarding of pod traffic.
//!
//! A [`Ruleset`] is the whole content of the chains that are ours. [`nft`] and [`iptables`] turn it into
//! what the kernel or the tools take, and tell whether what was read back is the same.

use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::family::{DualStack, Family};
use crate::lease::Subnets;
use crate::message::nftables::{Message, TableFamily};

pub mod bridge;
pub mod iptables;
pub mod nft;

#[cfg(test)]
mod tests;

/// The bit by which kube-proxy marks packets that it will masquerade itself (its
/// `--iptables-masquerade-bit`, 14 by default). Other bits of the mark belong to others.
pub const MASQUERADE_MARK: u32 = 0x4000;

/// By which part of the kernel the rules are enforced: `EnableNFTables` of the network config.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Our own tables, by netlink.
    Nftables,
    /// Our chains in the tables of iptables, by its tools.
    Iptables,
}

impl Mode {
    /// The mode not in use, whose leftovers are removed.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Nftables => Self::Iptables,
            Self::Iptables => Self::Nftables,
        }
    }

    /// Where our rules are, for people.
    #[must_use]
    pub const fn place(self) -> &'static str {
        match self {
            Self::Nftables => "tables flannel-ipv4 and flannel-ipv6 of nftables",
            Self::Iptables => "chains FLANNEL-POSTRTG and FLANNEL-FWD of iptables",
        }
    }

    /// Whether a notification of nf_tables may be about our rules, or about something that only the other mode has of
    /// ours. (iptables works on nf_tables as well, except for its legacy variant; its rules show as compatibility
    /// expressions.)
    #[must_use]
    pub fn concerns(self, message: &Message) -> bool {
        let (family, table, chain) = match message {
            Message::Table(table) | Message::TableGone(table) => (table.family, &table.name, None),
            Message::Chain(chain) | Message::ChainGone(chain) => {
                (chain.family, &chain.table, Some(&chain.name))
            }
            Message::Rule(rule) | Message::RuleGone(rule) => (rule.family, &rule.table, Some(&rule.chain)),
            Message::Generation(_) | Message::Other(_) => return false,
        };
        match self {
            Self::Nftables => nft::concerns(family, table) || iptables::leftover::appears(message),
            Self::Iptables => {
                matches!(family, TableFamily::IP | TableFamily::IP6) && iptables::concerns(table, chain)
                    || matches!(message, Message::Table(_)) && nft::concerns(family, table)
            }
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        })
    }
}

/// What the rules follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// `Network` and `IPv6Network` of the network config.
    pub cluster: DualStack<IpNet>,
    /// The subnet of this node; host bits are ignored.
    pub subnet: Subnets,
    /// `--ip-masq`.
    pub ip_masq: bool,
    /// Not `--ip-masq-fully-random-disable`.
    pub fully_random: bool,
    /// `--iptables-forward-rules`, which holds for both modes.
    pub forward_rules: bool,
}

/// The content of our chains, in the order of [`Family::ALL`]. The default has no chains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset([FamilyRuleset; 2]);

/// The rules of one family, by chain. A chain without rules is not wanted, and absent here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyRuleset(BTreeMap<ChainKind, Vec<Rule>>);

/// One of our two chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChainKind {
    /// Source address translation, after routing.
    Masquerade,
    /// Acceptance of forwarded pod traffic.
    Forward,
}

impl ChainKind {
    /// Both chains, in the order in which they are written.
    pub const ALL: [Self; 2] = [Self::Masquerade, Self::Forward];
}

/// One rule: all conditions hold, then the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `mark & value == value`.
    pub mark: Option<u32>,
    /// Condition on the source address.
    pub source: Option<AddressMatch>,
    /// Condition on the destination address.
    pub destination: Option<AddressMatch>,
    /// What happens to the packet.
    pub verdict: Verdict,
}

/// A condition on an address. The prefix has no host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressMatch {
    /// The condition holds outside the prefix.
    pub negated: bool,
    /// The prefix.
    pub net: IpNet,
}

/// What a rule does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Leaves our chain; rules of others go on.
    Return,
    /// Accepts.
    Accept,
    /// Gives it the address of the outgoing interface as source.
    Masquerade {
        /// Source ports are chosen at random: fewer collisions when many flows start at once.
        fully_random: bool,
    },
}

impl Ruleset {
    /// The rules for `inputs`.
    #[must_use]
    pub fn new(inputs: &Inputs) -> Self {
        Self(Family::ALL.map(|family| FamilyRuleset::new(inputs, family)))
    }

    /// The rules of `family`.
    #[must_use]
    pub const fn family(&self, family: Family) -> &FamilyRuleset {
        &self.0[family as usize]
    }

    /// The same rules with plain masquerading in `family`, for kernels and tools that know no other.
    #[must_use]
    pub fn without_fully_random(mut self, family: Family) -> Self {
        for rule in self.0[family as usize].0.values_mut().flatten() {
            if let Verdict::Masquerade { fully_random } = &mut rule.verdict {
                *fully_random = false;
            }
        }
        self
    }
}

/// The rules as `nft list table` would show them.
impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&nft::listing(self))
    }
}

impl FamilyRuleset {
    fn new(inputs: &Inputs, family: Family) -> Self {
        let Some(cluster) = inputs.cluster.get(family) else { return Self::default() };
        let cluster = cluster.trunc();
        let mut chains = BTreeMap::new();
        if let Some(pods) = inputs.subnet.get(family)
            && inputs.ip_masq
        {
            let rules = masquerade_rules(cluster, pods.trunc(), inputs.fully_random);
            chains.insert(ChainKind::Masquerade, rules);
        }
        if inputs.forward_rules {
            let rules = [
                Rule::new(Condition::In(cluster), Condition::Any, Verdict::Accept),
                Rule::new(Condition::Any, Condition::In(cluster), Verdict::Accept),
            ];
            chains.insert(ChainKind::Forward, rules.into_iter().flatten().collect());
        }
        Self(chains)
    }

    /// Returns the rules of each chain.
    pub fn chains(&self) -> impl Iterator<Item = (ChainKind, &[Rule])> {
        self.0.iter().map(|(kind, rules)| (*kind, rules.as_slice()))
    }

    /// Whether no chain is wanted in this family.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a rule requests random source ports.
    #[must_use]
    pub fn is_fully_random(&self) -> bool {
        let random = Verdict::Masquerade { fully_random: true };
        self.0.values().flatten().any(|rule| rule.verdict == random)
    }
}

/// The six rules, from the first that holds:
/// 1. what kube-proxy marked is left to its own masquerading;
/// 2. and 3. nothing is translated between a pod of this node and the overlay;
/// 4. what comes from outside to a pod of this node keeps its source;
/// 5. pods that talk to the outside get the address of the node, except for multicast;
/// 6. what enters the overlay here from outside gets the address of the node, so that answers come back
///    through it.
fn masquerade_rules(cluster: IpNet, pods: IpNet, fully_random: bool) -> Vec<Rule> {
    use Condition::{Any, In, NotIn};
    let masquerade = Verdict::Masquerade { fully_random };
    let marked =
        Rule::new(Any, Any, Verdict::Return).map(|rule| Rule { mark: Some(MASQUERADE_MARK), ..rule });
    [
        marked,
        Rule::new(In(pods), In(cluster), Verdict::Return),
        Rule::new(In(cluster), In(pods), Verdict::Return),
        Rule::new(NotIn(cluster), In(pods), Verdict::Return),
        Rule::new(In(cluster), NotIn(multicast(Family::of_net(cluster))), masquerade),
        Rule::new(NotIn(cluster), In(cluster), masquerade),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn multicast(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::new_assert(Ipv4Addr::new(224, 0, 0, 0).into(), 4),
        Family::V6 => IpNet::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
    }
}

#[derive(Clone, Copy)]
enum Condition {
    Any,
    In(IpNet),
    NotIn(IpNet),
}

impl Condition {
    /// The condition without what is always true; `None` if it can never hold. A prefix of length 0 needs
    /// this: iptables with nftables below refuses `! -s 0.0.0.0/0`, and no tool shows `-s 0.0.0.0/0`.
    fn simplify(self) -> Option<Option<AddressMatch>> {
        match self {
            Self::Any => Some(None),
            Self::In(net) if net.prefix_len() == 0 => Some(None),
            Self::NotIn(net) if net.prefix_len() == 0 => None,
            Self::In(net) => Some(Some(AddressMatch { negated: false, net })),
            Self::NotIn(net) => Some(Some(AddressMatch { negated: true, net })),
        }
    }
}

impl Rule {
    /// A rule without a condition on the mark; `None` if it can never hold.
    fn new(source: Condition, destination: Condition, verdict: Verdict) -> Option<Self> {
        let (source, destination) = (source.simplify()?, destination.simplify()?);
        Some(Self { mark: None, source, destination, verdict })
    }
}
