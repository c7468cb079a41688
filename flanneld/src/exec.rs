//! The only place that starts processes: with a time limit, in the C locale, killed when nobody waits for them
//! any more.

use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time;

/// How much of what a failed program said is kept.
const STDERR_LIMIT: usize = 2000;

/// A program to run to its end.
#[derive(Clone, Debug)]
pub struct Program {
    program: String,
    arguments: Vec<String>,
    environment: Vec<(&'static str, OsString)>,
    stdin: Vec<u8>,
    limit: Duration,
}

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// There is no such program.
    #[error("{program} was not found in PATH")]
    NotFound {
        /// The program.
        program: String,
    },
    /// It could not be started, fed or waited for.
    #[error("could not run `{command}`")]
    Io {
        /// Program and arguments.
        command: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It took too long and was killed.
    #[error("`{command}` did not end within {} s and was killed", limit.as_secs())]
    TimedOut {
        /// Program and arguments.
        command: String,
        /// The limit.
        limit: Duration,
    },
    /// It ended, not well.
    #[error("`{command}` failed with {status}: {}", if stderr.is_empty() { "it said nothing" } else { stderr })]
    Failed {
        /// Program and arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard error.
        stderr: String,
    },
}

impl Program {
    /// A program, looked up in `PATH` unless it has a slash.
    #[must_use]
    pub fn new(program: &str, limit: Duration) -> Self {
        Self {
            program: program.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            stdin: Vec::new(),
            limit,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Sets a variable of its environment, which is ours otherwise.
    #[must_use]
    pub fn variable(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// What it reads from standard input; nothing if this is not called.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Vec<u8>>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// Runs it and returns what it wrote to standard output.
    pub async fn run(self) -> Result<String, ExecError> {
        let io_error = |source| ExecError::Io { command: self.to_string(), source };
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env("LC_ALL", "C")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| match source.kind() {
                ErrorKind::NotFound => ExecError::NotFound { program: self.program.clone() },
                _ => io_error(source),
            })?;
        let stdin = child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin {
                match stdin.write_all(&self.stdin).await {
                    // It ended without reading everything; its exit status says more than this would.
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                    result => result?,
                }
            }
            Ok(())
        };
        let end = async { tokio::try_join!(feed, child.wait_with_output()) };
        let ended = time::timeout(self.limit, end).await;
        let Ok(ended) = ended else {
            return Err(ExecError::TimedOut { command: self.to_string(), limit: self.limit });
        };
        let ((), output) = ended.map_err(io_error)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let mut stderr = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        stderr.truncate(stderr.floor_char_boundary(STDERR_LIMIT));
        Err(ExecError::Failed { command: self.to_string(), status: output.status, stderr })
    }
}

/// The command without what it reads and without its environment.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.program)?;
        self.arguments.iter().try_for_each(|argument| write!(f, " {argument}"))
    }
}

#[cfg(test)]
mod tests;
