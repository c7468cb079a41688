//! Building blocks of the plugins' tables in nf_tables: commands, expressions and repeated transactions.

use flannel_core::message::nftables::{
    Chain, CmpOp, Command, Expr, Hook, Message, Policy, Query, REGISTER_1, Rule, Table, TableFamily, Verdict,
};

use super::netfilter::{Netfilter, NetfilterError};

/// How often to repeat a transaction because of concurrent changes by other programs.
const ATTEMPTS: u32 = 10;

/// A table that all plugins share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NftTable(pub(crate) TableFamily, pub(crate) &'static str);

impl NftTable {
    /// The command that creates the table.
    pub(crate) fn add(self, comment: Option<&str>) -> Command {
        let comment = comment.map(str::to_owned);
        Command::AddTable(Table { family: self.0, name: self.1.to_owned(), flags: 0, comment })
    }

    /// The command that creates a chain.
    pub(crate) fn add_chain(self, name: &str, hook: Option<Hook>, comment: Option<&str>) -> Command {
        let comment = comment.map(str::to_owned);
        Command::AddChain(Chain {
            family: self.0,
            table: self.1.to_owned(),
            name: name.to_owned(),
            hook,
            comment,
        })
    }

    /// The command that empties a chain.
    pub(crate) fn flush_chain(self, name: &str) -> Command {
        Command::FlushChain(self.0, self.1.to_owned(), name.to_owned())
    }

    /// The command that deletes a chain, which must be empty.
    pub(crate) fn delete_chain(self, name: &str) -> Command {
        Command::DeleteChain(self.0, self.1.to_owned(), name.to_owned())
    }

    /// A rule.
    pub(crate) fn rule(self, chain: &str, expressions: Vec<Expr>, comment: Option<&str>) -> Rule {
        Rule {
            family: self.0,
            table: self.1.to_owned(),
            chain: chain.to_owned(),
            handle: None,
            expressions,
            comment: comment.map(str::to_owned),
        }
    }

    /// The rules of a chain; none if it does not exist.
    pub(crate) fn rules(self, netfilter: &mut Netfilter, chain: &str) -> Result<Vec<Rule>, NetfilterError> {
        let query = Query::ChainRules(self.0, self.1.to_owned(), chain.to_owned());
        let rule = |message| match message {
            // Kernels that cannot filter by chain send the rules of all.
            Message::Rule(rule) if rule.table == self.1 && rule.chain == chain => Some(rule),
            _ => None,
        };
        Ok(netfilter.query(&query)?.into_iter().filter_map(rule).collect())
    }

    /// Whether a chain exists.
    pub(crate) fn has_chain(self, netfilter: &mut Netfilter, chain: &str) -> Result<bool, NetfilterError> {
        Ok(!netfilter.query(&Query::Chain(self.0, self.1.to_owned(), chain.to_owned()))?.is_empty())
    }

    /// The commands that give a chain exactly these rules; none if it has them.
    pub(crate) fn replace(
        self,
        netfilter: &mut Netfilter,
        chain: &str,
        wanted: Vec<Rule>,
    ) -> Result<Vec<Command>, NetfilterError> {
        let present = self.rules(netfilter, chain)?;
        if present.iter().map(|rule| &rule.expressions).eq(wanted.iter().map(|rule| &rule.expressions)) {
            return Ok(Vec::new());
        }
        let mut commands = vec![self.flush_chain(chain)];
        commands.extend(wanted.into_iter().map(Command::AppendRule));
        Ok(commands)
    }

    /// The commands that delete the rules of a chain with certain comments.
    pub(crate) fn delete_rules(
        self,
        netfilter: &mut Netfilter,
        chain: &str,
        is_own: impl Fn(&str) -> bool,
    ) -> Result<Vec<Command>, NetfilterError> {
        let mut rules = self.rules(netfilter, chain)?;
        rules.retain(|rule| rule.comment.as_deref().is_some_and(&is_own));
        Ok(rules.into_iter().filter_map(delete_rule).collect())
    }
}

/// The command that deletes a rule.
pub(crate) fn delete_rule(rule: Rule) -> Option<Command> {
    Some(Command::DeleteRule(rule.family, rule.table, rule.chain, rule.handle?))
}

/// The hook of a base chain whose packets pass unless a rule decides otherwise.
pub(crate) fn hook(kind: &str, number: u32, priority: i32) -> Hook {
    Hook { kind: kind.to_owned(), number, priority, policy: Policy::Accept }
}

/// Compares the first register with a value.
pub(crate) fn equal(data: impl Into<Vec<u8>>) -> Expr {
    Expr::Cmp { op: CmpOp::Equal, register: REGISTER_1, data: data.into() }
}

/// Continues in another chain.
pub(crate) fn jump(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Jump(chain.to_owned()))
}

/// Commits the commands that `plan` returns; calls it again after concurrent changes by other programs.
pub(crate) fn commit<E: From<NetfilterError>>(
    netfilter: &mut Netfilter,
    mut plan: impl FnMut(&mut Netfilter) -> Result<Vec<Command>, E>,
) -> Result<(), E> {
    let mut attempt = 1;
    loop {
        let commands = plan(netfilter)?;
        match netfilter.commit(&commands) {
            Err(error) if error.means_outdated() && attempt < ATTEMPTS => attempt += 1,
            other => return Ok(other?),
        }
    }
}
