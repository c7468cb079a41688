//! Runs every end-to-end test in a process and a sandbox of its own, several at a time.
//!
//! A test receives these variables: `FLANNEL_E2E_DIR`, the directory for its artifacts if it fails, for a file `skipped`
//! with the reason if it cannot run on this machine, and for a file `report` with a text to show if it passes;
//! `FLANNEL_E2E_TIMEOUT`, the seconds after which it collects artifacts and fails; `FLANNEL_E2E_REQUIRE`, features that must not be skipped; `FLANNEL_E2E_LONG`, not empty for the long form of a test;
//! `FLANNEL_E2E_PACKAGES`, the directory of the packages of two revisions, for the tests that install them;
//! `FLANNEL_E2E_NOT_EMULATED`, why programs for another architecture are missing there, empty if they are not;
//! `FLANNEL_E2E_NO_IMAGE_IPTABLES`, why the image has no iptables, empty if it has;
//! `FLANNEL_E2E_KUBERNETES`, the directory of the programs of Kubernetes, for the tests that run them;
//! `FLANNEL_E2E_NO_KUBERNETES`, why those cannot be built, empty if they can;
//! `FLANNEL_E2E_PEER`, the directory of the CNI plugins that `--peer` names, empty if it is not set;
//! `FLANNEL_GO_FLANNELD`, Go's flanneld that `--peer` names.

mod case;
mod guests;

use anyhow::{Result, bail};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use self::case::{Case, Outcome, Runner};
use self::guests::Guests;
use crate::build::{pod, programs, test_programs};
use crate::kubernetes::{self, Build};
use crate::peer::PeerOption;
use crate::process::{is_root, stdout, target};
use crate::tally::Tally;
use crate::{dist, packages, sandbox};

#[derive(Args, Clone)]
pub(crate) struct E2eOptions {
    /// Only tests whose name (`file::test`) contains one of these
    filters: Vec<String>,
    /// Number of concurrent tests
    #[arg(long)]
    jobs: Option<usize>,
    /// Fail, instead of skipping, where this feature is missing (repeatable; `--list` names them)
    #[arg(long, value_name = "FEATURE")]
    require: Vec<String>,
    /// List the tests and the features of this machine
    #[arg(long)]
    list: bool,
    /// Run each test this many times
    #[arg(long, default_value_t = 1)]
    repeat: usize,
    /// Seconds that one test may take [default: 240, with --long 3600]
    #[arg(long)]
    timeout: Option<u64>,
    /// Run the long form of the tests that have one
    #[arg(long)]
    long: bool,
    /// Install chromium (220 MB), which the tests of HTML pages need
    #[arg(long)]
    browser: bool,
    /// Run tests of what this kernel lacks on a guest kernel
    #[arg(long)]
    pub(crate) vm: bool,
    #[command(flatten)]
    peer: PeerOption,
}

impl E2eOptions {
    fn timeout(&self) -> u64 {
        self.timeout.unwrap_or(if self.long { 3600 } else { 240 })
    }

    /// Returns whether tests whose names begin like this may run.
    pub(crate) fn selects(&self, names: &str) -> bool {
        let may_match = |filter: &String| names.contains(filter.as_str()) || filter.starts_with(names);
        !self.list && (self.filters.is_empty() || self.filters.iter().any(may_match))
    }
}

/// Number of lines shown of the output of a failed test; the rest is in its directory.
const SHOWN_LINES: usize = 120;
pub(crate) fn run(options: &E2eOptions) -> Result<bool> {
    sandbox::possible("e2e")?;
    packages::install_for_tests()?;
    options.peer.chosen()?;
    if options.browser {
        packages::install_browser()?;
    }
    let tally = prepare(options, &Build::default())?.run(options);
    if !options.list {
        println!("\n{tally}");
    }
    Ok(tally.good())
}

/// Starts the build of the programs of Kubernetes if this machine can build them, otherwise prints why not.
pub(crate) fn start_build(build: &Build) -> Result<()> {
    match kubernetes::missing() {
        Some(reason) => println!("no Kubernetes tests: {reason}"),
        None => build.start()?,
    }
    Ok(())
}

/// What the chosen tests need, built.
pub(crate) struct Prepared<'a> {
    cases: Vec<Case>,
    /// Lines of the features of this machine.
    features: Vec<String>,
    built: Built<'a>,
    guests: Guests,
}

