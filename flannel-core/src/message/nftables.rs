//! Messages of nf_tables (`NETLINK_NETFILTER`, subsystem 10): tables, chains and rules.
//!
//! Layout: the kernel's include/uapi/linux/netfilter/nf_tables.h; attributes are big-endian and nested ones carry
//! `NLA_F_NESTED`. Decoding ignores unknown attributes, so that a dump of encoded objects decodes to equal values, and
//! keeps unknown expressions as bytes.

use std::fmt;

use super::attribute;
use super::nfnetlink::{self, Writer};
use super::{DecodeError, Frame};
use crate::family::Family;

mod expr;
mod request;

#[cfg(test)]
mod tests;

pub use expr::{
    CT_STATUS, CmpOp, DESTINATION_NAT, Expr, LOCAL_ADDRESS, MASQUERADE_FULLY_RANDOM, META_INPUT_NAME,
    META_L4PROTO, META_MARK, META_NFPROTO, PayloadBase, REGISTER_1, REGISTER_2, Verdict,
};

pub use request::{Command, Query};

/// The multicast group of all changes of tables, chains and rules (`NFNLGRP_NFTABLES`).
pub const MULTICAST_GROUP: u32 = 7;

const SUBSYSTEM: u16 = 10;
const CHAIN: &str = "chain";

/// `NFT_MSG_*`.
mod kind {
    pub(super) const NEW_TABLE: u8 = 0;
    pub(super) const GET_TABLE: u8 = 1;
    pub(super) const DELETE_TABLE: u8 = 2;
    pub(super) const NEW_CHAIN: u8 = 3;
    pub(super) const GET_CHAIN: u8 = 4;
    pub(super) const DELETE_CHAIN: u8 = 5;
    pub(super) const NEW_RULE: u8 = 6;
    pub(super) const GET_RULE: u8 = 7;
    pub(super) const DELETE_RULE: u8 = 8;
    pub(super) const NEW_GENERATION: u8 = 15;
    pub(super) const GET_GENERATION: u8 = 16;
}

const fn message_type(kind: u8) -> u16 {
    SUBSYSTEM << 8 | kind as u16
}

/// The address family of a table (`NFPROTO_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableFamily(pub u8);

impl TableFamily {
    /// Any family, in a dump.
    pub const ANY: Self = Self(0);
    /// `inet`: both.
    pub const INET: Self = Self(1);
    /// `ip`.
    pub const IP: Self = Self(2);
    /// `bridge`.
    pub const BRIDGE: Self = Self(7);
    /// `ip6`.
    pub const IP6: Self = Self(10);
}

impl From<Family> for TableFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::IP,
            Family::V6 => Self::IP6,
        }
    }
}

impl fmt::Display for TableFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::INET => f.write_str("inet"),
            Self::IP => f.write_str("ip"),
            Self::BRIDGE => f.write_str("bridge"),
            Self::IP6 => f.write_str("ip6"),
            Self(number) => write!(f, "family {number}"),
        }
    }
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Family.
    pub family: TableFamily,
    /// Name.
    pub name: String,
    /// `NFT_TABLE_F_*`; 1 disables all rules of the table (dormant).
    pub flags: u32,
    /// Comment in the format of nft. Kernels before 5.10 do not store it.
    pub comment: Option<String>,
}

/// A chain: a base chain with a hook, or one that rules jump to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Family of the table.
    pub family: TableFamily,
    /// Table.
    pub table: String,
    /// Name.
    pub name: String,
    /// The hook of a base chain.
    pub hook: Option<Hook>,
    /// Comment in the format of nft. Kernels before 5.10 do not store it.
    pub comment: Option<String>,
}

/// The place where packets enter a base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// `NF_INET_*`: see the constants.
    pub number: u32,
    /// Order among the chains of the hook: lower comes first.
    pub priority: i32,
    /// Verdict on packets that no rule matches.
    pub policy: Policy,
}

impl Hook {
    /// `NF_INET_PRE_ROUTING`.
    pub const PREROUTING: u32 = 0;
    /// `NF_INET_LOCAL_IN`.
    pub const INPUT: u32 = 1;
    /// `NF_INET_FORWARD`.
    pub const FORWARD: u32 = 2;
    /// `NF_INET_LOCAL_OUT`.
    pub const OUTPUT: u32 = 3;
    /// `NF_INET_POST_ROUTING`.
    pub const POSTROUTING: u32 = 4;

    /// Priority `filter`.
    pub const PRIORITY_FILTER: i32 = 0;
    /// Priority `dstnat`.
    pub const PRIORITY_DESTINATION_NAT: i32 = -100;
    /// Priority `srcnat`.
    pub const PRIORITY_SOURCE_NAT: i32 = 100;
}

/// The policy of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Undecided packets pass.
    Accept,
    /// Undecided packets are dropped.
    Drop,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Family of the table.
    pub family: TableFamily,
    /// Table.
    pub table: String,
    /// Chain.
    pub chain: String,
    /// The kernel's number of the rule within its table; `None` in a new rule.
    pub handle: Option<u64>,
    /// Conditions and actions, in order.
    pub expressions: Vec<Expr>,
    /// Comment in the format of nft.
    pub comment: Option<String>,
}

