//! The flanneld processes of this node, those of Go flannel included.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// A flanneld process.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// Its process id.
    pub pid: u32,
    /// Its state in the notation of the kernel: `S` sleeping, `T` stopped.
    pub state: char,
}

impl Process {
    /// Returns the words of its command line (`cmdline`) or environment (`environ`), if they are readable.
    #[must_use]
    pub fn words(&self, file: &str) -> Option<Vec<OsString>> {
        let bytes = fs::read(format!("/proc/{}/{file}", self.pid)).ok()?;
        // The last word ends with a zero, too.
        let bytes = bytes.strip_suffix(&[0]).unwrap_or(&bytes);
        Some(bytes.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect())
    }

    /// Returns the variables of its environment.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let words = self.words("environ").unwrap_or_default();
        let pair = |word: OsString| {
            let (name, value) = word.to_str()?.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        };
        words.into_iter().filter_map(pair).collect()
    }

    /// Returns its root directory, as this process sees it.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        ["/proc", &self.pid.to_string(), "root"].iter().collect()
    }

    /// Whether it may see other files than this process: it is in another mount namespace.
    #[must_use]
    pub fn has_other_files(&self) -> bool {
        let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
        let (own, other) = (namespace("self"), namespace(&self.pid.to_string()));
        own.is_some() && other.is_some() && own != other
    }
}

/// Returns the flanneld processes of this network namespace by id, this one included. They are not contacted, so that they may hang
/// or be Go flannel.
#[must_use]
pub fn processes() -> Vec<Process> {
    let own = fs::read_link("/proc/self/ns/net").ok();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut found: Vec<Process> = numbers
        .filter_map(|pid| {
            let state = state(pid)?;
            // Without the permission to read it, assume this namespace.
            let is_here = match (fs::read_link(format!("/proc/{pid}/ns/net")).ok(), &own) {
                (Some(other), Some(own)) => other == *own,
                _ => true,
            };
            is_here.then_some(Process { pid, state })
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

/// Returns the first of them.
#[must_use]
pub fn running() -> Option<u32> {
    processes().first().map(|process| process.pid)
}

/// Whether a process is a flanneld.
#[must_use]
pub fn is_running(pid: u32) -> bool {
    state(pid).is_some()
}

fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and can contain any character; the state follows it.
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let state = rest.trim_start().chars().next()?;
    // A zombie is listed, too.
    (name == "flanneld" && state != 'Z').then_some(state)
}