/// Builds what the tests need. `kubernetes` is started here if it was not yet and a test needs it.
pub(crate) fn prepare<'a>(options: &E2eOptions, kubernetes: &'a Build) -> Result<Prepared<'a>> {
    let directory = programs()?;
    pod()?;
    let cases = cases(&options.filters)?;
    let built = Built {
        not_emulated: dist::not_emulated()?.unwrap_or_default(),
        no_kubernetes: kubernetes::missing().unwrap_or_default(),
        kubernetes,
    };
    if !is_root() {
        return Ok(Prepared { cases, features: Vec::new(), built, guests: Guests::default() });
    }
    sandbox::possible("e2e")?;
    let features = built.features(&directory)?;
    check_required(&options.require, &features)?;
    if options.list {
        return Ok(Prepared { cases, features, built, guests: Guests::default() });
    }
    if cases.is_empty() {
        bail!("no end-to-end test has {} in its name", options.filters.join(" or "));
    }
    if cases.iter().any(|case| built.can_serve(case)) {
        kubernetes.start()?;
    }
    if cases.iter().any(|case| INSTALLING.iter().any(|file| case.name.starts_with(file))) {
        dist::for_tests(&packages_directory(), options.long)?;
        // That has linked them statically; `faketime` reaches only what is linked dynamically.
        programs()?;
    }
    let guests = if options.vm { Guests::prepare(&features)? } else { Guests::default() };
    Ok(Prepared { cases, features, built, guests })
}

impl Prepared<'_> {
    /// Runs the tests, or lists them.
    pub(crate) fn run(&self, options: &E2eOptions) -> Tally {
        let mut tally = Tally::default();
        if !is_root() {
            tally.skip(self.cases.len() as u64, "end-to-end tests need root for network namespaces");
        } else if options.list {
            self.list();
        } else {
            for feature in self.features.iter().filter(|feature| !feature.contains(": yes")) {
                println!("  {feature}");
            }
            run_all(self, options, &mut tally);
        }
        tally
    }

    /// Runs tests on this machine.
    fn runner<'a>(&'a self, options: &'a E2eOptions) -> Runner<'a> {
        let required = options.require.iter().filter(|name| !self.guests.have(name)).cloned().collect();
        Runner { options, built: &self.built, required, place: "" }
    }

    /// Prepares tests for a guest.
    fn runner_in_guest<'a>(&'a self, options: &'a E2eOptions) -> Runner<'a> {
        Runner { options, built: &self.built, required: options.require.clone(), place: ", on a guest" }
    }

    fn list(&self) {
        for case in &self.cases {
            println!("{}", case.name);
        }
        for feature in &self.features {
            println!("feature {feature}");
        }
    }
}

/// Runs the tests, several at a time.
fn run_all(prepared: &Prepared<'_>, options: &E2eOptions, tally: &mut Tally) {
    let repeated = |repeat| prepared.cases.iter().map(move |case| Case { repeat, ..case.clone() });
    let queue = Mutex::new((0..options.repeat.max(1)).flat_map(repeated));
    // A separate function, so that the lock is released before the test runs.
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let jobs = options.jobs.unwrap_or_else(|| {
        // More than processors, because tests mostly wait.
        thread::available_parallelism().map_or(2, |processors| processors.get().clamp(2, 4) + 2)
    });
    let shared = Mutex::new(tally);
    let report = |runner: &Runner<'_>, case: &Case, result, started: Instant| {
        let mut tally = shared.lock().unwrap_or_else(PoisonError::into_inner);
        report(
            case,
            result,
            &format!("{:.1} s{}", started.elapsed().as_secs_f32(), runner.place),
            &mut tally,
        );
    };
    let guests = &prepared.guests;
    let (here, there) = (prepared.runner(options), prepared.runner_in_guest(options));
    let (for_guests, left) = mpsc::channel();
    let left = Mutex::new(left);
    thread::scope(|scope| {
        for number in 0..guests.number() {
            let (left, there, report) = (&left, &there, &report);
            scope.spawn(move || {
                let mut guest = guests.guest(number);
                let next = || left.lock().unwrap_or_else(PoisonError::into_inner).recv();
                while let Ok(case) = next() {
                    let started = Instant::now();
                    report(there, &case, guest.run(&case, there), started);
                }
            });
        }
        for _ in 0..jobs.max(1) {
            let (for_guests, next, here, report) = (for_guests.clone(), &next, &here, &report);
            scope.spawn(move || {
                while let Some(case) = next() {
                    let started = Instant::now();
                    match here.run(&case) {
                        Ok(Outcome::Skipped(reason)) if guests.may_serve(&reason) => {
                            // Fails only if the threads of the guests panicked, which is reported.
                            let _ = for_guests.send(case);
                        }
                        result => report(here, &case, result, started),
                    }
                }
            });
        }
        drop(for_guests);
    });
}

