//! A node that has booted: processes of its own, on a file system of its own as far as container runtimes write to
//! it. So they run with their default paths, several nodes at once, and end when the power is cut.

use anyhow::{Context, Result};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::netns::Netns;
use crate::node::Node;

/// What is running on a node. Dropping the handle leaves it running.
#[derive(Debug)]
pub struct Machine {
    netns: Netns,
    directory: PathBuf,
    first: Child,
}

impl Node {
    /// Boots the node: what runs on it afterwards by [`Machine::netns`] ends with [`Machine::power_off`].
    pub fn boot(&self) -> Result<Machine> {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--", "sh", "-c"])
            .args([include_str!("machine.sh"), "sh"])
            .arg(self.directory())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut first = self.netns().spawn(&mut command)?;
        let mut line = String::new();
        BufReader::new(first.stdout.as_mut().context("stdout was asked for as a pipe")?)
            .read_line(&mut line)
            .context("could not read a process number")?;
        let number =
            line.trim().parse().with_context(|| format!("{} did not boot: {line:?}", self.name()))?;
        let netns = Netns::of_process(self.name(), number)?;
        Ok(Machine { netns, directory: self.directory().to_owned(), first })
    }
}

impl Machine {
    /// Its namespaces: whatever is started there sees only what a process on the node would see.
    #[must_use]
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The node as a process on the machine sees it: a daemon that is started there is one of its processes.
    #[must_use]
    pub fn node(&self, node: &Node) -> Node {
        node.seen_from(&self.netns)
    }

    /// Writes a file on the node, and the directory that holds it.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        self.netns.enter(|| {
            let directory = Path::new(path).parent().unwrap_or(Path::new("/"));
            fs::create_dir_all(directory)
                .with_context(|| format!("could not create {}", directory.display()))?;
            fs::write(path, text).with_context(|| format!("could not write {path}"))
        })
    }

    /// Writes a program on the node.
    pub fn write_program(&self, path: &str, text: &str) -> Result<()> {
        self.write(path, text)?;
        self.netns.run(&format!("chmod 755 {path}")).map(drop)
    }

    /// Makes the legacy variant the default of iptables, as an administrator does with `update-alternatives`.
    pub fn use_legacy_iptables(&self) -> Result<()> {
        let script = "mkdir /opt/alternatives\n\
            cp --archive /etc/alternatives/. /opt/alternatives\n\
            for name in iptables ip6tables; do for end in '' -save -restore; do\n\
                ln --symbolic --force /usr/sbin/$name-legacy$end /opt/alternatives/$name$end\n\
            done; done\n\
            mount --bind /opt/alternatives /etc/alternatives\n\
            iptables --version | grep --quiet legacy\n";
        self.netns.feed(&["sh", "-e"], script).map(drop)
    }

    /// Where a directory below `/run` is found from outside, for its sockets.
    #[must_use]
    pub fn memory(&self, name: &str) -> PathBuf {
        self.directory.join("memory").join(name)
    }

    /// Ends every process at once, without a warning.
    pub fn power_off(mut self) -> Result<()> {
        self.first.kill().context("could not cut the power")?;
        self.first.wait().map(drop).context("could not wait for a machine to end")
    }
}
