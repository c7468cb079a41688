//! The demonstration: a small cluster with its subnets, connectivity between all pods, and the repair of a removed route.

use anyhow::{Context, Result, ensure};
use clap::Args;
use integration::monitor::Monitor;
use integration::traffic::Datagrams;
use integration::{Cluster, Feature, Flanneld, Lab, Node, Pod};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    store: String,
    #[arg(long)]
    backend: String,
    #[arg(long)]
    nodes: u8,
    #[arg(long)]
    keep: bool,
}

const NETWORK: &str = "10.42.0.0/16";

pub(crate) fn run(options: &Options) -> Result<()> {
    let started = Instant::now();
    let lab = Lab::new()?;
    if options.backend == "vxlan" {
        lab.require(&[Feature::Vxlan])?;
    }
    let store = if options.store == "etcd" { "etcd" } else { "a directory" };
    println!("\n{} nodes on one network, backend {}, store {store}\n", options.nodes, options.backend);

    let cluster = lab.cluster(usize::from(options.nodes))?;
    let flanneld = prepare_store(&lab, &cluster, options)?;
    cluster.start_all(&flanneld)?;
    let pods = cluster.pods("pod")?;
    show_nodes(&cluster, &pods)?;
    show_connectivity(&pods)?;
    show_repair(&cluster, &pods)?;
    println!(
        "\nThe demonstration took {:.1} s. README.md describes how to install flannel.",
        started.elapsed().as_secs_f32()
    );
    println!("Run `cargo xtask demo --help` for other stores, backends and sizes.");
    if options.keep {
        keep(&cluster)?;
    }
    Ok(())
}

fn prepare_store(lab: &Lab, cluster: &Cluster, options: &Options) -> Result<Flanneld> {
    let config = format!(
        r#"{{"Network":"{NETWORK}","EnableNFTables":true,"Backend":{{"Type":"{}"}}}}"#,
        options.backend
    );
    if options.store == "etcd" {
        lab.require(&[Feature::Etcd])?;
        let etcd = cluster.etcd(lab)?;
        etcd.set_config(&config)?;
        return Ok(Flanneld::on_etcd(&etcd));
    }
    Ok(Flanneld::on_directory(&lab.lease_directory(&config)?))
}

fn show_nodes(cluster: &Cluster, pods: &[Pod]) -> Result<()> {
    println!("  {:<6}{:<18}{:<18}POD", "NODE", "ADDRESS", "SUBNET");
    for (number, (node, pod)) in cluster.nodes.iter().zip(pods).enumerate() {
        let address = format!("192.168.50.{}", number + 1);
        println!(
            "  {:<6}{address:<18}{:<18}{}",
            node.name(),
            node.subnet(true)?.to_string(),
            pod.address(true)?
        );
    }
    Ok(())
}

/// Echo requests from each pod to each other pod.
const PINGS: u32 = 3;
/// The number of columns that fit a terminal.
const COLUMNS: usize = 8;

fn show_connectivity(pods: &[Pod]) -> Result<()> {
    let rows = thread::scope(|scope| {
        let rows: Vec<_> = pods.iter().map(|from| scope.spawn(move || round_trips(from, pods))).collect();
        rows.into_iter().map(|row| row.join().expect("a measurement panicked")).collect::<Result<Vec<_>>>()
    })?;
    println!("\nAverage round-trip time from every pod to every other, in ms:\n");
    let name = |number: usize| format!("n{}", number + 1);
    let shown = pods.len().min(COLUMNS);
    println!("  {:<6}{}", "", (0..shown).map(|to| format!("{:>8}", name(to))).collect::<String>());
    for (from, row) in rows.iter().enumerate() {
        let cells = row[..shown].iter().map(|cell| match cell {
            Some(average) => format!("{average:>8.2}"),
            None => format!("{:>8}", "-"),
        });
        println!("  {:<6}{}", name(from), cells.collect::<String>());
    }
    if shown < pods.len() {
        println!("  (more columns are not shown; no packet was lost)");
    }
    Ok(())
}

/// Returns the average round-trip time from one pod to each, `None` for itself.
fn round_trips(from: &Pod, pods: &[Pod]) -> Result<Vec<Option<f64>>> {
    pods.iter()
        .map(|to| {
            if to.name == from.name {
                return Ok(None);
            }
            let address = to.address(true)?;
            from.netns.wait_ping(address)?;
            let ping = from.netns.ping(address, PINGS)?;
            ensure!(ping.received == PINGS, "{} lost pings to {address}: {ping:?}", from.name);
            Ok(Some(ping.average_ms))
        })
        .collect()
}

fn show_repair(cluster: &Cluster, pods: &[Pod]) -> Result<()> {
    let (node, subnet) = (&cluster.nodes[0], cluster.nodes[1].subnet(true)?);
    let route = node.netns().ip(&format!("route show {subnet}"))?;
    println!("\nRemove a route of n1 while its pod sends to the pod of n2:\n");
    println!("  # {}", route.split_whitespace().collect::<Vec<_>>().join(" "));
    println!("  $ ip route del {subnet}");
    let monitor = Monitor::start(node.netns())?;
    let interval = Duration::from_millis(1);
    let flow = Datagrams::start(&pods[0].netns, &pods[1].netns, pods[1].address(true)?, interval)?;
    flow.wait_answered(50)?;
    node.netns().ip(&format!("route del {subnet}"))?;
    let subnet = subnet.to_string();
    let removed = monitor.find(|text| text.starts_with("Deleted") && text.contains(&subnet))?;
    let restored = monitor.find(|text| text.starts_with(&subnet))?;
    flow.wait_answered(50)?;
    monitor.stop()?;
    let report = flow.stop()?;
    println!(
        "\n  restored after {:.1} ms; sent {} packets, one per ms, lost {}",
        restored.at.saturating_sub(removed.at).as_secs_f64() * 1000.0,
        report.sent,
        report.lost.len()
    );
    Ok(())
}

/// Prints how to enter the nodes, and waits for Ctrl-C.
fn keep(cluster: &Cluster) -> Result<()> {
    println!("\nThe cluster runs until Ctrl-C. To enter a node from another terminal, as root:\n");
    for node in &cluster.nodes {
        println!("  nsenter -a -t {:<8} # a shell on {}", resident(node)?, node.name());
    }
    println!("\nOn a node: `ip route`, `cat /run/flannel/subnet.env`,");
    println!("`ip netns exec n1-pod ping ADDRESS`; logs are in /run/lab/log.");
    loop {
        thread::park();
    }
}

/// Starts a process that remains on the node. Returns its id as seen from outside the sandbox.
fn resident(node: &Node) -> Result<u32> {
    let script = "read -r stat < /run/lab/outer-proc/self/stat && echo ${stat%% *} && exec sleep infinity";
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = node.netns().spawn(&mut command)?;
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().context("stdout is a pipe")?)
        .read_line(&mut line)
        .context("could not read a process id")?;
    line.trim().parse().with_context(|| format!("invalid process id: {line:?}"))
}
