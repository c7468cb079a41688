//! `flannelctl config`.

use anyhow::Context as _;
use clap::Subcommand;
use flannel_core::config::NetworkConfig;
use flannel_core::lease::Subnets;
use flanneld::store::LeaseStore as _;
use serde_json::{Value, json};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::Session;
use crate::Outcome;
use crate::cli::DryRun;
use crate::failure::{Failure, Kind};
use crate::output::{Form, Page};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the config as it is in the store
    Get,
    /// Check a config and write it, unless somebody else writes at the same time
    Set {
        /// File with the config, or - for standard input
        file: PathBuf,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Check a config and print what follows from it
    Validate {
        /// File with the config, or - for standard input
        file: PathBuf,
    },
}

pub(crate) async fn run(session: &Session, command: ConfigCommand) -> anyhow::Result<Outcome> {
    match command {
        ConfigCommand::Get => get(session).await?,
        ConfigCommand::Set { file, dry_run } => set(session, &file, dry_run.dry_run).await?,
        ConfigCommand::Validate { file } => validate(session, &file)?,
    }
    Ok(Outcome::Fine)
}

/// Prints the config of the store.
async fn get(session: &Session) -> anyhow::Result<()> {
    let store = session.store()?;
    let listing = store.list().await?;
    let Some(config) = listing.config else {
        return Err(Failure::new(
            Kind::NotFound,
            format!("{} has no network config", store.location()),
            "write one with flannelctl config set FILE",
        )
        .into());
    };
    if session.output.form() == Form::Yaml {
        let value = serde_json::from_str(&config.text).unwrap_or(Value::String(config.text));
        return session.output.page(&Page::lines(value, ""));
    }
    // The text is JSON already, in the words of whoever wrote it.
    session.output.raw(&format!("{}\n", config.text.trim_end()))
}

/// Checks a config and prints what follows from it.
fn validate(session: &Session, file: &Path) -> anyhow::Result<()> {
    let config = parse(&read(file)?, file)?;
    session.output.page(&summary(&config))
}

/// Checks a config and writes it, unless the one in the store has changed since it was read.
async fn set(session: &Session, file: &Path, dry_run: bool) -> anyhow::Result<()> {
    let (store, output) = (session.store()?, &session.output);
    let text = read(file)?;
    let config = parse(&text, file)?;
    let listing = store.list().await?;
    let current = listing.config.as_ref();
    if current.is_some_and(|current| current.text == text) {
        output.message("the store has this config already");
        return output.page(&summary(&config));
    }
    let others = listing
        .records
        .iter()
        .filter_map(|record| Subnets::parse_key(&record.key).ok())
        .filter(|subnets| !config.allows(subnets))
        .count();
    if others > 0 {
        output.message(&format!(
            "{others} of {} leases are not in the new range: their nodes take new subnets when flanneld restarts there",
            listing.records.len()
        ));
    }
    if dry_run {
        output.message("not written: this was a dry run");
    } else {
        store
            .put_config(&text, current.map(|current| current.revision))
            .await
            .context("could not write the config")?;
        output.message(&format!("written to {}", store.location()));
    }
    output.page(&summary(&config))
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
fn summary(config: &NetworkConfig) -> Page {
    let mut lines = Vec::new();
    let mut ranges = Vec::new();
    for range in config.ranges() {
        lines.push(format!(
            "{}: {}, {} subnets of length {}, {} to {}",
            range.family(),
            range.network(),
            range.count(),
            range.subnet_len(),
            range.min(),
            range.max()
        ));
        ranges.push(json!({
            "family": range.family().to_string(),
            "network": range.network().to_string(),
            "subnetLen": range.subnet_len(),
            // JSON numbers are doubles for most readers, and a /64 network has more subnets than they can count.
            "subnets": range.count().to_string(),
            "subnetMin": range.min().to_string(),
            "subnetMax": range.max().to_string(),
        }));
    }
    let firewall = if config.enable_nftables { "nftables" } else { "iptables" };
    lines.push(format!("backend: {}", config.backend.name()));
    lines.push(format!("firewall: {firewall}"));
    let value = json!({"ranges": ranges, "backend": config.backend.name(), "firewall": firewall});
    Page::lines(value, lines.join("\n"))
}
