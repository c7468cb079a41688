//! `flannelctl config`.

use anyhow::{Context as _, bail};
use flannel_core::config::NetworkConfig;
use flanneld::store::{AnyStore, LeaseStore as _};
use std::io::Read as _;
use std::path::Path;

use crate::output;

/// Prints the config of the store.
pub(crate) async fn get(store: &AnyStore) -> anyhow::Result<()> {
    let listing = store.list().await?;
    let Some(config) = listing.config else {
        bail!("{} has no network config: write one with flannelctl config set FILE", store.location());
    };
    output::text(config.text.trim_end())
}

/// Checks a config and prints what follows from it.
pub(crate) fn validate(file: &Path) -> anyhow::Result<()> {
    let config = parse(&read(file)?, file)?;
    output::text(&summary(&config))
}

/// Checks a config and writes it, unless the one in the store has changed since it was read.
pub(crate) async fn set(store: &AnyStore, file: &Path, dry_run: bool) -> anyhow::Result<()> {
    let text = read(file)?;
    let config = parse(&text, file)?;
    let listing = store.list().await?;
    let current = listing.config.as_ref();
    if current.is_some_and(|current| current.text == text) {
        return output::message("the store has this config already");
    }
    let others = listing
        .records
        .iter()
        .filter_map(|record| flannel_core::lease::Subnets::parse_key(&record.key).ok())
        .filter(|subnets| !config.allows(subnets))
        .count();
    if others > 0 {
        output::message(&format!(
            "{others} of {} leases are not in the new range: their nodes take new subnets when flanneld restarts there",
            listing.records.len()
        ))?;
    }
    output::text(&summary(&config))?;
    if dry_run {
        return output::message("not written: this was a dry run");
    }
    store
        .put_config(&text, current.map(|current| current.revision))
        .await
        .context("could not write the config")?;
    output::message(&format!("written to {}", store.location()))
}

fn parse(text: &str, file: &Path) -> anyhow::Result<NetworkConfig> {
    NetworkConfig::parse(text).with_context(|| format!("the config in {} cannot be used", file.display()))
}

fn read(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("could not read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))
}

/// The derived values, which are what one gets wrong.
fn summary(config: &NetworkConfig) -> String {
    let mut lines: Vec<String> = config
        .ranges()
        .map(|range| {
            format!(
                "{}: {}, {} subnets of length {}, {} to {}",
                range.family(),
                range.network(),
                range.count(),
                range.subnet_len(),
                range.min(),
                range.max()
            )
        })
        .collect();
    lines.push(format!("backend: {}", config.backend.name()));
    lines.push(format!("firewall: {}", if config.enable_nftables { "nftables" } else { "iptables" }));
    lines.join("\n")
}
