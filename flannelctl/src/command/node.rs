//! `flannelctl node`.

mod cleanup;
mod plugins;
mod settings;

use clap::{Args, Subcommand};

use crate::failure::Outcome;
use crate::flags::DryRun;
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Remove everything that flannel or Go flannel created on this node: links, routes, firewall rules, files
    ///
    /// The lease is kept in the store until it expires; `flannelctl lease release` deletes it.
    Cleanup(Cleanup),
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Cleanup {
    /// Also remove what CNI plugins created for pods: the bridge cni0 and the allocated addresses; restore settings of the host
    #[arg(long)]
    pub(crate) cni: bool,
    /// Also remove what pods of flannel installed: the CNI config `10-flannel.conflist`, the plugin `flannel` and its other names
    #[arg(long, requires = "cni")]
    pub(crate) uninstall: bool,
    /// Proceed while flanneld or pods are running
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) dry_run: DryRun,
}

pub(crate) async fn run(session: &Session, command: NodeCommand) -> anyhow::Result<Outcome> {
    let NodeCommand::Cleanup(options) = command;
    cleanup::run(session, options).await?;
    Ok(Outcome::Fine)
}
