//! The DaemonSet of our manifest on real nodes.

use anyhow::{Context, Result, ensure};
use integration::artefacts::{Revision, file};
use integration::image::{NAME, PORT, PROGRAM};
use integration::kubernetes::{Client, MANIFEST, NAMESPACE, Worker, condition};
use integration::{Cluster, ControlPlane, Feature, Lab, Netns, Service, lab, program, wait};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::net::IpAddr;

const HOST_PORT: u16 = 30080;

/// From an empty cluster to pods of two nodes that reach each other by every address, over a rolling update of the daemon.
#[test]
fn manifest_makes_nodes_ready() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Nft])?;
        let scene = Scene::install(lab)?;
        for worker in &scene.workers {
            worker.wait_ready(&scene.control_plane.admin, true)?;
            scene.wait_network_available(worker)?;
        }
        let pods = scene.run_pods()?;
        for v4 in [true, false] {
            scene.expect_reach(&pods, v4)?;
        }
        scene.expect_host_port_and_service(&pods)?;
        scene.update_under_traffic(&pods)?;
        scene.expect_reach(&pods, true)
    });
}

struct Scene {
    cluster: Cluster,
    control_plane: ControlPlane,
    workers: Vec<Worker>,
}

/// A pod as the API server shows it.
struct Pod {
    name: String,
    addresses: Vec<IpAddr>,
}

impl Pod {
    fn address(&self, v4: bool) -> Result<IpAddr> {
        let found = self.addresses.iter().copied().find(|address| address.is_ipv4() == v4);
        found.with_context(|| format!("{} has no address of that family: {:?}", self.name, self.addresses))
    }
}

/// A manifest with a network config for the cluster of the tests. The image contains no iptables.
fn manifest() -> Result<String> {
    const BEFORE: &str = r#""Network": "10.244.0.0/16",
      "EnableNFTables": false,"#;
    const AFTER: &str = r#""Network": "10.42.0.0/16",
      "IPv6Network": "fd42::/48",
      "EnableIPv6": true,
      "EnableNFTables": true,"#;
    ensure!(MANIFEST.contains(BEFORE), "the manifest has another network config");
    Ok(MANIFEST.replace(BEFORE, AFTER))
}

impl Scene {
    /// Two nodes without a network, and the manifest.
    fn install(lab: &Lab) -> Result<Self> {
        let cluster = lab.cluster(2)?;
        let control_plane = cluster.control_plane(lab)?;
        control_plane.start_controllers()?;
        control_plane.start_scheduler()?;
        let image = file(Revision::First, "-image.tar")?;
        let mut workers = Vec::new();
        for index in 0..cluster.nodes.len() {
            let worker = control_plane.worker(lab, &cluster, index)?;
            worker.import(&image)?;
            workers.push(worker);
        }
        control_plane.admin.apply(&manifest()?, &[])?;
        Ok(Self { cluster, control_plane, workers })
    }

    fn admin(&self) -> &Client {
        &self.control_plane.admin
    }

    /// The kubelet reports Ready as soon as there is a CNI configuration; the daemon reports when pods can start.
    fn wait_network_available(&self, worker: &Worker) -> Result<()> {
        wait::until(format!("the network of {} is available", worker.name), wait::LONG, || {
            let node = self.admin().get(&format!("/api/v1/nodes/{}", worker.name))?;
            let network =
                condition(&node, "NetworkUnavailable").context("no condition NetworkUnavailable")?;
            ensure!(network["status"] == "False" && network["reason"] == "FlannelIsUp", "{network}");
            Ok(())
        })
    }

    /// One pod on each node, with a host port, and a service for both.
    fn run_pods(&self) -> Result<Vec<Pod>> {
        for (number, worker) in self.workers.iter().enumerate() {
            let pod = pod(&format!("p{}", number + 1), &worker.name);
            self.admin().create("/api/v1/namespaces/default/pods", &pod)?;
        }
        self.admin().create("/api/v1/namespaces/default/services", &service())?;
        wait::until("the pods run", wait::LONG * 2, || {
            let list = self.admin().get("/api/v1/namespaces/default/pods")?;
            let items = list["items"].as_array().context("a list without items")?;
            let running = items.iter().filter(|pod| pod["status"]["phase"] == "Running").count();
            let states: Vec<&Value> = items.iter().map(|pod| &pod["status"]).collect();
            ensure!(running == self.workers.len(), "{states:?}");
            items.iter().map(read_pod).collect()
        })
    }

