//! Tasks that `lab` does inside a sandbox: we build, prepare and start it.

use anyhow::Result;
use clap::{Args, Subcommand};
use std::path::PathBuf;

use crate::build::{Profile, programs};
use crate::process::succeeds;
use crate::{packages, sandbox};

#[derive(Args)]
pub(crate) struct DemoOptions {
    /// Where the leases are: `dir` or `etcd`
    #[arg(long, default_value = "dir", value_parser = ["dir", "etcd"])]
    store: String,
    /// How pods reach other nodes: `vxlan` or `host-gw`
    #[arg(long, default_value = "vxlan", value_parser = ["vxlan", "host-gw"])]
    backend: String,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=20))]
    nodes: u8,
    /// Keep the cluster up until Ctrl-C and say how to enter its nodes
    #[arg(long)]
    keep: bool,
}

pub(crate) fn demo(options: &DemoOptions) -> Result<bool> {
    sandbox::possible("demo")?;
    packages::install_for_demo(options.store == "etcd")?;
    println!("building");
    let directory = programs(Profile::Dev)?;
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
    /// The daemon with a large cluster in etcd: start, memory, delay of a change
    Control {
        /// How many leases the cluster has
        #[arg(long, default_value_t = 5000)]
        leases: u32,
        /// Write the figures to this file, too
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

pub(crate) fn bench(bench: &Bench) -> Result<bool> {
    let Bench::Control { leases, json } = bench;
    sandbox::possible("bench control")?;
    packages::install_for_tests()?;
    println!("building");
    let directory = programs(Profile::Release)?;
    let mut command = sandbox::command(directory.join("lab"));
    command.args(["bench-control", "--leases", &leases.to_string()]);
    if let Some(file) = json {
        command.arg("--json").arg(std::path::absolute(file)?);
    }
    succeeds(&mut command)
}
