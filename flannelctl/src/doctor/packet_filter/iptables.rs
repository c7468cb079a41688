//! The output of `iptables-save`.

use ipnet::IpNet;

use super::{Chain, Condition, Hook, Rule, Subject, Table, Verdict, net, protocol};

/// The tables that can drop packets, all but `nat`.
pub(super) fn tables(text: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('*') {
            tables.push(Table { name: format!("iptables {name}"), ..Table::default() });
        } else if let (Some(table), Some(rest)) = (tables.last_mut(), line.strip_prefix(':')) {
            let mut words = rest.split(' ');
            let (Some(name), Some(policy)) = (words.next(), words.next()) else { continue };
            let hook = match name {
                "INPUT" => Some(Hook::Input),
                "FORWARD" => Some(Hook::Forward),
                _ => None,
            };
            let base = hook.map(|hook| (hook, 0, policy == "DROP"));
            table.chains.insert(name.to_owned(), Chain { base, rules: Vec::new() });
        } else if let (Some(table), Some(rest)) = (tables.last_mut(), line.strip_prefix("-A "))
            && let Some((chain, words)) = rest.split_once(' ')
            && let Some(chain) = table.chains.get_mut(chain)
        {
            chain.rules.push(rule(line, words));
        }
    }
    tables.retain(|table| !table.name.ends_with(" nat"));
    tables
}

fn rule(line: &str, text: &str) -> Rule {
    // Comments are quoted as in a shell.
    let words = shlex::split(text).unwrap_or_default();
    let mut rule = Rule { conditions: Vec::new(), verdict: Verdict::Continue, text: line.to_owned() };
    let mut words = words.iter().map(String::as_str).peekable();
    let mut negated = false;
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_default();
        let subject = match word {
            "!" => {
                negated = true;
                continue;
            }
            "-j" | "-g" => {
                let target = value().to_owned();
                rule.verdict = verdict(target, word == "-g");
                // The rest are parameters of the target.
                break;
            }
            "-m" => match value() {
                // Their options follow.
                "comment" | "udp" | "tcp" | "multiport" | "conntrack" | "state" => continue,
                _ => None,
            },
            "--comment" => {
                value();
                continue;
            }
            "-p" => protocol(value()).map(Subject::Protocol),
            "-s" => nets(value()).map(Subject::Source),
            "-d" => nets(value()).map(Subject::Destination),
            "-i" => Some(Subject::Input(value().to_owned())),
            "-o" => Some(Subject::Output(value().to_owned())),
            "--dport" | "--dports" => ports(value()).map(Subject::Ports),
            "--ctstate" | "--state" => Some(Subject::State(value().split(',').any(|state| state == "NEW"))),
            // Options of unknown matches, and their values.
            _ => None,
        };
        rule.conditions.push(Condition::new(negated, subject));
        negated = false;
    }
    rule
}

fn verdict(target: String, goto: bool) -> Verdict {
    match target.as_str() {
        "ACCEPT" => Verdict::Accept,
        "DROP" | "REJECT" => Verdict::Drop,
        "RETURN" => Verdict::Return,
        // Non-terminating targets.
        "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "CT" | "TCPMSS" | "TRACE" | "DSCP" | "CHECKSUM" => {
            Verdict::Continue
        }
        _ if goto => Verdict::Goto(target),
        _ => Verdict::Jump(target),
    }
}

fn nets(text: &str) -> Option<Vec<IpNet>> {
    text.split(',').map(net).collect()
}

fn ports(text: &str) -> Option<Vec<(u16, u16)>> {
    text.split(',')
        .map(|range| {
            let (first, last) = range.split_once(':').unwrap_or((range, range));
            Some((first.parse().ok()?, last.parse().ok()?))
        })
        .collect()
}
