//! What the checks judge: everything that was gathered, as plain values.

use flannel_core::dataplane::{Dataplane, Op};
use flannel_core::desired::{Assembly, DesiredError};
use flannel_core::family::Family;
use flannel_core::lease::table::LeaseTable;
use flannel_core::lease::{LeaseAttrs, Subnets};
use flannel_core::owned::{Scope, owned};
use flannel_core::plan::{Prune, plan};
use flannel_core::ruleset::Mode;
use flannel_core::ruleset::bridge::BridgeFinding;
use flannel_core::store::{Listing, Record};
use flannel_core::subnet_env::PreviousEnv;
use flanneld::cli::Options;
use flanneld::host::pods;
use flanneld::kernel::Observation;
use flanneld::node::{Node, NodeError};
use flanneld::state::Remembered;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::packet_filter::Filter;
use crate::command::cni::CniFile;

/// Everything.
pub(crate) struct Facts {
    /// Others do not see everything, and what they may not do says nothing about the daemon.
    pub(crate) is_root: bool,
    /// The daemons of this network namespace.
    pub(crate) daemons: Vec<Daemon>,
    /// How the daemon is, or would be, started.
    pub(crate) options: Options,
    /// What the only daemon says of itself.
    pub(crate) answer: DaemonAnswer,
    pub(crate) store: StoreFacts,
    pub(crate) remembered: Remembered,
    pub(crate) observation: Observation,
    /// This node as the config makes it; `None` without a config.
    pub(crate) view: Option<Result<View, NodeError>>,
    /// Our rules, where there is a lease that they follow from.
    pub(crate) firewall: Option<FirewallFacts>,
    /// All packet filters, by family.
    pub(crate) filters: Vec<(Family, Result<Filter, String>)>,
    /// Settings below `/proc/sys` that exist, by path.
    pub(crate) sysctls: BTreeMap<String, String>,
    pub(crate) bridge_netfilter: Vec<BridgeFinding>,
    /// Kinds of link that the backend needs, and whether the kernel has them.
    pub(crate) kinds: Vec<(&'static str, Result<bool, String>)>,
    /// Offload settings of the tunnel devices that are off: device and `ethtool` name. Or why they are not known.
    pub(crate) offload: Result<Vec<(String, String)>, String>,
    /// UDP packets with wrong checksums, and all that arrived.
    pub(crate) checksum_errors: Option<(u64, u64)>,
    /// Text of `subnet.env`.
    pub(crate) subnet_env: Option<String>,
    /// Places that the daemon must write to and that cannot be written, with the reason.
    pub(crate) unwritable: Vec<(PathBuf, String)>,
    pub(crate) paths: Result<Vec<PathFacts>, String>,
    pub(crate) cni: CniFacts,
}

/// A daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Daemon {
    pub(crate) pid: u32,
    /// The kernel's letter for it: `S` sleeps, `T` is stopped.
    pub(crate) state: char,
    /// What tells its store from others of this host; `None` where its command line does not parse.
    pub(crate) scope: Option<String>,
}

impl Daemon {
    /// Stopped by a signal, or by a debugger.
    pub(crate) const fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }
}

/// What the daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DaemonAnswer {
    /// There is none, several, or none that can be asked.
    NotAsked,
    /// It is ready.
    Ready,
    /// It is not, with its words.
    NotReady(String),
    /// It says nothing.
    Silent(String),
}

/// The store.
#[derive(Debug)]
pub(crate) struct StoreFacts {
    /// Where it is, for people.
    pub(crate) location: String,
    /// Where the config is, for people.
    pub(crate) config_place: String,
    /// Config and records, or why there are none.
    pub(crate) listing: Result<Listing, String>,
    /// The median time of an answer.
    pub(crate) latency: Option<Duration>,
    /// By how many seconds the clock of the store is ahead of ours, or why that is not known. `None` for a directory.
    pub(crate) clock_ahead: Option<Result<i64, String>>,
    /// What our lease has left.
    pub(crate) time_left: Option<Duration>,
}

/// Our rules.
#[derive(Debug)]
pub(crate) struct FirewallFacts {
    pub(crate) mode: Mode,
    /// Whether they are in force in each family that has some, or why that is not known.
    pub(crate) in_force: Result<bool, String>,
    /// Whether the other mode has something of ours, or why that is not known.
    pub(crate) leftover: Result<bool, String>,
}

/// What was measured on the way to another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathFacts {
    pub(crate) public: IpAddr,
    /// The size that must pass.
    pub(crate) needed: u32,
    /// The largest that does; `None` if nothing comes back at all.
    pub(crate) largest: Option<u32>,
}

/// What the container runtime sees.
#[derive(Clone, Debug, Default)]
pub(crate) struct CniFacts {
    /// The directory of the configs.
    pub(crate) directory: PathBuf,
    /// Its files in the order in which a runtime reads them.
    pub(crate) files: Vec<CniFile>,
    /// Where plugins are looked for.
    pub(crate) plugin_directories: Vec<PathBuf>,
    /// Names of the plugins that are there.
    pub(crate) plugins: Vec<String>,
    /// Addresses in use, by file.
    pub(crate) reservations: Vec<Reservation>,
}

impl CniFacts {
    /// The name of the pods' bridge.
    pub(crate) fn bridge(&self) -> &str {
        let mut named = self.files.iter().filter_map(|file| file.flannel()?["delegate"]["bridge"].as_str());
        named.next().unwrap_or("cni0")
    }
}

/// An address that host-local keeps for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) address: IpAddr,
    /// The name in its CNI config.
    pub(crate) network: String,
    /// Why nobody can be using it, if so.
    pub(crate) abandoned: Option<String>,
}

impl Facts {
    /// The view of this node, where there is one.
    pub(crate) fn view(&self) -> Option<&View> {
        self.view.as_ref()?.as_ref().ok()
    }

    /// Our lease with its record.
    pub(crate) fn own(&self) -> Option<&Own> {
        self.view()?.own.as_ref()
    }

    /// A daemon runs and is not stopped.
    pub(crate) fn daemon_works(&self) -> bool {
        self.daemons.iter().any(|daemon| !daemon.is_stopped())
            && !matches!(self.answer, DaemonAnswer::Silent(_))
    }

    /// The node has run flannel before, so that a daemon should be running, and pods may be.
    pub(crate) fn ran_before(&self) -> bool {
        !self.daemons.is_empty() || self.remembered.lease.is_some() || self.subnet_env.is_some()
    }

    /// The command that makes the daemon put things right.
    pub(crate) fn restart(&self) -> &'static str {
        if self.daemons.is_empty() { "systemctl start flanneld" } else { "systemctl restart flanneld" }
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
    pub(crate) kernel: Option<Result<Comparison, DesiredError>>,
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
