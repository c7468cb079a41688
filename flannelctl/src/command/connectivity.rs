//! `flannelctl connectivity`: measures whether nodes reach each other through the overlay, with which latency, and up to
//! which packet size.
//!
//! One run measures from this node to all others. The complete matrix needs runs on several nodes, whose results are
//! merged, or which are started by a command such as ssh (`--exec`).

use anyhow::Context as _;
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Kind, Outcome, fail};
use crate::flags;
use crate::node::daemon::Invocation;
use crate::node::view::{Snapshot, View};
use crate::session::Session;
use report::Report;

mod html;
mod measure;
mod remote;
mod report;
mod target;

#[derive(Debug, Subcommand)]
pub(crate) enum ConnectivityCommand {
    /// Measure the paths from this node to all others, or with --exec from every node to every other
    Test(TestArguments),
    /// Merge the results of `connectivity test -o json` on several nodes
    Merge {
        /// Files with results, or - for standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Also write the result as an HTML page
        #[arg(long, value_name = "FILE")]
        output_html: Option<PathBuf>,
    },
}

/// Flags of `flannelctl connectivity test`.
#[derive(Args, Clone, Debug)]
pub(crate) struct TestArguments {
    /// Number of echo requests to each node
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    count: u32,
    /// Timeout of a request in milliseconds
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=60_000), value_name = "MS")]
    timeout: u64,
    /// Number of nodes to measure at a time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256), value_name = "N")]
    parallel: u16,
    /// Do not determine the largest packet that passes
    #[arg(long)]
    no_size: bool,
    /// Command that runs flannelctl on every node, such as 'ssh root@{node} flannelctl'. {node} is the public address
    /// of the node, {subnet} the key of its lease
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// Also write the result as an HTML page
    #[arg(long, value_name = "FILE")]
    output_html: Option<PathBuf>,
}

pub(crate) async fn run(session: &Session, command: ConnectivityCommand) -> anyhow::Result<Outcome> {
    let (report, page) = match command {
        ConnectivityCommand::Test(arguments) => (test(session, &arguments).await?, arguments.output_html),
        ConnectivityCommand::Merge { files, output_html } => {
            let mut merged = Report::default();
            merged.merge(files.iter().map(|file| read(file)).collect::<anyhow::Result<Vec<_>>>()?);
            (merged, output_html)
        }
    };
    if let Some(path) = page {
        std::fs::write(&path, html::page(&report))
            .with_context(|| format!("could not write {}", path.display()))?;
        session.output.message(&format!("wrote {}", path.display()));
    }
    session.output.page(&report.page())?;
    Ok(if report.has_findings() { Outcome::Findings } else { Outcome::Fine })
}

fn read(path: &Path) -> anyhow::Result<Report> {
    Report::parse(&flags::read(path)?).map_err(|reason| {
        let message = format!("{} is not a result of a connectivity test: {reason}", path.display());
        Failure::new(Kind::Invalid, message, "Create one with `flannelctl connectivity test -o json`.").into()
    })
}

async fn test(session: &Session, arguments: &TestArguments) -> anyhow::Result<Report> {
    if let Some(command) = &arguments.exec {
        return remote::everywhere(session, arguments, command).await;
    }
    let invocation = Invocation::of(&[], session.store_options(), &session.node)?;
    let snapshot = Snapshot::of(&invocation).await?;
    let view = view(&snapshot)?;
    let plan = target::plan(view, &snapshot.observation)?;
    arguments.run(plan, session.output).await
}

/// This node, or the reason why it is unknown.
fn view(snapshot: &Snapshot) -> anyhow::Result<&View> {
    match (&snapshot.view, &snapshot.listing) {
        (Some(Ok(view)), _) => Ok(view),
        (Some(Err(error)), _) => {
            let message = format!("this host is not a node: {}", flannel_core::error::chain(error));
            fail(Kind::Invalid, message, "Run `flannelctl doctor`.")
        }
        (None, Err(reason)) => {
            let message = format!("store unreachable: {reason}");
            fail(Kind::Unreachable, message, "Check --etcd-endpoints, --lease-dir or --kubeconfig.")
        }
        (None, Ok(_)) => {
            let message = format!("no network config at {}", snapshot.store.identity().config_place);
            fail(Kind::NotFound, message, "Run `flannelctl config set FILE`.")
        }
    }
}
