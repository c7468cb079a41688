//! Tests of what the kernel of this machine lacks: on guests, two at a time, each of which runs several.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs;
use std::process::Command;

use super::case::{Case, Outcome, Runner, results};
use crate::guest::{self, Guest, Image};
use crate::process::root;

/// Features of the kernel that the guest has, as tests name them.
const FEATURES: [&str; 4] = ["bridge-vlan", "ipip", "netem", "wireguard"];
/// Number of guests.
const NUMBER: usize = 2;

/// The guests of a run.
#[derive(Default)]
pub(super) struct Guests {
    image: Option<Image>,
}

impl Guests {
    /// Builds what guests boot if this kernel lacks one of the features, which are lines of `lab probe`. Prints the reason if
    /// this machine cannot run guests.
    pub(super) fn prepare(features: &[String]) -> Result<Self> {
        let lacks = |name: &&str| features.iter().any(|line| line.starts_with(&format!("{name}: no")));
        if !FEATURES.iter().any(lacks) {
            return Ok(Self::default());
        }
        if let Some(reason) = guest::missing() {
            println!("no guest kernel: {reason}");
            return Ok(Self::default());
        }
        fs::create_dir_all(results()).context("could not create the directory for results")?;
        let image = Image::build(&results()).context("could not prepare the guest kernel")?;
        Ok(Self { image: Some(image) })
    }

    pub(super) fn number(&self) -> usize {
        if self.image.is_some() { NUMBER } else { 0 }
    }

    /// Returns whether a guest may run a test that was skipped for this reason.
    pub(super) fn may_serve(&self, reason: &str) -> bool {
        let feature = reason.strip_prefix("no ").and_then(|rest| rest.split(':').next());
        feature.is_some_and(|feature| self.have(feature))
    }

    /// Returns whether guests have a feature that this machine may lack.
    pub(super) fn have(&self, feature: &str) -> bool {
        self.image.is_some() && FEATURES.contains(&feature)
    }

    /// Returns a guest that boots when the first test needs it.
    pub(super) fn guest(&self, number: usize) -> LazyGuest<'_> {
        LazyGuest { image: self.image.as_ref(), number, booted: None }
    }
}

pub(super) struct LazyGuest<'a> {
    image: Option<&'a Image>,
    number: usize,
    booted: Option<Guest>,
}

impl LazyGuest<'_> {
    pub(super) fn run(&mut self, case: &Case, runner: &Runner<'_>) -> Result<Outcome> {
        let command = runner.command(case)?;
        let script = case.directory().join("run.sh");
        let text = script_of(&command, &case.output().display().to_string())?;
        fs::write(&script, text).context("could not write the script for the guest")?;
        let mut guest = match self.booted.take() {
            Some(guest) => guest,
            None => self.boot()?,
        };
        let good = guest.run(&script, runner.limit())?;
        // A guest that does not reply is of no more use.
        self.booted = good.is_some().then_some(guest);
        Ok(runner.outcome(case, good))
    }

    fn boot(&self) -> Result<Guest> {
        let Some(image) = self.image else { bail!("there is no guest kernel") };
        Guest::boot(image, &format!("guest{}.txt", self.number))
    }
}

/// A shell script that runs a command, with its variables, and writes its output to a file.
fn script_of(command: &Command, output: &str) -> Result<String> {
    let quoted = |word: &str| Ok::<_, anyhow::Error>(shlex::try_quote(word)?.into_owned());
    let text = |word: &OsStr| word.to_str().map(str::to_owned).context("a word is not UTF-8");
    let mut script = format!("cd {}\n", quoted(&root().display().to_string())?);
    let inherited = ["HOME", "PATH"].map(|name| (name.into(), std::env::var_os(name)));
    let set = command.get_envs().map(|(name, value)| (name.to_owned(), value.map(OsStr::to_owned)));
    for (name, value) in inherited.into_iter().chain(set) {
        if let Some(value) = value {
            script += &format!("export {}={}\n", text(&name)?, quoted(&text(&value)?)?);
        }
    }
    script += "exec";
    for word in std::iter::once(command.get_program()).chain(command.get_args()) {
        script += &format!(" {}", quoted(&text(word)?)?);
    }
    script += &format!(" </dev/null >{} 2>&1\n", quoted(output)?);
    Ok(script)
}

#[cfg(test)]
mod tests;
