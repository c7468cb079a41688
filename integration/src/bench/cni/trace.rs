//! Counts of what a process asks of the kernel, by `strace`.

use anyhow::{Context, Result};
use integration::Lab;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A record of system calls, of one process after the other and of their children.
pub(super) struct Trace {
    file: PathBuf,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) processes: usize,
    pub(super) round_trips: usize,
    pub(super) flushes: usize,
    pub(super) calls: usize,
}

impl Trace {
    pub(super) fn new(lab: &Lab) -> Result<Self> {
        let file = lab.directory("trace")?.join("calls");
        if file.exists() {
            fs::remove_file(&file).context("could not remove an old trace")?;
        }
        Ok(Self { file })
    }

    /// The same process, traced; its pipes are those of a plugin.
    pub(super) fn wrap(&self, command: &Command) -> Command {
        let mut traced = Command::new("strace");
        traced
            .args(["-f", "-qq", "-yy", "-A", "-o"])
            .arg(&self.file)
            .arg("--")
            .arg(command.get_program())
            .args(command.get_args())
            .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        traced
    }

    pub(super) fn counts(&self) -> Result<Counts> {
        let text = fs::read_to_string(&self.file)
            .with_context(|| format!("could not read {}", self.file.display()))?;
        Ok(count(&text))
    }
}

fn count(text: &str) -> Counts {
    let mut counts = Counts::default();
    for line in text.lines() {
        // `PID call(arguments) = result`, or in two parts: `PID call(arguments <unfinished ...>`, `PID <... call
        // resumed>…`.
        let Some((_, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if rest.contains("execve") && rest.ends_with("= 0") {
            counts.processes += 1;
        }
        if rest.starts_with("<...") || !rest.contains('(') {
            continue;
        }
        counts.calls += 1;
        if rest.starts_with("send") && rest.contains("<NETLINK:") {
            counts.round_trips += 1;
        }
        if rest.starts_with("fsync(") || rest.starts_with("fdatasync(") {
            counts.flushes += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::{Counts, count};

    #[test]
    fn counts_calls_in_one_part_and_in_two() {
        let text = r#"11 execve("/a", ["a"], 0x7ff /* 1 var */) = 0
11 sendto(3<NETLINK:[ROUTE:11]>, [{nlmsg_len=52}], 52, 0, NULL, 0) = 52
12 execve("/b", ["b"], 0x7ff /* 1 var */ <unfinished ...>
11 sendto(4<UNIX-STREAM:[1->2]>, "x", 1, 0, NULL, 0) = 1
12 <... execve resumed>) = 0
12 execve("/c", ["c"], 0x7ff /* 1 var */) = -1 ENOENT (No such file or directory)
12 sendmsg(3<NETLINK:[NETFILTER:12]>, {msg_name=NULL} <unfinished ...>
12 <... sendmsg resumed>) = 60
12 fdatasync(5</x>) = 0
12 +++ exited with 0 +++
"#;
        assert_eq!(count(text), Counts { processes: 2, round_trips: 2, flushes: 1, calls: 7 });
    }
}
