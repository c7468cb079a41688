//! The programs of the Kubernetes tests, built from the Go module in `integration/kubernetes`: etcd, the components of
//! Kubernetes, and helm.
//!
//! No package registry has binaries of a control plane, but each component is a Go module. A build takes minutes, so it runs in
//! the background with low priority and is kept until the module changes.

use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use crate::dist::sha256;
use crate::process::{empty_directory, find, root, stdout, target};

/// The names under which the program of the module acts as one of its components.
const COMPONENTS: [&str; 6] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"];

/// How the names of directories of unfinished builds begin; the number of the process follows.
const UNFINISHED: &str = "build-";

/// The first version of Go that fetches the version that a module requires.
const OLDEST_GO: u32 = 21;

/// A build in the background. Started at most once.
#[derive(Default)]
pub(crate) struct Build {
    thread: Mutex<Option<JoinHandle<Result<PathBuf>>>>,
    outcome: OnceLock<Result<PathBuf, String>>,
}

impl Build {
    /// Starts the build if it was not started yet. Prints if it will take long.
    pub(crate) fn start(&self) -> Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_some() || self.outcome.get().is_some() {
            return Ok(());
        }
        let module = Module::read()?;
        if !module.directory.exists() {
            println!("building the programs of the Kubernetes tests in the background, which takes minutes");
        }
        *thread = Some(thread::spawn(move || module.build()));
        Ok(())
    }

    /// Waits for the end of the build. Returns the directory of the programs.
    pub(crate) fn wait(&self) -> Result<&Path> {
        let outcome = self.outcome.get_or_init(|| {
            let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            match thread.map(JoinHandle::join) {
                Some(Ok(built)) => built.map_err(|error| format!("{error:#}")),
                Some(Err(_)) => Err("the build panicked".to_owned()),
                None => Err("the build was not started".to_owned()),
            }
        });
        match outcome {
            Ok(directory) => Ok(directory),
            Err(error) => bail!("could not build the programs of the Kubernetes tests: {error}"),
        }
    }
}

/// Returns the reason if this machine cannot build the programs, with the fix.
pub(crate) fn missing() -> Option<String> {
    const FIX: &str =
        "install Go 1.21 or later from https://go.dev/dl, which fetches the required version by itself";
    if find("go").is_none() {
        return Some(format!("Go is missing: {FIX}"));
    }
    // Of the installed toolchain, whatever the module requires.
    let version = stdout(Command::new("go").args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local"));
    match version.map(|text| text.trim().to_owned()) {
        Ok(version) if fetches_toolchains(&version) => None,
        Ok(version) => Some(format!("{version} is too old: {FIX}")),
        Err(error) => Some(format!("{error:#}: {FIX}")),
    }
}

/// Returns whether Go of this version, such as `go1.26.3`, fetches other versions of itself.
fn fetches_toolchains(version: &str) -> bool {
    let minor = version.strip_prefix("go1.").and_then(|rest| {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..digits].parse::<u32>().ok()
    });
    // A development version has no number.
    minor.is_none_or(|minor| minor >= OLDEST_GO)
}

/// The Go module and where its programs are kept.
struct Module {
    source: PathBuf,
    arguments: Vec<String>,
    /// Named after a hash of everything that the programs depend on.
    directory: PathBuf,
}

impl Module {
    fn read() -> Result<Self> {
        let source = root().join("integration/kubernetes");
        let mut texts = String::new();
        for name in ["go.mod", "go.sum", "main.go"] {
            let file = source.join(name);
            texts +=
                &fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
        }
        let version = kubernetes_version(&texts)?;
        // Without the version, the programs would report that of an unreleased build.
        let link = format!("-ldflags=-s -w -X k8s.io/component-base/version.gitVersion={version}");
        let arguments: Vec<String> =
            ["build", "-trimpath", "-buildvcs=false", &link].map(str::to_owned).into();
        let key = sha256(format!("{arguments:?}\n{COMPONENTS:?}\n{texts}").as_bytes());
        let directory = parent().join(&key[..16]);
        Ok(Self { source, arguments, directory })
    }

    /// Builds the programs unless they exist. Returns their directory.
    fn build(&self) -> Result<PathBuf> {
        if self.directory.exists() {
            return Ok(self.directory.clone());
        }
        // Another task may build the same; the last one to finish wins.
        let work = parent().join(format!("{UNFINISHED}{}", std::process::id()));
        empty_directory(&work)?;
        let log = work.join("build.log");
        let output = File::create(&log).with_context(|| format!("could not create {}", log.display()))?;
        // Ends with the thread that started it, and leaves the processors to everything else.
        let status = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "nice", "-n", "10", "go"])
            .args(&self.arguments)
            .arg("-o")
            .arg(&work)
            .args([".", "helm.sh/helm/v3/cmd/helm"])
            .current_dir(&self.source)
            .env("GOWORK", "off")
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("could not share a log")?)
            .stderr(output)
            .status()
            .context("could not start go")?;
        if !status.success() {
            let text = fs::read_to_string(&log).unwrap_or_default();
            fs::remove_dir_all(&work).with_context(|| format!("could not remove {}", work.display()))?;
            bail!("`go {}` failed in {}: {}", self.arguments.join(" "), self.source.display(), text.trim());
        }
        for name in COMPONENTS {
            symlink("kubernetes", work.join(name)).with_context(|| format!("could not link {name}"))?;
        }
        self.keep(&work)
    }

    /// Gives the programs their final name and removes those of other versions.
    fn keep(&self, work: &Path) -> Result<PathBuf> {
        for entry in fs::read_dir(parent()).context("could not list the built programs")?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let running =
                name.strip_prefix(UNFINISHED).is_some_and(|id| Path::new("/proc").join(id).exists());
            if entry.path() != self.directory && !running {
                // At worst they remain.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        if let Err(error) = fs::rename(work, &self.directory) {
            // Fails if the other task was faster.
            if !self.directory.exists() {
                return Err(error).with_context(|| format!("could not name {}", self.directory.display()));
            }
            fs::remove_dir_all(work).with_context(|| format!("could not remove {}", work.display()))?;
        }
        Ok(self.directory.clone())
    }
}

fn parent() -> PathBuf {
    target().join("kubernetes")
}

/// Returns the version of Kubernetes that a `go.mod` requires.
fn kubernetes_version(module: &str) -> Result<&str> {
    module
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
        .and_then(|rest| rest.split_whitespace().next())
        .context("integration/kubernetes/go.mod does not require k8s.io/kubernetes")
}

#[cfg(test)]
mod tests;
