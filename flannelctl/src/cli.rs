//! The command line, in kubectl's manner: noun, then verb. Flags of a command stand beside it in `command`.

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use flanneld::store::StoreOptions;
use flanneld::store::etcd::EtcdOptions;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::command::{
    config, connectivity, daemon, doctor, events, ipam, lease, node, peer, route, status, subnet, support,
};
use crate::failure::{Failure, Kind};
use crate::output::{Form, Output};

/// Shows and changes what a flannel network is made of.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t = Form::Table, value_name = "FORM")]
    pub(crate) output: Form,
    #[command(flatten)]
    pub(crate) store: StoreFlags,
    #[command(flatten)]
    pub(crate) node: NodeFlags,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Who holds which subnet
    #[command(subcommand)]
    Lease(lease::LeaseCommand),
    /// The network config
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// The subnets of the network
    #[command(subcommand)]
    Subnet(subnet::SubnetCommand),
    /// Addresses of the pods of this node
    #[command(subcommand)]
    Ipam(ipam::IpamCommand),
    /// This node
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Show how this node is, and what is wrong with it
    Status(status::StatusArguments),
    /// The other nodes, as this one sees them
    #[command(subcommand)]
    Peer(peer::PeerCommand),
    /// Show what flanneld would change in the kernel now
    Diff,
    /// The way of packets out of this node
    #[command(subcommand)]
    Route(route::RouteCommand),
    /// Show what has happened to this node; with --watch, what happens to it and to all leases
    Events(events::EventsArguments),
    /// What a report of a problem needs
    #[command(subcommand)]
    Support(support::SupportCommand),
    /// Print the version
    Version,
    /// Print a script that completes the command line: source <(flannelctl completion bash)
    Completion {
        /// For which shell
        shell: Shell,
    },
    /// Write the man pages of flannelctl and flanneld
    #[command(hide = true)]
    Man {
        /// Where they go
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Whether nodes reach each other
    #[command(subcommand)]
    Connectivity(connectivity::ConnectivityCommand),
    /// What is wrong with this node, and what mends it
    Doctor(doctor::DoctorArguments),
}

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
    /// The flags for flannelctl on another host, as far as they may be seen there: a password may not, and is left to
    /// that host's `FLANNELD_ETCD_PASSWORD`.
    pub(crate) fn for_another_host(&self) -> Vec<String> {
        let etcd = match self.options() {
            StoreOptions::Directory(path) => return vec![format!("--lease-dir={}", path.display())],
            StoreOptions::Etcd(etcd) => etcd,
        };
        let mut flags =
            vec![format!("--etcd-endpoints={}", etcd.endpoints), format!("--etcd-prefix={}", etcd.prefix)];
        let files = [("cafile", &etcd.cafile), ("certfile", &etcd.certfile), ("keyfile", &etcd.keyfile)];
        let named = files.into_iter().filter_map(|(name, path)| Some((name, path.as_ref()?)));
        flags.extend(named.map(|(name, path)| format!("--etcd-{name}={}", path.display())));
        flags.extend(etcd.username.as_ref().map(|name| format!("--etcd-username={name}")));
        flags
    }

    /// The store that is meant: the one that is named, or that of the daemon of this node.
    pub(crate) fn options(&self) -> StoreOptions {
        let Self { lease_dir, etcd_endpoints, etcd_prefix, etcd_cafile, etcd_certfile, etcd_keyfile, .. } =
            self;
        // As the daemon has it: an empty value is one that is not given.
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let file = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        if let Some(path) = file(lease_dir) {
            return StoreOptions::Directory(path);
        }
        let texts = [etcd_endpoints, etcd_prefix, &self.etcd_username, &self.etcd_password];
        let files = [etcd_cafile, etcd_certfile, etcd_keyfile];
        if texts.into_iter().all(|given| text(given).is_none())
            && files.into_iter().all(|given| file(given).is_none())
            && let Some(options) = daemon::store()
        {
            return options;
        }
        StoreOptions::Etcd(EtcdOptions {
            endpoints: text(etcd_endpoints).unwrap_or_else(|| ENDPOINTS.to_owned()),
            prefix: etcd_prefix.clone().unwrap_or_else(|| PREFIX.to_owned()),
            cafile: file(etcd_cafile),
            certfile: file(etcd_certfile),
            keyfile: file(etcd_keyfile),
            username: text(&self.etcd_username),
            password: text(&self.etcd_password),
        })
    }
}

/// flanneld's own.
const ENDPOINTS: &str = "http://127.0.0.1:4001,http://127.0.0.1:2379";
const PREFIX: &str = "/coreos.com/network";

/// What the daemon of this node leaves here; the same flags and variables as flanneld's.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "This node")]
pub(crate) struct NodeFlags {
    /// What flanneld tells the CNI plugin
    #[arg(
        long,
        global = true,
        env = "FLANNELD_SUBNET_FILE",
        default_value = "/run/flannel/subnet.env",
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

/// Ends for a command line that cannot be read, or that asks for help.
pub(crate) fn refuse(error: clap::Error) -> ExitCode {
    // The usage in an error has all flags that are given, and those of the environment are nobody's concern here.
    let alone = Cli::command().mut_args(|flag| flag.env(None::<&str>)).try_get_matches();
    let error = alone.err().unwrap_or(error);
    if !error.use_stderr() {
        // Help and version. Whoever closed stdout has read enough.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let form = asked_form();
    if matches!(form, Form::Json | Form::Yaml)
        && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    {
        let text = error.render().to_string();
        // The paragraphs after the first are usage and tips.
        let first =
            text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect::<Vec<_>>().join(" ");
        let message = first.strip_prefix("error: ").unwrap_or(&first);
        let failure =
            Failure::new(Kind::Usage, message, "see flannelctl --help, or --help behind the command");
        Output::new(form).failure(&failure);
    } else {
        let _ = error.print();
    }
    ExitCode::from(2)
}

/// The form that a command line asks for that cannot be read otherwise.
fn asked_form() -> Form {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let named = words.iter().enumerate().find_map(|(at, word)| match word.as_str() {
        "-o" | "--output" => words.get(at + 1).map(String::as_str),
        word => word.strip_prefix("--output=").or_else(|| word.strip_prefix("-o")),
    });
    match named.map(|name| name.trim_start_matches('=')) {
        Some("json") => Form::Json,
        Some("yaml") => Form::Yaml,
        _ => Form::Table,
    }
}
