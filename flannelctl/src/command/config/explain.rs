//! `config explain`: every key, the value in force and where it comes from.

use flannel_core::backend::Setting;
use flannel_core::config::{NetworkConfig, SubnetRange};
use flannel_core::family::Family;
use serde_json::{Value, json};

use crate::output::{Cell, Page, Table};
use crate::session::Session;

/// One key.
struct Key {
    name: String,
    value: String,
    meaning: &'static str,
    /// What the value is if the key is absent depends on other keys.
    derived: bool,
}

pub(super) fn run(session: &Session, text: &str) -> anyhow::Result<()> {
    let config = NetworkConfig::parse(text)?;
    let given: Value = serde_json::from_str(text).unwrap_or_default();
    let mut table = Table::new(&["KEY", "VALUE", "FROM", "MEANING"], &[]);
    let (mut values, mut names) = (Vec::new(), Vec::new());
    for key in keys(&config) {
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

/// Names of keys do not depend on case.
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
    let on = |on: bool| if on { "true" } else { "false" }.to_owned();
    for family in Family::ALL {
        let (prefix, enabled) = match family {
            Family::V4 => ("", "whether pods have IPv4"),
            Family::V6 => ("IPv6", "whether pods have IPv6"),
        };
        key(&format!("Enable{family}"), on(config.has(family)), false, enabled);
        let Some(range) = config.range(family) else { continue };
        let mut of_range = |name: &str, value: &dyn Fn(&SubnetRange) -> String, meaning| {
            key(&format!("{prefix}{name}"), value(range), true, meaning);
        };
        of_range(
            "Network",
            &|range| range.network().to_string(),
            "the network of all pods; every node gets a part of it",
        );
        of_range("SubnetLen", &|range| range.subnet_len().to_string(), "prefix length of a node's subnet");
        of_range("SubnetMin", &|range| range.min().to_string(), "first subnet that is given out");
        of_range("SubnetMax", &|range| range.max().to_string(), "last subnet that is given out");
    }
    key(
        "EnableNFTables",
        on(config.enable_nftables),
        false,
        "firewall rules by nftables instead of iptables",
    );
    key("Backend.Type", config.backend.name().to_owned(), false, "how packets get to other nodes");
    for Setting { key: name, value, meaning } in config.backend.settings() {
        key(&format!("Backend.{name}"), value, false, meaning);
    }
    keys
}
