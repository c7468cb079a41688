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

/// The chains in the table `nat` that the CNI plugin `portmap` shares between pods. The first one has a rule for each host port.
pub const HOST_PORTS: [&str; 3] = ["CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ"];

/// Returns the input of `iptables-restore --noflush` that removes the chains of host ports, given the output of `iptables-save`, or
/// `None` if a host port is in use.
#[must_use]
pub fn host_ports_removal(save: &str) -> Option<String> {
    let mut text = String::from("*nat\n");
    for line in save.lines() {
        let Some(rule) = line.strip_prefix("-A ") else { continue };
        let chain = rule.split(' ').next().unwrap_or_default();
        if chain == HOST_PORTS[0] {
            return None;
        }
        let is_own = HOST_PORTS.contains(&chain);
        if !is_own && HOST_PORTS.iter().any(|name| rule.ends_with(&format!("-j {name}"))) {
            text += &format!("-D {rule}\n");
        }
    }
    let declared = HOST_PORTS.iter().filter(|name| save.contains(&format!("\n:{name} ")));
    text.extend(declared.map(|name| format!(":{name} - [0:0]\n-X {name}\n")));
    Some(text + "COMMIT\n")
}

/// Returns whether a table of `x_tables` has a chain of this name. `entries` are the kernel's answer to `IPT_SO_GET_ENTRIES`.
#[must_use]
pub fn declares(family: Family, entries: &[u8], chain: &str) -> bool {
    Targets::new(family, entries).any(|(target, name)| target == ERROR && name == chain.as_bytes())
}

/// Returns the number of rules in the table of this name, without those that the kernel adds for each chain.
#[must_use]
pub fn rules(family: Family, table: &str, entries: &[u8]) -> usize {
    // Each ends with its policy.
    let built_in_chains = match table {
        "mangle" => 5,
        "nat" => 4,
        _ => 3,
    };
    let heads = Targets::new(family, entries).filter(|(target, _)| *target == ERROR).count();
    // A chain of users has a head and an end. The last head ends the table.
    let added = built_in_chains + (2 * heads).saturating_sub(1);
    Targets::new(family, entries).count().saturating_sub(added)
}

/// The target of the head of a chain.
const ERROR: &[u8] = b"ERROR";

/// The targets of the rules of a table: their name and what follows it, which is the name of the chain for `ERROR`. A table is a
/// sequence of rules (`struct ipt_entry` and `struct xt_error_target` in linux/netfilter_ipv4/ip_tables.h and
/// linux/netfilter/x_tables.h). A malformed rule ends it.
struct Targets<'a> {
    rest: &'a [u8],
    /// Length of the addresses and interfaces that a rule begins with.
    head: usize,
}

impl<'a> Targets<'a> {
    fn new(family: Family, entries: &'a [u8]) -> Self {
        let head = match family {
            Family::V4 => 84,
            Family::V6 => 136,
        };
        Self { rest: entries, head }
    }
}

impl<'a> Iterator for Targets<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let rule = self.rest;
        let short = |at: usize| Some(usize::from(u16::from_ne_bytes(rule.get(at..at + 2)?.try_into().ok()?)));
        // After `nfcache`, where the target begins and where the next rule does.
        let (target, next) = (short(self.head + 4)?, short(self.head + 6)?);
        self.rest = if next > 0 { rule.get(next..).unwrap_or_default() } else { &[] };
        let name = |at: usize| {
            let bytes = rule.get(target + at..).unwrap_or_default();
            bytes.split(|byte| *byte == 0).next().unwrap_or_default()
        };
        // Two bytes of length, then 29 for the name of the target, and one for its revision.
        Some((name(2), name(32)))
    }
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
    fn unused_chains_of_host_ports() {
        let save = "*nat\n:POSTROUTING ACCEPT [0:0]\n:CNI-HOSTPORT-DNAT - [0:0]\n:CNI-HOSTPORT-MASQ - [0:0]\n\
            -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
            -A POSTROUTING -m comment --comment \"of others\" -j MASQUERADE\n\
            -A POSTROUTING -m comment --comment \"CNI portfwd requiring masquerade\" -j CNI-HOSTPORT-MASQ\n\
            -A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE\nCOMMIT\n";
        let expected = "*nat\n-D PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n\
            -D POSTROUTING -m comment --comment \"CNI portfwd requiring masquerade\" -j CNI-HOSTPORT-MASQ\n\
            :CNI-HOSTPORT-DNAT - [0:0]\n-X CNI-HOSTPORT-DNAT\n:CNI-HOSTPORT-MASQ - [0:0]\n-X CNI-HOSTPORT-MASQ\nCOMMIT\n";
        assert_eq!(host_ports_removal(save).as_deref(), Some(expected));
        let used = save.replace("COMMIT", "-A CNI-HOSTPORT-DNAT -p tcp -j CNI-DN-1\nCOMMIT");
        assert_eq!(host_ports_removal(&used), None);
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
            // Two chains of users have their heads only, and the table has no policies.
            assert_eq!(rules(family, "filter", &table), 0);
            let policies = vec![entry(head, "", ""); 3].concat();
            let ends = vec![entry(head, "", ""); 2].concat();
            assert_eq!(rules(family, "filter", &[policies, ends, table.clone()].concat()), 1);
            assert_eq!(rules(family, "filter", &[]), 0);
            // Whatever is cut off or wrong ends the search.
            for end in 0..table.len() {
                assert!(!declares(family, &table[..end], "NOWHERE"));
            }
            assert!(!declares(family, &vec![0; 4096], "NOWHERE"));
        }
    }
}
