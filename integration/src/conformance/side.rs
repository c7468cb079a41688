//! One implementation: runs a row in fresh namespaces.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::row::Row;
use super::state::State;
use crate::netns::Netns;
use crate::peer::Peer;

const CONTAINER: &str = "cid1";
const INTERFACE: &str = "eth0";
const HOST: &str = "host";
const POD: &str = "pod";

/// Plugins in a directory.
pub(super) struct Side {
    directory: PathBuf,
    /// `CNI_PATH`
    path: String,
}

/// What a row did.
pub(super) struct Record {
    pub(super) add: Outcome,
    pub(super) check: Outcome,
    pub(super) del: Outcome,
    pub(super) again: Outcome,
    pub(super) before: State,
    pub(super) added: State,
    pub(super) deleted: State,
}

/// The end of one command.
#[derive(Debug)]
pub(super) enum Outcome {
    /// What a plugin printed.
    Done(String),
    Failed {
        /// `None` if the plugin printed no error object.
        code: Option<i64>,
        text: String,
    },
}

impl Side {
    pub(super) fn new(directory: &Path, path: &str) -> Self {
        Self { directory: directory.to_owned(), path: path.to_owned() }
    }

    pub(super) fn of_peer(peer: &Peer) -> Self {
        Self::new(peer.directory(), &peer.directory().display().to_string())
    }

    /// Runs ADD, CHECK, DEL and DEL again, after another side has done so or alone.
    pub(super) fn run(&self, row: &Row, other: Option<&Record>) -> Result<Record> {
        let (host, pod) = (Netns::create(HOST)?, Netns::create(POD)?);
        let place = Place { host: &host, pod: &pod };
        let outcome = if row.uses_network() {
            host.enter(|| self.run_inside(row, &place, other))
        } else {
            self.run_inside(row, &place, other)
        };
        for netns in [host, pod] {
            netns.delete()?;
        }
        outcome
    }

    fn run_inside(&self, row: &Row, place: &Place<'_>, other: Option<&Record>) -> Result<Record> {
        prepare(row, place.pod)?;
        let observe = || State::observe(row, place.host, place.pod, &self.directory);
        let before = if row.before.is_empty() { State::default() } else { observe()? };
        let mut attachment = Attachment { side: self, row, result: None };
        let add = attachment.add()?;
        // After an ADD that failed, only ours must have left nothing.
        let is_observed = other.is_none_or(|other| other.add.is_done() && add.is_done());
        let mut added = State::default();
        if is_observed {
            added = observe()?.with_result(attachment.result.as_ref());
        }
        let check = attachment.check()?;
        let (del, again) = (attachment.del()?, attachment.del()?);
        let deleted =
            if is_observed && (add.is_done() || row.leaves_state()) { observe()? } else { added.clone() };
        Ok(Record { add, check, del, again, before, added, deleted })
    }
}

/// Where a row runs.
struct Place<'a> {
    host: &'a Netns,
    pod: &'a Netns,
}

/// Removes the files of the row before, and runs the commands of this one.
fn prepare(row: &Row, pod: &Netns) -> Result<()> {
    for directory in ["/var/lib/cni", "/run/flannel"] {
        for entry in fs::read_dir(directory).with_context(|| format!("could not list {directory}"))? {
            let path = entry.with_context(|| format!("could not list {directory}"))?.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("could not remove {}", path.display()))?;
        }
    }
    // A new namespace has the settings of the machine.
    let settings = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
    for setting in settings.iter().filter(|_| row.uses_network()) {
        fs::write(Path::new("/proc/sys").join(setting), "0")
            .with_context(|| format!("could not write {setting}"))?;
    }
    for line in &row.before {
        let mut command = Command::new("sh");
        let (inside, line) = line.strip_prefix("pod ").map_or((false, line.as_str()), |rest| (true, rest));
        command.args(["-ec", line]).stdin(Stdio::null());
        let output = if inside { pod.output(&mut command)? } else { command.output()? };
        ensure!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// A container and its network, as libcni keeps it.
struct Attachment<'a> {
    side: &'a Side,
    row: &'a Row,
    /// Of the last plugin of the chain.
    result: Option<Value>,
}

