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
mod lab;
mod packages;
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
mod tests {
    use super::Arguments;
    use crate::process::root;
    use clap::{CommandFactory, Parser as _};
    use std::fs;

    #[test]
    fn command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    /// No test runs these commands: most take minutes.
    #[test]
    fn documented_commands_are_valid() {
        let pages = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
        let texts = pages.chain([root().join("README.md")]).map(|page| fs::read_to_string(page).unwrap());
        let mut commands = 0;
        for text in texts {
            for rest in text.split("cargo xtask ").skip(1) {
                let line = rest.split(['\n', '`', '#']).next().unwrap_or_default();
                let parsed = Arguments::try_parse_from(["xtask"].into_iter().chain(line.split_whitespace()));
                assert!(parsed.is_ok(), "cargo xtask {line}: {}", parsed.err().unwrap());
                commands += 1;
            }
        }
        assert!(commands > 10, "found only {commands} commands");
    }
}
