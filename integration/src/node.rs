//! A node: a network namespace with files of its own, the daemon on it, and pods.

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::http;
use crate::netns::Netns;
use crate::poll::Readiness;
use crate::{DIRECTORY, program, wait};

/// A node. Cloning gives another handle on the same one.
#[derive(Clone, Debug)]
pub struct Node {
    name: String,
    netns: Netns,
    directory: PathBuf,
}

/// Directories that each node has for itself, and where they are kept below the node's directory.
const DIRECTORIES: [(&str, &str); 4] = [
    ("run-flannel", "/run/flannel"),
    ("var-lib-flannel", "/var/lib/flannel"),
    ("var-lib-cni", "/var/lib/cni"),
    ("etc-cni-net.d", "/etc/cni/net.d"),
];

/// The lock of iptables: a file, and so shared by all namespaces that see it.
const XTABLES_LOCK: &str = "/run/xtables.lock";

impl Node {
    pub(crate) fn create(name: &str) -> Result<Self> {
        let directory = Path::new(DIRECTORY).join("node").join(name);
        let mut binds = Vec::new();
        for (kept, seen) in DIRECTORIES {
            let kept = directory.join(kept);
            fs::create_dir_all(&kept).with_context(|| format!("could not create {}", kept.display()))?;
            binds.push((kept, seen));
        }
        let lock = directory.join("xtables.lock");
        for file in [Path::new(XTABLES_LOCK), &lock] {
            File::create(file).with_context(|| format!("could not create {}", file.display()))?;
        }
        binds.push((lock, XTABLES_LOCK));
        let netns = Netns::create(name)?.with_binds(&binds)?;
        netns.forward()?;
        Ok(Self { name: name.to_owned(), netns, directory })
    }

    /// The node after a power cycle, with a new network namespace.
    pub(crate) fn rebooted(&self) -> Result<Self> {
        Netns::open(&self.name)?.delete()?;
        for (kept, seen) in DIRECTORIES.iter().filter(|(_, seen)| seen.starts_with("/run/")) {
            fs::remove_dir_all(self.directory.join(kept))
                .with_context(|| format!("could not empty {seen}"))?;
        }
        Self::create(&self.name)
    }

    /// The same node with other namespaces.
    pub(crate) fn seen_from(&self, netns: &Netns) -> Self {
        Self { netns: netns.clone(), ..self.clone() }
    }

    /// Where its files are kept.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespaces.
    #[must_use]
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Where a file of the node, such as `/run/flannel/subnet.env`, is kept: for looking at it and
    /// changing it without entering the node.
    pub fn file(&self, path: &str) -> Result<PathBuf> {
        DIRECTORIES
            .iter()
            .find_map(|(kept, seen)| {
                let rest = path.strip_prefix(seen)?;
                Some(self.directory.join(kept).join(rest.trim_start_matches('/')))
            })
            .with_context(|| format!("{path} is not among the files that a node has for itself"))
    }

    /// The text of `/run/flannel/subnet.env`.
    pub fn subnet_env_text(&self) -> Result<String> {
        let path = self.file("/run/flannel/subnet.env")?;
        fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))
    }

    /// The variables of `/run/flannel/subnet.env`.
    pub fn subnet_env(&self) -> Result<BTreeMap<String, String>> {
        let text = self.subnet_env_text()?;
        Ok(text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect())
    }

    /// The subnet of the node as in `subnet.env`, reduced to its network: `10.42.1.0/24`.
    pub fn subnet(&self, v4: bool) -> Result<ipnet::IpNet> {
        let key = if v4 { "FLANNEL_SUBNET" } else { "FLANNEL_IPV6_SUBNET" };
        let variables = self.subnet_env()?;
        let value = variables.get(key).with_context(|| format!("{key} is not in subnet.env"))?;
        let net: ipnet::IpNet = value.parse().with_context(|| format!("{key}={value}"))?;
        Ok(net.trunc())
    }

    /// Starts a daemon. It is ready only after [`Daemon::wait_ready`].
    pub fn start(&self, flanneld: &Flanneld) -> Result<Daemon> {
        self.start_logging(flanneld.clone(), &format!("{}.flanneld.log", self.name), HEALTH)
    }

    /// Starts one of several daemons that share the node, each with files and a port of its own. They
    /// need different public addresses.
    pub fn start_beside(&self, number: u16, flanneld: &Flanneld) -> Result<Daemon> {
        let health = SocketAddr::new(HEALTH.ip(), HEALTH.port() + number);
        // Of a flag that is given twice the second one counts.
        let flanneld = flanneld
            .clone()
            .argument(format!("--healthz-port={}", health.port()))
            .argument(format!("--subnet-file=/run/flannel/{number}/subnet.env"))
            .argument(format!("--state-dir=/var/lib/flannel/{number}"))
            .argument(format!("--status-socket=/run/flannel/{number}/flanneld.sock"));
        self.start_logging(flanneld, &format!("{}.{number}.flanneld.log", self.name), health)
    }

    fn start_logging(&self, flanneld: Flanneld, log: &str, health: SocketAddr) -> Result<Daemon> {
        let log = Path::new(DIRECTORY).join("log").join(log);
        let mut daemon = Daemon { node: self.clone(), flanneld, log, health, child: None };
        daemon.start()?;
        Ok(daemon)
    }
}

/// How a daemon is started.
#[derive(Clone, Debug)]
pub struct Flanneld {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
}

/// Every node has this port for itself.
const HEALTH: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8470);

impl Flanneld {
    /// Our daemon, with leases in a directory.
    #[must_use]
    pub fn on_directory(directory: &Path) -> Self {
        Self::bare().argument("--lease-dir").argument(directory)
    }

