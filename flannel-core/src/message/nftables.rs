//! Messages of nf_tables (`NETLINK_NETFILTER`, subsystem 10): tables, chains and rules to bytes and back.
//!
//! The layout is that of the kernel's include/uapi/linux/netfilter/nf_tables.h: attributes are big-endian
//! and nested ones carry `NLA_F_NESTED`. Decoding ignores attributes that it does not know, so a dump of what
//! was sent gives equal values; an expression that it does not know is kept as bytes.

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST};
use std::fmt;

use super::Frame;
use crate::family::Family;

mod expr;

#[cfg(test)]
mod tests;

pub use super::nfnetlink::DecodeError;
pub use expr::{
    CT_STATUS, CmpOp, DESTINATION_NAT, Expr, LOCAL_ADDRESS, MASQUERADE_FULLY_RANDOM, META_INPUT_NAME,
    META_L4PROTO, META_MARK, META_NFPROTO, PayloadBase, REGISTER_1, REGISTER_2, Verdict,
};

use super::nfnetlink::{self as wire, Attributes, Writer, text};

/// The multicast group of all changes of tables, chains and rules (`NFNLGRP_NFTABLES`).
pub const MULTICAST_GROUP: u32 = 7;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

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
    /// `NFT_TABLE_F_*`; 1 makes the table dormant: its rules do nothing.
    pub flags: u32,
    /// Comment, as nft stores and shows it. Kernels before 5.10 lose it.
    pub comment: Option<String>,
}

/// A chain. Without a hook it is one that rules jump to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Family of the table.
    pub family: TableFamily,
    /// Table.
    pub table: String,
    /// Name.
    pub name: String,
    /// Where packets enter, for a base chain.
    pub hook: Option<Hook>,
    /// Comment, as nft stores and shows it. Kernels before 5.10 lose it.
    pub comment: Option<String>,
}

/// Where a base chain is called from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// `NF_INET_*`: see the constants.
    pub number: u32,
    /// Order among the chains of the hook: lower comes first.
    pub priority: i32,
    /// What happens to packets that no rule decided on.
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
    /// The kernel's number of the rule within its table; `None` in a rule to be made.
    pub handle: Option<u64>,
    /// Conditions and actions, in order.
    pub expressions: Vec<Expr>,
    /// Comment, as nft stores and shows it.
    pub comment: Option<String>,
}

/// One change within a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Creates a table; one that exists is left as it is.
    AddTable(Table),
    /// Deletes a table with all that is in it.
    DeleteTable(TableFamily, String),
    /// Creates a chain; one that exists must have the same hook.
    AddChain(Chain),
    /// Deletes a chain: family, table, chain.
    DeleteChain(TableFamily, String, String),
    /// Appends a rule to its chain.
    AppendRule(Rule),
    /// Puts a rule before all others of its chain.
    InsertRule(Rule),
    /// Deletes all rules of a chain: family, table, chain.
    FlushChain(TableFamily, String, String),
    /// Deletes one rule: family, table, chain, handle.
    DeleteRule(TableFamily, String, String, u64),
}

/// As the command of nft would begin.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddTable(Table { family, name, .. }) => write!(f, "add table {family} {name}"),
            Self::DeleteTable(family, name) => write!(f, "delete table {family} {name}"),
            Self::AddChain(Chain { family, table, name, .. }) => {
                write!(f, "add chain {family} {table} {name}")
            }
            Self::DeleteChain(family, table, chain) => write!(f, "delete chain {family} {table} {chain}"),
            Self::AppendRule(Rule { family, table, chain, .. }) => {
                write!(f, "add rule {family} {table} {chain}")
            }
            Self::InsertRule(Rule { family, table, chain, .. }) => {
                write!(f, "insert rule {family} {table} {chain}")
            }
            Self::FlushChain(family, table, chain) => write!(f, "flush chain {family} {table} {chain}"),
            Self::DeleteRule(family, table, chain, handle) => {
                write!(f, "delete rule {family} {table} {chain} handle {handle}")
            }
        }
    }
}

/// A request for information. All but [`Query::Table`], [`Query::Chain`] and [`Query::Generation`] are answered
/// by a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// All tables.
    Tables(TableFamily),
    /// One table.
    Table(TableFamily, String),
    /// All chains of a family; the kernel has no filter by table.
    Chains(TableFamily),
    /// One chain: family, table, chain.
    Chain(TableFamily, String, String),
    /// The rules of a table.
    Rules(TableFamily, String),
    /// The rules of a chain: family, table, chain.
    ChainRules(TableFamily, String, String),
    /// The number of the current generation, which grows by one with every transaction.
    Generation,
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tables(family) => write!(f, "list tables {family}"),
            Self::Table(family, name) => write!(f, "list table {family} {name}"),
            Self::Chains(family) => write!(f, "list chains {family}"),
            Self::Chain(family, table, chain) => write!(f, "list chain {family} {table} {chain}"),
            Self::Rules(family, table) => write!(f, "list rules of {family} {table}"),
            Self::ChainRules(family, table, chain) => write!(f, "list rules of {family} {table} {chain}"),
            Self::Generation => f.write_str("read the generation"),
        }
    }
}

