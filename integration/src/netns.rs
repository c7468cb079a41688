//! Named network namespaces, with or without a file system view of their own.

use anyhow::{Context, Result, bail, ensure};
use flannel_core::link::IfIndex;
use flannel_core::message::link::{self, LinkSettings};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;

use crate::rtnetlink::Rtnetlink;

const DIRECTORY: &str = "/run/netns";
const NONE: Option<&str> = None;
/// `lo` has this number in every namespace.
const LOOPBACK: IfIndex = IfIndex(1);

/// A network namespace under `/run/netns`, so that `ip netns` knows it, too.
#[derive(Clone, Debug)]
pub struct Netns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    net: File,
    mounts: Option<File>,
    /// Where processes that are started from here belong.
    processes: Option<File>,
}

impl Netns {
    /// Makes a namespace with only `lo` in it, up.
    pub fn create(name: &str) -> Result<Self> {
        let path = Path::new(DIRECTORY).join(name);
        File::create_new(&path).with_context(|| format!("could not create {}", path.display()))?;
        in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("could not make a network namespace")?;
            mount(Some("/proc/thread-self/ns/net"), &path, NONE, MsFlags::MS_BIND, NONE)
                .context("could not bind a network namespace to its name")?;
            let up = LinkSettings { up: Some(true), ..LinkSettings::default() };
            Rtnetlink::open()?.change(&[link::set(LOOPBACK, &up)]).context("could not set lo up")
        })?;
        let net = File::open(&path).with_context(|| format!("could not open {}", path.display()))?;
        Ok(Self(Arc::new(Inner { name: name.to_owned(), net, mounts: None, processes: None })))
    }

    /// A namespace that exists.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let path = Path::new(DIRECTORY).join(name);
        let net = File::open(&path).with_context(|| format!("could not open {}", path.display()))?;
        Ok(Self(Arc::new(Inner { name: name.to_owned(), net, mounts: None, processes: None })))
    }

    /// The same namespace with a file system view of its own, in which `(source, target)` pairs are bound:
    /// what a node has for itself, such as `/run/flannel`.
    pub(crate) fn with_binds(&self, binds: &[(PathBuf, &str)]) -> Result<Self> {
        let mounts = self.enter(|| {
            unshare(CloneFlags::CLONE_NEWNS).context("could not make a mount namespace")?;
            for (source, target) in binds {
                mount(Some(source), Path::new(target), NONE, MsFlags::MS_BIND, NONE)
                    .with_context(|| format!("could not bind {} to {target}", source.display()))?;
            }
            File::open("/proc/thread-self/ns/mnt").context("could not open a mount namespace")
        })?;
        let net = self.0.net.try_clone().context("could not share a network namespace")?;
        Ok(Self(Arc::new(Inner { name: self.0.name.clone(), net, mounts: Some(mounts), processes: None })))
    }

    /// The namespaces of a process: its network, its files, and the processes that it sees.
    pub(crate) fn of_process(name: &str, pid: u32) -> Result<Self> {
        let open = |kind: &str| {
            let path = format!("/proc/{pid}/ns/{kind}");
            File::open(&path).with_context(|| format!("could not open {path}"))
        };
        let (net, mounts, processes) = (open("net")?, Some(open("mnt")?), Some(open("pid")?));
        Ok(Self(Arc::new(Inner { name: name.to_owned(), net, mounts, processes })))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its file, as a CNI runtime would pass it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.0.name)
    }

    /// Runs a closure inside, in a thread of its own. Sockets that it opens stay inside.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        in_thread(|| {
            self.join()?;
            work()
        })
    }

    /// Moves the calling thread inside.
    pub(crate) fn join(&self) -> Result<()> {
        if let Some(processes) = &self.0.processes {
            setns(processes, CloneFlags::CLONE_NEWPID)
                .with_context(|| format!("could not join the processes of {}", self.0.name))?;
        }
        if let Some(mounts) = &self.0.mounts {
            // A mount namespace can be joined only by a thread that shares root and working directory with
            // no other (setns(2)).
            unshare(CloneFlags::CLONE_FS).context("could not leave the shared working directory")?;
            setns(mounts, CloneFlags::CLONE_NEWNS)
                .with_context(|| format!("could not enter the files of {}", self.0.name))?;
        }
        setns(&self.0.net, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("could not enter the network of {}", self.0.name))
    }

    /// Starts a process inside.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        self.enter(|| {
            command.spawn().with_context(|| format!("could not start {}", command.get_program().display()))
        })
    }

    /// Runs a process inside to its end, with its output captured, whether it succeeds or not.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        self.enter(|| {
            command.output().with_context(|| format!("could not start {}", command.get_program().display()))
        })
    }

    /// Runs a command given as one line of words; answers with its stdout. It must succeed.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command")?;
        let mut command = Command::new(program);
        command.args(words).stdin(Stdio::null());
        self.checked(&mut command)
    }

    /// Runs a command inside; answers with its stdout. It must succeed.
    pub fn checked(&self, command: &mut Command) -> Result<String> {
        let output = self.output(command)?;
        stdout_of(command, &output).with_context(|| format!("in {}", self.0.name))
    }

    /// Runs one `ip` command.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        self.run(&format!("ip {arguments}"))
    }

    /// Runs several `ip` commands, one a line, in one process.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        self.feed(&["ip", "-batch", "-"], lines).map(drop)
    }

    /// Runs a command with this text on stdin; answers with its stdout. It must succeed.
    pub fn feed(&self, words: &[&str], input: &str) -> Result<String> {
        let (program, arguments) = words.split_first().context("an empty command")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn(&mut command)?;
        let mut stdin = child.stdin.take().context("stdin was asked for as a pipe")?;
        // Written from a thread, or a command that answers before it has read all would block us both.
        let output = thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(input.as_bytes()));
            child.wait_with_output().context("could not wait for a command")
        })?;
        stdout_of(&command, &output).with_context(|| format!("in {} with this input:\n{input}", self.0.name))
    }

    /// Writes a setting below `/proc/sys`, such as `net/ipv4/ip_forward`.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(name);
        self.enter(|| fs::write(&path, value).with_context(|| format!("could not write {}", path.display())))
    }

    /// Enables forwarding for both families. A new namespace starts with the current settings of the host.
    pub(crate) fn forward(&self) -> Result<()> {
        self.set_sysctl("net/ipv4/ip_forward", "1")?;
        if Path::new("/proc/sys/net/ipv6").exists() {
            self.set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
        }
        Ok(())
    }

    /// Reads a setting below `/proc/sys`.
    pub fn sysctl(&self, name: &str) -> Result<String> {
        self.read(&Path::new("/proc/sys").join(name)).map(|text| text.trim().to_owned())
    }

    /// Reads a file as it is seen inside.
    pub fn read(&self, path: &Path) -> Result<String> {
        self.enter(|| fs::read_to_string(path).with_context(|| format!("could not read {}", path.display())))
    }

    /// Removes the name. The namespace itself goes when nothing uses it any more.
    pub fn delete(self) -> Result<()> {
        ensure!(self.0.mounts.is_none(), "{} belongs to a node and stays", self.0.name);
        let path = self.path();
        nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH)
            .with_context(|| format!("could not unmount {}", path.display()))?;
        fs::remove_file(&path).with_context(|| format!("could not remove {}", path.display()))
    }
}

/// The stdout of a command that has succeeded, or an error that says what it said.
pub(crate) fn stdout_of(command: &Command, output: &Output) -> Result<String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    let stderr = String::from_utf8_lossy(&output.stderr);
    bail!("`{}` failed ({}): {}{}", words.join(" "), output.status, stderr.trim(), stdout.trim())
}

/// Runs a closure in a new thread: namespaces belong to threads.
fn in_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
