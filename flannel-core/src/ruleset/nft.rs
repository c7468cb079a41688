//! The rules as nftables has them: tables `ip flannel-ipv4` and `ip6 flannel-ipv6`, wholly ours.
//!
//! Compatibility: names, types, hooks, priorities and comments are those of Go's flanneld. The rules have
//! the meaning of its iptables rules: there the mark is tested by its bit, and the fourth rule names
//! packets from outside to pods of this node, so that the last rule can be reached.

use super::{AddressMatch, ChainKind, FamilyRuleset, Rule, Ruleset, Verdict};
use crate::family::Family;
use crate::message::nftables::{
    self as message, Chain, CmpOp, Command, Expr, Hook, MASQUERADE_FULLY_RANDOM, META_MARK, PayloadBase,
    Policy, REGISTER_1, Table, TableFamily,
};

/// The name of our table in `family`.
#[must_use]
pub const fn table_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "flannel-ipv4",
        Family::V6 => "flannel-ipv6",
    }
}

/// The table is ours.
#[must_use]
pub fn concerns(family: TableFamily, table: &str) -> bool {
    Family::ALL.iter().any(|ours| family == (*ours).into() && table == table_name(*ours))
}

fn table(family: Family) -> Table {
    let name = table_name(family).to_owned();
    let comment = Some(format!("rules for {name}"));
    Table { family: family.into(), name, flags: 0, comment }
}

fn chain(family: Family, kind: ChainKind) -> Chain {
    let (name, comment, hook) = match kind {
        ChainKind::Masquerade => (
            "postrtg",
            "chain to manage traffic masquerading by flannel",
            ("nat", Hook::POSTROUTING, Hook::PRIORITY_SOURCE_NAT),
        ),
        ChainKind::Forward => {
            ("forward", "chain to accept flannel traffic", ("filter", Hook::FORWARD, Hook::PRIORITY_FILTER))
        }
    };
    let (kind, number, priority) = hook;
    // Never `drop`: it would cut the node off.
    let hook = Hook { kind: kind.to_owned(), number, priority, policy: Policy::Accept };
    Chain {
        family: family.into(),
        table: table_name(family).to_owned(),
        name: name.to_owned(),
        hook: Some(hook),
        comment: Some(comment.to_owned()),
    }
}

/// What our table of one family holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The table.
    pub table: Table,
    /// Its chains in any order.
    pub chains: Vec<Chain>,
    /// Its rules, in order within each chain.
    pub rules: Vec<message::Rule>,
}

impl Content {
    /// What the table must hold; `None` if there must be none.
    #[must_use]
    pub fn new(family: Family, rules: &FamilyRuleset) -> Option<Self> {
        if rules.is_empty() {
            return None;
        }
        let mut content = Self { table: table(family), chains: Vec::new(), rules: Vec::new() };
        for (kind, rules) in rules.chains() {
            let chain = chain(family, kind);
            content.rules.extend(rules.iter().map(|rule| message::Rule {
                family: family.into(),
                table: chain.table.clone(),
                chain: chain.name.clone(),
                handle: None,
                expressions: expressions(family, rule),
                comment: None,
            }));
            content.chains.push(chain);
        }
        Some(content)
    }

    /// Whether `observed` does the same. Comments do nothing, and old kernels lose them.
    #[must_use]
    pub fn is_in_force(&self, observed: &Self) -> bool {
        let rules = |content: &'_ Self, chain: &Chain| -> Vec<Vec<Expr>> {
            let of_chain = content.rules.iter().filter(|rule| rule.chain == chain.name);
            of_chain.map(|rule| rule.expressions.clone()).collect()
        };
        self.table.flags == observed.table.flags
            && self.chains.len() == observed.chains.len()
            && self.chains.iter().all(|chain| {
                observed.chains.iter().any(|other| other.name == chain.name && other.hook == chain.hook)
                    && rules(self, chain) == rules(observed, chain)
            })
    }
}

/// The transaction that makes our tables of `families` hold their part of `ruleset` and nothing else. The old
/// tables serve until the kernel switches to the new ones.
#[must_use]
pub fn replacement(ruleset: &Ruleset, families: &[Family]) -> Vec<Command> {
    let mut commands = Vec::new();
    for family in families.iter().copied() {
        let name = table_name(family).to_owned();
        // Deleting what does not exist fails, so it is made first. (A command for "delete if there" came with
        // Linux 6.3.)
        commands.push(Command::AddTable(table(family)));
        commands.push(Command::DeleteTable(family.into(), name));
        if let Some(content) = Content::new(family, ruleset.family(family)) {
            commands.push(Command::AddTable(content.table));
            commands.extend(content.chains.into_iter().map(Command::AddChain));
            commands.extend(content.rules.into_iter().map(Command::AppendRule));
        }
    }
    commands
}

