//! Where the commands of a page are typed.

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

/// A shell on a node, in a directory, with the programs that were built in its search path.
#[derive(Clone, Debug)]
pub struct Terminal {
    netns: Netns,
    directory: PathBuf,
    environment: Vec<(&'static str, OsString)>,
}

impl Terminal {
    /// Opens one.
    pub fn open(netns: &Netns, directory: &Path) -> Result<Self> {
        let flannelctl = program("flannelctl");
        let ours = flannelctl.parent().context("a program without a directory")?.to_owned();
        let terminal =
            Self { netns: netns.clone(), directory: directory.to_owned(), environment: Vec::new() };
        terminal.search_first(&ours)
    }

    /// With a variable of the environment.
    #[must_use]
    pub fn set(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// With another directory at the head of the search path.
    pub fn search_first(self, directory: &Path) -> Result<Self> {
        let mine = self.environment.iter().rev().find(|(name, _)| *name == "PATH");
        let path = mine.map(|(_, path)| path.clone()).or_else(|| env::var_os("PATH")).unwrap_or_default();
        let path = env::join_paths([directory.to_owned()].into_iter().chain(env::split_paths(&path)));
        Ok(self.set("PATH", path.context("not a search path")?))
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

    /// Types this, as it is.
    pub fn run(&self, script: &str) -> Result<Answer> {
        self.netns.enter(|| Answer::of(&mut self.command(script)))
    }

    /// Types what does not end, with all that it says in a file of the directory.
    pub fn start(&self, script: &str, log: &str) -> Result<Child> {
        let log = fs::File::create(self.directory.join(log)).context("could not create a log")?;
        let mut command = self.command(&format!("exec {script}"));
        command.stdout(log.try_clone().context("could not share a log")?).stderr(log);
        self.netns.spawn(&mut command)
    }

    /// Types the examples of a block. They must say what the page has them say; `FLANNEL_UPDATE_DOCS=1` writes into the
    /// page what they say now.
    pub fn follow(&self, block: &Block) -> Result<()> {
        let mut now = String::new();
        for (command, _) in block.examples()? {
            let answer = self.run(command)?.expect(0, &[])?;
            let said = answer.stdout + &answer.stderr;
            now += &format!("$ {command}\n");
            for line in said.replace(&format!("{}/", self.directory.display()), "").lines() {
                now.extend([line.trim_end(), "\n"]);
            }
        }
        if masked(&now) == masked(block.text()) {
            return Ok(());
        }
        ensure!(
            env::var_os("FLANNEL_UPDATE_DOCS").is_some(),
            "{block} is not so any more (FLANNEL_UPDATE_DOCS=1 writes it anew); now:\n{now}"
        );
        block.rewrite(&now)
    }
}

/// Revisions begin with the time.
fn masked(text: &str) -> String {
    let is_revision = |word: &str| word.len() > 12 && word.bytes().all(|byte| byte.is_ascii_digit());
    let words = text.split_inclusive(char::is_whitespace);
    words.map(|word| if is_revision(word.trim_end()) { "#\n" } else { word }).collect()
}
