//! The only place that starts processes: with a time limit, in the C locale, killed when the caller stops waiting.

use std::ffi::OsStr;
use std::fmt;
use std::io::ErrorKind;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time;

/// The maximum length of the stderr of a failed program in an error.
const STDERR_LIMIT: usize = 2000;

/// A program to run.
#[derive(Debug)]
pub struct Program {
    command: Command,
    stdin: Vec<u8>,
    limit: Duration,
}

/// An error while running a program.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The program was not found.
    #[error("{program} was not found in PATH")]
    NotFound {
        /// The program.
        program: String,
    },
    /// Starting it, writing its input or waiting for it failed.
    #[error("could not run `{command}`")]
    Io {
        /// Program and arguments.
        command: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It exceeded its time limit and was killed.
    #[error("`{command}` did not end within {} s and was killed", limit.as_secs())]
    TimedOut {
        /// Program and arguments.
        command: String,
        /// The limit.
        limit: Duration,
    },
    /// It failed.
    #[error("`{command}` failed with {status}: {}", if stderr.is_empty() { "no output on stderr" } else { stderr })]
    Failed {
        /// Program and arguments.
        command: String,
        /// Its exit status.
        status: ExitStatus,
        /// Its standard error.
        stderr: String,
    },
}

/// Returns whether `PATH` contains a program.
#[must_use]
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

impl Program {
    /// Returns a program, which is searched in `PATH` unless it contains a slash.
    #[must_use]
    pub fn new(program: &str, limit: Duration) -> Self {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        Self { command, stdin: Vec::new(), limit }
    }

    /// Adds an argument.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.command.arg(argument);
        self
    }

    /// Sets an environment variable; all others are inherited.
    #[must_use]
    pub fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets its standard input, which is empty by default.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Vec<u8>>) -> Self {
        self.command.stdin(Stdio::piped());
        self.stdin = stdin.into();
        self
    }

    fn name(&self) -> String {
        self.command.as_std().get_program().display().to_string()
    }

    /// Runs the program and returns its standard output.
    pub async fn run(mut self) -> Result<String, ExecError> {
        let command = self.to_string();
        let io_error = |source| ExecError::Io { command: command.clone(), source };
        let mut child = self.command.spawn().map_err(|source| match source.kind() {
            ErrorKind::NotFound => ExecError::NotFound { program: self.name() },
            _ => io_error(source),
        })?;
        let stdin = child.stdin.take();
        let feed = async {
            if let Some(mut stdin) = stdin {
                match stdin.write_all(&self.stdin).await {
                    // It ended without reading all its input; its exit status is more informative.
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                    result => result?,
                }
            }
            Ok(())
        };
        let end = async { tokio::try_join!(feed, child.wait_with_output()) };
        let ended = time::timeout(self.limit, end).await;
        let Ok(ended) = ended else {
            return Err(ExecError::TimedOut { command, limit: self.limit });
        };
        let ((), output) = ended.map_err(io_error)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let mut stderr = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        stderr.truncate(stderr.floor_char_boundary(STDERR_LIMIT));
        Err(ExecError::Failed { command, status: output.status, stderr })
    }
}

/// The command without its input and environment.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        self.command.as_std().get_args().try_for_each(|argument| write!(f, " {}", argument.display()))
    }
}

#[cfg(test)]
mod tests;
