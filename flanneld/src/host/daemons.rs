//! The flanneld processes of this node, of whatever kind.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;

/// A flanneld.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The kernel's letter for it: `S` sleeps, `T` is stopped.
    pub state: char,
}

impl Process {
    /// How it was started: its command line (`cmdline`) or its environment (`environ`), if that may be read.
    #[must_use]
    pub fn words(&self, file: &str) -> Option<Vec<OsString>> {
        let bytes = fs::read(format!("/proc/{}/{file}", self.pid)).ok()?;
        // Behind the last word, too, is a zero.
        let bytes = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
        Some(bytes.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect())
    }

    /// The variables of its environment.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let words = self.words("environ").unwrap_or_default();
        let pair = |word: OsString| {
            let (name, value) = word.to_str()?.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        };
        words.into_iter().filter_map(pair).collect()
    }
}

/// The flanneld processes in our network namespace, by number, this one too if it is one. Nothing is asked of them, so that
/// they may also be of Go, or hang.
#[must_use]
pub fn processes() -> Vec<Process> {
    let own = fs::read_link("/proc/self/ns/net").ok();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut found: Vec<Process> = numbers
        .filter_map(|pid| {
            let state = state(pid)?;
            // Without the right to look we cannot tell, and take it for ours.
            let is_ours = match (fs::read_link(format!("/proc/{pid}/ns/net")).ok(), &own) {
                (Some(theirs), Some(own)) => theirs == *own,
                _ => true,
            };
            is_ours.then_some(Process { pid, state })
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// The first of them.
#[must_use]
pub fn running() -> Option<u32> {
    processes().first().map(|process| process.pid)
}

/// Whether a process is one still.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    state(pid).is_some()
}

fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold any character; the state follows it.
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let state = rest.trim_start().chars().next()?;
    // One that has ended and is not yet waited for is still listed.
    (name == "flanneld" && state != 'Z').then_some(state)
}