fn expressions(family: Family, rule: &Rule) -> Vec<Expr> {
    let mut expressions = Vec::new();
    if let Some(mark) = rule.mark {
        let mark = mark.to_ne_bytes().to_vec();
        expressions.extend([
            Expr::Meta { key: META_MARK, register: REGISTER_1 },
            Expr::Bitwise {
                source: REGISTER_1,
                destination: REGISTER_1,
                mask: mark.clone(),
                xor: vec![0; 4],
            },
            Expr::Cmp { op: CmpOp::Equal, register: REGISTER_1, data: mark },
        ]);
    }
    let (source, destination) = address_offsets(family);
    for (offset, condition) in [(source, rule.source), (destination, rule.destination)] {
        if let Some(condition) = condition {
            expressions.extend(address_expressions(offset, condition));
        }
    }
    expressions.push(match rule.verdict {
        Verdict::Return => Expr::Verdict(message::Verdict::Return),
        Verdict::Accept => Expr::Verdict(message::Verdict::Accept),
        Verdict::Masquerade { fully_random } => {
            Expr::Masquerade { flags: if fully_random { MASQUERADE_FULLY_RANDOM } else { 0 } }
        }
    });
    expressions
}

/// Where the source and the destination are in the headers of RFC 791 and RFC 8200.
#[must_use]
pub const fn address_offsets(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (12, 16),
        Family::V6 => (8, 24),
    }
}

/// The comparison of an address that lies at `offset` of the header. As nft does it: a prefix of whole bytes is compared
/// as these bytes, others behind a mask.
///
/// # Panics
/// Never: an address has at most 16 bytes.
#[must_use]
pub fn address_expressions(offset: u32, condition: AddressMatch) -> Vec<Expr> {
    let octets = |address: std::net::IpAddr| match address {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (mut data, mask) = (octets(condition.net.network()), octets(condition.net.netmask()));
    let prefix = usize::from(condition.net.prefix_len());
    let whole_bytes = prefix > 0 && prefix.is_multiple_of(8);
    if whole_bytes {
        data.truncate(prefix / 8);
    }
    let len = u32::try_from(data.len()).expect("an address has at most 16 bytes");
    let mut expressions =
        vec![Expr::Payload { base: PayloadBase::Network, offset, len, register: REGISTER_1 }];
    if !whole_bytes {
        let xor = vec![0; mask.len()];
        expressions.push(Expr::Bitwise { source: REGISTER_1, destination: REGISTER_1, mask, xor });
    }
    let op = if condition.negated { CmpOp::NotEqual } else { CmpOp::Equal };
    expressions.push(Expr::Cmp { op, register: REGISTER_1, data });
    expressions
}

/// One rule as text.
fn rule_text(family: Family, rule: &Rule) -> String {
    let mut words = Vec::new();
    if let Some(mark) = rule.mark {
        words.push(format!("meta mark & {mark:#010x} == {mark:#010x}"));
    }
    let header = TableFamily::from(family);
    for (field, condition) in [("saddr", rule.source), ("daddr", rule.destination)] {
        if let Some(AddressMatch { negated, net }) = condition {
            let not = if negated { "!= " } else { "" };
            // nft leaves the length of a whole address out.
            let whole = net.prefix_len() == family.bits();
            let net = if whole { net.addr().to_string() } else { net.to_string() };
            words.push(format!("{header} {field} {not}{net}"));
        }
    }
    words.push(
        match rule.verdict {
            Verdict::Return => "return",
            Verdict::Accept => "accept",
            Verdict::Masquerade { fully_random: false } => "masquerade",
            Verdict::Masquerade { fully_random: true } => "masquerade fully-random",
        }
        .to_owned(),
    );
    words.join(" ")
}

/// The rules as `nft list table` shows them and `nft -f` reads them: for people, logs and tests.
#[must_use]
pub fn listing(ruleset: &Ruleset) -> String {
    let families = Family::ALL.map(|family| (family, ruleset.family(family)));
    let tables = families.into_iter().filter(|(_, rules)| !rules.is_empty());
    tables.map(|(family, rules)| table_text(family, rules)).collect()
}

fn table_text(family: Family, rules: &FamilyRuleset) -> String {
    let Table { family: header, name, comment, .. } = table(family);
    let comment = comment.unwrap_or_default();
    let chains: Vec<String> = rules.chains().map(|(kind, rules)| chain_text(family, kind, rules)).collect();
    format!("table {header} {name} {{\n\tcomment \"{comment}\"\n{}}}\n", chains.join("\n"))
}

fn chain_text(family: Family, kind: ChainKind, rules: &[Rule]) -> String {
    let chain = chain(family, kind);
    let hook = match kind {
        ChainKind::Masquerade => "type nat hook postrouting priority srcnat; policy accept;",
        ChainKind::Forward => "type filter hook forward priority filter; policy accept;",
    };
    let rules: String = rules.iter().map(|rule| format!("\t\t{}\n", rule_text(family, rule))).collect();
    let comment = chain.comment.unwrap_or_default();
    format!("\tchain {} {{\n\t\tcomment \"{comment}\"\n\t\t{hook}\n{rules}\t}}\n", chain.name)
}
