//! One end-to-end test: the command that runs it, and its outcome.

use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{Built, E2eOptions, packages_directory};
use crate::process::{empty_directory, target};
use crate::sandbox;

/// Time for a test to collect artifacts after its time limit.
const GRACE: Duration = Duration::from_secs(20);

/// One test of one test program.
#[derive(Clone)]
pub(super) struct Case {
    /// `file::test`
    pub(super) name: String,
    pub(super) program: PathBuf,
    /// Number of times the same test was queued before: both may run at the same time.
    pub(super) repeat: usize,
}

pub(super) enum Outcome {
    /// With a text to show, which may be empty.
    Passed(String),
    Skipped(String),
    Failed(String),
}

/// The directory of the artifacts of all tests.
pub(super) fn results() -> PathBuf {
    target().join("e2e")
}

impl Case {
    pub(super) fn directory(&self) -> PathBuf {
        let mut directory = results().join(self.name.replacen("::", "/", 1).replace("::", "."));
        if self.repeat > 0 {
            directory.add_extension(self.repeat.to_string());
        }
        directory
    }

    pub(super) fn output(&self) -> PathBuf {
        self.directory().join("output.txt")
    }
}

/// What all tests in one place have in common.
pub(super) struct Runner<'a> {
    pub(super) options: &'a E2eOptions,
    pub(super) built: &'a Built<'a>,
    /// Features that must not be missing.
    pub(super) required: Vec<String>,
    /// Where tests run, as the result says it.
    pub(super) place: &'static str,
}

impl Runner<'_> {
    /// The longest time that a test may take, and then to collect artifacts.
    pub(super) fn limit(&self) -> Duration {
        Duration::from_secs(self.options.timeout()) + GRACE
    }

    /// Runs a test on the kernel of this machine.
    pub(super) fn run(&self, case: &Case) -> Result<Outcome> {
        let mut command = self.command(case)?;
        let output = File::create(case.output()).context("could not create output.txt")?;
        command.stdin(Stdio::null());
        command.stdout(output.try_clone().context("could not share output.txt")?).stderr(output);
        let mut child = command.spawn().context("could not start a sandbox")?;
        Ok(self.outcome(case, wait(&mut child, self.limit())?))
    }

    /// Returns a command that runs a test in a new sandbox, with an empty directory for its artifacts.
    pub(super) fn command(&self, case: &Case) -> Result<Command> {
        let (directory, options) = (case.directory(), self.options);
        empty_directory(&directory)?;
        let mut command = sandbox::command(&case.program);
        command
            .args(["--exact", &case.name, "--nocapture", "--include-ignored"])
            .env("FLANNEL_E2E_DIR", &directory)
            .env("FLANNEL_E2E_TIMEOUT", options.timeout().to_string())
            .env("FLANNEL_E2E_REQUIRE", self.required.join(","))
            .env("FLANNEL_E2E_LONG", if options.long { "1" } else { "" })
            .env("FLANNEL_E2E_PACKAGES", packages_directory())
            .env("FLANNEL_E2E_PEER", options.peer.chosen()?.unwrap_or_default())
            // Backtraces would hide the causes of an error.
            .env("RUST_BACKTRACE", "0");
        if let Some(programs) = self.built.programs_for(case)? {
            command.env("FLANNEL_E2E_KUBERNETES", programs);
        }
        if let Some(daemon) = options.peer.daemon()? {
            command.env("FLANNEL_GO_FLANNELD", daemon);
        }
        self.built.reasons(&mut command);
        Ok(command)
    }

    /// Returns the outcome of a test that succeeded, failed, or had to be killed (`None`).
    pub(super) fn outcome(&self, case: &Case, good: Option<bool>) -> Outcome {
        let directory = case.directory();
        match (good, fs::read_to_string(directory.join("skipped"))) {
            (Some(true), _) => {
                Outcome::Passed(fs::read_to_string(directory.join("report")).unwrap_or_default())
            }
            (Some(false), Ok(reason)) => Outcome::Skipped(reason.trim().to_owned()),
            (Some(false), Err(_)) => Outcome::Failed("FAILED".to_owned()),
            (None, _) => {
                Outcome::Failed(format!("FAILED: not done after {} s, killed", self.options.timeout()))
            }
        }
    }
}

/// Waits for the end of a child: whether it succeeded, or `None` if it had to be killed.
fn wait(child: &mut Child, limit: Duration) -> Result<Option<bool>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("could not wait for a test")? {
            return Ok(Some(status.success()));
        }
        if started.elapsed() > limit {
            child.kill().context("could not kill a test")?;
            child.wait().context("could not wait for a test")?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(10));
    }
}
