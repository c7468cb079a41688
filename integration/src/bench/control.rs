//! `bench control`: the daemon of one node in a large cluster that is otherwise made of records only, in etcd or, in [`nodes`], as
//! nodes of Kubernetes.
//!
//! What is measured from outside: the kernel's news of routes and forwarding entries, the accounts that the
//! kernel keeps of the process, and etcd's own count of requests. Delays run from the moment before a
//! write is sent to etcd to the moment that the kernel tells of the change.

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use flannel_core::cluster::PEER_GRACE;
use integration::etcd::PREFIX;
use integration::gateway::Gateway;
use integration::monitor::{Monitor, News, time_of_day as now};
use integration::{Daemon, Etcd, Feature, Flanneld, Lab, Node, http, wait};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use super::{percentile, write_figures};

mod nodes;

#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    leases: u32,
    #[arg(long, default_value = "etcd")]
    store: Store,
    /// Another flanneld to compare with
    #[arg(long)]
    peer: Option<PathBuf>,
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Store {
    Etcd,
    Kubernetes,
}

const CONFIG: &str = r#"{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan"}}"#;
/// Subnets from here on are those of the changes; those of the standing leases are below.
const CHANGED: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 0);
const RATE_PER_SECOND: u32 = 100;
const CHANGES: u32 = 1500;
/// Longer than the time between two full rounds of the daemon, so that one is part of the figure.
const IDLE: Duration = Duration::from_secs(65);
/// From so many leases on, the targets of a large cluster apply.
const LARGE: u32 = 101;

pub(crate) fn run(options: &Options) -> Result<()> {
    let most = (u32::from(CHANGED) - u32::from(Ipv4Addr::new(10, 0, 0, 0))) / 256 - 1;
    ensure!((2..=most).contains(&options.leases), "--leases {}: 2 to {most}", options.leases);
    let lab = Lab::new()?;
    match options.store {
        Store::Etcd => on_etcd(&lab, options),
        Store::Kubernetes => nodes::run(&lab, options),
    }
}

fn on_etcd(lab: &Lab, options: &Options) -> Result<()> {
    ensure!(options.peer.is_none(), "--peer needs --store kubernetes");
    lab.require(&[Feature::Vxlan, Feature::Etcd])?;
    let cluster = lab.cluster(1)?;
    let node = &cluster.nodes[0];
    let etcd = cluster.etcd(lab)?;
    etcd.set_config(CONFIG)?;
    let mut gateway = Gateway::connect(node.netns(), etcd.members[0].address())?;
    let lease = gateway.grant(86_400)?;
    println!("writing {} leases", options.leases);
    let records: Vec<_> = (1..=options.leases).map(|number| Peer::standing(number).record()).collect();
    gateway.put_all(&records, &lease)?;

    println!("starting flanneld");
    let (mut daemon, start) = start(node, &etcd, options.leases)?;
    println!("idle for {} s", IDLE.as_secs());
    let idle = share_of_processor(&daemon, || {
        thread::sleep(IDLE);
        Ok(())
    })?;
    println!("{CHANGES} changes, {RATE_PER_SECOND} a second");
    let mut delays = Vec::new();
    let busy = share_of_processor(&daemon, || {
        delays = changes(node, &mut gateway, &lease)?;
        Ok(())
    })?;
    let memory = Memory::of(&daemon)?;
    println!("removing all routes");
    let restored = flush(node, options.leases)?;
    let answers = Answers::of(&daemon)?;
    daemon.stop()?;
    report(options, &Results { start, idle, busy, delays, memory, restored, answers })
}

/// All that one run measures.
struct Results {
    start: Start,
    /// Shares of a processor, in percent.
    idle: f64,
    busy: f64,
    /// From each change in etcd to the last message of the kernel.
    delays: Vec<Duration>,
    /// After the changes.
    memory: Memory,
    /// From the removal of the last route to the return of the last one.
    restored: Duration,
    answers: Answers,
}

/// A node that exists only as a record.
#[derive(Clone, Copy)]
struct Peer {
    subnet: Ipv4Addr,
    public: Ipv4Addr,
    mac: [u8; 3],
}

