//! A cluster of two nodes with kubelet, containerd and kube-proxy, the files of a release beside its administrator, and pods.

use anyhow::{Context, Result, ensure};
use integration::artefacts::{Revision, file};
use integration::image::{NAME, PORT, PROGRAM};
use integration::kubernetes::{Client, NAMESPACE, Worker, component, condition};
use integration::{Cluster, ControlPlane, Feature, Lab, Netns, Service, program, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// The port of the nodes that leads to the pods of the tests.
pub(super) const HOST_PORT: u16 = 30080;

pub(super) struct Site {
    pub(super) cluster: Cluster,
    pub(super) control_plane: ControlPlane,
    pub(super) workers: Vec<Worker>,
    /// Where the administrator works, with the files of the release.
    directory: PathBuf,
    pings: AtomicU32,
}

/// A pod as the API server shows it.
pub(super) struct Pod {
    pub(super) name: String,
    addresses: Vec<IpAddr>,
}

impl Pod {
    pub(super) fn address(&self, v4: bool) -> Result<IpAddr> {
        let found = self.addresses.iter().copied().find(|address| address.is_ipv4() == v4);
        found.with_context(|| format!("{} has no address of that family: {:?}", self.name, self.addresses))
    }
}

/// The files of a release for Kubernetes.
const FILES: [&str; 3] = ["/kube-flannel.yml", "/flannel-cleanup.yml", "/flannel-0.1.0.tgz"];

impl Site {
    /// Two nodes without a network that have the image. With `legacy`, the second one uses legacy iptables. With `node_of`, the nodes
    /// exist before their kubelets, as it returns them by name.
    pub(super) fn boot(lab: &Lab, legacy: bool, node_of: Option<fn(&str) -> Value>) -> Result<Self> {
        lab.require(&[Feature::Vxlan, Feature::Nft, Feature::ImageIptables])?;
        lab.require(&[Feature::Iptables, Feature::IptablesLegacy, Feature::BridgeNetfilter])?;
        let cluster = lab.cluster(2)?;
        let control_plane = cluster.control_plane(lab)?;
        control_plane.start_controllers()?;
        control_plane.start_scheduler()?;
        let directory = lab.directory("administrator")?;
        for ending in FILES {
            let from = file(Revision::First, &ending[1..])?;
            fs::copy(&from, directory.join(&ending[1..]))
                .with_context(|| format!("could not copy {}", from.display()))?;
        }
        let image = file(Revision::First, "-image.tar")?;
        let mut workers = Vec::new();
        for (index, node) in cluster.nodes.iter().enumerate() {
            if let Some(node_of) = node_of {
                control_plane.admin.create("/api/v1/nodes", &node_of(node.name()))?;
            }
            let worker = control_plane.worker_with(lab, &cluster, index, |machine| {
                if legacy && index == 1 { machine.use_legacy_iptables() } else { Ok(()) }
            })?;
            worker.import(&image)?;
            workers.push(worker);
        }
        Ok(Self { cluster, control_plane, workers, directory, pings: AtomicU32::new(0) })
    }

    pub(super) fn admin(&self) -> &Client {
        &self.control_plane.admin
    }

    /// Runs commands of the documentation, as the administrator.
    pub(super) fn shell(&self, script: &str) -> Result<String> {
        let kubeconfig = format!("KUBECONFIG={}", self.admin().kubeconfig().display());
        let home = format!("HOME={}", self.directory.display());
        let helm = component("helm")?;
        let path = format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", helm.parent().unwrap_or(&helm).display());
        let script = format!("cd {}\n{script}", self.directory.display());
        self.control_plane.netns.feed(&["env", &kubeconfig, &home, &path, "sh", "-e"], &script)
    }

    /// Writes a file for the commands.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.directory.join(name), text).with_context(|| format!("could not write {name}"))
    }

    pub(super) fn read(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.directory.join(name)).with_context(|| format!("could not read {name}"))
    }

    /// The kubelet reports Ready as soon as there is a CNI configuration; the daemon reports when pods can start.
    pub(super) fn wait_nodes(&self) -> Result<()> {
        for worker in &self.workers {
            worker.wait_ready(self.admin(), true)?;
            wait::until(format!("the network of {} is available", worker.name), wait::LONG, || {
                let node = self.admin().get(&format!("/api/v1/nodes/{}", worker.name))?;
                let network =
                    condition(&node, "NetworkUnavailable").context("no condition NetworkUnavailable")?;
                ensure!(network["status"] == "False" && network["reason"] == "FlannelIsUp", "{network}");
                Ok(())
            })?;
        }
        Ok(())
    }

    /// One pod on each node, with a host port.
    pub(super) fn run_pods(&self) -> Result<Vec<Pod>> {
        (0..self.workers.len())
            .map(|index| {
                let pod = pod(&format!("p{}", index + 1), &self.workers[index].name, Some(HOST_PORT));
                self.create_pod(&pod)?;
                Ok(pod)
            })
            .collect::<Result<Vec<_>>>()?
            .iter()
            .map(|pod| self.wait_pod(pod))
            .collect()
    }

    /// A pod of this name on a node.
    pub(super) fn run_pod(&self, name: &str, index: usize) -> Result<Pod> {
        let pod = pod(name, &self.workers[index].name, None);
        self.create_pod(&pod)?;
        self.wait_pod(&pod)
    }

    fn create_pod(&self, pod: &Value) -> Result<()> {
        self.admin().create("/api/v1/namespaces/default/pods", pod).map(drop)
    }

    fn wait_pod(&self, pod: &Value) -> Result<Pod> {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        wait::until(format!("pod {name} runs"), wait::LONG * 2, || {
            let pod = self.admin().get(&format!("/api/v1/namespaces/default/pods/{name}"))?;
            ensure!(pod["status"]["phase"] == "Running", "{}", pod["status"]);
            read_pod(&pod)
        })
    }

    pub(super) fn delete_pods(&self) -> Result<()> {
        self.admin().kubectl("delete pods --all --namespace default --wait --timeout 60s").map(drop)
    }

    /// Both directions; each sees the address of the other pod itself.
    pub(super) fn expect_reach(&self, pods: &[Pod], v4: bool) -> Result<()> {
        for (from, to) in [(0, 1), (1, 0)] {
            let (from, to) = (&pods[from], &pods[to]);
            let said = self.wait_ask(from, &socket(to.address(v4)?, PORT))?;
            let expected = format!("{} {}", to.name, from.address(v4)?);
            ensure!(said == expected, "{said:?} instead of {expected:?}");
        }
        Ok(())
    }

    /// Asks from the container of a pod until somebody answers.
    pub(super) fn wait_ask(&self, from: &Pod, server: &str) -> Result<String> {
        let line = format!("exec {} -- {PROGRAM} ask {server}", from.name);
        let said = wait::until(format!("{} reaches {server}", from.name), wait::LONG, || {
            self.admin().kubectl(&line)
        })?;
        Ok(said.trim().to_owned())
    }

    /// Runs a change while one pod sends 100 packets a second to the other one. Returns how many were sent; none is lost.
    pub(super) fn lossless(&self, pods: &[Pod], change: impl FnOnce() -> Result<()>) -> Result<u32> {
        let netns = self.workers[0].machine.netns();
        let (from, to) = (pods[0].address(true)?, pods[1].address(true)?);
        let names = netns.run("ls /run/netns")?;
        // Those of other pods may be about to be deleted.
        let is_of_pod = |name: &&str| {
            let shown = netns.ip(&format!("-n {name} -br address show"));
            name.starts_with("cni-") && shown.is_ok_and(|shown| shown.contains(&format!(" {from}/")))
        };
        let name = names.lines().find(is_of_pod).with_context(|| format!("no namespace has {from}"))?;
        let line = format!("--net=/run/netns/{name} ping -q -i 0.01 {to}");
        let number = self.pings.fetch_add(1, Ordering::Relaxed);
        let words = line.split(' ').map(str::to_owned).collect();
        let pings = Service::new(netns, &format!("pings{number}"), "nsenter", words);
        pings.start()?;
        let outcome = change();
        pings.signal(Signal::SIGINT)?;
        let statistics = wait::until("ping prints its statistics", wait::LONG, || {
            let tail = pings.log_tail();
            ensure!(tail.contains("packet loss"), "{tail}");
            Ok(tail)
        })?;
        outcome?;
        let line = statistics.lines().find(|line| line.contains("packet loss")).unwrap_or_default();
        eprintln!("{line}");
        let count = |at: usize| -> Option<u32> { line.split(", ").nth(at)?.split(' ').next()?.parse().ok() };
        let (sent, received) = count(0).zip(count(1)).with_context(|| statistics.clone())?;
        // The last one may still be under way.
        ensure!(sent > 100 && sent - received <= 1, "{line}");
        Ok(sent)
    }

    /// The unique ids of the pods of the DaemonSet.
    pub(super) fn daemons(&self) -> Result<Vec<String>> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods?labelSelector=app%3Dflannel");
        let list = self.admin().get(&path)?;
        let items = list["items"].as_array().context("a list without items")?;
        Ok(items.iter().map(|pod| pod["metadata"]["uid"].to_string()).collect())
    }

    /// Waits until no pod of the DaemonSet exists.
    pub(super) fn wait_no_daemons(&self) -> Result<()> {
        wait::until("the daemons have ended", wait::LONG * 2, || {
            let left = self.daemons()?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })
    }

    /// What flannel could leave on each node.
    pub(super) fn states(&self) -> Result<Vec<State>> {
        self.workers.iter().map(|worker| state(worker.machine.netns())).collect()
    }
}

