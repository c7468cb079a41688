//! What the checks judge: everything that was gathered, as plain values.

use flannel_core::family::Family;
use flannel_core::ruleset::Mode;
use flannel_core::ruleset::bridge::BridgeFinding;
use flannel_core::store::Listing;
use flanneld::cli::Options;
use flanneld::kernel::Observation;
use flanneld::node::NodeError;
use flanneld::state::Remembered;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::packet_filter::Filter;
use crate::node::cni::CniFile;
use crate::node::daemon::{Daemon, DaemonAnswer};
use crate::node::view::{Own, View};

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
        named.next().unwrap_or(flannel_core::cni::BRIDGE)
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