    /// Our daemon without a store.
    #[must_use]
    pub fn bare() -> Self {
        Self { program: program("flanneld"), arguments: Vec::new(), environment: Vec::new() }
            .argument(format!("--healthz-port={}", HEALTH.port()))
            .argument("-v=2")
    }

    /// The flags that name the store, which flannelctl takes as well.
    #[must_use]
    pub fn store_flags(&self) -> Vec<OsString> {
        let mut flags = Vec::new();
        let mut words = self.arguments.iter();
        while let Some(word) = words.next() {
            let text = word.to_string_lossy();
            if text == "--lease-dir" {
                flags.push(word.clone());
                flags.extend(words.next().cloned());
            } else if text.starts_with("--etcd-") {
                flags.push(word.clone());
            }
        }
        flags
    }

    /// Another program that takes the same flags.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments, separated by white space.
    #[must_use]
    pub fn arguments(self, line: &str) -> Self {
        line.split_whitespace().fold(self, Self::argument)
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A daemon on a node. Dropping the handle leaves it running.
#[derive(Debug)]
pub struct Daemon {
    node: Node,
    flanneld: Flanneld,
    log: PathBuf,
    health: SocketAddr,
    child: Option<Child>,
}

impl Daemon {
    /// Starts it again after [`Daemon::stop`] or [`Daemon::kill`].
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the daemon on {} is running already", self.node.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("could not open {}", self.log.display()))?;
        let mut command = Command::new(&self.flanneld.program);
        command
            .args(&self.flanneld.arguments)
            .envs(self.flanneld.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("could not share a log")?)
            .stderr(log);
        self.child = Some(self.node.netns.spawn(&mut command)?);
        Ok(())
    }

    /// Changes how it is started the next time.
    pub fn set_flanneld(&mut self, flanneld: Flanneld) {
        self.flanneld = flanneld;
    }

    /// Its process number inside the sandbox.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("the daemon is not running")?.id())
    }

    /// Processor time of all its threads so far.
    pub fn processor_time(&self) -> Result<Duration> {
        let tasks = format!("/proc/{}/task", self.pid()?);
        let mut nanos = 0;
        for task in fs::read_dir(&tasks).with_context(|| format!("could not list {tasks}"))? {
            let path = task.context("could not list threads")?.path().join("schedstat");
            // A thread may end while we look.
            let stat = fs::read_to_string(path).unwrap_or_default();
            nanos += stat.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Its resident memory.
    pub fn resident_kb(&self) -> Result<u64> {
        self.memory_kb("VmRSS:")
    }

    /// Its resident memory at the most.
    pub fn peak_resident_kb(&self) -> Result<u64> {
        self.memory_kb("VmHWM:")
    }

    fn memory_kb(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))
            .context("could not read the status of the daemon")?;
        status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.split_whitespace().next()?.parse().ok())
            .with_context(|| format!("no {field} in the status of the daemon"))
    }

    /// What it has logged, over all its lives.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("could not read {}", self.log.display()))
    }

    /// Waits until it has logged a line with all of these parts.
    pub fn wait_log(&self, parts: &[&str]) -> Result<()> {
        let what = format!("the daemon on {} logs {parts:?}", self.node.name);
        wait::until(what, wait::LONG, || {
            let found = self.log()?.lines().any(|line| parts.iter().all(|part| line.contains(part)));
            ensure!(found, "{}", self.log_tail());
            Ok(())
        })
    }

    /// Waits until `/readyz` says so. Fails at once if the daemon ends.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait_ready_within(wait::LONG)
    }

    /// Waits until `/readyz` says so, with a cap of one's own.
    pub fn wait_ready_within(&mut self, cap: Duration) -> Result<()> {
        let what = format!("the daemon on {} is ready", self.node.name);
        let ended = wait::until(what, cap, || {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            let answer = self.get("/readyz")?;
            ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
            Ok(None)
        });
        match ended {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                bail!("the daemon on {} ended with {status}:\n{}", self.node.name, self.log_tail())
            }
            Err(error) => Err(error.context(self.log_tail())),
        }
    }

    /// Waits until it ends by itself.
    pub fn wait_end(&mut self) -> Result<ExitStatus> {
        let status = wait::until(format!("the daemon on {} ends", self.node.name), wait::LONG, || {
            self.ended()?.context("still running")
        })?;
        self.child = None;
        Ok(status)
    }

    /// Whether it is still running.
    pub fn running(&mut self) -> Result<bool> {
        Ok(self.child.is_some() && self.ended()?.is_none())
    }

    /// Asks one of its health endpoints.
    pub fn get(&self, path: &str) -> Result<http::Response> {
        http::get(&self.node.netns, self.health, path)
    }

    /// Polls `/readyz` from now on.
    #[must_use]
    pub fn watch_ready(&self) -> Readiness {
        Readiness::watch(&self.node.netns, self.health)
    }

    /// Asks its status socket.
    pub fn status(&self, path: &str) -> Result<http::Response> {
        http::get_unix(&self.node.netns, Path::new("/run/flannel/flanneld.sock"), path)
    }

    /// Asks it to end (SIGTERM) and waits.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait_end()
    }

    /// Ends it without a warning (SIGKILL).
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait_end().map(drop)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()?).context("a process number out of range")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("could not send {signal} to the daemon"))
    }

    /// Stops it, starts it again and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start()?;
        self.wait_ready()
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let child = self.child.as_mut().context("the daemon is not running")?;
        child.try_wait().context("could not look after the daemon")
    }

    /// The last lines that it has logged, for error messages.
    fn log_tail(&self) -> String {
        let log = self.log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("its log ends with:\n{}", lines[lines.len().saturating_sub(15)..].join("\n"))
    }
}
