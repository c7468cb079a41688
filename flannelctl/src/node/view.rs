//! The node as store and kernel show it, and what its kernel should have.

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
use flanneld::kernel::{Kernel as _, NetlinkKernel, Observation};
use flanneld::node::{Node, NodeError, NodeOptions};
use flanneld::state::{Remembered, StateDir};
use flanneld::store::{Store, StoreOptions};
use std::collections::BTreeSet;
use std::time::Duration;

use super::daemon::Invocation;

/// The node as store and kernel show it: what every question about it begins with.
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
    /// Looks. `Err` is about the looker: no netlink, no options.
    pub(crate) async fn of(invocation: &Invocation) -> anyhow::Result<Self> {
        let mut options = invocation.options.clone();
        let subnet_env = subnet_file::read(&options.subnet_file).ok().flatten();
        let remembered = StateDir::look(&options.state_dir, &options.store.scope());
        if invocation.daemons.is_empty() {
            // Nobody says how the daemon is started; what it told the CNI plugin is the next best.
            options.ip_masq |= subnet_env.as_deref().is_some_and(|text| text.contains("FLANNEL_IPMASQ=true"));
        }
        let (store, listing) = ask_store(&options.store).await?;
        let config = match &listing {
            Ok(listing) => listing.config.as_ref(),
            Err(_) => remembered.config.as_ref(),
        };
        let config = config.map(|record| record.text.as_str());
        let mut kernel = NetlinkKernel::open()?;
        let (observation, node) = look(&options, config, &mut kernel).await?;
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

/// This node, and what its kernel should have, computed as the daemon does.
pub(crate) struct View {
    pub(crate) node: Node,
    pub(crate) table: LeaseTable,
    /// Leases that give way, each with the older one that it overlaps.
    pub(crate) losers: Vec<(Subnets, Subnets)>,
    pub(crate) own: Option<Own>,
    /// What we would publish.
    pub(crate) attrs: Option<LeaseAttrs>,
    /// What the kernel should have and what of ours it has; `None` without a lease.
    pub(crate) kernel: Option<Result<Comparison, BackendError>>,
}

/// Our own lease.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) subnets: Subnets,
    /// As published; `None` if only our memory has it, because the store is away or has lost it.
    pub(crate) published: Option<LeaseAttrs>,
}

/// Desired and actual state.
pub(crate) struct Comparison {
    pub(crate) assembly: Assembly,
    pub(crate) actual: Dataplane,
    pub(crate) ops: Vec<Op>,
}

/// What the view is made from.
pub(crate) struct Inputs<'a> {
    pub(crate) records: &'a [Record],
    /// They are those of the store, and not only remembered.
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
            // Only where a device has never been: nothing is compared with it then.
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

    /// The comparison, where there is one.
    pub(crate) fn comparison(&self) -> Option<&Comparison> {
        self.kernel.as_ref()?.as_ref().ok()
    }
}

/// Which lease is ours: of those with our public address the one that we remember, then the one that `subnet.env` has,
/// then the first. Where the store has none, it is the one that we remember.
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
    let told = inputs.subnet_env.map(|text| PreviousEnv::parse(text).subnets);
    let wishes = [remembered, told];
    let chosen = wishes
        .into_iter()
        .flatten()
        .find(|wish| candidates.contains(wish))
        .or_else(|| candidates.first().copied());
    match chosen {
        Some(subnets) => {
            let published = table.leases().get(&subnets).map(|entry| entry.lease.attrs.clone());
            Some(Own { subnets, published })
        }
        None => wishes
            .into_iter()
            .flatten()
            .find(|wish| node.config().allows(wish) && !table.leases().contains_key(wish))
            .map(|subnets| Own { subnets, published: None }),
    }
}

/// The kernel, and the node that config and kernel make. The devices whose neighbours are wanted follow from the config,
/// and the config needs a look at the interfaces.
async fn look(
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
