//! Reads the facts for the checks. Nothing is changed; for facts that cannot be read, the reason is recorded.

use flannel_core::config::{NetworkConfig, SubnetRange};
use flannel_core::error::chain;
use flannel_core::family::Family;
use flannel_core::host_local::DATA_DIRECTORY;
use flannel_core::lease::Subnets;
use flannel_core::ruleset::{Mode, Ruleset};
use flannel_core::store::Listing;
use flanneld::firewall;
use flanneld::host::sysctl::Sysctl;
use flanneld::kernel::NetlinkKernel;
use flanneld::store::Store;
use rustix::process::geteuid;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::facts::{Facts, FirewallFacts, Hidden, KindFacts, StoreFacts};
use crate::node::cni::CONFIGS;
use crate::node::daemon::{self, Invocation};
use crate::node::mounts;
use crate::node::runtime::{Kind, Place};
use crate::node::view::{Snapshot, View};

mod cni;
mod host;
mod kubernetes;
mod path;
mod rules;
mod runtime;

/// Default directories of CNI plugins.
pub(crate) const PLUGINS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// Directories of the CNI runtime.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) cni_configs: PathBuf,
    pub(crate) cni_plugins: Vec<PathBuf>,
    /// The container runtimes.
    pub(crate) runtimes: Vec<Place>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            cni_configs: CONFIGS.into(),
            cni_plugins: PLUGINS.map(PathBuf::from).into(),
            runtimes: [Kind::Containerd, Kind::Crio].map(Place::of).into(),
        }
    }
}

/// Gathers all facts. Measurements of paths are taken from `before`: no daemon repairs them, and an unreachable node costs
/// seconds.
pub(crate) async fn gather(
    invocation: &Invocation,
    places: &Places,
    before: Option<&Facts>,
) -> anyhow::Result<Facts> {
    let Snapshot { options, store, listing, observation, view, remembered, subnet_env, mut kernel, config } =
        Snapshot::of(invocation).await?;
    let config_text = listing.as_ref().ok().and_then(|listing| Some(listing.config.as_ref()?.text.clone()));
    let seen = view.as_ref().and_then(|view| view.as_ref().ok());
    let ranges = config.iter().flat_map(NetworkConfig::ranges);
    let families: Vec<Family> = ranges.map(SubnetRange::family).collect();
    let mode = match &config {
        Some(config) if !config.enable_nftables => Mode::Iptables,
        _ => Mode::Nftables,
    };
    let own = seen.and_then(|view| Some(view.own.as_ref()?.subnets));
    let links = host::links(&observation, seen);
    let (filters, texts) = rules::filters(&families).await;
    let hidden = hidden(places);
    let kubernetes = kubernetes::read(&store, config_text.as_deref(), &texts, &hidden).await;
    Ok(Facts {
        is_root: geteuid().is_root(),
        daemons: invocation.daemons.clone(),
        answer: daemon::ask(invocation).await,
        firewalls: daemon::firewalls(&invocation.daemons).await,
        store: store_facts(&store, listing, own.as_ref()).await,
        firewall: match seen {
            Some(view) => firewall_facts(view).await,
            None => None,
        },
        filters,
        sysctls: host::sysctls(&links),
        advertised: host::advertised(&mut kernel, &observation).await,
        bridge_netfilter: firewall::bridge::findings(&Sysctl::default(), mode, &families),
        kinds: kinds(&mut kernel, config.as_ref()).await,
        offload: host::offload(seen).await,
        checksum_errors: host::checksum_errors(),
        unwritable: host::unwritable(&options),
        paths: match before {
            Some(before) => before.paths.clone(),
            None => path::measure(seen).await,
        },
        cni: cni::read(places, own.as_ref()).await,
        obstacles: seen.map_or_else(Vec::new, |view| view.obstacles(&observation)),
        remembered,
        hidden,
        kubernetes,
        observation,
        view,
        subnet_env,
        options,
    })
}

/// What a pod does not see of its node.
fn hidden(places: &Places) -> Hidden {
    // Of several places, one is sufficient.
    let all = |paths: Vec<&Path>| {
        let mut hidden: Vec<Option<String>> = paths.into_iter().map(mounts::hidden).collect();
        if hidden.iter().all(Option::is_some) { hidden.pop().flatten() } else { None }
    };
    Hidden {
        cni_configs: mounts::hidden(&places.cni_configs),
        cni_plugins: all(places.cni_plugins.iter().map(PathBuf::as_path).collect()),
        pods: mounts::hidden(Path::new(DATA_DIRECTORY)),
        runtimes: all([Kind::Crio, Kind::Containerd].map(|kind| Path::new(kind.socket())).into()),
        processes: mounts::hidden_processes(),
    }
}

/// The store, and the lease of this node in it.
async fn store_facts(store: &Store, listing: Result<Listing, String>, own: Option<&Subnets>) -> StoreFacts {
    let (mut latency, mut clock_ahead, mut time_left) = (None, None, None);
    if let Ok(listing) = &listing {
        latency = measure_latency(store).await;
        clock_ahead = store.clock_ahead_secs().await;
        let key = own.map(ToString::to_string);
        if let Some(record) = listing.records.iter().find(|record| Some(&record.key) == key.as_ref()) {
            time_left = store.life(record).await.ok().flatten().map(|life| life.left);
        }
    }
    let (location, config_place) = (store.identity().location.clone(), store.identity().config_place.clone());
    StoreFacts { location, config_place, listing, latency, clock_ahead, time_left }
}

/// The median time of some requests on an established connection.
async fn measure_latency(store: &Store) -> Option<Duration> {
    let mut times = Vec::new();
    for _ in 0..3 {
        let started = Instant::now();
        store.probe().await.ok()?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

/// The owned rules of both firewall modes.
async fn firewall_facts(view: &View) -> Option<FirewallFacts> {
    let own = view.own.as_ref()?;
    let firewall::Desired { mode, ruleset } = view.node.firewall(&own.subnets);
    let text = |error: firewall::FirewallError| chain(&error);
    let in_force = firewall::of(mode).verify(&ruleset).await.map_err(text);
    let nothing = firewall::of(mode.other()).verify(&Ruleset::default()).await;
    Some(FirewallFacts { mode, in_force, has_stale_rules: nothing.map(|nothing| !nothing).map_err(text) })
}

/// The kinds of link that pods and the backend need.
async fn kinds(kernel: &mut NetlinkKernel, config: Option<&NetworkConfig>) -> Vec<KindFacts> {
    let Some(NetworkConfig { backend, .. }) = config else { return Vec::new() };
    let of_backend = backend.link_kind().map(|name| (name, backend.is_link_kind_replaceable()));
    let mut kinds = Vec::new();
    for (name, is_replaceable) in of_backend.into_iter().chain([("bridge", false), ("veth", false)]) {
        let is_supported = kernel.supports_link_kind(name).await.map_err(|error| chain(&error));
        kinds.push(KindFacts { name, is_replaceable, is_supported });
    }
    kinds
}