impl Attachment<'_> {
    fn add(&mut self) -> Result<Outcome> {
        let mut result = None;
        let mut last = Outcome::Done(String::new());
        for (plugin, config) in &self.row.plugins {
            last = self.side.call(self.row, plugin, "ADD", &with_result(config, result.as_ref(), false)?)?;
            let Outcome::Done(answer) = &last else { return Ok(last) };
            match serde_json::from_str(answer) {
                Ok(answer) => result = Some(answer),
                Err(error) => {
                    let text = format!("{plugin}: not a result: {error}: {answer}");
                    return Ok(Outcome::Failed { code: None, text });
                }
            }
        }
        self.result = result;
        Ok(last)
    }

    fn check(&self) -> Result<Outcome> {
        self.silent("CHECK", self.row.plugins.iter())
    }

    fn del(&self) -> Result<Outcome> {
        self.silent("DEL", self.row.plugins.iter().rev())
    }

    fn silent<'b>(
        &self,
        command: &str,
        plugins: impl Iterator<Item = &'b (String, String)>,
    ) -> Result<Outcome> {
        // libcni has no result on DEL before version 0.4.0, nor after an ADD that failed.
        let is_given = command == "CHECK" || self.row.version().as_str() >= "0.4.0";
        let result = self.result.as_ref().filter(|_| is_given);
        for (plugin, config) in plugins {
            let outcome = self.side.call(self.row, plugin, command, &with_result(config, result, true)?)?;
            match outcome {
                Outcome::Done(answer) if answer.is_empty() => {}
                Outcome::Done(text) => return Ok(Outcome::Failed { code: None, text }),
                Outcome::Failed { .. } => return Ok(outcome),
            }
        }
        Ok(Outcome::Done(String::new()))
    }
}

/// The config with the result of the plugin before, or `replaced` by none.
fn with_result(config: &str, result: Option<&Value>, replaced: bool) -> Result<String> {
    // What is not an object is part of the row.
    let Ok(Value::Object(parsed)) = serde_json::from_str(config) else { return Ok(config.to_owned()) };
    let has_one = parsed.contains_key("prevResult");
    match (config.strip_prefix('{'), result) {
        (_, None) if !(replaced && has_one) => return Ok(config.to_owned()),
        // The rest remains as it is written.
        (Some(rest), Some(result)) if !has_one => return Ok(format!(r#"{{"prevResult":{result},{rest}"#)),
        _ => {}
    }
    let mut members: std::collections::BTreeMap<String, Box<serde_json::value::RawValue>> =
        serde_json::from_str(config).context("a config that is no object")?;
    members.remove("prevResult");
    if let Some(result) = result {
        let result = serde_json::value::to_raw_value(result).context("could not write a result")?;
        members.insert("prevResult".to_owned(), result);
    }
    serde_json::to_string(&members).context("could not write a config")
}

impl Side {
    fn call(&self, row: &Row, plugin: &str, command: &str, config: &str) -> Result<Outcome> {
        let file = self.directory.join(plugin);
        let mut process = Command::new(&file);
        process
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", CONTAINER)
            .env("CNI_NETNS", format!("/run/netns/{POD}"))
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_ARGS", "")
            .env("CNI_PATH", &self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for (only, name, value) in &row.variables {
            if only.as_ref().is_none_or(|only| only == command) {
                process.env(name, value);
            }
        }
        let mut child = process.spawn().with_context(|| format!("could not start {}", file.display()))?;
        // A plugin may fail before it reads.
        let _ = child.stdin.take().context("stdin was asked for as a pipe")?.write_all(config.as_bytes());
        let output = child.wait_with_output().context("could not wait for a plugin")?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(Outcome::Done(stdout));
        }
        let error: Value = serde_json::from_str(&stdout).unwrap_or_default();
        let code = error["code"].as_i64();
        let words = [&error["msg"], &error["details"]].map(|word| word.as_str().unwrap_or_default());
        let text = match code {
            Some(_) => words.join(" "),
            None => format!("{}: {stdout}{}", output.status, String::from_utf8_lossy(&output.stderr)),
        };
        Ok(Outcome::Failed { code, text: text.trim().to_owned() })
    }
}
