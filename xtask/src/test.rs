//! All checks and tests: gates, unit, contract and end-to-end tests.

use anyhow::{Result, anyhow};
use clap::Args;
use std::path::{Path, PathBuf};
use std::thread;

use crate::build::{TestProgram, test_programs};
use crate::kubernetes::Build;
use crate::process::{cargo, is_root, watched};
use crate::tally::Tally;
use crate::{check, dist, e2e, packages, sandbox};

#[derive(Args)]
pub(crate) struct TestOptions {
    /// Do not install missing packages
    #[arg(long)]
    no_install: bool,
    #[command(flatten)]
    e2e: e2e::E2eOptions,
}

pub(crate) fn run(options: &TestOptions) -> Result<bool> {
    if !options.no_install {
        packages::install_for_tests()?;
    }
    // It takes longer than everything up to the end-to-end tests.
    let kubernetes = Build::default();
    if is_root() && options.e2e.selects(e2e::KUBERNETES) {
        e2e::start_build(&kubernetes)?;
    }
    let mut tally = check::gates()?;
    println!("\nunit tests");
    unit(&mut tally)?;
    println!("\ncontract tests");
    let contract = contract_programs()?;
    let mut e2e = options.e2e.clone();
    e2e.vm = true;
    // They mostly wait for the kernel, so the processors are free to build what the end-to-end tests need.
    let prepared = thread::scope(|scope| {
        let prepared = scope.spawn(|| e2e::prepare(&e2e, &kubernetes));
        if let Err(error) = contract.run(&mut tally) {
            tally.fail(format!("contract tests: {error:#}"));
        }
        prepared.join().unwrap_or_else(|_| Err(anyhow!("building them panicked")))
    });
    println!("\nend-to-end tests");
    match prepared {
        Ok(prepared) => tally.add(prepared.run(&e2e)),
        Err(error) => tally.fail(format!("end-to-end tests: {error:#}")),
    }
    println!("\n{tally}");
    Ok(tally.good())
}

/// The tests that need neither root nor a network.
fn unit(tally: &mut Tally) -> Result<()> {
    let mut seen = Tally::default();
    let mut command = cargo("test --workspace --quiet --no-fail-fast -- --format pretty");
    let good = watched(&mut command, |line| seen.libtest_line("unit", line))?;
    if !good && seen.good() {
        seen.fail("unit tests: `cargo test` ended with an error before a test failed");
    }
    tally.add(seen);
    Ok(())
}

/// The programs with tests that are marked as needing namespaces.
struct Contract {
    programs: Vec<TestProgram>,
    /// The plugin that they run, where it can be built as in the packages.
    plugin: Option<PathBuf>,
}

fn contract_programs() -> Result<Contract> {
    Ok(Contract { programs: test_programs(&[])?, plugin: dist::plugin_for_tests()? })
}

impl Contract {
    /// Runs the tests of each program in a sandbox of its own.
    fn run(&self, tally: &mut Tally) -> Result<()> {
        for program in &self.programs {
            let tests = program.tests(true)?;
            if tests.is_empty() {
                continue;
            }
            if !is_root() {
                tally.skip(tests.len() as u64, "contract tests need root for network namespaces");
                continue;
            }
            sandbox::possible("test")?;
            contract_of(program, self.plugin.as_deref(), tally)?;
        }
        Ok(())
    }
}

fn contract_of(program: &TestProgram, plugin: Option<&Path>, tally: &mut Tally) -> Result<()> {
    let of = format!("{} contract", program.package);
    let mut seen = Tally::default();
    let mut command = sandbox::command(&program.file);
    // They mostly wait for the kernel.
    command.args(["--ignored", "--format", "pretty", "--test-threads", "6"]);
    if let Some(plugin) = plugin {
        command.env("FLANNEL_PLUGIN", plugin);
    }
    let good = watched(&mut command, |line| seen.libtest_line(&of, line))?;
    if !good && seen.good() {
        seen.fail(format!("{of} tests of {}: ended with an error before a test failed", program.name));
    }
    tally.add(seen);
    Ok(())
}