impl Peer {
    fn numbered(base: Ipv4Addr, number: u32) -> Self {
        let subnet = Ipv4Addr::from(u32::from(base) + number * 256);
        let public = Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 0)) + number);
        let [_, a, b, _] = subnet.octets();
        Self { subnet, public, mac: [a, b, 0] }
    }

    fn standing(number: u32) -> Self {
        Self::numbered(Ipv4Addr::new(10, 0, 0, 0), number)
    }

    fn changed(number: u32) -> Self {
        Self::numbered(CHANGED, number)
    }

    fn mac(self) -> String {
        let [a, b, c] = self.mac;
        format!("0a:00:00:{a:02x}:{b:02x}:{c:02x}")
    }

    fn key(self) -> String {
        format!("{PREFIX}/subnets/{}-24", self.subnet)
    }

    fn record(self) -> (String, String) {
        let value = format!(
            r#"{{"PublicIP":"{}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{}"}}}}"#,
            self.public,
            self.mac()
        );
        (self.key(), value)
    }
}

/// What a start cost.
struct Start {
    last_route: Duration,
    ready: Duration,
    processor: Duration,
    memory: Memory,
    requests: BTreeMap<String, i64>,
}

/// Kilobytes resident, now and at most.
struct Memory {
    now: u64,
    peak: u64,
}

impl Memory {
    fn of(daemon: &Daemon) -> Result<Self> {
        Ok(Self { now: daemon.resident_kb()?, peak: daemon.peak_resident_kb()? })
    }
}

/// How long the daemon takes to answer, from connecting to the last byte.
struct Answers {
    /// By path, medians in milliseconds.
    millis: Vec<(&'static str, f64)>,
    /// Memory after all of them.
    memory: Memory,
}

impl Answers {
    const TIMES: usize = 15;

    fn of(daemon: &Daemon) -> Result<Self> {
        let mut millis = Vec::new();
        for path in ["/metrics", "/status", "/peers", "/diff"] {
            let mut taken = Vec::new();
            for _ in 0..Self::TIMES {
                let started = Instant::now();
                let answer = if path == "/metrics" { daemon.get(path)? } else { daemon.status(path)? };
                taken.push(started.elapsed().as_secs_f64() * 1000.0);
                ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.body);
            }
            taken.sort_by(f64::total_cmp);
            millis.push((path, percentile(&taken, 50)));
        }
        Ok(Self { millis, memory: Memory::of(daemon)? })
    }
}

fn start(node: &Node, etcd: &Etcd, leases: u32) -> Result<(Daemon, Start)> {
    let monitor = Monitor::start(node.netns())?;
    let before = requests(etcd)?;
    let started = now();
    let mut daemon = node.start(&Flanneld::on_etcd(etcd))?;
    daemon.wait_ready_within(Duration::from_secs(120))?;
    let ready = now().saturating_sub(started);
    let last_route = wait_routes(&monitor, leases)?.saturating_sub(started);
    monitor.stop()?;
    let mut requests = requests(etcd)?;
    for (method, count) in &mut requests {
        *count -= before.get(method).copied().unwrap_or_default();
    }
    requests.retain(|_, count| *count > 0);
    let processor = daemon.processor_time()?;
    let memory = Memory::of(&daemon)?;
    Ok((daemon, Start { last_route, ready, processor, memory, requests }))
}

/// Waits until there was news of so many routes to subnets; returns when that of the last one came.
fn wait_routes(monitor: &Monitor, count: u32) -> Result<Duration> {
    let mut seen = BTreeMap::new();
    wait::until("every lease has a route", Duration::from_secs(120), || {
        for News { at, text } in monitor.so_far() {
            if let Some(subnet) = text.split_whitespace().next().filter(|word| word.ends_with(".0/24")) {
                seen.entry(subnet.to_owned()).or_insert(at);
            }
        }
        let have = u32::try_from(seen.len()).context("a count of routes")?;
        ensure!(have >= count, "{have} of {count} routes; {} overruns of the monitor", monitor.overruns());
        Ok(())
    })?;
    Ok(seen.values().max().copied().unwrap_or_default())
}

/// Removes the routes to all peers; returns how long the daemon takes from then on to restore the last of them.
fn flush(node: &Node, leases: u32) -> Result<Duration> {
    let lines: String =
        (1..=leases).map(|number| format!("route del {}/24\n", Peer::standing(number).subnet)).collect();
    let monitor = Monitor::start(node.netns())?;
    monitor.so_far();
    node.netns().ip_batch(&lines)?;
    let removed = now();
    let mut seen = BTreeMap::new();
    wait::until("every route is restored", Duration::from_secs(120), || {
        for News { at, text } in monitor.so_far() {
            if let Some(subnet) = text.split_whitespace().next().filter(|word| word.ends_with(".0/24")) {
                seen.insert(subnet.to_owned(), at);
            }
        }
        let have = node.netns().ip("route show proto 241")?.lines().count();
        let have = u32::try_from(have).context("a count of routes")?;
        ensure!(have >= leases, "{have} of {leases} routes");
        Ok(())
    })?;
    monitor.stop()?;
    Ok(seen.values().max().copied().unwrap_or_default().saturating_sub(removed))
}

