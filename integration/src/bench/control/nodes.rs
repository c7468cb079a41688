//! `bench control --store kubernetes`: the other nodes are objects of a real API server, as large as kubelets make them.
//!
//! The daemon has the rights of the manifest only. Delays run from the response of the API server to a change until the
//! kernel's notification.

use anyhow::{Context, Result, ensure};
use integration::gateway::Gateway;
use integration::kubernetes::{Identity, node_with_cidrs};
use integration::monitor::{Monitor, News, time_of_day as now};
use integration::service::Service;
use integration::{ControlPlane, Feature, Flanneld, Lab, Node, wait};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::{Memory, Options, Peer, mib, millis, percentile, share_of_processor, wait_routes, write_figures};

const CONFIG: &str = r#"{"Network":"10.0.0.0/8","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#;
const NODES: &str = "/api/v1/nodes";
const PREFIX: &str = "flannel.alpha.coreos.com/";
/// Connections that create nodes, or update them at a rate.
const CONNECTIONS: u32 = 4;
/// Where `kubectl proxy` listens, on the host of the control plane.
const PROXY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8001);
/// Updates that change nothing for flannel.
const UPDATES: u32 = 1500;
const UPDATES_PER_SECOND: u32 = 100;
const CHANGES: u32 = 300;
const CHANGES_PER_SECOND: u32 = 20;
const MERGE: &str = "application/merge-patch+json";

pub(super) fn run(lab: &Lab, options: &Options) -> Result<()> {
    lab.require(&[Feature::Vxlan, Feature::Nft])?;
    let cluster = lab.cluster(2)?;
    let control_plane = cluster.control_plane(lab)?;
    let proxy = Proxy::start(&control_plane)?;
    println!("creating {} nodes", options.leases);
    proxy.create(options.leases)?;
    let size = control_plane.admin.get(&format!("{NODES}/{}", name(1)))?.to_string().len();
    control_plane.install_account()?;
    let config = lab.directory("net-conf")?.join("net-conf.json");
    fs::write(&config, CONFIG).with_context(|| format!("could not write {}", config.display()))?;
    let scene = Scene { options, control_plane: &control_plane, proxy, config };
    let mut results = vec![("flanneld", scene.measure(&cluster.nodes[0], 1, None)?)];
    if let Some(peer) = &options.peer {
        results.push(("peer", scene.measure(&cluster.nodes[1], 2, Some(peer))?));
    }
    report(options, size, &results)
}

/// The Kubernetes API without TLS, with the rights of the administrator.
struct Proxy {
    process: Service,
    control_plane: integration::Netns,
}

impl Proxy {
    fn start(control_plane: &ControlPlane) -> Result<Self> {
        let kubeconfig = format!("--kubeconfig={}", control_plane.admin.kubeconfig().display());
        let arguments = vec![kubeconfig, "proxy".to_owned(), format!("--port={}", PROXY.port())];
        let netns = control_plane.netns.clone();
        let process = Service::new(&netns, "kubectl-proxy", "kubectl", arguments);
        process.start()?;
        let proxy = Self { process, control_plane: netns };
        wait::until("kubectl proxy listens", wait::LONG, || proxy.connect().map(drop))?;
        Ok(proxy)
    }

    fn connect(&self) -> Result<Gateway> {
        self.process.check_running()?;
        Gateway::connect(&self.control_plane, PROXY)
    }

    /// Runs `work` for all numbers from 1 on, each connection for a part of them.
    fn each(&self, count: u32, work: impl Fn(&mut Gateway, u32) -> Result<()> + Sync) -> Result<()> {
        let connections = (0..CONNECTIONS).map(|_| self.connect()).collect::<Result<Vec<_>>>()?;
        let work = &work;
        thread::scope(|scope| {
            let run = |(first, mut gateway): (u32, Gateway)| {
                let step = usize::try_from(CONNECTIONS).unwrap_or(1);
                scope.spawn(move || {
                    (first..=count).step_by(step).try_for_each(|number| work(&mut gateway, number))
                })
            };
            let threads: Vec<_> = (1..).zip(connections).map(run).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
        })
    }

    /// Creates the other nodes.
    fn create(&self, count: u32) -> Result<()> {
        self.each(count, |gateway, number| {
            gateway.send("POST", NODES, "application/json", &worker(number)).map(drop)
        })
    }
}

