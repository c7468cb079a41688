//! Kernel settings of the current network namespace. flanneld checks the settings that it needs and
//! reports how to fix them; to enable forwarding is left to the administrator, as with the Go daemon.

use flannel_core::family::Family;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

/// The settings below one directory, normally `/proc/sys`.
#[derive(Clone, Debug)]
pub struct Sysctl {
    root: PathBuf,
}

/// A setting of the host that prevents flannel from working, and how to fix it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What is wrong, and its effect.
    pub problem: String,
    /// How to fix it, as a command where one exists.
    pub fix: String,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; to fix it: {}", self.problem, self.fix)
    }
}

impl Default for Sysctl {
    fn default() -> Self {
        Self { root: PathBuf::from("/proc/sys") }
    }
}

impl Sysctl {
    #[cfg(test)]
    pub(crate) fn below(root: &std::path::Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Reads a setting such as `net.ipv4.ip_forward`, without its line end. Interface names go in
    /// as a path component of `name`, so they must not contain a dot: use [`Sysctl::read_path`] for those.
    pub fn read(&self, name: &str) -> io::Result<String> {
        self.read_path(&name.replace('.', "/"))
    }

    /// Reads a setting by its path below `/proc/sys`, such as `net/ipv4/conf/flannel.1/rp_filter`.
    pub fn read_path(&self, path: &str) -> io::Result<String> {
        let mut text = fs::read_to_string(self.root.join(path))?;
        text.truncate(text.trim_end().len());
        Ok(text)
    }

    /// Writes a setting, by its path below `/proc/sys`. It exists or the write fails.
    pub fn write_path(&self, path: &str, value: &str) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).open(self.root.join(path))?;
        io::Write::write_all(&mut file, value.as_bytes())
    }

    /// What keeps the host from forwarding packets of these families.
    #[must_use]
    pub fn forwarding(&self, families: &[Family]) -> Vec<Condition> {
        families.iter().filter_map(|family| self.forwarding_of(*family)).collect()
    }

    fn forwarding_of(&self, family: Family) -> Option<Condition> {
        let name = match family {
            Family::V4 => "net.ipv4.ip_forward",
            Family::V6 => "net.ipv6.conf.all.forwarding",
        };
        match self.read(name) {
            Ok(value) if value != "0" => None,
            Ok(_) => Some(Condition {
                problem: format!("{name} is 0: this node does not forward {family} packets to and from pods"),
                fix: format!("sysctl -w {name}=1"),
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Some(Condition {
                problem: format!("{name} does not exist: the kernel has no {family}"),
                fix: format!("start the kernel with {family}, or switch it off in the network config"),
            }),
            Err(error) => Some(unreadable(name, &error)),
        }
    }
}

fn unreadable(name: &str, error: &io::Error) -> Condition {
    Condition {
        problem: format!("{name} cannot be read: {error}"),
        fix: "mount /proc and run flanneld as root".to_owned(),
    }
}

#[cfg(test)]
mod tests;
