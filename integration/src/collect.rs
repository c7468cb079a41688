//! What is kept of a test that failed: logs and files of the daemons, kernel state of every namespace, the
//! content of etcd.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::DIRECTORY;
use crate::netns::Netns;
use crate::topology::Lab;

/// What is asked of every namespace.
const QUESTIONS: [&str; 10] = [
    "ip -d link show",
    "ip addr show",
    "ip -d route show table all",
    "ip -d -6 route show table all",
    "ip rule show",
    "ip -d neigh show",
    "ip -d -6 neigh show",
    "bridge -d fdb show",
    "nft list ruleset",
    "ss -tunap",
];

fn artifacts() -> Option<PathBuf> {
    std::env::var_os("FLANNEL_E2E_DIR").map(PathBuf::from)
}

/// Tells the runner that the test cannot run here.
pub(crate) fn skipped(reason: &str) {
    if let Some(directory) = artifacts() {
        // Without the file the runner reports a failure, which is right.
        let _ = fs::write(directory.join("skipped"), reason);
    }
}

/// Leaves a text that the runner prints with the result of the test.
pub fn report(text: &str) -> Result<()> {
    let Some(directory) = artifacts() else { return Ok(()) };
    fs::write(directory.join("report"), text).context("could not write the report of the test")
}

/// Collects and ends the process when a test has taken too long.
pub(crate) fn watchdog(limit: Duration) {
    thread::spawn(move || {
        thread::sleep(limit);
        eprintln!("not done after {limit:?}; collecting logs and giving up");
        all();
        std::process::exit(124);
    });
}

/// The directory of commands to run when a test fails, each in a file with the name of a namespace.
const ON_FAILURE: &str = "on-failure";

/// Notes a command whose output is kept if the test fails: words, separated by white space.
pub(crate) fn on_failure(lab: &Lab, netns: &Netns, line: &str) -> Result<()> {
    let file = lab.directory(ON_FAILURE)?.join(netns.name());
    fs::write(&file, line).with_context(|| format!("could not write {}", file.display()))
}

/// Keeps everything. Errors are told and otherwise ignored: the failure of the test is what matters.
pub(crate) fn all() {
    let Some(directory) = artifacts() else { return };
    for (from, to) in [("log", "log"), ("node", "node"), ("directory", "directory")] {
        let from = Path::new(DIRECTORY).join(from);
        if from.exists() {
            tell(Command::new("cp").arg("-r").arg(&from).arg(directory.join(to)).status());
        }
    }
    let kernel = directory.join("kernel");
    tell(fs::create_dir_all(&kernel));
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        match Netns::open(&name) {
            Ok(netns) => tell(fs::write(kernel.join(format!("{name}.txt")), answers(&netns))),
            Err(error) => eprintln!("could not collect: {error:#}"),
        }
    }
    for entry in fs::read_dir(Path::new(DIRECTORY).join(ON_FAILURE)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let line = fs::read_to_string(entry.path()).unwrap_or_default();
        let dump = Netns::open(&name)
            .and_then(|netns| netns.run(&line))
            .unwrap_or_else(|error| format!("{error:#}"));
        tell(fs::write(directory.join(format!("{name}.txt")), dump));
    }
    tell(fs::write(directory.join("processes.txt"), output_of(Command::new("ps").args(["-ef"]))));
}

fn answers(netns: &Netns) -> String {
    QUESTIONS
        .iter()
        .map(|question| {
            let answer = netns.run(question).unwrap_or_else(|error| format!("{error:#}"));
            format!("$ {question}\n{answer}\n")
        })
        .collect()
}

fn output_of(command: &mut Command) -> Vec<u8> {
    command.output().map(|output| output.stdout).unwrap_or_default()
}

fn tell<T, E: std::fmt::Display>(result: std::result::Result<T, E>) {
    if let Err(error) = result {
        eprintln!("could not collect: {error}");
    }
}