/// How the names of tests begin that mostly wait for most of a minute, or that guests run. They start first, so that the run
/// does not end with waiting for them.
const WAITING: [&str; 5] = ["slow_store::", "kubernetes::faults::", "ipip::", "nexthop::ipip", "vlan::"];

/// How the names of tests that need the packages or the image begin.
const INSTALLING: [&str; 5] =
    ["packages::", "pages::", "kubernetes::daemon_set::", "kubernetes::packages::", "kubernetes::upgrade::"];
/// How the names of tests on Kubernetes begin.
pub(crate) const KUBERNETES: &str = "kubernetes::";

fn packages_directory() -> PathBuf {
    target().join("tmp/packages")
}

/// What the runner builds for the tests besides the programs of the project.
struct Built<'a> {
    /// Why programs for another architecture are missing; empty if they are not.
    not_emulated: String,
    /// Why the programs of Kubernetes cannot be built; empty if they can.
    no_kubernetes: String,
    kubernetes: &'a Build,
}

impl Built<'_> {
    /// Asks `lab` which features this machine has: lines of `name: yes` or `name: no (reason)`.
    fn features(&self, directory: &Path) -> Result<Vec<String>> {
        let mut lab = sandbox::command(directory.join("lab"));
        let features = stdout(self.reasons(lab.arg("probe")))?;
        Ok(features.lines().map(str::to_owned).collect())
    }

    /// Passes on why something is missing.
    fn reasons<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("FLANNEL_E2E_NOT_EMULATED", &self.not_emulated)
            .env("FLANNEL_E2E_NO_IMAGE_IPTABLES", dist::debian::missing().unwrap_or_default())
            .env("FLANNEL_E2E_NO_KUBERNETES", &self.no_kubernetes)
    }

    /// Returns whether this test needs the programs of Kubernetes, and this machine can build them.
    fn can_serve(&self, case: &Case) -> bool {
        case.name.starts_with(KUBERNETES) && self.no_kubernetes.is_empty()
    }

    /// Waits for the programs of Kubernetes if this test needs them. Returns their directory.
    fn programs_for(&self, case: &Case) -> Result<Option<&Path>> {
        self.can_serve(case).then(|| self.kubernetes.wait()).transpose()
    }
}

fn check_required(required: &[String], features: &[String]) -> Result<()> {
    let names: Vec<&str> = features.iter().filter_map(|line| line.split(':').next()).collect();
    match required.iter().find(|name| !names.contains(&name.as_str())) {
        Some(name) => bail!("--require {name}: no such feature; there are {}", names.join(", ")),
        None => Ok(()),
    }
}

fn cases(filters: &[String]) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for program in test_programs(&["--test", "e2e"])? {
        for name in program.tests(false)? {
            if filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())) {
                cases.push(Case { name, program: program.file.clone(), repeat: 0 });
            }
        }
    }
    cases.sort_by_key(|case| {
        let begins = |file: &str| case.name.starts_with(file);
        // Tests on Kubernetes last: their programs may still be being built.
        (begins(KUBERNETES), !WAITING.iter().copied().any(begins), case.name.clone())
    });
    Ok(cases)
}

fn report(case: &Case, result: Result<Outcome>, took: &str, tally: &mut Tally) {
    let (name, directory) = (&case.name, case.directory());
    match result {
        Err(error) => {
            println!("{name} ... FAILED: {error:#}");
            return tally.fail(format!("{name}: {error:#}"));
        }
        Ok(Outcome::Failed(how)) => {
            println!("{name} ... {how} ({took})");
            show_output(&directory);
            return tally.fail(format!("{name}: see {}", directory.display()));
        }
        Ok(Outcome::Passed(report)) => {
            println!("{name} ... ok ({took})");
            report.lines().for_each(|line| println!("    {line}"));
            tally.pass(1);
        }
        Ok(Outcome::Skipped(reason)) => {
            println!("{name} ... skipped ({reason})");
            tally.skip(1, reason);
        }
    }
    // Nobody needs the artifacts of a test that did not fail; a stale directory is harmless.
    let _ = fs::remove_dir_all(directory);
}

fn show_output(directory: &Path) {
    let output = fs::read(directory.join("output.txt")).unwrap_or_default();
    let text = String::from_utf8_lossy(&output);
    let lines: Vec<&str> = text.lines().collect();
    let hidden = lines.len().saturating_sub(SHOWN_LINES);
    if hidden > 0 {
        println!("    ... {hidden} lines more in {}", directory.join("output.txt").display());
    }
    for line in &lines[hidden..] {
        println!("    {line}");
    }
    println!("    logs and kernel state of every node: {}", directory.display());
}