/// What the kernel tells, as an answer or a notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A table that exists or was made.
    Table(Table),
    /// A table that was deleted.
    TableGone(Table),
    /// A chain that exists or was made.
    Chain(Chain),
    /// A chain that was deleted.
    ChainGone(Chain),
    /// A rule that exists or was made.
    Rule(Rule),
    /// A rule that was deleted.
    RuleGone(Rule),
    /// The generation; as a notification it ends those of one transaction.
    Generation(u32),
    /// Something else (sets, objects, trace), by its type.
    Other(u16),
}

impl Message {
    /// Reads one message of the kernel.
    pub fn decode(frame: &Frame<'_>) -> Result<Self, DecodeError> {
        let &[family, _version, _, _, ref attributes @ ..] = frame.payload else {
            return Err(DecodeError::Truncated("nfgenmsg"));
        };
        let [kind, subsystem] = frame.kind.to_le_bytes();
        if u16::from(subsystem) != SUBSYSTEM {
            return Ok(Self::Other(frame.kind));
        }
        let (family, attributes) = (TableFamily(family), Attributes(attributes));
        Ok(match kind {
            kind::NEW_TABLE => Self::Table(Table::decode(family, attributes)?),
            kind::DELETE_TABLE => Self::TableGone(Table::decode(family, attributes)?),
            kind::NEW_CHAIN => Self::Chain(Chain::decode(family, attributes)?),
            kind::DELETE_CHAIN => Self::ChainGone(Chain::decode(family, attributes)?),
            kind::NEW_RULE => Self::Rule(Rule::decode(family, attributes)?),
            kind::DELETE_RULE => Self::RuleGone(Rule::decode(family, attributes)?),
            kind::NEW_GENERATION => Self::Generation(attributes.required("NFTA_GEN_ID", 1)?.be32()?),
            _ => Self::Other(frame.kind),
        })
    }
}

/// A transaction: what the kernel does in full or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The messages, for one `send`.
    pub bytes: Vec<u8>,
    /// Sequence number of the message that begins the batch: errors of the whole bear it.
    pub begin: u32,
    /// Sequence number of the last command: the only one that is acknowledged. (Only kernels from
    /// 6.10 on acknowledge the message that ends the batch.)
    pub last: u32,
}

impl Batch {
    /// Puts commands between begin and end. Command `i` has the sequence number `begin + 1 + i`.
    ///
    /// With `commit` false the end is left out: the kernel checks all commands, then drops them.
    #[must_use]
    pub fn new(commands: &[Command], begin: u32, commit: bool) -> Self {
        let mut writer = Writer::default();
        writer.message(BATCH_BEGIN, NLM_F_REQUEST, begin, 0, SUBSYSTEM, |_| {});
        let mut sequence = begin;
        for (at, command) in commands.iter().enumerate() {
            sequence = sequence.wrapping_add(1);
            let ack = if at + 1 == commands.len() { NLM_F_ACK } else { 0 };
            command.encode(&mut writer, sequence, ack);
        }
        if commit {
            writer.message(BATCH_END, NLM_F_REQUEST, sequence.wrapping_add(1), 0, SUBSYSTEM, |_| {});
        }
        Self { bytes: writer.0, begin, last: sequence }
    }
}

const fn message_type(kind: u8) -> u16 {
    SUBSYSTEM << 8 | kind as u16
}

impl Command {
    fn encode(&self, writer: &mut Writer, sequence: u32, flags: u16) {
        let flags = flags | NLM_F_REQUEST;
        let mut put = |kind, flags, family: TableFamily, attributes: &dyn Fn(&mut Writer)| {
            writer.message(message_type(kind), flags, sequence, family.0, 0, attributes);
        };
        match self {
            Self::AddTable(table) => {
                put(kind::NEW_TABLE, flags | NLM_F_CREATE, table.family, &|w| table.encode(w));
            }
            Self::DeleteTable(family, name) => put(kind::DELETE_TABLE, flags, *family, &|w| w.text(1, name)),
            Self::AddChain(chain) => {
                put(kind::NEW_CHAIN, flags | NLM_F_CREATE, chain.family, &|w| chain.encode(w));
            }
            Self::DeleteChain(family, table, chain) => put(kind::DELETE_CHAIN, flags, *family, &|w| {
                w.text(1, table);
                w.text(3, chain);
            }),
            Self::AppendRule(rule) => {
                put(kind::NEW_RULE, flags | NLM_F_CREATE | NLM_F_APPEND, rule.family, &|w| rule.encode(w));
            }
            Self::InsertRule(rule) => {
                put(kind::NEW_RULE, flags | NLM_F_CREATE, rule.family, &|w| rule.encode(w))
            }
            Self::FlushChain(family, table, chain) => put(kind::DELETE_RULE, flags, *family, &|w| {
                w.text(1, table);
                w.text(2, chain);
            }),
            Self::DeleteRule(family, table, chain, handle) => put(kind::DELETE_RULE, flags, *family, &|w| {
                w.text(1, table);
                w.text(2, chain);
                w.bytes(3, &handle.to_be_bytes());
            }),
        }
    }
}

