//! flannelctl: shows and changes leases, the network config, and the state of a node.
//!
//! Results go to stdout, messages to stderr. Exit codes: 0 success, 1 error, 2 invalid command line, 3 findings, 4 store or
//! daemon unreachable, or a timeout.
//!
//! Layers, each of which uses only those below: `cli` (the command line), `command` (read, call core, hand over to
//! `output`; no command uses another), `doctor` (the diagnosis), `node` (this node, its daemon, the cluster), `session`
//! and `flags`, `output` and `failure`.
//!
//! Invariants: only `output` writes to stdout and stderr; a dry run changes nothing; every write to the store is guarded
//! by the revision that was read.
#![forbid(unsafe_code)]

mod cli;
mod command;
mod doctor;
mod failure;
mod flags;
mod node;
mod output;
mod session;

use clap::Parser as _;
use cli::Cli;
use command::{docker, installer};
use failure::{Failure, Outcome};
use output::Output;
use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    flanneld::sys::resolve_names_without_plugins(cfg!(target_feature = "crt-static"));
    if is_daemon() { flanneld::program::main() } else { command_line() }
}

/// Whether the program was started as flanneld, as in the image, which contains what both programs share once.
fn is_daemon() -> bool {
    let started = std::env::args_os().next();
    started.is_some_and(|started| Path::new(&started).file_name() == Some(OsStr::new("flanneld")))
}

#[tokio::main(flavor = "current_thread")]
async fn command_line() -> ExitCode {
    if docker::is_requested() {
        return docker::main().await;
    }
    if let Some(name) = installer::requested() {
        return installer::main(name);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cli::refuse(error),
    };
    let output = Output::new(cli.output);
    match cli::run(cli, output).await {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(3),
        Ok(Outcome::Unreachable(code)) => ExitCode::from(code),
        // The reader needs no further output, as `head`.
        Err(error) if output::is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let failure = Failure::of(&error);
            output.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}
