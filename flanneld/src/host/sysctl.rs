//! Kernel settings of the current network namespace. flanneld checks the settings that it needs and reports how to fix them; as
//! with Go flannel, the administrator enables forwarding.

use flannel_core::family::Family;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

/// The settings below one directory, normally `/proc/sys`.
#[derive(Clone, Debug)]
pub struct Sysctl {
    root: PathBuf,
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

    /// Reads a setting such as `net.ipv4.ip_forward`, without its line end. For a name with an interface, which can contain a dot,
    /// use [`Sysctl::read_path`].
    pub fn read(&self, name: &str) -> io::Result<String> {
        self.read_path(&name.replace('.', "/"))
    }

    /// Reads a setting by its path below `/proc/sys`, such as `net/ipv4/conf/flannel.1/rp_filter`.
    pub fn read_path(&self, path: &str) -> io::Result<String> {
        let mut text = fs::read_to_string(self.root.join(path))?;
        text.truncate(text.trim_end().len());
        Ok(text)
    }

    /// Writes a setting by its path below `/proc/sys`.
    pub fn write_path(&self, path: &str, value: &str) -> io::Result<()> {
        fs::write(self.root.join(path), value)
    }

    /// Returns why the host does not forward packets of these families, each with the fix.
    #[must_use]
    pub(crate) fn forwarding(&self, families: &[Family]) -> Vec<String> {
        families.iter().filter_map(|family| self.forwarding_of(*family)).collect()
    }

    fn forwarding_of(&self, family: Family) -> Option<String> {
        let name = match family {
            Family::V4 => "net.ipv4.ip_forward",
            Family::V6 => "net.ipv6.conf.all.forwarding",
        };
        match self.read(name) {
            Ok(value) if value != "0" => None,
            Ok(_) => {
                // Otherwise the host loses its routes (`flannel_core::advertisement`). Doctor has the whole command.
                let first = match family {
                    Family::V4 => "",
                    Family::V6 => " (after accept_ra=2 on interfaces with routes from router advertisements)",
                };
                Some(format!(
                    "{name} is 0: this node does not forward {family} packets to and from pods: sysctl -w {name}=1{first}"
                ))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Some(format!(
                "{name} does not exist: the kernel has no {family}: start the kernel with {family}, or disable it in the \
                 network config"
            )),
            Err(error) => {
                Some(format!("{name} cannot be read: {error}: mount /proc and run flanneld as root"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
