//! Our chains where nobody wants them any more, found and removed without the tools of iptables: it keeps its rules in
//! tables of nf_tables (`ip nat`, `ip filter`), or, in its legacy variant, in those of `x_tables`.

use super::{ChainKind, Place, place};
use crate::family::Family;
use crate::message::nftables::{self, Command, Expr, Message, Query, TableFamily, Verdict};

/// Table and name of our chains.
#[must_use]
pub fn chains() -> [(&'static str, &'static str); 2] {
    ChainKind::ALL.map(place).map(|Place { table, chain, .. }| (table, chain))
}

/// The question whether nf_tables has one of our chains.
#[must_use]
pub fn query(family: Family, (table, chain): (&str, &str)) -> Query {
    Query::Chain(family.into(), table.to_owned(), chain.to_owned())
}

/// Whether a notification of nf_tables tells of a chain of ours that was made.
#[must_use]
pub fn appears(message: &Message) -> bool {
    matches!(message, Message::Chain(chain) if matches!(chain.family, TableFamily::IP | TableFamily::IP6)
        && chains().contains(&(chain.table.as_str(), chain.name.as_str())))
}

/// Removes one of our chains from nf_tables. `rules` are those of its table; what leads to the chain goes first, as a
/// chain in use cannot be deleted.
#[must_use]
pub fn removal(family: Family, (table, chain): (&str, &str), rules: &[nftables::Rule]) -> Vec<Command> {
    let family = TableFamily::from(family);
    let leads_to_us = |rule: &&nftables::Rule| {
        rule.expressions.iter().any(|expression| match expression {
            Expr::Verdict(Verdict::Jump(to) | Verdict::Goto(to)) => to == chain,
            _ => false,
        })
    };
    let references = rules.iter().filter(leads_to_us).filter_map(|rule| {
        Some(Command::DeleteRule(family, table.to_owned(), rule.chain.clone(), rule.handle?))
    });
    let own = [Command::FlushChain, Command::DeleteChain];
    references.chain(own.map(|command| command(family, table.to_owned(), chain.to_owned()))).collect()
}

/// Whether a table of `x_tables` has a chain of this name. `entries` are what the kernel answers to
/// `IPT_SO_GET_ENTRIES` and `IP6T_SO_GET_ENTRIES`: rules one after the other, where a chain begins with a rule whose
/// target is called `ERROR` and bears the name of the chain (`struct ipt_entry` and `struct xt_error_target` in
/// linux/netfilter_ipv4/ip_tables.h and linux/netfilter/x_tables.h).
#[must_use]
pub fn declares(family: Family, entries: &[u8], chain: &str) -> bool {
    // Length of the addresses and interfaces that a rule begins with.
    let head = match family {
        Family::V4 => 84,
        Family::V6 => 136,
    };
    let short = |entry: &[u8], at: usize| {
        Some(usize::from(u16::from_ne_bytes(entry.get(at..at + 2)?.try_into().ok()?)))
    };
    let mut rest = entries;
    // After `nfcache`, where the target begins and where the next rule does.
    while let (Some(target), Some(next)) = (short(rest, head + 4), short(rest, head + 6)) {
        let name = |at: usize| {
            let bytes = rest.get(target + at..).unwrap_or_default();
            bytes.split(|byte| *byte == 0).next().unwrap_or_default()
        };
        // Two bytes of length, then 29 for the name of the target, and one for its revision.
        if name(2) == b"ERROR" && name(32) == chain.as_bytes() {
            return true;
        }
        match rest.get(next..) {
            Some(following) if next > 0 => rest = following,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(head: usize, target: &str, name: &str) -> Vec<u8> {
        let mut bytes = vec![0xaa; head + 4];
        let length = u16::try_from(head + 8 + 20 + 64).unwrap();
        let target_at = u16::try_from(head + 8 + 20).unwrap();
        bytes.extend(target_at.to_ne_bytes());
        bytes.extend(length.to_ne_bytes());
        bytes.resize(usize::from(target_at), 0);
        bytes.extend([64, 0]);
        for (text, width) in [(target, 30), (name, 32)] {
            let end = bytes.len() + width;
            bytes.extend(text.as_bytes());
            bytes.resize(end, 0);
        }
        bytes
    }

    #[test]
    fn chains_in_legacy_tables() {
        for (family, head) in [(Family::V4, 84), (Family::V6, 136)] {
            let table = [
                entry(head, "", "FLANNEL-FWD"),
                entry(head, "ERROR", "KUBE-FORWARD"),
                entry(head, "ERROR", "FLANNEL-POSTRTG"),
                entry(head, "ERROR", "ERROR"),
            ]
            .concat();
            assert!(declares(family, &table, "FLANNEL-POSTRTG"));
            assert!(!declares(family, &table, "FLANNEL-FWD"), "a rule that leads there, not the chain");
            assert!(!declares(family, &table, "FLANNEL"));
            // Whatever is cut off or wrong ends the search.
            for end in 0..table.len() {
                assert!(!declares(family, &table[..end], "NOWHERE"));
            }
            assert!(!declares(family, &vec![0; 4096], "NOWHERE"));
        }
    }
}
