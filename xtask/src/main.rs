//! Development tasks, run as `cargo xtask TASK`.
//!
//! This crate starts programs and reads their output: cargo, the test binaries, and `lab` (of the crate `integration`),
//! which contains everything that runs inside network namespaces. It is kept small, so that tasks start quickly.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the report on stdout is what a task is for")]

mod build;
mod check;
mod dist;
mod e2e;
mod guest;
mod kubernetes;
mod lab;
mod packages;
mod peer;
mod process;
mod sandbox;
mod tally;
mod test;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Development tasks", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run a small cluster in network namespaces, with pods, and repair a removed route
    Demo(lab::DemoOptions),
    /// Run all checks and tests: formatting, lints, rules, unit, contract and end-to-end tests
    Test(test::TestOptions),
    /// Run the end-to-end tests
    E2e(e2e::E2eOptions),
    /// Run a benchmark
    #[command(subcommand)]
    Bench(lab::Bench),
    /// Run the checks that need no root: formatting, lints, rules of the code base
    Check,
    /// Check the rules of the code base that neither rustfmt nor clippy knows
    Tidy,
    /// Build packages: static programs, deb, rpm, image, checksums, bill of materials
    Dist(dist::DistOptions),
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a task. Returns `false` if it completed and reported failures.
fn run(task: Task) -> Result<bool> {
    match task {
        Task::Demo(options) => lab::demo(&options),
        Task::Test(options) => test::run(&options),
        Task::Bench(bench) => lab::bench(&bench),
        Task::E2e(options) => e2e::run(&options),
        Task::Check => check::run(),
        Task::Tidy => tidy::run(),
        Task::Dist(options) => dist::run(&options),
    }
}

#[cfg(test)]
mod tests;
