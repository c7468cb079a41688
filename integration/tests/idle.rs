//! An idle daemon starts no process, in any mode of the firewall that the kernel notifies of.
//!
//! `FLANNEL_IDLE_SECS=60` looks longer than the usual few seconds.

use anyhow::{Context, Result, ensure};
use integration::{Daemon, Feature, Flanneld, Netns, lab, wait};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn starts_no_process_with_nftables() {
    idle(true);
}

#[test]
fn starts_no_process_with_iptables() {
    idle(false);
}

fn idle(nftables: bool) {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Strace, Feature::Nft])?;
        if !nftables {
            lab.require(&[Feature::Iptables, Feature::BridgeNetfilter])?;
        }
        let cluster = lab.cluster(2)?;
        let leases = lab.directory("directory/leases")?;
        let config = format!(
            r#"{{"Network":"10.42.0.0/16","EnableNFTables":{nftables},"Backend":{{"Type":"vxlan"}}}}"#
        );
        fs::write(leases.join("config"), config).context("could not write the network config")?;
        // Checked as often as can be asked for, so that a check by a process would show.
        let flanneld = Flanneld::on_directory(&leases).arguments("--ip-masq --iptables-resync=1");
        let daemons = cluster.start_all(&flanneld)?;
        let (netns, daemon) = (cluster.nodes[0].netns(), &daemons[0]);

        let trace = Trace::start(netns, daemon, lab.directory("trace")?.join("strace.txt"))?;
        let waits = trace.lines()?.len();
        let (started, before) = (Instant::now(), daemon.processor_time()?);
        thread::sleep(span()?);
        let spent = daemon.processor_time()?.saturating_sub(before);
        let seen = trace.processes()?;
        eprintln!(
            "idle for {:?}: {spent:?} of a processor and {} waits under strace, {} kB resident",
            started.elapsed(),
            trace.lines()?.len() - waits,
            daemon.resident_kb()?
        );
        ensure!(seen.is_empty(), "an idle daemon started processes:\n{}", seen.join("\n"));

        // What follows shows that the tracer sees the daemon, and that this one is awake.
        if nftables {
            netns.run("nft delete table ip flannel-ipv4")?;
            wait::until("the rules are back", wait::LONG, || {
                netns.run("nft list chain ip flannel-ipv4 postrtg").map(drop)
            })?;
            let seen = trace.processes()?;
            ensure!(seen.is_empty(), "a repair by netlink started processes:\n{}", seen.join("\n"));
        } else {
            netns.run("iptables -w -t nat -F FLANNEL-POSTRTG")?;
            wait::until("the repair started a process", wait::LONG, || {
                let seen = trace.processes()?;
                ensure!(seen.iter().any(|line| line.contains("execve(")), "{seen:?}");
                Ok(())
            })?;
        }
        trace.stop()
    });
}

fn span() -> Result<Duration> {
    match std::env::var("FLANNEL_IDLE_SECS") {
        Ok(text) => {
            let secs = text.parse().with_context(|| format!("FLANNEL_IDLE_SECS={text}: not a number"))?;
            Ok(Duration::from_secs(secs))
        }
        Err(_) => Ok(Duration::from_secs(5)),
    }
}

/// `strace` on a daemon and all its threads.
struct Trace {
    strace: Child,
    file: PathBuf,
}

impl Trace {
    fn start(netns: &Netns, daemon: &Daemon, file: PathBuf) -> Result<Self> {
        let said = file.with_extension("stderr");
        let mut command = Command::new("strace");
        command
            .args([
                "-f",
                "-q",
                "-e",
                "trace=execve,execveat,clone,clone3,fork,vfork,nanosleep,epoll_wait,epoll_pwait",
                "-o",
            ])
            .arg(&file)
            .args(["-p", &daemon.pid()?.to_string()])
            .stdin(Stdio::null())
            .stderr(File::create(&said).context("could not create a file for strace")?);
        let trace = Self { strace: netns.spawn(&mut command)?, file };
        // Whatever the daemon does wakes its event loop: then the tracer has something to tell.
        wait::until("strace looks on", wait::LONG, || {
            daemon.get("/healthz")?;
            let lines = trace.lines()?;
            let complaint = fs::read_to_string(&said).unwrap_or_default();
            ensure!(!lines.is_empty(), "{complaint}");
            Ok(())
        })?;
        Ok(trace)
    }

    fn lines(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(&self.file)
            .with_context(|| format!("could not read {}", self.file.display()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Calls that make or become a process. Threads are none.
    fn processes(&self) -> Result<Vec<String>> {
        let calls = ["execve(", "execveat(", "clone(", "clone3(", "fork(", "vfork("];
        let mut lines = self.lines()?;
        lines.retain(|line| calls.iter().any(|call| line.contains(call)) && !line.contains("CLONE_THREAD"));
        Ok(lines)
    }

    fn stop(mut self) -> Result<()> {
        self.strace.kill().context("could not end strace")?;
        self.strace.wait().context("could not wait for strace").map(drop)
    }
}
