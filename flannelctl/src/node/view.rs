//! This node according to store and kernel, and the desired state of its kernel.

use flannel_core::backend::BackendError;
use flannel_core::config::NetworkConfig;
use flannel_core::dataplane::{Dataplane, Op};
use flannel_core::desired::Assembly;
use flannel_core::family::Family;
use flannel_core::lease::table::LeaseTable;
use flannel_core::lease::{LeaseAttrs, Subnets};
use flannel_core::owned::{Scope, owned};
use flannel_core::plan::{Prune, plan};
use flannel_core::store::{Listing, Record};
use flannel_core::subnet_env::PreviousEnv;
use flanneld::cli::Options;
use flanneld::host::{pods, subnet_file};
use flanneld::kernel::{Effector as _, NetlinkKernel, Observation};
use flanneld::node::{Node, NodeError, NodeOptions};
use flanneld::state::{Remembered, StateDir};
use flanneld::store::{Store, StoreOptions};
use std::collections::BTreeSet;
use std::time::Duration;

use super::daemon::Invocation;

/// Store and kernel at one moment.
pub(crate) struct Snapshot {
    pub(crate) options: Options,
    pub(crate) store: Store,
    pub(crate) listing: Result<Listing, String>,
    pub(crate) observation: Observation,
    /// `None` without a config.
    pub(crate) view: Option<Result<View, NodeError>>,
    pub(crate) remembered: Remembered,
    pub(crate) subnet_env: Option<String>,
    pub(crate) kernel: NetlinkKernel,
    pub(crate) config: Option<NetworkConfig>,
}

impl Snapshot {
    /// Reads store and kernel.
    ///
    /// # Errors
    /// Fails if the kernel or the options cannot be read. An unreachable store is part of the result.
    pub(crate) async fn of(invocation: &Invocation) -> anyhow::Result<Self> {
        let mut options = invocation.options.clone();
        let subnet_env = subnet_file::read(&options.subnet_file).ok().flatten();
        let remembered = StateDir::look(&options.state_dir, &options.store.scope());
        if invocation.daemons.is_empty() {
            // Without a running daemon, subnet.env shows how it was started.
            options.ip_masq |= subnet_env.as_deref().is_some_and(|text| text.contains("FLANNEL_IPMASQ=true"));
        }
        let (store, listing) = ask_store(&options.store).await?;
        let config = match &listing {
            Ok(listing) => listing.config.as_ref(),
            Err(_) => remembered.config.as_ref(),
        };
        let config = config.map(|record| record.text.as_str());
        let mut kernel = NetlinkKernel::open()?;
        let (observation, node) = observe(&options, config, &mut kernel).await?;
        let records = match &listing {
            Ok(listing) => listing.records.clone(),
            Err(_) => remembered_records(&remembered),
        };
        let inputs = Inputs {
            records: &records,
            from_store: listing.is_ok(),
            remembered: &remembered,
            subnet_env: subnet_env.as_deref(),
            observation: &observation,
        };
        let view = node.map(|node| node.map(|node| View::new(node, &inputs)));
        let config = config.and_then(|text| NetworkConfig::parse(text).ok());
        Ok(Self { options, store, listing, observation, view, remembered, subnet_env, kernel, config })
    }
}

/// This node and the desired state of its kernel, computed as in the daemon.
pub(crate) struct View {
    pub(crate) node: Node,
    pub(crate) table: LeaseTable,
    /// Leases that overlap an older one, with that one.
    pub(crate) losers: Vec<(Subnets, Subnets)>,
    pub(crate) own: Option<Own>,
    /// The data that this node would publish.
    pub(crate) attrs: Option<LeaseAttrs>,
    /// Desired and actual state of the kernel; `None` without a lease.
    pub(crate) kernel: Option<Result<Comparison, BackendError>>,
}

/// The lease of this node.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) subnets: Subnets,
    /// The published data; `None` if the lease is only in the state directory.
    pub(crate) published: Option<LeaseAttrs>,
}

/// Desired and actual state.
pub(crate) struct Comparison {
    pub(crate) assembly: Assembly,
    pub(crate) actual: Dataplane,
    pub(crate) ops: Vec<Op>,
}

/// Inputs of [`View::new`].
pub(crate) struct Inputs<'a> {
    pub(crate) records: &'a [Record],
    /// The records are from the store, not from the state directory.
    pub(crate) from_store: bool,
    pub(crate) remembered: &'a Remembered,
    pub(crate) subnet_env: Option<&'a str>,
    pub(crate) observation: &'a Observation,
}

