//! This node according to store and kernel, and the desired state of its kernel.

use flannel_core::backend::BackendError;
use flannel_core::config::NetworkConfig;
use flannel_core::dataplane::{Dataplane, Op};
use flannel_core::desired::Assembly;
use flannel_core::error::chain;
use flannel_core::family::Family;
use flannel_core::lease::table::LeaseTable;
use flannel_core::lease::{LeaseAttrs, Subnets};
use flannel_core::obstacle::{Obstacle, obstacles};
use flannel_core::owned::{Scope, owned};
use flannel_core::plan::{Prune, plan};
use flannel_core::store::Listing;
use flannel_core::subnet_env::PreviousEnv;
use flanneld::cli::Options;
use flanneld::host::{pods, sockets, subnet_file};
use flanneld::kernel::{Effector as _, NetlinkKernel, Observation};
use flanneld::node::{Node, NodeError};
use flanneld::state::{Remembered, StateDir};
use flanneld::store::Store;
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
            options.node.ip_masq |=
                subnet_env.as_deref().is_some_and(|text| text.contains("FLANNEL_IPMASQ=true"));
        }
        let store = options.store.open()?;
        let listing = match options.store.missing() {
            // A missing directory is reported, not created.
            Some(missing) => Err(missing),
            None => store.list().await.map_err(|error| chain(&error)),
        };
        let config = listing.as_ref().map_or(&remembered.config, |listing| &listing.config);
        let text = config.as_ref().map(|record| record.text.clone());
        let mut kernel = NetlinkKernel::open()?;
        let mut observation = kernel.observe(&BTreeSet::new()).await?;
        let prescribed = listing.as_ref().map_or(remembered.prescribed, |listing| listing.own.prescribed);
        let new_node = |text: &str| Node::new(options.node.clone(), prescribed, text, &observation.facts);
        let node = text.as_deref().map(new_node);
        if let Some(Ok(node)) = &node {
            // Again, with the neighbours of its devices.
            observation = kernel.observe(&node.tunnels()).await?;
        }
        let config = text.and_then(|text| NetworkConfig::parse_for(&text, options.store.ownership()).ok());
        let mut snapshot =
            Self { options, store, listing, observation, view: None, remembered, subnet_env, kernel, config };
        snapshot.view = node.map(|node| node.map(|node| View::new(node, &snapshot)));
        Ok(snapshot)
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

impl View {
    fn new(mut node: Node, snapshot: &Snapshot) -> Self {
        let Snapshot { listing, observation, remembered, .. } = snapshot;
        // Without the store, nothing is known to be stale.
        let (records, prune) = match listing {
            Ok(listing) => (listing.records.clone(), Prune::Surplus),
            Err(_) => (remembered.records.clone(), Prune::Keep),
        };
        let mut cluster = flannel_core::cluster::Cluster::default();
        cluster.listing(&records, None, false, Duration::ZERO);
        let (winners, losers) = cluster.settled();
        let table = cluster.table().clone();
        let own = own_lease(&node, &table, snapshot);
        let published = own.as_ref().and_then(|own| own.published.as_ref());
        // The MAC is used only if the device never existed; then nothing is compared with it.
        node.settle_endpoints(&observation.dataplane, &remembered.vtep_macs, published, || [0; 6]);
        let attrs = node.attrs().ok();
        let kernel = own.as_ref().map(|own| {
            let mut peers = winners;
            peers.retain(|lease| lease.subnets != own.subnets);
            let next_hops = node.next_hops(peers.len(), observation);
            let desired = node.desired(&own.subnets, &observation.facts, next_hops, pods::addresses)?;
            let assembly = Assembly::new(desired, peers);
            let networks = node.networks();
            let scope = Scope { desired: assembly.dataplane(), networks: &networks };
            let actual = owned(observation.dataplane.clone(), &scope);
            let ops = plan(assembly.dataplane(), &actual, prune);
            Ok(Comparison { assembly, actual, ops })
        });
        Self { node, table, losers, own, attrs, kernel }
    }

    /// The leases of the other nodes.
    pub(crate) fn peers(&self) -> impl Iterator<Item = (&Subnets, &LeaseAttrs)> {
        let own = self.own.as_ref().map(|own| own.subnets);
        let leases = self.table.leases().iter().filter(move |(subnets, _)| Some(**subnets) != own);
        leases.map(|(subnets, entry)| (subnets, &entry.lease.attrs))
    }

    /// Objects of other programs that are in the way of desired ones.
    pub(crate) fn obstacles(&self, observation: &Observation) -> Vec<Obstacle> {
        let Some(comparison) = self.comparison() else { return Vec::new() };
        let networks = self.node.networks();
        let scope = Scope { desired: comparison.assembly.dataplane(), networks: &networks };
        obstacles(&observation.dataplane, &scope, sockets::udp)
    }

    /// Desired and actual state, if available.
    pub(crate) fn comparison(&self) -> Option<&Comparison> {
        self.kernel.as_ref()?.as_ref().ok()
    }
}

/// The lease of this node: the one that the store names; of those with its public address the one in the state directory, then the one in `subnet.env`,
/// then the first. If the store has none, the one in the state directory.
fn own_lease(node: &Node, table: &LeaseTable, snapshot: &Snapshot) -> Option<Own> {
    let named = snapshot.store.own_key().and_then(|key| Subnets::parse_key(&key).ok());
    let public = &node.external().public;
    let family = if public.v4.is_some() { Family::V4 } else { Family::V6 };
    let published = |subnets: &Subnets| table.leases().get(subnets).map(|entry| &entry.lease.attrs);
    let has_our_address = |attrs: &LeaseAttrs| {
        attrs.public_address(family).is_some_and(|address| public.get(family) == Some(&address))
    };
    let remembered = snapshot.remembered.lease.as_ref();
    let remembered = remembered.and_then(|lease| Subnets::parse_key(&lease.key).ok());
    let written = snapshot.subnet_env.as_deref().map(|text| PreviousEnv::parse(text).subnets);
    let former = || remembered.into_iter().chain(written);
    let of_node = former()
        .chain(table.leases().keys().copied())
        .filter(|subnets| published(subnets).is_some_and(has_our_address));
    let named = named.filter(|subnets| published(subnets).is_some());
    let mut others = of_node.chain(former().filter(|subnets| published(subnets).is_none()));
    let subnets = named.or_else(|| others.find(|subnets| node.config().allows(subnets)))?;
    Some(Own { subnets, published: published(&subnets).cloned() })
}
