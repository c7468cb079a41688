//! The input of the checks, as plain values.

use flannel_core::advertisement::Advertised;
use flannel_core::family::Family;
use flannel_core::gateway::Gateways;
use flannel_core::lease::Subnets;
use flannel_core::link::LinkName;
use flannel_core::obstacle::Obstacle;
use flannel_core::ruleset::Mode;
use flannel_core::ruleset::bridge::BridgeFinding;
use flannel_core::status::Firewall;
use flannel_core::store::Listing;
use flanneld::cli::Options;
use flanneld::kernel::Observation;
use flanneld::node::NodeError;
use flanneld::state::Remembered;
use flanneld::store::ClusterFacts;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::packet_filter::Filter;
use crate::node::cni::CniFile;
use crate::node::daemon::{Daemon, DaemonAnswer};
use crate::node::host_local::Network;
use crate::node::kube_proxy::KubeProxy;
use crate::node::ports::Port;
use crate::node::runtime::{Runtime, Settings};
use crate::node::view::{Own, View};

/// All facts.
pub(crate) struct Facts {
    /// Other users cannot read everything, and their permissions do not matter to the daemon.
    pub(crate) is_root: bool,
    /// The daemons of this network namespace.
    pub(crate) daemons: Vec<Daemon>,
    /// Options of the running daemon, or of the one that would be started.
    pub(crate) options: Options,
    /// Response of the daemon.
    pub(crate) answer: DaemonAnswer,
    /// Firewall rules of each daemon by process, if there are several.
    pub(crate) firewalls: Vec<(u32, Firewall)>,
    pub(crate) store: StoreFacts,
    pub(crate) remembered: Remembered,
    pub(crate) observation: Observation,
    /// This node; `None` without a config.
    pub(crate) view: Option<Result<View, NodeError>>,
    /// Objects of other programs that are in the way of desired ones.
    pub(crate) obstacles: Vec<Obstacle>,
    /// Owned rules; `None` without a lease.
    pub(crate) firewall: Option<FirewallFacts>,
    /// All packet filters by family.
    pub(crate) filters: Vec<(Family, Result<Filter, String>)>,
    /// Settings below `/proc/sys` that exist, by path.
    pub(crate) sysctls: BTreeMap<String, String>,
    /// Interfaces with routes from router advertisements, or why they are unknown.
    pub(crate) advertised: Result<Vec<AdvertisedFacts>, String>,
    pub(crate) bridge_netfilter: Vec<BridgeFinding>,
    /// Kinds of link that pods and the backend need.
    pub(crate) kinds: Vec<KindFacts>,
    /// Offload features of tunnel devices that are off, by device and `ethtool` name; or why they are unknown.
    pub(crate) offload: Result<Vec<(String, String)>, String>,
    /// Number of UDP packets with invalid and with valid checksums.
    pub(crate) checksum_errors: Option<(u64, u64)>,
    /// Text of `subnet.env`.
    pub(crate) subnet_env: Option<String>,
    /// Directories that the daemon cannot write to, with the reason.
    pub(crate) unwritable: Vec<(PathBuf, String)>,
    pub(crate) paths: Result<Vec<PathFacts>, String>,
    pub(crate) cni: CniFacts,
    /// What is hidden from this process.
    pub(crate) hidden: Hidden,
    /// The cluster of Kubernetes, if that is the store.
    pub(crate) kubernetes: Option<KubernetesFacts>,
}

/// What only a cluster of Kubernetes has.
#[derive(Debug)]
pub(crate) struct KubernetesFacts {
    pub(crate) cluster: ClusterFacts,
    /// kube-proxy of this node; `None` if there is none.
    pub(crate) proxy: Result<Option<KubeProxy>, String>,
    /// Lengths of subnets in the text of the network config, by family.
    pub(crate) subnet_lens: Vec<(Family, u64)>,
}

/// What a pod does not see of its node, with the reason.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hidden {
    pub(crate) cni_configs: Option<String>,
    pub(crate) cni_plugins: Option<String>,
    /// Addresses and interfaces of pods.
    pub(crate) pods: Option<String>,
    pub(crate) runtimes: Option<String>,
    pub(crate) processes: Option<String>,
}

/// The store.
#[derive(Debug)]
pub(crate) struct StoreFacts {
    /// Location, for messages.
    pub(crate) location: String,
    /// Location of the config, for messages.
    pub(crate) config_place: String,
    /// Config and records, or why they are unavailable.
    pub(crate) listing: Result<Listing, String>,
    /// Median response time.
    pub(crate) latency: Option<Duration>,
    /// Seconds by which the clock of the store is ahead, or why that is unknown. `None` for a store without a clock.
    pub(crate) clock_ahead: Option<Result<i64, String>>,
    /// Remaining time of the lease of this node.
    pub(crate) time_left: Option<Duration>,
}

