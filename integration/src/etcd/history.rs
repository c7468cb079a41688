//! The changes of an etcd, kept while it compacts its own history.

use anyhow::{Context, Result, ensure};
use base64::prelude::{BASE64_STANDARD as BASE64, Engine as _};
use serde_json::Value;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::{Etcd, PREFIX};
use crate::{DIRECTORY, wait};

impl Etcd {
    /// Keeps every change below the prefix from now on, whatever is compacted later.
    pub fn record(&self) -> Result<History> {
        let file = Path::new(DIRECTORY).join("log").join("etcd-history.json");
        let from = self.revision()? + 1;
        let output = File::create(&file).with_context(|| format!("could not create {}", file.display()))?;
        let from = format!("--rev={from}");
        let mut command = self.command(&["watch", "--prefix", &from, "--write-out=json", PREFIX]);
        command.stdout(output).stderr(Stdio::null());
        self.members[0].netns.spawn(&mut command)?;
        let history = History { file };
        // A watch that starts after a compaction would not see what was compacted.
        history.events(self)?;
        Ok(history)
    }
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub revision: i64,
    /// Which key.
    pub key: String,
    /// The new value, or `None` for a deletion.
    pub value: Option<String>,
}

impl Event {
    pub(super) fn of(record: &Value) -> Result<Self> {
        Ok(Self {
            revision: record["mod_revision"].as_i64().context("a record without a revision")?,
            key: text_of(&record["key"])?,
            value: Some(text_of(&record["value"])?),
        })
    }
}

/// Every change since [`Etcd::record`].
pub struct History {
    file: PathBuf,
}

impl History {
    /// All changes up to what etcd holds now.
    pub fn events(&self, etcd: &Etcd) -> Result<Vec<Event>> {
        // A change at the end shows that everything before it has arrived.
        let (mark, value) = (format!("{PREFIX}/end-of-history"), etcd.revision()?.to_string());
        etcd.put(&mark, &value)?;
        let events = wait::until("the history is complete", wait::LONG, || {
            let events = self.read()?;
            let is_end = |event: &Event| event.key == mark && event.value.as_ref() == Some(&value);
            ensure!(events.iter().any(is_end), "{} events", events.len());
            Ok(events)
        })?;
        etcd.delete(&mark)?;
        Ok(events.into_iter().filter(|event| event.key != mark).collect())
    }

    fn read(&self) -> Result<Vec<Event>> {
        let text = fs::read_to_string(&self.file)
            .with_context(|| format!("could not read {}", self.file.display()))?;
        let mut events = Vec::new();
        // The last line may be half written.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let answer: Value =
                serde_json::from_str(line).with_context(|| format!("not an answer: {line}"))?;
            for event in answer["Events"].as_array().into_iter().flatten() {
                let mut found = Event::of(&event["kv"])?;
                if event["type"] == 1 {
                    found.value = None;
                }
                events.push(found);
            }
        }
        Ok(events)
    }
}

/// The text in a field of etcd's JSON, where bytes are base64 and an empty value is left out.
pub(super) fn text_of(field: &Value) -> Result<String> {
    let bytes = BASE64.decode(field.as_str().unwrap_or_default())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
