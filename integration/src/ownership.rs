//! The promise of the store, checked at every revision of its history: a subnet has one owner, and no two leases
//! share an address. Reads keys and values by itself, so that an error of the daemon cannot hide here.

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use serde_json::Value;
use std::collections::BTreeMap;

use crate::etcd::{Event, PREFIX};

/// Goes through a history that is complete from its start; answers with the leases at its end, key to owner.
pub fn check(events: &[Event]) -> Result<BTreeMap<String, String>> {
    let prefix = format!("{PREFIX}/subnets/");
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    for event in events {
        let Some(key) = event.key.strip_prefix(&prefix) else { continue };
        let Some(value) = &event.value else {
            owners.remove(key);
            continue;
        };
        take(&mut owners, key, &owner(value)?)
            .with_context(|| format!("revision {}, which puts {key} = {value}", event.revision))?;
    }
    Ok(owners)
}

fn take(owners: &mut BTreeMap<String, String>, key: &str, owner: &str) -> Result<()> {
    let nets = subnets(key)?;
    for (other_key, other) in owners.iter() {
        if other_key == key {
            ensure!(other == owner, "{key} goes from {other} to {owner} without having been free");
            continue;
        }
        ensure!(other != owner, "{owner} has {other_key} and takes {key}");
        for net in &nets {
            let shares = |theirs: &IpNet| net.contains(&theirs.network()) || theirs.contains(&net.network());
            ensure!(
                !subnets(other_key)?.iter().any(shares),
                "{key} of {owner} overlaps {other_key} of {other}"
            );
        }
    }
    owners.insert(key.to_owned(), owner.to_owned());
    Ok(())
}

/// The subnets in a key such as `10.42.1.0-24` or `10.42.1.0-24&fd00:42:0:1::-64`.
pub fn subnets(key: &str) -> Result<Vec<IpNet>> {
    let nets = key.split('&').filter(|part| *part != "0.0.0.0-0");
    nets.map(|part| part.replace('-', "/").parse().with_context(|| format!("not a subnet: {part}"))).collect()
}

/// The address that tells nodes apart.
fn owner(value: &str) -> Result<String> {
    let record: Value = serde_json::from_str(value).with_context(|| format!("not a record: {value}"))?;
    let field = if record["PublicIP"] == "0.0.0.0" { "PublicIPv6" } else { "PublicIP" };
    Ok(record[field].as_str().with_context(|| format!("no address in {value}"))?.to_owned())
}

#[cfg(test)]
mod tests;
