//! Flags and `FLANNELD_*` variables -> [`Options`].
//!
//! Compatibility: names, defaults and grammar are those of the Go flanneld, so that unit files and
//! manifests start this one unchanged. Different on purpose: what does not parse ends with exit code 2
//! instead of 0, and a bad variable is an error instead of zero.

mod go_flags;
mod reader;
mod table;
#[cfg(test)]
mod tests;

use crate::store::StoreOptions;
use flannel_core::select::Criteria;
use go_flags::{Setting, Words};
use reader::Reader;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
pub use table::flags;
use tracing::{debug, info, warn};

/// What a command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// Run the daemon.
    Run(Box<Options>),
    /// Show this text and exit.
    Help(String),
    /// Show the version and exit.
    Version,
}

/// Everything that flanneld is told from outside the store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where leases are kept.
    pub store: StoreOptions,
    /// How the external interface is found.
    pub interface: Criteria,
    /// `subnet.env`, for the CNI plugin.
    pub subnet_file: PathBuf,
    /// What must survive a restart.
    pub state_dir: PathBuf,
    /// Life of a lease that is not renewed. Whole seconds, at least 2.
    pub lease_time: Duration,
    /// A lease is renewed this long before it ends. Less than `lease_time`.
    pub renew_margin: Duration,
    /// Masquerade traffic that leaves the network; also told in `subnet.env`.
    pub ip_masq: bool,
    /// Masquerade with fully random ports.
    pub masquerade_fully_random: bool,
    /// Accept forwarded traffic of the pods.
    pub forward_rules: bool,
    /// How often firewall rules are checked. At least a second.
    pub firewall_resync: Duration,
    /// Keep a blackhole route for the own subnet.
    pub blackhole_route: bool,
    /// Where `/healthz`, `/readyz` and `/metrics` are served; a wildcard means both families.
    pub healthz: Option<SocketAddr>,
    /// Where the state of the daemon is served to flannelctl.
    pub status_socket: Option<PathBuf>,
    /// How much is logged, and in which form.
    pub log: LogOptions,
    warnings: Vec<Warning>,
    settings: Vec<Setting>,
}

/// How much is logged, and in which form.
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

/// Something given that has not the effect that it seems to have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Warning {
    setting: String,
    reason: String,
}

/// A command line or environment that the daemon cannot be started with. Never shows a secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CliError {
    /// No such flag.
    #[error("unknown flag --{flag}: {}", match nearest {
        Some(nearest) => format!("did you mean --{nearest}?"),
        None => "flanneld --help lists all flags".to_owned(),
    })]
    UnknownFlag {
        /// What was given, without dashes and value.
        flag: String,
        /// The flag that was probably meant.
        nearest: Option<&'static str>,
    },
    /// Dashes without a name.
    #[error("{word:?} is not a flag: use -name or --name, and a value after '='")]
    BadSyntax {
        /// What was given, without its value.
        word: String,
    },
    /// Not text.
    #[error("{word:?} is not valid UTF-8")]
    NotUtf8 {
        /// The flag, if it is one.
        word: String,
    },
    /// The last flag lacks its value.
    #[error("--{flag} needs a value: --{flag}={value}")]
    MissingValue {
        /// The flag, without dashes.
        flag: &'static str,
        /// What kind of value it wants.
        value: &'static str,
    },
    /// A value breaks the rule of its flag.
    #[error("{setting} is {value:?}, but must be {rule}; for example {fix}")]
    BadValue {
        /// The flag or variable.
        setting: String,
        /// Its value.
        value: String,
        /// What is allowed.
        rule: &'static str,
        /// A setting that would do.
        fix: String,
    },
    /// Two settings that cannot both hold.
    #[error("{first} and {second} are incompatible: {fix}")]
    Contradiction {
        /// One of them.
        first: String,
        /// The other.
        second: String,
        /// What to do.
        fix: &'static str,
    },
    /// The Kubernetes store was asked for.
    #[error(
        "{setting}: Kubernetes is not available as the store in this version. Use etcd (--etcd-endpoints) or a directory \
         (--lease-dir)."
    )]
    NoKubernetes {
        /// The flag or variable.
        setting: String,
    },
}

impl CliError {
    /// The exit code of the process: 2 for wrong usage, 1 where the usage is right but cannot be served.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NoKubernetes { .. } => 1,
            _ => 2,
        }
    }
}

impl Options {
    /// Reads a command line (without the program name) and the variables of its flags.
    pub fn parse(
        args: impl Iterator<Item = OsString>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Parsed, CliError> {
        let mut given = match go_flags::parse(args)? {
            Words::Help => return Ok(Parsed::Help(table::help())),
            Words::Flags(given) => given,
        };
        // Compatibility: the environment is looked at later, FLANNELD_VERSION has no effect.
        if Reader::new(&given).setting("version").switch()? {
            return Ok(Parsed::Version);
        }
        given.add_environment(env);
        Reader::new(&given).options().map(|options| Parsed::Run(Box::new(options)))
    }

    /// Logs what was given, without secrets, and what of it has no effect.
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

    /// What was given on the command line and in the environment, without secrets.
    #[must_use]
    pub fn summary(&self) -> String {
        self.settings.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
}