/// Owned rules.
#[derive(Debug)]
pub(crate) struct FirewallFacts {
    pub(crate) mode: Mode,
    /// Whether they are in sync in all families, or why that is unknown.
    pub(crate) in_force: Result<bool, String>,
    /// Whether the other mode has owned rules, or why that is unknown.
    pub(crate) has_stale_rules: Result<bool, String>,
}

/// A kind of link.
#[derive(Debug)]
pub(crate) struct KindFacts {
    pub(crate) name: &'static str,
    /// Whether a userspace implementation can replace it.
    pub(crate) is_replaceable: bool,
    /// Whether the kernel supports it, or why that is unknown.
    pub(crate) is_supported: Result<bool, String>,
}

/// An interface with routes from router advertisements.
#[derive(Debug)]
pub(crate) struct AdvertisedFacts {
    pub(crate) link: LinkName,
    /// Whether it loses them when it forwards: `accept_ra` is 1.
    pub(crate) is_affected: bool,
    /// Whether it forwards.
    pub(crate) forwards: bool,
    pub(crate) routes: Vec<Advertised>,
}

/// A measurement of the path to another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathFacts {
    pub(crate) public: IpAddr,
    /// Required packet size.
    pub(crate) needed: u32,
    /// Largest packet that passes; `None` without a reply.
    pub(crate) largest: Option<u32>,
}

/// The environment of the container runtime.
#[derive(Debug, Default)]
pub(crate) struct CniFacts {
    /// Directory of the configs.
    pub(crate) directory: PathBuf,
    /// Its files, in the order of the runtime.
    pub(crate) files: Vec<CniFile>,
    /// Directories of the plugins.
    pub(crate) plugin_directories: Vec<PathBuf>,
    /// Names of the installed plugins.
    pub(crate) plugins: Vec<String>,
    /// The networks of host-local.
    pub(crate) networks: Vec<Network>,
    /// The gateways that running pods use.
    pub(crate) gateways: Gateways,
    /// The bridge ports of running pods, as far as the container runtime keeps them.
    pub(crate) ports: Vec<Port>,
    /// The container runtimes of this node.
    pub(crate) runtimes: Vec<RuntimeFacts>,
}

/// A container runtime.
#[derive(Debug)]
pub(crate) struct RuntimeFacts {
    pub(crate) runtime: Runtime,
    /// Directory of its CNI configs.
    pub(crate) directory: PathBuf,
    /// Whether the files of [`CniFacts`] are those of this directory.
    pub(crate) is_checked: bool,
    /// The files, in the order of the runtime.
    pub(crate) files: Vec<CniFile>,
    /// Names of the plugins in its directories.
    pub(crate) installed: Vec<String>,
    /// Plugins in the directories of [`CniFacts`] and of its configuration files.
    pub(crate) elsewhere: Vec<PathBuf>,
    /// Its configuration files that changed since its start, and how long after.
    pub(crate) changed: Vec<(PathBuf, Duration)>,
}

impl RuntimeFacts {
    /// The valid configs that each pod gets.
    pub(crate) fn used(&self) -> impl Iterator<Item = &CniFile> {
        let settings = self.runtime.settings();
        let valid = self.files.iter().filter(|file| file.plugins.is_ok()).enumerate();
        let used = valid.filter(move |(position, file)| match settings {
            Some(Settings { network: Some(name), .. }) => file.network == *name,
            Some(settings) => settings.admits(*position),
            None => false,
        });
        used.map(|(_, file)| file)
    }
}

impl CniFacts {
    /// Name of the bridge.
    pub(crate) fn bridge(&self) -> &str {
        let mut named = self.files.iter().filter_map(|file| file.flannel()?["delegate"]["bridge"].as_str());
        named.next().unwrap_or(flannel_core::cni::BRIDGE)
    }
}

impl Facts {
    /// This node, if available.
    pub(crate) fn view(&self) -> Option<&View> {
        self.view.as_ref()?.as_ref().ok()
    }

    /// What deletes a lease.
    pub(crate) fn release(&self, subnets: &Subnets) -> String {
        let key = subnets.to_string();
        let records = self.store.listing.iter().flat_map(|listing| &listing.records);
        match records.filter(|record| record.key == key).find_map(|record| record.node.as_ref()) {
            Some(node) => format!("kubectl delete node {node}"),
            None => format!("flannelctl lease release '{key}'"),
        }
    }

    /// The lease of this node.
    pub(crate) fn own(&self) -> Option<&Own> {
        self.view()?.own.as_ref()
    }

    /// Whether a daemon is running and responds.
    pub(crate) fn daemon_works(&self) -> bool {
        self.daemons.iter().any(|daemon| !daemon.is_stopped())
            && !matches!(self.answer, DaemonAnswer::Silent(_))
    }

    /// Whether the node has run flannel before, so that daemon and pods should be running.
    pub(crate) fn ran_before(&self) -> bool {
        !self.daemons.is_empty() || self.remembered.lease.is_some() || self.subnet_env.is_some()
    }
}