/// etcd's count of requests by method.
fn requests(etcd: &Etcd) -> Result<BTreeMap<String, i64>> {
    let member = &etcd.members[0];
    let metrics = http::get(&member.netns, member.address(), "/metrics")?;
    ensure!(metrics.status == 200, "etcd's metrics: {}", metrics.status);
    Ok(metrics
        .body
        .lines()
        .filter(|line| line.starts_with("grpc_server_started_total{"))
        .filter_map(|line| {
            let label = |name: &str| line.split(name).nth(1)?.split('"').nth(1);
            let service = label("grpc_service=")?.rsplit('.').next()?;
            Some((format!("{service}.{}", label("grpc_method=")?), line.rsplit(' ').next()?.parse().ok()?))
        })
        .collect())
}

/// The share of one processor that the daemon takes during some work, in percent.
fn share_of_processor(daemon: &Daemon, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let (started, before) = (Instant::now(), daemon.processor_time()?);
    work()?;
    let spent = daemon.processor_time()?.saturating_sub(before);
    Ok(spent.as_secs_f64() / started.elapsed().as_secs_f64() * 100.0)
}

/// What one change does, in turn, to the same peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Join,
    Move,
    Leave,
}

/// Makes changes at a steady rate; answers with the delay of each until the kernel had it.
fn changes(node: &Node, gateway: &mut Gateway, lease: &str) -> Result<Vec<Duration>> {
    let monitor = Monitor::start(node.netns())?;
    let interval = Duration::from_secs(1) / RATE_PER_SECOND;
    let started = Instant::now();
    let mut sent: Vec<(Step, Peer, Duration)> = Vec::new();
    // A peer moves, and leaves, some time after it came, so that the changes do not meet each other.
    let apart = RATE_PER_SECOND / 3;
    for number in 0..CHANGES {
        thread::sleep((interval * number).saturating_sub(started.elapsed()));
        let (round, step) = (number / 3, number % 3);
        let step = match step {
            0 => (Step::Join, Some(round)),
            1 => (Step::Move, round.checked_sub(apart)),
            _ => (Step::Leave, round.checked_sub(2 * apart)),
        };
        let (step, Some(which)) = step else { continue };
        let mut peer = Peer::changed(which + 1);
        if step != Step::Join {
            peer.public = Ipv4Addr::from(u32::from(peer.public) + 0x0010_0000);
        }
        let at = now();
        match step {
            Step::Leave => gateway.delete(&peer.key())?,
            Step::Join | Step::Move => {
                let (key, value) = peer.record();
                gateway.put(&key, &value, lease)?;
            }
        }
        sent.push((step, peer, at));
    }
    let delays = delays(&sent, &monitor)?;
    monitor.stop()?;
    Ok(delays)
}

/// Finds the kernel's first news of each change; no two changes look alike. A change whose news was lost on the way to us
/// is no change that the daemon missed: it is left out, and said.
fn delays(sent: &[(Step, Peer, Duration)], monitor: &Monitor) -> Result<Vec<Duration>> {
    let mut first_news: BTreeMap<String, Duration> = BTreeMap::new();
    let mut delays = Vec::new();
    let all = wait::until("the kernel has every change", wait::LONG, || {
        for News { at, text } in monitor.so_far() {
            let words: Vec<&str> = text.split_whitespace().take(5).collect();
            first_news.entry(words.join(" ")).or_insert(at);
        }
        delays.clear();
        let mut missing = None;
        for (step, peer, at) in sent {
            let (subnet, device) = (peer.subnet, "dev flannel.1");
            let news = match step {
                Step::Join => format!("{subnet}/24 via {subnet} {device}"),
                Step::Move => format!("{} {device} lladdr {}", peer.public, peer.mac()),
                Step::Leave => format!("Deleted {subnet}/24 via {subnet} dev"),
            };
            // A peer without a lease is kept for this long on purpose.
            let grace = if *step == Step::Leave { PEER_GRACE } else { Duration::ZERO };
            match first_news.get(&news) {
                Some(seen) => delays.push(seen.saturating_sub(*at + grace)),
                None => missing = Some(news),
            }
        }
        ensure!(missing.is_none(), "no news of `{}`", missing.unwrap_or_default());
        Ok(())
    });
    if monitor.overruns() == 0 {
        all?;
    } else {
        println!(
            "the kernel's news overran us {} times: {} of {} changes were not seen and do not count",
            monitor.overruns(),
            sent.len() - delays.len(),
            sent.len()
        );
    }
    Ok(delays)
}

