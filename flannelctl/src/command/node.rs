//! `flannelctl node`.

mod cleanup;
mod plugins;

use clap::{Args, Subcommand};

use crate::failure::Outcome;
use crate::flags::DryRun;
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Take everything of flannel off this node, of ours and of Go's: links, routes, firewall rules, files
    ///
    /// The lease stays in the store until it ends; flannelctl lease release deletes it.
    Cleanup(Cleanup),
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Cleanup {
    /// Also what CNI plugins have made for pods: the bridge cni0 and the addresses given to them
    #[arg(long)]
    pub(crate) cni: bool,
    /// Also while flanneld runs, or pods use the bridge
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) dry_run: DryRun,
}

pub(crate) async fn run(session: &Session, command: NodeCommand) -> anyhow::Result<Outcome> {
    match command {
        NodeCommand::Cleanup(options) => cleanup::run(session, options).await?,
    }
    Ok(Outcome::Fine)
}
