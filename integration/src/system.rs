//! A host as an administrator has it: systemd as its first process, on a copy of this machine's file system in which
//! packages are installed and removed. Nothing of it reaches the machine.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::netns::Netns;
use crate::topology::Lab;
use crate::wait;

/// A host that has booted.
pub struct System {
    netns: Netns,
    init: Child,
    /// Of systemd.
    number: u32,
    /// What differs from the machine: the upper layer of the file system.
    changes: PathBuf,
    cgroup: PathBuf,
}

/// Makes a control group, which becomes the root of all that the host sees, and the namespaces. `$@` is what
/// `sh -c` is given.
const JOIN: &str = r#"echo 0 >"$1/cgroup.procs" && shift &&
    exec unshare --mount --pid --cgroup --uts --ipc --fork --kill-child -- sh -c "$@""#;

/// All our control groups begin with it.
const CGROUP: &str = "flannel-e2e-";

impl System {
    /// Boots a host with the network of this namespace. `shared` is what it sees of our files, under `/run/shared`.
    pub fn boot(lab: &Lab, netns: &Netns, shared: &Path) -> Result<Self> {
        let directory = lab.directory(&format!("system/{}", netns.name()))?;
        let cgroup = make_cgroup()?;
        let mut command = Command::new("sh");
        command
            .args(["-c", JOIN, "sh"])
            .arg(&cgroup)
            .args([include_str!("system.sh"), "sh"])
            .args([directory.as_path(), shared])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut init = netns.spawn(&mut command)?;
        let mut line = String::new();
        BufReader::new(init.stdout.as_mut().context("stdout was asked for as a pipe")?)
            .read_line(&mut line)
            .context("could not read a process number")?;
        let number = line.trim().parse().with_context(|| format!("the host did not boot: {line:?}"))?;
        let system = Self { netns: netns.clone(), init, number, changes: directory.join("changes"), cgroup };
        wait::until("systemd is up", wait::LONG, || {
            let state = system.say("systemctl is-system-running --wait")?;
            ensure!(state == "running", "{state}: {}", system.run("systemctl --failed --no-legend")?);
            Ok(())
        })?;
        Ok(system)
    }

    /// Its network, as seen from outside.
    #[must_use]
    pub const fn netns(&self) -> &Netns {
        &self.netns
    }

    /// A command that runs on the host.
    #[must_use]
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.number.to_string()])
            .args(["--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--root", "--wd"])
            .args([
                "env",
                "-i",
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "DEBIAN_FRONTEND=noninteractive",
            ])
            .args(["sh", "-c", line])
            .stdin(Stdio::null());
        command
    }

    /// Runs a line of shell on the host; answers with its stdout. It must succeed.
    pub fn run(&self, line: &str) -> Result<String> {
        let output = self.command(line).output().context("could not start nsenter")?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(stdout);
        }
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("`{line}` failed ({}): {}{}", output.status, stderr.trim(), stdout.trim())
    }

    /// What the first line of a command's output is, whether it succeeds or not.
    pub fn say(&self, line: &str) -> Result<String> {
        let output = self.command(line).output().context("could not start nsenter")?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
    }

    /// Whether a path exists on the host. A link counts, wherever it leads.
    pub fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.say(&format!("test -e {path} -o -L {path} && echo yes"))? == "yes")
    }

    /// Every file that differs from the machine's, but those of its memory.
    pub fn changes(&self) -> Result<BTreeSet<PathBuf>> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![self.changes.clone()];
        while let Some(directory) = waiting.pop() {
            let failed = || format!("could not list {}", directory.display());
            for entry in fs::read_dir(&directory).with_context(failed)? {
                let path = entry.with_context(failed)?.path();
                if path.is_dir() && !path.is_symlink() {
                    waiting.push(path.clone());
                }
                found.insert(path.strip_prefix(&self.changes).unwrap_or(&path).to_owned());
            }
        }
        Ok(found)
    }
}

impl Drop for System {
    /// Control groups are the one thing that the kernel would keep.
    fn drop(&mut self) {
        // If this fails, the next host that boots removes them.
        let _ = self.init.kill();
        let _ = self.init.wait();
        let _ = wait::until("the control groups are empty", wait::LONG, || {
            remove_cgroups(&self.cgroup).context("not empty yet")
        });
    }
}

/// A control group of this host's own, below that of the machine; removes what is left of hosts that were killed.
fn make_cgroup() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("could not read mountinfo")?;
    let root = mounts
        .lines()
        .find(|line| line.contains(" - cgroup2 "))
        .and_then(|line| line.split(' ').nth(4))
        .context("no cgroup2 is mounted: `mount -t cgroup2 cgroup2 DIRECTORY`")?;
    for entry in fs::read_dir(root).with_context(|| format!("could not list {root}"))?.flatten() {
        // A young one may be that of a test beside us, whose host is not in it yet.
        let old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|made| made.elapsed().is_ok_and(|age| age > Duration::from_secs(60)));
        if old && entry.file_name().to_string_lossy().starts_with(CGROUP) {
            // Those that are in use cannot be removed, which is right.
            let _ = remove_cgroups(&entry.path());
        }
    }
    let cgroup = Path::new(root).join(format!("{CGROUP}{:x}", RandomState::new().hash_one(0)));
    fs::create_dir(&cgroup).with_context(|| format!("could not create {}", cgroup.display()))?;
    Ok(cgroup)
}

fn remove_cgroups(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_cgroups(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}
