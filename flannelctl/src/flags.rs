//! Flags that several commands share.

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use flannel_core::config::NetworkConfig;
use flannel_core::store::Ownership;
use flanneld::flag::{Flag, Kind};
use flanneld::store::{CONFIG_MAP, ConfigMap, FLAGS, KUBERNETES_FLAGS, StoreOptions};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The flags that select the store: those of flanneld, with its variables.
#[derive(Clone, Debug)]
pub(crate) struct StoreFlags {
    options: Option<StoreOptions>,
    config_map: Option<ConfigMap>,
}

/// All of them, and the other name of some.
fn flags() -> impl Iterator<Item = (Flag, Option<&'static str>)> {
    // The rest is about writing to nodes.
    let [select, url, prefix, kubeconfig, config, ..] = KUBERNETES_FLAGS;
    // As in kubectl.
    let kubernetes = [(kubeconfig, Some("kubeconfig"))];
    let others = [select, url, prefix, config, CONFIG_MAP];
    FLAGS.into_iter().map(|flag| (flag, None)).chain(kubernetes).chain(others.map(|flag| (flag, None)))
}

impl Args for StoreFlags {
    fn augment_args(command: Command) -> Command {
        let arg = |(flag, other): (Flag, Option<&'static str>)| {
            let default = match flag.default {
                "" | "false" => String::new(),
                default => format!(" [default: that of flanneld on this node, or {default}]"),
            };
            let arg = Arg::new(flag.name)
                .long(flag.name)
                .visible_aliases(other)
                .global(true)
                // clap requires static names; their number is that of the flags.
                .env(String::leak(flag.variable()) as &'static str)
                .hide_env_values(flag.kind == Kind::Secret)
                .value_name(flag.value)
                .help(format!("{}{default}", flag.help))
                .help_heading("Store")
                .hide_short_help(true);
            match flag.kind {
                Kind::Switch => {
                    arg.value_name("BOOL").num_args(0..=1).require_equals(true).default_missing_value("true")
                }
                _ => arg,
            }
        };
        command.args(flags().map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for StoreFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |(flag, _): (Flag, _)| {
            let text = matches.get_one::<String>(flag.name)?;
            let is_unset =
                text.is_empty() && matches.value_source(flag.name) == Some(ValueSource::EnvVariable);
            // As in flanneld, an empty variable counts as not set.
            (!is_unset).then(|| (flag.name, text.clone()))
        };
        let mut values: BTreeMap<&str, String> = flags().filter_map(value).collect();
        let invalid = |error| clap::Error::raw(ErrorKind::ValueValidation, format!("{error}\n"));
        let config_map = values.remove(CONFIG_MAP.name).filter(|text| !text.is_empty());
        let config_map = config_map.map(|text| text.parse()).transpose().map_err(invalid)?;
        let is_specified = values.values().any(|text| !text.is_empty());
        let options = is_specified.then(|| {
            StoreOptions::client(|flag| values.get(flag.name).cloned(), |name| std::env::var(name).ok())
        });
        let options = options.transpose().map_err(invalid)?;
        Ok(Self { options, config_map })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl StoreFlags {
    /// Returns the specified store, otherwise that of the daemon, otherwise the default.
    pub(crate) fn options(&self, daemon: Option<StoreOptions>) -> StoreOptions {
        let options = match (&self.options, daemon) {
            (Some(options), Some(daemon)) => options.clone().completed_by(&daemon),
            (Some(options), None) => options.clone(),
            (None, daemon) => daemon.unwrap_or_else(|| StoreOptions::from_flags(|_| None)),
        };
        options.with_config_map(self.config_map.as_ref())
    }
}

/// Files of the daemon of this node; the flags and variables are the same as those of flanneld.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "This node")]
pub(crate) struct NodeFlags {
    /// File that flanneld writes for the CNI plugin
    #[arg(
        long,
        global = true,
        env = "FLANNELD_SUBNET_FILE",
        default_value = flannel_core::subnet_env::PATH,
        value_name = "FILE",
        hide_short_help = true
    )]
    pub(crate) subnet_file: PathBuf,
    /// State directory of flanneld
    #[arg(
        long,
        global = true,
        env = "FLANNELD_STATE_DIR",
        default_value = "/var/lib/flannel",
        value_name = "PATH",
        hide_short_help = true
    )]
    pub(crate) state_dir: PathBuf,
    /// Status socket of flanneld
    #[arg(
        long,
        global = true,
        env = "FLANNELD_STATUS_SOCKET",
        default_value = flannel_core::status::SOCKET,
        value_name = "FILE",
        hide_short_help = true
    )]
    pub(crate) status_socket: PathBuf,
}

/// Flag of every command that changes something.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct DryRun {
    /// Show what would be done, without doing it
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Flag of every command whose result changes over time.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Watch {
    /// Continue and show changes
    #[arg(short, long)]
    pub(crate) watch: bool,
}

/// Flag of every command that asks for confirmation.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Consent {
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// Reads a file of the command line, or standard input for `-`.
pub(crate) fn read(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        return std::io::read_to_string(std::io::stdin()).context("could not read standard input");
    }
    std::fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))
}

/// Reads the network config in such a file, for a store of this kind. Returns its text, too.
pub(crate) fn config(file: &Path, ownership: Ownership) -> anyhow::Result<(String, NetworkConfig)> {
    let text = read(file)?;
    let config = NetworkConfig::parse_for(&text, ownership);
    let config = config.with_context(|| format!("invalid network config in {}", file.display()))?;
    Ok((text, config))
}
