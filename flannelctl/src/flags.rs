//! Flags that several commands share.

use anyhow::Context as _;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use flannel_core::config::NetworkConfig;
use flanneld::flag::{Flag, Kind};
use flanneld::store::{FLAGS, StoreOptions};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The flags that select the store: those of flanneld, with its variables.
#[derive(Clone, Debug)]
pub(crate) struct StoreFlags(BTreeMap<&'static str, String>);

impl Args for StoreFlags {
    fn augment_args(command: Command) -> Command {
        let arg = |flag: Flag| {
            let default = match flag.default {
                "" => String::new(),
                default => format!(" [default: that of flanneld on this node, or {default}]"),
            };
            Arg::new(flag.name)
                .long(flag.name)
                .global(true)
                // clap requires static names; their number is that of the flags.
                .env(String::leak(flag.variable()) as &'static str)
                .hide_env_values(flag.kind == Kind::Secret)
                .value_name(flag.value)
                .help(format!("{}{default}", flag.help))
                .help_heading("Store")
                .hide_short_help(true)
        };
        command.args(FLAGS.map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for StoreFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |flag: Flag| {
            let text = matches.get_one::<String>(flag.name)?;
            let is_unset =
                text.is_empty() && matches.value_source(flag.name) == Some(ValueSource::EnvVariable);
            // As in flanneld, an empty variable counts as not set.
            (!is_unset).then(|| (flag.name, text.clone()))
        };
        Ok(Self(FLAGS.into_iter().filter_map(value).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl StoreFlags {
    /// Returns the specified store; `None` if no flag or variable specifies one.
    pub(crate) fn options(&self) -> Option<StoreOptions> {
        let is_specified = self.0.values().any(|text| !text.is_empty());
        is_specified.then(|| StoreOptions::from_flags(|flag| self.0.get(flag.name).cloned()))
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

/// Reads the network config in such a file. Returns its text, too.
pub(crate) fn config(file: &Path) -> anyhow::Result<(String, NetworkConfig)> {
    let text = read(file)?;
    let config = NetworkConfig::parse(&text);
    let config = config.with_context(|| format!("invalid network config in {}", file.display()))?;
    Ok((text, config))
}