impl Query {
    /// The request.
    #[must_use]
    pub fn encode(&self, sequence: u32) -> Vec<u8> {
        let mut writer = Writer::default();
        let (kind, flags, family) = match self {
            Self::Tables(family) => (kind::GET_TABLE, NLM_F_DUMP, *family),
            Self::Table(family, _) => (kind::GET_TABLE, 0, *family),
            Self::Chains(family) => (kind::GET_CHAIN, NLM_F_DUMP, *family),
            Self::Chain(family, ..) => (kind::GET_CHAIN, 0, *family),
            Self::Rules(family, _) | Self::ChainRules(family, ..) => (kind::GET_RULE, NLM_F_DUMP, *family),
            Self::Generation => (kind::GET_GENERATION, 0, TableFamily::ANY),
        };
        writer.message(message_type(kind), flags | NLM_F_REQUEST, sequence, family.0, 0, |w| match self {
            // The attribute of the table's name is 1 in all of them.
            Self::Table(_, table) | Self::Rules(_, table) => w.text(1, table),
            Self::Chain(_, table, chain) => {
                w.text(1, table);
                w.text(3, chain);
            }
            Self::ChainRules(_, table, chain) => {
                w.text(1, table);
                w.text(2, chain);
            }
            _ => {}
        });
        writer.0
    }

    /// The answer is a series of messages up to [`super::Reply::Done`].
    #[must_use]
    pub const fn is_dump(&self) -> bool {
        matches!(self, Self::Tables(_) | Self::Chains(_) | Self::Rules(..) | Self::ChainRules(..))
    }
}

impl Table {
    fn encode(&self, writer: &mut Writer) {
        writer.text(1, &self.name);
        writer.be32(2, self.flags);
        writer.comment(6, self.comment.as_deref());
    }

    fn decode(family: TableFamily, attributes: Attributes<'_>) -> Result<Self, DecodeError> {
        let mut table = Self { family, name: String::new(), flags: 0, comment: None };
        for attribute in attributes {
            let attribute = attribute?;
            match attribute.kind {
                1 => table.name = text(attribute.value),
                2 => table.flags = attribute.be32()?,
                6 => table.comment = wire::comment(attribute.value),
                _ => {}
            }
        }
        Ok(table)
    }
}

impl Chain {
    fn encode(&self, writer: &mut Writer) {
        writer.text(1, &self.table);
        writer.text(3, &self.name);
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

    fn decode(family: TableFamily, attributes: Attributes<'_>) -> Result<Self, DecodeError> {
        let (mut table, mut name, mut comment) = (String::new(), String::new(), None);
        let (mut place, mut kind, mut policy) = (None, String::new(), Policy::Accept);
        for attribute in attributes {
            let attribute = attribute?;
            match attribute.kind {
                1 => table = text(attribute.value),
                3 => name = text(attribute.value),
                4 => {
                    let hook = Attributes(attribute.value);
                    let number = hook.required("NFTA_HOOK_HOOKNUM", 1)?.be32()?;
                    let priority = hook.required("NFTA_HOOK_PRIORITY", 2)?.be32()?;
                    place = Some((number, priority.cast_signed()));
                }
                5 => policy = if attribute.be32()? == 0 { Policy::Drop } else { Policy::Accept },
                7 => kind = text(attribute.value),
                12 => comment = wire::comment(attribute.value),
                _ => {}
            }
        }
        let hook = place.map(|(number, priority)| Hook { kind, number, priority, policy });
        Ok(Self { family, table, name, hook, comment })
    }
}

impl Rule {
    fn encode(&self, writer: &mut Writer) {
        writer.text(1, &self.table);
        writer.text(2, &self.chain);
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

    fn decode(family: TableFamily, attributes: Attributes<'_>) -> Result<Self, DecodeError> {
        let mut rule = Self {
            family,
            table: String::new(),
            chain: String::new(),
            handle: None,
            expressions: Vec::new(),
            comment: None,
        };
        for attribute in attributes {
            let attribute = attribute?;
            match attribute.kind {
                1 => rule.table = text(attribute.value),
                2 => rule.chain = text(attribute.value),
                3 => rule.handle = Some(attribute.be64()?),
                4 => {
                    rule.expressions = Attributes(attribute.value)
                        .map(|element| Expr::decode(Attributes(element?.value)))
                        .collect::<Result<_, _>>()?;
                }
                7 => rule.comment = wire::comment(attribute.value),
                _ => {}
            }
        }
        Ok(rule)
    }
}
