//! `flannelctl lease`.

mod change;
mod show;
mod watch;

use clap::Subcommand;
use flanneld::store::LeaseChange;
use ipnet::IpNet;
use std::net::IpAddr;

use crate::failure::Outcome;
use crate::flags::{Consent, DryRun, Watch};
use crate::node::cluster::{Target, parse_subnet};
use crate::session::Session;
use change::Change;

#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// List leases
    List {
        /// Only the lease whose subnet contains this address, for example that of a pod
        #[arg(long, value_name = "IP")]
        address: Option<IpAddr>,
        /// Show when leases expire even if there are more than 500: one request to etcd for each
        #[arg(long, conflicts_with = "watch")]
        expiry: bool,
        #[command(flatten)]
        watch: Watch,
    },
    /// Show one lease
    Get {
        /// Subnet, key, an address in the subnet, or the public address of the node
        target: Target,
    },
    /// List leases, then show changes
    Watch,
    /// Delete the lease of a node that no longer exists
    Release {
        /// Subnet, key, an address in the subnet, or the public address of the node
        target: Target,
        /// Release the lease even if its node may be running; do not ask for confirmation
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        consent: Consent,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Reserve a subnet for a node, which need not exist yet
    Reserve {
        /// Public address of the node; in dual stack optionally followed by its IPv6 address
        #[arg(required = true, num_args = 1..=2, value_name = "ADDRESS")]
        addresses: Vec<IpAddr>,
        /// Subnet to reserve, at most one per family [default: any free one]
        #[arg(long, value_name = "SUBNET", value_parser = parse_subnet)]
        subnet: Vec<IpNet>,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Turn a reservation into a lease that expires 24 hours after its last renewal
    Unreserve {
        /// Subnet, key, an address in the subnet, or the public address of the node
        target: Target,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Move a node to another subnet; its pods must be replaced
    Move {
        /// Present subnet, its key, an address in it, or the public address of the node
        target: Target,
        /// New subnet, at most one per family [default: any free one]
        #[arg(long, value_name = "SUBNET", value_parser = parse_subnet)]
        subnet: Vec<IpNet>,
        #[command(flatten)]
        consent: Consent,
        #[command(flatten)]
        dry_run: DryRun,
    },
}

pub(crate) async fn run(session: &Session, command: LeaseCommand) -> anyhow::Result<Outcome> {
    match command {
        LeaseCommand::List { address, watch: Watch { watch: true }, .. } => {
            watch::run(session, address).await?
        }
        LeaseCommand::List { address, expiry, .. } => show::list(session, address, expiry).await?,
        LeaseCommand::Get { target } => show::get(session, &target).await?,
        LeaseCommand::Watch => watch::run(session, None).await?,
        LeaseCommand::Release { target, force, consent, dry_run } => {
            Change::new(session, LeaseChange::Release, dry_run)
                .await?
                .release(&target, force, consent)
                .await?;
        }
        LeaseCommand::Reserve { addresses, subnet, dry_run } => {
            Change::new(session, LeaseChange::Reserve, dry_run).await?.reserve(&addresses, &subnet).await?;
        }
        LeaseCommand::Unreserve { target, dry_run } => {
            Change::new(session, LeaseChange::Unreserve, dry_run).await?.unreserve(&target).await?;
        }
        LeaseCommand::Move { target, subnet, consent, dry_run } => {
            Change::new(session, LeaseChange::Move, dry_run)
                .await?
                .relocate(&target, &subnet, consent)
                .await?;
        }
    }
    Ok(Outcome::Fine)
}