/// A node as a kubelet keeps it, with the annotations of flannel.
fn worker(number: u32) -> Value {
    let peer = Peer::standing(number);
    let address = peer.public.to_string();
    let mut node = node_with_cidrs(&name(number), &[&address], &[&format!("{}/24", peer.subnet)]);
    let annotations = &mut node["metadata"]["annotations"];
    *annotations = json!({
        "kubeadm.alpha.kubernetes.io/cri-socket": "unix:///run/containerd/containerd.sock",
        "node.alpha.kubernetes.io/ttl": "0",
        "volumes.kubernetes.io/controller-managed-attach-detach": "true",
    });
    let data = format!(r#"{{"VNI":1,"VtepMAC":"{}"}}"#, peer.mac());
    for (key, value) in [
        ("backend-data", data.as_str()),
        ("backend-type", "vxlan"),
        ("kube-subnet-manager", "true"),
        ("public-ip", &address),
    ] {
        annotations[format!("{PREFIX}{key}")] = value.into();
    }
    let capacity = json!({
        "cpu": "8", "ephemeral-storage": "103079844Ki", "hugepages-1Gi": "0", "hugepages-2Mi": "0", "memory": "32780684Ki", "pods": "110"
    });
    let status = &mut node["status"];
    status["allocatable"] = capacity.clone();
    status["capacity"] = capacity;
    status["conditions"] = conditions(0);
    status["images"] = (0..50).map(image).collect();
    status["nodeInfo"] = json!({
        "architecture": "amd64", "bootID": "3a0f4e2c-6f0e-4e57-9d2c-0d3f5a2a7c11", "containerRuntimeVersion": "containerd://2.0.1",
        "kernelVersion": "6.8.0-45-generic", "kubeProxyVersion": "", "kubeletVersion": "v1.36.3",
        "machineID": format!("{number:032x}"), "operatingSystem": "linux", "osImage": "Debian GNU/Linux 12 (bookworm)",
        "systemUUID": "4c4c4544-0043-3510-8052-b4c04f4e3732",
    });
    node
}

fn name(number: u32) -> String {
    format!("worker-{number}")
}

/// The conditions that a kubelet reports. Their heartbeats change at each report.
fn conditions(beat: u32) -> Value {
    let at = format!("2026-01-01T{:02}:{:02}:{:02}Z", beat / 3600 % 24, beat / 60 % 60, beat % 60);
    let of = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
               "lastHeartbeatTime": at, "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    json!([
        of(
            "MemoryPressure",
            "False",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available"
        ),
        of("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        of("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        of("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ])
}

/// An image with its names by digest and by tag.
fn image(number: u32) -> Value {
    let place = format!("registry.example.com/platform/production/service-with-a-long-name-{number:02}");
    json!({
        "names": [format!("{place}@sha256:{number:064x}"), format!("{place}:v1.{number}.0-20260101"), format!("{place}:stable")],
        "sizeBytes": 123_456_789_u64 + u64::from(number),
    })
}

/// What all measured daemons share.
struct Scene<'a> {
    options: &'a Options,
    control_plane: &'a ControlPlane,
    proxy: Proxy,
    config: PathBuf,
}

/// What is measured of one daemon.
struct Results {
    last_route: Duration,
    processor: Duration,
    start: Memory,
    /// Share of a processor during the updates, in percent.
    updates: f64,
    delays: Vec<f64>,
    after: Memory,
}

impl Scene<'_> {
    /// Registers a node and measures its daemon: that of this project, or another program.
    fn measure(&self, node: &Node, number: u8, program: Option<&Path>) -> Result<Results> {
        let own = node_with_cidrs(
            node.name(),
            &[&format!("192.168.50.{number}")],
            &[&format!("10.250.{number}.0/24")],
        );
        self.control_plane.admin.create(NODES, &own)?;
        let token = self.control_plane.token(integration::kubernetes::ACCOUNT)?;
        let account = self.control_plane.client(node.name(), Identity::Token(token))?;
        let mut flanneld = Flanneld::bare()
            .argument("--kube-subnet-mgr")
            .argument(format!("--kubeconfig-file={}", account.kubeconfig().display()))
            .argument(format!("--net-config-path={}", self.config.display()))
            .environment("NODE_NAME", node.name());
        if let Some(program) = program {
            flanneld = flanneld.program(program);
        }
        println!("starting {}", program.map_or_else(|| "flanneld".into(), Path::to_string_lossy));
        let monitor = Monitor::start(node.netns())?;
        let started = now();
        let mut daemon = node.start(&flanneld)?;
        let last_route = wait_routes(&monitor, self.options.leases)?.saturating_sub(started);
        let (processor, start) = (daemon.processor_time()?, Memory::of(&daemon)?);
        println!("{UPDATES} updates, {UPDATES_PER_SECOND} a second, that change nothing for flannel");
        let updates = share_of_processor(&daemon, || self.update())?;
        println!("{CHANGES} changes, {CHANGES_PER_SECOND} a second");
        monitor.so_far();
        let delays = self.change(&monitor, number)?;
        monitor.stop()?;
        let after = Memory::of(&daemon)?;
        daemon.stop()?;
        Ok(Results { last_route, processor, start, updates, delays, after })
    }

    /// Reports heartbeats of kubelets.
    fn update(&self) -> Result<()> {
        let (started, leases) = (Instant::now(), self.options.leases);
        self.proxy.each(UPDATES, |gateway, number| {
            pace(started, number, UPDATES_PER_SECOND);
            let path = format!("{NODES}/{}/status", name(number % leases + 1));
            let change = json!({"status": {"conditions": conditions(number)}});
            gateway.send("PATCH", &path, MERGE, &change).map(drop)
        })
    }

    /// Changes addresses of nodes; returns the delays of the kernel in milliseconds.
    fn change(&self, monitor: &Monitor, round: u8) -> Result<Vec<f64>> {
        let mut gateway = self.proxy.connect()?;
        let (started, mut sent) = (Instant::now(), Vec::new());
        for number in 1..=CHANGES {
            pace(started, number, CHANGES_PER_SECOND);
            let which = (number - 1) % self.options.leases + 1;
            let mut peer = Peer::standing(which);
            // Another one in each round, and each time.
            peer.public = Ipv4Addr::from(
                u32::from(peer.public) + (u32::from(round) << 20) + ((number / self.options.leases) << 16),
            );
            let change =
                json!({"metadata": {"annotations": {format!("{PREFIX}public-ip"): peer.public.to_string()}}});
            gateway.send("PATCH", &format!("{NODES}/{}", name(which)), MERGE, &change)?;
            sent.push((format!("{} dev flannel.1 lladdr {}", peer.public, peer.mac()), now()));
        }
        let mut seen: BTreeMap<String, Duration> = BTreeMap::new();
        wait::until("the kernel has every change", wait::LONG, || {
            for News { at, text } in monitor.so_far() {
                let words: Vec<&str> = text.split_whitespace().take(5).collect();
                seen.entry(words.join(" ")).or_insert(at);
            }
            let missing = sent.iter().find(|(news, _)| !seen.contains_key(news));
            ensure!(
                missing.is_none(),
                "no news of {missing:?}; {} overruns of the monitor",
                monitor.overruns()
            );
            Ok(())
        })?;
        // The kernel may be faster than the response.
        Ok(sent.iter().map(|(news, at)| millis(seen[news].saturating_sub(*at))).collect())
    }
}

/// Waits until the time of an event at a steady rate.
fn pace(started: Instant, number: u32, per_second: u32) {
    thread::sleep((Duration::from_secs(1) / per_second * number).saturating_sub(started.elapsed()));
}

impl Results {
    /// The rows of the report: name, unit, target and value.
    fn rows(&self) -> [(&'static str, &'static str, &'static str, f64); 9] {
        [
            ("start to last route", "ms", "≤ 1200 ms", millis(self.last_route)),
            ("processor time until then", "ms", "≤ 1000 ms", millis(self.processor)),
            ("resident memory then", "MiB", "≤ 25 MiB", mib(self.start.now)),
            ("resident memory, peak of the start", "MiB", "", mib(self.start.peak)),
            ("100 updates a second, share of a processor", "%", "≤ 5 %", self.updates),
            ("a change, median", "ms", "", percentile(&self.delays, 50)),
            ("a change, 99th percentile", "ms", "≤ 20 ms", percentile(&self.delays, 99)),
            ("a change, longest", "ms", "", percentile(&self.delays, 100)),
            ("resident memory after the changes", "MiB", "", mib(self.after.now)),
        ]
    }
}

fn report(options: &Options, size: usize, results: &[(&str, Results)]) -> Result<()> {
    println!("\n  vxlan, {} nodes of {size} bytes on a Kubernetes API server", options.leases);
    let names: String = results.iter().map(|(name, _)| format!("{name:>12}")).collect();
    println!("  {:<44}{names}{:>10}   target", "", if results.len() > 1 { "ratio" } else { "" });
    let rows: Vec<_> = results.iter().map(|(_, results)| results.rows()).collect();
    for (place, (what, unit, target, own)) in rows[0].iter().enumerate() {
        let values: String =
            rows.iter().map(|row| format!("{:>12}", format!("{:.1} {unit}", row[place].3))).collect();
        let ratio = rows.get(1).filter(|_| *own > 0.0).map(|row| format!("{:.1}", row[place].3 / own));
        println!("  {what:<44}{values}{:>10}   {target}", ratio.unwrap_or_default());
    }
    let figures: BTreeMap<&str, Value> = results
        .iter()
        .map(|(name, results)| {
            let figures = json!({
                "startToLastRouteMilliseconds": millis(results.last_route),
                "startProcessorMilliseconds": millis(results.processor),
                "residentKib": results.start.now,
                "residentPeakOfStartKib": results.start.peak,
                "updatesProcessorPercent": results.updates,
                "changeP50Milliseconds": percentile(&results.delays, 50),
                "changeP99Milliseconds": percentile(&results.delays, 99),
                "changeMaxMilliseconds": percentile(&results.delays, 100),
                "residentAfterChangesKib": results.after.now,
            });
            (*name, figures)
        })
        .collect();
    write_figures(
        &json!({"nodes": options.leases, "nodeBytes": size, "daemons": figures}),
        options.json.as_deref(),
    )
}
