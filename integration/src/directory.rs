//! Leases in a directory, seen and changed from outside.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cni::Pod;
use crate::golden::Stack;
use crate::netns::Netns;
use crate::node::{Daemon, Flanneld};
use crate::topology::{Cluster, Lab};
use crate::wait;

/// A directory store.
#[derive(Clone, Debug)]
pub struct LeaseDirectory {
    path: PathBuf,
}

impl LeaseDirectory {
    /// One without a network config.
    pub fn empty(lab: &Lab) -> Result<Self> {
        Ok(Self { path: lab.directory("directory/leases")? })
    }

    /// One with a network config.
    pub fn new(lab: &Lab, config: &str) -> Result<Self> {
        Ok(Self { path: lab.lease_directory(config)? })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the network config, in one step.
    pub fn set_config(&self, config: &str) -> Result<()> {
        let (new, path) = (self.path.with_extension("new"), self.path.join("config"));
        fs::write(&new, config).with_context(|| format!("could not write {}", new.display()))?;
        fs::rename(&new, &path).with_context(|| format!("could not write {}", path.display()))
    }

    /// All records, with their keys, sorted by key.
    pub fn records(&self) -> Result<Vec<(String, Value)>> {
        let path = self.path.join("subnets");
        let mut records = Vec::new();
        for entry in fs::read_dir(&path).with_context(|| format!("could not list {}", path.display()))? {
            let file = entry.context("could not list a directory")?.path();
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            let text =
                fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
            let value =
                serde_json::from_str(&text).with_context(|| format!("{name} is not JSON: {text:?}"))?;
            records.push((name, value));
        }
        records.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(records)
    }

    /// Removes all records.
    pub fn clear(&self) -> Result<()> {
        for (key, _) in self.records()? {
            let path = self.path.join("subnets").join(key);
            fs::remove_file(&path).with_context(|| format!("could not remove {}", path.display()))?;
        }
        Ok(())
    }

    /// The only record.
    pub fn only_record(&self) -> Result<(String, Value)> {
        let mut records = self.records()?;
        ensure!(records.len() == 1, "not one record: {records:?}");
        Ok(records.remove(0))
    }
}

impl Cluster {
    /// Starts a daemon on every node, with leases in a directory, and waits until all are ready.
    pub fn start_on_directory(&self, lab: &Lab, config: &str) -> Result<(LeaseDirectory, Vec<Daemon>)> {
        let leases = LeaseDirectory::new(lab, config)?;
        let daemons = self.start_all(&Flanneld::on_directory(leases.path()))?;
        Ok((leases, daemons))
    }
}

/// Waits until every pod reaches every other in each of the families.
pub fn all_reach(pods: &[Pod], stack: Stack) -> Result<()> {
    for from in pods {
        for to in pods.iter().filter(|to| to.name != from.name) {
            for &v4 in stack.families() {
                from.netns.wait_ping(to.address(v4)?)?;
            }
        }
    }
    Ok(())
}

/// How many packets a namespace has cut into fragments, of both families.
pub fn fragments_made(netns: &Netns) -> Result<u64> {
    let v4 = netns.read(Path::new("/proc/thread-self/net/snmp"))?;
    let mut lines = v4.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, values) = (lines.next().context("no IP counters")?, lines.next().context("no IP counters")?);
    let v4 = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "FragCreates");
    let v6 = netns.read(Path::new("/proc/thread-self/net/snmp6"))?;
    let v6 = v6.lines().find_map(|line| line.strip_prefix("Ip6FragCreates"));
    let number = |text: Option<&str>| -> Result<u64> {
        let text = text.context("no counter of fragments")?;
        text.trim().parse().with_context(|| format!("not a count: {text:?}"))
    };
    Ok(number(v4.map(|(_, value)| value))? + number(v6)?)
}

/// Waits until the log of a daemon has a line with all of these words.
pub fn wait_log(daemon: &Daemon, words: &[&str]) -> Result<()> {
    wait::until(format!("the log has a line with {words:?}"), wait::LONG, || expect_log(daemon, words))
}

/// Fails unless the log of a daemon has a line with all of these words.
pub fn expect_log(daemon: &Daemon, words: &[&str]) -> Result<()> {
    let log = daemon.log()?;
    let found = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
    ensure!(found, "no line with {words:?} in\n{log}");
    Ok(())
}
