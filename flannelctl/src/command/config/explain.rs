//! `config explain`: every key, its value and the source of the value.

use flannel_core::backend::Setting;
use flannel_core::config::NetworkConfig;
use flannel_core::family::Family;
use serde_json::{Value, json};

use crate::output::{Cell, Page, Table};
use crate::session::Session;

/// One key.
struct Key {
    name: String,
    value: String,
    meaning: &'static str,
    /// The default depends on other keys.
    derived: bool,
}

pub(super) fn run(session: &Session, text: &str, config: &NetworkConfig) -> anyhow::Result<()> {
    let given: Value = serde_json::from_str(text).unwrap_or_default();
    let mut table = Table::new(&["KEY", "VALUE", "FROM", "MEANING"], &[]);
    let (mut values, mut names) = (Vec::new(), Vec::new());
    for key in keys(config) {
        let from = match (is_given(&given, &key.name), key.derived) {
            (true, _) => "given",
            (false, true) => "derived",
            (false, false) => "default",
        };
        table.push(vec![
            Cell::from(key.name.as_str()),
            Cell::from(key.value.as_str()),
            Cell::from(from),
            Cell::from(key.meaning),
        ]);
        values.push(json!({"key": key.name, "value": key.value, "from": from, "meaning": key.meaning}));
        names.push(key.name);
    }
    session.output.page(&Page::table(Value::Array(values), table).named(names))
}

/// Whether the config contains a key; names are case-insensitive.
fn is_given(config: &Value, name: &str) -> bool {
    let mut value = config;
    for part in name.split('.') {
        let members = value.as_object().into_iter().flatten();
        let Some((_, found)) = members.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(part)) else {
            return false;
        };
        value = found;
    }
    true
}

fn keys(config: &NetworkConfig) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut key = |name: &str, value: String, derived: bool, meaning| {
        keys.push(Key { name: name.to_owned(), value, meaning, derived });
    };
    for family in Family::ALL {
        let (prefix, enabled) = match family {
            Family::V4 => ("", "whether pods have IPv4"),
            Family::V6 => ("IPv6", "whether pods have IPv6"),
        };
        key(&format!("Enable{family}"), config.has(family).to_string(), false, enabled);
        let Some(range) = config.range(family) else { continue };
        for (name, value, meaning) in [
            ("Network", range.network().to_string(), "the pod network; every node gets a part of it"),
            ("SubnetLen", range.subnet_len().to_string(), "prefix length of a node's subnet"),
            ("SubnetMin", range.min().to_string(), "first subnet for nodes"),
            ("SubnetMax", range.max().to_string(), "last subnet for nodes"),
        ] {
            key(&format!("{prefix}{name}"), value, true, meaning);
        }
    }
    let nftables = "firewall rules by nftables instead of iptables";
    key("EnableNFTables", config.enable_nftables.to_string(), false, nftables);
    key("Backend.Type", config.backend.name().to_owned(), false, "how packets reach other nodes");
    for Setting { key: name, value, meaning } in config.backend.settings() {
        key(&format!("Backend.{name}"), value, false, meaning);
    }
    keys
}
