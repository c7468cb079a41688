//! `flannelctl lease`.

mod change;
mod show;
mod watch;

use clap::Subcommand;
use ipnet::IpNet;
use std::net::IpAddr;

use crate::failure::Outcome;
use crate::flags::{Consent, DryRun, Watch};
use crate::node::cluster::{Target, parse_subnet};
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// Show who holds which subnet
    List {
        /// Only the lease whose subnet has this address, such as that of a pod
        #[arg(long, value_name = "IP")]
        address: Option<IpAddr>,
        /// Show the time left also of more than 500 leases: a request to etcd for each
        #[arg(long, conflicts_with = "watch")]
        expiry: bool,
        #[command(flatten)]
        watch: Watch,
    },
    /// Show one lease
    Get {
        /// A subnet, its key, an address in it, or the public address of its node
        target: Target,
    },
    /// Show all leases, and then what changes
    Watch,
    /// Delete a lease whose node is gone
    Release {
        /// A subnet, its key, an address in it, or the public address of its node
        target: Target,
        /// Also if its node may be running; without asking
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        consent: Consent,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Keep a subnet for a node, also before the node exists
    Reserve {
        /// Public address of the node; in dual stack its IPv6 address may follow
        #[arg(required = true, num_args = 1..=2, value_name = "ADDRESS")]
        addresses: Vec<IpAddr>,
        /// The subnet, at most one of each family; without it any free one
        #[arg(long, value_name = "SUBNET", value_parser = parse_subnet)]
        subnet: Vec<IpNet>,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Let a reservation end like any lease: 24 hours after its node renews it no more
    Unreserve {
        /// A subnet, its key, an address in it, or the public address of its node
        target: Target,
        #[command(flatten)]
        dry_run: DryRun,
    },
    /// Give a node another subnet; its pods must be replaced
    Move {
        /// The present subnet, its key, an address in it, or the public address of the node
        target: Target,
        /// The new subnet, at most one of each family; without it any free one
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
            change::release(session, &target, force, consent, dry_run).await?;
        }
        LeaseCommand::Reserve { addresses, subnet, dry_run } => {
            change::reserve(session, &addresses, &subnet, dry_run).await?;
        }
        LeaseCommand::Unreserve { target, dry_run } => change::unreserve(session, &target, dry_run).await?,
        LeaseCommand::Move { target, subnet, consent, dry_run } => {
            change::r#move(session, &target, &subnet, consent, dry_run).await?;
        }
    }
    Ok(Outcome::Fine)
}