    /// Both directions; each sees the address of the other pod itself.
    fn expect_reach(&self, pods: &[Pod], v4: bool) -> Result<()> {
        for (from, to) in [(0, 1), (1, 0)] {
            let (from, to) = (&pods[from], &pods[to]);
            let said = self.wait_ask(from, &socket(to.address(v4)?, PORT))?;
            let expected = format!("{} {}", to.name, from.address(v4)?);
            ensure!(said == expected, "{said:?} instead of {expected:?}");
        }
        Ok(())
    }

    fn expect_host_port_and_service(&self, pods: &[Pod]) -> Result<()> {
        let node = self.cluster.nics[0].addresses[0].addr();
        let said = self.wait_ask(&pods[1], &socket(node, HOST_PORT))?;
        ensure!(said.starts_with("p1 "), "by the host port: {said}");
        let service = self.admin().get("/api/v1/namespaces/default/services/pods")?;
        let address = service["spec"]["clusterIP"].as_str().context("a service without address")?;
        let said = self.wait_ask(&pods[0], &format!("{address}:80"))?;
        ensure!(said.starts_with('p'), "by the service: {said}");
        // The world outside reaches the pod by the host port, too.
        let outside = self.cluster.nodes[1].netns();
        let said = ask(outside, &socket(node, HOST_PORT))?;
        ensure!(said.starts_with("p1 "), "from a node: {said}");
        Ok(())
    }

    /// Asks from the container of a pod until somebody answers.
    fn wait_ask(&self, from: &Pod, server: &str) -> Result<String> {
        let line = format!("exec {} -- {PROGRAM} ask {server}", from.name);
        let said = wait::until(format!("{} reaches {server}", from.name), wait::LONG, || {
            self.admin().kubectl(&line)
        })?;
        Ok(said.trim().to_owned())
    }

    /// Replaces all pods of the DaemonSet, while one pod of the cluster sends 100 packets a second to the other one.
    fn update_under_traffic(&self, pods: &[Pod]) -> Result<()> {
        let netns = self.workers[0].machine.netns();
        let names = netns.run("ls /run/netns")?;
        let name = names.lines().find(|name| name.starts_with("cni-")).context("no namespace of a pod")?;
        let words = [
            format!("--net=/run/netns/{name}"),
            "ping".to_owned(),
            "-q".to_owned(),
            "-i".to_owned(),
            "0.01".to_owned(),
            pods[1].address(true)?.to_string(),
        ];
        let pings = Service::new(netns, "pings", "nsenter", words.to_vec());
        pings.start()?;
        let daemon_set = format!("--namespace {NAMESPACE} daemonset/kube-flannel-ds");
        let before = self.daemons()?;
        self.admin().kubectl(&format!("rollout restart {daemon_set}"))?;
        self.admin().kubectl(&format!("rollout status --timeout 90s {daemon_set}"))?;
        let after = self.daemons()?;
        ensure!(before.iter().all(|pod| !after.contains(pod)), "before: {before:?}, after: {after:?}");
        pings.signal(Signal::SIGINT)?;
        let statistics = wait::until("ping prints its statistics", wait::LONG, || {
            let tail = pings.log_tail();
            ensure!(tail.contains("packet loss"), "{tail}");
            Ok(tail)
        })?;
        ensure!(statistics.contains(" 0% packet loss"), "{statistics}");
        Ok(())
    }

    /// The unique ids of the pods of the DaemonSet.
    fn daemons(&self) -> Result<Vec<String>> {
        let list = self.admin().get(&format!("/api/v1/namespaces/{NAMESPACE}/pods"))?;
        let items = list["items"].as_array().context("a list without items")?;
        Ok(items.iter().map(|pod| pod["metadata"]["uid"].to_string()).collect())
    }
}

fn read_pod(pod: &Value) -> Result<Pod> {
    let name = pod["metadata"]["name"].as_str().context("a pod without name")?.to_owned();
    let ips = pod["status"]["podIPs"].as_array().context("a pod without addresses")?;
    let addresses = ips.iter().map(|ip| Ok(ip["ip"].as_str().context("no address")?.parse()?));
    Ok(Pod { name, addresses: addresses.collect::<Result<_>>()? })
}

fn socket(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

fn ask(from: &Netns, server: &str) -> Result<String> {
    from.run(&format!("{} ask {server}", program("pod").display()))
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "pods"}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "pod",
                "image": NAME,
                "ports": [{"containerPort": PORT, "hostPort": HOST_PORT}],
            }],
        },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "pods"},
        "spec": {"selector": {"app": "pods"}, "ports": [{"port": 80, "targetPort": PORT}]},
    })
}
