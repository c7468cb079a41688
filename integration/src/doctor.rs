//! Runs `flannelctl doctor` on a node and compares what it finds.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::node::{Flanneld, Node};
use crate::{program, wait};

/// The doctor of one node.
#[derive(Clone, Debug)]
pub struct Doctor {
    node: Node,
    /// Where the store is, for when no daemon runs.
    store: Vec<OsString>,
    /// Flags of the daemon, for when none runs.
    flanneld: Vec<OsString>,
    /// A program to run it under.
    wrapper: Vec<String>,
    /// Whether it is run with the default paths of plugins and container runtimes.
    has_default_paths: bool,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The check.
    pub id: String,
    /// How bad it is.
    pub severity: String,
    /// The object.
    pub subject: String,
    /// All of it, as JSON.
    pub value: Value,
}

impl Doctor {
    /// One that finds the store as the daemon does.
    pub fn of(node: &Node, flanneld: &Flanneld) -> Self {
        let store = flanneld.store_flags();
        let node = node.clone();
        Self { node, store, flanneld: Vec::new(), wrapper: Vec::new(), has_default_paths: false }
    }

    /// With the default paths of plugins and container runtimes, for a machine that has them for itself.
    #[must_use]
    pub fn with_default_paths(mut self) -> Self {
        self.has_default_paths = true;
        self
    }

    /// With flags that the daemon would be started with.
    #[must_use]
    pub fn flags(mut self, flags: &str) -> Self {
        self.flanneld = flags.split_whitespace().map(OsString::from).collect();
        self
    }

    /// Under another program, such as `faketime`.
    #[must_use]
    pub fn under(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Gives the node the CNI config of the README.
    pub fn install_cni_config(node: &Node) -> Result<()> {
        let file = node.file("/etc/cni/net.d/10-flannel.conflist")?;
        let text = r#"{"name":"cbr0","cniVersion":"1.0.0","plugins":[{"type":"flannel","delegate":{"hairpinMode":true,"isDefaultGateway":true}}]}"#;
        fs::write(&file, text).with_context(|| format!("could not write {}", file.display()))
    }

    /// Where it reads the configuration of a container runtime, `containerd` or `crio`, instead of that of this machine.
    pub fn runtime_config(&self, runtime: &str) -> Result<PathBuf> {
        let file = self.node.directory().join(runtime).with_extension("toml");
        if !file.exists() {
            fs::write(&file, "").with_context(|| format!("could not write {}", file.display()))?;
        }
        Ok(file)
    }

    /// Where it looks for the socket of a container runtime.
    #[must_use]
    pub fn runtime_socket(&self, runtime: &str) -> PathBuf {
        self.node.directory().join(runtime).with_extension("sock")
    }

    /// Its output and its exit code.
    pub fn run(&self, arguments: &[&str]) -> Result<(i32, String, String)> {
        let flannelctl = program("flannelctl");
        let mut command = match self.wrapper.split_first() {
            Some((wrapper, words)) => {
                let mut command = Command::new(wrapper);
                command.args(words).arg(&flannelctl);
                command
            }
            None => Command::new(&flannelctl),
        };
        command.args(&self.store).arg("doctor").args(arguments);
        if !self.has_default_paths {
            for runtime in ["containerd", "crio"] {
                command.arg(format!("--{runtime}-config")).arg(self.runtime_config(runtime)?);
                let socket = self.runtime_socket(runtime);
                command.arg(format!("--{runtime}-socket=unix://{}", socket.display()));
            }
            let directory = flannelctl.parent().context("the program has no directory")?;
            command.arg("--cni-bin-dir").arg(directory).args(["--cni-bin-dir", "/usr/lib/cni"]);
        }
        if !self.flanneld.is_empty() {
            command.arg("--").args(&self.flanneld);
        }
        let output = self.node.netns().output(&mut command)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr)))
    }

    /// What it finds. The exit code must fit.
    pub fn findings(&self) -> Result<Vec<Finding>> {
        let (code, stdout, stderr) = self.run(&["-o", "json"])?;
        let Ok(value) = serde_json::from_str::<Value>(&stdout) else {
            bail!("the doctor ended with {code} and said {stdout:?} {stderr:?}");
        };
        let found = value["findings"].as_array().with_context(|| format!("no findings: {value}"))?;
        ensure!(code == if found.is_empty() { 0 } else { 3 }, "exit code {code} with {value:#}");
        found
            .iter()
            .map(|finding| {
                let text = |key: &str| finding[key].as_str().map(str::to_owned);
                let all = || Some((text("id")?, text("severity")?, text("subject")?, text("fix")?));
                let (id, severity, subject, fix) =
                    all().with_context(|| format!("not a finding: {finding}"))?;
                ensure!(!fix.is_empty(), "{id} has no fix");
                ensure!(
                    finding["evidence"].as_array().is_some_and(|seen| !seen.is_empty()),
                    "{id} saw nothing"
                );
                Ok(Finding { id, severity, subject, value: finding.clone() })
            })
            .collect()
    }

    /// Waits until it finds these and nothing else; some of them may be there several times.
    pub fn expect(&self, ids: &[&str]) -> Result<Vec<Finding>> {
        let wanted: BTreeSet<&str> = ids.iter().copied().collect();
        let what = format!("the doctor of {} finds {wanted:?}", self.node.name());
        wait::until(what, wait::LONG, || {
            let findings = self.findings()?;
            let found: BTreeSet<&str> = findings.iter().map(|finding| finding.id.as_str()).collect();
            ensure!(found == wanted, "it finds {}", all(&findings));
            Ok(findings)
        })
    }
}

fn all(findings: &[Finding]) -> String {
    let lines = findings.iter().map(|finding| format!("\n{:#}", finding.value));
    let text: String = lines.collect();
    if text.is_empty() { "nothing".to_owned() } else { text }
}