/// Commands, and what they print.
pub(super) type State = BTreeMap<&'static str, String>;

/// Objects of the kernel, firewall rules and files.
fn state(netns: &Netns) -> Result<State> {
    const COMMANDS: [&str; 10] = [
        "ip -br link show",
        "ip -4 -br address show",
        "ip -4 route show table all",
        "ip -6 route show table all proto boot",
        "ip rule show",
        "ip neigh show nud permanent",
        "nft -s list ruleset",
        "iptables-legacy-save",
        "ip6tables-legacy-save",
        "find /run/flannel /var/lib/flannel /var/lib/cni /etc/cni/net.d /opt/cni/bin -not -type d",
    ];
    let mut state = State::new();
    for command in COMMANDS {
        // Directories may be missing.
        let line = ["sh", "-c", &format!("{command} 2>/dev/null || true")].map(str::to_owned);
        let text = netns.feed(&line.each_ref().map(String::as_str), "")?;
        state.insert(command, cleared(&text));
    }
    Ok(state)
}

/// Drops the tables of kube-proxy, which change with services, comments with the time, and chains of the kernel without a rule: iptables
/// creates these with the first command of anybody, and cannot remove them.
fn cleared(text: &str) -> String {
    let mut kept = String::new();
    let mut is_dropped = false;
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let has_policy = |line: &str| line.ends_with("policy accept;") || line.contains(" ACCEPT [");
    let mut lines = lines.iter().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("table ") {
            is_dropped = line.contains(" kube-proxy ");
        }
        if is_dropped {
            continue;
        }
        // `chain NAME {`, hook and policy, `}`.
        if line.starts_with("\tchain ") && lines.peek().is_some_and(|next| has_policy(next)) {
            let hook = lines.next();
            if lines.peek().is_some_and(|next| **next == "\t}") {
                lines.next();
                continue;
            }
            kept.extend([line, "\n", hook.copied().unwrap_or_default(), "\n"]);
            continue;
        }
        let is_of_legacy = line.starts_with('*') || *line == "COMMIT" || has_policy(line);
        if !is_of_legacy && !line.is_empty() && !line.starts_with('#') {
            kept.extend([line, "\n"]);
        }
    }
    kept
}

fn read_pod(pod: &Value) -> Result<Pod> {
    let name = pod["metadata"]["name"].as_str().context("a pod without name")?.to_owned();
    let ips = pod["status"]["podIPs"].as_array().context("a pod without addresses")?;
    let addresses = ips.iter().map(|ip| Ok(ip["ip"].as_str().context("no address")?.parse()?));
    Ok(Pod { name, addresses: addresses.collect::<Result<_>>()? })
}

pub(super) fn socket(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

/// Asks from a node.
pub(super) fn ask(from: &Netns, server: &str) -> Result<String> {
    from.run(&format!("{} ask {server}", program("pod").display()))
}

fn pod(name: &str, node: &str, host_port: Option<u16>) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "pods"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            // With 0 the API server would not wait for the kubelet.
            "terminationGracePeriodSeconds": 1,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "pod",
                "image": NAME,
                "ports": [{"containerPort": PORT, "hostPort": host_port}],
            }],
        },
    })
}
