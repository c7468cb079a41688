//! Reads the world for the checks. Nothing is changed, and what cannot be read is said, not guessed.

use flannel_core::config::{BackendConfig, NetworkConfig};
use flannel_core::family::Family;
use flannel_core::ruleset::{Mode, Ruleset};
use flannel_core::store::Listing;
use flanneld::cli::Options;
use flanneld::firewall::{self, AnyFirewall, Firewall as _};
use flanneld::host::subnet_file;
use flanneld::host::sysctl::Sysctl;
use flanneld::kernel::{Kernel as _, NetlinkKernel, Observation};
use flanneld::node::{Node, NodeError, NodeOptions};
use flanneld::state::{Remembered, StateDir};
use flanneld::store::Store;
use flanneld::store::StoreOptions;
use rustix::process::geteuid;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::facts::{Facts, FirewallFacts, Inputs, StoreFacts, View};

mod clock;
mod cni;
mod daemon;
mod host;
mod path;
mod rules;

pub(crate) use daemon::{Invocation, options_of};

/// What the doctor is told.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) cni_configs: PathBuf,
    pub(crate) cni_plugins: Vec<PathBuf>,
}

/// The node as store and kernel show it: what every question about it begins with.
pub(crate) struct Sight {
    pub(crate) options: Options,
    pub(crate) store: Store,
    pub(crate) listing: Result<Listing, String>,
    pub(crate) observation: Observation,
    /// `None` without a config.
    pub(crate) view: Option<Result<View, NodeError>>,
    remembered: Remembered,
    subnet_env: Option<String>,
    kernel: NetlinkKernel,
    config: Option<NetworkConfig>,
}

impl Sight {
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

/// Gathers everything. What was measured on the way to other nodes is taken from `before`, since nobody mends that
/// meanwhile, and a node that is silent costs seconds.
pub(crate) async fn gather(
    invocation: &Invocation,
    places: &Places,
    before: Option<&Facts>,
) -> anyhow::Result<Facts> {
    let Sight { options, store, listing, observation, view, remembered, subnet_env, mut kernel, config } =
        Sight::of(invocation).await?;
    let seen = view.as_ref().and_then(|view| view.as_ref().ok());
    let families: Vec<Family> = match &config {
        Some(config) => Family::ALL.into_iter().filter(|family| config.has(*family)).collect(),
        None => Vec::new(),
    };
    let mode = match &config {
        Some(config) if !config.enable_nftables => Mode::Iptables,
        _ => Mode::Nftables,
    };
    let time_left = match (seen.and_then(|view| view.own.as_ref()), &listing) {
        (Some(own), Ok(listing)) => time_left(&store, listing, &own.subnets.to_string()).await,
        _ => None,
    };
    let links = host::links(&observation, seen);
    Ok(Facts {
        is_root: geteuid().is_root(),
        daemons: invocation.daemons.clone(),
        answer: daemon::ask(invocation).await,
        store: StoreFacts {
            location: store.identity().location.clone(),
            config_place: store.identity().config_place.clone(),
            latency: match &listing {
                Ok(_) => latency(&store).await,
                Err(_) => None,
            },
            clock_ahead: match &options.store {
                StoreOptions::Etcd(etcd) if listing.is_ok() => Some(clock::ahead(etcd).await),
                _ => None,
            },
            listing,
            time_left,
        },
        firewall: match seen {
            Some(view) => ours_in_firewall(view).await,
            None => None,
        },
        filters: rules::filters(&families).await,
        sysctls: host::sysctls(&links),
        bridge_netfilter: firewall::bridge::findings(&Sysctl::default(), mode, &families),
        kinds: kinds(&mut kernel, config.as_ref()).await,
        offload: host::offload(seen).await,
        checksum_errors: host::checksum_errors(),
        unwritable: host::unwritable(&options),
        paths: match before {
            Some(before) => before.paths.clone(),
            None => path::measure(seen).await,
        },
        cni: cni::look(places, seen),
        remembered,
        observation,
        view,
        subnet_env,
        options,
    })
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

fn remembered_records(remembered: &Remembered) -> Vec<flannel_core::store::Record> {
    let record = |(key, value): &(String, Vec<u8>)| flannel_core::store::Record {
        key: key.clone(),
        value: value.clone(),
        revision: flannel_core::lease::Revision::default(),
        grant: None,
    };
    remembered.records.iter().map(record).collect()
}

/// A directory that is not there is not made: whoever asks for a diagnosis wants to hear of it.
async fn ask_store(options: &StoreOptions) -> anyhow::Result<(Store, Result<Listing, String>)> {
    let store = options.clone().open()?;
    let missing = match options {
        StoreOptions::Directory(path) if !path.is_dir() => Some(path),
        _ => None,
    };
    let listing = match missing {
        Some(path) => Err(format!("{} is not a directory", path.display())),
        None => store.list().await.map_err(|error| flannel_core::error::chain(&error)),
    };
    Ok((store, listing))
}

/// The middle one of some requests on a connection that stands.
async fn latency(store: &Store) -> Option<Duration> {
    let mut times = Vec::new();
    for _ in 0..3 {
        let started = Instant::now();
        store.list().await.ok()?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

async fn time_left(store: &Store, listing: &Listing, key: &str) -> Option<Duration> {
    let record = listing.records.iter().find(|record| record.key == key)?;
    Some(store.life(record).await.ok()??.left)
}

async fn ours_in_firewall(view: &View) -> Option<FirewallFacts> {
    let own = view.own.as_ref()?;
    let firewall::Desired { mode, ruleset } = view.node.firewall(&own.subnets);
    let text = |error: firewall::FirewallError| flannel_core::error::chain(&error);
    let in_force = AnyFirewall::new(mode).verify(&ruleset).await.map_err(text);
    let nothing = AnyFirewall::new(mode.other()).verify(&Ruleset::default()).await;
    Some(FirewallFacts { mode, in_force, leftover: nothing.map(|nothing| !nothing).map_err(text) })
}

/// The kinds of link that the backend needs, each asked of the kernel.
async fn kinds(
    kernel: &mut NetlinkKernel,
    config: Option<&NetworkConfig>,
) -> Vec<(&'static str, Result<bool, String>)> {
    let Some(config) = config else { return Vec::new() };
    let backend = match &config.backend {
        BackendConfig::Vxlan(_) => Some("vxlan"),
        BackendConfig::Ipip(_) => Some("ipip"),
        BackendConfig::Wireguard(_) => Some("wireguard"),
        _ => None,
    };
    let mut kinds = Vec::new();
    for kind in backend.into_iter().chain(["bridge", "veth"]) {
        let known = kernel.knows_link_kind(kind).await;
        kinds.push((kind, known.map_err(|error| flannel_core::error::chain(&error))));
    }
    kinds
}
