//! flannelctl: shows and changes what a flannel network is made of, on etcd or on a directory.
//!
//! Results go to stdout, messages to stderr. Exit codes: 0 fine, 1 error, 2 usage, 3 findings (what was looked at is
//! not as it must be), 4 something cannot be reached or did not answer in time.
//!
//! Invariants: only `output` writes; a command never changes anything in a dry run, and never writes to the store
//! without the revision that it has read.
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
use failure::{Failure, Outcome};
use output::Output;
use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    flanneld::sys::look_names_up_without_plugins(cfg!(target_feature = "crt-static"));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return cli::refuse(error),
    };
    let output = Output::new(cli.output);
    match cli::run(cli, output).await {
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(3),
        Ok(Outcome::Unreachable(code)) => ExitCode::from(code),
        // Whoever reads our results has enough of them, as head does.
        Err(error) if output::is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let failure = Failure::of(&error);
            output.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}
