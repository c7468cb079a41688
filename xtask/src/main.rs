//! Development tasks, run as `cargo xtask TASK`.
//!
//! This crate starts programs and reads what they say: cargo, the test binaries, and `lab` (of the crate
//! `integration`), which holds everything that works inside network namespaces. It stays small, so that a
//! task begins at once.
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
    /// Show a small cluster at work: nodes as namespaces, pods, and a route that heals
    Demo(lab::DemoOptions),
    /// Run everything: format, lints, unit, contract and end-to-end tests
    Test(test::TestOptions),
    /// Run the end-to-end tests
    E2e(e2e::E2eOptions),
    /// Measure
    #[command(subcommand)]
    Bench(lab::Bench),
    /// Run the gates that need no privilege: format, lints, rules of the code base
    Check,
    /// Check the rules of the code base that neither rustfmt nor clippy knows
    Tidy(tidy::TidyOptions),
    /// Make packages: static binaries, deb, rpm, image, checksums, bill of materials
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

/// Runs a task; `false` means that it did its work and found failures, which it has reported.
fn run(task: Task) -> Result<bool> {
    match task {
        Task::Demo(options) => lab::demo(&options),
        Task::Test(options) => test::run(&options),
        Task::Bench(bench) => lab::bench(&bench),
        Task::E2e(options) => e2e::run(&options),
        Task::Check => check::run(),
        Task::Tidy(options) => tidy::run(&options),
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

    /// Most of them take minutes, so no test runs them.
    #[test]
    fn commands_of_the_pages_are_understood() {
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
        assert!(commands > 10, "only {commands} commands were found");
    }
}
