//! Runs flannelctl on a node, and looks at what commands answer.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::process::{Command, Stdio};

use crate::node::Node;
use crate::program;

/// What a command answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its exit code.
    pub code: i32,
    /// Results.
    pub stdout: String,
    /// Messages.
    pub stderr: String,
}

impl Node {
    /// Runs flannelctl on this node. `store` are the flags that name the store.
    pub fn flannelctl(&self, store: &[String], arguments: &[&str]) -> Result<Answer> {
        let mut command = Command::new(program("flannelctl"));
        command.args(store).args(arguments).stdin(Stdio::null());
        self.netns().enter(|| Answer::of(&mut command))
    }
}

impl Answer {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Result<Self> {
        let program = command.get_program().display().to_string();
        let output = command.output().with_context(|| format!("could not start {program}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Self {
            code: output.status.code().with_context(|| format!("{program} was ended by a signal"))?,
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }

    /// It must have this exit code, and its output these parts.
    pub fn expect(self, code: i32, parts: &[&str]) -> Result<Self> {
        ensure!(self.code == code, "exit code {} instead of {code}: {self:?}", self.code);
        for part in parts {
            ensure!(self.stdout.contains(part) || self.stderr.contains(part), "no {part:?} in {self:?}");
        }
        Ok(self)
    }

    /// Its result as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("no JSON: {self:?}"))
    }
}
