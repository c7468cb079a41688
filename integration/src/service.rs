//! A long-running program of others on a host: etcd, the components of Kubernetes.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::cell::RefCell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::DIRECTORY;
use crate::netns::Netns;

/// How many lines of a log an error message shows.
const SHOWN_LINES: usize = 15;

/// A program that can be ended and started again. Dropping the handle leaves it running.
#[derive(Debug)]
pub struct Service {
    name: String,
    netns: Netns,
    program: PathBuf,
    arguments: RefCell<Vec<String>>,
    log: PathBuf,
    child: RefCell<Option<Child>>,
}

impl Service {
    /// A program of a host that is not started yet. Its log is named after `name`, which is unique in a test.
    #[must_use]
    pub fn new(netns: &Netns, name: &str, program: impl Into<PathBuf>, arguments: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            netns: netns.clone(),
            program: program.into(),
            arguments: RefCell::new(arguments),
            log: Path::new(DIRECTORY).join("log").join(format!("{name}.log")),
            child: RefCell::new(None),
        }
    }

    /// Returns its arguments.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        self.arguments.borrow().clone()
    }

    /// Adds an argument for the next start.
    pub fn add_argument(&self, argument: &str) {
        self.arguments.borrow_mut().push(argument.to_owned());
    }

    /// Starts it. It may take a while until it answers.
    pub fn start(&self) -> Result<()> {
        ensure!(self.child.borrow().is_none(), "{} is running already", self.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("could not open {}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        command
            .args(&*self.arguments.borrow())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("could not share a log")?)
            .stderr(log);
        *self.child.borrow_mut() = Some(self.netns.spawn(&mut command)?);
        Ok(())
    }

    /// Fails, with the end of its log, if it is not running.
    pub fn check_running(&self) -> Result<()> {
        let mut child = self.child.borrow_mut();
        let child = child.as_mut().with_context(|| format!("{} was not started", self.name))?;
        let status = child.try_wait().with_context(|| format!("could not observe {}", self.name))?;
        ensure!(status.is_none(), "{} ended; {}", self.name, self.log_tail());
        Ok(())
    }

    /// Returns its process number inside the sandbox.
    pub fn pid(&self) -> Result<u32> {
        let child = self.child.borrow();
        Ok(child.as_ref().with_context(|| format!("{} is not running", self.name))?.id())
    }

    /// Sends a signal: SIGSTOP and SIGCONT make it hang and go on.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()?).context("a process number out of range")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("could not send {signal} to {}", self.name))
    }

    /// Ends it, as a crash would.
    pub fn kill(&self) -> Result<()> {
        let child = self.child.borrow_mut().take();
        let mut child = child.with_context(|| format!("{} is not running", self.name))?;
        child.kill().with_context(|| format!("could not kill {}", self.name))?;
        child.wait().map(drop).with_context(|| format!("could not wait for {}", self.name))
    }

    /// Returns the last lines of its log, for error messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
        format!("the log of {} ends with:\n{shown}", self.name)
    }
}
