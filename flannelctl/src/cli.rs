//! The command line, in kubectl's manner: noun, then verb.

use clap::{Args, Parser, Subcommand, ValueEnum};
use flanneld::cli::StoreOptions;
use flanneld::store::etcd::EtcdOptions;
use std::path::PathBuf;

/// Shows and changes what flannel keeps in its store.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) store: StoreFlags,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the store is; the same flags and variables as flanneld's.
#[derive(Args, Debug)]
pub(crate) struct StoreFlags {
    /// Directory of leases, instead of etcd
    #[arg(long, global = true, env = "FLANNELD_LEASE_DIR", value_name = "PATH")]
    lease_dir: Option<PathBuf>,
    /// etcd servers, separated by commas
    #[arg(
        long,
        global = true,
        env = "FLANNELD_ETCD_ENDPOINTS",
        default_value = "http://127.0.0.1:4001,http://127.0.0.1:2379",
        value_name = "LIST"
    )]
    etcd_endpoints: String,
    /// etcd key below which config and leases are
    #[arg(
        long,
        global = true,
        env = "FLANNELD_ETCD_PREFIX",
        default_value = "/coreos.com/network",
        value_name = "KEY"
    )]
    etcd_prefix: String,
    /// Certificates of the authorities that etcd is checked against
    #[arg(long, global = true, env = "FLANNELD_ETCD_CAFILE", value_name = "FILE")]
    etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd
    #[arg(long, global = true, env = "FLANNELD_ETCD_CERTFILE", value_name = "FILE")]
    etcd_certfile: Option<PathBuf>,
    /// Private key of the client certificate
    #[arg(long, global = true, env = "FLANNELD_ETCD_KEYFILE", value_name = "FILE")]
    etcd_keyfile: Option<PathBuf>,
    /// etcd user
    #[arg(long, global = true, env = "FLANNELD_ETCD_USERNAME", value_name = "NAME")]
    etcd_username: Option<String>,
    /// Password of the etcd user
    #[arg(
        long,
        global = true,
        env = "FLANNELD_ETCD_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD"
    )]
    etcd_password: Option<String>,
}

impl StoreFlags {
    /// The store that is meant.
    pub(crate) fn options(self) -> StoreOptions {
        // As the daemon has it: an empty value is one that is not given.
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let file = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
        match file(self.lease_dir) {
            Some(path) => StoreOptions::Directory(path),
            None => StoreOptions::Etcd(EtcdOptions {
                endpoints: self.etcd_endpoints,
                prefix: self.etcd_prefix,
                cafile: file(self.etcd_cafile),
                certfile: file(self.etcd_certfile),
                keyfile: file(self.etcd_keyfile),
                username: given(self.etcd_username),
                password: given(self.etcd_password),
            }),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Subnet leases of nodes
    Lease {
        #[command(subcommand)]
        command: LeaseCommand,
    },
    /// The network config
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// Who holds which subnet
    List {
        /// Form of the output
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the config as it is in the store
    Get,
    /// Check a config and write it, unless somebody else writes at the same time
    Set {
        /// File with the config, or - for standard input
        file: PathBuf,
        /// Check and compare only
        #[arg(long)]
        dry_run: bool,
    },
    /// Check a config and print what follows from it
    Validate {
        /// File with the config, or - for standard input
        file: PathBuf,
    },
}

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns for people
    Table,
    /// One JSON array
    Json,
    /// Keys alone, one on a line
    Name,
}
