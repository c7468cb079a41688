//! Requests to nf_tables: commands of a transaction, and queries.

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST};
use std::fmt;

use super::{Chain, Message, Rule, SUBSYSTEM, Table, TableFamily, kind, message_type};
use crate::message::nfnetlink::Writer;
use crate::message::{Get, Request};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// One change within a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Creates a table; an existing one is not changed.
    AddTable(Table),
    /// Deletes a table with its content.
    DeleteTable(TableFamily, String),
    /// Creates a chain; an existing one must have the same hook.
    AddChain(Chain),
    /// Deletes a chain: family, table, chain.
    DeleteChain(TableFamily, String, String),
    /// Appends a rule to its chain.
    AppendRule(Rule),
    /// Inserts a rule before all others of its chain.
    InsertRule(Rule),
    /// Deletes all rules of a chain: family, table, chain.
    FlushChain(TableFamily, String, String),
    /// Deletes one rule: family, table, chain, handle.
    DeleteRule(TableFamily, String, String, u64),
}

/// The beginning of the equivalent nft command.
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
    /// One table.
    Table(TableFamily, String),
    /// All chains of a family; the kernel cannot filter by table.
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
            Self::Table(family, name) => write!(f, "list table {family} {name}"),
            Self::Chains(family) => write!(f, "list chains {family}"),
            Self::Chain(family, table, chain) => write!(f, "list chain {family} {table} {chain}"),
            Self::Rules(family, table) => write!(f, "list rules of {family} {table}"),
            Self::ChainRules(family, table, chain) => write!(f, "list rules of {family} {table} {chain}"),
            Self::Generation => f.write_str("read the generation"),
        }
    }
}

impl Command {
    /// Encodes a transaction. The message that begins it has the sequence number `first`, and command `i` the number
    /// `first + 1 + i`. Only the last command asks for an ACK: kernels before 6.10 send none for the message that ends
    /// the transaction.
    #[must_use]
    pub(crate) fn batch(commands: &[Self], first: u32) -> Vec<u8> {
        let frame = |kind| Writer::request(kind, NLM_F_REQUEST, 0, SUBSYSTEM, |_| {});
        let ack = |place| if place + 1 == commands.len() { NLM_F_ACK } else { 0 };
        let requests = commands.iter().enumerate().map(|(place, command)| command.request(ack(place)));
        let all = std::iter::once(frame(BATCH_BEGIN)).chain(requests).chain([frame(BATCH_END)]);
        let mut bytes = Vec::new();
        for (sequence, request) in (first..).zip(all) {
            request.write(sequence, &mut bytes);
        }
        bytes
    }

    fn request(&self, flags: u16) -> Request {
        let (kind, flags, family) = match self {
            Self::AddTable(table) => (kind::NEW_TABLE, flags | NLM_F_CREATE, table.family),
            Self::DeleteTable(family, _) => (kind::DELETE_TABLE, flags, *family),
            Self::AddChain(chain) => (kind::NEW_CHAIN, flags | NLM_F_CREATE, chain.family),
            Self::DeleteChain(family, ..) => (kind::DELETE_CHAIN, flags, *family),
            Self::AppendRule(rule) => (kind::NEW_RULE, flags | NLM_F_CREATE | NLM_F_APPEND, rule.family),
            Self::InsertRule(rule) => (kind::NEW_RULE, flags | NLM_F_CREATE, rule.family),
            Self::FlushChain(family, ..) | Self::DeleteRule(family, ..) => {
                (kind::DELETE_RULE, flags, *family)
            }
        };
        Writer::request(message_type(kind), flags | NLM_F_REQUEST, family.0, 0, |w| match self {
            Self::AddTable(table) => table.encode(w),
            Self::AddChain(chain) => chain.encode(w),
            Self::AppendRule(rule) | Self::InsertRule(rule) => rule.encode(w),
            Self::DeleteTable(_, table) => w.text(1, table),
            Self::DeleteChain(_, table, chain) => w.texts(&[(1, table), (3, chain)]),
            Self::FlushChain(_, table, chain) => w.texts(&[(1, table), (2, chain)]),
            Self::DeleteRule(_, table, chain, handle) => {
                w.texts(&[(1, table), (2, chain)]);
                w.bytes(3, &handle.to_be_bytes());
            }
        })
    }
}

impl Query {
    /// Returns the request. If the object does not exist, a dump is empty and other answers are errors.
    #[must_use]
    pub fn get(&self) -> Get<Message> {
        let (kind, dump, family) = match self {
            Self::Table(family, _) => (kind::GET_TABLE, false, *family),
            Self::Chains(family) => (kind::GET_CHAIN, true, *family),
            Self::Chain(family, ..) => (kind::GET_CHAIN, false, *family),
            Self::Rules(family, _) | Self::ChainRules(family, ..) => (kind::GET_RULE, true, *family),
            Self::Generation => (kind::GET_GENERATION, false, TableFamily::ANY),
        };
        let flags = NLM_F_REQUEST | if dump { NLM_F_DUMP } else { 0 };
        let request = Writer::request(message_type(kind), flags, family.0, 0, |w| match self {
            // Attribute 1 is the name of the table in all of them.
            Self::Table(_, table) | Self::Rules(_, table) => w.text(1, table),
            Self::Chain(_, table, chain) => w.texts(&[(1, table), (3, chain)]),
            Self::ChainRules(_, table, chain) => w.texts(&[(1, table), (2, chain)]),
            _ => {}
        });
        Get::encoded(self.to_string().into(), request, dump, |frame| Message::decode(frame).map(Some))
    }
}
