//! `flannelctl config`.

mod edit;
mod explain;
mod impact;

use anyhow::Context as _;
use clap::Subcommand;
use flannel_core::config::NetworkConfig;
use flannel_core::store::{ConfigRecord, Ownership};
use flanneld::store::{Identity, Store};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

use crate::failure::Outcome;
use crate::flags::{self, DryRun};
use crate::node::cluster::{Cluster, no_config, store_config};
use crate::output::{Form, Page, text};
use crate::session::Session;
use impact::Impact;

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the config in the store
    Get,
    /// Check a config and write it to the store
    Set {
        /// File with the config, or - for standard input
        file: PathBuf,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Change the config in an editor ($VISUAL, $EDITOR or vi)
    Edit {
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Check a config and print the ranges of subnets
    Validate {
        /// File with the config, or - for standard input
        file: PathBuf,
    },
    /// Explain every key, its value and the source of the value
    Explain {
        /// File with a config, or - for standard input [default: the config in the store]
        file: Option<PathBuf>,
    },
}

pub(crate) async fn run(session: &Session, command: ConfigCommand) -> anyhow::Result<Outcome> {
    match command {
        ConfigCommand::Get => get(session).await?,
        ConfigCommand::Set { file, dry_run } => set(session, &file, dry_run).await?,
        ConfigCommand::Edit { dry_run } => edit::run(session, dry_run).await?,
        ConfigCommand::Validate { file } => validate(session, &file)?,
        ConfigCommand::Explain { file } => {
            let (text, config) = match &file {
                Some(file) => flags::config(file, session.store_options().ownership())?,
                None => {
                    let store = session.store()?;
                    let record = stored(&store).await?;
                    let (config, _) = store_config(Some(&record), &store)?;
                    (record.text, config)
                }
            };
            explain::run(session, &text, &config)?;
        }
    }
    Ok(Outcome::Fine)
}

/// Reads the config in the store.
async fn stored(store: &Store) -> anyhow::Result<ConfigRecord> {
    store.list().await?.config.ok_or_else(|| no_config(store).into())
}

/// Prints the config in the store.
async fn get(session: &Session) -> anyhow::Result<()> {
    let config = stored(&session.store()?).await?;
    if session.output.form == Form::Yaml {
        let value = serde_json::from_str(&config.text).unwrap_or(Value::String(config.text));
        return session.output.page(&Page::lines(value, ""));
    }
    // The text is JSON already, formatted by its author.
    session.output.raw(&format!("{}\n", config.text.trim_end()))
}

/// Checks a config and prints the ranges of subnets.
fn validate(session: &Session, file: &Path) -> anyhow::Result<()> {
    let (_, config) = flags::config(file, session.store_options().ownership())?;
    session.output.page(&summary(&config, None))
}

/// Checks a config and writes it, unless the one in the store changed since it was read.
async fn set(session: &Session, file: &Path, dry_run: DryRun) -> anyhow::Result<()> {
    let (text, config) = flags::config(file, session.store_options().ownership())?;
    let (store, cluster) = Cluster::writable(session).await?;
    write(session, &store, &cluster, (&text, &config), dry_run).await
}

/// Replaces the config that was read, and shows the effect on the nodes.
async fn write(
    session: &Session,
    store: &Store,
    cluster: &Cluster,
    (text, config): (&str, &NetworkConfig),
    DryRun { dry_run }: DryRun,
) -> anyhow::Result<()> {
    let output = &session.output;
    let current = cluster.config.as_ref();
    let impact = Impact::new(current, config, &cluster.entries, store.ownership());
    if current.is_some_and(|current| current.text == text) {
        output.message("the store already contains this config");
        return output.page(&summary(config, Some(&impact)));
    }
    for line in impact.lines() {
        output.message(&line);
    }
    if dry_run {
        output.message("not written (dry run)");
    } else {
        let written = store.put_config(text, current.map(|current| current.revision)).await;
        written.context("could not write the config")?;
        let Identity { location, config_place, .. } = store.identity();
        if store.ownership() == Ownership::Assigned {
            output.message(&format!("written to {config_place}; nodes receive it within about a minute"));
        } else {
            output.message(&format!("written to {location}"));
        }
    }
    output.page(&summary(config, Some(&impact)))
}

/// The derived values, where mistakes show.
fn summary(config: &NetworkConfig, impact: Option<&Impact>) -> Page {
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
        ranges.push(text::range(range));
    }
    let firewall = if config.enable_nftables { "nftables" } else { "iptables" };
    lines.push(format!("backend: {}", config.backend.name()));
    lines.push(format!("firewall: {firewall}"));
    let impact = impact.map(Impact::to_json);
    let value =
        json!({"ranges": ranges, "backend": config.backend.name(), "firewall": firewall, "impact": impact});
    // An empty list of names, because an error after config set has written would be wrong.
    Page::lines(value, lines.join("\n")).named(Vec::<String>::new())
}
