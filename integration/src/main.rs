//! Tasks in a sandbox other than tests; `cargo xtask` starts them.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the tasks report on stdout")]

mod bench;
mod demo;

use anyhow::Result;
use clap::{Parser, Subcommand};
use integration::{Feature, Netns};
use std::process::ExitCode;

#[derive(Parser)]
#[command(about = "Tasks in a sandbox, started by `cargo xtask`")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Show the features of this machine
    Probe,
    /// Run the demonstration
    Demo(demo::Options),
    /// Measure the daemon in a large cluster on etcd
    BenchControl(bench::control::Options),
    /// Measure the CNI plugin against other plugins
    BenchCni(bench::cni::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Probe => probe(),
        Task::Demo(options) => demo::run(&options),
        Task::BenchControl(options) => bench::control::run(&options),
        Task::BenchCni(options) => bench::cni::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn probe() -> Result<()> {
    let scratch = Netns::create("probe")?;
    for &feature in Feature::ALL {
        match feature.probe(&scratch) {
            Ok(()) => println!("{feature}: yes"),
            Err(reason) => println!("{feature}: no ({reason})"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Arguments;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
