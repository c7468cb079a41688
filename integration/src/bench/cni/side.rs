//! The sides of the comparison: each has a node, pods, and a way to attach one.

use anyhow::{Context, Result, ensure};
use integration::{Conflist, Lab, Netns, Node, cni};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use super::trace::{Counts, Trace};
use super::variant::Variant;

/// An operation on a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Add,
    Check,
    Del,
}

impl Operation {
    pub(super) const ALL: [Self; 3] = [Self::Add, Self::Check, Self::Del];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
        }
    }
}

/// One way to do it.
pub(super) struct Side {
    node: Node,
    tool: Tool,
    pods: Vec<Pod>,
}

enum Tool {
    /// Plugins in a directory.
    Plugins(PathBuf),
    /// The kernel's part alone.
    Bare(PathBuf),
}

struct Pod {
    netns: Netns,
    list: Conflist,
    places: Vec<String>,
    number: usize,
    result: Mutex<Option<Value>>,
}

/// What one operation took, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) wall: f64,
    pub(super) processor: f64,
}

impl Side {
    /// Plugins in a directory, on a node of their own.
    pub(super) fn plugins(
        lab: &Lab,
        name: &str,
        variant: Variant,
        directory: &Path,
        lists: Vec<Conflist>,
    ) -> Result<Self> {
        let node = lab.node(name)?;
        let file = node.file("/run/flannel/subnet.env")?;
        fs::write(&file, variant.subnet_env())
            .with_context(|| format!("could not write {}", file.display()))?;
        Self::new(node, Tool::Plugins(directory.to_owned()), variant, lists)
    }

    /// The kernel's part alone, on a node with a bridge as the plugins make it.
    pub(super) fn bare(
        lab: &Lab,
        name: &str,
        variant: Variant,
        program: PathBuf,
        pods: usize,
    ) -> Result<Self> {
        let node = lab.node(name)?;
        node.netns().ip_batch(
            "link add cni0 mtu 1450 type bridge\nlink set cni0 up\n\
             addr add 10.244.0.1/24 dev cni0\naddr add fd00:10:244::1/64 dev cni0 nodad\n",
        )?;
        Self::new(node, Tool::Bare(program), variant, (0..pods).map(|pod| variant.ours(pod)).collect())
    }

    /// One pod for each list.
    fn new(node: Node, tool: Tool, variant: Variant, lists: Vec<Conflist>) -> Result<Self> {
        let pod = |(number, list)| {
            let netns = Netns::create(&format!("{}-{number}", node.name()))?;
            let places = variant.places(number);
            Ok(Pod { netns, list, places, number, result: Mutex::new(None) })
        };
        let pods = lists.into_iter().enumerate().map(pod).collect::<Result<_>>()?;
        Ok(Self { node, tool, pods })
    }

    /// Does one operation on one pod.
    pub(super) fn measure(&self, operation: Operation, pod: usize) -> Result<Sample> {
        self.node.netns().enter(|| {
            let (before, started) = (children()?, Instant::now());
            self.perform(operation, &self.pods[pod], None)?;
            let wall = started.elapsed().as_secs_f64() * 1000.0;
            Ok(Sample { wall, processor: children()? - before })
        })
    }

