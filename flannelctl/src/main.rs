//! flannelctl: shows and changes what the store holds, on etcd or on a directory.
//!
//! Results go to stdout, messages to stderr. Exit codes: 0 fine, 1 error, 2 usage, 4 the store cannot be reached.
#![forbid(unsafe_code)]

mod cli;
mod command;
mod output;

use clap::Parser as _;
use cli::{Cli, Command, ConfigCommand, LeaseCommand};
use flanneld::store::{AnyStore, StoreError};
use std::process::ExitCode;

/// The store did not answer.
const UNREACHABLE: u8 = 4;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = output::message(&format!("flannelctl: {error:#}"));
            let away = error.downcast_ref::<StoreError>().is_some_and(StoreError::is_transient);
            if away { ExitCode::from(UNREACHABLE) } else { ExitCode::FAILURE }
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    if let Command::Config { command: ConfigCommand::Validate { file } } = &cli.command {
        return command::config::validate(file);
    }
    let store = AnyStore::new(cli.store.options())?;
    match cli.command {
        Command::Lease { command: LeaseCommand::List { output } } => {
            command::lease::list(&store, output).await
        }
        Command::Config { command } => match command {
            ConfigCommand::Get => command::config::get(&store).await,
            ConfigCommand::Set { file, dry_run } => command::config::set(&store, &file, dry_run).await,
            ConfigCommand::Validate { file } => command::config::validate(&file),
        },
    }
}
