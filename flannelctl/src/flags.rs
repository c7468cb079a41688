//! Flags that several commands share.

use anyhow::Context as _;
use clap::Args;
use flannel_core::config::NetworkConfig;
use flanneld::store::StoreOptions;
use flanneld::store::etcd::EtcdOptions;
use std::path::{Path, PathBuf};

/// Where the store is; the same flags and variables as flanneld's. Without any of them it is the store of the flanneld of
/// this node.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Store")]
pub(crate) struct StoreFlags {
    /// Directory of leases, instead of etcd
    #[arg(long, global = true, env = "FLANNELD_LEASE_DIR", value_name = "PATH", hide_short_help = true)]
    lease_dir: Option<PathBuf>,
    /// etcd servers, separated by commas [default: http://127.0.0.1:4001,http://127.0.0.1:2379, unless flanneld of this
    /// node has others]
    #[arg(long, global = true, env = "FLANNELD_ETCD_ENDPOINTS", value_name = "LIST", hide_short_help = true)]
    etcd_endpoints: Option<String>,
    /// etcd key below which config and leases are [default: /coreos.com/network]
    #[arg(long, global = true, env = "FLANNELD_ETCD_PREFIX", value_name = "KEY", hide_short_help = true)]
    etcd_prefix: Option<String>,
    /// Certificates of the authorities that etcd is checked against
    #[arg(long, global = true, env = "FLANNELD_ETCD_CAFILE", value_name = "FILE", hide_short_help = true)]
    etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd
    #[arg(long, global = true, env = "FLANNELD_ETCD_CERTFILE", value_name = "FILE", hide_short_help = true)]
    etcd_certfile: Option<PathBuf>,
    /// Private key of the client certificate
    #[arg(long, global = true, env = "FLANNELD_ETCD_KEYFILE", value_name = "FILE", hide_short_help = true)]
    etcd_keyfile: Option<PathBuf>,
    /// etcd user
    #[arg(long, global = true, env = "FLANNELD_ETCD_USERNAME", value_name = "NAME", hide_short_help = true)]
    etcd_username: Option<String>,
    /// Password of the etcd user
    #[arg(
        long,
        global = true,
        env = "FLANNELD_ETCD_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD",
        hide_short_help = true
    )]
    etcd_password: Option<String>,
}

impl StoreFlags {
    /// The store that is named; `None` if no flag or variable names one.
    pub(crate) fn options(&self) -> Option<StoreOptions> {
        let Self { lease_dir, etcd_endpoints, etcd_prefix, etcd_cafile, etcd_certfile, etcd_keyfile, .. } =
            self;
        // As the daemon has it: an empty value is one that is not given.
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let file = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        if let Some(path) = file(lease_dir) {
            return Some(StoreOptions::Directory(path));
        }
        let texts = [etcd_endpoints, etcd_prefix, &self.etcd_username, &self.etcd_password];
        let files = [etcd_cafile, etcd_certfile, etcd_keyfile];
        let named = texts.into_iter().any(|given| text(given).is_some())
            || files.into_iter().any(|given| file(given).is_some());
        let etcd = || EtcdOptions {
            endpoints: text(etcd_endpoints).unwrap_or_else(|| ENDPOINTS.to_owned()),
            prefix: etcd_prefix.clone().unwrap_or_else(|| PREFIX.to_owned()),
            cafile: file(etcd_cafile),
            certfile: file(etcd_certfile),
            keyfile: file(etcd_keyfile),
            username: text(&self.etcd_username),
            password: text(&self.etcd_password),
        };
        named.then(|| StoreOptions::Etcd(etcd()))
    }
}

/// flanneld's own.
pub(crate) const ENDPOINTS: &str = "http://127.0.0.1:4001,http://127.0.0.1:2379";
pub(crate) const PREFIX: &str = "/coreos.com/network";

/// What the daemon of this node leaves here; the same flags and variables as flanneld's.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "This node")]
pub(crate) struct NodeFlags {
    /// What flanneld tells the CNI plugin
    #[arg(
        long,
        global = true,
        env = "FLANNELD_SUBNET_FILE",
        default_value = flannel_core::subnet_env::PATH,
        value_name = "FILE",
        hide_short_help = true
    )]
    pub(crate) subnet_file: PathBuf,
    /// What flanneld keeps over a restart
    #[arg(
        long,
        global = true,
        env = "FLANNELD_STATE_DIR",
        default_value = "/var/lib/flannel",
        value_name = "PATH",
        hide_short_help = true
    )]
    pub(crate) state_dir: PathBuf,
    /// Where flanneld tells its state
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

/// Of every command that changes something.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct DryRun {
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Of every command whose result changes by itself.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Watch {
    /// Go on and show what changes
    #[arg(short, long)]
    pub(crate) watch: bool,
}

/// Of every command that asks before it does something.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Consent {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// The text of a file that the command line names, or of standard input for `-`.
pub(crate) fn read(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        return std::io::read_to_string(std::io::stdin()).context("could not read standard input");
    }
    std::fs::read_to_string(file).with_context(|| format!("could not read {}", file.display()))
}

/// The network config of such a file.
pub(crate) fn config(file: &Path) -> anyhow::Result<NetworkConfig> {
    parse_config(&read(file)?, file)
}

/// The network config in a text that was read from a file.
pub(crate) fn parse_config(text: &str, file: &Path) -> anyhow::Result<NetworkConfig> {
    NetworkConfig::parse(text).with_context(|| format!("the config in {} cannot be used", file.display()))
}
