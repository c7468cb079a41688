//! The command line, in kubectl's manner: noun, then verb. Flags of a command stand beside it in `command`.

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::command::{
    about, config, connectivity, diff, doctor, events, ipam, lease, node, peer, route, status, subnet,
    support,
};
use crate::failure::{Failure, Kind, Outcome};
use crate::flags::{NodeFlags, StoreFlags};
use crate::output::{Form, Output};
use crate::session::Session;

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

/// Runs the command of a command line.
pub(crate) async fn run(cli: Cli, output: Output) -> anyhow::Result<Outcome> {
    let session = Session { store: cli.store, node: cli.node, output };
    match cli.command {
        Command::Lease(command) => lease::run(&session, command).await,
        Command::Config(command) => config::run(&session, command).await,
        Command::Ipam(command) => ipam::run(&session, command),
        Command::Status(arguments) => status::run(&session, &arguments).await,
        Command::Peer(command) => peer::run(&session, &command).await,
        Command::Diff => diff::run(&session),
        Command::Route(command) => route::run(&session, &command).await,
        Command::Events(arguments) => events::run(&session, &arguments).await,
        Command::Node(command) => node::run(&session, command).await,
        Command::Subnet(command) => subnet::run(&session, command).await,
        Command::Support(command) => support::run(&session, command).await,
        Command::Version => about::version(&session).map(|()| Outcome::Fine),
        Command::Completion { shell } => {
            about::completion(&session, shell, Cli::command()).map(|()| Outcome::Fine)
        }
        Command::Man { dir } => about::man(&session, &dir, Cli::command()).map(|()| Outcome::Fine),
        Command::Connectivity(command) => connectivity::run(&session, command).await,
        Command::Doctor(arguments) => doctor::run(&session, arguments).await,
    }
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
