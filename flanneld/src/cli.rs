//! Parses flags and `FLANNELD_*` variables into [`Options`].
//!
//! Compatibility: names, defaults and grammar are those of the Go flanneld, so that its unit files and manifests work unchanged.
//! Different on purpose: a parse error ends with exit code 2 instead of 0, and an invalid variable is an error instead of zero.

mod go_flags;
mod reader;
mod table;
#[cfg(test)]
mod tests;

use crate::store::{Ownership, StoreOptions};
use flannel_core::desired::NexthopThreshold;
use flannel_core::select::Criteria;
use go_flags::Setting;
use reader::Reader;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
pub use table::flags;
use tracing::{debug, info, warn};

/// The action that a command line requests.
#[derive(Debug)]
pub enum Parsed {
    /// Run the daemon.
    Run(Box<Options>),
    /// Show this text and exit.
    Help(String),
    /// Show the version and exit.
    Version,
}

/// The options of flanneld, which do not come from the store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The store of the leases.
    pub store: StoreOptions,
    /// The options of this node.
    pub node: NodeOptions,
    /// `subnet.env`, for the CNI plugin.
    pub subnet_file: PathBuf,
    /// Directory of the data that a restart needs.
    pub state_dir: PathBuf,
    /// Lifetime of a lease that is not renewed. Whole seconds, at least 2.
    pub lease_time: Duration,
    /// A lease is renewed this long before it ends. Less than `lease_time`.
    pub renew_margin: Duration,
    /// Interval of checks of the firewall rules. At least one second.
    pub firewall_resync: Duration,
    /// Address of `/healthz`, `/readyz` and `/metrics`; a wildcard means both families.
    pub healthz: Option<SocketAddr>,
    /// Path of the status socket.
    pub status_socket: Option<PathBuf>,
    /// The amount and form of log lines.
    pub log: LogOptions,
    warnings: Vec<Warning>,
    settings: Vec<Setting>,
}

/// The options that determine interface, routes and firewall of this node.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// How the external interface is chosen.
    pub interface: Criteria,
    /// Masquerade traffic that leaves the network; also in `subnet.env`.
    pub ip_masq: bool,
    /// Masquerade with fully random ports.
    pub fully_random: bool,
    /// Accept forwarded traffic of the pods.
    pub forward_rules: bool,
    /// Add a blackhole route for the own subnet.
    pub blackhole_route: bool,
    /// The number of peers from which on routes refer to nexthop objects.
    pub nexthops: NexthopThreshold,
    /// Who chooses the subnet, which follows from the store.
    pub ownership: Ownership,
}

/// The amount and form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// klog's `-v`.
    pub verbosity: i32,
    /// Form of a line.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// A setting without the effect that it seems to have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Warning {
    setting: String,
    reason: String,
}

/// An invalid command line or environment. Never contains a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct CliError {
    text: String,
    exit_code: u8,
}

impl CliError {
    /// An error of usage.
    fn usage(text: impl Into<String>) -> Self {
        Self { text: text.into(), exit_code: 2 }
    }

    /// Two settings that exclude each other.
    fn contradiction(first: impl fmt::Display, second: impl fmt::Display, fix: &str) -> Self {
        Self::usage(format!("{first} and {second} are incompatible: {fix}"))
    }

    /// Returns the exit code of the process: 2 for wrong usage, 1 for an unsupported store.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl Options {
    /// Reads a command line (without the program name) and the variables of its flags.
    pub fn parse(
        args: impl Iterator<Item = OsString>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Parsed, CliError> {
        let Some(mut given) = go_flags::parse(args)? else { return Ok(Parsed::Help(table::help())) };
        // Compatibility: before the environment is read, so that FLANNELD_VERSION has no effect.
        if Reader::new(&given, &env).setting("version").switch()? {
            return Ok(Parsed::Version);
        }
        given.add_environment(&env);
        Reader::new(&given, &env).options().map(|options| Parsed::Run(Box::new(options)))
    }

    /// Logs the settings, without secrets, and which of them have no effect.
    pub fn log(&self) {
        let settings = self.summary();
        info!(version = env!("CARGO_PKG_VERSION"), settings, "starting");
        for Warning { setting, reason } in &self.warnings {
            warn!(setting, reason, "setting has no effect");
        }
        for setting in &self.settings {
            if matches!(setting.flag.name, "vmodule" | "log_backtrace_at") {
                debug!(setting = setting.name(), reason = "klog only", "setting has no effect");
            }
        }
    }

    /// Returns the settings of command line and environment, without secrets.
    #[must_use]
    pub fn summary(&self) -> String {
        self.settings.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
}
