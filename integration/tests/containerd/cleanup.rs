//! What a run of these tests leaves on the machine: nothing, also when it is killed while pods run.

use anyhow::{Context, Result, ensure};
use integration::{Feature, lab};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::scene::{Scene, config};

/// Set in the inner sandbox.
const INNER: &str = "FLANNEL_E2E_INNER";
const SANDBOX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../xtask/assets/sandbox.sh");

/// Runs pods in a sandbox inside of this one, and kills it: what it leaves would be seen here.
#[test]
fn killed_run_leaves_nothing() {
    if std::env::var_os(INNER).is_some() {
        return run_until_killed();
    }
    lab(|lab| {
        lab.require(&[Feature::Containerd, Feature::Runc, Feature::Crun])?;
        let before = traces()?;
        let mut inner = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--", "sh", SANDBOX])
            .arg(std::env::current_exe().context("this program has no name")?)
            .args(["--exact", "containerd::cleanup::killed_run_leaves_nothing", "--nocapture"])
            .env(INNER, "1")
            .env_remove("FLANNEL_E2E_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start a sandbox")?;
        let mut said = BufReader::new(inner.stdout.take().context("stdout was asked for as a pipe")?).lines();
        let ids = said
            .by_ref()
            .find_map(|line| line.ok()?.strip_prefix("running ids ").map(str::to_owned))
            .context("the inner sandbox ended without running a pod")?;
        let ids: Vec<&str> = ids.split(' ').collect();
        // Seen from here, its processes are there, in our own group.
        let own = fs::read_to_string("/proc/self/cgroup").context("could not read our own group")?;
        let pods = processes(&ids)?;
        ensure!(pods.len() >= ids.len(), "of {ids:?} only {pods:?} are seen");
        for pod in &pods {
            let group = fs::read_to_string(format!("/proc/{pod}/cgroup")).context("a process ended")?;
            ensure!(group == own, "process {pod} is in\n{group}not in\n{own}");
        }

        inner.kill().context("could not kill the inner sandbox")?;
        inner.wait().context("could not wait for the inner sandbox")?;
        // The pipe is closed when the last process that inherited it has ended.
        ensure!(said.all(|line| line.is_ok()), "could not read on");
        let left = processes(&ids)?;
        ensure!(left.is_empty(), "processes are left: {left:?}");
        let groups = groups(Path::new("/sys/fs/cgroup"), &ids);
        ensure!(groups.is_empty(), "groups are left: {groups:?}");
        let after = traces()?;
        ensure!(before == after, "before:\n{before}after:\n{after}");
        Ok(())
    });
}

/// The inner half: pods of every kind, and then no more.
fn run_until_killed() {
    lab(|lab| {
        let scene = Scene::new(lab, 1, &config(r#"{"Type":"host-gw"}"#))?;
        let group = scene.machines[0].netns().run("mkdir /sys/fs/cgroup/flannel-test");
        ensure!(group.is_err(), "a group can be made, and nothing would remove it");
        let pods = [scene.containerds[0].run("a")?, scene.containerds[0].run_with_ports("b", &[30080])?];
        let ids: Vec<&str> = pods.iter().map(|pod| pod.id.as_str()).collect();
        // One write, so that nothing comes in between.
        let line = format!("\nrunning ids {}\n", ids.join(" "));
        std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes()).context("nobody listens")?;
        loop {
            std::thread::park();
        }
    });
}

/// Processes that have one of these words in their command line, such as the shims of pods.
pub(crate) fn processes(ids: &[&str]) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("could not list processes")? {
        let name = entry.context("could not list processes")?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that has ended meanwhile has nothing to say.
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if ids.iter().any(|id| line.contains(id)) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// What a run could leave outside of its sandbox, as this sandbox, around it, shows it: mounts, files of runtimes, links.
fn traces() -> Result<String> {
    let mut text = fs::read_to_string("/proc/self/mountinfo").context("could not list mounts")?;
    for directory in ["/run", "/run/netns", "/var/lib", "/var/lib/cni", "/etc", "/opt", "/sys/class/net"] {
        let mut names: Vec<_> = fs::read_dir(directory)
            .with_context(|| format!("could not list {directory}"))?
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        names.sort();
        text += &format!("{directory}: {names:?}\n");
    }
    Ok(text)
}

/// The groups of processes that are named after one of these containers, anywhere on the machine.
fn groups(directory: &Path, ids: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if ids.iter().any(|id| entry.file_name().to_string_lossy().contains(id)) {
            found.push(entry.path());
        }
        found.extend(groups(&entry.path(), ids));
    }
    found
}
