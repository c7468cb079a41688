//! A shell for the commands of the documentation.

use anyhow::{Context, Result, ensure};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::Block;
use crate::ctl::Answer;
use crate::netns::Netns;
use crate::program;

/// A shell on a node, in a directory, with the built programs in `PATH`.
#[derive(Clone, Debug)]
pub struct Terminal {
    netns: Netns,
    directory: PathBuf,
    environment: Vec<(&'static str, OsString)>,
}

impl Terminal {
    /// Opens a shell.
    pub fn open(netns: &Netns, directory: &Path) -> Result<Self> {
        let flannelctl = program("flannelctl");
        let built = flannelctl.parent().context("the program has no directory")?.to_owned();
        let terminal =
            Self { netns: netns.clone(), directory: directory.to_owned(), environment: Vec::new() };
        terminal.search_first(&built)
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn set(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// Adds a directory at the beginning of `PATH`.
    pub fn search_first(self, directory: &Path) -> Result<Self> {
        let own = self.environment.iter().rev().find(|(name, _)| *name == "PATH");
        let path = own.map(|(_, path)| path.clone()).or_else(|| env::var_os("PATH")).unwrap_or_default();
        let path = env::join_paths([directory.to_owned()].into_iter().chain(env::split_paths(&path)));
        Ok(self.set("PATH", path.context("invalid search path")?))
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-ec", script])
            .current_dir(&self.directory)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs a script.
    pub fn run(&self, script: &str) -> Result<Answer> {
        self.netns.enter(|| Answer::of(&mut self.command(script)))
    }

    /// Starts a script that does not end by itself. Its output goes to a file in the directory.
    pub fn start(&self, script: &str, log: &str) -> Result<Child> {
        let log = fs::File::create(self.directory.join(log)).context("could not create a log")?;
        let mut command = self.command(&format!("exec {script}"));
        command.stdout(log.try_clone().context("could not share a log")?).stderr(log);
        self.netns.spawn(&mut command)
    }

    /// Runs the examples of a block and compares their output with the document. `FLANNEL_UPDATE_DOCS=1` updates the
    /// document instead.
    pub fn verify(&self, block: &Block) -> Result<()> {
        let mut actual = String::new();
        for (command, _) in block.examples()? {
            let answer = self.run(command)?.expect(0, &[])?;
            let output = answer.stdout + &answer.stderr;
            actual += &format!("$ {command}\n");
            for line in output.replace(&format!("{}/", self.directory.display()), "").lines() {
                actual.extend([line.trim_end(), "\n"]);
            }
        }
        if masked(&actual) == masked(block.text()) {
            return Ok(());
        }
        ensure!(
            env::var_os("FLANNEL_UPDATE_DOCS").is_some(),
            "{block} is out of date (update it with FLANNEL_UPDATE_DOCS=1); actual output:\n{actual}"
        );
        block.rewrite(&actual)
    }
}

/// Masks revisions, which contain the time.
fn masked(text: &str) -> String {
    let is_revision = |word: &str| word.len() > 12 && word.bytes().all(|byte| byte.is_ascii_digit());
    let words = text.split_inclusive(char::is_whitespace);
    words.map(|word| if is_revision(word.trim_end()) { "#\n" } else { word }).collect()
}
