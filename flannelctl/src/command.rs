//! What the commands do: read, call core, hand over to output. Each file has its part of the command line too.

pub(crate) mod about;
pub(crate) mod cni;
pub(crate) mod config;
pub(crate) mod connectivity;
pub(crate) mod daemon;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod ipam;
pub(crate) mod lease;
pub(crate) mod node;
pub(crate) mod peer;
pub(crate) mod route;
pub(crate) mod status;
pub(crate) mod subnet;
pub(crate) mod support;

use flannel_core::store::Listing;
use flanneld::store::{Store, StoreOptions};

use crate::Outcome;
use crate::cli::{Cli, Command, NodeFlags, StoreFlags};
use crate::failure::{Failure, Kind};
use crate::output::Output;
use lease::Cluster;

/// What every command is given.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    /// Where the store is.
    pub(crate) store: StoreFlags,
    /// Where the daemon of this node keeps its files.
    pub(crate) node: NodeFlags,
    /// Where results go.
    pub(crate) output: Output,
}

impl Session {
    /// The store that is meant. Nothing is connected or read yet.
    ///
    /// # Errors
    /// Fails if it is a directory that does not exist: whoever looks or mistypes must not make one.
    pub(crate) fn store(&self) -> anyhow::Result<Store> {
        match self.store.options() {
            StoreOptions::Directory(path) if !path.is_dir() => Err(Failure::new(
                Kind::Unreachable,
                format!("there is no directory {} of leases", path.display()),
                "check --lease-dir; flannelctl config set FILE makes a new one",
            )
            .into()),
            options => Ok(options.open()?),
        }
    }

    /// The store for a network config to be written to, and what it holds. It may be a directory that is yet to be made.
    pub(crate) async fn store_to_be(&self) -> anyhow::Result<(Store, Cluster)> {
        let options = self.store.options();
        let missing = matches!(&options, StoreOptions::Directory(path) if !path.exists());
        let store = options.open()?;
        let cluster = match missing {
            true => Cluster::new(self, Listing::default()),
            false => Cluster::read(self, &store).await?,
        };
        Ok((store, cluster))
    }
}

/// Runs the command of a command line.
pub(crate) async fn run(cli: Cli, output: Output) -> anyhow::Result<Outcome> {
    let session = Session { store: cli.store, node: cli.node, output };
    match cli.command {
        Command::Lease(command) => lease::run(&session, command).await,
        Command::Config(command) => config::run(&session, command).await,
        Command::Ipam(command) => ipam::run(&session, command),
        Command::Status(arguments) => status::run(&session, &arguments).await,
        Command::Peer(command) => peer::run(&session, &command).await,
        Command::Diff => diff::run(&session),
        Command::Route(command) => route::run(&session, &command).await,
        Command::Events(arguments) => events::run(&session, &arguments).await,
        Command::Node(command) => node::run(&session, command).await,
        Command::Subnet(command) => subnet::run(&session, command).await,
        Command::Support(command) => support::run(&session, command).await,
        Command::Version => about::version(&session).map(|()| Outcome::Fine),
        Command::Completion { shell } => about::completion(&session, shell).map(|()| Outcome::Fine),
        Command::Man { dir } => about::man(&session, &dir).map(|()| Outcome::Fine),
        Command::Connectivity(command) => connectivity::run(&session, command).await,
        Command::Doctor(arguments) => doctor::run(&session, arguments).await,
    }
}