    /// Does one operation on many pods, so many at once; answers with operations per second.
    pub(super) fn rate(
        &self,
        operation: Operation,
        pods: std::ops::Range<usize>,
        at_once: usize,
    ) -> Result<f64> {
        let (count, next) = (pods.len(), AtomicUsize::new(pods.start));
        let work = || -> Result<()> {
            loop {
                let pod = next.fetch_add(1, Ordering::Relaxed);
                if pod >= pods.end {
                    return Ok(());
                }
                self.perform(operation, &self.pods[pod], None)?;
            }
        };
        self.node.netns().enter(|| {
            let started = Instant::now();
            thread::scope(|scope| {
                // Threads are in the namespaces of the one that starts them.
                let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
                workers.into_iter().try_for_each(|worker| {
                    worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
            })?;
            let count = u32::try_from(count).context("a number of pods")?;
            Ok(f64::from(count) / started.elapsed().as_secs_f64())
        })
    }

    /// Counts what one operation on one pod asks of the kernel.
    pub(super) fn count(&self, lab: &Lab, operation: Operation, pod: usize) -> Result<Counts> {
        let trace = Trace::new(lab)?;
        self.node.netns().enter(|| self.perform(operation, &self.pods[pod], Some(&trace)))?;
        trace.counts()
    }

    fn perform(&self, operation: Operation, pod: &Pod, trace: Option<&Trace>) -> Result<()> {
        let named = || format!("{} of {}", operation.name(), pod.netns.name());
        match &self.tool {
            Tool::Bare(program) => bare(program, operation, pod, trace).with_context(named),
            Tool::Plugins(directory) => chain(directory, operation, pod, trace).with_context(named),
        }
    }
}

fn bare(program: &Path, operation: Operation, pod: &Pod, trace: Option<&Trace>) -> Result<()> {
    let mut command = Command::new(program);
    match operation {
        Operation::Add => {
            command.arg("add").arg(pod.netns.path()).arg(format!("veth{:08x}", pod.number)).args(&pod.places);
        }
        Operation::Del => {
            command.arg("del").arg(pod.netns.path());
        }
        Operation::Check => return Ok(()),
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish(command, &[], trace).map(drop)
}

fn chain(directory: &Path, operation: Operation, pod: &Pod, trace: Option<&Trace>) -> Result<()> {
    let mut result = pod.result.lock().unwrap_or_else(PoisonError::into_inner);
    let plugins = pod.list.plugins();
    let order: Vec<&Value> =
        if operation == Operation::Del { plugins.iter().rev().collect() } else { plugins.iter().collect() };
    if operation == Operation::Add {
        *result = None;
    }
    for plugin in order {
        let kind = plugin["type"].as_str().context("a plugin without a type")?;
        let config = pod.list.config(plugin, result.as_ref()).to_string();
        let path = directory.to_str().context("a directory whose name is not text")?;
        let file = directory.join(kind);
        let command = cni::plugin(&file, operation.name(), pod.netns.name(), &pod.netns, path);
        let answer = finish(command, config.as_bytes(), trace).context(kind.to_owned())?;
        if operation == Operation::Add {
            *result = Some(serde_json::from_slice(&answer).context("not a result")?);
        }
    }
    Ok(())
}

/// Runs a process to its end; answers with its stdout.
fn finish(command: Command, input: &[u8], trace: Option<&Trace>) -> Result<Vec<u8>> {
    let mut command = match trace {
        Some(trace) => trace.wrap(&command),
        None => command,
    };
    let mut child =
        command.spawn().with_context(|| format!("could not start {}", command.get_program().display()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input).context("could not write a config")?;
    }
    let output = child.wait_with_output().context("could not wait for a plugin")?;
    ensure!(
        output.status.success(),
        "failed ({}): {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

/// Processor time of all children that have ended, theirs included, in milliseconds.
fn children() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("could not read processor times")?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(std::time::Duration::from_micros(micros.cast_unsigned()).as_secs_f64() * 1000.0)
}

/// From start to exit of a plugin that is only asked for its versions, without pipes: nothing but the process.
pub(super) fn version(program: &Path) -> Result<Sample> {
    let mut command = Command::new(program);
    command.env("CNI_COMMAND", "VERSION").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let (before, started) = (children()?, Instant::now());
    let status = command.status().with_context(|| format!("could not start {}", program.display()))?;
    let wall = started.elapsed().as_secs_f64() * 1000.0;
    ensure!(status.success(), "VERSION of {}: {status}", program.display());
    Ok(Sample { wall, processor: children()? - before })
}