/// A message from the kernel, as an answer or a notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A table that exists or was created.
    Table(Table),
    /// A table that was deleted.
    TableGone(Table),
    /// A chain that exists or was created.
    Chain(Chain),
    /// A chain that was deleted.
    ChainGone(Chain),
    /// A rule that exists or was created.
    Rule(Rule),
    /// A rule that was deleted.
    RuleGone(Rule),
    /// The generation number; its notification ends those of a transaction.
    Generation(u32),
    /// Another message (sets, objects, trace), by its type.
    Other(u16),
}

impl Message {
    /// Decodes one message.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn decode(frame: &Frame<'_>) -> Result<Self, DecodeError> {
        let (family, attributes) = nfnetlink::split(frame)?;
        let [kind, subsystem] = frame.kind.to_le_bytes();
        if u16::from(subsystem) != SUBSYSTEM {
            return Ok(Self::Other(frame.kind));
        }
        let family = TableFamily(family);
        Ok(match kind {
            kind::NEW_TABLE => Self::Table(Table::decode(family, attributes)?),
            kind::DELETE_TABLE => Self::TableGone(Table::decode(family, attributes)?),
            kind::NEW_CHAIN => Self::Chain(Chain::decode(family, attributes)?),
            kind::DELETE_CHAIN => Self::ChainGone(Chain::decode(family, attributes)?),
            kind::NEW_RULE => Self::Rule(Rule::decode(family, attributes)?),
            kind::DELETE_RULE => Self::RuleGone(Rule::decode(family, attributes)?),
            kind::NEW_GENERATION => {
                Self::Generation(attribute::required("generation", attributes, 1)?.be32()?)
            }
            _ => Self::Other(frame.kind),
        })
    }
}

impl Table {
    fn encode(&self, writer: &mut Writer) {
        writer.text(1, &self.name);
        writer.be32(2, self.flags);
        writer.comment(6, self.comment.as_deref());
    }

    fn decode(family: TableFamily, attributes: &[u8]) -> Result<Self, DecodeError> {
        let mut table = Self { family, name: String::new(), flags: 0, comment: None };
        for attribute in attribute::of("table", attributes, 0)? {
            match attribute.kind {
                1 => table.name = attribute.text(),
                2 => table.flags = attribute.be32()?,
                6 => table.comment = nfnetlink::comment(attribute.value),
                _ => {}
            }
        }
        Ok(table)
    }
}

impl Chain {
    fn encode(&self, writer: &mut Writer) {
        writer.texts(&[(1, &self.table), (3, &self.name)]);
        if let Some(hook) = &self.hook {
            writer.nested(4, |w| {
                w.be32(1, hook.number);
                w.bytes(2, &hook.priority.to_be_bytes());
            });
            writer.be32(5, u32::from(hook.policy == Policy::Accept));
            writer.text(7, &hook.kind);
        }
        writer.comment(12, self.comment.as_deref());
    }

    fn decode(family: TableFamily, attributes: &[u8]) -> Result<Self, DecodeError> {
        let (mut table, mut name, mut comment) = (String::new(), String::new(), None);
        let (mut place, mut kind, mut policy) = (None, String::new(), Policy::Accept);
        for attribute in attribute::of(CHAIN, attributes, 0)? {
            match attribute.kind {
                1 => table = attribute.text(),
                3 => name = attribute.text(),
                4 => {
                    let number = attribute::required(CHAIN, attribute.value, 1)?.be32()?;
                    let priority = attribute::required(CHAIN, attribute.value, 2)?.be32()?;
                    place = Some((number, priority.cast_signed()));
                }
                5 => policy = if attribute.be32()? == 0 { Policy::Drop } else { Policy::Accept },
                7 => kind = attribute.text(),
                12 => comment = nfnetlink::comment(attribute.value),
                _ => {}
            }
        }
        let hook = place.map(|(number, priority)| Hook { kind, number, priority, policy });
        Ok(Self { family, table, name, hook, comment })
    }
}

impl Rule {
    fn encode(&self, writer: &mut Writer) {
        writer.texts(&[(1, &self.table), (2, &self.chain)]);
        if let Some(handle) = self.handle {
            writer.bytes(3, &handle.to_be_bytes());
        }
        writer.nested(4, |w| {
            for expression in &self.expressions {
                w.nested(1, |w| expression.encode(w));
            }
        });
        writer.comment(7, self.comment.as_deref());
    }

    fn decode(family: TableFamily, attributes: &[u8]) -> Result<Self, DecodeError> {
        let mut rule = Self {
            family,
            table: String::new(),
            chain: String::new(),
            handle: None,
            expressions: Vec::new(),
            comment: None,
        };
        for attribute in attribute::of("rule", attributes, 0)? {
            match attribute.kind {
                1 => rule.table = attribute.text(),
                2 => rule.chain = attribute.text(),
                3 => rule.handle = Some(attribute.be64()?),
                4 => {
                    let elements = attribute::attributes(attribute.value);
                    rule.expressions =
                        elements.map(|(_, element)| Expr::decode(element)).collect::<Result<_, _>>()?;
                }
                7 => rule.comment = nfnetlink::comment(attribute.value),
                _ => {}
            }
        }
        Ok(rule)
    }
}
