//! The output of `nft -j list ruleset` (libnftables-json(5)).

use flannel_core::family::Family;
use ipnet::IpNet;
use serde_json::Value;
use std::collections::BTreeMap;

use super::{Chain, Condition, Hook, Rule, Subject, Table, Verdict, is_of_iptables, net, protocol};
use crate::output::text::join;

/// The tables that see packets of a family.
pub(super) fn tables(text: &str, family: Family, without_iptables: bool) -> Result<Vec<Table>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let value: Value =
        serde_json::from_str(text).map_err(|error| format!("the output of nft is not JSON: {error}"))?;
    let kinds = match family {
        Family::V4 => ["ip", "inet"],
        Family::V6 => ["ip6", "inet"],
    };
    let mut tables: BTreeMap<(String, String), Table> = BTreeMap::new();
    for object in value["nftables"].as_array().into_iter().flatten() {
        let Some((kind, object)) = object.as_object().and_then(|object| object.iter().next()) else {
            continue;
        };
        let text = |key: &str| object[key].as_str().unwrap_or_default();
        let (of, name) = (text("family"), text("table"));
        if !kinds.contains(&of) || (without_iptables && is_of_iptables(of, name)) {
            continue;
        }
        let table = tables
            .entry((of.to_owned(), name.to_owned()))
            .or_insert_with(|| Table { name: format!("nft {of} {name}"), ..Table::default() });
        match kind.as_str() {
            "chain" => {
                table.chains.insert(text("name").to_owned(), Chain { base: base(object), rules: Vec::new() });
            }
            "rule" => {
                if let Some(chain) = table.chains.get_mut(text("chain")) {
                    chain.rules.push(rule(object));
                }
            }
            _ => {}
        }
    }
    Ok(tables.into_values().collect())
}

fn base(chain: &Value) -> Option<(Hook, i64, bool)> {
    if chain["type"] != "filter" {
        return None;
    }
    let hook = match chain["hook"].as_str()? {
        "input" => Hook::Input,
        "forward" => Hook::Forward,
        _ => return None,
    };
    Some((hook, chain["prio"].as_i64().unwrap_or(0), chain["policy"] == "drop"))
}

fn rule(rule: &Value) -> Rule {
    let mut found = Rule { conditions: Vec::new(), verdict: Verdict::Continue, text: String::new() };
    let expressions = rule["expr"].as_array().map_or(&[][..], Vec::as_slice);
    for expression in expressions {
        let Some((kind, value)) = expression.as_object().and_then(|object| object.iter().next()) else {
            continue;
        };
        match kind.as_str() {
            "match" => found.conditions.push(condition(value)),
            "accept" => found.verdict = Verdict::Accept,
            "drop" | "reject" => found.verdict = Verdict::Drop,
            "return" => found.verdict = Verdict::Return,
            "jump" => found.verdict = Verdict::Jump(target(value)),
            "goto" => found.verdict = Verdict::Goto(target(value)),
            "counter" | "comment" | "log" | "mangle" | "notrack" => {}
            // Limits, verdict maps, matches of iptables.
            _ => found.conditions.push(Condition::UNKNOWN),
        }
    }
    found.text = format!("rule {} ({})", rule["handle"], describe(expressions));
    found
}

fn target(value: &Value) -> String {
    value["target"].as_str().unwrap_or_default().to_owned()
}

/// A short description of a rule.
fn describe(expressions: &[Value]) -> String {
    let members = expressions.iter().filter_map(|expression| expression.as_object()?.iter().next());
    let words = members.filter(|(kind, _)| *kind != "counter").map(|(kind, value)| match kind.as_str() {
        "match" => {
            let operator = if value["op"] == "!=" { "!= " } else { "" };
            let right = value["right"].as_str().map_or_else(|| value["right"].to_string(), str::to_owned);
            format!("{} {operator}{right}", operand(&value["left"]))
        }
        other => other.to_owned(),
    });
    join(words, " ")
}

/// The left side of a match: `udp dport`, `meta iifname`, `ct state`.
fn operand(left: &Value) -> String {
    let text = |kind: &str, key: &str| left[kind][key].as_str();
    match (text("payload", "field"), text("meta", "key"), text("ct", "key")) {
        (Some(field), ..) => format!("{} {field}", text("payload", "protocol").unwrap_or_default()),
        (_, Some(key), _) => format!("meta {key}"),
        (_, _, Some(key)) => format!("ct {key}"),
        _ => left.to_string(),
    }
}

fn condition(value: &Value) -> Condition {
    let negated = match value["op"].as_str() {
        Some("!=") => true,
        Some("==" | "in") => false,
        _ => return Condition::UNKNOWN,
    };
    let (left, right) = (&value["left"], &value["right"]);
    let link = || right.as_str().map(str::to_owned);
    let payload = (left["payload"]["protocol"].as_str(), left["payload"]["field"].as_str());
    let subject = match (payload, left["meta"]["key"].as_str(), left["ct"]["key"].as_str()) {
        // Tunnel packets are UDP, so they have no TCP port. This condition implies the protocol.
        ((Some("tcp"), Some("dport")), ..) => {
            return Condition { negated: false, subject: Subject::Ports(Vec::new()) };
        }
        ((Some("udp" | "th"), Some("dport")), ..) => ports(right).map(Subject::Ports),
        ((Some("ip" | "ip6"), Some("saddr")), ..) => nets(right).map(Subject::Source),
        ((Some("ip" | "ip6"), Some("daddr")), ..) => nets(right).map(Subject::Destination),
        ((Some("ip"), Some("protocol")) | (Some("ip6"), Some("nexthdr")), ..) | (_, Some("l4proto"), _) => {
            right.as_str().and_then(protocol).map(Subject::Protocol)
        }
        (_, Some("iifname" | "iif"), _) => link().map(Subject::Input),
        (_, Some("oifname" | "oif"), _) => link().map(Subject::Output),
        (_, _, Some("state")) => states(right).map(Subject::State),
        _ => None,
    };
    Condition::new(negated, subject)
}

fn ports(value: &Value) -> Option<Vec<(u16, u16)>> {
    elements(value)?
        .into_iter()
        .map(|element| match &element["range"] {
            Value::Array(ends) => Some((port(ends.first()?)?, port(ends.get(1)?)?)),
            _ => port(element).map(|port| (port, port)),
        })
        .collect()
}

fn port(value: &Value) -> Option<u16> {
    u16::try_from(value.as_u64()?).ok()
}

/// The members of an anonymous set, or the only value.
fn elements(value: &Value) -> Option<Vec<&Value>> {
    match &value["set"] {
        Value::Array(members) => Some(members.iter().collect()),
        Value::Null if value.is_array() => Some(value.as_array()?.iter().collect()),
        Value::Null => Some(vec![value]),
        _ => None,
    }
}

fn nets(value: &Value) -> Option<Vec<IpNet>> {
    elements(value)?
        .into_iter()
        .map(|element| match (&element["prefix"], element) {
            (Value::Object(prefix), _) => {
                net(&format!("{}/{}", prefix["addr"].as_str()?, prefix["len"].as_u64()?))
            }
            // Named sets start with @, ranges are objects.
            (_, Value::String(text)) => net(text),
            _ => None,
        })
        .collect()
}

/// Whether the states include that of the first packet of a connection.
fn states(value: &Value) -> Option<bool> {
    let states: Vec<&str> = elements(value)?.into_iter().map(Value::as_str).collect::<Option<_>>()?;
    Some(states.contains(&"new"))
}
