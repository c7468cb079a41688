//! The programs of iptables: finding the one that the host uses, reading and changing its tables.

use flannel_core::family::Family;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::error::{CniError, errno_text};
use crate::fault;

/// How long to wait for the lock of the legacy variant, which is held for seconds on large hosts.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);
/// The time limit of a program.
const RUN_TIMEOUT: Duration = Duration::from_secs(90);
/// The exit status if another program holds the lock.
const BUSY: i32 = 4;
/// The search path if the runtime does not set `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a program keeps its rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// In nf_tables: they can be read and deleted through netlink.
    Nftables,
    /// In tables of its own, or unknown.
    Other,
}

/// The programs of one family that belong to the first `iptables` in `PATH`, which Go's plugins use as well.
#[derive(Clone, Debug)]
pub(crate) struct Tool {
    family: Family,
    /// The program behind all names, or `iptables`.
    program: PathBuf,
    many_names: bool,
    pub(crate) variant: Variant,
}

/// A program that failed.
#[derive(Debug, thiserror::Error)]
#[error("{msg}")]
pub(crate) struct ToolError {
    msg: String,
    /// It has refused the rules.
    pub(crate) refused: bool,
}

impl ToolError {
    fn start(program: &str, error: &io::Error) -> Self {
        Self { msg: format!("could not run {program}: {}", errno_text(error)), refused: false }
    }
}

impl Tool {
    /// Finds the program of a family.
    pub(crate) fn find(family: Family) -> Option<Self> {
        let name = name(family, "");
        let program = look_up(&name)?;
        // Distributions choose the variant by symbolic links to a program with many names.
        let real = program.canonicalize().unwrap_or_else(|_| program.clone());
        let file = real.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let many_names = matches!(file.as_str(), "xtables-nft-multi" | "xtables-legacy-multi");
        let variant = if file.contains("-nft") { Variant::Nftables } else { Variant::Other };
        Some(Self { family, program: if many_names { real } else { program }, many_names, variant })
    }

    /// Finds the program of a family, which must exist.
    pub(crate) fn require(family: Family) -> Result<Self, CniError> {
        Self::find(family).ok_or_else(|| {
            let advice = "install the package iptables, or choose the nftables backend in the network config";
            CniError::internal(format!("{} was not found in PATH: {advice}", name(family, "")))
        })
    }

    /// Whether it can read rules. Starts a process, so only use it after a failure.
    pub(crate) fn is_usable(&self) -> bool {
        let mut command = self.command("");
        command.args(["-t", "filter", "-S", "INPUT", "1"]).stdin(Stdio::null());
        command.output().is_ok_and(|output| matches!(output.status.code(), Some(0 | 1)))
    }

