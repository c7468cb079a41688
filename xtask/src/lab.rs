//! Tasks that the program `lab` runs in a sandbox. This module builds, prepares and starts it.

use anyhow::{Context, Error, Result};
use clap::{Args, Subcommand};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::build::{pod_program, programs, static_program};
use crate::kubernetes::{self, Build};
use crate::peer::PeerOption;
use crate::process::{empty_directory, succeeds, target};
use crate::{packages, sandbox};

#[derive(Args)]
pub(crate) struct DemoOptions {
    /// Store of leases: `dir` or `etcd`
    #[arg(long, default_value = "dir", value_parser = ["dir", "etcd"])]
    store: String,
    /// Backend: `vxlan` or `host-gw`
    #[arg(long, default_value = "vxlan", value_parser = ["vxlan", "host-gw"])]
    backend: String,
    /// Number of nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=20))]
    nodes: u8,
    /// Keep the cluster until Ctrl-C and show how to enter its nodes
    #[arg(long)]
    keep: bool,
}

pub(crate) fn demo(options: &DemoOptions) -> Result<bool> {
    sandbox::possible("demo")?;
    packages::install_for_demo(options.store == "etcd")?;
    println!("building");
    let directory = programs()?;
    let mut command = sandbox::command(directory.join("lab"));
    command.args(["demo", "--store", &options.store, "--backend", &options.backend]);
    command.args(["--nodes", &options.nodes.to_string()]);
    if options.keep {
        command.arg("--keep");
    }
    succeeds(&mut command)
}

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Measure the daemon in a large cluster: start, memory, latency of a change
    Control {
        /// Number of leases
        #[arg(long, default_value_t = 5000)]
        leases: u32,
        /// Store of leases: `etcd` or `kubernetes`
        #[arg(long, default_value = "etcd", value_parser = ["etcd", "kubernetes"])]
        store: String,
        /// Another flanneld to compare with, such as that of Go flannel; needs `--store kubernetes`
        #[arg(long, value_name = "FILE")]
        peer: Option<PathBuf>,
        /// Also write the results to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
    /// Measure the CNI plugin against other plugins and against the kernel's part alone
    Cni {
        #[command(flatten)]
        peer: PeerOption,
        /// Also write the results to this file
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Number of pods to attach in sequence
        #[arg(long, default_value_t = 60)]
        rounds: usize,
        /// Number of existing pods
        #[arg(long, default_value_t = 20)]
        standing: usize,
        /// Run only variants whose name contains one of these: bridge, dual-stack, masquerade-iptables,
        /// masquerade-nftables, portmap-iptables, portmap-nftables
        filters: Vec<String>,
    },
}

pub(crate) fn bench(bench: &Bench) -> Result<bool> {
    sandbox::possible("bench")?;
    packages::install_for_tests()?;
    println!("building");
    match bench {
        Bench::Control { leases, store, peer, json } => {
            let components = Build::default();
            if store == "kubernetes" {
                kubernetes::missing().map_or(Ok(()), Err).map_err(Error::msg)?;
                components.start()?;
            }
            static_program("flanneld", "flanneld")?;
            let mut command = sandbox::command(static_program("integration", "lab")?);
            if store == "kubernetes" {
                command.env("FLANNEL_E2E_KUBERNETES", components.wait()?);
                command.env("FLANNEL_E2E_NO_KUBERNETES", "");
            }
            command.args(["bench-control", "--leases", &leases.to_string(), "--store", store]);
            if let Some(peer) = peer {
                command.arg("--peer").arg(std::path::absolute(peer)?);
            }
            run(command, json.as_deref())
        }
        Bench::Cni { peer, json, rounds, standing, filters } => {
            let peer = peer.directory()?;
            let programs = pod_program("flannel-cni", "flannel")?;
            pod_program("integration", "kernel-work")?;
            let lab = static_program("integration", "lab")?;
            let state = target().join("bench-cni");
            empty_directory(&state)?;
            let mut command = sandbox::command(lab);
            command.arg("bench-cni").arg("--programs").arg(programs);
            command.arg("--peer").arg(peer).arg("--state").arg(&state);
            command.args(["--rounds", &rounds.to_string(), "--standing", &standing.to_string()]);
            command.args(filters);
            let outcome = run(command, json.as_deref());
            fs::remove_dir_all(&state).with_context(|| format!("could not remove {}", state.display()))?;
            outcome
        }
    }
}

fn run(mut command: Command, json: Option<&Path>) -> Result<bool> {
    if let Some(file) = json {
        command.arg("--json").arg(std::path::absolute(file)?);
    }
    succeeds(&mut command)
}
