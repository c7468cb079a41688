//! A node that runs pods: containerd, the kubelet and kube-proxy.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::net::IpAddr;

use super::client::{Client, Identity};
use super::{ControlPlane, SERVER, component};
use crate::feature::Feature;
use crate::machine::Machine;
use crate::service::Service;
use crate::topology::{Cluster, Lab};
use crate::{containerd, image, wait};

/// The image of the first process of each pod. That of the tests would occupy its port on the host for pods of its network.
const PAUSE: &str = "localhost/pause:1";

/// A node that runs pods. Dropping the handle leaves it running.
pub struct Worker {
    /// Its name in the cluster.
    pub name: String,
    /// Where its programs run.
    pub machine: Machine,
    /// The container runtime.
    pub containerd: Service,
    /// The kubelet.
    pub kubelet: Service,
    /// What makes service addresses work.
    pub proxy: Service,
}

impl ControlPlane {
    /// Boots a node of the cluster and starts containerd, the kubelet and kube-proxy. It has no CNI config, so it is not ready, and
    /// the images of the tests. The node must exist: [`ControlPlane::admin`] creates it, or the kubelet registers it.
    pub fn worker(&self, lab: &Lab, cluster: &Cluster, index: usize) -> Result<Worker> {
        self.worker_with(lab, cluster, index, |_| Ok(()))
    }

    /// The same on a machine that was prepared.
    pub fn worker_with(
        &self,
        lab: &Lab,
        cluster: &Cluster,
        index: usize,
        prepare: impl FnOnce(&Machine) -> Result<()>,
    ) -> Result<Worker> {
        lab.require(&[Feature::Containerd, Feature::Runc, Feature::Crun, Feature::Nft])?;
        let node = &cluster.nodes[index];
        let addresses: Vec<IpAddr> = cluster.nics[index].addresses.iter().map(ipnet::IpNet::addr).collect();
        let machine = node.boot()?;
        pretend_settings(&machine)?;
        prepare(&machine)?;
        containerd::configure(&machine, PAUSE)?;
        let name = node.name();
        let service = |program: &str, arguments: Vec<String>| -> Result<Service> {
            Ok(Service::new(machine.netns(), &format!("{name}.{program}"), component(program)?, arguments))
        };
        let kubelet = service("kubelet", self.kubelet_arguments(&machine, name, &addresses)?)?;
        let proxy = service("kube-proxy", self.proxy_arguments(&machine, name)?)?;
        let containerd =
            Service::new(machine.netns(), &format!("{name}.containerd"), "containerd", Vec::new());
        let worker = Worker { name: name.to_owned(), machine, containerd, kubelet, proxy };
        worker.containerd.start()?;
        for (image, arguments) in [(image::NAME, [].as_slice()), (PAUSE, &["wait"])] {
            worker.import(&image::archive(lab, image, arguments)?)?;
        }
        worker.kubelet.start()?;
        worker.proxy.start()?;
        Ok(worker)
    }

    fn kubelet_arguments(&self, machine: &Machine, name: &str, addresses: &[IpAddr]) -> Result<Vec<String>> {
        let user = format!("/O=system:nodes/CN=system:node:{name}");
        let client = self.component_client(&format!("kubelet-{name}"), &user)?;
        machine.write("/var/lib/kubelet/config.json", &kubelet_config().to_string())?;
        let ips: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        Ok(vec![
            "--config=/var/lib/kubelet/config.json".to_owned(),
            format!("--kubeconfig={}", client.kubeconfig().display()),
            format!("--hostname-override={name}"),
            format!("--node-ip={}", ips.join(",")),
        ])
    }

    fn proxy_arguments(&self, machine: &Machine, name: &str) -> Result<Vec<String>> {
        let client = self.component_client(&format!("kube-proxy-{name}"), "/CN=system:kube-proxy")?;
        let config = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": client.kubeconfig()},
            "hostnameOverride": name,
            "mode": "nftables",
            // Settings of the whole machine, which a network namespace cannot change.
            "conntrack": {"maxPerCore": 0, "min": 0},
        });
        machine.write("/var/lib/kubelet/proxy.json", &config.to_string())?;
        Ok(vec!["--config=/var/lib/kubelet/proxy.json".to_owned()])
    }

    fn component_client(&self, name: &str, subject: &str) -> Result<Client> {
        let identity = Identity::certificate(self.user_certificate(name, subject)?);
        let file = self.directory.join(format!("{name}.conf"));
        Client::new(&self.netns, SERVER, &self.ca(), identity, &file)
    }
}

/// A kubelet that needs neither cgroups (see `machine.sh`) nor anything outside of the node.
fn kubelet_config() -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "failCgroupV1": false,
        "localStorageCapacityIsolation": false,
        "volumePluginDir": "/var/lib/kubelet/plugins",
        "resolvConf": "",
        // A machine that is full is not what is tested.
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
    })
}

/// The settings of the kernel that the kubelet requires, and sets where they differ, which would change them for the whole machine.
const SETTINGS: [(&str, u32); 6] = [
    ("vm/overcommit_memory", 1),
    ("vm/panic_on_oom", 0),
    ("kernel/panic", 10),
    ("kernel/panic_on_oops", 1),
    ("kernel/keys/root_maxkeys", 1_000_000),
    ("kernel/keys/root_maxbytes", 25_000_000),
];

/// Lets programs on the node read the settings that the kubelet requires.
fn pretend_settings(machine: &Machine) -> Result<()> {
    for (name, value) in SETTINGS {
        let file = format!("/var/lib/kubelet/sys/{name}");
        machine.write(&file, &format!("{value}\n"))?;
        machine.netns().run(&format!("mount --bind {file} /proc/sys/{name}"))?;
    }
    Ok(())
}

impl Worker {
    /// Gives containerd an image from an archive.
    pub fn import(&self, archive: &std::path::Path) -> Result<()> {
        let line = format!("ctr -n k8s.io images import {}", archive.display());
        wait::until(format!("containerd on {} accepts an image", self.name), wait::LONG, || {
            self.containerd.check_running()?;
            self.machine.netns().run(&line).with_context(|| self.containerd.log_tail()).map(drop)
        })
    }

    /// Waits until the cluster regards the node as ready, or as not ready.
    pub fn wait_ready(&self, admin: &Client, ready: bool) -> Result<()> {
        let what = format!("{} has Ready={ready}", self.name);
        wait::until(what, wait::LONG * 2, || {
            self.kubelet.check_running()?;
            let node = admin.get(&format!("/api/v1/nodes/{}", self.name))?;
            let condition = super::condition(&node, "Ready").context("no condition Ready")?;
            let expected = if ready { "True" } else { "False" };
            ensure!(condition["status"] == expected, "{condition}; {}", self.kubelet.log_tail());
            Ok(())
        })
    }
}