/// What is to be reached, up to a size.
struct Targets {
    last_route: &'static str,
    memory: &'static str,
    idle: &'static str,
}

impl Targets {
    fn of(leases: u32) -> Self {
        let (last_route, memory) = match leases {
            0..LARGE => ("", "≤ 8 MiB"),
            LARGE..=5000 => ("≤ 400 ms", "≤ 20 MiB"),
            5001..=10_000 => ("≤ 600 ms", "≤ 20 MiB"),
            10_001..=30_000 => ("≤ 2000 ms", ""),
            _ => ("", ""),
        };
        Self { last_route, memory, idle: if leases < LARGE { "≤ 0.1 %" } else { "" } }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn mib(kilobytes: u64) -> f64 {
    Value::from(kilobytes).as_f64().unwrap_or_default() / 1024.0
}

fn report(options: &Options, results: &Results) -> Result<()> {
    let Results { start, idle, busy, delays, memory, restored, answers } = results;
    let delays: Vec<f64> = delays.iter().map(|delay| millis(*delay)).collect();
    let requests: i64 = start.requests.values().sum();
    let by_method: Vec<String> =
        start.requests.iter().map(|(method, count)| format!("{method} {count}")).collect();
    let (p50, p99, longest) = (percentile(&delays, 50), percentile(&delays, 99), percentile(&delays, 100));
    let Targets { last_route, memory: memory_target, idle: idle_target } = Targets::of(options.leases);
    println!("\n  {:<42}{:>12}   target", format!("flanneld, vxlan, {} leases in etcd", options.leases), "");
    for (what, value, target) in [
        ("start to last route", format!("{:.0} ms", millis(start.last_route)), last_route),
        ("start to ready", format!("{:.0} ms", millis(start.ready)), ""),
        ("processor time of the start", format!("{:.0} ms", millis(start.processor)), ""),
        ("resident memory after the start", format!("{:.1} MiB", mib(start.memory.now)), memory_target),
        ("resident memory, peak of the start", format!("{:.1} MiB", mib(start.memory.peak)), memory_target),
        ("resident memory after the changes", format!("{:.1} MiB", mib(memory.now)), memory_target),
        ("resident memory, peak", format!("{:.1} MiB", mib(memory.peak)), memory_target),
        ("etcd requests of the start", requests.to_string(), "O(1)"),
        ("idle, share of a processor", format!("{idle:.2} %"), idle_target),
        ("a change, median", format!("{p50:.1} ms"), ""),
        ("a change, 99th percentile", format!("{p99:.1} ms"), "≤ 6 ms"),
        ("a change, longest", format!("{longest:.1} ms"), ""),
        ("100 changes a second, share of a processor", format!("{busy:.1} %"), "≤ 20 %"),
        ("all routes removed to all restored", format!("{:.0} ms", millis(*restored)), "≤ 1000 ms"),
        ("resident memory after all answers", format!("{:.1} MiB", mib(answers.memory.now)), memory_target),
    ] {
        println!("  {what:<42}{value:>12}   {target}");
    }
    for (path, millis) in &answers.millis {
        let target = if *path == "/metrics" { "≤ 50 ms" } else { "" };
        println!("  {:<42}{:>12}   {target}", format!("answer to {path}"), format!("{millis:.1} ms"));
    }
    println!("\n  etcd requests: {}", by_method.join(", "));
    let figures = json!({
        "leases": options.leases,
        "startToLastRouteMilliseconds": millis(start.last_route),
        "startToReadyMilliseconds": millis(start.ready),
        "startProcessorMilliseconds": millis(start.processor),
        "residentKib": start.memory.now,
        "residentPeakOfStartKib": start.memory.peak,
        "residentAfterChangesKib": memory.now,
        "residentPeakKib": memory.peak,
        "etcdRequestsOfStart": start.requests,
        "idleProcessorPercent": idle,
        "changes": delays.len(),
        "changesPerSecond": RATE_PER_SECOND,
        "changeP50Milliseconds": p50,
        "changeP99Milliseconds": p99,
        "changeMaxMilliseconds": longest,
        "changesProcessorPercent": busy,
        "restoredMilliseconds": millis(*restored),
        "answersMilliseconds": answers.millis.iter().copied().collect::<BTreeMap<_, _>>(),
        "residentAfterAnswersKib": answers.memory.now,
    });
    write_figures(&figures, options.json.as_deref())
}
