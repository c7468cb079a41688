//! The command line: noun, then verb, as in kubectl. The arguments of a command are defined in its file in `command`.

use clap::error::{ContextKind, ContextValue, ErrorKind};
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

/// Show and change leases, the network config, and the state of a flannel node
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Output format
    #[arg(short, long, global = true, value_enum, default_value_t = Form::Table, value_name = "FORMAT")]
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
    /// Show and change leases
    #[command(subcommand)]
    Lease(lease::LeaseCommand),
    /// Show and change the network config
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Show the capacity of the network
    #[command(subcommand)]
    Subnet(subnet::SubnetCommand),
    /// Show and release the addresses of the pods of this node
    #[command(subcommand)]
    Ipam(ipam::IpamCommand),
    /// Change this node
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Show the state of this node
    Status(status::StatusArguments),
    /// Show the other nodes
    #[command(subcommand)]
    Peer(peer::PeerCommand),
    /// Show the pending changes of the kernel
    Diff,
    /// Show the path of packets out of this node
    #[command(subcommand)]
    Route(route::RouteCommand),
    /// Show past events of this node; with --watch, new events of this node and of all leases
    Events(events::EventsArguments),
    /// Collect data for a bug report
    #[command(subcommand)]
    Support(support::SupportCommand),
    /// Print the version
    Version,
    /// Print a completion script: source <(flannelctl completion bash)
    Completion {
        /// Name of the shell
        shell: Shell,
    },
    /// Write the man pages of flannelctl and flanneld
    #[command(hide = true)]
    Man {
        /// Directory of the man pages
        #[arg(long, value_name = "DIR")]
        dir: PathBuf,
    },
    /// Test whether nodes reach each other
    #[command(subcommand)]
    Connectivity(connectivity::ConnectivityCommand),
    /// Report problems of this node and how to fix them
    Doctor(doctor::DoctorArguments),
}

/// Runs a command.
pub(crate) async fn run(cli: Cli, output: Output) -> anyhow::Result<Outcome> {
    let session = Session { store: cli.store, node: cli.node, output };
    match cli.command {
        Command::Lease(command) => lease::run(&session, command).await,
        Command::Config(command) => config::run(&session, command).await,
        Command::Ipam(command) => ipam::run(&session, command),
        Command::Status(arguments) => status::run(&session, &arguments).await,
        Command::Peer(command) => peer::run(&session, &command).await,
        Command::Diff => diff::run(&session).await,
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

/// Reports an invalid command line, or prints help.
pub(crate) fn refuse(error: clap::Error) -> ExitCode {
    // The usage in an error lists all flags that are set; those from the environment would only confuse.
    let alone = Cli::command().mut_args(|flag| flag.env(None::<&str>)).try_get_matches();
    let mut error = alone.err().unwrap_or(error);
    if !error.use_stderr() {
        // Help and version. A closed stdout is not an error.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let subcommands = subcommands(&error);
    if let Some(text) = &subcommands {
        error.remove(ContextKind::SuggestedSubcommand);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![text.into()]));
    }
    let form = requested_form();
    if matches!(form, Form::Json | Form::Yaml)
        && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    {
        let text = error.render().to_string();
        // The other paragraphs contain usage and tips.
        let first =
            text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect::<Vec<_>>().join(" ");
        let message = first.strip_prefix("error: ").unwrap_or(&first);
        let help = "Run `flannelctl --help`, or the command with --help.".to_owned();
        let failure = Failure::new(Kind::Usage, message, subcommands.unwrap_or(help));
        Output::new(form).failure(&failure);
    } else {
        let _ = error.print();
    }
    ExitCode::from(2)
}

/// Lists the subcommands where an unknown one was specified, the most similar one first.
fn subcommands(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let usage = error.get(ContextKind::Usage)?.to_string();
    let path = usage.strip_prefix("Usage: ")?.split(" [").next()?;
    let mut command = &Cli::command();
    for name in path.split(' ').skip(1) {
        command = command.find_subcommand(name)?;
    }
    let names =
        command.get_subcommands().filter(|command| !command.is_hide_set()).map(clap::Command::get_name);
    let mut names: Vec<&str> = names.collect();
    names.sort_by_key(|name| strsim::damerau_levenshtein(unknown, name));
    Some(format!("Subcommands of `{path}`: {}.", names.join(", ")))
}

/// The output format that an invalid command line requests.
fn requested_form() -> Form {
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