impl View {
    pub(crate) fn new(mut node: Node, inputs: &Inputs<'_>) -> Self {
        let mut cluster = flannel_core::cluster::Cluster::default();
        cluster.listing(inputs.records, None, false, Duration::ZERO);
        let (winners, losers) = cluster.settled();
        let table = cluster.table().clone();
        let own = own_lease(&node, &table, inputs);
        let published = own.as_ref().and_then(|own| own.published.as_ref());
        node.settle_endpoints(
            &inputs.observation.dataplane,
            &inputs.remembered.vtep_macs,
            published,
            // Used only if the device never existed; then nothing is compared with it.
            || [0; 6],
        );
        let attrs = node.attrs().ok();
        let kernel = own.as_ref().map(|own| {
            let desired = node.desired(&own.subnets, &inputs.observation.facts, pods::addresses)?;
            let peers = winners.into_iter().filter(|lease| lease.subnets != own.subnets);
            let assembly = Assembly::new(desired, peers);
            let networks = node.networks();
            let scope = Scope { desired: assembly.dataplane(), networks: &networks };
            let actual = owned(&inputs.observation.dataplane, &scope);
            let prune = if inputs.from_store { Prune::Surplus } else { Prune::Keep };
            let ops = plan(assembly.dataplane(), &actual, prune);
            Ok(Comparison { assembly, actual, ops })
        });
        Self { node, table, losers, own, attrs, kernel }
    }

    /// The families of the network config.
    pub(crate) fn families(&self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(|family| self.node.config().has(*family))
    }

    /// The leases of the other nodes.
    pub(crate) fn peers(&self) -> impl Iterator<Item = (&Subnets, &LeaseAttrs)> {
        let own = self.own.as_ref().map(|own| own.subnets);
        let leases = self.table.leases().iter().filter(move |(subnets, _)| Some(**subnets) != own);
        leases.map(|(subnets, entry)| (subnets, &entry.lease.attrs))
    }

    /// Desired and actual state, if available.
    pub(crate) fn comparison(&self) -> Option<&Comparison> {
        self.kernel.as_ref()?.as_ref().ok()
    }
}

/// The lease of this node: of those with its public address the one in the state directory, then the one in `subnet.env`,
/// then the first. If the store has none, the one in the state directory.
fn own_lease(node: &Node, table: &LeaseTable, inputs: &Inputs<'_>) -> Option<Own> {
    let public = &node.external().public;
    let is_ours = |attrs: &LeaseAttrs| {
        let (ours, theirs) = match public.v4 {
            Some(address) => (Some(address), attrs.public_address(Family::V4)),
            None => (public.v6, attrs.public_address(Family::V6)),
        };
        ours.is_some() && ours == theirs
    };
    let candidates: Vec<Subnets> = table
        .leases()
        .iter()
        .filter(|(subnets, entry)| is_ours(&entry.lease.attrs) && node.config().allows(subnets))
        .map(|(subnets, _)| *subnets)
        .collect();
    let remembered = inputs.remembered.lease.as_ref().and_then(|lease| Subnets::parse_key(&lease.key).ok());
    let written = inputs.subnet_env.map(|text| PreviousEnv::parse(text).subnets);
    let preferred = [remembered, written];
    let chosen = preferred
        .into_iter()
        .flatten()
        .find(|subnets| candidates.contains(subnets))
        .or_else(|| candidates.first().copied());
    match chosen {
        Some(subnets) => {
            let published = table.leases().get(&subnets).map(|entry| entry.lease.attrs.clone());
            Some(Own { subnets, published })
        }
        None => preferred
            .into_iter()
            .flatten()
            .find(|subnets| node.config().allows(subnets) && !table.leases().contains_key(subnets))
            .map(|subnets| Own { subnets, published: None }),
    }
}

/// Observes the kernel twice: the node needs the interfaces, and determines the devices whose neighbours are read.
async fn observe(
    options: &Options,
    config: Option<&str>,
    kernel: &mut NetlinkKernel,
) -> anyhow::Result<(Observation, Option<Result<Node, NodeError>>)> {
    let observation = kernel.observe(&BTreeSet::new()).await?;
    let Some(config) = config else { return Ok((observation, None)) };
    match Node::new(NodeOptions::from(options), config, &observation.facts) {
        Ok(node) => {
            let observation = kernel.observe(&node.tunnels()).await?;
            Ok((observation, Some(Ok(node))))
        }
        Err(error) => Ok((observation, Some(Err(error)))),
    }
}

fn remembered_records(remembered: &Remembered) -> Vec<Record> {
    let record = |(key, value): &(String, Vec<u8>)| Record {
        key: key.clone(),
        value: value.clone(),
        revision: flannel_core::lease::Revision::default(),
        grant: None,
    };
    remembered.records.iter().map(record).collect()
}

/// A directory that is not there is not made: whoever asks for a diagnosis wants to hear of it.
async fn ask_store(options: &StoreOptions) -> anyhow::Result<(Store, Result<Listing, String>)> {
    let store = options.open()?;
    let listing = match options.missing() {
        Some(missing) => Err(missing),
        None => store.list().await.map_err(|error| flannel_core::error::chain(&error)),
    };
    Ok((store, listing))
}