    /// Returns the `nat` table as text.
    pub(crate) fn save(&self) -> Result<String, ToolError> {
        let program = name(self.family, "-save");
        let mut command = self.command("-save");
        let output = command
            .args(["-t", "nat"])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| ToolError::start(&program, &error))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(failure(&program, output.status, &output.stderr, ""))
        }
    }

    /// Starts a change of the `nat` table.
    pub(crate) fn restore(&self, lines: &str) -> Result<Running, ToolError> {
        Ok(self.start()?.feed(lines))
    }

    /// Starts a program that will change the `nat` table. It initializes itself, which takes most of its time, until it is fed.
    pub(crate) fn start(&self) -> Result<Running, ToolError> {
        let program = name(self.family, "-restore");
        let failed = |error| ToolError::start(&program, &error);
        fault::step().map_err(failed)?;
        let child = self
            .command("-restore")
            .args(["--noflush", "--wait", &LOCK_TIMEOUT.as_secs().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        Ok(Running {
            child,
            program,
            input: String::new(),
            deadline: Instant::now() + RUN_TIMEOUT,
            ended: false,
        })
    }

    fn command(&self, end: &str) -> Command {
        let mut command = if self.many_names || end.is_empty() {
            Command::new(&self.program)
        } else {
            // In the same directory, or anywhere in PATH.
            let beside = self.program.with_file_name(name(self.family, end));
            Command::new(if is_program(&beside) { beside } else { name(self.family, end).into() })
        };
        if self.many_names {
            command.arg(name(self.family, end));
        }
        command.env("LC_ALL", "C");
        command
    }
}

/// A running program, which is killed on drop. Its change is atomic.
pub(crate) struct Running {
    child: Child,
    program: String,
    input: String,
    deadline: Instant,
    ended: bool,
}

impl Running {
    /// Sends the lines to apply, all or none. Lines with `-C` only compare. (In the test mode of the nftables variant they do not.)
    pub(crate) fn feed(mut self, lines: &str) -> Self {
        self.input = format!("*nat\n{lines}COMMIT\n");
        if let Some(mut stdin) = self.child.stdin.take() {
            // If it does not read its input, it reports that by its exit status.
            let _ = stdin.write_all(self.input.as_bytes());
        }
        self
    }

    /// Waits for its exit.
    pub(crate) fn finish(mut self) -> Result<(), ToolError> {
        let program = self.program.clone();
        let start = |error| ToolError::start(&program, &error);
        let mut output = Vec::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            loop {
                let left = self.deadline.saturating_duration_since(Instant::now());
                let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
                match poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLIN)], timeout) {
                    Ok(0) if left.is_zero() => {
                        let limit = RUN_TIMEOUT.as_secs();
                        let msg = format!("{program} did not finish within {limit} s and was killed");
                        return Err(ToolError { msg, refused: false });
                    }
                    Ok(0) | Err(nix::Error::EINTR) => continue,
                    Err(errno) => return Err(start(errno.into())),
                    Ok(_) => {}
                }
                let mut chunk = [0; 4096];
                match stderr.read(&mut chunk).map_err(start)? {
                    0 => break,
                    length => output.extend_from_slice(&chunk[..length]),
                }
            }
        }
        let status = self.child.wait().map_err(start)?;
        self.ended = true;
        if status.success() {
            return Ok(());
        }
        Err(failure(&program, status, &output, &self.input))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn failure(program: &str, status: ExitStatus, stderr: &[u8], input: &str) -> ToolError {
    if status.code() == Some(BUSY) {
        let limit = LOCK_TIMEOUT.as_secs();
        let msg = format!("{program} failed: another program has held the iptables lock for {limit} s");
        return ToolError { msg, refused: false };
    }
    let stderr = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> =
        stderr.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let stderr = if lines.is_empty() { "no error message".to_owned() } else { lines.join("; ") };
    let rule = line_number(&stderr).and_then(|number| input.lines().nth(number.checked_sub(1)?));
    let rule = rule.map_or_else(String::new, |rule| format!(" in `{rule}`"));
    ToolError { msg: format!("{program} failed with {status}: {stderr}{rule}"), refused: true }
}

/// Returns the number in `iptables-restore: line 2 failed` or `Error occurred at line: 2`.
fn line_number(text: &str) -> Option<usize> {
    let (_, rest) = text.split_once("line")?;
    let digits: String =
        rest.trim_start_matches([':', ' ']).chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn name(family: Family, end: &str) -> String {
    let start = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    format!("{start}{end}")
}

fn look_up(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Whether the legacy variant has created its `nat` table in this namespace. Reading the table would create it.
pub(crate) fn has_legacy_nat(family: Family) -> bool {
    let names = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    std::fs::read_to_string(names).is_ok_and(|names| names.lines().any(|name| name == "nat"))
}

/// Quotes a word for the input of `iptables-restore`.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,!+=@%[]*".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let escaped: String = word
        .chars()
        .flat_map(|c| match c {
            '"' | '\\' => vec!['\\', c],
            // A line break would end the rule.
            '\n' | '\r' => vec![' '],
            other => vec![other],
        })
        .collect();
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests;
